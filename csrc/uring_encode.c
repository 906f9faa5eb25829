#include "uring_encode.h"

#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "uring_pool.h"

/* What of a slot's extra memory the kernel reads and writes. */
struct message {
    struct msghdr header;
    struct iovec iov;
};

static_assert(sizeof(struct message) <= sizeof(((lio_slot_extra *)0)->os), "message fits");
static_assert(sizeof(lio_iovec) == sizeof(struct iovec) &&
                  offsetof(lio_iovec, base) == offsetof(struct iovec, iov_base) &&
                  offsetof(lio_iovec, len) == offsetof(struct iovec, iov_len),
              "lio_iovec is the system's iovec");

#define LENGTH_MAX 0x7ffff000u /* MAX_RW_COUNT: more is cut by every system call alike */

static uint64_t pointer(const void *p)
{
    return (uint64_t)(uintptr_t)p;
}

static uint32_t length(uint64_t wanted)
{
    return wanted > LENGTH_MAX ? LENGTH_MAX : (uint32_t)wanted;
}

static const uint8_t opcodes[LIO_OPCODE_COUNT] = {
    [LIO_NOP] = URING_OP_NOP,
    [LIO_TIMEOUT] = URING_OP_TIMEOUT,
    [LIO_READ] = URING_OP_READ,
    [LIO_WRITE] = URING_OP_WRITE,
    [LIO_READ_AT] = URING_OP_READ,
    [LIO_WRITE_AT] = URING_OP_WRITE,
    [LIO_READV_AT] = URING_OP_READV,
    [LIO_WRITEV_AT] = URING_OP_WRITEV,
    [LIO_RECV] = URING_OP_RECV,
    [LIO_SEND] = URING_OP_SEND,
    [LIO_RECVMSG] = URING_OP_RECVMSG,
    [LIO_SENDMSG] = URING_OP_SENDMSG,
    [LIO_RECVFROM] = URING_OP_RECVMSG,
    [LIO_SENDTO] = URING_OP_SENDMSG,
    [LIO_SOCKET] = URING_OP_SOCKET,
    [LIO_BIND] = URING_OP_BIND,
    [LIO_LISTEN] = URING_OP_LISTEN,
    [LIO_ACCEPT] = URING_OP_ACCEPT,
    [LIO_CONNECT] = URING_OP_CONNECT,
    [LIO_SHUTDOWN] = URING_OP_SHUTDOWN,
    [LIO_POLL] = URING_OP_POLL_ADD,
    [LIO_OPENAT] = URING_OP_OPENAT,
    [LIO_CLOSE] = URING_OP_CLOSE,
    [LIO_FSYNC] = URING_OP_FSYNC,
    [LIO_FDATASYNC] = URING_OP_FSYNC,
    [LIO_TRUNCATE] = URING_OP_FTRUNCATE,
    [LIO_STATX] = URING_OP_STATX,
    [LIO_LINKAT] = URING_OP_LINKAT,
    [LIO_SYMLINKAT] = URING_OP_SYMLINKAT,
    [LIO_RENAMEAT] = URING_OP_RENAMEAT,
    [LIO_UNLINKAT] = URING_OP_UNLINKAT,
    [LIO_MKDIRAT] = URING_OP_MKDIRAT,
    [LIO_TEE] = URING_OP_TEE,
    [LIO_SPLICE] = URING_OP_SPLICE,
};

uint8_t lio_uring_opcode(uint8_t opcode)
{
    return opcodes[opcode];
}

bool lio_uring_wants_pool(const lio_op *op)
{
    return op->buf == NULL &&
           (op->opcode == LIO_RECV || op->opcode == LIO_RECVMSG || op->opcode == LIO_RECVFROM);
}

uint64_t lio_uring_pool_length(const lio_op *op)
{
    uint64_t wanted = op->opcode == LIO_RECVMSG ? op->buf_len : op->len;
    return wanted > LIO_POOL_BUFFER ? LIO_POOL_BUFFER : wanted;
}

void lio_uring_encode_poll(struct uring_sqe *sqe, lio_fd fd, uint32_t mask)
{
    uint32_t events = (mask & LIO_POLL_READ ? POLLIN | POLLRDHUP : 0u) |
                      (mask & LIO_POLL_WRITE ? POLLOUT : 0u);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    events = events << 16 | events >> 16; /* the ABI has the 16-bit halves swapped */
#endif
    sqe->opcode = URING_OP_POLL_ADD;
    sqe->fd = (int32_t)fd;
    sqe->op_flags = events;
}

uint32_t lio_uring_poll_result(uint32_t wanted, int32_t revents)
{
    uint32_t due = 0;
    /* A hang-up or an error wakes readers and writers, as with epoll in Trio. */
    if (revents & (POLLIN | POLLRDHUP | POLLPRI | POLLHUP | POLLERR))
        due |= LIO_POLL_READ;
    if (revents & (POLLOUT | POLLHUP | POLLERR))
        due |= LIO_POLL_WRITE;
    return due & wanted;
}

static uint32_t receive_flags(uint32_t flags)
{
    /* On a non-blocking socket a receive returns what is there. io_uring would go on until
     * all has come. */
    return flags & ~(uint32_t)MSG_WAITALL;
}

static void encode_message(struct uring_sqe *sqe, const lio_slot *slot, lio_slot_extra *extra)
{
    const lio_op *op = &slot->op;
    struct message *message = (struct message *)(void *)&extra->os;
    memset(message, 0, sizeof *message);
    struct msghdr *header = &message->header;
    bool sends = lio_opcode_sends(op->opcode);
    if (op->opcode == LIO_SENDTO || op->opcode == LIO_RECVFROM || op->buf == NULL) {
        bool pooled = lio_uring_wants_pool(op);
        message->iov.iov_base = op->buf;
        message->iov.iov_len = pooled ? lio_uring_pool_length(op) : op->len;
        header->msg_iov = &message->iov;
        header->msg_iovlen = 1;
    } else {
        header->msg_iov = op->buf;
        header->msg_iovlen = op->len;
    }
    if (sends && extra->addr_len != 0 && op->addr_len != 0) {
        header->msg_name = extra->addr;
        header->msg_namelen = extra->addr_len;
    } else if (!sends) {
        header->msg_name = extra->addr;
        header->msg_namelen = sizeof extra->addr;
    }
    if (op->opcode == LIO_SENDMSG || op->opcode == LIO_RECVMSG) {
        header->msg_control = op->control_len ? op->control : NULL;
        header->msg_controllen = op->control_len;
    }
    sqe->fd = (int32_t)op->fd;
    sqe->addr = pointer(header);
    sqe->len = 1;
    sqe->op_flags = sends ? op->flags | MSG_NOSIGNAL : receive_flags(op->flags);
}

static void encode_socket(struct uring_sqe *sqe, const lio_slot *slot, lio_slot_extra *extra)
{
    const lio_op *op = &slot->op;
    sqe->fd = (int32_t)op->fd;
    switch (op->opcode) {
    case LIO_RECV:
        sqe->addr = pointer(op->buf);
        sqe->len = length(op->buf == NULL ? lio_uring_pool_length(op) : op->len);
        sqe->op_flags = receive_flags(op->flags);
        break;
    case LIO_SEND:
        sqe->addr = pointer((char *)op->buf + slot->moved);
        sqe->len = length(lio_slot_to_send(slot));
        sqe->op_flags = op->flags | MSG_NOSIGNAL;
        break;
    case LIO_SOCKET:
        sqe->off = op->flags;
        sqe->len = (uint32_t)op->offset;
        break;
    case LIO_BIND:
    case LIO_CONNECT:
        sqe->addr = pointer(extra->addr);
        sqe->off = extra->addr_len;
        break;
    case LIO_LISTEN:
        sqe->len = (uint32_t)op->len;
        break;
    case LIO_ACCEPT:
        extra->addr_len = sizeof extra->addr;
        sqe->addr = pointer(extra->addr);
        sqe->off = pointer(&extra->addr_len);
        sqe->op_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
        break;
    case LIO_SHUTDOWN:
        sqe->len = op->flags;
        break;
    default:
        assert(!"a socket operation");
    }
}

static void encode_file(struct uring_sqe *sqe, const lio_op *op)
{
    sqe->fd = (int32_t)op->fd;
    switch (op->opcode) {
    case LIO_READ:
    case LIO_WRITE:
        sqe->off = (uint64_t)-1; /* the file's own position */
        sqe->addr = pointer(op->buf);
        sqe->len = length(op->len);
        break;
    case LIO_READ_AT:
    case LIO_WRITE_AT:
        sqe->off = (uint64_t)op->offset;
        sqe->addr = pointer(op->buf);
        sqe->len = length(op->len);
        break;
    case LIO_READV_AT:
    case LIO_WRITEV_AT:
        sqe->off = (uint64_t)op->offset;
        sqe->addr = pointer(op->buf);
        sqe->len = (uint32_t)op->len;
        break;
    case LIO_FSYNC:
    case LIO_CLOSE:
        break;
    case LIO_FDATASYNC:
        sqe->op_flags = URING_FSYNC_DATASYNC;
        break;
    case LIO_TRUNCATE:
        sqe->off = (uint64_t)op->offset;
        break;
    case LIO_TEE:
    case LIO_SPLICE:
        sqe->fd = (int32_t)op->fd2;
        sqe->splice_fd_in = (int32_t)op->fd;
        sqe->len = length(op->len);
        sqe->op_flags = op->flags;
        if (op->opcode == LIO_SPLICE) {
            sqe->addr = (uint64_t)op->offset;
            sqe->off = (uint64_t)op->offset2;
        }
        break;
    default:
        assert(!"a file operation");
    }
}

static void encode_path(struct uring_sqe *sqe, const lio_op *op)
{
    sqe->fd = (int32_t)op->fd;
    sqe->addr = pointer(op->path);
    sqe->op_flags = op->flags;
    switch (op->opcode) {
    case LIO_OPENAT:
        /* The kernel would try it with O_NONBLOCK first, and take for the answer what is none:
         * a FIFO whose other end nobody has opened yet (ENXIO, or open for reading at once). */
        if (!(op->flags & O_NONBLOCK))
            sqe->flags |= URING_SQE_ASYNC;
        sqe->len = op->mode;
        break;
    case LIO_MKDIRAT:
        sqe->len = op->mode;
        break;
    case LIO_STATX:
        sqe->len = op->mode;
        sqe->off = pointer(op->buf);
        break;
    case LIO_LINKAT:
    case LIO_RENAMEAT:
        sqe->len = (uint32_t)(int32_t)op->fd2;
        sqe->off = pointer(op->path2);
        break;
    case LIO_SYMLINKAT:
        sqe->off = pointer(op->path2);
        break;
    case LIO_UNLINKAT:
        break;
    default:
        assert(!"an operation on a path");
    }
}

void lio_uring_encode(struct uring_sqe *sqe, const lio_slot *slot, lio_slot_extra *extra)
{
    const lio_op *op = &slot->op;
    sqe->opcode = opcodes[op->opcode];
    switch (op->opcode) {
    case LIO_NOP:
        break;
    case LIO_TIMEOUT: {
        struct uring_timespec *ts = (struct uring_timespec *)(void *)&extra->os;
        ts->tv_sec = op->offset / 1000000000;
        ts->tv_nsec = op->offset % 1000000000;
        sqe->addr = pointer(ts);
        sqe->len = 1;
        break;
    }
    case LIO_RECVMSG:
    case LIO_SENDMSG:
    case LIO_RECVFROM:
    case LIO_SENDTO:
        encode_message(sqe, slot, extra);
        break;
    case LIO_POLL:
        lio_uring_encode_poll(sqe, op->fd, op->flags);
        break;
    case LIO_RECV:
    case LIO_SEND:
    case LIO_SOCKET:
    case LIO_BIND:
    case LIO_LISTEN:
    case LIO_ACCEPT:
    case LIO_CONNECT:
    case LIO_SHUTDOWN:
        encode_socket(sqe, slot, extra);
        break;
    default:
        if (lio_opcode_has_path(op->opcode))
            encode_path(sqe, op);
        else
            encode_file(sqe, op);
        break;
    }
}

void lio_uring_point_at(struct uring_sqe *sqe, const lio_slot *slot, lio_slot_extra *extra,
                        void *buffer)
{
    if (slot->op.opcode == LIO_RECV)
        sqe->addr = pointer(buffer);
    else
        ((struct message *)(void *)&extra->os)->iov.iov_base = buffer;
}

void lio_uring_read_msg(const lio_slot *slot, const lio_slot_extra *extra, lio_msg *msg)
{
    memset(msg, 0, offsetof(lio_msg, addr));
    if (slot->op.opcode == LIO_ACCEPT) {
        msg->addr_len = extra->addr_len;
    } else {
        const struct msghdr *header =
            &((const struct message *)(const void *)&extra->os)->header;
        msg->addr_len = header->msg_namelen;
        msg->control_len = (uint32_t)header->msg_controllen;
        msg->flags = (uint32_t)header->msg_flags;
    }
    if (msg->addr_len > LIO_ADDR_MAX)
        msg->addr_len = LIO_ADDR_MAX;
    memcpy(msg->addr, extra->addr, msg->addr_len);
}
