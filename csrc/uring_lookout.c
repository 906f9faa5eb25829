#include "uring_lookout.h"

#include "uring_encode.h"

/* No slot has this number; the upper half is the descriptor. */
#define LOOKOUT UINT32_C(0xfffffff0)

uint64_t lio_uring_lookout_token(lio_fd fd)
{
    return (uint64_t)fd << 32 | LOOKOUT;
}

void lio_uring_may_answer(lio_backend *b, const lio_slot *slot)
{
    lio_fd_entry *entry = lio_fd_find(&b->store, slot->op.fd);
    if (entry != NULL && entry->armed)
        entry->answers = 1;
}

void lio_uring_look_out(lio_backend *b, uint32_t number)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    if (slot->op.opcode != LIO_SEND || slot->stage != STAGE_NEW)
        return;
    lio_fd_entry *entry = lio_fd_find(&b->store, slot->op.fd);
    bool alone = entry != NULL && entry->ops.head == number && entry->ops.tail == number;
    if (!alone || !entry->armed || !entry->answers || entry->lookout)
        return;
    struct uring_sqe *sqe = lio_ring_sqe(&lio_uring_of(b)->ring);
    if (sqe == NULL)
        return;
    lio_uring_encode_poll(sqe, slot->op.fd, LIO_POLL_READ);
    sqe->flags = URING_SQE_FIXED_FILE;
    sqe->user_data = lio_uring_lookout_token(slot->op.fd);
    entry->lookout = 1;
    lio_uring_of(b)->lookouts++;
    entry->answers = 0;
}

bool lio_uring_may_hold_back(lio_backend *b)
{
    const lio_ring *ring = &lio_uring_of(b)->ring;
    if (lio_ring_unsubmitted(ring) != 1)
        return false;
    const struct uring_sqe *sqe = &ring->sqes[(ring->sq_local - 1) & ring->sq_mask];
    if (sqe->opcode != URING_OP_RECV || !(sqe->flags & URING_SQE_FIXED_FILE))
        return false;
    const lio_fd_entry *entry = lio_fd_find(&b->store, sqe->fd);
    return entry != NULL && entry->lookout;
}

bool lio_uring_lookout_over(lio_backend *b, uint64_t token)
{
    if ((uint32_t)token != LOOKOUT)
        return false;
    lio_fd_entry *entry = lio_fd_find(&b->store, (lio_fd)(token >> 32));
    if (entry != NULL && entry->lookout) {
        entry->lookout = 0;
        lio_uring_of(b)->lookouts--;
    }
    return true;
}
