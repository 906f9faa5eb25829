/* poller.c: the engine. Runs an operation at once if it can go on, parks it on its descriptor
 * if it cannot, and runs it again when the kernel says that the descriptor is ready.
 *
 * Two ways of watching. The facts that decide:
 *
 * A registration belongs to the pair of number and *file*. When the last descriptor of the
 * file goes, the registration goes with it, and nobody is told; the number may then name
 * another file, unregistered. If a copy of the descriptor lives on elsewhere (a child
 * process), the registration lives on too, and reports the old file under the old number.
 *
 * Therefore: *adopted* descriptors, whose whole life their owner promised us, are registered
 * once, for edges, in both directions. An operation on them costs its own system call and
 * nothing else. An edge says "something changed since you were told", so we must remember
 * what we know: entry->ready has a bit per direction, set by edges, cleared by EAGAIN, and
 * on TCP also by a transfer that was shorter than asked for, which saves the call that would
 * say EAGAIN. (A FIN or a reset that came before such a short read has no edge of its own
 * left: after a hang-up or an error the bits are cleared by EAGAIN alone. Local sockets cut
 * reads at descriptors and credentials, SCTP at messages, and TCP at urgent data: hence "on
 * TCP", and only until an urgent byte is reported.)
 *
 * *Foreign* descriptors, where anything may happen behind our back, are armed one-shot for
 * what is waited for right now, and armed again for the next wait: whatever registration the
 * kernel has by then, that repairs it. A poll that ends for no reason is allowed there.
 *
 * Identity. Even an owner is wrong at times. Before an operation touches an adopted
 * descriptor, fstat has to show the file that was adopted (once per descriptor and round);
 * if it shows another, everything that waits there completes with -EBADF and the descriptor
 * is forgotten: never another file's bytes. The same holds for foreign descriptors from the
 * moment an operation is parked on them. Events carry the generation of the registration, so
 * those of an older one are dropped. A file closed behind our back whose number nobody uses
 * again raises no event at all, here as in every other use of epoll: its operations end with
 * the next use of the number, or their cancellation. Files without an inode of their own
 * (eventfd, timerfd) cannot be told from each other.
 *
 * Order. Operations of one direction run in the order of their push: while one is parked,
 * later ones queue up behind it. Polls consume nothing and wait for nobody. */
#include "poller.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#define RETRY_NS INT64_C(1000000)

/* -- running ----------------------------------------------------------------------- */

/* An operation that waits for the other one of its two descriptors. */
static void park_elsewhere(lio_backend *b, uint32_t number, const lio_attempt *attempt)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    uint8_t stage = attempt->on_fd2 ? LIO_STAGE_FD2 : LIO_STAGE_NEW;
    if (slot->linked == LIO_LIST_PARKED && slot->stage == stage)
        return;
    lio_poller_unpark(b, number);
    slot->stage = stage;
    int fd = lio_poller_waits_for(slot);
    lio_fd_entry *entry = lio_fd_get(&b->store, fd);
    if (entry == NULL) {
        lio_poller_finish(b, number, fd < 0 ? -EBADF : -ENOMEM, -1, -1);
        return;
    }
    lio_poller_park(b, entry, fd, number, attempt->direction);
    lio_poller_rearm(b, entry, fd);
}

static void retry_later(lio_backend *b, lio_fd_entry *entry, int fd, uint32_t number)
{
    lio_poller *p = lio_poller_of(b);
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_poller_park(b, entry, fd, number, lio_poller_direction(&slot->op));
    if (slot->linked == LIO_LIST_PARKED && slot->aux == 0)
        lio_timers_add(&p->timers, &b->store, number, lio_now() + RETRY_NS);
}

static bool is_between(const lio_op *op)
{
    return op->opcode == LIO_SPLICE || op->opcode == LIO_TEE;
}

/* Whether both ends are still what they were; else the operation has been settled. */
static bool verify_ends(lio_backend *b, uint32_t number)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    const int ends[2] = {(int)slot->op.fd, (int)slot->op.fd2};
    for (int i = 0; i < 2; i++) {
        lio_fd_entry *entry = lio_fd_find(&b->store, ends[i]);
        if (entry == NULL || !entry->adopted || lio_poller_verify(b, entry, ends[i]))
            continue;
        if (slot->state != LIO_STATE_DONE)
            lio_poller_finish(b, number, -EBADF, -1, -1);
        return false;
    }
    return true;
}

/* Tries one operation and does what its outcome asks for. Returns whether those behind it
 * have to wait. */
static bool run_one(lio_backend *b, lio_fd_entry *entry, int fd, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    int direction = lio_poller_direction(&slot->op);
    bool aside = lio_poller_is_aside(&slot->op);
    bool tells = !aside && slot->op.opcode != LIO_POLL &&
                 !(direction == LIO_READER && slot->op.flags & MSG_PEEK &&
                   slot->op.opcode != LIO_READ && slot->op.opcode != LIO_ACCEPT);
    if (is_between(&slot->op) && !verify_ends(b, number))
        return false;
    lio_attempt attempt = lio_poller_try(b, number, entry == NULL ? 0 : entry->stream);
    if (direction < 0) {
        assert(attempt.verdict == LIO_DONE);
        lio_poller_finish(b, number, attempt.result, attempt.data, attempt.detail);
        return false;
    }
    assert(entry != NULL); /* only what never waits has none */
    uint8_t bit = (uint8_t)(1 << direction);
    switch ((enum lio_verdict)attempt.verdict) {
    case LIO_DONE:
        if (attempt.drained && !(entry->ready & LIO_READY_ENDED))
            entry->ready &= (uint8_t)~bit;
        lio_poller_finish(b, number, attempt.result, attempt.data, attempt.detail);
        return false;
    case LIO_NOT_READY:
        if (is_between(&slot->op)) {
            park_elsewhere(b, number, &attempt);
            return false;
        }
        if (tells)
            entry->ready &= (uint8_t)~bit;
        if (lio_poller_never_waits(&slot->op)) {
            int64_t moved = (int64_t)slot->moved;
            lio_poller_finish(b, number, moved != 0 ? moved : -EAGAIN, -1, -1);
            return tells;
        }
        if (aside && !entry->adopted)
            retry_later(b, entry, fd, number); /* readiness tells nothing about these */
        else
            lio_poller_park(b, entry, fd, number, direction);
        return tells;
    case LIO_NO_ROOM:
    case LIO_AGAIN:
        lio_poller_park(b, entry, fd, number, direction);
        lio_poller_be_hungry(b, entry, fd);
        return true;
    case LIO_LATER:
        retry_later(b, entry, fd, number);
        return true;
    case LIO_BLOCKS:
        lio_poller_give_to_pool(b, number);
        return false;
    }
    assert(!"a verdict");
    return true;
}

/* Polls that are due. On a foreign descriptor the event was what they waited for; an edge
 * only says that it is time to look. */
static void run_polls(lio_backend *b, lio_fd_entry *entry, int fd, uint8_t ready)
{
    for (int direction = LIO_READER; direction <= LIO_WRITER; direction++) {
        uint32_t number = entry->parked[direction].head;
        for (uint32_t next; number != LIO_NO_SLOT; number = next) {
            const lio_slot *slot = lio_slot_at(&b->store, number);
            next = slot->next;
            if (slot->op.opcode != LIO_POLL)
                continue;
            int64_t due = slot->op.flags & ready;
            if (entry->adopted && due != 0 && !(slot->op.op_flags & LIO_OP_HINT))
                due = lio_poller_level(b, fd, slot->op.flags);
            else if (due != 0 && due != (int64_t)slot->op.flags) {
                /* The other direction may be due as well, and have an event of its own. */
                int64_t level = lio_poller_level(b, fd, slot->op.flags);
                due |= level > 0 ? level : 0;
            }
            if (due != 0)
                lio_poller_finish(b, number, due, -1, -1);
        }
    }
}

/* Runs what is parked in the directions that are ready, in order, until something is not. */
static void run_parked(lio_backend *b, lio_fd_entry *entry, int fd, uint8_t ready)
{
    for (int direction = LIO_READER; direction <= LIO_WRITER; direction++) {
        uint8_t bit = (uint8_t)(1 << direction);
        uint32_t number = entry->parked[direction].head;
        if (!(ready & bit))
            continue;
        bool stopped = false;
        for (uint32_t next; number != LIO_NO_SLOT && !stopped; number = next) {
            const lio_slot *slot = lio_slot_at(&b->store, number);
            next = slot->next;
            if (slot->linked != LIO_LIST_PARKED) {
                /* Settled together with the one before it: this list has changed. */
                lio_poller_be_hungry(b, entry, fd);
                break;
            }
            if (lio_poller_is_poll(b, number))
                continue;
            if (slot->aux != 0)
                break; /* goes by time: its own failure may have been the event */
            stopped =
                run_one(b, entry, fd, number) || (entry->adopted && !(entry->ready & bit));
        }
    }
}

static void run_entry(lio_backend *b, lio_fd_entry *entry, int fd, uint8_t io, uint8_t polls)
{
    if (lio_poller_is_guarded(b, entry) && !lio_poller_verify(b, entry, fd))
        return;
    run_parked(b, entry, fd, io);
    if (polls != 0)
        run_polls(b, entry, fd, polls);
    lio_poller_rearm(b, entry, fd);
}

void lio_poller_on_event(lio_backend *b, const lio_event *event)
{
    if (event->kind != LIO_EVENT_FD) {
        b->woken = b->woken || event->kind == LIO_EVENT_WAKE;
        return;
    }
    lio_fd_entry *entry = lio_fd_find(&b->store, event->fd);
    if (entry == NULL || entry->generation != event->generation)
        return; /* of a registration that is no more */
    uint8_t both = event->ready & LIO_READY_BOTH;
    if (event->error != 0) {
        /* Was closed behind our back, or can be watched in one direction only. From now on it
         * is armed for each wait, which then has the error. */
        entry->adopted = 0;
        entry->armed &= (uint8_t)~event->spent;
        lio_poller_fail_parked(b, entry, both, event->error);
        return;
    }
    if (entry->adopted) {
        entry->ready |= event->ready & (LIO_READY_BOTH | LIO_READY_ENDED);
        if (event->ready & LIO_READY_URGENT)
            entry->stream &= (uint8_t)~LIO_TRAIT_TCP;
    } else {
        entry->armed &= (uint8_t)~event->spent;
    }
    if (entry->parked[LIO_READER].head != LIO_NO_SLOT ||
        entry->parked[LIO_WRITER].head != LIO_NO_SLOT)
        run_entry(b, entry, event->fd, both, both);
}

void lio_poller_on_timer(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_timers_remove(&lio_poller_of(b)->timers, &b->store, number);
    if (slot->op.opcode == LIO_TIMEOUT) {
        lio_poller_finish(b, number, -LIO_ETIME, -1, -1);
        return;
    }
    int fd = lio_poller_waits_for(slot);
    lio_fd_entry *entry = lio_fd_find(&b->store, fd);
    run_entry(b, entry, fd, LIO_READY_BOTH, 0);
}

void lio_poller_on_job(lio_backend *b, lio_file_job *job)
{
    lio_slot *slot = lio_slot_at(&b->store, job->number);
    lio_poller_of(b)->jobs--;
    b->stats.syscalls++;
    bool waits = job->result == -EAGAIN && slot->op.opcode == LIO_SPLICE;
    if (!waits || slot->state == LIO_STATE_CANCELLING) {
        lio_poller_finish(b, job->number, waits ? -ECANCELED : job->result, -1, -1);
        return;
    }
    int fd = (int)slot->op.fd;
    lio_fd_entry *entry = lio_fd_find(&b->store, fd);
    run_one(b, entry, fd, job->number); /* finds out which end was not ready */
    lio_poller_rearm(b, entry, fd);
}

/* Each runs once; it may come back at the end of the list, never before those after it. */
void lio_poller_feed_hungry(lio_backend *b)
{
    lio_poller *p = lio_poller_of(b);
    uint32_t count = p->hungry_count;
    p->hungry_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        int fd = p->hungry[i];
        lio_fd_entry *entry = lio_fd_find(&b->store, fd);
        entry->ready &= (uint8_t)~LIO_READY_HUNGRY;
        uint8_t ready = entry->adopted ? entry->ready & LIO_READY_BOTH : LIO_READY_BOTH;
        run_entry(b, entry, fd, ready, 0);
    }
}

/* -- submission -------------------------------------------------------------------- */

static void start_timer(lio_backend *b, uint32_t number)
{
    int64_t now = lio_now();
    int64_t wanted = lio_slot_at(&b->store, number)->op.offset;
    int64_t deadline = wanted > INT64_MAX - now ? INT64_MAX : now + wanted;
    lio_timers_add(&lio_poller_of(b)->timers, &b->store, number, deadline);
}

/* What works on files. Reading what the page cache has is not worth a thread. */
static void start_file(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    uint8_t opcode = slot->op.opcode;
    lio_fd_entry *entry =
        lio_opcode_has_fd(opcode) ? lio_fd_find(&b->store, slot->op.fd) : NULL;
    bool alone = entry != NULL && entry->ops.head == number && entry->ops.tail == number;
    bool reads = opcode == LIO_READ_AT || opcode == LIO_READV_AT ||
                 (opcode == LIO_READ && alone); /* the position moves in order of push */
    int64_t result;
    if (entry != NULL && entry->adopted && !lio_poller_verify(b, entry, (int)slot->op.fd))
        return;
    if (reads && lio_poller_of(b)->files != NULL && lio_poller_try_cached(b, slot, &result))
        lio_poller_finish(b, number, result, -1, -1);
    else
        lio_poller_give_to_pool(b, number);
}

/* lio_push saw to it that nothing else goes on there. */
static void start_close(lio_backend *b, uint32_t number)
{
    int fd = (int)lio_slot_at(&b->store, number)->op.fd;
    lio_fd_entry *entry = lio_fd_find(&b->store, fd);
    if (lio_poller_is_guarded(b, entry)) {
        lio_poller_finish(b, number, -EBUSY, -1, -1);
        return;
    }
    lio_poller_verify(b, entry, fd);
    bool is_file = entry->stream & LIO_TRAIT_FILE && entry->round == lio_poller_of(b)->round;
    entry->round = 0;
    if (is_file && lio_poller_of(b)->files != NULL) {
        lio_poller_give_to_pool(b, number); /* over a network it writes back first */
        return;
    }
    b->stats.syscalls++;
    /* The number is free even after EINTR. */
    int error = close(fd) == 0 || errno == EINTR ? 0 : -errno;
    lio_poller_finish(b, number, error, -1, -1);
}

/* Whether an operation need not be tried: it would wait, or it would overtake. */
static bool must_wait(lio_backend *b, const lio_fd_entry *entry, const lio_slot *slot)
{
    int direction = lio_poller_direction(&slot->op);
    bool connects = slot->op.opcode == LIO_CONNECT;
    if (direction < 0 || lio_poller_is_aside(&slot->op) || connects ||
        lio_poller_never_waits(&slot->op))
        return false;
    if (slot->op.opcode == LIO_POLL)
        return !entry->adopted || (entry->ready & slot->op.flags) == 0;
    if (entry->adopted && !(entry->ready & 1 << direction))
        return true;
    return lio_poller_has_queue(b, entry, direction);
}

static void start_on_fd(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    int fd = (int)slot->op.fd;
    lio_fd_entry *entry = lio_fd_find(&b->store, fd);
    bool transfers = slot->op.opcode == LIO_READ || slot->op.opcode == LIO_WRITE;
    /* The usual receive: nothing to do but to wait, and the file is looked at when it ends. */
    bool waits = entry->adopted && must_wait(b, entry, slot);
    if (waits)
        lio_poller_doubt(b, entry, fd);
    if (!waits && lio_poller_is_guarded(b, entry) && !lio_poller_verify(b, entry, fd) &&
        slot->state == LIO_STATE_DONE)
        return;
    if (transfers && !entry->adopted) {
        lio_poller_verify(b, entry, fd); /* what it is, if that is not known yet */
        if (entry->stream & LIO_TRAIT_FILE && entry->round == lio_poller_of(b)->round) {
            start_file(b, number);
            return;
        }
    }
    if (slot->op.opcode == LIO_CONNECT)
        entry->ready &= (uint8_t)~LIO_READY_ENDED; /* an unconnected socket is "hung up" */
    if (waits || must_wait(b, entry, slot))
        lio_poller_park(b, entry, fd, number, lio_poller_direction(&slot->op));
    else
        run_one(b, entry, fd, number);
    if (!entry->adopted && slot->linked == LIO_LIST_PARKED)
        entry->armed = 0; /* perhaps no longer: this repairs it */
    lio_poller_rearm(b, entry, fd);
}

int lio_poller_take_queued(lio_backend *b)
{
    lio_poller *p = lio_poller_of(b);
    int error = lio_poller_reserve(p, b->store.capacity);
    if (error != 0)
        return error;
    uint32_t number;
    while ((number = lio_store_next(&b->store)) != LIO_NO_SLOT) {
        uint8_t opcode = lio_slot_at(&b->store, number)->op.opcode;
        b->stats.flushed++;
        if (opcode == LIO_TIMEOUT)
            start_timer(b, number);
        else if (opcode == LIO_CLOSE)
            start_close(b, number);
        else if (lio_opcode_is_file(opcode))
            start_file(b, number);
        else if (lio_opcode_has_fd(opcode))
            start_on_fd(b, number);
        else
            run_one(b, NULL, -1, number);
    }
    return 0;
}

/* -- cancelling, adopting, releasing ----------------------------------------------- */

/* One operation less is parked: those behind it may go on. */
static void close_ranks(lio_backend *b, lio_fd_entry *entry, int fd)
{
    if (!entry->adopted) {
        lio_poller_rearm(b, entry, fd);
        lio_poller_disarm(b, entry, fd);
        return;
    }
    for (int direction = LIO_READER; direction <= LIO_WRITER; direction++) {
        if (entry->ready & 1 << direction && lio_poller_has_queue(b, entry, direction))
            lio_poller_be_hungry(b, entry, fd);
    }
}

int lio_poller_cancel(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    if (slot->linked == LIO_LIST_PARKED) {
        int fd = lio_poller_waits_for(slot);
        lio_poller_finish_early(b, number, -ECANCELED);
        close_ranks(b, lio_fd_find(&b->store, fd), fd);
    } else if (slot->stage == LIO_STAGE_POOL) {
        if (lio_poller_take_from_pool(b, number))
            lio_poller_finish_early(b, number, -ECANCELED);
    } else {
        assert(slot->op.opcode == LIO_TIMEOUT && slot->aux != 0);
        lio_poller_finish(b, number, -ECANCELED, -1, -1);
    }
    lio_poller_announce(b);
    return 0;
}

static uint8_t traits_of(lio_backend *b, int fd)
{
    uint8_t traits = lio_poller_of(b)->os->half->tells_urgent ? 0 : LIO_TRAIT_CUTS;
#if defined(SO_PROTOCOL)
    int protocol = 0;
    socklen_t length = sizeof protocol;
    b->stats.syscalls++;
    if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) == 0 &&
        protocol == IPPROTO_TCP)
        traits |= LIO_TRAIT_TCP;
#else
    (void)b, (void)fd;
#endif
    return traits;
}

int lio_poller_adopt(lio_backend *b, lio_fd_entry *entry, lio_fd number)
{
    lio_poller *p = lio_poller_of(b);
    int fd = (int)number;
    if (!(b->capabilities & LIO_CAP_EDGE_TRIGGERED))
        return 0;
    lio_poller_next_round(p);
    if (lio_poller_is_guarded(b, entry))
        lio_poller_verify(b, entry, fd); /* what waited here for a file that is gone */
    int adopted = p->os->half->adopt(b, p->os, entry, fd);
    if (adopted <= 0)
        return adopted;
    entry->round = 0; /* lio_adopt notes the identity */
    entry->remembered = p->os->half->remember != NULL;
    entry->armed = 0;
    entry->stream = traits_of(b, fd);
    entry->ready = (entry->ready & LIO_READY_HUNGRY) | LIO_READY_BOTH; /* not known yet: try */
    return 1;
}

void lio_poller_received(lio_fd_entry *entry, uint64_t wanted, int64_t count)
{
    bool drained = lio_poller_drains(entry->stream, wanted, count);
    if (count == -EAGAIN || (drained && !(entry->ready & LIO_READY_ENDED)))
        entry->ready &= (uint8_t)~LIO_READY_READ;
}

/* Ends what works on a descriptor. What a thread is busy with has to end by itself: closing
 * the descriptor under it would let it work on another file. */
static void settle(lio_backend *b, lio_fd_entry *entry)
{
    lio_poller *p = lio_poller_of(b);
    for (uint32_t number = entry->ops.head, next; number != LIO_NO_SLOT; number = next) {
        lio_slot *slot = lio_slot_at(&b->store, number);
        next = slot->fd_next;
        if (slot->linked == LIO_LIST_PARKED) {
            lio_poller_finish_early(b, number, -ECANCELED);
        } else if (slot->stage == LIO_STAGE_POOL) {
            lio_file_job *job = lio_poller_job_of(b, number);
            bool queued = lio_poller_take_from_pool(b, number);
            if (!queued) {
                lio_file_pool_finish(p->files, job);
                p->jobs--;
                b->stats.syscalls++;
            }
            if (queued || (job->result == -EAGAIN && slot->op.opcode == LIO_SPLICE))
                lio_poller_finish_early(b, number, -ECANCELED);
            else
                lio_poller_finish(b, number, job->result, -1, -1);
        }
    }
    for (int direction = LIO_READER; direction <= LIO_WRITER; direction++) {
        while (entry->parked[direction].head != LIO_NO_SLOT) /* splices to here */
            lio_poller_finish_early(b, entry->parked[direction].head, -ECANCELED);
    }
}

int lio_poller_release_fd(lio_backend *b, lio_fd_entry *entry, lio_fd number)
{
    lio_poller *p = lio_poller_of(b);
    int fd = (int)number;
    lio_poller_next_round(p);
    if (entry->adopted)
        (void)lio_poller_verify(b, entry, fd); /* another file by now: its own end, -EBADF */
    settle(b, entry);
    if (entry->adopted || entry->armed)
        p->os->half->forget(b, p->os, entry, fd);
    entry->armed = 0;
    entry->ready &= LIO_READY_HUNGRY;
    entry->stream = 0;
    entry->round = 0;
    lio_poller_announce(b);
    return 0;
}
