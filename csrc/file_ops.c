/* file_ops.c: the operations of the file pool, one system call each. They may block. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#include <sys/types.h>
#include <sys/uio.h>
#if defined(__linux__)
#include <sys/sendfile.h>
#else
#include <sys/socket.h>
#endif
#include <unistd.h>

#include "file_pool.h"
#include "op_store.h"

#define LENGTH_MAX 0x7ffff000u /* MAX_RW_COUNT: more is cut by every system call alike */

bool lio_opcode_is_file(uint8_t opcode)
{
    switch (opcode) {
    case LIO_READ_AT:
    case LIO_WRITE_AT:
    case LIO_READV_AT:
    case LIO_WRITEV_AT:
    case LIO_FSYNC:
    case LIO_FDATASYNC:
    case LIO_TRUNCATE:
        return true;
    default:
        return lio_opcode_has_path(opcode);
    }
}

static int64_t transfer(const lio_op *op, uint64_t moved)
{
    int fd = (int)op->fd;
    char *bytes = op->buf == NULL ? NULL : (char *)op->buf + moved;
    uint64_t left = op->len - moved;
    size_t length = left > LENGTH_MAX ? LENGTH_MAX : (size_t)left;
    off_t offset = op->offset + (off_t)moved;
    ssize_t done;
    switch (op->opcode) {
    case LIO_READ:
        done = read(fd, bytes, length);
        break;
    case LIO_WRITE:
        done = write(fd, bytes, length);
        break;
    case LIO_READ_AT:
        done = pread(fd, bytes, length, offset);
        break;
    default:
        done = pwrite(fd, bytes, length, offset);
        break;
    }
    if (moved == 0)
        return done < 0 ? -errno : done;
    /* What was moved before is not undone by an error after it. */
    return (int64_t)moved + (done < 0 ? 0 : done);
}

static int64_t rename_path(const lio_op *op)
{
    int from = (int)op->fd, to = (int)op->fd2;
    if (op->flags == 0)
        return renameat(from, op->path, to, op->path2);
#if defined(SYS_renameat2)
    return syscall(SYS_renameat2, from, op->path, to, op->path2, op->flags);
#else
    errno = ENOTSUP;
    return -1;
#endif
}

static_assert(sizeof(lio_statx) == 256 && offsetof(lio_statx, mode) == 28 &&
                  offsetof(lio_statx, inode) == 32 && offsetof(lio_statx, accessed) == 64 &&
                  offsetof(lio_statx, special_major) == 128,
              "lio_statx is Linux's struct statx");

#if defined(SYS_statx)
static int64_t query(const lio_op *op)
{
    return syscall(SYS_statx, (int)op->fd, op->path, (int)op->flags, op->mode, op->buf);
}
#else
#define BASIC_STATS 0x7ffu

static lio_statx_time time_of(struct timespec ts)
{
    return (lio_statx_time){.seconds = ts.tv_sec, .nanoseconds = (uint32_t)ts.tv_nsec};
}

static void fill(lio_statx *out, const struct stat *st)
{
    *out = (lio_statx){
        .mask = BASIC_STATS,
        .block_size = (uint32_t)st->st_blksize,
        .links = (uint32_t)st->st_nlink,
        .uid = (uint32_t)st->st_uid,
        .gid = (uint32_t)st->st_gid,
        .mode = (uint16_t)st->st_mode,
        .inode = (uint64_t)st->st_ino,
        .size = (uint64_t)st->st_size,
        .blocks = (uint64_t)st->st_blocks,
        .special_major = (uint32_t)major(st->st_rdev),
        .special_minor = (uint32_t)minor(st->st_rdev),
        .device_major = (uint32_t)major(st->st_dev),
        .device_minor = (uint32_t)minor(st->st_dev),
    };
#if defined(__APPLE__) || defined(__NetBSD__)
    out->accessed = time_of(st->st_atimespec);
    out->modified = time_of(st->st_mtimespec);
    out->changed = time_of(st->st_ctimespec);
#else
    out->accessed = time_of(st->st_atim);
    out->modified = time_of(st->st_mtim);
    out->changed = time_of(st->st_ctim);
#endif
}

/* Linux's AT_EMPTY_PATH, where the platform has none of its own. */
#if defined(AT_EMPTY_PATH)
#define EMPTY_PATH AT_EMPTY_PATH
#else
#define EMPTY_PATH 0x1000
#endif

static int64_t query(const lio_op *op)
{
    struct stat st;
    int flags = (int)op->flags & ~EMPTY_PATH;
    bool itself = (op->flags & EMPTY_PATH) != 0 && *op->path == '\0';
    int answer = itself ? fstat((int)op->fd, &st) : fstatat((int)op->fd, op->path, &st, flags);
    if (answer == 0)
        fill(op->buf, &st);
    return answer;
}
#endif

#if defined(LIO_HAS_SENDFILE)
static int64_t send_file(const lio_op *op, size_t length)
{
    int from = (int)op->fd, to = (int)op->fd2;
#if defined(__APPLE__)
    off_t sent = (off_t)length;
    int answer = sendfile(from, to, op->offset, &sent, NULL, 0);
#elif defined(__FreeBSD__)
    off_t sent = 0;
    int answer = sendfile(from, to, op->offset, length, NULL, &sent, 0);
#else
    off_t offset = op->offset;
    int64_t sent = sendfile(to, from, &offset, length);
    int answer = sent < 0 ? -1 : 0;
#endif
    /* What went before a socket was full, went. */
    return answer == 0 || sent > 0 ? (int64_t)sent : -1;
}
#endif

static int64_t move_between(const lio_op *op)
{
#if defined(LIO_HAS_SENDFILE)
    struct stat st;
    if (op->opcode == LIO_SPLICE && op->offset >= 0 && op->offset2 < 0 &&
        fstat((int)op->fd2, &st) == 0 && S_ISSOCK(st.st_mode))
        return send_file(op, op->len > LENGTH_MAX ? LENGTH_MAX : (size_t)op->len);
#endif
#if defined(__linux__)
    loff_t from = op->offset, to = op->offset2;
    /* Never wait for a pipe here: that is the poller's to do. */
    unsigned flags = op->flags | SPLICE_F_NONBLOCK;
    size_t length = op->len > LENGTH_MAX ? LENGTH_MAX : (size_t)op->len;
    if (op->opcode == LIO_TEE)
        return tee((int)op->fd, (int)op->fd2, length, flags);
    return splice((int)op->fd, from < 0 ? NULL : &from, (int)op->fd2, to < 0 ? NULL : &to,
                  length, flags);
#else
    (void)op;
    errno = ENOTSUP;
    return -1;
#endif
}

/* macOS: fsync(2) leaves the data in the disk's own memory. Not all file systems know better.
 */
static int64_t synchronise(int fd, bool data_only)
{
#if defined(__APPLE__)
    (void)data_only;
    int done = fcntl(fd, F_FULLFSYNC);
    return done == 0 || errno == EINTR ? done : fsync(fd);
#else
    return data_only ? fdatasync(fd) : fsync(fd);
#endif
}

static int64_t perform_once(const lio_op *op, uint64_t moved)
{
    int fd = (int)op->fd;
    const struct iovec *iov = op->buf;
    int64_t done;
    switch (op->opcode) {
    case LIO_READ:
    case LIO_WRITE:
    case LIO_READ_AT:
    case LIO_WRITE_AT:
        return transfer(op, moved);
    case LIO_READV_AT:
        done = preadv(fd, iov, (int)op->len, op->offset);
        break;
    case LIO_WRITEV_AT:
        done = pwritev(fd, iov, (int)op->len, op->offset);
        break;
    case LIO_OPENAT:
        done = openat(fd, op->path, (int)op->flags, (mode_t)op->mode);
        break;
    case LIO_FSYNC:
        done = synchronise(fd, false);
        break;
    case LIO_FDATASYNC:
        done = synchronise(fd, true);
        break;
    case LIO_TRUNCATE:
        done = ftruncate(fd, op->offset);
        break;
    case LIO_STATX:
        done = query(op);
        break;
    case LIO_LINKAT:
        done = linkat(fd, op->path, (int)op->fd2, op->path2, (int)op->flags);
        break;
    case LIO_SYMLINKAT:
        done = symlinkat(op->path, fd, op->path2);
        break;
    case LIO_RENAMEAT:
        done = rename_path(op);
        break;
    case LIO_UNLINKAT:
        done = unlinkat(fd, op->path, (int)op->flags);
        break;
    case LIO_MKDIRAT:
        done = mkdirat(fd, op->path, (mode_t)op->mode);
        break;
    case LIO_TEE:
    case LIO_SPLICE:
        done = move_between(op);
        break;
    case LIO_CLOSE:
        /* The number is free even after EINTR: a second try might hit another file. */
        return close(fd) == 0 || errno == EINTR ? 0 : -errno;
    default:
        return -ENOTSUP;
    }
    return done < 0 ? -errno : done;
}

static int identify(const lio_op *op, int end, uint64_t identity[2])
{
    struct stat st;
    if (fstat((int)(end == 0 ? op->fd : op->fd2), &st) != 0)
        return -errno;
    identity[0] = (uint64_t)st.st_dev;
    identity[1] = (uint64_t)st.st_ino;
    return 0;
}

int lio_file_job_prepare(lio_file_job *job)
{
    int error = 0;
    job->ends = (uint8_t)(lio_opcode_has_fd(job->op.opcode) + (job->op.opcode == LIO_SPLICE));
    for (int end = 0; end < job->ends && error == 0; end++)
        error = identify(&job->op, end, job->identity[end]);
    return error;
}

int64_t lio_file_job_perform(const lio_file_job *job)
{
    for (int end = 0; end < job->ends; end++) {
        uint64_t now[2];
        int error = identify(&job->op, end, now);
        if (error != 0 || memcmp(now, job->identity[end], sizeof now) != 0)
            return -EBADF;
    }
    return lio_file_perform(&job->op, job->moved);
}

int64_t lio_file_perform(const lio_op *op, uint64_t moved)
{
    int64_t result;
    do {
        result = perform_once(op, moved);
    } while (result == -EINTR);
    return result;
}
