/* poller_turn.c: the poller's beginning, its turns, and its end. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "poller.h"
#include "sigpipe.h"

#define CLOSE_PATIENCE_NS INT64_C(10000000000)

void lio_poller_next_round(lio_poller *p)
{
    p->round++;
    if (p->round == 0)
        p->round = 1; /* 0 in an entry: not looked at */
}

/* -- beginning --------------------------------------------------------------------- */

int lio_poller_reserve(lio_poller *p, uint32_t capacity)
{
    if (capacity <= p->hungry_room)
        return 0;
    int error = lio_timers_reserve(&p->timers, capacity);
    if (error != 0)
        return error;
    int *hungry = realloc(p->hungry, (size_t)capacity * sizeof *hungry);
    if (hungry == NULL)
        return -ENOMEM;
    p->hungry = hungry;
    int *doubted = realloc(p->doubted, (size_t)capacity * sizeof *doubted);
    if (doubted == NULL)
        return -ENOMEM;
    p->doubted = doubted;
    p->hungry_room = capacity;
    return 0;
}

/* A file job is done: whoever waits for events has to look. */
static void notify(void *argument)
{
    lio_os *os = argument;
    os->half->nudge(os);
}

static int open_all(lio_backend *b, lio_poller *p, const lio_os_half *half)
{
    int error = half->open(b, &p->os);
    if (error != 0)
        return error;
    p->os->half = half;
    error = lio_poller_reserve(p, b->store.capacity);
    if (error != 0)
        return error;
    p->events = malloc(LIO_EVENT_MAX * sizeof *p->events);
    if (p->events == NULL)
        return -ENOMEM;
    if (b->capabilities & LIO_CAP_FILE_POOL) {
        p->files = lio_file_pool_new(notify, p->os);
        if (p->files == NULL)
            return -ENOMEM;
    }
    size_t size = 2 * LIO_ARENA_SIZE + b->pool_reserve;
    void *pool = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pool == MAP_FAILED)
        return -errno;
    b->pool = pool;
    p->arena.base = pool;
    b->pool_size = size;
    b->receive_max = LIO_RECEIVE_MAX;
    return 0;
}

static void free_all(lio_backend *b, lio_poller *p, bool forked)
{
    if (b->pool != NULL)
        munmap(b->pool, b->pool_size);
    b->pool = NULL;
    b->pool_size = 0;
    lio_timers_free(&p->timers);
    free(p->hungry);
    free(p->doubted);
    free(p->events);
    if (p->os != NULL)
        p->os->half->close(p->os, forked);
    free(p);
    b->state = NULL;
}

int lio_poller_init(lio_backend *b, const lio_os_half *half)
{
    lio_poller *p = calloc(1, sizeof *p);
    if (p == NULL)
        return -ENOMEM;
    b->state = p;
    p->round = 1;
    p->first_timer = INT64_MAX;
    p->guard_sigpipe = lio_sigpipe_kills();
    int error = open_all(b, p, half);
    if (error != 0) {
        if (p->files != NULL)
            lio_file_pool_close(p->files, 0);
        free_all(b, p, false);
    }
    return error;
}

bool lio_poller_supports(const lio_backend *b, const lio_op *op)
{
    if (op->opcode == LIO_OPCODE_COUNT)
        return false;
#if !defined(__linux__)
    if (op->opcode == LIO_TEE)
        return false;
#if !defined(LIO_HAS_SENDFILE)
    if (op->opcode == LIO_SPLICE)
        return false;
#endif
#endif
    return !lio_opcode_is_file(op->opcode) || lio_poller_of(b)->files != NULL;
}

/* -- turns ------------------------------------------------------------------------- */

/* When there is something to do without any event. */
static int64_t next_time(const lio_poller *p)
{
    int64_t first = lio_timers_first(&p->timers);
    return p->doubted_count != 0 && p->doubt_ends < first ? p->doubt_ends : first;
}

void lio_poller_announce(lio_backend *b)
{
    lio_poller *p = lio_poller_of(b);
    int64_t first = next_time(p);
    int64_t before = __atomic_exchange_n(&p->first_timer, first, __ATOMIC_SEQ_CST);
    int runnable = p->hungry_count != 0 || p->os->pending != 0;
    __atomic_store_n(&p->runnable, runnable, __ATOMIC_SEQ_CST);
    /* A thread that already waits does not look at these again by itself. */
    if ((runnable || first < before) && __atomic_load_n(&b->waiters, __ATOMIC_SEQ_CST) != 0)
        p->os->half->nudge(p->os);
}

int lio_poller_submit(lio_backend *b)
{
    lio_poller_next_round(lio_poller_of(b));
    lio_poller *p = lio_poller_of(b);
    int error = lio_poller_take_queued(b);
    if (error == 0 && p->os->pending != 0) {
        int failed = p->os->half->submit(b, p->os, p->events);
        for (int i = 0; i < failed; i++)
            lio_poller_on_event(b, &p->events[i]);
        error = failed < 0 ? failed : 0;
    }
    lio_poller_announce(b);
    return error;
}

static void expire_timers(lio_backend *b)
{
    lio_poller *p = lio_poller_of(b);
    if (next_time(p) == INT64_MAX)
        return;
    int64_t now = lio_now();
    if (p->doubted_count != 0 && p->doubt_ends <= now)
        lio_poller_end_doubts(b);
    while (lio_timers_first(&p->timers) <= now)
        lio_poller_on_timer(b, p->timers.timers[0].number);
}

static void take_finished(lio_backend *b)
{
    lio_poller *p = lio_poller_of(b);
    lio_file_job *job;
    while (p->jobs != 0 && (job = lio_file_pool_take(p->files)) != NULL)
        lio_poller_on_job(b, job);
}

/* All that goes on without asking the OS. */
static int go_on(lio_backend *b)
{
    lio_poller_feed_hungry(b);
    take_finished(b);
    int error = lio_poller_take_queued(b); /* also what a completed send let through */
    expire_timers(b);
    return error;
}

static int64_t time_until(int64_t deadline_ns)
{
    if (deadline_ns == INT64_MAX)
        return -1;
    int64_t now = deadline_ns <= 0 ? 0 : lio_now();
    return deadline_ns > now ? deadline_ns - now : 0;
}

/* Asks again and again for a moment, without sleeping. */
static int watch_shortly(lio_backend *b, int64_t deadline_ns)
{
    lio_poller *p = lio_poller_of(b);
    int64_t until = lio_spin_until(&b->spin, deadline_ns);
    int count;
    do {
        count = p->os->half->wait(b, p->os, 0, p->events);
    } while (count == 0 && lio_now() < until);
    lio_spin_watched(&b->spin, count != 0);
    return count;
}

static int wait_for_events(lio_backend *b, int64_t timeout_ns)
{
    lio_poller *p = lio_poller_of(b);
    if (timeout_ns != 0 && lio_spin_is_on(&b->spin)) {
        int64_t deadline = lio_deadline(timeout_ns);
        int count = watch_shortly(b, deadline);
        if (count != 0)
            return count;
        timeout_ns = time_until(deadline);
    }
    if (timeout_ns == 0 || !lio_spin_learns(&b->spin))
        return p->os->half->wait(b, p->os, timeout_ns, p->events);
    int64_t since = lio_now();
    int count = p->os->half->wait(b, p->os, timeout_ns, p->events);
    lio_spin_slept(&b->spin, lio_now() - since);
    return count;
}

/* Asks the OS once, for that long at most, and runs what it names. */
static int collect(lio_backend *b, int64_t timeout_ns)
{
    lio_poller *p = lio_poller_of(b);
    int count = wait_for_events(b, timeout_ns);
    if (timeout_ns != 0)
        lio_poller_next_round(p); /* others were at work meanwhile */
    for (int i = 0; i < count; i++)
        lio_poller_on_event(b, &p->events[i]);
    return count < 0 ? count : 0;
}

static bool is_due(const lio_backend *b)
{
    return b->store.done_count != 0 || b->woken;
}

int lio_poller_turn(lio_backend *b, int64_t deadline_ns)
{
    lio_poller *p = lio_poller_of(b);
    lio_poller_next_round(p);
    p->copied = 0;
    int error = go_on(b);
    /* With results at hand the OS is asked every other time: those who produce results
     * without pause must not keep the others waiting for ever. */
    if (error != 0 || (is_due(b) && p->collected)) {
        p->collected = false;
        return error;
    }
    for (;;) {
        int64_t until = next_time(p);
        if (until > deadline_ns)
            until = deadline_ns;
        bool busy = is_due(b) || p->hungry_count != 0 || b->store.queue.head != LIO_NO_SLOT;
        error = collect(b, busy ? 0 : time_until(until));
        p->collected = true;
        if (error == 0)
            error = go_on(b);
        if (error != 0 || is_due(b))
            return error;
        if (deadline_ns != INT64_MAX && time_until(deadline_ns) == 0)
            return 0;
    }
}

void lio_poller_recycle(lio_backend *b)
{
    lio_arena_recycle(&lio_poller_of(b)->arena);
}

void lio_poller_handed_out(lio_backend *b)
{
    lio_poller *p = lio_poller_of(b);
    assert(b->store.done_count == 0);
    lio_arena_handed_out(&p->arena);
    lio_poller_announce(b);
}

int lio_poller_wait_ready(lio_backend *b, int64_t timeout_ns)
{
    lio_poller *p = lio_poller_of(b);
    int64_t deadline = lio_deadline(timeout_ns);
    for (;;) {
        if (__atomic_load_n(&p->runnable, __ATOMIC_SEQ_CST) != 0)
            return 1;
        int64_t first = __atomic_load_n(&p->first_timer, __ATOMIC_SEQ_CST);
        int ready = p->os->half->poll(p->os, time_until(first < deadline ? first : deadline));
        if (ready != 0 && ready != -EINTR)
            return ready;
        if (first != INT64_MAX && time_until(first) == 0)
            return 1;
        if (deadline != INT64_MAX && time_until(deadline) == 0)
            return 0;
    }
}

/* -- the end ----------------------------------------------------------------------- */

/* What is queued with the pool never begins; what runs there is waited for. */
static bool end_jobs(lio_backend *b, lio_poller *p)
{
    for (uint32_t number = 0; number < b->store.fresh && p->jobs != 0; number++) {
        const lio_slot *slot = lio_slot_at(&b->store, number);
        bool live = slot->state == LIO_STATE_SUBMITTED || slot->state == LIO_STATE_CANCELLING;
        if (live && slot->stage == LIO_STAGE_POOL)
            lio_file_pool_cancel(p->files, lio_poller_job_of(b, number));
    }
    return lio_file_pool_close(p->files, CLOSE_PATIENCE_NS);
}

void lio_poller_close(lio_backend *b, bool forked)
{
    lio_poller *p = lio_poller_of(b);
    bool ended = true;
    if (p->files != NULL && forked)
        lio_file_pool_forget(p->files);
    else if (p->files != NULL)
        ended = end_jobs(b, p);
    for (uint32_t number = b->store.done.head; number != LIO_NO_SLOT;) {
        const lio_slot *slot = lio_slot_at(&b->store, number);
        lio_poller_discard(b, slot);
        number = slot->next;
    }
    free_all(b, p, forked);
    /* A thread still writes to its job. Rather leak it than let it write into what somebody
     * else got. */
    if (!ended)
        memset(&b->store, 0, sizeof b->store);
}
