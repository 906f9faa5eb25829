/* uring_pool: memory for receives, chosen when data comes and not before, so that an idle
 * receive holds none; and room for the addresses that come with messages.
 *
 * With a ring of provided buffers (5.19) the kernel chooses. Without one a receive waits for
 * readiness first and takes a buffer from a free list only then.
 */
#ifndef LIO_URING_POOL_H
#define LIO_URING_POOL_H

#include "lio.h"
#include "uring_ring.h"

#define LIO_POOL_GROUP 1u /* of provided buffers */
#define LIO_POOL_BUFFER 65536u
#define LIO_NO_BUFFER UINT32_MAX

typedef struct lio_uring_pool {
    char *base;
    size_t size;
    uint32_t buffers; /* a power of two */
    uint32_t live;    /* buffers in circulation: few, until they do not suffice */
    struct uring_buf *ring;
    uint16_t ring_tail;
    bool ring_registered;
    uint16_t *held; /* buffers that records point into */
    uint32_t held_count, held_handed;
    uint16_t *spare; /* without a ring: buffers to take */
    uint32_t spare_count;
    lio_msg *msgs;
    uint32_t msg_head, msg_tail, msg_handed; /* free-running */
} lio_uring_pool;

/* reserve: bytes at the end that are somebody else's. */
int lio_uring_pool_init(lio_uring_pool *pool, uint32_t capacity, size_t reserve);
void lio_uring_pool_free(lio_uring_pool *pool, bool forked);
/* Registers the ring of buffers with the kernel; at the first receive, not before. */
int lio_uring_pool_register(lio_uring_pool *pool, lio_ring *ring);
/* A receive found no buffer: put more into circulation. */
void lio_uring_pool_more(lio_uring_pool *pool);

/* Without a ring: a buffer, or LIO_NO_BUFFER; and back again when nothing came. */
uint32_t lio_uring_pool_take(lio_uring_pool *pool);
void lio_uring_pool_untake(lio_uring_pool *pool, uint32_t buffer);
char *lio_uring_pool_at(const lio_uring_pool *pool, uint32_t buffer);

/* A record will point into the buffer: its offset. Or: nobody wants it, it may go round. */
int64_t lio_uring_pool_hold(lio_uring_pool *pool, uint32_t buffer);
void lio_uring_pool_drop(lio_uring_pool *pool, uint32_t buffer);
/* Room for one message's address, or NULL (full) until the next recycle. */
bool lio_uring_pool_msg_full(const lio_uring_pool *pool);
lio_msg *lio_uring_pool_msg(lio_uring_pool *pool, int64_t *detail);

void lio_uring_pool_recycle(lio_uring_pool *pool);
void lio_uring_pool_handed_out(lio_uring_pool *pool);

#endif
