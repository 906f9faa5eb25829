/* uring_complete.c: what becomes of a completion: a result, or one more round. */
#include <assert.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "uring.h"
#include "uring_encode.h"

void lio_uring_complete(lio_backend *b, uint32_t number, int64_t result, int64_t data,
                        int64_t detail)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    if (slot->cancel_due) {
        slot->cancel_due = 0;
        lio_uring_of(b)->cancels_due--;
    }
    b->stats.cancelled += result == -ECANCELED;
    lio_store_complete(&b->store, number, result, data, detail);
}

void lio_uring_once_more(lio_backend *b, uint32_t number, enum stage stage, bool first)
{
    lio_slot_at(&b->store, number)->stage = (uint8_t)stage;
    lio_store_requeue(&b->store, number, first);
}

bool lio_uring_names_same_file(lio_backend *b, const lio_fd_entry *entry, lio_fd fd)
{
    struct stat st;
    b->stats.syscalls++;
    return fstat((int)fd, &st) == 0 && entry->identity[0] == (uint64_t)st.st_dev &&
           entry->identity[1] == (uint64_t)st.st_ino;
}

/* A poll for writability brought nothing but the peer's half-close. */
static void park_half_closed(lio_backend *b, uint32_t number)
{
    uring_state *state = lio_uring_of(b);
    lio_slot *slot = lio_slot_at(&b->store, number);
    const lio_fd_entry *entry = lio_fd_find(&b->store, slot->op.fd);
    int error = -EBADF; /* an epoll set goes by number, and this one is another file's */
    if (!entry->adopted || lio_uring_names_same_file(b, entry, slot->op.fd)) {
        b->stats.syscalls++;
        error = lio_half_closed_watch(&state->half_closed, (int)slot->op.fd);
    }
    if (error != 0) {
        lio_uring_complete(b, number, error, -1, -1);
        return;
    }
    slot->stage = STAGE_HALF_CLOSED;
    state->half_closed.waiting++; /* the next turn has the ring watch the set */
}

static void take_half_closed(lio_backend *b)
{
    uring_state *state = lio_uring_of(b);
    int fd;
    state->half_closed.armed = false;
    while (b->stats.syscalls++, (fd = lio_half_closed_next(&state->half_closed)) >= 0) {
        const lio_fd_entry *entry = lio_fd_find(&b->store, fd);
        uint32_t number = entry == NULL ? LIO_NO_SLOT : entry->ops.head;
        while (number != LIO_NO_SLOT) {
            lio_slot *slot = lio_slot_at(&b->store, number);
            uint32_t next = slot->fd_next;
            if (slot->state == LIO_STATE_SUBMITTED && slot->stage == STAGE_HALF_CLOSED) {
                state->half_closed.waiting--;
                if (slot->op.opcode == LIO_POLL)
                    lio_uring_complete(b, number, LIO_POLL_WRITE, -1, -1);
                else
                    lio_uring_once_more(b, number, STAGE_AGAIN, true);
            }
            number = next;
        }
    }
}

/* Sends to an address, of datagrams, are left to the kernel: what a poll says of the socket
 * says nothing of the receiver's queue. */
bool lio_uring_waits_by_poll(const lio_op *op)
{
    return lio_opcode_sends(op->opcode) && op->addr_len == 0;
}

static void complete_send(lio_backend *b, uint32_t number, int64_t result)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    bool cancelling = slot->state == LIO_STATE_CANCELLING;
    bool all = (slot->op.op_flags & LIO_OP_ALL) != 0;
    if (!cancelling && slot->stage == STAGE_WRITABLE && result > 0) {
        /* Keeps the gate: no other send of this socket may come between. */
        if (lio_uring_poll_result(LIO_POLL_WRITE, (int32_t)result) != 0)
            lio_uring_once_more(b, number, STAGE_AGAIN, true);
        else
            park_half_closed(b, number);
        return;
    }
    if (slot->stage == STAGE_WRITABLE)
        result = result > 0 ? -ECANCELED : result;
    else if (result > 0 && all)
        slot->moved += (uint64_t)result;
    if (!cancelling) {
        bool full = result == -EAGAIN && !(slot->op.flags & MSG_DONTWAIT);
        if (full || (result > 0 && all && slot->moved < slot->op.len)) {
            lio_uring_once_more(b, number, STAGE_WRITABLE, true);
            return;
        }
        if (result == -EINTR) {
            lio_uring_once_more(b, number, STAGE_AGAIN, true);
            return;
        }
    } else if (result == -EAGAIN || result == -EINTR) {
        result = -ECANCELED;
    }
    bool partly =
        slot->moved != 0 && (result >= 0 || result == -ECANCELED || result == -EAGAIN);
    lio_uring_complete(b, number, partly ? (int64_t)slot->moved : result, -1, -1);
}

/* A receive without a ring of buffers: first the readiness, then the data. */
static void complete_pooled(lio_backend *b, uint32_t number, int64_t result)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    uring_state *state = lio_uring_of(b);
    bool cancelling = slot->state == LIO_STATE_CANCELLING;
    if (slot->stage == STAGE_POLLING) {
        if (cancelling || result < 0)
            lio_uring_complete(b, number, cancelling ? -ECANCELED : result, -1, -1);
        else
            lio_uring_once_more(b, number, STAGE_RECEIVING, true);
        return;
    }
    if (result <= 0)
        lio_uring_pool_untake(&state->pool, slot->aux);
    if (result == -EAGAIN && !cancelling && !(slot->op.flags & MSG_DONTWAIT)) {
        lio_uring_once_more(b, number, STAGE_AGAIN, false);
        return;
    }
    if (result < 0) {
        bool ended = cancelling && result == -EAGAIN;
        lio_uring_complete(b, number, ended ? -ECANCELED : result, -1, -1);
        return;
    }
    int64_t data = -1, detail = -1;
    if (result > 0)
        data = lio_uring_pool_hold(&state->pool, slot->aux);
    if (slot->op.opcode != LIO_RECV) {
        lio_msg *msg = lio_uring_pool_msg(&state->pool, &detail);
        assert(msg != NULL); /* reap saw to it */
        lio_uring_read_msg(slot, lio_extra_at(&b->store, number), msg);
    }
    lio_uring_complete(b, number, result, data, detail);
}

static bool brings_msg(uint8_t opcode)
{
    return opcode == LIO_ACCEPT || opcode == LIO_RECVMSG || opcode == LIO_RECVFROM;
}

/* A worker of the kernel that is interrupted to cancel its work lets codes slip through that
 * no process should see (probed: splice, -ERESTARTSYS). */
static int64_t result_of(const struct uring_cqe *cqe)
{
    enum { ERESTARTSYS = 512, ERESTART_RESTARTBLOCK = 516 };
    bool restarts = cqe->res <= -ERESTARTSYS && cqe->res >= -ERESTART_RESTARTBLOCK;
    return restarts ? -EINTR : cqe->res;
}

static void complete_operation(lio_backend *b, uint32_t number, const struct uring_cqe *cqe)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    uring_state *state = lio_uring_of(b);
    int64_t result = result_of(cqe);
    int64_t data = -1, detail = -1;
    bool cancelling = slot->state == LIO_STATE_CANCELLING;
    if (lio_uring_waits_by_poll(&slot->op)) {
        complete_send(b, number, result);
        return;
    }
    if (result <= 0 && cqe->flags & URING_CQE_BUFFER)
        lio_uring_pool_drop(&state->pool, cqe->flags >> URING_CQE_BUFFER_SHIFT);
    if (result == -EINTR && slot->op.opcode != LIO_CLOSE) {
        /* A signal of ours is not the operation's end. */
        if (!cancelling) {
            lio_uring_once_more(b, number, STAGE_AGAIN, true);
            return;
        }
        result = -ECANCELED;
    }
    if (lio_uring_wants_pool(&slot->op)) {
        if (!state->pool.ring_registered) {
            complete_pooled(b, number, result);
            return;
        }
        if (result == -ENOBUFS) {
            /* All buffers are in records that nobody has read yet. */
            lio_uring_pool_more(&state->pool);
            if (cancelling)
                lio_uring_complete(b, number, -ECANCELED, -1, -1);
            else
                lio_uring_once_more(b, number, STAGE_AGAIN, false);
            return;
        }
        if (result > 0 && cqe->flags & URING_CQE_BUFFER)
            data = lio_uring_pool_hold(&state->pool, cqe->flags >> URING_CQE_BUFFER_SHIFT);
    }
    if (result >= 0 && brings_msg(slot->op.opcode)) {
        lio_msg *msg = lio_uring_pool_msg(&state->pool, &detail);
        assert(msg != NULL);
        lio_uring_read_msg(slot, lio_extra_at(&b->store, number), msg);
    }
    if (slot->op.opcode == LIO_POLL && result > 0) {
        result = lio_uring_poll_result(slot->op.flags, (int32_t)result);
        if (result == 0 && !cancelling) {
            park_half_closed(b, number);
            return;
        }
        result = result == 0 ? -ECANCELED : result;
    }
    lio_uring_complete(b, number, result, data, detail);
}

static void take_wake(lio_backend *b)
{
    uint64_t count;
    lio_uring_of(b)->wake_armed = false;
    b->stats.syscalls++;
    if (read(b->wake_fd, &count, sizeof count) == sizeof count)
        b->woken = true;
}

uint32_t lio_uring_reap(lio_backend *b)
{
    uring_state *state = lio_uring_of(b);
    const struct uring_cqe *cqe;
    uint32_t count = 0;
    while ((cqe = lio_ring_peek(&state->ring)) != NULL) {
        if (cqe->user_data == TOKEN_WAKE) {
            take_wake(b);
        } else if (cqe->user_data == TOKEN_HALF_CLOSED) {
            take_half_closed(b);
        } else if (cqe->user_data != TOKEN_INTERNAL) {
            uint32_t number = lio_store_resolve(&b->store, cqe->user_data);
            assert(number != LIO_NO_SLOT);
            if (brings_msg(lio_slot_at(&b->store, number)->op.opcode) &&
                lio_uring_pool_msg_full(&state->pool))
                break; /* room for it comes with the next recycle */
            complete_operation(b, number, cqe);
        }
        lio_ring_seen(&state->ring);
        count++;
    }
    return count;
}
