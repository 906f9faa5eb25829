/* poller_park.c: who waits where, for which file, and how that ends. */
#include <assert.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#include <unistd.h>

#include "poller.h"

#define DOUBT_NS INT64_C(50000000)

static_assert(sizeof(lio_file_job) <= sizeof(((lio_slot_extra *)0)->os), "job fits");

lio_file_job *lio_poller_job_of(lio_backend *b, uint32_t number)
{
    return (lio_file_job *)lio_extra_at(&b->store, number)->os.bytes;
}

/* -- where a slot is --------------------------------------------------------------- */

int lio_poller_waits_for(const lio_slot *slot)
{
    return (int)(slot->stage == LIO_STAGE_FD2 ? slot->op.fd2 : slot->op.fd);
}

static lio_list *parked_on(lio_backend *b, const lio_slot *slot)
{
    lio_fd_entry *entry = lio_fd_find(&b->store, lio_poller_waits_for(slot));
    bool writes = slot->stage == LIO_STAGE_FD2 || lio_poller_direction(&slot->op) == LIO_WRITER;
    return &entry->parked[writes ? LIO_WRITER : LIO_READER];
}

void lio_poller_unpark(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    if (slot->linked == LIO_LIST_PARKED)
        lio_list_remove(&b->store, parked_on(b, slot), number);
    if (slot->aux != 0)
        lio_timers_remove(&lio_poller_of(b)->timers, &b->store, number);
}

void lio_poller_finish(lio_backend *b, uint32_t number, int64_t result, int64_t data,
                       int64_t detail)
{
    lio_poller_unpark(b, number);
    b->stats.cancelled += result == -ECANCELED;
    lio_store_complete(&b->store, number, result, data, detail);
}

void lio_poller_finish_early(lio_backend *b, uint32_t number, int64_t error)
{
    uint64_t moved = lio_slot_at(&b->store, number)->moved;
    bool partly = moved != 0 && error == -ECANCELED;
    lio_poller_finish(b, number, partly ? (int64_t)moved : error, -1, -1);
}

bool lio_poller_is_poll(lio_backend *b, uint32_t number)
{
    return lio_slot_at(&b->store, number)->op.opcode == LIO_POLL;
}

bool lio_poller_is_aside(const lio_op *op)
{
    return op->opcode != LIO_POLL && lio_poller_direction(op) == LIO_READER &&
           (op->opcode == LIO_RECV || op->opcode == LIO_RECVMSG ||
            op->opcode == LIO_RECVFROM) &&
           (op->flags & (MSG_OOB
#if defined(MSG_ERRQUEUE)
                         | MSG_ERRQUEUE
#endif
                         )) != 0;
}

/* The first in a direction that is not a poll. */
static uint32_t first_parked(lio_backend *b, const lio_fd_entry *entry, int direction)
{
    uint32_t number = entry->parked[direction].head;
    while (number != LIO_NO_SLOT && lio_poller_is_poll(b, number))
        number = lio_slot_at(&b->store, number)->next;
    return number;
}

bool lio_poller_has_queue(lio_backend *b, const lio_fd_entry *entry, int direction)
{
    uint32_t number = first_parked(b, entry, direction);
    while (number != LIO_NO_SLOT && (lio_poller_is_poll(b, number) ||
                                     lio_poller_is_aside(&lio_slot_at(&b->store, number)->op)))
        number = lio_slot_at(&b->store, number)->next;
    return number != LIO_NO_SLOT;
}

bool lio_poller_is_guarded(lio_backend *b, const lio_fd_entry *entry)
{
    return entry->adopted || first_parked(b, entry, LIO_READER) != LIO_NO_SLOT ||
           first_parked(b, entry, LIO_WRITER) != LIO_NO_SLOT;
}

void lio_poller_be_hungry(lio_backend *b, lio_fd_entry *entry, int fd)
{
    lio_poller *p = lio_poller_of(b);
    if (entry->ready & LIO_READY_HUNGRY)
        return;
    assert(p->hungry_count < p->hungry_room);
    entry->ready |= LIO_READY_HUNGRY;
    p->hungry[p->hungry_count++] = fd;
}

/* -- the file pool ----------------------------------------------------------------- */

void lio_poller_give_to_pool(lio_backend *b, uint32_t number)
{
    lio_poller *p = lio_poller_of(b);
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_file_job *job = lio_poller_job_of(b, number);
    lio_poller_unpark(b, number);
    job->op = slot->op;
    job->moved = slot->moved;
    job->number = number;
    int error = p->files == NULL ? -ENOTSUP : lio_file_job_prepare(job);
    if (error == 0)
        error = lio_file_pool_add(p->files, job);
    if (error != 0) {
        lio_poller_finish(b, number, error, -1, -1);
        return;
    }
    slot->stage = LIO_STAGE_POOL;
    p->jobs++;
}

bool lio_poller_take_from_pool(lio_backend *b, uint32_t number)
{
    lio_poller *p = lio_poller_of(b);
    assert(lio_slot_at(&b->store, number)->stage == LIO_STAGE_POOL);
    if (!lio_file_pool_cancel(p->files, lio_poller_job_of(b, number)))
        return false;
    p->jobs--;
    return true;
}

/* -- identity ---------------------------------------------------------------------- */

/* fstat(2) happens once or twice in the life of every operation on an adopted descriptor. The
 * C library has it look up an empty path, which costs half as much again. */
static int look_at(lio_backend *b, int fd, struct stat *st)
{
    b->stats.syscalls++;
#if defined(__linux__) && defined(__LP64__) && (defined(__x86_64__) || defined(__aarch64__))
    return (int)syscall(SYS_fstat, fd, st); /* fills the C library's own layout there */
#else
    return fstat(fd, st);
#endif
}

/* Ends what is parked on a descriptor and, if it was adopted, all that names it. in_use: the
 * number names another file now, so polls may end as if woken for no reason. */
static void abandon(lio_backend *b, lio_fd_entry *entry, int fd, bool in_use)
{
    lio_poller *p = lio_poller_of(b);
    while (entry->gate.head != LIO_NO_SLOT) /* first, lest the gate opens for them */
        lio_poller_finish(b, entry->gate.head, -EBADF, -1, -1);
    for (uint32_t number = entry->ops.head, next; number != LIO_NO_SLOT; number = next) {
        lio_slot *slot = lio_slot_at(&b->store, number);
        next = slot->fd_next;
        if (slot->stage == LIO_STAGE_POOL) {
            if (!lio_poller_take_from_pool(b, number))
                continue; /* it got hold of the right file */
        } else if (!entry->adopted && slot->linked != LIO_LIST_PARKED)
            continue; /* pushed for the file that has the number now */
        /* Who asked for a hint is about to receive. */
        bool spurious =
            slot->op.opcode == LIO_POLL && in_use && !(slot->op.op_flags & LIO_OP_HINT);
        lio_poller_finish(b, number, spurious ? (int64_t)slot->op.flags : -EBADF, -1, -1);
    }
    for (int direction = LIO_READER; direction <= LIO_WRITER; direction++) {
        while (entry->parked[direction].head != LIO_NO_SLOT) /* of splices to here */
            lio_poller_finish(b, entry->parked[direction].head, -EBADF, -1, -1);
    }
    if (entry->adopted || entry->armed)
        p->os->half->forget(b, p->os, entry, fd);
    entry->lost |= entry->adopted;
    entry->adopted = 0;
    entry->armed = 0;
    entry->generation++;
    entry->ready &= LIO_READY_HUNGRY;
    entry->stream = 0;
}

/* 0: a number names the file that is waited for. -ENOENT: another one. -EBADF: none. */
static int recognise(lio_backend *b, const lio_fd_entry *entry, int fd)
{
    lio_os *os = lio_poller_of(b)->os;
    struct stat st;
    if (entry->remembered)
        return os->half->recognise(b, os, fd);
    if (look_at(b, fd, &st) != 0)
        return -EBADF;
    bool same =
        entry->identity[0] == (uint64_t)st.st_dev && entry->identity[1] == (uint64_t)st.st_ino;
    return same ? 0 : -ENOENT;
}

bool lio_poller_is_claimed(lio_backend *b, const lio_fd_entry *entry, lio_fd fd)
{
    return recognise(b, entry, (int)fd) == 0;
}

bool lio_poller_verify(lio_backend *b, lio_fd_entry *entry, int fd)
{
    lio_poller *p = lio_poller_of(b);
    if (entry->round == p->round)
        return true;
    if (lio_poller_is_guarded(b, entry)) {
        int error = recognise(b, entry, fd);
        if (error != 0) {
            abandon(b, entry, fd, error == -ENOENT);
            return false;
        }
        entry->round = p->round;
        entry->ready &= (uint8_t)~LIO_READY_DOUBTED;
        return true;
    }
    struct stat st;
    if (look_at(b, fd, &st) != 0)
        return true; /* the operation itself will tell */
    entry->remembered = 0;
    entry->identity[0] = (uint64_t)st.st_dev;
    entry->identity[1] = (uint64_t)st.st_ino;
    entry->round = p->round;
    entry->stream = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ? LIO_TRAIT_FILE : 0;
    return true;
}

/* What only starts to wait touches no file, so it need not be looked at now; most waits end by
 * an event, and then it is. But should the number be another file's already, no event will
 * come, ever: so look at it before long, off the busy path. */
void lio_poller_doubt(lio_backend *b, lio_fd_entry *entry, int fd)
{
    lio_poller *p = lio_poller_of(b);
    if (entry->round == p->round || entry->ready & LIO_READY_DOUBTED)
        return;
    if (p->doubted_count == p->hungry_room)
        lio_poller_end_doubts(b);
    if (p->doubted_count == 0)
        p->doubt_ends = lio_now() + DOUBT_NS;
    entry->ready |= LIO_READY_DOUBTED;
    p->doubted[p->doubted_count++] = fd;
}

void lio_poller_end_doubts(lio_backend *b)
{
    lio_poller *p = lio_poller_of(b);
    for (uint32_t i = 0; i < p->doubted_count; i++) {
        lio_fd_entry *entry = lio_fd_find(&b->store, p->doubted[i]);
        bool doubted = entry->ready & LIO_READY_DOUBTED;
        bool waits = entry->parked[LIO_READER].head != LIO_NO_SLOT ||
                     entry->parked[LIO_WRITER].head != LIO_NO_SLOT;
        entry->ready &= (uint8_t)~LIO_READY_DOUBTED;
        if (doubted && waits && entry->adopted)
            lio_poller_verify(b, entry, p->doubted[i]);
    }
    p->doubted_count = 0;
}

/* -- parking ----------------------------------------------------------------------- */

static uint8_t wanted_from(lio_backend *b, const lio_fd_entry *entry)
{
    uint8_t wanted = 0;
    for (int direction = LIO_READER; direction <= LIO_WRITER; direction++) {
        /* What goes by time or has its turn coming does not wait for events, nor does what
         * is behind it. */
        bool waits = !(entry->ready & LIO_READY_HUNGRY);
        uint32_t number = entry->parked[direction].head;
        for (; number != LIO_NO_SLOT; number = lio_slot_at(&b->store, number)->next) {
            const lio_slot *slot = lio_slot_at(&b->store, number);
            waits = waits && slot->aux == 0;
            if (slot->op.opcode == LIO_POLL)
                wanted |= (uint8_t)slot->op.flags;
            else if (waits)
                wanted |= (uint8_t)(1 << direction);
        }
    }
    return wanted;
}

static_assert((int)LIO_READY_READ == (int)LIO_POLL_READ &&
                  (int)LIO_READY_WRITE == (int)LIO_POLL_WRITE,
              "polls ask for readiness");

/* A device without poll, says the kernel: only a thread can wait for it. */
static bool only_threads_wait(int error)
{
    return error == -EPERM || error == -EINVAL || error == -ENODEV;
}

void lio_poller_fail_parked(lio_backend *b, lio_fd_entry *entry, uint8_t ready, int error)
{
    for (int direction = LIO_READER; direction <= LIO_WRITER; direction++) {
        uint32_t number;
        while (ready & 1 << direction &&
               (number = entry->parked[direction].head) != LIO_NO_SLOT) {
            uint8_t opcode = lio_slot_at(&b->store, number)->op.opcode;
            if (only_threads_wait(error) && (opcode == LIO_READ || opcode == LIO_WRITE))
                lio_poller_give_to_pool(b, number);
            else
                lio_poller_finish_early(b, number, error);
        }
    }
}

void lio_poller_rearm(lio_backend *b, lio_fd_entry *entry, int fd)
{
    uint8_t wanted = entry->adopted ? 0 : wanted_from(b, entry);
    if ((wanted & ~entry->armed) == 0)
        return;
    lio_os *os = lio_poller_of(b)->os;
    int error = os->half->arm(b, os, entry, fd, wanted);
    entry->armed = error == 0 ? wanted : 0;
    if (error != 0)
        lio_poller_fail_parked(b, entry, LIO_READY_BOTH, error);
}

void lio_poller_disarm(lio_backend *b, lio_fd_entry *entry, int fd)
{
    if (entry->adopted || entry->armed == 0 || wanted_from(b, entry) != 0)
        return;
    lio_os *os = lio_poller_of(b)->os;
    os->half->arm(b, os, entry, fd, 0);
    entry->armed = 0;
}

void lio_poller_park(lio_backend *b, lio_fd_entry *entry, int fd, uint32_t number,
                     int direction)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    if (slot->linked == LIO_LIST_PARKED)
        return;
    if (!entry->adopted && slot->op.opcode != LIO_POLL && !lio_poller_is_guarded(b, entry)) {
        lio_os *os = lio_poller_of(b)->os;
        lio_poller_verify(b, entry, fd); /* from now on it has to be this file */
        bool known = entry->round == lio_poller_of(b)->round;
        if (known && os->half->remember != NULL)
            entry->remembered = os->half->remember(b, os, fd) == 0;
        if (!known) {
            lio_poller_finish(b, number, -EBADF, -1, -1);
            return;
        }
    }
    lio_list_append(&b->store, &entry->parked[direction], number, LIO_LIST_PARKED);
}
