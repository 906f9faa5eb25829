/* backend.h: what a backend is made of, for those who write one. lio.c checks the contract
 * and keeps the books; a backend moves operations between the store and its kernel. */
#ifndef LIO_BACKEND_H
#define LIO_BACKEND_H

#include <stdbool.h>

#include "lio.h"
#include "op_store.h"
#include "spin.h"

/* What kernels may or may not offer. The names are those of lio_capability_name. */
enum lio_capability {
    LIO_CAP_SINGLE_ISSUER = 1u << 0,
    LIO_CAP_DEFER_TASKRUN = 1u << 1,
    LIO_CAP_TASKRUN_FLAG = 1u << 2,
    LIO_CAP_COOP_TASKRUN = 1u << 3,
    LIO_CAP_SUBMIT_ALL = 1u << 4,
    LIO_CAP_CQSIZE = 1u << 5,
    LIO_CAP_NO_SQARRAY = 1u << 6,
    LIO_CAP_EXT_ARG = 1u << 7,
    LIO_CAP_BUF_RING = 1u << 8,
    LIO_CAP_FIXED_FILES = 1u << 9,
    LIO_CAP_NO_IOWAIT = 1u << 10,
    LIO_CAP_WIPE_ON_FORK = 1u << 11,
    LIO_CAP_EDGE_TRIGGERED = 1u << 12,
    LIO_CAP_FILE_POOL = 1u << 13,
    LIO_CAP_PWAIT2 = 1u << 14,
    LIO_CAP_USER_EVENT = 1u << 15,
};

enum lio_phase { LIO_PHASE_NEW, LIO_PHASE_OPEN, LIO_PHASE_CLOSED };

/* The most descriptors that a backend has, besides b->wake_fd. */
#define LIO_RESERVED_MAX 2

typedef struct lio_vtable {
    const char *name;
    uint8_t descriptors; /* to reserve for an init that comes late; 0: it cannot */
    /* Tries the kernel out. Fills result. */
    void (*probe)(uint32_t without, lio_probe_result *result);
    /* Makes b->state, for b->store.capacity operations. */
    int (*init)(lio_backend *b);
    bool (*supports)(const lio_backend *b, const lio_op *op);
    /* Hands over what the store has queued; what the kernel has no room for stays queued. */
    int (*submit)(lio_backend *b);
    /* Submits, then collects: blocks until something is done, b->woken, or deadline_ns
     * (CLOCK_MONOTONIC; 0: do not block, INT64_MAX: for ever). -EINTR: a signal. */
    int (*turn)(lio_backend *b, int64_t deadline_ns);
    /* Asks for the end of a SUBMITTED slot; the store has it CANCELLING already. */
    int (*cancel)(lio_backend *b, uint32_t number);
    int (*adopt)(lio_backend *b, lio_fd_entry *entry, lio_fd fd);
    /* Whether a number still names the file that was adopted. NULL: fstat tells. */
    bool (*is_claimed)(lio_backend *b, const lio_fd_entry *entry, lio_fd fd);
    /* See lio_received; NULL where nobody remembers what is due. */
    void (*received)(lio_fd_entry *entry, uint64_t wanted, int64_t count);
    /* Ends all that is submitted on fd and lets go of the file before it returns. */
    int (*release_fd)(lio_backend *b, lio_fd_entry *entry, lio_fd fd);
    /* The records of the last hand-out are no longer read: their buffers are free. */
    void (*recycle)(lio_backend *b);
    /* The records of this hand-out are about to be read. */
    void (*handed_out)(lio_backend *b);
    /* Appends what else came, LIO_RECORDS_BEYOND - 2 at most; returns how many. NULL: nothing.
     */
    uint32_t (*packets)(lio_backend *b, lio_completion *records);
    int (*wake)(lio_backend *b);
    int (*wait_ready)(lio_backend *b, int64_t timeout_ns);
    /* Both optional. Breaks a connection as if its network had; NULL, or 0: do it yourself. */
    int (*reset)(lio_backend *b, lio_fd fd);
    /* The backend's own clock; NULL: lio_now. */
    int64_t (*now)(const lio_backend *b);
    /* Ends everything in flight, then frees b->state. forked: in a child, which must not
     * touch what it shares with its parent. */
    void (*close)(lio_backend *b, bool forked);
} lio_vtable;

struct lio_backend {
    const lio_vtable *vtable;
    void *state;
    lio_store store;
    lio_completion *records; /* store.capacity + LIO_RECORDS_BEYOND */
    char *pool;              /* what data and detail are offsets into */
    size_t pool_size;
    size_t pool_reserve; /* how much of that, at its end, is not the backend's but faults.c's */
    struct lio_fault_state *faults; /* NULL: none */
    uint64_t seed;
    bool virtual_time;
    uint32_t receive_max;
    uint32_t capabilities;
    uint32_t without;
    lio_stats stats;
    lio_spin spin;
    uint64_t queued_bytes; /* of sends, since the last hand-over: counted by who asks for it */
    bool woken;
    uint32_t packet_count; /* what vtable->packets has to tell */
    int waiters;           /* threads in lio_wait_ready; atomic */
    int unsubmitted;       /* something is queued or settled since the last turn; atomic */
    uint8_t phase;
    uint8_t owner[16]; /* the thread that initialised it */
    int owner_pid;
    volatile uint8_t *fork_guard; /* reads 0 in a child */
    /* What wake writes to; on Windows the port. Made by the backend's init, closed only by
     * lio_destroy, so that a wake racing with lio_close never writes to somebody else's. */
    int wake_fd;
    bool wake_fd_dies_in_child;     /* it is not inherited by fork(2) */
    int reserved[LIO_RESERVED_MAX]; /* numbers + 1, for descriptors of the backend; 0: none */
    int wake_posted;                /* Windows: its packet was not handled yet; atomic */
};

extern const lio_vtable *const lio_vtables[];

/* Linux: makes a descriptor, by make(argument), under a reserved number if there is one.
 * Returns it, or a negative errno. */
int lio_make_fd(lio_backend *b, int (*make)(void *), void *argument);
void lio_drop_reserved(lio_backend *b);

/* Lays faults over a backend that is not initialised yet: faults.c. */
int lio_faults_attach(lio_backend *b, const lio_faults *faults);
/* Lays them over another one. */
void lio_faults_replace(lio_backend *b, const lio_vtable *inner);
void lio_faults_detach(lio_backend *b);

/* The table of backends and the choice among them: backend.c. */
const lio_vtable *lio_vtable_find(const char *name);
int lio_parse_without(const char *names, uint32_t *without);

/* LIO_CAP_WIPE_ON_FORK where the kernel has it: the same for every backend, as lio.c itself
 * uses it. */
uint32_t lio_probe_fork_guard(void);

int64_t lio_now(void); /* CLOCK_MONOTONIC, nanoseconds */
int64_t lio_deadline(int64_t timeout_ns);

/* Tells the processor that this is a loop that only watches. */
static inline void lio_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Closes what a completion brings that nobody will take: an accepted socket, an opened
 * file. */
void lio_discard_result(uint8_t opcode, int64_t result);
#if !defined(_WIN32)
/* Closes the descriptors that a message brought. */
void lio_discard_rights(void *control, size_t length);
#else
/* Closes a socket or any other handle. 0 or a negative errno. */
int lio_close_handle(lio_fd fd);
#endif

#endif
