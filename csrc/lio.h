/* lio.h: the contract of the trio-lio C core. This is its one public header.
 *
 * A backend takes operations, hands them to the kernel in batches, and gives every one
 * of them exactly one completion. It knows no Python and no event loop.
 *
 *     lio_create -> lio_init -> { lio_push ... lio_wait }* -> lio_close -> lio_destroy
 *
 * Rules that hold for every function:
 *   - results are 0 or positive, errors are negative errno values (on Windows the numbers that
 *     Python's errno module has, lio_errno.h); errno is not touched;
 *   - a backend belongs to the thread that initialised it. Only lio_wake and
 *     lio_wait_ready may be called from elsewhere (-EPERM for the others), lio_wake also
 *     from signal handlers. In a forked child everything but lio_close and lio_destroy
 *     answers -ECHILD;
 *   - memory that an operation names belongs to the backend from push to completion.
 *     Socket addresses are copied at push.
 */
#ifndef LIO_H
#define LIO_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lio_backend lio_backend;

/* A POSIX descriptor or a Windows SOCKET or HANDLE. */
typedef intptr_t lio_fd;

/* Ids belong to the caller and must be unique among the operations in flight.
 * The upper half is reserved: it names what is no operation. */
#define LIO_ID_MAX ((uint64_t)INT64_MAX)
#define LIO_ID_WAKE ((uint64_t)-1)   /* somebody called lio_wake; result 0 */
#define LIO_ID_SIGNAL ((uint64_t)-2) /* a signal ended the wait; result -EINTR */
/* Windows: a packet on the port that is no operation's. result: its number of bytes, data: its
 * OVERLAPPED or what stands in its place, detail: its completion key. */
#define LIO_ID_PACKET ((uint64_t)-3)

enum lio_opcode {
    LIO_NOP,
    LIO_TIMEOUT,   /* offset: nanoseconds from the flush; completes with -LIO_ETIME */
    LIO_READ,      /* fd, buf, len: at the file's own position, or from a pipe */
    LIO_WRITE,     /* fd, buf, len */
    LIO_READ_AT,   /* fd, buf, len, offset */
    LIO_WRITE_AT,  /* fd, buf, len, offset */
    LIO_READV_AT,  /* fd, buf: lio_iovec[len], offset */
    LIO_WRITEV_AT, /* fd, buf: lio_iovec[len], offset */
    LIO_RECV,      /* fd, buf or NULL (pool), len, flags: MSG_* */
    LIO_SEND,      /* fd, buf, len, flags: MSG_* */
    LIO_RECVMSG,   /* fd, buf: lio_iovec[len] or NULL (pool, buf_len), control, flags */
    LIO_SENDMSG,   /* fd, buf: lio_iovec[len], addr, control, flags */
    LIO_RECVFROM,  /* fd, buf or NULL (pool), len, flags */
    LIO_SENDTO,    /* fd, buf, len, addr, flags */
    LIO_SOCKET,    /* fd: family, flags: type, offset: protocol; result: the socket. Where there
                      is no SOCK_NONBLOCK, non-blocking and close-on-exec in any case */
    LIO_BIND,      /* fd, addr */
    LIO_LISTEN,    /* fd, len: backlog */
    LIO_ACCEPT,    /* fd; result: the socket, non-blocking, close-on-exec; detail: address */
    LIO_CONNECT,   /* fd, addr */
    LIO_SHUTDOWN,  /* fd, flags: SHUT_* */
    LIO_POLL,      /* fd, flags: LIO_POLL_*; result: the LIO_POLL_* bits that are due */
    LIO_OPENAT,    /* fd: directory, path, flags: O_*, mode; result: the file */
    LIO_CLOSE,     /* fd; see lio_close_fd for a descriptor with operations in flight */
    LIO_FSYNC, /* fd; on macOS by F_FULLFSYNC, as LIO_FDATASYNC: else the disk may hold it back
                */
    LIO_FDATASYNC, /* fd */
    LIO_TRUNCATE,  /* fd, offset: the new size */
    LIO_STATX,     /* fd: directory, path, flags: AT_*, mode: STATX_*, buf: lio_statx */
    LIO_LINKAT,    /* fd, path, fd2, path2, flags: AT_* */
    LIO_SYMLINKAT, /* path: target, fd: directory, path2: the link's name */
    LIO_RENAMEAT,  /* fd, path, fd2, path2, flags: RENAME_* */
    LIO_UNLINKAT,  /* fd, path, flags: AT_REMOVEDIR */
    LIO_MKDIRAT,   /* fd, path, mode */
    LIO_TEE,       /* fd: from, fd2: to, len, flags: SPLICE_F_* */
    LIO_SPLICE,    /* fd: from, fd2: to, len, offset and offset2 (-1: position), flags. On
                      macOS, FreeBSD and Windows only from a file, at an offset, to a socket:
                      sendfile(2), TransmitFile */
    LIO_OPCODE_COUNT
};

enum lio_poll_mask {
    LIO_POLL_READ = 1,
    LIO_POLL_WRITE = 2,
};

enum lio_op_flag {
    /* LIO_SEND: go on after a short send until all is sent, an error, or a cancel; the
     * result is then the bytes that went, however few. */
    LIO_OP_ALL = 1,
    /* Refuse the push with -EBUSY while an operation of the same direction (reading or
     * writing) is in flight on the descriptor. */
    LIO_OP_EXCLUSIVE = 2,
    /* LIO_POLL on an adopted descriptor: may complete although nothing is due, where to be sure
     * would cost a look; ends with -EBADF, as a receive would, when the number was closed and
     * names another file. For those who then receive, tell lio_received, and poll again. */
    LIO_OP_HINT = 4,
};

typedef struct lio_iovec {
    void *base;
    size_t len;
} lio_iovec;

typedef struct lio_op {
    uint8_t opcode;
    uint8_t op_flags; /* enum lio_op_flag */
    uint16_t addr_len;
    uint32_t flags;
    lio_fd fd;
    lio_fd fd2;
    void *buf;
    uint64_t len;
    int64_t offset;
    union {
        int64_t offset2;
        uint64_t buf_len; /* LIO_RECVMSG from the pool: bytes wanted */
    };
    union {
        const void *addr; /* sockaddr, copied at push */
        const char *path;
    };
    union {
        const char *path2;
        void *control;
    };
    uint32_t control_len;
    uint32_t mode;
} lio_op;

/* data and detail are offsets into the memory that lio_pool names, or -1. Both are valid,
 * like the array of completions itself, until the next lio_wait. */
typedef struct lio_completion {
    uint64_t id;
    int64_t result;
    int64_t data; /* the bytes of a receive from the pool */
    /* A lio_msg: RECVMSG, RECVFROM, ACCEPT. Of what failed on Windows: the Windows error that
     * the errno was made of. */
    int64_t detail;
} lio_completion;

/* What LIO_TIMEOUT completes with. OpenBSD and FreeBSD have no ETIME. */
#if defined(ETIME)
#define LIO_ETIME ETIME
#else
#define LIO_ETIME ETIMEDOUT
#endif

/* What LIO_STATX fills: Linux's struct statx, on every platform. Without statx(2) it is filled
 * from fstatat(2): then mask says STATX_BASIC_STATS, and what goes beyond these is zero. */
typedef struct lio_statx_time {
    int64_t seconds;
    uint32_t nanoseconds;
    int32_t reserved;
} lio_statx_time;

typedef struct lio_statx {
    uint32_t mask, block_size;
    uint64_t attributes;
    uint32_t links, uid, gid;
    uint16_t mode, reserved;
    uint64_t inode, size, blocks, attributes_mask;
    lio_statx_time accessed, born, changed, modified;
    uint32_t special_major, special_minor, device_major, device_minor;
    uint64_t more[14];
} lio_statx;
/* What lio_wait may tell besides completions: a wake-up, a signal, packets. */
enum lio_records_beyond { LIO_RECORDS_BEYOND = 66 };

#define LIO_ADDR_MAX 128

typedef struct lio_msg {
    uint32_t addr_len;
    uint32_t control_len;
    uint32_t flags; /* MSG_TRUNC and so on, as the kernel gave them */
    uint32_t reserved;
    uint8_t addr[LIO_ADDR_MAX];
} lio_msg;

enum {
    LIO_SPIN_US = 20,
    LIO_SPIN_US_MAX = 1000,
};

/* What goes wrong on purpose. Chances are 0 to 1; the same seed decides alike for the same
 * operations. What a kernel promises holds: no byte is lost, doubled or moved, no datagram
 * cut, every operation has one completion. (On Windows a reset takes what had arrived with it,
 * as Winsock's own do.) */
typedef struct lio_faults {
    uint64_t seed;
    double short_io;    /* of a transfer on a stream, a pipe or a file: it moves less, or, with
                           LIO_OP_ALL, goes on later */
    double reset;       /* of a transfer on a connection: the connection is reset before it */
    double delay;       /* of a completion: others come first */
    double cancel_race; /* of a cancel: it comes late, and the operation may end before; of an
                           operation: it begins late, and a cancel may come before */
    double queue_full;  /* of a hand-over: the queue takes only some, the others go next */
    double interrupt;   /* of a wait: a signal ends it */
    double overflow;    /* of a wait: it brings one completion, the others come later */
    int64_t latency_ns; /* how long a delay lasts at most; 0: some turns, and no time */
} lio_faults;

typedef struct lio_options {
    /* Capabilities to do without, separated by commas: for tests, and for kernels that
     * claim what they cannot do. NULL: none. Unknown names: -EINVAL. */
    const char *without;
    /* Microseconds to watch for events before a wait sleeps, while that pays by the record of
     * the last waits. 0: LIO_SPIN_US; negative: never; above LIO_SPIN_US_MAX: -EINVAL. A signal
     * whose handler runs in that time, as in that before any wait, does not end the wait: let
     * the handler call lio_wake. */
    int32_t spin_us;
    const struct lio_faults *faults; /* laid over the backend, of whichever name; NULL: none */
    uint64_t seed;                   /* of "sim" */
    uint8_t virtual_time;            /* of "sim": time passes when nothing else happens */
} lio_options;

typedef struct lio_probe_result {
    int error; /* 0: usable; else the negative errno that says why not */
    uint32_t capabilities;
    char reason[192]; /* a sentence, empty when usable */
} lio_probe_result;

typedef struct lio_stats {
    uint64_t pushed;
    uint64_t flushed;
    uint64_t completed;
    uint64_t cancelled; /* taken back or completed with -ECANCELED */
    uint64_t syscalls;
    uint64_t overflow; /* times the completion queue had overflowed */
    uint64_t largest_batch;
    uint64_t in_flight; /* now: queued, submitted, or done and not handed out */
    uint64_t capacity;  /* now */
    uint64_t wakeups;
    uint64_t waits;     /* calls of lio_wait */
    uint64_t spins;     /* waits that began by watching: see lio_options.spin_us */
    uint64_t spin_hits; /* of those, ended by what they saw */
    /* Faults made, of each kind that lio_faults names. */
    uint64_t short_ios, resets, delays, cancel_races, interrupts, overflows, queue_fulls;
    uint64_t trace; /* "sim": a hash of what completed, with what, in which order */
} lio_stats;

/* The backends of this build, in order of preference; NULL past the end. "sim" is not among
 * them: it is for tests, and for those who ask for it by name. */
const char *lio_backend_name(unsigned index);
/* The names of capability bits; NULL past the end. */
const char *lio_capability_name(unsigned bit);

/* Tries a backend out, by use. -ENOENT: no such backend in this build. */
int lio_probe(const char *name, const lio_options *options, lio_probe_result *result);

/* name NULL: the first backend in order of preference that can be used. Falls back only
 * where the kernel does not offer a backend; want of resources is an error. A backend asked
 * for by name is used or refused, by lio_init. */
int lio_create(const char *name, const lio_options *options, lio_backend **backend);
const char *lio_name(const lio_backend *backend);
uint32_t lio_capabilities(const lio_backend *backend);

/* Allocates all that `capacity` operations need. -EALREADY: was called before. Where it fails,
 * nothing has changed, and it may be called again. */
int lio_init(lio_backend *backend, uint32_t capacity);
/* Before lio_init, for one that comes late: takes the descriptor numbers that it will use, so
 * that no number which somebody closed and still believes in becomes the backend's own, and
 * none is missing then. -ENOTSUP: the backend cannot begin late. */
int lio_reserve(lio_backend *backend);
/* Before an lio_init that succeeds: another backend under the same handle. -ENOENT: there is no
 * such backend in this build. */
int lio_replace(lio_backend *backend, const char *name);
/* Raises the capacity; the only other place that allocates. The records may have moved even if
 * it fails. */
int lio_grow(lio_backend *backend, uint32_t more);

/* Queues an operation; no system call. -ENOBUFS: full. -EEXIST: the id is in flight.
 * -ENOTSUP: the platform cannot do this operation. -EINVAL, -EBADF, -EFAULT, -EMSGSIZE: a
 * bad operation. -EBUSY: see LIO_OP_EXCLUSIVE; LIO_CLOSE of a descriptor with operations in
 * flight (that is what lio_close_fd is for). */
int lio_push(lio_backend *backend, uint64_t id, const lio_op *op);
/* 1: was still queued, is taken back, never happened, has no completion.
 * 0: asked; the completion comes, with the result or -ECANCELED. -ENOENT: not in flight. */
int lio_cancel(lio_backend *backend, uint64_t id);
/* Hands all queued operations over, in order of push; returns how many. What the kernel has no
 * room for stays queued, and goes with the next flush or wait. */
int lio_flush(lio_backend *backend);
/* Flushes, then waits for at least one completion: timeout_ns < 0 for ever, 0 polls.
 * Returns how many records *completions has: 0 if and only if the time ran out. */
int lio_wait(lio_backend *backend, int64_t timeout_ns, const lio_completion **completions);
/* Where lio_wait writes its records, the capacity and LIO_RECORDS_BEYOND at most: fixed from
 * lio_init until the next lio_grow. */
const lio_completion *lio_records(const lio_backend *backend);
/* Any thread: waits until lio_wait would find something, taking nothing. 1: it would,
 * 0: the time ran out. Answers 1 at once while something is queued and not flushed. */
int lio_wait_ready(lio_backend *backend, int64_t timeout_ns);
/* Any thread, any signal handler: ends a wait, now or the next one. */
int lio_wake(lio_backend *backend);

/* Claims a descriptor until lio_release_fd or lio_close_fd: registered with the kernel
 * once, and its operations reach this very file even if somebody else closes the number
 * and it is used again. 1: claimed; 0: the backend has no use for it, and an operation
 * on it had better be flushed at once. */
int lio_adopt(lio_backend *backend, lio_fd fd);
/* -EBADF: the number names another file by now than the one that was adopted; else 0. */
int lio_still_adopted(lio_backend *backend, lio_fd fd);
/* The caller has just received from an adopted stream by itself, without flags: count bytes of
 * the wanted, or -EAGAIN. The backend knows from it that there is no more, if so. */
int lio_received(lio_backend *backend, lio_fd fd, uint64_t wanted, int64_t count);
/* Settles every operation on fd: each completes, with its result or -ECANCELED, and the
 * kernel has let go of the file when this returns. The descriptor stays open. Returns how
 * many operations that were. A file operation that a worker runs at this moment is the one
 * exception: it is asked to end and may outlast this. */
int lio_release_fd(lio_backend *backend, lio_fd fd);
/* lio_release_fd, then close: the peer sees the end now. -EBADF: the number names another file
 * than the one that was claimed, which is left open. */
int lio_close_fd(lio_backend *backend, lio_fd fd);

/* Cancels all, waits until the kernel owns no memory of ours, closes what completed with
 * a new descriptor that nobody will take. Idempotent. */
int lio_close(lio_backend *backend);
void lio_destroy(lio_backend *backend);

/* Windows: the completion port, for packets of the caller's own. -ENOTSUP elsewhere. */
intptr_t lio_port(const lio_backend *backend);
/* The memory that completions' data and detail point into; fixed from init to close. */
int lio_pool(const lio_backend *backend, void **base, size_t *size);
/* The most bytes that one receive from the pool can bring. */
uint32_t lio_pool_receive_max(const lio_backend *backend);
int lio_get_stats(const lio_backend *backend, lio_stats *stats);

/* Objects of the simulated kernel. Each answers with descriptors that only operations of this
 * backend work on, or with a negative errno; -ENOTSUP: the backend is not "sim". They are
 * closed as others are, and are gone with the backend.
 *
 * A socket of SOCK_STREAM or SOCK_DGRAM, for LIO_BIND, LIO_LISTEN, LIO_CONNECT. Addresses are
 * compared byte by byte. */
int lio_sim_socket(lio_backend *backend, int type);
int lio_sim_pair(lio_backend *backend, int type, int fds[2]);
int lio_sim_pipe(lio_backend *backend, int fds[2]); /* [0] reads, [1] writes */
/* flags: O_CREAT, O_EXCL, O_TRUNC, O_APPEND and how it is opened. */
int lio_sim_open(lio_backend *backend, const char *name, int flags);

#ifdef __cplusplus
}
#endif
#endif
