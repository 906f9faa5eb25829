/* sim_wait.c: waiting for what is real, with poll(2), which every POSIX system has. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/eventfd.h>
#endif
#include <unistd.h>

#include "sim.h"

/* -- wake-ups ---------------------------------------------------------------------- */

/* Two ends of something that can be written to from a signal handler: eight bytes a time, as
 * an eventfd wants them. */
static int make_bell(int ends[2])
{
#if defined(__linux__)
    ends[0] = ends[1] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return ends[0] < 0 ? -errno : 0;
#else
    if (pipe(ends) != 0)
        return -errno;
    for (int i = 0; i < 2; i++) {
        if (fcntl(ends[i], F_SETFD, FD_CLOEXEC) < 0 || fcntl(ends[i], F_SETFL, O_NONBLOCK) < 0)
            return -errno;
    }
    return 0;
#endif
}

static int ring(int fd)
{
    const uint64_t one = 1;
    int saved = errno;
    ssize_t done = write(fd, &one, sizeof one);
    int error = done < 0 && errno != EAGAIN ? -errno : 0; /* EAGAIN: rung often enough */
    errno = saved;
    return error;
}

static bool silence(int fd)
{
    char bytes[512];
    bool rang = false;
    while (read(fd, bytes, sizeof bytes) > 0)
        rang = true;
    return rang;
}

static void close_bell(const int ends[2])
{
    if (ends[0] >= 0)
        close(ends[0]);
    if (ends[1] >= 0 && ends[1] != ends[0])
        close(ends[1]);
}

int lio_sim_try_bell(void)
{
    int ends[2];
    int error = make_bell(ends);
    if (error == 0)
        close_bell(ends);
    return error;
}

int lio_sim_open_bells(lio_backend *b, lio_sim *sim)
{
    int wake[2] = {-1, -1};
    int error = make_bell(wake);
    b->wake_fd = wake[1];
    sim->wake_read = wake[0];
    if (error == 0)
        error = make_bell(sim->nudge);
    return error != 0 ? error : make_bell(sim->job_bell);
}

void lio_sim_close_bells(lio_sim *sim)
{
    close_bell(sim->nudge);
    close_bell(sim->job_bell);
#if !defined(__linux__)
    if (sim->wake_read >= 0)
        close(sim->wake_read); /* an eventfd is b->wake_fd itself */
#endif
}

void lio_sim_job_done(void *sim)
{
    ring(((lio_sim *)sim)->job_bell[1]);
}

int lio_sim_wake(lio_backend *b)
{
    return ring(b->wake_fd);
}

/* -- asking ------------------------------------------------------------------------ */

enum { FIXED = 2 }; /* descriptors that are always asked about: the wake-up, the jobs */

static int reserve(lio_sim *sim)
{
    uint32_t wanted = sim->pending_count + sim->object_count + FIXED;
    if (wanted <= sim->polled_room)
        return 0;
    struct pollfd *polled = realloc(sim->polled, (size_t)wanted * 2 * sizeof *polled);
    if (polled == NULL)
        return -ENOMEM;
    sim->polled = polled;
    uint32_t *slots = realloc(sim->polled_slots, (size_t)wanted * 2 * sizeof *slots);
    if (slots == NULL)
        return -ENOMEM;
    sim->polled_slots = slots;
    sim->polled_room = wanted * 2;
    return 0;
}

static short events_of(const lio_slot *slot)
{
    if (slot->op.opcode == LIO_POLL)
        return (short)((slot->op.flags & LIO_POLL_READ ? POLLIN : 0) |
                       (slot->op.flags & LIO_POLL_WRITE ? POLLOUT : 0));
    if (slot->stage == LIO_STAGE_FD2)
        return POLLOUT;
    if (lio_poller_is_aside(&slot->op))
        return POLLIN | POLLPRI;
    return lio_poller_direction(&slot->op) == LIO_WRITER ? POLLOUT : POLLIN;
}

static bool is_real(const lio_backend *b, uint32_t number)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    return !(slot->by_number & SIM_MARK_FD) ||
           lio_sim_find(lio_sim_of(b), lio_extra_at(&b->store, number)->identity[0]) == NULL;
}

bool lio_sim_waits_for_real(lio_backend *b)
{
    uint32_t number = lio_sim_of(b)->pending.head;
    while (number != LIO_NO_SLOT && !is_real(b, number))
        number = lio_slot_at(&b->store, number)->next;
    return number != LIO_NO_SLOT; /* a job of the pool is on no descriptor, and so real */
}

/* Fills sim->polled with all that is waited for; how many that are. */
static uint32_t gather(lio_backend *b)
{
    lio_sim *sim = lio_sim_of(b);
    uint32_t count = 0;
    sim->polled[count++] = (struct pollfd){.fd = sim->wake_read, .events = POLLIN};
    sim->polled[count++] = (struct pollfd){.fd = sim->job_bell[0], .events = POLLIN};
    for (sim_object *object = sim->objects; object != NULL; object = object->next)
        sim->polled[count++] = (struct pollfd){.fd = object->own_end};
    for (uint32_t n = sim->pending.head; n != LIO_NO_SLOT;
         n = lio_slot_at(&b->store, n)->next) {
        const lio_slot *slot = lio_slot_at(&b->store, n);
        if (!(slot->by_number & SIM_MARK_WAITS) || !is_real(b, n))
            continue;
        int fd = (int)(slot->stage == LIO_STAGE_FD2 ? slot->op.fd2 : slot->op.fd);
        sim->polled_slots[count] = n;
        sim->polled[count++] = (struct pollfd){.fd = fd, .events = events_of(slot)};
    }
    return count;
}

static int ask(struct pollfd *polled, uint32_t count, int64_t timeout_ns)
{
#if defined(__linux__)
    struct timespec ts = {.tv_sec = (time_t)(timeout_ns / 1000000000),
                          .tv_nsec = (long)(timeout_ns % 1000000000)};
    int ready = ppoll(polled, count, timeout_ns < 0 ? NULL : &ts, NULL);
#else
    /* Rounded up: a wait that ends early is a loop that spins. */
    int64_t ms = timeout_ns < 0 ? -1 : (timeout_ns + 999999) / 1000000;
    int ready = poll(polled, count, ms > INT32_MAX ? INT32_MAX : (int)ms);
#endif
    return ready < 0 ? -errno : ready;
}

int lio_sim_look(lio_backend *b, int64_t timeout_ns)
{
    lio_sim *sim = lio_sim_of(b);
    int error = reserve(sim);
    if (error != 0)
        return error;
    uint32_t count = gather(b);
    b->stats.syscalls++;
    int ready = ask(sim->polled, count, timeout_ns);
    if (ready <= 0)
        return ready;
    if (sim->polled[0].revents != 0 && silence(sim->wake_read))
        b->woken = true;
    if (sim->polled[1].revents != 0)
        silence(sim->job_bell[0]);
    for (uint32_t i = FIXED + sim->object_count; i < count; i++) {
        if (sim->polled[i].revents != 0)
            lio_slot_at(&b->store, sim->polled_slots[i])->by_number &= (uint8_t)~SIM_MARK_WAITS;
    }
    return 0;
}

/* -- other threads ----------------------------------------------------------------- */

/* A copy, because the owner goes on while the other thread waits. What has changed by a cancel
 * or a close since can at worst end its wait for nothing. */
void lio_sim_publish(lio_backend *b, bool runnable)
{
    lio_sim *sim = lio_sim_of(b);
    uint32_t count = reserve(sim) == 0 ? gather(b) : 0;
    int64_t until = lio_timers_first(&sim->attempts.timers);
    if (sim->virtual_time && until != INT64_MAX)
        until = 0;
    if (sim->retry_at < until)
        until = sim->retry_at;
    pthread_mutex_lock(&sim->lock);
    if (count > sim->watched_room) {
        struct pollfd *watched = realloc(sim->watched, count * sizeof *watched);
        sim->watched_room = watched == NULL ? sim->watched_room : count;
        sim->watched = watched == NULL ? sim->watched : watched;
    }
    bool fits = count != 0 && count <= sim->watched_room;
    if (fits)
        memcpy(sim->watched, sim->polled, count * sizeof *sim->watched);
    sim->watched_count = fits ? count : 0;
    sim->watched_until = until;
    sim->watched_runnable = runnable || !fits; /* no memory: the owner has to look itself */
    sim->edition++;
    sim->stale += sim->readers;
    sim->readers = 0;
    pthread_mutex_unlock(&sim->lock);
    if (__atomic_load_n(&b->waiters, __ATOMIC_SEQ_CST) != 0)
        ring(sim->nudge[1]);
}

void lio_sim_evict(lio_backend *b)
{
    lio_sim *sim = lio_sim_of(b);
    if (__atomic_load_n(&b->waiters, __ATOMIC_SEQ_CST) == 0)
        return;
    lio_sim_publish(b, true);
    pthread_mutex_lock(&sim->lock);
    while (sim->stale != 0) {
        struct timespec until;
        ring(sim->nudge[1]); /* again and again: each thread that hears it silences it */
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 1000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
        pthread_cond_timedwait(&sim->left, &sim->lock, &until);
    }
    pthread_mutex_unlock(&sim->lock);
}

/* What to wait for now, the nudge last. 0: out of memory, or there is no need to wait. The
 * others are readers of this edition until leave_watched. */
static uint32_t copy_watched(lio_sim *sim, struct pollfd **mine, int64_t *until,
                             uint32_t *edition)
{
    pthread_mutex_lock(&sim->lock);
    uint32_t count = sim->watched_runnable ? 0 : sim->watched_count;
    struct pollfd *copy = realloc(*mine, ((size_t)count + 1) * sizeof *copy);
    if (copy != NULL) {
        *mine = copy;
        if (count != 0)
            memcpy(copy, sim->watched, count * sizeof *copy);
        copy[count] = (struct pollfd){.fd = sim->nudge[0], .events = POLLIN};
    }
    *until = sim->watched_until;
    *edition = sim->edition;
    bool waits = copy != NULL && count != 0;
    sim->readers += waits;
    pthread_mutex_unlock(&sim->lock);
    return waits ? count + 1 : 0;
}

static void leave_watched(lio_sim *sim, uint32_t edition)
{
    pthread_mutex_lock(&sim->lock);
    if (edition == sim->edition) {
        sim->readers--;
    } else {
        sim->stale--;
        pthread_cond_signal(&sim->left);
    }
    pthread_mutex_unlock(&sim->lock);
}

int lio_sim_wait_ready(lio_backend *b, int64_t timeout_ns)
{
    lio_sim *sim = lio_sim_of(b);
    int64_t deadline = lio_deadline(timeout_ns), until;
    struct pollfd *mine = NULL;
    uint32_t edition;
    int answer = -1;
    while (answer < 0) {
        uint32_t count = copy_watched(sim, &mine, &until, &edition);
        if (count == 0) {
            answer = 1;
            break;
        }
        int64_t now = lio_now(), end = until < deadline ? until : deadline;
        int ready = ask(mine, count, end == INT64_MAX ? -1 : end > now ? end - now : 0);
        leave_watched(sim, edition);
        if (ready < 0 && ready != -EINTR)
            break;
        if (ready > 0 && mine[count - 1].revents != 0) {
            silence(sim->nudge[0]);
            ready--;
        }
        if (ready > 0 || until <= lio_now())
            answer = 1;
        else if (deadline != INT64_MAX && lio_now() >= deadline)
            answer = 0;
    }
    free(mine);
    return answer < 0 ? -ENOMEM : answer;
}
