/* poller: runs operations when their descriptors are ready. Three parts: the engine
 * (poller.c: what runs when, poller_park.c: who waits where, poller_turn.c: the turns of the
 * loop), the
 * operations (poller_ops.c: one attempt each, which never blocks) and the OS half
 * (poller_epoll.c, poller_kqueue.c), which reports readiness and knows nothing of
 * operations. */
#ifndef LIO_POLLER_H
#define LIO_POLLER_H

#include "arena.h"
#include "backend.h"
#include "file_pool.h"
#include "timer_heap.h"

/* Directions: indexes of entry->parked. */
enum lio_direction { LIO_READER, LIO_WRITER };

/* entry->ready, event->ready: what is due, as far as we know. */
enum lio_ready {
    LIO_READY_READ = 1,    /* 1 << LIO_READER */
    LIO_READY_WRITE = 2,   /* 1 << LIO_WRITER */
    LIO_READY_ENDED = 4,   /* hung up or failed: reading goes on to the end without an edge */
    LIO_READY_URGENT = 8,  /* only of an event */
    LIO_READY_HUNGRY = 16, /* only of an entry: is on the list of those to run again */
    LIO_READY_DOUBTED = 32 /* only of an entry: is on the list of those to look at */
};
#define LIO_READY_BOTH (LIO_READY_READ | LIO_READY_WRITE)

/* entry->stream: what the file is. */
enum lio_trait {
    LIO_TRAIT_TCP = 1,  /* a short transfer means that there is no more now */
    LIO_TRAIT_FILE = 2, /* always "ready": a regular file, a disk */
    LIO_TRAIT_CUTS = 4, /* a receive may be short, and more be there, of which no event tells */
};

/* Whether a receive without flags that got so much has left nothing. */
static inline bool lio_poller_drains(uint8_t traits, uint64_t wanted, int64_t count)
{
    return (traits & (LIO_TRAIT_TCP | LIO_TRAIT_CUTS)) == LIO_TRAIT_TCP && count > 0 &&
           (uint64_t)count < wanted;
}

/* -- the OS half ------------------------------------------------------------------- */

typedef struct lio_os_half lio_os_half;

/* What an OS half keeps begins with this. */
typedef struct lio_os {
    const lio_os_half *half;
    uint32_t pending; /* changes that were noted, and not made yet */
} lio_os;

enum lio_event_kind {
    LIO_EVENT_FD,
    LIO_EVENT_WAKE,  /* lio_wake was called */
    LIO_EVENT_NUDGE, /* the poller itself: look again */
};

typedef struct lio_event {
    int fd;
    uint32_t generation; /* of the entry when the descriptor was registered */
    uint8_t kind;        /* enum lio_event_kind */
    uint8_t ready;       /* enum lio_ready */
    uint8_t spent;       /* what is armed one-shot no longer */
    int error;           /* a change could not be made, reported late (kqueue); or 0 */
} lio_event;

#define LIO_EVENT_MAX 256

struct lio_os_half {
    /* Makes *os and b->wake_fd; adds to b->capabilities what was not known before. */
    int (*open)(lio_backend *b, lio_os **os);
    /* In a forked child as well: touches nothing that the parent shares. */
    void (*close)(lio_os *os, bool forked);
    /* Watches both directions for edges from now on. 0: this file cannot be watched. */
    int (*adopt)(lio_backend *b, lio_os *os, const lio_fd_entry *entry, int fd);
    /* Watches `ready` until the next event, for what is left of it if that is nothing: not at
     * all. Whether the descriptor was ever registered, or has lost its registration by a close
     * behind our back, must not matter. */
    int (*arm)(lio_backend *b, lio_os *os, const lio_fd_entry *entry, int fd, uint8_t ready);
    /* Stops watching; that there is nothing to stop is no error. */
    void (*forget)(lio_backend *b, lio_os *os, const lio_fd_entry *entry, int fd);
    /* Remembers which file a number names; adopt does so, too. NULL: fstat tells. */
    int (*remember)(lio_backend *b, lio_os *os, int fd);
    /* 0: it still names that file. -ENOENT: another one. -EBADF: none. */
    int (*recognise)(lio_backend *b, lio_os *os, int fd);
    /* Makes the changes that were noted; returns the number of those that failed, as events.
     * NULL: there are never any. */
    int (*submit)(lio_backend *b, lio_os *os, lio_event *events);
    /* timeout_ns: -1 for ever; never returns before it is over but for events, whose number
     * it returns, or -EINTR. */
    int (*wait)(lio_backend *b, lio_os *os, int64_t timeout_ns, lio_event *events);
    /* From any thread. */
    void (*nudge)(lio_os *os);
    /* From any thread: 1 when wait would find something, 0, or a negative errno. */
    int (*poll)(lio_os *os, int64_t timeout_ns);
    /* An event tells when urgent data come. */
    bool tells_urgent;
};

/* -- the operations ---------------------------------------------------------------- */

enum lio_verdict {
    LIO_DONE,      /* has its result */
    LIO_NOT_READY, /* wait for readiness in its direction */
    LIO_NO_ROOM,   /* the arena is full: again when its records have been read */
    LIO_AGAIN,     /* did enough for now: again at the next turn */
    LIO_LATER,     /* not possible now, and no event will tell when it is */
    LIO_BLOCKS,    /* is for the file pool */
};

typedef struct lio_attempt {
    uint8_t verdict;   /* enum lio_verdict */
    uint8_t direction; /* NOT_READY: what to wait for */
    bool on_fd2;       /* NOT_READY: of op.fd2 */
    bool drained;      /* there is no more now, as far as we know */
    int64_t result, data, detail;
} lio_attempt;

/* One try of an operation, without blocking. */
lio_attempt lio_poller_try(lio_backend *b, uint32_t number, uint8_t traits);
/* Room for `size` bytes of a record, aligned for a lio_msg, or NULL; taken only by _keep. */
char *lio_poller_arena_room(lio_backend *b, size_t size);
void lio_poller_arena_keep(lio_backend *b, size_t size);
/* The direction in which an operation waits: READER or WRITER; -1: it never waits. */
int lio_poller_direction(const lio_op *op);
/* The LIO_POLL_* bits that are due on fd now, or a negative errno. */
int64_t lio_poller_level(lio_backend *b, int fd, uint32_t mask);
/* What a file already in memory gives without waiting; updates slot->moved. */
bool lio_poller_try_cached(lio_backend *b, lio_slot *slot, int64_t *result);
/* Asked with MSG_DONTWAIT, a transfer that would wait ends with EAGAIN instead. */
bool lio_poller_never_waits(const lio_op *op);
/* Closes what a completed operation brings and nobody will take. */
void lio_poller_discard(lio_backend *b, const lio_slot *slot);

/* -- the engine -------------------------------------------------------------------- */

typedef struct lio_poller {
    lio_os *os;
    lio_file_pool *files; /* NULL: not available */
    lio_timer_heap timers;
    lio_event *events;
    int *hungry; /* descriptors to run again, each once (LIO_READY_HUNGRY) */
    uint32_t hungry_count, hungry_room;
    int *doubted; /* adopted descriptors where something waits and nobody looked at the file */
    uint32_t doubted_count;
    int64_t doubt_ends; /* when they are looked at */
    uint32_t round;     /* of looking whether numbers still name the same files */
    uint32_t jobs;      /* with the file pool */
    uint64_t copied;    /* by large reads that were done in place, in this turn */
    lio_arena arena;
    bool collected;     /* the last turn asked the OS */
    bool guard_sigpipe; /* SIGPIPE would kill this process */
    /* For other threads, by __atomic functions: */
    int64_t first_timer; /* CLOCK_MONOTONIC; INT64_MAX: none */
    int runnable;        /* the next turn has something to do without any event */
} lio_poller;

static inline lio_poller *lio_poller_of(const lio_backend *b)
{
    return b->state;
}

/* slot->stage */
enum lio_stage {
    LIO_STAGE_NEW,
    LIO_STAGE_CONNECTING,
    LIO_STAGE_FD2, /* parked on op.fd2 */
    LIO_STAGE_POOL,
};

/* -- who waits where: poller_park.c -- */

lio_file_job *lio_poller_job_of(lio_backend *b, uint32_t number);
/* The descriptor that a slot waits for. */
int lio_poller_waits_for(const lio_slot *slot);
bool lio_poller_is_poll(lio_backend *b, uint32_t number);
/* Asks for what is not in the stream of data: neither waits behind others nor tells anything
 * about readiness. */
bool lio_poller_is_aside(const lio_op *op);
/* Whether there is something in a direction that later operations must not overtake. */
bool lio_poller_has_queue(lio_backend *b, const lio_fd_entry *entry, int direction);
/* Off the list and the heap where it waits, if it does. */
void lio_poller_unpark(lio_backend *b, uint32_t number);
/* Completes an operation, wherever it is linked. */
void lio_poller_finish(lio_backend *b, uint32_t number, int64_t result, int64_t data,
                       int64_t detail);
/* The end of an operation that was not left to end by itself. */
void lio_poller_finish_early(lio_backend *b, uint32_t number, int64_t error);
/* Notes a descriptor to be run at the next turn. */
void lio_poller_be_hungry(lio_backend *b, lio_fd_entry *entry, int fd);
/* Gives an operation to the file pool, or completes it with the reason why not. */
void lio_poller_give_to_pool(lio_backend *b, uint32_t number);
/* Takes back what has not begun. */
bool lio_poller_take_from_pool(lio_backend *b, uint32_t number);
/* Whether something waits for this very file. */
bool lio_poller_is_guarded(lio_backend *b, const lio_fd_entry *entry);
/* Whether the number still names the file that operations wait for; if nothing waits, that
 * is whatever it names now. False: it does not, and they have been settled. */
bool lio_poller_verify(lio_backend *b, lio_fd_entry *entry, int fd);
/* Has that done soon, unless something else does it first. */
void lio_poller_doubt(lio_backend *b, lio_fd_entry *entry, int fd);
void lio_poller_end_doubts(lio_backend *b);
void lio_poller_park(lio_backend *b, lio_fd_entry *entry, int fd, uint32_t number,
                     int direction);
/* Has the kernel watch a foreign descriptor for all that waits there. */
void lio_poller_rearm(lio_backend *b, lio_fd_entry *entry, int fd);
/* Nobody waits any more: an event would wake the loop for nothing. */
void lio_poller_disarm(lio_backend *b, lio_fd_entry *entry, int fd);
/* A descriptor cannot be watched in these directions. */
void lio_poller_fail_parked(lio_backend *b, lio_fd_entry *entry, uint8_t ready, int error);

/* -- what runs when: poller.c -- */

/* Takes all that the store has queued. */
int lio_poller_take_queued(lio_backend *b);
/* An event, a timer, a finished job: whatever can go on goes on. */
void lio_poller_on_event(lio_backend *b, const lio_event *event);
void lio_poller_on_timer(lio_backend *b, uint32_t number);
void lio_poller_on_job(lio_backend *b, lio_file_job *job);
void lio_poller_feed_hungry(lio_backend *b);
/* Room for what the engine remembers of `capacity` operations. */
int lio_poller_reserve(lio_poller *p, uint32_t capacity);
/* Time for something else to have happened to a descriptor. */
void lio_poller_next_round(lio_poller *p);
/* For lio_wait_ready: what the engine waits for by itself. */
void lio_poller_announce(lio_backend *b);

/* What a lio_vtable is made of. */
int lio_poller_init(lio_backend *b, const lio_os_half *half);
bool lio_poller_supports(const lio_backend *b, const lio_op *op);
int lio_poller_submit(lio_backend *b);
int lio_poller_turn(lio_backend *b, int64_t deadline_ns);
int lio_poller_cancel(lio_backend *b, uint32_t number);
int lio_poller_adopt(lio_backend *b, lio_fd_entry *entry, lio_fd fd);
void lio_poller_received(lio_fd_entry *entry, uint64_t wanted, int64_t count);
bool lio_poller_is_claimed(lio_backend *b, const lio_fd_entry *entry, lio_fd fd);
int lio_poller_release_fd(lio_backend *b, lio_fd_entry *entry, lio_fd fd);
void lio_poller_recycle(lio_backend *b);
void lio_poller_handed_out(lio_backend *b);
int lio_poller_wait_ready(lio_backend *b, int64_t timeout_ns);
void lio_poller_close(lio_backend *b, bool forked);

#endif
