/* uring_submit.c: what of an operation goes into a submission entry, round by round. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "uring.h"
#include "uring_encode.h"

/* -- which file -------------------------------------------------------------------- */

bool lio_uring_names_same_file(lio_backend *b, const uint64_t identity[2], lio_fd fd)
{
    struct stat st;
    b->stats.syscalls++;
    return fstat((int)fd, &st) == 0 && identity[0] == (uint64_t)st.st_dev &&
           identity[1] == (uint64_t)st.st_ino;
}

static bool identify(lio_backend *b, uint64_t identity[2], lio_fd fd)
{
    struct stat st;
    b->stats.syscalls++;
    if (fstat((int)fd, &st) != 0)
        return false;
    identity[0] = (uint64_t)st.st_dev;
    identity[1] = (uint64_t)st.st_ino;
    return true;
}

/* Whether an operation may have to go to the kernel more than once. */
static bool takes_rounds(const lio_op *op)
{
    return lio_uring_waits_by_poll(op) || lio_uring_wants_pool(op) ||
           lio_opcode_has_fd2(op->opcode);
}

/* An entry names what has the number when the kernel reads it. Nobody claimed this one: each
 * round must find the file of the first. False: it does not. */
static bool is_file_of_first_round(lio_backend *b, lio_slot *slot, lio_slot_extra *extra)
{
    bool pair = lio_opcode_has_fd2(slot->op.opcode);
    if (slot->stage == STAGE_NEW) {
        /* Should that fail, the kernel will say why. */
        slot->by_number = identify(b, extra->identity[0], slot->op.fd) &&
                          (!pair || identify(b, extra->identity[1], slot->op.fd2));
        return true;
    }
    return !slot->by_number ||
           (lio_uring_names_same_file(b, extra->identity[0], slot->op.fd) &&
            (!pair || lio_uring_names_same_file(b, extra->identity[1], slot->op.fd2)));
}

/* -- entries ----------------------------------------------------------------------- */

/* The kernels before 6.11 (5.19 for sockets) have no such opcodes, and the calls do not
 * block. */
static int64_t run_inline(const lio_op *op, const lio_slot_extra *extra)
{
    int result;
    switch (op->opcode) {
    case LIO_SOCKET:
        result = socket((int)op->fd, (int)op->flags, (int)op->offset);
        break;
    case LIO_BIND:
        result = bind((int)op->fd, (const struct sockaddr *)(const void *)extra->addr,
                      extra->addr_len);
        break;
    case LIO_LISTEN:
        result = listen((int)op->fd, op->len > INT32_MAX ? INT32_MAX : (int)op->len);
        break;
    default:
        result = shutdown((int)op->fd, (int)op->flags);
        break;
    }
    return result < 0 ? -errno : result;
}

bool lio_uring_runs_inline(const uring_state *state, uint8_t opcode)
{
    return (opcode == LIO_SOCKET || opcode == LIO_BIND || opcode == LIO_LISTEN ||
            opcode == LIO_SHUTDOWN) &&
           !state->offered[lio_uring_opcode(opcode)];
}

/* Without a ring of buffers: whether readiness tells when a receive can proceed. What is no
 * socket, and what has no urgent data, is an error at once. */
static bool waits_for_readiness(lio_backend *b, const lio_slot *slot)
{
    if (slot->stage == STAGE_RECEIVING || slot->op.flags & MSG_DONTWAIT)
        return false;
    if (slot->stage != STAGE_NEW)
        return true;
    int kind;
    socklen_t size = sizeof kind;
    b->stats.syscalls++;
    return !(slot->op.flags & MSG_OOB) &&
           getsockopt((int)slot->op.fd, SOL_SOCKET, SO_TYPE, &kind, &size) == 0;
}

/* False: there is no buffer for it now; it is back in the queue. */
static bool choose_buffer(lio_backend *b, uint32_t number, struct uring_sqe *sqe)
{
    uring_state *state = lio_uring_of(b);
    lio_slot *slot = lio_slot_at(&b->store, number);
    if (state->pool.ring_registered) {
        sqe->flags |= URING_SQE_BUFFER_SELECT;
        sqe->buf_group = LIO_POOL_GROUP;
        return true;
    }
    if (waits_for_readiness(b, slot)) {
        memset(sqe, 0, sizeof *sqe);
        lio_uring_encode_poll(sqe, slot->op.fd, LIO_POLL_READ);
        slot->stage = STAGE_POLLING;
        return true;
    }
    uint32_t buffer = lio_uring_pool_take(&state->pool);
    if (buffer == LIO_NO_BUFFER) {
        lio_uring_once_more(b, number, STAGE_RECEIVING, false);
        return false;
    }
    slot->aux = buffer;
    slot->stage = STAGE_RECEIVING;
    lio_uring_point_at(sqe, slot, lio_extra_at(&b->store, number),
                       lio_uring_pool_at(&state->pool, buffer));
    sqe->op_flags |= MSG_DONTWAIT; /* the buffer must not wait with it */
    return true;
}

static bool writes_without_flags(uint8_t opcode)
{
    return opcode == LIO_WRITE || opcode == LIO_WRITE_AT || opcode == LIO_WRITEV_AT ||
           opcode == LIO_SPLICE || opcode == LIO_TEE;
}

/* For lio_uring_mend_position. Pipes and the like have none. */
static void note_position(lio_backend *b, const lio_slot *slot, lio_slot_extra *extra)
{
    b->stats.syscalls++;
    int64_t position = lseek((int)slot->op.fd, 0, SEEK_CUR);
    memcpy(extra->os.bytes, &position, sizeof position);
}

/* Where a transfer at the file's position stops short because of an error (a full disk, say),
 * io_uring reports what was moved and does not move the position (probed on Linux 6.18): the
 * next one would go over the same place. */
void lio_uring_mend_position(lio_backend *b, const lio_slot *slot, const lio_slot_extra *extra,
                             int64_t result)
{
    int fd = (int)slot->op.fd;
    int64_t before;
    memcpy(&before, extra->os.bytes, sizeof before);
    if (before < 0 || result <= 0 || (uint64_t)result >= slot->op.len)
        return;
    b->stats.syscalls++;
    if (lseek(fd, 0, SEEK_CUR) != before)
        return; /* the usual short read, at the end of the file */
    b->stats.syscalls += 2;
    int flags = slot->op.opcode == LIO_WRITE ? fcntl(fd, F_GETFL) : 0;
    if (flags >= 0 && flags & O_APPEND)
        (void)lseek(fd, 0, SEEK_END);
    else
        (void)lseek(fd, before + result, SEEK_SET);
}

void lio_uring_add_operation(lio_backend *b, uint32_t number)
{
    uring_state *state = lio_uring_of(b);
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_slot_extra *extra = lio_extra_at(&b->store, number);
    const lio_fd_entry *entry =
        lio_opcode_has_fd(slot->op.opcode) ? lio_fd_find(&b->store, slot->op.fd) : NULL;
    uint8_t opcode = slot->op.opcode;
    bool fixed = entry != NULL && entry->armed && opcode != LIO_SPLICE && opcode != LIO_TEE &&
                 !lio_uring_runs_inline(state, opcode);
    b->stats.flushed += slot->stage == STAGE_NEW;
    bool lost = entry != NULL && entry->adopted && !fixed &&
                !lio_uring_names_same_file(b, entry->identity, slot->op.fd);
    if (!lost && (slot->by_number || (!fixed && takes_rounds(&slot->op))))
        lost = !is_file_of_first_round(b, slot, extra);
    if (lost) {
        int64_t moved = (int64_t)slot->moved;
        lio_uring_complete(b, number, moved != 0 ? moved : -EBADF, -1, -1);
        return;
    }
    if (lio_uring_runs_inline(state, opcode)) {
        b->stats.syscalls++;
        lio_uring_complete(b, number, run_inline(&slot->op, extra), -1, -1);
        return;
    }
    struct uring_sqe *sqe = lio_ring_sqe(&state->ring);
    assert(sqe != NULL); /* the caller made room */
    lio_uring_encode(sqe, slot, extra);
    if (slot->stage == STAGE_WRITABLE || slot->stage == STAGE_FROM || slot->stage == STAGE_TO) {
        memset(sqe, 0, sizeof *sqe);
        lio_uring_encode_poll(sqe, slot->stage == STAGE_TO ? slot->op.fd2 : slot->op.fd,
                              slot->stage == STAGE_FROM ? LIO_POLL_READ : LIO_POLL_WRITE);
    } else if (lio_uring_waits_by_poll(&slot->op)) {
        sqe->op_flags |= MSG_DONTWAIT;
    }
    if (lio_uring_wants_pool(&slot->op) && !choose_buffer(b, number, sqe)) {
        state->ring.sq_local--;
        return;
    }
    if (slot->op.opcode == LIO_READ || slot->op.opcode == LIO_WRITE)
        note_position(b, slot, extra);
    if (fixed)
        sqe->flags |= URING_SQE_FIXED_FILE; /* the index is the number */
    sqe->user_data = lio_store_token(slot, number);
    state->ring.raises_sigpipe |= writes_without_flags(opcode);
}
