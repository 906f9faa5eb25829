/* uring_ring: the raw ring. Set-up, the two queues in shared memory, the three system calls. */
#ifndef LIO_URING_RING_H
#define LIO_URING_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "uring_abi.h"

typedef struct lio_ring {
    int fd;
    uint32_t features;
    uint32_t capabilities; /* enum lio_capability */
    uint64_t syscalls;
    bool sigpipe_kills;  /* SIGPIPE would kill this process */
    bool raises_sigpipe; /* it has had operations that SIGPIPE can come of */
    /* submission queue */
    uint32_t *sq_head, *sq_tail, *sq_flags;
    uint32_t sq_mask, sq_entries;
    uint32_t sq_local; /* our tail; what lies between it and *sq_tail is not published */
    struct uring_sqe *sqes;
    /* completion queue */
    uint32_t *cq_head, *cq_tail;
    uint32_t cq_mask, cq_entries;
    struct uring_cqe *cqes;
    /* mappings */
    void *rings;
    size_t rings_size, sqes_size;
    bool mapped;
} lio_ring;

/* Tries the full set of flags and drops, newest first, what the kernel answers with EINVAL. */
int lio_ring_open(lio_ring *ring, uint32_t entries, uint32_t cq_entries, uint32_t without);
/* forked: the mappings are not there in a child. */
void lio_ring_close(lio_ring *ring, bool forked);

/* The next free submission entry, zeroed, or NULL when the queue is full. */
struct uring_sqe *lio_ring_sqe(lio_ring *ring);
/* Entries that the kernel has not taken yet. */
uint32_t lio_ring_unsubmitted(const lio_ring *ring);
/* One io_uring_enter: publishes and submits all entries; collect: runs what is due, waits
 * for min_complete completions for at most timeout_ns (negative: for ever; needs
 * LIO_CAP_EXT_ARG unless min_complete is 0). Returns what the kernel did. */
int lio_ring_enter(lio_ring *ring, uint32_t min_complete, int64_t timeout_ns, bool collect);
int lio_ring_register(lio_ring *ring, unsigned opcode, const void *arg, unsigned count);

/* The next completion, or NULL; lio_ring_seen gives its place back. */
static inline const struct uring_cqe *lio_ring_peek(const lio_ring *ring)
{
    uint32_t head = *ring->cq_head; /* only we write it */
    if (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE))
        return NULL;
    return &ring->cqes[head & ring->cq_mask];
}
static inline void lio_ring_seen(lio_ring *ring)
{
    __atomic_store_n(ring->cq_head, *ring->cq_head + 1, __ATOMIC_RELEASE);
}
static inline uint32_t lio_ring_flags(const lio_ring *ring)
{
    return __atomic_load_n(ring->sq_flags, __ATOMIC_RELAXED);
}

#endif
