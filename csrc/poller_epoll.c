/* poller_epoll.c: the poller's OS half on Linux.
 *
 * lio_wake writes to an eventfd that is registered edge-triggered: every write is an edge,
 * edges that nobody collected coalesce, and nobody ever has to read the counter. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "poller.h"

#define NS_PER_MS INT64_C(1000000)

/* Registrations that are no operation's: no descriptor has these numbers. */
#define TAG_WAKE UINT64_C(0xffffffff)
#define TAG_NUDGE UINT64_C(0xfffffffe)

typedef struct epoll_os {
    lio_os base;
    int epoll_fd;
    int nudge_fd;
    bool pwait2;
    struct epoll_event events[LIO_EVENT_MAX];
} epoll_os;

static epoll_os *os_of(lio_os *os)
{
    return (epoll_os *)os;
}

/* The timespec of the 64-bit system calls, on every architecture. */
struct timespec64 {
    int64_t tv_sec;
    int64_t tv_nsec;
};

static int pwait2(int epoll_fd, struct epoll_event *events, int max, int64_t timeout_ns)
{
#if defined(SYS_epoll_pwait2)
    const long number = SYS_epoll_pwait2;
#else
    const long number = 441; /* the same on all architectures */
#endif
    struct timespec64 ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    return (int)syscall(number, epoll_fd, events, max, timeout_ns < 0 ? NULL : &ts, NULL,
                        (size_t)0);
}

/* Rounded up: a wait that ends early is a loop that spins until the time is there. */
static int milliseconds(int64_t timeout_ns)
{
    if (timeout_ns <= 0)
        return timeout_ns < 0 ? -1 : 0;
    int64_t ms = timeout_ns / NS_PER_MS + (timeout_ns % NS_PER_MS != 0);
    return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

/* -- life -------------------------------------------------------------------------- */

static int watch_eventfd(int epoll_fd, int fd, uint64_t tag)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = tag};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

static int make_epoll(void *unused)
{
    (void)unused;
    int fd = epoll_create1(EPOLL_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int make_eventfd(void *unused)
{
    (void)unused;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

static int open_all(lio_backend *b, epoll_os *os)
{
    os->epoll_fd = lio_make_fd(b, make_epoll, NULL);
    if (os->epoll_fd < 0)
        return os->epoll_fd;
    os->nudge_fd = lio_make_fd(b, make_eventfd, NULL);
    if (os->nudge_fd < 0)
        return os->nudge_fd;
    if (b->wake_fd < 0)
        b->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (b->wake_fd < 0)
        return -errno;
    int error = watch_eventfd(os->epoll_fd, b->wake_fd, TAG_WAKE);
    return error != 0 ? error : watch_eventfd(os->epoll_fd, os->nudge_fd, TAG_NUDGE);
}

static void close_all(epoll_os *os)
{
    if (os->epoll_fd >= 0)
        close(os->epoll_fd);
    if (os->nudge_fd >= 0)
        close(os->nudge_fd);
    free(os);
}

static int epoll_open(lio_backend *b, lio_os **os)
{
    epoll_os *fresh = calloc(1, sizeof *fresh);
    if (fresh == NULL)
        return -ENOMEM;
    fresh->epoll_fd = fresh->nudge_fd = -1;
    int error = open_all(b, fresh);
    if (error != 0) {
        close_all(fresh);
        return error;
    }
    b->capabilities |= (LIO_CAP_EDGE_TRIGGERED | LIO_CAP_FILE_POOL) & ~b->without;
    fresh->pwait2 = !(b->without & LIO_CAP_PWAIT2) &&
                    pwait2(fresh->epoll_fd, fresh->events, LIO_EVENT_MAX, 0) >= 0;
    if (fresh->pwait2)
        b->capabilities |= LIO_CAP_PWAIT2;
    *os = &fresh->base;
    return 0;
}

static void epoll_close(lio_os *os, bool forked)
{
    (void)forked; /* all of it are the child's own copies */
    close_all(os_of(os));
}

/* -- registrations ----------------------------------------------------------------- */

static uint64_t tag_of(const lio_fd_entry *entry, int fd)
{
    return (uint64_t)entry->generation << 32 | (uint32_t)fd;
}

static int control(lio_backend *b, lio_os *os, int how, int fd, struct epoll_event *event)
{
    b->stats.syscalls++;
    return epoll_ctl(os_of(os)->epoll_fd, how, fd, event) == 0 ? 0 : -errno;
}

static int epoll_adopt(lio_backend *b, lio_os *os, const lio_fd_entry *entry, int fd)
{
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET,
        .data.u64 = tag_of(entry, fd),
    };
    int error = control(b, os, EPOLL_CTL_ADD, fd, &event);
    if (error == -EEXIST)
        error = control(b, os, EPOLL_CTL_MOD, fd, &event);
    if (error == -EPERM)
        return 0; /* a file that epoll cannot watch */
    return error == 0 ? 1 : error;
}

static void epoll_forget(lio_backend *b, lio_os *os, const lio_fd_entry *entry, int fd)
{
    (void)entry;
    struct epoll_event unused = {0}; /* kernels before 2.6.9 want one */
    int error = control(b, os, EPOLL_CTL_DEL, fd, &unused);
    /* Closed behind our back, or not registered (any more): then it is forgotten. */
    assert(error == 0 || error == -ENOENT || error == -EBADF || error == -EPERM);
    (void)error;
}

static int epoll_arm(lio_backend *b, lio_os *os, const lio_fd_entry *entry, int fd,
                     uint8_t ready)
{
    if (ready == 0) {
        /* Not a change to "no events": errors and hang-ups would come even so. */
        epoll_forget(b, os, entry, fd);
        return 0;
    }
    struct epoll_event event = {
        .events = (ready & LIO_READY_READ ? (uint32_t)EPOLLIN : 0) |
                  (ready & LIO_READY_WRITE ? (uint32_t)EPOLLOUT : 0) | EPOLLONESHOT,
        .data.u64 = tag_of(entry, fd),
    };
    int error = control(b, os, EPOLL_CTL_MOD, fd, &event);
    return error == -ENOENT ? control(b, os, EPOLL_CTL_ADD, fd, &event) : error;
}

/* -- waiting ----------------------------------------------------------------------- */

static lio_event translate(const struct epoll_event *from)
{
    lio_event event = {.kind = LIO_EVENT_FD, .spent = LIO_READY_BOTH};
    if (from->data.u64 == TAG_WAKE || from->data.u64 == TAG_NUDGE) {
        event.kind = from->data.u64 == TAG_WAKE ? LIO_EVENT_WAKE : LIO_EVENT_NUDGE;
        return event;
    }
    event.fd = (int)(uint32_t)from->data.u64;
    event.generation = (uint32_t)(from->data.u64 >> 32);
    if (from->events & (EPOLLIN | EPOLLRDHUP))
        event.ready |= LIO_READY_READ;
    if (from->events & EPOLLOUT)
        event.ready |= LIO_READY_WRITE;
    if (from->events & EPOLLPRI)
        event.ready |= LIO_READY_URGENT | LIO_READY_READ;
    /* Whoever waits must learn of these, whatever it waits for. */
    if (from->events & (EPOLLHUP | EPOLLERR))
        event.ready |= LIO_READY_BOTH;
    if (from->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        event.ready |= LIO_READY_ENDED;
    return event;
}

static int epoll_wait_for(lio_backend *b, lio_os *base, int64_t timeout_ns, lio_event *events)
{
    epoll_os *os = os_of(base);
    int count;
    b->stats.syscalls++;
    if (os->pwait2 && timeout_ns > 0)
        count = pwait2(os->epoll_fd, os->events, LIO_EVENT_MAX, timeout_ns);
    else
        count = epoll_wait(os->epoll_fd, os->events, LIO_EVENT_MAX, milliseconds(timeout_ns));
    if (count < 0)
        return -errno;
    for (int i = 0; i < count; i++)
        events[i] = translate(&os->events[i]);
    return count;
}

static int epoll_poll(lio_os *os, int64_t timeout_ns)
{
    struct pollfd pfd = {.fd = os_of(os)->epoll_fd, .events = POLLIN};
    struct timespec ts = {.tv_sec = (time_t)(timeout_ns / 1000000000),
                          .tv_nsec = (long)(timeout_ns % 1000000000)};
    int ready = ppoll(&pfd, 1, timeout_ns < 0 ? NULL : &ts, NULL);
    return ready < 0 ? -errno : ready > 0;
}

static int signal_eventfd(int fd)
{
    const uint64_t one = 1;
    int saved = errno; /* a signal handler may call this */
    ssize_t done = write(fd, &one, sizeof one);
    /* EAGAIN: after 2^64 - 2 times the counter is full, and then an event is due anyway. */
    int error = done < 0 && errno != EAGAIN ? -errno : 0;
    errno = saved;
    return error;
}

static int epoll_wake(lio_backend *b)
{
    return signal_eventfd(b->wake_fd);
}

static void epoll_nudge(lio_os *os)
{
    int error = signal_eventfd(os_of(os)->nudge_fd);
    assert(error == 0);
    (void)error;
}

/* -- the backend ------------------------------------------------------------------- */

static void refuse(lio_probe_result *result, int error, const char *what)
{
    result->error = error;
    snprintf(result->reason, sizeof result->reason, "%s failed: %s", what, strerror(-error));
}

/* Finds an event that is there, both ways of waiting. */
static void try_waiting(int epoll_fd, uint32_t without, lio_probe_result *result)
{
    struct epoll_event event;
    int count = epoll_wait(epoll_fd, &event, 1, 0);
    if (count != 1 || event.data.u64 != TAG_WAKE) {
        refuse(result, count < 0 ? -errno : -EIO, "epoll_wait");
        return;
    }
    if (!(without & LIO_CAP_PWAIT2) && pwait2(epoll_fd, &event, 1, 1) == 0)
        result->capabilities |= LIO_CAP_PWAIT2;
    result->capabilities |= (LIO_CAP_EDGE_TRIGGERED | LIO_CAP_FILE_POOL) & ~without;
}

static void epoll_probe(uint32_t without, lio_probe_result *result)
{
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) {
        refuse(result, -errno, "epoll_create1");
        return;
    }
    int event_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event_fd < 0) {
        refuse(result, -errno, "eventfd");
    } else {
        int error = watch_eventfd(epoll_fd, event_fd, TAG_WAKE);
        if (error != 0)
            refuse(result, error, "epoll_ctl");
        else
            try_waiting(epoll_fd, without, result);
        close(event_fd);
    }
    close(epoll_fd);
}

static const lio_os_half epoll_half = {
    .open = epoll_open,
    .close = epoll_close,
    .adopt = epoll_adopt,
    .arm = epoll_arm,
    .forget = epoll_forget,
    .wait = epoll_wait_for,
    .nudge = epoll_nudge,
    .poll = epoll_poll,
    .tells_urgent = true,
};

static int epoll_init(lio_backend *b)
{
    return lio_poller_init(b, &epoll_half);
}

const lio_vtable lio_epoll_vtable = {
    .name = "epoll",
    .descriptors = 2, /* epoll and the nudge */
    .probe = epoll_probe,
    .init = epoll_init,
    .supports = lio_poller_supports,
    .submit = lio_poller_submit,
    .turn = lio_poller_turn,
    .cancel = lio_poller_cancel,
    .adopt = lio_poller_adopt,
    .is_claimed = lio_poller_is_claimed,
    .received = lio_poller_received,
    .release_fd = lio_poller_release_fd,
    .recycle = lio_poller_recycle,
    .handed_out = lio_poller_handed_out,
    .wake = epoll_wake,
    .wait_ready = lio_poller_wait_ready,
    .close = lio_poller_close,
};
