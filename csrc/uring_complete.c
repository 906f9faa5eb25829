/* uring_complete.c: what becomes of a completion: a result, or one more round. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "uring.h"
#include "uring_encode.h"
#include "uring_lookout.h"

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

/* -- the peer has closed its half --------------------------------------------------- */

/* The descriptor in which an operation writes. */
static lio_fd writes_to(const lio_op *op)
{
    return lio_opcode_has_fd2(op->opcode) ? op->fd2 : op->fd;
}

/* An epoll set goes by number: is that still the file's? */
static bool can_be_watched(lio_backend *b, uint32_t number)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    lio_fd fd = writes_to(&slot->op);
    if (slot->by_number)
        return lio_uring_names_same_file(
            b, lio_extra_at(&b->store, number)->identity[fd == slot->op.fd ? 0 : 1], fd);
    const lio_fd_entry *entry = lio_fd_find(&b->store, fd);
    return entry == NULL || !entry->adopted ||
           lio_uring_names_same_file(b, entry->identity, fd);
}

/* A poll for writability brought nothing but the peer's half-close. */
static void park_half_closed(lio_backend *b, uint32_t number)
{
    uring_state *state = lio_uring_of(b);
    lio_slot *slot = lio_slot_at(&b->store, number);
    int error = -EBADF;
    if (can_be_watched(b, number)) {
        b->stats.syscalls++;
        error = lio_half_closed_watch(&state->half_closed, (int)writes_to(&slot->op));
    }
    if (error != 0) {
        lio_uring_complete(b, number, error, -1, -1);
        return;
    }
    slot->stage = STAGE_HALF_CLOSED;
    state->half_closed.waiting++; /* the next turn has the ring watch the set */
}

static void go_on_half_closed(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    if (slot->state != LIO_STATE_SUBMITTED || slot->stage != STAGE_HALF_CLOSED)
        return;
    lio_uring_of(b)->half_closed.waiting--;
    if (slot->op.opcode == LIO_POLL)
        lio_uring_complete(b, number, LIO_POLL_WRITE, -1, -1);
    else
        lio_uring_once_more(b, number, STAGE_AGAIN, true);
}

static void take_half_closed(lio_backend *b)
{
    uring_state *state = lio_uring_of(b);
    int fd;
    state->half_closed.armed = false;
    while (b->stats.syscalls++, (fd = lio_half_closed_next(&state->half_closed)) >= 0) {
        const lio_fd_entry *entry = lio_fd_find(&b->store, fd);
        uint32_t number = entry == NULL ? LIO_NO_SLOT : entry->ops.head;
        for (uint32_t next; number != LIO_NO_SLOT; number = next) {
            next = lio_slot_at(&b->store, number)->fd_next;
            go_on_half_closed(b, number);
        }
        for (number = 0; b->store.pairs != 0 && number < b->store.fresh; number++) {
            if (lio_slot_reaches(lio_slot_at(&b->store, number), fd))
                go_on_half_closed(b, number);
        }
    }
}

/* -- sends ------------------------------------------------------------------------- */

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
        if (full) {
            lio_uring_once_more(b, number, STAGE_WRITABLE, true);
            return;
        }
        if (result == -EINTR || (result > 0 && all && slot->moved < slot->op.len)) {
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

/* -- splices ----------------------------------------------------------------------- */

#define SPLICE_TRIES 16u

/* With an end that does not block, a splice comes back where it would have to wait: for which
 * of the two, the kernel does not say. */
static void wait_for_either(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    struct pollfd ends[2] = {{.fd = (int)slot->op.fd, .events = POLLIN},
                             {.fd = (int)slot->op.fd2, .events = POLLOUT}};
    b->stats.syscalls++;
    int ready = poll(ends, 2, 0);
    if (ready >= 0 && ends[0].revents == 0)
        lio_uring_once_more(b, number, STAGE_FROM, true);
    else if (ready >= 0 && ends[1].revents == 0)
        lio_uring_once_more(b, number, STAGE_TO, true);
    else if (slot->aux++ < SPLICE_TRIES)
        lio_uring_once_more(b, number, STAGE_AGAIN, true);
    else
        lio_uring_complete(b, number, -EAGAIN, -1, -1); /* both say yes, and it says no */
}

static void complete_splice(lio_backend *b, uint32_t number, int64_t result)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    bool cancelling = slot->state == LIO_STATE_CANCELLING;
    bool polled = slot->stage == STAGE_FROM || slot->stage == STAGE_TO;
    if (cancelling && (polled || result == -EAGAIN)) {
        lio_uring_complete(b, number, -ECANCELED, -1, -1);
    } else if (polled && result > 0) {
        slot->aux = 0;
        if (slot->stage == STAGE_TO &&
            lio_uring_poll_result(LIO_POLL_WRITE, (int32_t)result) == 0)
            park_half_closed(b, number);
        else
            lio_uring_once_more(b, number, STAGE_AGAIN, true);
    } else if (result == -EAGAIN && !(slot->op.flags & SPLICE_F_NONBLOCK)) {
        wait_for_either(b, number);
    } else {
        lio_uring_complete(b, number, result, -1, -1);
    }
}

/* -- all of them ------------------------------------------------------------------- */

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
    if (slot->op.opcode == LIO_READ || slot->op.opcode == LIO_WRITE)
        lio_uring_mend_position(b, slot, lio_extra_at(&b->store, number), result);
    if (lio_opcode_has_fd2(slot->op.opcode)) {
        complete_splice(b, number, result);
        return;
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
        if (result > 0 && lio_spin_is_on(&b->spin))
            lio_uring_may_answer(b, slot);
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
        } else if (cqe->user_data != TOKEN_INTERNAL &&
                   !lio_uring_lookout_over(b, cqe->user_data)) {
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
