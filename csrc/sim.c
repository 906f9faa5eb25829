/* sim.c: the simulated kernel. Its engine takes operations and completes them in an order that
 * a seed decides: anything that the contract allows, and as seldom as possible what a program
 * expects.
 *
 * What is simulated and what is not. Programs bring descriptors of their own: Trio waits on a
 * socket pair in every run, trio.socket makes its sockets with the standard library, tests
 * hold the other end of a pair. These are real and stay real. An operation on one of them is
 * one attempt of a system call that does not block (lio_poller_try), with poll(2) to tell
 * when it is worth another; what is adversarial is *when* and in which order. Regular files
 * are worked on in place: this backend is for tests, and may block for a disk. (Only an open
 * of a FIFO, which waits for its other end, is a thread's.)
 *
 * What lio_sim_socket, lio_sim_pair, lio_sim_pipe and lio_sim_open make exists in this process
 * only: sockets with addresses, pipes, files, in plain memory, down to the size of each buffer
 * and the length of each transfer decided by the seed. On such objects nothing depends on the
 * machine, so the same seed and the same calls are the same run: lio_stats.trace is a hash
 * over what completed, with what, in which order.
 *
 * Such an object has a *placeholder*: a real descriptor, one end of a socket pair whose other
 * end is ours. So its number is taken as any other, adopting, closing, dup(2) and descriptor
 * passing work, and the object dies when the last copy of the placeholder is closed, which our
 * end sees as a hang-up. It is found by device and inode, not by number. A system call on it
 * that goes past us fails (EPIPE) or has nothing to receive; it never seems to work.
 *
 * Order. In one direction of one descriptor, operations are tried in the order of their push,
 * as in the poller; between descriptors and directions the seed decides.
 *
 * Faults (short transfers, resets, delays, late cancels, signals) are not made here: faults.c
 * lays them over this backend as over any other.
 *
 * Time is the clock's, or virtual (lio_options.virtual_time): then it stands still as long as
 * anything can go on, and jumps to the next timer or the end of the wait when nothing can. An
 * operation on something real keeps it from jumping. */
#include "sim.h"
#include "sigpipe.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RETRY_NS INT64_C(1000000)
#define CLOSE_PATIENCE_NS INT64_C(10000000000)

int64_t lio_sim_now(const lio_backend *b)
{
    const lio_sim *sim = lio_sim_of(b);
    return sim->virtual_time ? sim->now : lio_now();
}

/* -- the end of an operation ------------------------------------------------------- */

static void unpark(lio_backend *b, uint32_t number)
{
    lio_sim *sim = lio_sim_of(b);
    lio_slot *slot = lio_slot_at(&b->store, number);
    if (slot->linked == LIO_LIST_PARKED) {
        lio_list_remove(&b->store, &sim->pending, number);
        sim->pending_count--;
    }
    if (slot->aux != 0)
        lio_timers_remove(&sim->attempts.timers, &b->store, number);
}

/* FNV-1a. */
static void trace(lio_backend *b, const void *bytes, size_t size)
{
    uint64_t hash = b->stats.trace == 0 ? UINT64_C(0xCBF29CE484222325) : b->stats.trace;
    for (const uint8_t *at = bytes; size-- != 0; at++)
        hash = (hash ^ *at) * UINT64_C(0x100000001B3);
    b->stats.trace = hash;
}

static void finish(lio_backend *b, uint32_t number, int64_t result, int64_t data,
                   int64_t detail)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    unpark(b, number);
    trace(b, &slot->id, sizeof slot->id);
    trace(b, &result, sizeof result);
    if (data >= 0 && result > 0)
        trace(b, b->pool + data, (size_t)result);
    b->stats.cancelled += result == -ECANCELED;
    lio_store_complete(&b->store, number, result, data, detail);
}

static void finish_early(lio_backend *b, uint32_t number, int64_t error)
{
    uint64_t moved = lio_slot_at(&b->store, number)->moved;
    bool partly = moved != 0 && error == -ECANCELED;
    finish(b, number, partly ? (int64_t)moved : error, -1, -1);
}

/* -- identity ---------------------------------------------------------------------- */

static bool look_at(lio_backend *b, lio_fd fd, uint64_t identity[2])
{
    struct stat st;
    b->stats.syscalls++;
    if (fstat((int)fd, &st) != 0)
        return false;
    identity[0] = (uint64_t)st.st_dev;
    identity[1] = (uint64_t)st.st_ino;
    return true;
}

/* Notes which files an operation is about. An adopted number stands for the file that it was
 * then. */
static void note_ends(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_slot_extra *extra = lio_extra_at(&b->store, number);
    const lio_fd ends[2] = {slot->op.fd, slot->op.fd2};
    const bool has[2] = {lio_opcode_has_fd(slot->op.opcode),
                         lio_opcode_has_fd2(slot->op.opcode)};
    for (int i = 0; i < 2; i++) {
        const lio_fd_entry *entry = has[i] ? lio_fd_find(&b->store, ends[i]) : NULL;
        if (entry != NULL && entry->adopted)
            memcpy(extra->identity[i], entry->identity, sizeof entry->identity);
        else if (!has[i] || !look_at(b, ends[i], extra->identity[i]))
            continue;
        slot->by_number |= i == 0 ? SIM_MARK_FD : SIM_MARK_FD2;
    }
}

/* The number of an adopted file is another's: all that was pushed for it ends. in_use: then
 * polls may end as if woken for no reason. */
static void abandon(lio_backend *b, lio_fd_entry *entry, bool in_use)
{
    while (entry->gate.head != LIO_NO_SLOT) /* first, lest the gate opens for them */
        finish(b, entry->gate.head, -EBADF, -1, -1);
    while (entry->ops.head != LIO_NO_SLOT) {
        const lio_slot *slot = lio_slot_at(&b->store, entry->ops.head);
        bool spurious = slot->op.opcode == LIO_POLL && in_use;
        finish(b, entry->ops.head, spurious ? (int64_t)slot->op.flags : -EBADF, -1, -1);
    }
    entry->adopted = 0;
    entry->lost = 1;
}

/* Whether the numbers still name those files; else the operation has been settled, and perhaps
 * others with it. */
static bool verify_ends(lio_backend *b, uint32_t number)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    const lio_slot_extra *extra = lio_extra_at(&b->store, number);
    const lio_fd ends[2] = {slot->op.fd, slot->op.fd2};
    for (int i = 0; i < 2; i++) {
        uint64_t now[2];
        if (!(slot->by_number & (i == 0 ? SIM_MARK_FD : SIM_MARK_FD2)))
            continue;
        bool open = look_at(b, ends[i], now);
        if (open && memcmp(now, extra->identity[i], sizeof now) == 0)
            continue;
        lio_fd_entry *entry = lio_fd_find(&b->store, ends[i]);
        bool spurious = slot->op.opcode == LIO_POLL && open;
        if (entry != NULL && entry->adopted)
            abandon(b, entry, open);
        if (slot->state != LIO_STATE_DONE)
            finish(b, number, spurious ? (int64_t)slot->op.flags : -EBADF, -1, -1);
        return false;
    }
    return true;
}

/* -- one operation ----------------------------------------------------------------- */

/* Polls wait for nobody, nor does what asks for something beside the data. */
static bool waits_its_turn(const lio_op *op)
{
    return op->opcode != LIO_POLL && !lio_poller_is_aside(op) && lio_poller_direction(op) >= 0;
}

static bool is_first(lio_backend *b, uint32_t number)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    if (!waits_its_turn(&slot->op))
        return true;
    int direction = lio_poller_direction(&slot->op);
    uint32_t other = lio_fd_find(&b->store, slot->op.fd)->ops.head;
    for (; other != number; other = lio_slot_at(&b->store, other)->fd_next) {
        const lio_slot *before = lio_slot_at(&b->store, other);
        if (before->linked == LIO_LIST_PARKED && waits_its_turn(&before->op) &&
            lio_poller_direction(&before->op) == direction)
            return false;
    }
    return true;
}

/* An open of a FIFO waits for its other end, and would stop everything: a thread does it. */
static bool opens_fifo(lio_backend *b, const lio_op *op)
{
    struct stat st;
    if (op->opcode != LIO_OPENAT || op->flags & O_NONBLOCK)
        return false;
    b->stats.syscalls++;
    return fstatat((int)op->fd, op->path, &st, 0) == 0 && S_ISFIFO(st.st_mode);
}

static lio_attempt perform(lio_backend *b, lio_slot *slot)
{
    if (opens_fifo(b, &slot->op))
        return (lio_attempt){.verdict = LIO_BLOCKS};
    b->stats.syscalls++;
    int64_t result = lio_file_perform(&slot->op, slot->moved);
    if (result == -EAGAIN && lio_opcode_has_fd2(slot->op.opcode)) {
        slot->stage = LIO_STAGE_POOL; /* has it find out which end was not ready */
        return (lio_attempt){.verdict = LIO_AGAIN};
    }
    return sim_done(result);
}

static uint8_t traits_of(lio_backend *b, const lio_op *op)
{
    struct stat st;
    if (op->opcode != LIO_READ && op->opcode != LIO_WRITE)
        return 0;
    b->stats.syscalls++;
    bool is_file = fstat((int)op->fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
    return is_file ? LIO_TRAIT_FILE : 0;
}

static lio_attempt attempt(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    uint8_t opcode = slot->op.opcode;
    if (slot->by_number & SIM_MARK_FD) {
        sim_object *object =
            lio_sim_find(lio_sim_of(b), lio_extra_at(&b->store, number)->identity[0]);
        if (object != NULL)
            return lio_sim_try(b, object, number);
    }
    if (opcode == LIO_CLOSE || lio_opcode_is_file(opcode))
        return perform(b, slot);
    lio_attempt tried = lio_poller_try(b, number, traits_of(b, &slot->op));
    return tried.verdict == LIO_BLOCKS ? perform(b, slot) : tried;
}

static bool give_to_pool(lio_backend *b, uint32_t number)
{
    lio_poller *p = &lio_sim_of(b)->attempts;
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_file_job *job = lio_poller_job_of(b, number);
    job->op = slot->op;
    job->moved = 0;
    job->number = number;
    int error = lio_file_job_prepare(job);
    if (error == 0)
        error = lio_file_pool_add(p->files, job);
    if (error != 0) {
        finish(b, number, error, -1, -1);
        return true;
    }
    slot->by_number |= SIM_MARK_JOB;
    p->jobs++;
    return false;
}

static void take_finished(lio_backend *b)
{
    lio_poller *p = &lio_sim_of(b)->attempts;
    lio_file_job *job;
    while (p->jobs != 0 && (job = lio_file_pool_take(p->files)) != NULL) {
        p->jobs--;
        finish(b, job->number, job->result, -1, -1);
    }
}

/* Tries an operation; whether anything came of it. */
static bool run_one(lio_backend *b, uint32_t number)
{
    lio_sim *sim = lio_sim_of(b);
    lio_slot *slot = lio_slot_at(&b->store, number);
    if (!verify_ends(b, number))
        return true;
    uint64_t moved = slot->moved;
    lio_attempt tried = attempt(b, number);
    switch ((enum lio_verdict)tried.verdict) {
    case LIO_DONE:
        finish(b, number, tried.result, tried.data, tried.detail);
        return true;
    case LIO_NOT_READY:
        if (lio_poller_never_waits(&slot->op)) {
            finish(b, number, slot->moved != 0 ? (int64_t)slot->moved : -EAGAIN, -1, -1);
            return true;
        }
        if (lio_opcode_has_fd2(slot->op.opcode))
            slot->stage = tried.on_fd2 ? LIO_STAGE_FD2 : LIO_STAGE_NEW;
        slot->by_number |= SIM_MARK_WAITS;
        return slot->moved != moved;
    case LIO_NO_ROOM:
        return false; /* results are at hand: their records have to be read first */
    case LIO_AGAIN:
        return true;
    case LIO_LATER:
        slot->by_number |= SIM_MARK_LATER;
        if (sim->retry_at == INT64_MAX)
            sim->retry_at = lio_now() + RETRY_NS;
        return false;
    case LIO_BLOCKS:
        return give_to_pool(b, number);
    }
    assert(!"a verdict");
    return false;
}

/* -- turns ------------------------------------------------------------------------- */

static int reserve(lio_sim *sim, uint32_t capacity)
{
    if (capacity <= sim->room)
        return 0;
    int error = lio_timers_reserve(&sim->attempts.timers, capacity);
    if (error != 0)
        return error;
    uint32_t *order = realloc(sim->order, (size_t)capacity * sizeof *order);
    if (order == NULL)
        return -ENOMEM;
    sim->order = order;
    sim->room = capacity;
    return 0;
}

static int take_queued(lio_backend *b)
{
    lio_sim *sim = lio_sim_of(b);
    int error = reserve(sim, b->store.capacity);
    uint32_t number;
    while (error == 0 && (number = lio_store_next(&b->store)) != LIO_NO_SLOT) {
        lio_slot *slot = lio_slot_at(&b->store, number);
        b->stats.flushed++;
        if (slot->op.opcode == LIO_TIMEOUT) {
            int64_t now = lio_sim_now(b), wanted = slot->op.offset;
            lio_timers_add(&sim->attempts.timers, &b->store, number,
                           wanted > INT64_MAX - now ? INT64_MAX : now + wanted);
            continue;
        }
        note_ends(b, number);
        lio_list_append(&b->store, &sim->pending, number, LIO_LIST_PARKED);
        sim->pending_count++;
    }
    return error;
}

static void expire_timers(lio_backend *b)
{
    lio_timer_heap *timers = &lio_sim_of(b)->attempts.timers;
    if (lio_timers_first(timers) == INT64_MAX)
        return;
    int64_t now = lio_sim_now(b);
    while (lio_timers_first(timers) <= now)
        finish(b, timers->timers[0].number, -LIO_ETIME, -1, -1);
}

static void retry(lio_backend *b)
{
    lio_sim *sim = lio_sim_of(b);
    if (sim->retry_at == INT64_MAX || sim->retry_at > lio_now())
        return;
    sim->retry_at = INT64_MAX;
    for (uint32_t n = sim->pending.head; n != LIO_NO_SLOT; n = lio_slot_at(&b->store, n)->next)
        lio_slot_at(&b->store, n)->by_number &= (uint8_t)~SIM_MARK_LATER;
}

/* Goes once through what may be able to go on, in the order that the seed gives. */
static bool pass(lio_backend *b)
{
    lio_sim *sim = lio_sim_of(b);
    uint32_t count = 0;
    bool progress = lio_sim_bury(sim);
    for (uint32_t n = sim->pending.head; n != LIO_NO_SLOT;
         n = lio_slot_at(&b->store, n)->next) {
        const lio_slot *slot = lio_slot_at(&b->store, n);
        if (!(slot->by_number & (SIM_MARK_WAITS | SIM_MARK_LATER | SIM_MARK_JOB)))
            sim->order[count++] = n;
    }
    for (uint32_t i = count; i > 1; i--) {
        uint32_t other = (uint32_t)lio_random_below(&sim->random, i);
        uint32_t number = sim->order[i - 1];
        sim->order[i - 1] = sim->order[other];
        sim->order[other] = number;
    }
    for (uint32_t i = 0; i < count; i++) {
        const lio_slot *slot = lio_slot_at(&b->store, sim->order[i]);
        if (slot->linked == LIO_LIST_PARKED && is_first(b, sim->order[i]))
            progress = run_one(b, sim->order[i]) || progress;
    }
    return progress;
}

/* What waits for an object goes by no poll(2): whatever happened may have been for it. */
static void rouse(lio_backend *b)
{
    lio_sim *sim = lio_sim_of(b);
    if (sim->objects == NULL)
        return;
    for (uint32_t n = sim->pending.head; n != LIO_NO_SLOT;
         n = lio_slot_at(&b->store, n)->next) {
        lio_slot *slot = lio_slot_at(&b->store, n);
        if (slot->by_number & SIM_MARK_FD &&
            lio_sim_find(sim, lio_extra_at(&b->store, n)->identity[0]) != NULL)
            slot->by_number &= (uint8_t)~SIM_MARK_WAITS;
    }
}

/* A number may have been closed behind our back and be another file's: its events are not for
 * those who wait here, and theirs will never come. */
static void verify_waiting(lio_backend *b)
{
    const lio_list *pending = &lio_sim_of(b)->pending;
    for (uint32_t number = pending->head; number != LIO_NO_SLOT;) {
        const lio_slot *slot = lio_slot_at(&b->store, number);
        bool gone = slot->by_number & SIM_MARK_WAITS && !verify_ends(b, number);
        number = gone ? pending->head : slot->next;
    }
}

/* All that goes on without waiting. */
static int go_on(lio_backend *b)
{
    int error;
    bool progress;
    verify_waiting(b);
    do {
        error = take_queued(b);
        take_finished(b);
        retry(b);
        progress = error == 0 && pass(b);
        if (progress)
            rouse(b);
        expire_timers(b);
    } while (progress && b->store.done_count == 0);
    return error;
}

static bool is_due(const lio_backend *b)
{
    return b->store.done_count != 0 || b->woken;
}

static void publish(lio_backend *b)
{
    lio_sim_publish(b, b->store.queue.head != LIO_NO_SLOT);
}

/* Virtual time: nothing can go on, so it is later. */
static bool jumps(lio_backend *b, int64_t deadline_ns)
{
    lio_sim *sim = lio_sim_of(b);
    int64_t first = lio_timers_first(&sim->attempts.timers);
    int64_t until = first < deadline_ns ? first : deadline_ns;
    if (!sim->virtual_time || until == INT64_MAX || lio_sim_waits_for_real(b))
        return false;
    sim->now = until > sim->now ? until : sim->now;
    return true;
}

static int64_t time_until(int64_t now, int64_t until)
{
    if (until == INT64_MAX)
        return -1;
    return until > now ? until - now : 0;
}

/* Blocks until something real is ready, a timer is due or the time is over. */
static int block(lio_backend *b, int64_t deadline_ns)
{
    lio_sim *sim = lio_sim_of(b);
    int64_t first = lio_timers_first(&sim->attempts.timers);
    int64_t until = first < deadline_ns ? first : deadline_ns;
    if (sim->virtual_time && until != INT64_MAX) {
        /* Held by something real: virtual time passes as real time does. */
        int64_t begun = lio_now();
        int error = lio_sim_look(b, time_until(sim->now, until));
        sim->now += lio_now() - begun;
        return error;
    }
    if (sim->retry_at < until)
        until = sim->retry_at;
    return lio_sim_look(b, until == INT64_MAX ? -1 : time_until(lio_now(), until));
}

static int sim_turn(lio_backend *b, int64_t deadline_ns)
{
    int error = 0;
    for (bool looked = false;;) {
        error = go_on(b);
        if (error != 0)
            break;
        if (is_due(b) || looked || deadline_ns == 0) {
            /* Never without asking: real events must not starve. */
            error = looked ? 0 : lio_sim_look(b, 0);
            if (error == 0 && !looked)
                error = go_on(b);
            if (error != 0 || is_due(b) || deadline_ns == 0)
                break;
        }
        looked = false;
        if (jumps(b, deadline_ns)) {
            expire_timers(b);
        } else {
            error = block(b, deadline_ns);
            looked = true;
            if (error != 0)
                break;
        }
        if (!is_due(b) && deadline_ns != INT64_MAX && lio_sim_now(b) >= deadline_ns)
            deadline_ns = 0;
    }
    publish(b);
    return error;
}

static int sim_submit(lio_backend *b)
{
    int error = go_on(b);
    publish(b);
    return error;
}

static int sim_cancel(lio_backend *b, uint32_t number)
{
    lio_poller *p = &lio_sim_of(b)->attempts;
    if (lio_slot_at(&b->store, number)->by_number & SIM_MARK_JOB) {
        if (!lio_file_pool_cancel(p->files, lio_poller_job_of(b, number)))
            return 0; /* runs, and ends by itself */
        p->jobs--;
    }
    finish_early(b, number, -ECANCELED);
    return 0;
}

/* -- descriptors ------------------------------------------------------------------- */

/* Files as well as sockets; lio_adopt notes the identity, and that is all there is to it. */
static int sim_adopt(lio_backend *b, lio_fd_entry *entry, lio_fd fd)
{
    /* What waited here for a file that is gone. */
    for (uint32_t number = entry->ops.head; number != LIO_NO_SLOT;) {
        const lio_slot *slot = lio_slot_at(&b->store, number);
        bool gone = slot->linked == LIO_LIST_PARKED && !verify_ends(b, number);
        number = gone ? entry->ops.head : slot->fd_next;
    }
    (void)fd;
    return 1;
}

static int sim_release_fd(lio_backend *b, lio_fd_entry *entry, lio_fd fd)
{
    for (uint32_t number = entry->ops.head; number != LIO_NO_SLOT;) {
        const lio_slot *slot = lio_slot_at(&b->store, number);
        bool parked = slot->linked == LIO_LIST_PARKED;
        if (parked && verify_ends(b, number))
            finish_early(b, number, -ECANCELED);
        number = parked ? entry->ops.head : slot->fd_next;
    }
    (void)fd;
    lio_sim_evict(b);
    return 0;
}

/* -- life -------------------------------------------------------------------------- */

/* Needs nothing that a POSIX system may lack, but a descriptor for the wake-up. */
static void sim_probe(uint32_t without, lio_probe_result *result)
{
    (void)without;
    result->error = lio_sim_try_bell();
    if (result->error != 0)
        snprintf(result->reason, sizeof result->reason, "no descriptor for the wake-up: %s",
                 strerror(-result->error));
}

static int open_all(lio_backend *b, lio_sim *sim)
{
    int error = reserve(sim, b->store.capacity);
    if (error == 0)
        error = lio_sim_open_bells(b, sim);
    if (error != 0)
        return error;
    sim->attempts.files = lio_file_pool_new(lio_sim_job_done, sim);
    if (sim->attempts.files == NULL)
        return -ENOMEM;
    void *pool = mmap(NULL, 2 * LIO_ARENA_SIZE + b->pool_reserve, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pool == MAP_FAILED)
        return -errno;
    b->pool = pool;
    sim->attempts.arena.base = pool;
    b->pool_size = 2 * LIO_ARENA_SIZE + b->pool_reserve;
    b->receive_max = LIO_RECEIVE_MAX;
    return 0;
}

static void free_all(lio_backend *b, lio_sim *sim)
{
    if (b->pool != NULL)
        munmap(b->pool, b->pool_size);
    b->pool = NULL;
    b->pool_size = 0;
    lio_timers_free(&sim->attempts.timers);
    lio_sim_free_objects(sim);
    lio_sim_close_bells(sim);
    free(sim->order);
    free(sim->polled);
    free(sim->polled_slots);
    free(sim->watched);
    pthread_cond_destroy(&sim->left);
    pthread_mutex_destroy(&sim->lock);
    free(sim);
    b->state = NULL;
}

static int sim_init(lio_backend *b)
{
    lio_sim *sim = calloc(1, sizeof *sim);
    if (sim == NULL)
        return -ENOMEM;
    if (pthread_mutex_init(&sim->lock, NULL) != 0) {
        free(sim);
        return -ENOMEM;
    }
    if (pthread_cond_init(&sim->left, NULL) != 0) {
        pthread_mutex_destroy(&sim->lock);
        free(sim);
        return -ENOMEM;
    }
    sim->pending = (lio_list){LIO_NO_SLOT, LIO_NO_SLOT};
    sim->random.state = b->seed;
    sim->virtual_time = b->virtual_time;
    sim->retry_at = sim->watched_until = INT64_MAX;
    sim->wake_read = sim->nudge[0] = sim->nudge[1] = -1;
    sim->job_bell[0] = sim->job_bell[1] = -1;
    b->spin.limit_ns = 0; /* speed is no matter here */
    sim->attempts.guard_sigpipe = lio_sigpipe_kills();
    b->state = sim;
    int error = open_all(b, sim);
    if (error != 0) {
        if (sim->attempts.files != NULL)
            lio_file_pool_close(sim->attempts.files, 0);
        free_all(b, sim);
        if (b->wake_fd >= 0)
            close(b->wake_fd); /* another try makes its own */
        b->wake_fd = -1;
    }
    return error;
}

static bool sim_supports(const lio_backend *b, const lio_op *op)
{
    (void)b;
#if defined(__linux__)
    return op->opcode != LIO_OPCODE_COUNT;
#else
    return op->opcode != LIO_TEE && op->opcode != LIO_SPLICE && op->opcode != LIO_STATX;
#endif
}

static void sim_recycle(lio_backend *b)
{
    lio_arena_recycle(&lio_sim_of(b)->attempts.arena);
}

static void sim_handed_out(lio_backend *b)
{
    lio_arena_handed_out(&lio_sim_of(b)->attempts.arena);
}

/* What the pool has not begun never begins; what runs there is waited for. */
static bool end_jobs(lio_backend *b, lio_sim *sim)
{
    for (uint32_t n = sim->pending.head; n != LIO_NO_SLOT;
         n = lio_slot_at(&b->store, n)->next) {
        if (lio_slot_at(&b->store, n)->by_number & SIM_MARK_JOB)
            lio_file_pool_cancel(sim->attempts.files, lio_poller_job_of(b, n));
    }
    return lio_file_pool_close(sim->attempts.files, CLOSE_PATIENCE_NS);
}

static void sim_close(lio_backend *b, bool forked)
{
    lio_sim *sim = lio_sim_of(b);
    bool ended = true;
    if (forked)
        lio_file_pool_forget(sim->attempts.files);
    else
        ended = end_jobs(b, sim);
    for (uint32_t number = b->store.done.head; number != LIO_NO_SLOT;) {
        const lio_slot *slot = lio_slot_at(&b->store, number);
        lio_poller_discard(b, slot);
        number = slot->next;
    }
    free_all(b, sim);
    /* A thread still writes to its job: rather leak it. */
    if (!ended)
        memset(&b->store, 0, sizeof b->store);
}

const lio_vtable lio_sim_vtable = {
    .name = "sim",
    .probe = sim_probe,
    .init = sim_init,
    .supports = sim_supports,
    .submit = sim_submit,
    .turn = sim_turn,
    .cancel = sim_cancel,
    .adopt = sim_adopt,
    .release_fd = sim_release_fd,
    .recycle = sim_recycle,
    .handed_out = sim_handed_out,
    .wake = lio_sim_wake,
    .wait_ready = lio_sim_wait_ready,
    .reset = lio_sim_reset,
    .now = lio_sim_now,
    .close = sim_close,
};
