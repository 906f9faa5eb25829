/* sim: the parts of the simulated kernel. sim.c: the engine, sim_wait.c: waiting for what is
 * real, sim_objects.c and sim_files.c: what is simulated. */
#ifndef LIO_SIM_H
#define LIO_SIM_H

#include <poll.h>
#include <pthread.h>

#include "backend.h"
#include "poller.h"
#include "random.h"

/* -- simulated objects ------------------------------------------------------------- */

enum sim_kind {
    SIM_SOCKET, /* neither connected nor listening */
    SIM_LISTENER,
    SIM_STREAM, /* one end of a connection */
    SIM_DATAGRAM,
    SIM_READER, /* the ends of a pipe */
    SIM_WRITER,
    SIM_FILE,
};

/* Bytes on their way; an end that is gone is said here, not by a pointer to it. */
typedef struct sim_queue {
    char *bytes;
    size_t room, start, used;
    bool ended;  /* nothing more will be written */
    bool broken; /* nobody will read */
    bool reset;
    uint8_t users;
} sim_queue;

typedef struct sim_message {
    struct sim_message *next;
    size_t size;
    uint32_t addr_len;
    uint8_t addr[LIO_ADDR_MAX];
    char bytes[];
} sim_message;

typedef struct sim_inode {
    struct sim_inode *next;
    char *name;
    char *bytes;
    size_t size, room;
    uint64_t number;
} sim_inode;

typedef struct sim_object {
    struct sim_object *next;
    uint64_t identity[2]; /* of the placeholder, the descriptor that the user has */
    int own_end;          /* hangs up when the last copy of the placeholder is closed */
    uint8_t kind;         /* enum sim_kind */
    uint8_t type;         /* SOCK_STREAM or SOCK_DGRAM */
    bool told_reset;      /* one operation had the ECONNRESET */
    bool read_shut;
    sim_queue *in, *out;
    struct sim_object *waiting, *waiting_tail; /* of a listener: connections, by next */
    uint32_t waiting_count, backlog;
    sim_message *messages, *messages_tail;
    uint32_t message_count;
    uint32_t addr_len, peer_len;
    uint8_t addr[LIO_ADDR_MAX], peer[LIO_ADDR_MAX];
    sim_inode *inode;
    uint64_t position;
    int flags; /* O_* of a file */
} sim_object;

/* -- the backend ------------------------------------------------------------------- */

typedef struct lio_sim {
    lio_poller attempts; /* first: lio_poller_try and its arenas look for it there */
    lio_random random;
    lio_list pending; /* all that is submitted, but timers */
    uint32_t pending_count;
    uint32_t *order;        /* slots, as one pass goes through them */
    uint32_t room;          /* of order and the two below */
    struct pollfd *polled;  /* room + the objects' ends + 1 */
    uint32_t *polled_slots; /* which operation that was */
    uint32_t polled_room;
    int64_t retry_at; /* of what nothing will tell of; INT64_MAX: none */
    bool virtual_time;
    int64_t now; /* of virtual time */
    sim_object *objects;
    uint32_t object_count;
    uint32_t next_port;
    sim_inode *inodes;
    uint64_t next_inode;
    int wake_read; /* the other end of b->wake_fd, or the same */
    int nudge[2];
    int job_bell[2];      /* rung by the file pool, which opens FIFOs */
    pthread_mutex_t lock; /* of all below, which a waiting thread reads */
    struct pollfd *watched;
    uint32_t watched_count, watched_room;
    int64_t watched_until;
    bool watched_runnable;
    uint32_t edition;        /* of what is watched */
    uint32_t readers, stale; /* threads that wait for this edition, or an older one */
    pthread_cond_t left;     /* one of the stale has */
} lio_sim;

static inline lio_sim *lio_sim_of(const lio_backend *b)
{
    return b->state;
}

/* slot->by_number */
enum sim_mark {
    SIM_MARK_FD = 1,    /* extra->identity[0] is filled */
    SIM_MARK_FD2 = 2,   /* extra->identity[1] is filled */
    SIM_MARK_WAITS = 4, /* tried; not again before poll(2) names it */
    SIM_MARK_LATER = 8, /* tried; again at retry_at */
    SIM_MARK_JOB = 16,  /* the file pool has it */
};

int64_t lio_sim_now(const lio_backend *b);

/* -- waiting: sim_wait.c -- */

int lio_sim_open_bells(lio_backend *b, lio_sim *sim);
/* 0, or why none can be made. */
int lio_sim_try_bell(void);
void lio_sim_close_bells(lio_sim *sim);
/* Asks poll(2) about all that waits, for that long at most. 0 or a negative errno. */
int lio_sim_look(lio_backend *b, int64_t timeout_ns);
/* Whether any operation in flight is on something real. */
bool lio_sim_waits_for_real(lio_backend *b);
/* Shows other threads what to wait for. */
void lio_sim_publish(lio_backend *b, bool runnable);
/* A descriptor is about to be closed, and a poll(2) under way would hold its file: its peer
 * would see no end. Returns when no thread waits for what is not watched any more. */
void lio_sim_evict(lio_backend *b);
/* A job of the file pool is done; any thread. */
void lio_sim_job_done(void *sim);
int lio_sim_wake(lio_backend *b);
int lio_sim_wait_ready(lio_backend *b, int64_t timeout_ns);

/* -- objects: sim_objects.c, sim_files.c -- */

sim_object *lio_sim_find(const lio_sim *sim, const uint64_t identity[2]);
/* A new object and its placeholder, which is the caller's. Negative errno. */
int lio_sim_add(lio_sim *sim, sim_object **object, uint8_t kind, int type);
/* One try of an operation on an object. */
lio_attempt lio_sim_try(lio_backend *b, sim_object *object, uint32_t number);
lio_attempt lio_sim_try_file(lio_backend *b, sim_object *file, lio_slot *slot);
/* Drops the objects whose last descriptor was closed; whether there were any. */
bool lio_sim_bury(lio_sim *sim);
void lio_sim_free_objects(lio_sim *sim);
int lio_sim_reset(lio_backend *b, lio_fd fd);

static inline lio_attempt sim_done(int64_t result)
{
    return (lio_attempt){.verdict = LIO_DONE, .result = result, .data = -1, .detail = -1};
}

static inline lio_attempt sim_not_ready(void)
{
    return (lio_attempt){.verdict = LIO_NOT_READY};
}

#endif
