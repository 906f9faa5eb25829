/* uring.c: backend "uring": the kernel completes operations.
 *
 * One io_uring_enter a tick hands over all that was pushed, runs the task work that is due
 * and waits. With DEFER_TASKRUN the kernel completes nothing behind our back, and
 * TASKRUN_FLAG shows in shared memory whether there is work: a tick with nothing to submit
 * and nothing due makes no system call.
 *
 * A descriptor number in a submission entry means whatever file has that number when the
 * kernel reads the entry. lio_adopt puts a file into the ring's table of registered files,
 * at the index of its number: from then on entries name the file itself, whoever closes and
 * reuses the number meanwhile; lio_fd_entry.armed says that it is there. Where the kernel has
 * no such table the file is compared before each submission. Descriptors that nobody adopted
 * keep their number, and their operations should be flushed with their push.
 */
#include "uring.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "uring_encode.h"
#include "uring_lookout.h"
#include "uring_probe.h"

#define SQ_ENTRIES 256u
#define CQ_ENTRIES 4096u
#define FILE_TABLE_MAX 65536u
#define FILE_WORKERS 8u
#define CLOSE_PATIENCE_NS INT64_C(10000000000)
#define RELEASE_PATIENCE_NS INT64_C(100000000)

/* -- submission -------------------------------------------------------------------- */

/* Watches one of our own descriptors. False: no room, try at the next turn. */
static bool add_watch(uring_state *state, int fd, uint64_t token)
{
    struct uring_sqe *sqe = lio_ring_sqe(&state->ring);
    if (sqe == NULL)
        return false;
    lio_uring_encode_poll(sqe, fd, LIO_POLL_READ);
    sqe->user_data = token;
    return true;
}

static bool add_cancel(uring_state *state, uint64_t token)
{
    struct uring_sqe *sqe = lio_ring_sqe(&state->ring);
    if (sqe == NULL)
        return false;
    sqe->opcode = URING_OP_ASYNC_CANCEL;
    sqe->fd = -1;
    sqe->addr = token;
    sqe->user_data = TOKEN_INTERNAL;
    if (state->entries_skip)
        sqe->flags = URING_SQE_CQE_SKIP_SUCCESS;
    return true;
}

/* Cancels that found no room go before anything new. Rare: walks all slots. */
static void add_due_cancels(lio_backend *b)
{
    uring_state *state = lio_uring_of(b);
    uint32_t slots = b->store.fresh;
    for (uint32_t number = 0; number < slots && state->cancels_due != 0; number++) {
        lio_slot *slot = lio_slot_at(&b->store, number);
        if (slot->state != LIO_STATE_CANCELLING || !slot->cancel_due)
            continue;
        if (!add_cancel(state, lio_store_token(slot, number)))
            return;
        slot->cancel_due = 0;
        state->cancels_due--;
    }
}

/* Submits the entries that the ring's queue has, without collecting. An old kernel stops
 * after an entry that it refuses, and any stops when it is short of memory. */
static int hand_over(lio_backend *b)
{
    lio_ring *ring = &lio_uring_of(b)->ring;
    uint32_t left;
    while ((left = lio_ring_unsubmitted(ring)) != 0) {
        int done = lio_ring_enter(ring, 0, 0, false);
        if (done == -EBUSY) { /* a backlog of completions: make room first */
            lio_uring_reap(b);
            done = lio_ring_enter(ring, 0, 0, true);
        }
        if (lio_ring_unsubmitted(ring) == left)
            return done < 0 && done != -EBUSY && done != -EINTR ? done : -EAGAIN;
    }
    return 0;
}

/* Makes submission entries of what is queued, and submits only when the ring's queue is
 * full: the rest goes down with the enter that collects. */
static int fill(lio_backend *b)
{
    uring_state *state = lio_uring_of(b);
    uint32_t limit = b->store.queued; /* what comes back meanwhile waits for the next round */
    bool alone = limit == 1 && lio_ring_unsubmitted(&state->ring) == 0;
    if (!state->wake_armed)
        state->wake_armed = add_watch(state, b->wake_fd, TOKEN_WAKE);
    if (state->half_closed.waiting != 0 && !state->half_closed.armed)
        state->half_closed.armed = add_watch(state, state->half_closed.fd, TOKEN_HALF_CLOSED);
    if (state->cancels_due != 0)
        add_due_cancels(b);
    while (limit-- != 0 && b->store.queue.head != LIO_NO_SLOT) {
        if (lio_ring_unsubmitted(&state->ring) == state->ring.sq_entries) {
            int error = hand_over(b);
            if (lio_ring_unsubmitted(&state->ring) == state->ring.sq_entries)
                return error;
        }
        uint32_t number = lio_store_next(&b->store);
        if (number == LIO_NO_SLOT)
            break;
        lio_uring_add_operation(b, number);
        if (alone && lio_spin_is_on(&b->spin))
            lio_uring_look_out(b, number);
    }
    return 0;
}

/* With DEFER_TASKRUN the kernel tells nobody who polls the ring that there is work to run: a
 * poll that begins later sees it, one that sleeps sleeps on. It does tell an eventfd. That
 * costs a little with every completion, so there is none until somebody waits that way. */
static void make_bell(lio_backend *b)
{
    uring_state *state = lio_uring_of(b);
    if (state->bell_fd >= 0 || !(state->ring.capabilities & LIO_CAP_DEFER_TASKRUN))
        return;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return;
    if (lio_ring_register(&state->ring, URING_REGISTER_EVENTFD, &fd, 1) < 0)
        close(fd);
    else
        __atomic_store_n(&state->bell_fd, fd, __ATOMIC_RELEASE);
}

static void make_wanted_bell(lio_backend *b)
{
    if (__atomic_load_n(&lio_uring_of(b)->bell_wanted, __ATOMIC_RELAXED))
        make_bell(b);
}

/* What has yet to reach the kernel: a thread in lio_wait_ready would wait for it in vain. */
static void note_leftovers(lio_backend *b)
{
    const uring_state *state = lio_uring_of(b);
    const lio_half_closed *half = &state->half_closed;
    if (lio_ring_unsubmitted(&state->ring) != 0 || (half->waiting != 0 && !half->armed))
        __atomic_store_n(&b->unsubmitted, 1, __ATOMIC_SEQ_CST);
}

static int uring_submit(lio_backend *b)
{
    make_wanted_bell(b);
    int error = fill(b);
    if (error == 0)
        error = hand_over(b);
    note_leftovers(b);
    return error;
}

/* -- waiting ----------------------------------------------------------------------- */

/* 1: there is something to collect or a wake. 0: the time is over, or the bell only told of
 * what has been collected since. */
static int poll_fds(lio_backend *b, int64_t timeout_ns)
{
    const uring_state *state = lio_uring_of(b);
    int bell_fd = __atomic_load_n(&state->bell_fd, __ATOMIC_ACQUIRE);
    struct pollfd fds[3] = {{.fd = state->ring.fd, .events = POLLIN},
                            {.fd = b->wake_fd, .events = POLLIN},
                            {.fd = bell_fd, .events = POLLIN}};
    struct timespec ts = {.tv_sec = timeout_ns / 1000000000,
                          .tv_nsec = timeout_ns % 1000000000};
    int ready = ppoll(fds, 3, timeout_ns < 0 ? NULL : &ts, NULL);
    if (ready <= 0)
        return ready < 0 ? -errno : 0;
    if (fds[0].revents != 0 || fds[1].revents != 0)
        return 1;
    uint64_t rings;
    ssize_t done = read(bell_fd, &rings, sizeof rings);
    (void)done; /* another thread may have been quicker */
    return 0;
}

#define DEAF_SLICE_NS INT64_C(1000000)

static int uring_wait_ready(lio_backend *b, int64_t timeout_ns)
{
    uring_state *state = lio_uring_of(b);
    int64_t deadline = lio_deadline(timeout_ns);
    for (;;) {
        /* Only the owner may make the bell, and does when it is here next. */
        bool deaf = (state->ring.capabilities & LIO_CAP_DEFER_TASKRUN) &&
                    __atomic_load_n(&state->bell_fd, __ATOMIC_ACQUIRE) < 0;
        if (deaf)
            __atomic_store_n(&state->bell_wanted, true, __ATOMIC_RELAXED);
        bool sliced = deaf && (timeout_ns < 0 || timeout_ns > DEAF_SLICE_NS);
        int ready = poll_fds(b, sliced ? DEAF_SLICE_NS : timeout_ns);
        if (ready > 0 || (ready < 0 && ready != -EINTR))
            return ready;
        if (deadline == INT64_MAX)
            continue;
        timeout_ns = deadline - lio_now();
        if (timeout_ns <= 0)
            return 0;
    }
}

/* Collects without waiting, if there is anything to submit or to collect. */
static int collect(lio_backend *b)
{
    lio_ring *ring = &lio_uring_of(b)->ring;
    /* Without the flag only the kernel knows whether something is due: ask it, once. */
    bool ask = !(ring->capabilities & LIO_CAP_TASKRUN_FLAG);
    for (int round = 0; round < 64; round++) {
        uint32_t due = lio_ring_flags(ring) & (URING_SQ_TASKRUN | URING_SQ_CQ_OVERFLOW);
        if (due & URING_SQ_CQ_OVERFLOW)
            b->stats.overflow++;
        if (due == 0 && !ask && lio_ring_unsubmitted(ring) == 0)
            return 0;
        ask = false;
        int done = lio_ring_enter(ring, 0, 0, true);
        uint32_t count = lio_uring_reap(b);
        if (done < 0 && done != -EBUSY && done != -EAGAIN)
            return done;
        if (done <= 0 && count == 0)
            return 0;
    }
    return 0;
}

static void pause_shortly(lio_backend *b)
{
    const struct timespec moment = {.tv_nsec = 1000000};
    b->stats.syscalls++;
    nanosleep(&moment, NULL);
}

/* A kernel without time-outs of its own: the ring's descriptor tells when there is something
 * to collect. */
static int wait_by_poll(lio_backend *b, int64_t left)
{
    lio_ring *ring = &lio_uring_of(b)->ring;
    int done = lio_ring_enter(ring, 0, 0, true);
    if (done < 0 || lio_ring_peek(ring) != NULL || lio_ring_unsubmitted(ring) != 0)
        return done;
    b->stats.syscalls++;
    make_bell(b);
    done = poll_fds(b, left);
    return done < 0 ? done : lio_ring_enter(ring, 0, 0, true);
}

static bool shows_something(const lio_ring *ring)
{
    return lio_ring_peek(ring) != NULL ||
           (lio_ring_flags(ring) & (URING_SQ_TASKRUN | URING_SQ_CQ_OVERFLOW)) != 0;
}

/* Watches the shared memory for a moment. 1: something came and was taken; 0: nothing did, or
 * there is nothing to watch. */
static int watch_shortly(lio_backend *b, int64_t deadline_ns)
{
    lio_ring *ring = &lio_uring_of(b)->ring;
    int64_t until = lio_spin_until(&b->spin, deadline_ns);
    int done = 0;
    if (lio_ring_unsubmitted(ring) != 0 && !lio_uring_may_hold_back(b)) {
        done = lio_ring_enter(ring, 0, 0, true);
        if (done < 0 || lio_ring_unsubmitted(ring) != 0)
            return 0; /* whoever blocks sees to that */
    }
    if (lio_uring_reap(b) != 0)
        return 1;
    bool seen;
    while (!(seen = shows_something(ring)) && lio_now() < until)
        lio_relax();
    lio_spin_watched(&b->spin, seen);
    if (!seen)
        return 0;
    if (lio_ring_unsubmitted(ring) != 0 ||
        (lio_ring_flags(ring) & (URING_SQ_TASKRUN | URING_SQ_CQ_OVERFLOW)) != 0)
        done = lio_ring_enter(ring, 0, 0, true);
    lio_uring_reap(b);
    return done < 0 && done != -EBUSY && done != -EAGAIN && done != -EINTR ? done : 1;
}

/* Blocks for a completion. -EINTR: a signal came first. */
static int block(lio_backend *b, int64_t deadline_ns)
{
    lio_ring *ring = &lio_uring_of(b)->ring;
    if (lio_spin_is_on(&b->spin)) {
        int seen = watch_shortly(b, deadline_ns);
        if (seen != 0)
            return seen < 0 ? seen : 0;
    }
    bool learns = lio_spin_learns(&b->spin);
    int64_t since = learns ? lio_now() : 0;
    int64_t left = -1;
    if (deadline_ns != INT64_MAX) {
        left = deadline_ns - lio_now();
        if (left < 0)
            left = 0;
    }
    bool polls = left >= 0 && !(ring->capabilities & LIO_CAP_EXT_ARG);
    int done = polls ? wait_by_poll(b, left) : lio_ring_enter(ring, 1, left, true);
    if (learns)
        lio_spin_slept(&b->spin, lio_now() - since);
    if (lio_uring_reap(b) != 0 || done == -ETIME || done == -EBUSY)
        return 0;
    if (done == -EAGAIN || (done >= 0 && lio_ring_unsubmitted(ring) != 0)) {
        /* The kernel is short of memory for requests; ours stay in the queue. */
        pause_shortly(b);
        return 0;
    }
    if (done <= 0 || polls)
        return done < 0 ? done : 0;
    /* The kernel reports what it submitted rather than the signal that ended the wait. */
    return deadline_ns == INT64_MAX || lio_now() < deadline_ns ? -EINTR : 0;
}

static int uring_turn(lio_backend *b, int64_t deadline_ns)
{
    make_wanted_bell(b);
    for (int again = 0;;) {
        lio_uring_reap(b); /* before fill: what has to go once more goes now */
        int error = fill(b);
        if (error != 0 && error != -EAGAIN)
            return error;
        if (b->store.done_count != 0 || b->woken || deadline_ns == 0) {
            error = collect(b);
            if (error != 0)
                return error;
            /* The rest of a short send, a receive that found no buffer: they must be with
             * the kernel when this says that there was nothing. */
            bool nothing = b->store.done_count == 0 && !b->woken;
            if (nothing && b->store.queue.head != LIO_NO_SLOT && again++ < 16)
                continue;
            return 0;
        }
        error = block(b, deadline_ns);
        if (error != 0)
            return error;
        /* What has become due since can wait for the next turn, which is near. */
        if (b->store.done_count != 0 && b->store.queue.head == LIO_NO_SLOT &&
            lio_ring_unsubmitted(&lio_uring_of(b)->ring) == 0)
            return 0;
        if (b->store.done_count == 0 && !b->woken && deadline_ns != INT64_MAX &&
            lio_now() >= deadline_ns)
            deadline_ns = 0;
    }
}

/* -- cancel, descriptors ----------------------------------------------------------- */

static int uring_cancel(lio_backend *b, uint32_t number)
{
    uring_state *state = lio_uring_of(b);
    lio_slot *slot = lio_slot_at(&b->store, number);
    uint64_t token = lio_store_token(slot, number);
    if (slot->stage == STAGE_HALF_CLOSED) { /* the ring knows nothing of it */
        state->half_closed.waiting--;
        lio_uring_complete(b, number, slot->moved != 0 ? (int64_t)slot->moved : -ECANCELED, -1,
                           -1);
        return 0;
    }
    if (add_cancel(state, token))
        return 0;
    int done = lio_ring_enter(&state->ring, 0, 0, false);
    if (done >= 0 && add_cancel(state, token))
        return 0;
    slot->cancel_due = 1;
    state->cancels_due++;
    return 0;
}

static void make_file_table(lio_backend *b)
{
    uring_state *state = lio_uring_of(b);
    struct rlimit limit;
    state->table_refused = true;
    if (!(b->capabilities & LIO_CAP_FIXED_FILES) || getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    uint32_t size = limit.rlim_cur < FILE_TABLE_MAX ? (uint32_t)limit.rlim_cur : FILE_TABLE_MAX;
    if (lio_uring_register_files(&state->ring, size) != 0) {
        b->capabilities &= ~(uint32_t)LIO_CAP_FIXED_FILES;
        return;
    }
    state->table_size = size;
    state->table_refused = false;
}

static int uring_adopt(lio_backend *b, lio_fd_entry *entry, lio_fd fd)
{
    uring_state *state = lio_uring_of(b);
    if (state->table_size == 0 && !state->table_refused)
        make_file_table(b);
    if (fd < (lio_fd)state->table_size) {
        int error = lio_uring_update_file(&state->ring, (uint32_t)fd, (int32_t)fd);
        if (error != 0)
            return error;
        entry->armed = 1;
    }
    return 1;
}

/* Asks for the end of what the kernel has of one operation. False: it has nothing. */
static bool cancel_submitted(lio_backend *b, uint32_t number)
{
    uint8_t state = lio_slot_at(&b->store, number)->state;
    if (state == LIO_STATE_SUBMITTED) {
        lio_store_cancelling(&b->store, number);
        uring_cancel(b, number);
    }
    return state == LIO_STATE_SUBMITTED || state == LIO_STATE_CANCELLING;
}

/* The same for all of one descriptor; false: there is nothing. */
static bool cancel_all_of(lio_backend *b, const lio_fd_entry *entry, lio_fd fd)
{
    bool any = entry->lookout != 0;
    if (any)
        add_cancel(lio_uring_of(b), lio_uring_lookout_token(fd));
    uint32_t next;
    for (uint32_t number = entry->ops.head; number != LIO_NO_SLOT; number = next) {
        next = lio_slot_at(&b->store, number)->fd_next;
        any = cancel_submitted(b, number) || any;
    }
    for (uint32_t number = 0; b->store.pairs != 0 && number < b->store.fresh; number++) {
        if (lio_slot_reaches(lio_slot_at(&b->store, number), fd))
            any = cancel_submitted(b, number) || any;
    }
    return any;
}

/* A request holds its file: the peer would see no end before it is over. A file operation that
 * a kernel worker runs can take long; it is left to end by itself. */
static int end_all_of(lio_backend *b, const lio_fd_entry *entry, lio_fd fd)
{
    uring_state *state = lio_uring_of(b);
    int64_t until = 0;
    while (cancel_all_of(b, entry, fd)) {
        if (until == 0)
            until = lio_now() + RELEASE_PATIENCE_NS;
        else if (lio_now() > until)
            break;
        if (state->cancels_due != 0)
            add_due_cancels(b);
        int done = lio_ring_enter(&state->ring, 0, 0, true);
        if (done < 0 && done != -EINTR && done != -EBUSY && done != -EAGAIN)
            return done;
        if (lio_uring_reap(b) == 0)
            pause_shortly(b);
        if (lio_ring_peek(&state->ring) != NULL)
            break; /* no room for more addresses; the next wait has it */
    }
    return 0;
}

static int uring_release_fd(lio_backend *b, lio_fd_entry *entry, lio_fd fd)
{
    uring_state *state = lio_uring_of(b);
    int error = end_all_of(b, entry, fd);
    lio_half_closed_forget(&state->half_closed, (int)fd);
    if (!entry->armed)
        return error;
    entry->armed = 0;
    int left = lio_uring_update_file(&state->ring, (uint32_t)fd, -1);
    return error != 0 ? error : left;
}

/* -- life -------------------------------------------------------------------------- */

static bool uring_supports(const lio_backend *b, const lio_op *op)
{
    const uring_state *state = lio_uring_of(b);
    return state->offered[lio_uring_opcode(op->opcode)] ||
           lio_uring_runs_inline(state, op->opcode);
}

struct ring_to_open {
    lio_ring *ring;
    uint32_t without;
};

static int open_ring(void *argument)
{
    struct ring_to_open *wanted = argument;
    int error = lio_ring_open(wanted->ring, SQ_ENTRIES, CQ_ENTRIES, wanted->without);
    return error != 0 ? error : wanted->ring->fd;
}

static int uring_init(lio_backend *b)
{
    uring_state *state = calloc(1, sizeof *state);
    if (state == NULL)
        return -ENOMEM;
    state->bell_fd = -1;
    state->half_closed.fd = -1;
    struct ring_to_open wanted = {&state->ring, b->without};
    int fd = lio_make_fd(b, open_ring, &wanted);
    if (fd < 0) {
        free(state);
        return fd;
    }
    state->ring.fd = fd;
    int error = lio_uring_probe_opcodes(&state->ring, state->offered);
    if (error == 0)
        error = lio_uring_pool_init(&state->pool, b->store.capacity, b->pool_reserve);
    if (error == 0) {
        if (b->wake_fd < 0)
            b->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        error = b->wake_fd < 0 ? -errno : 0;
    }
    if (error != 0) {
        lio_ring_close(&state->ring, false);
        lio_uring_pool_free(&state->pool, false);
        free(state);
        return error;
    }
    /* Unbounded otherwise: a thousand reads of a slow disk would be a thousand threads. */
    uint32_t workers[2] = {FILE_WORKERS, FILE_WORKERS};
    lio_ring_register(&state->ring, URING_REGISTER_IOWQ_MAX_WORKERS, workers, 2);
    state->entries_skip = (state->ring.features & URING_FEAT_CQE_SKIP) != 0;
    b->state = state;
    b->pool = state->pool.base;
    b->pool_size = state->pool.size;
    b->receive_max = LIO_POOL_BUFFER;
    b->capabilities = state->ring.capabilities | (b->capabilities & LIO_CAP_WIPE_ON_FORK);
    if (!(b->capabilities & LIO_CAP_TASKRUN_FLAG))
        b->spin.limit_ns = 0; /* there is nothing to see */
    if (!(b->without & LIO_CAP_BUF_RING) &&
        lio_uring_pool_register(&state->pool, &state->ring) == 0)
        b->capabilities |= LIO_CAP_BUF_RING;
    if (!(b->without & LIO_CAP_FIXED_FILES))
        b->capabilities |= LIO_CAP_FIXED_FILES; /* as far as make_file_table finds them */
    return 0;
}

static void uring_recycle(lio_backend *b)
{
    uring_state *state = lio_uring_of(b);
    b->stats.syscalls += state->ring.syscalls;
    state->ring.syscalls = 0;
    lio_uring_pool_recycle(&state->pool);
}

static void uring_handed_out(lio_backend *b)
{
    uring_state *state = lio_uring_of(b);
    b->stats.syscalls += state->ring.syscalls;
    state->ring.syscalls = 0;
    lio_uring_pool_handed_out(&state->pool);
    note_leftovers(b);
}

static int uring_wake(lio_backend *b)
{
    const uint64_t one = 1;
    int saved = errno; /* a signal handler may call this */
    ssize_t done = write(b->wake_fd, &one, sizeof one);
    int error = done < 0 && errno != EAGAIN ? -errno : 0; /* EAGAIN: woken often enough */
    errno = saved;
    return error;
}

/* The descriptors that a message brought and nobody will take. */
static void discard_rights(const lio_slot *slot, const lio_slot_extra *extra)
{
    lio_msg msg;
    if (slot->op.opcode != LIO_RECVMSG || slot->op.control == NULL)
        return;
    lio_uring_read_msg(slot, extra, &msg);
    lio_discard_rights(slot->op.control, msg.control_len);
}

/* Throws away what is done; returns whether anything is still with the kernel. */
static bool drain(lio_backend *b)
{
    uring_state *state = lio_uring_of(b);
    bool pending = false;
    lio_uring_reap(b);
    uint32_t slots = b->store.fresh;
    for (uint32_t number = 0; number < slots; number++) {
        lio_slot *slot = lio_slot_at(&b->store, number);
        if (slot->state == LIO_STATE_QUEUED) {
            lio_store_complete(&b->store, number, -ECANCELED, -1, -1);
        } else if (slot->state == LIO_STATE_SUBMITTED) {
            lio_store_cancelling(&b->store, number);
            uring_cancel(b, number);
        }
        pending = pending || slot->state == LIO_STATE_SUBMITTED ||
                  slot->state == LIO_STATE_CANCELLING;
    }
    while (b->store.done.head != LIO_NO_SLOT) {
        uint32_t number = b->store.done.head;
        lio_slot *slot = lio_slot_at(&b->store, number);
        lio_list_remove(&b->store, &b->store.done, number);
        lio_discard_result(slot->op.opcode, slot->result);
        if (slot->result >= 0)
            discard_rights(slot, lio_extra_at(&b->store, number));
        slot->state = LIO_STATE_FREE;
    }
    b->store.done_count = 0;
    lio_uring_pool_handed_out(&state->pool);
    lio_uring_pool_recycle(&state->pool);
    return pending;
}

/* They hold their files. Returns whether there were any. */
static bool end_lookouts(lio_backend *b)
{
    uring_state *state = lio_uring_of(b);
    lio_fd end = (lio_fd)b->store.fd_chunks * LIO_FD_CHUNK;
    for (lio_fd fd = 0; state->lookouts != 0 && fd < end; fd++) {
        const lio_fd_entry *entry = lio_fd_find(&b->store, fd);
        if (entry != NULL && entry->lookout)
            add_cancel(state, lio_uring_lookout_token(fd));
    }
    return state->lookouts != 0;
}

static void uring_close(lio_backend *b, bool forked)
{
    uring_state *state = lio_uring_of(b);
    bool pending = false;
    if (!forked) {
        int64_t until = lio_now() + CLOSE_PATIENCE_NS;
        while ((pending = drain(b), end_lookouts(b) || pending) && lio_now() < until) {
            if (state->cancels_due != 0)
                add_due_cancels(b);
            lio_ring_enter(&state->ring, 0, 0, true);
            if (lio_ring_peek(&state->ring) == NULL)
                pause_shortly(b);
        }
    }
    /* The end of a ring is asynchronous, and the peers of registered sockets would wait for
     * theirs. With a request still out this would wait for it. */
    if (!forked && !pending && state->table_size != 0)
        lio_ring_register(&state->ring, URING_UNREGISTER_FILES, NULL, 0);
    lio_half_closed_close(&state->half_closed);
    lio_ring_close(&state->ring, forked);
    if (state->bell_fd >= 0)
        close(state->bell_fd);
    if (pending) {
        /* A worker of the kernel still has memory of ours, on a file that does not answer.
         * Rather leak it than let it be written after somebody else got it. */
        memset(&b->store, 0, sizeof b->store);
        return;
    }
    lio_uring_pool_free(&state->pool, forked);
    free(state);
}

const lio_vtable lio_uring_vtable = {
    .name = "uring",
    .descriptors = 1,
    .probe = lio_uring_probe,
    .init = uring_init,
    .supports = uring_supports,
    .submit = uring_submit,
    .turn = uring_turn,
    .cancel = uring_cancel,
    .adopt = uring_adopt,
    .release_fd = uring_release_fd,
    .recycle = uring_recycle,
    .handed_out = uring_handed_out,
    .wake = uring_wake,
    .wait_ready = uring_wait_ready,
    .close = uring_close,
};
