/* uring: what the rooms of backend "uring" share. uring.c: life, submission, waiting,
 * descriptors. uring_submit.c: what of an operation goes into a submission entry.
 * uring_complete.c: what becomes of a completion. uring_lookout.h: what is polled for while the
 * backend watches. */
#ifndef LIO_URING_H
#define LIO_URING_H

#include "backend.h"
#include "uring_half_closed.h"
#include "uring_pool.h"
#include "uring_ring.h"

/* Completions that are no operation's. Slot numbers never reach the lower half of these. */
#define TOKEN_WAKE UINT64_MAX
#define TOKEN_INTERNAL (UINT64_MAX - 1)
#define TOKEN_HALF_CLOSED (UINT64_MAX - 2)

/* slot->stage */
enum stage {
    STAGE_NEW,
    STAGE_AGAIN,       /* was with the kernel and has to go once more */
    STAGE_POLLING,     /* no buffer ring: waits until there is something to receive */
    STAGE_RECEIVING,   /* no buffer ring: receives into slot->aux */
    STAGE_WRITABLE,    /* a send that found no room: polls for it */
    STAGE_HALF_CLOSED, /* waits for room by the epoll set: not with the kernel's ring */
    STAGE_FROM,        /* a splice: polls for something to read */
    STAGE_TO,          /* a splice: polls for room */
};

typedef struct uring_state {
    lio_ring ring;
    lio_uring_pool pool;
    lio_half_closed half_closed;
    uint8_t offered[URING_OP_LAST];
    uint32_t table_size; /* registered files; 0: not asked yet */
    bool table_refused;
    bool wake_armed;
    bool entries_skip; /* the kernel need not report a cancel that worked */
    uint32_t cancels_due;
    uint32_t lookouts; /* with the kernel: uring_lookout.h */
    int bell_fd;       /* what the kernel tells of work that is due; atomic; -1: not made */
    bool bell_wanted;  /* another thread waits; atomic */
} uring_state;

static inline uring_state *lio_uring_of(const lio_backend *b)
{
    return b->state;
}

/* Takes what the completion queue has; returns how many entries that were. */
uint32_t lio_uring_reap(lio_backend *b);
void lio_uring_complete(lio_backend *b, uint32_t number, int64_t result, int64_t data,
                        int64_t detail);
/* Back into the queue. */
void lio_uring_once_more(lio_backend *b, uint32_t number, enum stage stage, bool first);
/* A send that waits by a poll of ours rather than the kernel's. */
bool lio_uring_waits_by_poll(const lio_op *op);

/* Makes a submission entry, for which there is room, of what an operation needs next. */
void lio_uring_add_operation(lio_backend *b, uint32_t number);
/* A read or a write at the file's position is over: the position shall be behind it. */
void lio_uring_mend_position(lio_backend *b, const lio_slot *slot, const lio_slot_extra *extra,
                             int64_t result);
/* What this kernel has no opcode for, and is done by a system call that does not block. */
bool lio_uring_runs_inline(const uring_state *state, uint8_t opcode);
/* Whether a number still names that file. */
bool lio_uring_names_same_file(lio_backend *b, const uint64_t identity[2], lio_fd fd);

#endif
