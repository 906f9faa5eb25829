/* poller_ops.c: one attempt at each operation, which never blocks.
 *
 * Sockets are asked not to block call by call (MSG_DONTWAIT); files of other kinds with
 * RWF_NOWAIT where the kernel has it for them. What is left are descriptors in blocking mode
 * that know neither: those are asked with poll(2) first, and written to only as much as fits
 * for certain. accept(2) has no such flag either and is asked the same way; connect(2) gets
 * O_NONBLOCK for the moment of the call, because the way back from a connect that blocks is
 * long. Both leave a gap only for another process that uses the same description just then. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#include <sys/uio.h>
#include <unistd.h>

#include "poller.h"
#include "sigpipe.h"

#define LENGTH_MAX 0x7ffff000u /* MAX_RW_COUNT: more is cut by every system call alike */
/* A read that is cached is copied in place: a small one always, larger ones up to so much in a
 * turn. The loop has others to serve, and the pool does the rest. */
#define CACHED_SMALL (256u * 1024)
#define CACHED_MAX (UINT64_C(2) << 20)
#define SENDS_PER_TURN 8
#define TTY_WRITE_MAX 128u
#if defined(__linux__) && !defined(RWF_NOWAIT)
#define RWF_NOWAIT 8
#endif

static_assert(sizeof(lio_iovec) == sizeof(struct iovec) &&
                  offsetof(lio_iovec, base) == offsetof(struct iovec, iov_base) &&
                  offsetof(lio_iovec, len) == offsetof(struct iovec, iov_len),
              "lio_iovec is the system's iovec");
static_assert((int)LIO_READY_READ == 1 << LIO_READER && (int)LIO_READY_WRITE == 1 << LIO_WRITER,
              "readiness bits are directions");

static lio_attempt done(int64_t result)
{
    return (lio_attempt){.verdict = LIO_DONE, .result = result, .data = -1, .detail = -1};
}

static lio_attempt undone(enum lio_verdict verdict, enum lio_direction direction)
{
    return (lio_attempt){.verdict = (uint8_t)verdict, .direction = (uint8_t)direction};
}

/* What errno says after a call that would wait in this direction. */
static lio_attempt failed(enum lio_direction direction)
{
    bool again = errno == EAGAIN || errno == EWOULDBLOCK;
    return again ? undone(LIO_NOT_READY, direction) : done(-errno);
}

static size_t length_of(uint64_t wanted)
{
    return wanted > LENGTH_MAX ? LENGTH_MAX : (size_t)wanted;
}

int lio_poller_direction(const lio_op *op)
{
    switch (op->opcode) {
    case LIO_READ:
    case LIO_RECV:
    case LIO_RECVMSG:
    case LIO_RECVFROM:
    case LIO_ACCEPT:
    case LIO_TEE:
    case LIO_SPLICE:
        return LIO_READER;
    case LIO_WRITE:
    case LIO_SEND:
    case LIO_SENDMSG:
    case LIO_SENDTO:
    case LIO_CONNECT:
        return LIO_WRITER;
    case LIO_POLL:
        return op->flags & LIO_POLL_READ ? LIO_READER : LIO_WRITER;
    default:
        return -1;
    }
}

bool lio_poller_never_waits(const lio_op *op)
{
    switch (op->opcode) {
    case LIO_RECV:
    case LIO_RECVMSG:
    case LIO_RECVFROM:
    case LIO_SEND:
    case LIO_SENDMSG:
    case LIO_SENDTO:
        return (op->flags & MSG_DONTWAIT) != 0;
    default:
        return false;
    }
}

/* -- readiness --------------------------------------------------------------------- */

static int64_t poll_now(lio_backend *b, int fd, short events)
{
    struct pollfd pfd = {.fd = fd, .events = events};
    int count;
    do {
        b->stats.syscalls++;
        count = poll(&pfd, 1, 0);
    } while (count < 0 && errno == EINTR);
    if (count < 0)
        return -errno;
    return pfd.revents & POLLNVAL ? -EBADF : pfd.revents;
}

int64_t lio_poller_level(lio_backend *b, int fd, uint32_t mask)
{
    short events =
        (short)((mask & LIO_POLL_READ ? POLLIN : 0) | (mask & LIO_POLL_WRITE ? POLLOUT : 0));
    int64_t revents = poll_now(b, fd, events);
    if (revents < 0)
        return revents;
    uint32_t due = (revents & POLLIN ? (uint32_t)LIO_POLL_READ : 0) |
                   (revents & POLLOUT ? (uint32_t)LIO_POLL_WRITE : 0);
    if (revents & (POLLHUP | POLLERR))
        due |= LIO_POLL_READ | LIO_POLL_WRITE;
    return due & mask;
}

static bool is_blocking(lio_backend *b, int fd)
{
    b->stats.syscalls++;
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && !(flags & O_NONBLOCK);
}

/* Makes fd non-blocking for a moment; returns the flags to restore, or -1. */
static int unblock(lio_backend *b, int fd)
{
    b->stats.syscalls++;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || flags & O_NONBLOCK)
        return -1;
    b->stats.syscalls += 2;
    return fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 ? flags : -1;
}

static void restore_flags(int fd, int flags)
{
    if (flags < 0)
        return;
    int saved = errno;
    int error = fcntl(fd, F_SETFL, flags);
    assert(error == 0);
    (void)error;
    errno = saved;
}

/* -- the arena --------------------------------------------------------------------- */

char *lio_poller_arena_room(lio_backend *b, size_t size)
{
    return lio_arena_room(&lio_poller_of(b)->arena, size);
}

void lio_poller_arena_keep(lio_backend *b, size_t size)
{
    lio_arena_keep(&lio_poller_of(b)->arena, size);
}

/* -- receiving --------------------------------------------------------------------- */

/* On a non-blocking descriptor a receive returns what is there, MSG_WAITALL or not. */
static int receive_flags(const lio_op *op)
{
    return (int)(op->flags & ~(uint32_t)MSG_WAITALL) | MSG_DONTWAIT;
}

static ssize_t receive_message(const lio_op *op, int fd, struct iovec *iov, lio_msg *msg)
{
    struct msghdr header = {
        .msg_name = msg->addr,
        .msg_namelen = LIO_ADDR_MAX,
        .msg_iov = iov,
        .msg_iovlen = 1,
    };
    if (op->opcode == LIO_RECVMSG) {
        header.msg_control = op->control;
        header.msg_controllen = op->control == NULL ? 0 : op->control_len;
        if (op->buf != NULL) {
            header.msg_iov = op->buf;
            header.msg_iovlen = (size_t)op->len;
        }
    }
    ssize_t count = recvmsg(fd, &header, receive_flags(op));
    if (count >= 0) {
        socklen_t length = header.msg_namelen;
        msg->addr_len = length > LIO_ADDR_MAX ? LIO_ADDR_MAX : length;
        msg->control_len = (uint32_t)header.msg_controllen;
        msg->flags = (uint32_t)header.msg_flags;
        msg->reserved = 0;
    }
    return count;
}

static lio_attempt receive(lio_backend *b, const lio_op *op, uint8_t traits)
{
    int fd = (int)op->fd;
    bool pooled = op->buf == NULL;
    bool scattered = op->opcode == LIO_RECVMSG && !pooled;
    size_t wanted = length_of(op->opcode == LIO_RECVMSG ? op->buf_len : op->len);
    if (pooled && wanted > LIO_RECEIVE_MAX)
        wanted = LIO_RECEIVE_MAX;
    size_t head = op->opcode == LIO_RECV ? 0 : lio_arena_rounded(sizeof(lio_msg));
    char *room = lio_poller_arena_room(b, head + (pooled ? wanted : 0));
    if (room == NULL)
        return undone(LIO_NO_ROOM, LIO_READER);
    struct iovec iov = {.iov_base = pooled ? room + head : op->buf, .iov_len = wanted};
    ssize_t count;
    do {
        b->stats.syscalls++;
        count = op->opcode == LIO_RECV ? recv(fd, iov.iov_base, wanted, receive_flags(op))
                                       : receive_message(op, fd, &iov, (lio_msg *)room);
    } while (count < 0 && errno == EINTR);
    if (count < 0)
        return failed(LIO_READER);
    lio_attempt attempt = done(count);
    /* With MSG_TRUNC the count may be more than what was stored. */
    size_t stored = (size_t)count < wanted ? (size_t)count : wanted;
    if (head != 0)
        attempt.detail = room - b->pool;
    if (pooled)
        attempt.data = room + head - b->pool;
    lio_poller_arena_keep(b, head + (pooled ? stored : 0));
    attempt.drained = op->flags == 0 && !scattered && lio_poller_drains(traits, wanted, count);
    return attempt;
}

#if !defined(SOCK_NONBLOCK)
/* A new socket of a system that cannot make it non-blocking and close-on-exec at once. */
static int set_up(int fd)
{
    if (fd < 0 || (fcntl(fd, F_SETFL, O_NONBLOCK) == 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0))
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}
#endif

static int accept_now(int fd, struct sockaddr *addr, socklen_t *length)
{
#if defined(SOCK_NONBLOCK)
    return accept4(fd, addr, length, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
    return set_up(accept(fd, addr, length));
#endif
}

static int make_socket(int family, int type, int protocol)
{
#if defined(SOCK_NONBLOCK)
    return socket(family, type, protocol);
#else
    return set_up(socket(family, type, protocol));
#endif
}

/* Whether an accept would wait for a connection; all that does not listen is an error at once.
 */
static bool listens(lio_backend *b, int fd)
{
    int value = 0;
    socklen_t size = sizeof value;
    b->stats.syscalls++;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) == 0 && value != 0;
}

static lio_attempt try_accept(lio_backend *b, const lio_op *op)
{
    int fd = (int)op->fd;
    lio_msg *msg = (lio_msg *)lio_poller_arena_room(b, sizeof *msg);
    if (msg == NULL)
        return undone(LIO_NO_ROOM, LIO_READER);
    if (is_blocking(b, fd)) {
        int64_t due = poll_now(b, fd, POLLIN);
        if (due < 0)
            return done(due);
        if (due == 0 && listens(b, fd))
            return undone(LIO_NOT_READY, LIO_READER);
    }
    socklen_t length = LIO_ADDR_MAX;
    int accepted;
    do {
        b->stats.syscalls++;
        accepted = accept_now(fd, (struct sockaddr *)msg->addr, &length);
    } while (accepted < 0 && errno == EINTR);
    if (accepted < 0)
        return failed(LIO_READER);
    msg->addr_len = length > LIO_ADDR_MAX ? LIO_ADDR_MAX : length;
    msg->control_len = msg->flags = msg->reserved = 0;
    lio_attempt attempt = done(accepted);
    attempt.detail = (char *)msg - b->pool;
    lio_poller_arena_keep(b, sizeof *msg);
    return attempt;
}

/* -- sending ----------------------------------------------------------------------- */

/* macOS learned MSG_NOSIGNAL late, and sends SIGPIPE to the process, not to the thread: the
 * descriptor itself has to be told. */
static void no_sigpipe(lio_backend *b, int fd)
{
#if defined(F_SETNOSIGPIPE)
    if (lio_poller_of(b)->guard_sigpipe) {
        b->stats.syscalls++;
        (void)fcntl(fd, F_SETNOSIGPIPE, 1);
    }
#else
    (void)b, (void)fd;
#endif
}

static int send_flags(const lio_op *op)
{
#if defined(MSG_NOSIGNAL)
    return (int)op->flags | MSG_DONTWAIT | MSG_NOSIGNAL;
#else
    return (int)op->flags | MSG_DONTWAIT;
#endif
}

static lio_attempt send_all(lio_backend *b, lio_slot *slot)
{
    const lio_op *op = &slot->op;
    no_sigpipe(b, (int)op->fd);
    for (int i = 0; i < SENDS_PER_TURN; i++) {
        uint64_t left = lio_slot_to_send(slot);
        b->stats.syscalls++;
        ssize_t count =
            send((int)op->fd, (char *)op->buf + slot->moved, length_of(left), send_flags(op));
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return failed(LIO_WRITER);
        slot->moved += (uint64_t)count;
        if (slot->moved == op->len)
            return done((int64_t)slot->moved);
        if (slot->moved == slot->cut)
            break;
    }
    return undone(LIO_AGAIN, LIO_WRITER);
}

/* Sockets of the local family refuse an addressed datagram when the *receiver* is full, of
 * which neither epoll nor kqueue will tell when it changes. */
static bool is_told_when_writable(const lio_op *op, const lio_slot_extra *extra)
{
    struct sockaddr addr;
    if (op->addr_len < sizeof addr.sa_family || op->opcode == LIO_SEND)
        return true;
    memcpy(&addr, extra->addr, sizeof addr <= op->addr_len ? sizeof addr : op->addr_len);
    return addr.sa_family != AF_UNIX;
}

static lio_attempt send_once(lio_backend *b, const lio_op *op, lio_slot_extra *extra,
                             uint8_t traits)
{
    int fd = (int)op->fd;
    size_t wanted = length_of(op->len);
    no_sigpipe(b, fd);
    struct msghdr header = {
        .msg_name = op->addr_len == 0 ? NULL : extra->addr,
        .msg_namelen = op->addr_len,
        .msg_iov = op->buf,
        .msg_iovlen = (size_t)op->len,
        .msg_control = op->control,
        .msg_controllen = op->control == NULL ? 0 : op->control_len,
    };
    ssize_t count;
    do {
        b->stats.syscalls++;
        if (op->opcode == LIO_SENDMSG)
            count = sendmsg(fd, &header, send_flags(op));
        else
            count = sendto(fd, op->buf, wanted, send_flags(op), header.msg_name,
                           header.msg_namelen);
    } while (count < 0 && errno == EINTR);
    if (count < 0) {
        lio_attempt attempt = failed(LIO_WRITER);
        if (attempt.verdict == LIO_NOT_READY && !is_told_when_writable(op, extra))
            attempt.verdict = LIO_LATER;
        return attempt;
    }
    lio_attempt attempt = done(count);
    attempt.drained = traits & LIO_TRAIT_TCP && op->flags == 0 && op->opcode == LIO_SEND &&
                      (size_t)count < wanted;
    return attempt;
}

static lio_attempt start_connect(lio_backend *b, lio_slot *slot, const lio_slot_extra *extra)
{
    int fd = (int)slot->op.fd;
    int flags = unblock(b, fd);
    b->stats.syscalls++;
    int answer = connect(fd, (const struct sockaddr *)extra->addr, slot->op.addr_len);
    int error = answer == 0 ? 0 : errno;
    restore_flags(fd, flags);
    if (error != EINPROGRESS && error != EINTR)
        return done(-error);
    slot->stage = LIO_STAGE_CONNECTING;
    return undone(LIO_NOT_READY, LIO_WRITER);
}

/* An event may be older than the connect: only the level tells that it is over. */
static lio_attempt end_connect(lio_backend *b, const lio_op *op)
{
    int fd = (int)op->fd;
    int64_t due = poll_now(b, fd, POLLOUT);
    if (due <= 0)
        return due < 0 ? done(due) : undone(LIO_NOT_READY, LIO_WRITER);
    int error = 0;
    socklen_t length = sizeof error;
    b->stats.syscalls++;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
        return done(-errno);
    if (error == 0 && due & (POLLHUP | POLLERR)) {
        /* Somebody else may have taken the error. */
        struct sockaddr_storage peer;
        length = sizeof peer;
        b->stats.syscalls++;
        if (getpeername(fd, (struct sockaddr *)&peer, &length) < 0)
            error = errno;
    }
    return done(-error);
}

/* -- pipes, terminals, and what else can be read and written ----------------------- */

static void hold_sigpipe(lio_backend *b, lio_sigpipe_guard *guard)
{
    lio_sigpipe_hold(guard, lio_poller_of(b)->guard_sigpipe);
    b->stats.syscalls += guard->active ? 3 : 0;
}

/* -1 with EOPNOTSUPP where the kernel or the file does not know the flag. */
static ssize_t vectored_nowait(int fd, bool writes, const struct iovec *iov, size_t count,
                               int64_t offset)
{
#if defined(SYS_preadv2) && defined(SYS_pwritev2)
    /* The offset is split in two longs, of which 64-bit kernels ignore the second. */
    long low = (long)offset, high = (long)(offset >> 32);
    return syscall(writes ? SYS_pwritev2 : SYS_preadv2, fd, iov, count, low, high, RWF_NOWAIT);
#else
    (void)fd, (void)writes, (void)iov, (void)count, (void)offset;
    errno = EOPNOTSUPP;
    return -1;
#endif
}

static bool is_unsupported(ssize_t count)
{
    return count < 0 && (errno == EOPNOTSUPP || errno == ENOSYS);
}

static lio_attempt transfer_asking(lio_backend *b, const lio_op *op, bool writes)
{
    int fd = (int)op->fd;
    enum lio_direction direction = writes ? LIO_WRITER : LIO_READER;
    size_t length = length_of(op->len);
    if (is_blocking(b, fd)) {
        int64_t due = poll_now(b, fd, writes ? POLLOUT : POLLIN);
        if (due <= 0)
            return due < 0 ? done(due) : undone(LIO_NOT_READY, direction);
        size_t safe = isatty(fd) ? TTY_WRITE_MAX : (size_t)PIPE_BUF;
        if (writes && length > safe)
            length = safe;
    }
    ssize_t count;
    do {
        b->stats.syscalls++;
        count = writes ? write(fd, op->buf, length) : read(fd, op->buf, length);
    } while (count < 0 && errno == EINTR);
    return count < 0 ? failed(direction) : done(count);
}

static lio_attempt transfer(lio_backend *b, const lio_op *op, bool writes)
{
    const struct iovec iov = {op->buf, length_of(op->len)};
    lio_sigpipe_guard guard = {.active = false};
    if (writes) {
        no_sigpipe(b, (int)op->fd);
        hold_sigpipe(b, &guard);
    }
    ssize_t count;
    do {
        b->stats.syscalls++;
        count = vectored_nowait((int)op->fd, writes, &iov, 1, -1);
    } while (count < 0 && errno == EINTR);
    lio_attempt attempt;
    if (is_unsupported(count))
        attempt = transfer_asking(b, op, writes);
    else
        attempt = count < 0 ? failed(writes ? LIO_WRITER : LIO_READER) : done(count);
    lio_sigpipe_release(&guard);
    return attempt;
}

bool lio_poller_try_cached(lio_backend *b, lio_slot *slot, int64_t *result)
{
    const lio_op *op = &slot->op;
    bool vectored = op->opcode == LIO_READV_AT;
    uint64_t wanted = vectored ? 0 : op->len;
    struct iovec one = {op->buf, (size_t)op->len};
    const struct iovec *iov = vectored ? op->buf : &one;
    size_t parts = vectored ? (size_t)op->len : 1;
    for (size_t i = 0; vectored && i < parts && wanted <= CACHED_MAX; i++)
        wanted += iov[i].iov_len;
    int64_t offset = op->opcode == LIO_READ ? -1 : op->offset;
    uint64_t *copied = &lio_poller_of(b)->copied;
    bool small = wanted <= CACHED_SMALL;
    if (!small && wanted > CACHED_MAX - *copied)
        return false;
    if (offset < 0 && op->opcode != LIO_READ)
        return false;
    b->stats.syscalls++;
    ssize_t count = vectored_nowait((int)op->fd, false, iov, parts, offset);
    if (count < 0)
        return false; /* the pool will find out what it is */
    if (!small)
        *copied += (uint64_t)count;
    *result = count;
    if (count == 0 || (uint64_t)count == wanted)
        return true;
    if (!vectored)
        slot->moved = (uint64_t)count; /* the pool reads on from there */
    return false;
}

/* -- between two descriptors ------------------------------------------------------- */

#if defined(__linux__) || defined(LIO_HAS_SENDFILE)
static bool is_file(lio_backend *b, int fd)
{
    struct stat st;
    b->stats.syscalls++;
    return fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
}

/* Which of the two it was that was not ready. */
static lio_attempt wait_for_either(lio_backend *b, const lio_op *op)
{
    int64_t from = poll_now(b, (int)op->fd, POLLIN);
    int64_t to = poll_now(b, (int)op->fd2, POLLOUT);
    if (from < 0 || to < 0)
        return done(from < 0 ? from : to);
    lio_attempt attempt = undone(LIO_NOT_READY, from == 0 ? LIO_READER : LIO_WRITER);
    attempt.on_fd2 = from != 0;
    if (from != 0 && to != 0)
        attempt = undone(LIO_LATER, LIO_READER);
    return attempt;
}

static lio_attempt move_between(lio_backend *b, lio_slot *slot)
{
    const lio_op *op = &slot->op;
    int from = (int)op->fd, to = (int)op->fd2;
    bool tees = op->opcode == LIO_TEE;
    if (slot->stage == LIO_STAGE_POOL) {
        slot->stage = LIO_STAGE_NEW; /* the pool found a pipe that was not ready */
        return wait_for_either(b, op);
    }
    if (!tees && (is_file(b, from) || is_file(b, to))) {
        no_sigpipe(b, to);
        return undone(LIO_BLOCKS, LIO_READER);
    }
    /* SPLICE_F_NONBLOCK is about pipes; the other end goes by its own mode. */
    int from_flags = tees ? -1 : unblock(b, from);
    int to_flags = tees ? -1 : unblock(b, to);
    lio_sigpipe_guard guard;
    hold_sigpipe(b, &guard);
    b->stats.syscalls++;
    int64_t count = lio_file_perform(op, 0);
    lio_sigpipe_release(&guard);
    restore_flags(from, from_flags);
    restore_flags(to, to_flags);
    return count == -EAGAIN ? wait_for_either(b, op) : done(count);
}
#endif

/* -- all of them ------------------------------------------------------------------- */

static int64_t from_errno(int64_t answer)
{
    return answer < 0 ? -errno : answer;
}

static lio_attempt call_directly(lio_backend *b, const lio_op *op, const lio_slot_extra *extra)
{
    int fd = (int)op->fd;
    b->stats.syscalls++;
    switch (op->opcode) {
    case LIO_SOCKET:
        return done(from_errno(make_socket(fd, (int)op->flags, (int)op->offset)));
    case LIO_BIND:
        return done(from_errno(bind(fd, (const struct sockaddr *)extra->addr, op->addr_len)));
    case LIO_LISTEN:
        return done(from_errno(listen(fd, op->len > INT_MAX ? INT_MAX : (int)op->len)));
    case LIO_SHUTDOWN:
        return done(from_errno(shutdown(fd, (int)op->flags)));
    default:
        b->stats.syscalls--;
        return done(op->opcode == LIO_NOP ? 0 : -ENOTSUP);
    }
}

lio_attempt lio_poller_try(lio_backend *b, uint32_t number, uint8_t traits)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_slot_extra *extra = lio_extra_at(&b->store, number);
    const lio_op *op = &slot->op;
    int64_t due;
    switch (op->opcode) {
    case LIO_RECV:
    case LIO_RECVMSG:
    case LIO_RECVFROM:
        return receive(b, op, traits);
    case LIO_ACCEPT:
        return try_accept(b, op);
    case LIO_SEND:
        return op->op_flags & LIO_OP_ALL ? send_all(b, slot) : send_once(b, op, extra, traits);
    case LIO_SENDMSG:
    case LIO_SENDTO:
        return send_once(b, op, extra, traits);
    case LIO_CONNECT:
        return slot->stage == LIO_STAGE_CONNECTING ? end_connect(b, op)
                                                   : start_connect(b, slot, extra);
    case LIO_READ:
    case LIO_WRITE:
        if (traits & LIO_TRAIT_FILE)
            return undone(LIO_BLOCKS, LIO_READER);
        return transfer(b, op, op->opcode == LIO_WRITE);
    case LIO_POLL:
        due = lio_poller_level(b, (int)op->fd, op->flags);
        return due == 0 ? undone(LIO_NOT_READY, LIO_READER) : done(due);
#if defined(__linux__) || defined(LIO_HAS_SENDFILE)
    case LIO_TEE:
    case LIO_SPLICE:
        return move_between(b, slot);
#endif
    default:
        return call_directly(b, op, extra);
    }
}

void lio_poller_discard(lio_backend *b, const lio_slot *slot)
{
    lio_discard_result(slot->op.opcode, slot->result);
    if (slot->op.opcode == LIO_RECVMSG && slot->op.control != NULL && slot->result >= 0 &&
        slot->detail >= 0)
        lio_discard_rights(slot->op.control,
                           ((const lio_msg *)(b->pool + slot->detail))->control_len);
}
