/* kqueue(2) and kevent(2) over epoll, timerfd, eventfd and pidfd: see README.rst.
 *
 * The descriptor that kqueue() returns is an epoll set, so that it can be polled. In it are two
 * more sets, one for EVFILT_READ and one for EVFILT_WRITE (epoll takes a descriptor only once),
 * an eventfd for EVFILT_USER, and the timerfds and pidfds of the other filters. Filters with
 * EV_CLEAR are registered edge-triggered, all others level-triggered. Whatever epoll reports is
 * looked at once more (by poll) before it is handed out, as kqueue does.
 *
 * A knote is bound to a descriptor and to the file it named at EV_ADD, and goes with the
 * descriptor. epoll's registrations are bound to the same pair, so every EPOLL_CTL_MOD tells
 * whether a knote still exists. A registration that outlives its descriptor, because a copy of
 * that lives elsewhere, is got rid of by making the set anew. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/event.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define BUCKETS 1024u
#define KQUEUES 4096
#define BATCH 256

enum { READ_SET, WRITE_SET, SETS };
#define NO_IDENT UINT32_MAX

struct knote {
    struct knote *next;
    uintptr_t ident;
    short filter;
    unsigned short flags; /* ONESHOT, CLEAR, DISPATCH */
    unsigned int fflags;
    int64_t data;
    void *udata;
    dev_t dev; /* READ, WRITE: which file it is */
    ino_t ino;
    int fd; /* a timerfd or pidfd, or -1 */
    bool disabled;
    bool active;  /* USER: triggered */
    bool resting; /* level-triggered, and found not true: epoll tells of the next edge */
};

/* What the caller was told is gone, and in which of its collections: see strict_delete. */
struct gone {
    uintptr_t ident;
    short filter;
    uint64_t collection;
};

struct kq {
    pthread_mutex_t mutex;
    int fd, sets[SETS], user_fd;
    bool stale[SETS];
    struct knote *knotes[BUCKETS];
    bool strict;
    uint32_t seed;
    uint64_t collection; /* calls that asked for events */
    struct gone gone[BATCH];
    unsigned gone_count;
};

static pthread_mutex_t table_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct kq *table[KQUEUES];

static int real_close(int fd)
{
    return (int)syscall(SYS_close, fd);
}

static void violated(const char *rule, uintptr_t ident, short filter)
{
    fprintf(stderr, "kqueue_on_linux: %s (ident %lu, filter %d)\n", rule, (unsigned long)ident,
            filter);
    abort();
}

/* -- life -------------------------------------------------------------------------- */

static void destroy(struct kq *kq)
{
    for (unsigned i = 0; i < BUCKETS; i++) {
        for (struct knote *kn = kq->knotes[i], *next; kn != NULL; kn = next) {
            next = kn->next;
            if (kn->fd >= 0)
                real_close(kn->fd);
            free(kn);
        }
    }
    for (int set = 0; set < SETS; set++)
        real_close(kq->sets[set]);
    real_close(kq->user_fd);
    pthread_mutex_destroy(&kq->mutex);
    free(kq);
}

static void before_fork(void)
{
    pthread_mutex_lock(&table_mutex);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&table_mutex);
}

/* "The queue is not inherited by a child created with fork(2)." */
static void after_fork_in_child(void)
{
    for (int fd = 0; fd < KQUEUES; fd++) {
        if (table[fd] != NULL) {
            destroy(table[fd]);
            real_close(fd);
            table[fd] = NULL;
        }
    }
    pthread_mutex_unlock(&table_mutex);
}

static void prepare(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static int add(int set, int fd, uint32_t events, uint64_t tag, int how)
{
    struct epoll_event event = {.events = events, .data.u64 = tag};
    return epoll_ctl(set, how, fd, &event);
}

static uint64_t tag_of(uintptr_t ident, short filter)
{
    return (uint64_t)(uint16_t)filter << 32 | (uint32_t)ident;
}

static int open_set(struct kq *kq, int set)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd >= 0 &&
        add(kq->fd, fd, EPOLLIN, tag_of(NO_IDENT, (short)(set + 1)), EPOLL_CTL_ADD)) {
        real_close(fd);
        return -1;
    }
    return fd;
}

static bool open_all(struct kq *kq)
{
    kq->fd = epoll_create1(0);
    if (kq->fd < 0)
        return false;
    for (int set = 0; set < SETS; set++) {
        kq->sets[set] = open_set(kq, set);
        if (kq->sets[set] < 0)
            return false;
    }
    kq->user_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return kq->user_fd >= 0 &&
           add(kq->fd, kq->user_fd, EPOLLIN, tag_of(NO_IDENT, EVFILT_USER), EPOLL_CTL_ADD) == 0;
}

int kqueue(void)
{
    pthread_once(&once, prepare);
    struct kq *kq = calloc(1, sizeof *kq);
    if (kq == NULL) {
        errno = ENOMEM;
        return -1;
    }
    kq->fd = kq->sets[0] = kq->sets[1] = kq->user_fd = -1;
    pthread_mutex_init(&kq->mutex, NULL);
    const char *strict = getenv("KQUEUE_ON_LINUX_STRICT");
    kq->strict = strict != NULL && *strict != '\0';
    kq->seed = kq->strict ? (uint32_t)strtoul(strict, NULL, 10) | 1 : 1;
    bool ok = open_all(kq);
    if (ok && kq->fd >= KQUEUES) {
        ok = false;
        errno = EMFILE;
    }
    if (!ok) {
        int error = errno;
        if (kq->fd >= 0)
            real_close(kq->fd);
        destroy(kq);
        errno = error;
        return -1;
    }
    pthread_mutex_lock(&table_mutex);
    if (table[kq->fd] != NULL)
        destroy(table[kq->fd]); /* was closed where we do not see it */
    table[kq->fd] = kq;
    pthread_mutex_unlock(&table_mutex);
    return kq->fd;
}

int kqueue_on_linux_close(int fd);

/* Takes the place of the C library's in what is linked with this, and only there. */
__attribute__((visibility("hidden"))) int close(int fd)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_lock(&table_mutex);
    if (fd >= 0 && fd < KQUEUES && table[fd] != NULL) {
        destroy(table[fd]);
        table[fd] = NULL;
    }
    pthread_mutex_unlock(&table_mutex);
    int answer = real_close(fd), error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return answer;
}

/* For whoever is linked otherwise. */
int kqueue_on_linux_close(int fd)
{
    return close(fd);
}

/* -- knotes ------------------------------------------------------------------------ */

static struct knote **find(struct kq *kq, uintptr_t ident, short filter)
{
    struct knote **at = &kq->knotes[(ident * 2654435761u ^ (unsigned)-filter) % BUCKETS];
    while (*at != NULL && ((*at)->ident != ident || (*at)->filter != filter))
        at = &(*at)->next;
    return at;
}

static bool is_of_fd(const struct knote *kn)
{
    return kn->filter == EVFILT_READ || kn->filter == EVFILT_WRITE;
}

static int set_of(short filter)
{
    return filter == EVFILT_READ ? READ_SET : WRITE_SET;
}

static void drop(struct knote **at)
{
    struct knote *kn = *at;
    *at = kn->next;
    if (kn->fd >= 0)
        real_close(kn->fd);
    free(kn);
}

/* Registers what epoll is to tell about a READ or WRITE filter. */
static int watch(struct kq *kq, struct knote *kn, int how)
{
    uint32_t events = 0;
    if (!kn->disabled)
        events =
            kn->filter == EVFILT_READ ? (uint32_t)(EPOLLIN | EPOLLRDHUP) : (uint32_t)EPOLLOUT;
    if (kn->disabled || kn->flags & EV_CLEAR || kn->resting)
        events |= EPOLLET; /* hang-ups are reported unasked: but once */
    return add(kq->sets[set_of(kn->filter)], (int)kn->ident, events,
               tag_of(kn->ident, kn->filter), how);
}

/* Whether the file that a knote was added for is still open under its number. */
static bool exists(struct kq *kq, struct knote *kn)
{
    return !is_of_fd(kn) || watch(kq, kn, EPOLL_CTL_MOD) == 0;
}

static void remake(struct kq *kq, int set)
{
    kq->stale[set] = false;
    real_close(kq->sets[set]);
    kq->sets[set] = open_set(kq, set);
    if (kq->sets[set] < 0)
        violated("no descriptor left", 0, 0);
    for (unsigned i = 0; i < BUCKETS; i++) {
        for (struct knote *kn = kq->knotes[i]; kn != NULL; kn = kn->next) {
            if (is_of_fd(kn) && set_of(kn->filter) == set)
                watch(kq, kn, EPOLL_CTL_ADD);
        }
    }
}

static void signal_user(struct kq *kq)
{
    uint64_t count;
    bool due = false;
    for (unsigned i = 0; i < BUCKETS && !due; i++) {
        for (struct knote *kn = kq->knotes[i]; kn != NULL && !due; kn = kn->next)
            due = kn->filter == EVFILT_USER && kn->active && !kn->disabled;
    }
    ssize_t done = read(kq->user_fd, &count, sizeof count);
    count = 1;
    if (due)
        done = write(kq->user_fd, &count, sizeof count);
    (void)done;
}

/* -- strictness -------------------------------------------------------------------- */

static void note_gone(struct kq *kq, uintptr_t ident, short filter)
{
    kq->gone[kq->gone_count++ % BATCH] = (struct gone){ident, filter, kq->collection};
}

static void note_there(struct kq *kq, uintptr_t ident, short filter)
{
    for (unsigned i = 0; i < BATCH; i++) {
        if (kq->gone[i].ident == ident && kq->gone[i].filter == filter)
            kq->gone[i].filter = 0;
    }
}

/* A caller may not know that a filter is gone: its descriptor was closed by somebody else. But
 * what it was told (a one-shot event, an EV_ERROR) before it collected for the last time, it
 * must have read by now. */
static void strict_delete(struct kq *kq, uintptr_t ident, short filter)
{
    for (unsigned i = 0; kq->strict && i < BATCH; i++) {
        if (kq->gone[i].filter == filter && kq->gone[i].ident == ident &&
            kq->gone[i].collection < kq->collection)
            violated("deletes a filter that it was told is gone", ident, filter);
    }
}

/* -- changes ----------------------------------------------------------------------- */

static int start_timer(struct kq *kq, struct knote *kn)
{
    int64_t ns = kn->data;
    if (ns < 0 || (kn->fflags & (kn->fflags - 1)) != 0)
        return EINVAL;
    if (kn->fflags & NOTE_SECONDS)
        ns *= 1000000000;
    else if (kn->fflags & NOTE_USECONDS)
        ns *= 1000;
    else if (!(kn->fflags & NOTE_NSECONDS))
        ns *= 1000000;
    struct itimerspec spec = {.it_value = {ns / 1000000000, ns % 1000000000}};
    if (ns == 0)
        spec.it_value.tv_nsec = 1;
    if (!(kn->flags & EV_ONESHOT))
        spec.it_interval = spec.it_value;
    if (kn->fd < 0) {
        kn->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (kn->fd < 0 ||
            add(kq->fd, kn->fd, EPOLLIN, tag_of(kn->ident, kn->filter), EPOLL_CTL_ADD) != 0)
            return errno;
    }
    return timerfd_settime(kn->fd, 0, &spec, NULL) == 0 ? 0 : errno;
}

static int start_process(struct kq *kq, struct knote *kn)
{
    if (kn->fflags != NOTE_EXIT)
        return EINVAL; /* not done here */
    kn->fd = (int)syscall(SYS_pidfd_open, (pid_t)kn->ident, 0);
    if (kn->fd < 0)
        return errno == EINVAL ? ESRCH : errno;
    return add(kq->fd, kn->fd, EPOLLIN, tag_of(kn->ident, kn->filter), EPOLL_CTL_ADD) == 0
               ? 0
               : errno;
}

/* epoll says EPERM of what has no poll: regular files and some devices. */
static int refusal(int fd)
{
    struct stat st;
    if (errno != EPERM)
        return errno;
    return fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) ? ENODEV : EINVAL;
}

static int start(struct kq *kq, struct knote *kn)
{
    switch (kn->filter) {
    case EVFILT_READ:
    case EVFILT_WRITE:
        if (kn->ident > INT_MAX || (int)kn->ident == kq->fd)
            return kn->ident > INT_MAX ? EBADF : EINVAL;
        if (watch(kq, kn, EPOLL_CTL_ADD) == 0)
            return 0;
        if (errno == EEXIST) { /* of a descriptor closed and opened again for the same file */
            return watch(kq, kn, EPOLL_CTL_MOD) == 0 ? 0 : errno;
        }
        return refusal((int)kn->ident);
    case EVFILT_TIMER:
        return start_timer(kq, kn);
    case EVFILT_PROC:
        return start_process(kq, kn);
    case EVFILT_USER:
        return 0;
    default:
        return EINVAL;
    }
}

static int add_knote(struct kq *kq, const struct kevent *change, const struct stat *st)
{
    struct knote *kn = calloc(1, sizeof *kn);
    if (kn == NULL)
        return ENOMEM;
    kn->dev = st->st_dev;
    kn->ino = st->st_ino;
    kn->ident = change->ident;
    kn->filter = change->filter;
    kn->flags = change->flags & (EV_ONESHOT | EV_CLEAR | EV_DISPATCH);
    kn->fflags = change->fflags;
    kn->data = change->data;
    kn->udata = change->udata;
    kn->disabled = (change->flags & EV_DISABLE) != 0;
    kn->fd = -1;
    if (kn->filter == EVFILT_TIMER)
        kn->flags |= EV_CLEAR;
    if (kn->ident >= NO_IDENT)
        return free(kn), EINVAL;
    int error = start(kq, kn);
    if (error != 0) {
        drop(&kn);
        return error;
    }
    struct knote **at = find(kq, kn->ident, kn->filter);
    kn->next = *at;
    *at = kn;
    note_there(kq, kn->ident, kn->filter);
    return 0;
}

static void trigger(struct knote *kn, unsigned int fflags)
{
    unsigned int given = fflags & NOTE_FFLAGSMASK;
    switch (fflags & NOTE_FFCTRLMASK) {
    case NOTE_FFAND:
        kn->fflags &= given;
        break;
    case NOTE_FFOR:
        kn->fflags |= given;
        break;
    case NOTE_FFCOPY:
        kn->fflags = given;
        break;
    default:
        break;
    }
    if (fflags & NOTE_TRIGGER)
        kn->active = true;
}

static int apply_one(struct kq *kq, const struct kevent *change)
{
    struct knote **at = find(kq, change->ident, change->filter);
    bool of_fd = change->filter == EVFILT_READ || change->filter == EVFILT_WRITE;
    struct stat st = {0};
    if (of_fd && (change->ident > INT_MAX || fstat((int)change->ident, &st) != 0)) {
        if (*at != NULL)
            drop(at);
        return EBADF;
    }
    if (*at != NULL && !exists(kq, *at))
        drop(at);
    if (change->flags & EV_DELETE) {
        if (*at == NULL) {
            strict_delete(kq, change->ident, change->filter);
            return ENOENT;
        }
        if (of_fd)
            add(kq->sets[set_of(change->filter)], (int)change->ident, 0, 0, EPOLL_CTL_DEL);
        bool user = (*at)->filter == EVFILT_USER;
        drop(at);
        if (user)
            signal_user(kq);
        return 0;
    }
    if (*at == NULL)
        return change->flags & EV_ADD ? add_knote(kq, change, &st) : ENOENT;
    struct knote *kn = *at;
    if (change->flags & EV_ADD && kn->filter == EVFILT_USER)
        kn->fflags = change->fflags & NOTE_FFLAGSMASK;
    kn->udata = change->udata;
    if (change->flags & EV_ADD) {
        /* "Re-adding an existing event will modify the parameters of the original event." */
        kn->flags = (change->flags & (EV_ONESHOT | EV_CLEAR | EV_DISPATCH)) |
                    (kn->filter == EVFILT_TIMER ? EV_CLEAR : 0);
        kn->disabled = false; /* "EV_ADD enables, unless overridden by EV_DISABLE" */
    }
    if (change->flags & EV_ENABLE)
        kn->disabled = false;
    if (change->flags & EV_DISABLE)
        kn->disabled = true;
    kn->resting = false;
    note_there(kq, kn->ident, kn->filter);
    if (of_fd)
        return watch(kq, kn, EPOLL_CTL_MOD) == 0 ? 0 : errno;
    if (kn->filter == EVFILT_TIMER && change->flags & EV_ADD) {
        kn->fflags = change->fflags;
        kn->data = change->data;
        return start_timer(kq, kn);
    }
    if (kn->filter == EVFILT_USER) {
        trigger(kn, change->fflags);
        signal_user(kq);
    }
    return 0;
}

/* How many errors and receipts there were, or -1. */
static int apply(struct kq *kq, const struct kevent *changes, int count, struct kevent *events,
                 int room)
{
    int told = 0;
    for (int i = 0; i < count; i++) {
        struct kevent change = changes[i];
        int error = apply_one(kq, &change);
        if (error == 0 && !(change.flags & EV_RECEIPT))
            continue;
        if (error != 0)
            note_gone(kq, change.ident, change.filter);
        if (told == room) {
            if (kq->strict && count > 1)
                violated("no room to tell which change failed", change.ident, change.filter);
            if (error == 0)
                continue;
            errno = error;
            return -1;
        }
        change.flags = EV_ERROR;
        change.data = error;
        events[told++] = change;
    }
    return told;
}

/* -- collecting -------------------------------------------------------------------- */

/* An unconnected socket is "hung up" to Linux, and nothing at all to BSD. */
static bool was_never_connected(int fd, short revents)
{
    int type;
    socklen_t size = sizeof type;
    return revents & POLLHUP && !(revents & (POLLRDHUP | POLLIN | POLLERR)) &&
           getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 &&
           (type == SOCK_STREAM || type == SOCK_SEQPACKET);
}

/* Whether a READ or WRITE filter is true now; fills the event. */
static bool look(const struct knote *kn, struct kevent *event)
{
    bool reads = kn->filter == EVFILT_READ;
    struct pollfd pfd = {.fd = (int)kn->ident,
                         .events = reads ? POLLIN | POLLRDHUP : POLLOUT | POLLRDHUP};
    if (poll(&pfd, 1, 0) <= 0 || was_never_connected(pfd.fd, pfd.revents))
        return false;
    short ended = reads ? POLLRDHUP | POLLHUP | POLLERR : POLLHUP | POLLERR;
    if (!(pfd.revents & ((reads ? POLLIN : POLLOUT) | ended)))
        return false;
    if (pfd.revents & ended)
        event->flags |= EV_EOF;
    /* Which error it is cannot be had here without taking it from the socket. */
    event->fflags = pfd.revents & POLLERR ? EIO : 0;
    int bytes = 0;
    if (reads)
        event->data = ioctl(pfd.fd, FIONREAD, &bytes) == 0 ? bytes : 1;
    else
        event->data = 1;
    return true;
}

static bool look_elsewhere(struct knote *kn, struct kevent *event)
{
    uint64_t count;
    siginfo_t info = {0};
    switch (kn->filter) {
    case EVFILT_TIMER:
        if (read(kn->fd, &count, sizeof count) != sizeof count)
            return false;
        event->data = (int64_t)count;
        return true;
    case EVFILT_PROC:
        event->fflags = NOTE_EXIT;
        event->flags |= EV_EOF | EV_ONESHOT;
        kn->flags |= EV_ONESHOT;
        if (waitid(P_PID, (id_t)kn->ident, &info, WEXITED | WNOWAIT | WNOHANG) == 0)
            event->data = info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status;
        return true;
    default:
        event->fflags = kn->fflags;
        return kn->active;
    }
}

/* Hands out one knote, if it is true, and does what its flags say. */
static bool deliver(struct kq *kq, struct knote **at, struct kevent *event)
{
    struct knote *kn = *at;
    *event = (struct kevent){
        .ident = kn->ident, .filter = kn->filter, .flags = kn->flags, .udata = kn->udata};
    bool of_fd = is_of_fd(kn);
    if (kn->disabled || !(of_fd ? look(kn, event) : look_elsewhere(kn, event))) {
        if (of_fd && !kn->disabled && !kn->resting && !(kn->flags & EV_CLEAR)) {
            kn->resting = true;
            watch(kq, kn, EPOLL_CTL_MOD);
        }
        return false;
    }
    if (kn->flags & EV_ONESHOT) {
        if (of_fd)
            add(kq->sets[set_of(kn->filter)], (int)kn->ident, 0, 0, EPOLL_CTL_DEL);
        note_gone(kq, kn->ident, kn->filter);
        drop(at);
        return true;
    }
    if (kn->flags & EV_CLEAR) {
        kn->active = false;
        if (kn->filter == EVFILT_USER)
            kn->fflags = 0;
    }
    if (kn->flags & EV_DISPATCH)
        kn->disabled = true;
    if (of_fd && (kn->resting || kn->disabled)) {
        kn->resting = false;
        watch(kq, kn, EPOLL_CTL_MOD);
    }
    return true;
}

static int scan_set(struct kq *kq, int set, struct kevent *events, int room)
{
    struct epoll_event due[BATCH];
    int count = epoll_wait(kq->sets[set], due, room < BATCH ? room : BATCH, 0), found = 0;
    for (int i = 0; i < count; i++) {
        short filter = set == READ_SET ? EVFILT_READ : EVFILT_WRITE;
        struct knote **at = find(kq, (uint32_t)due[i].data.u64, filter);
        if (*at == NULL) {
            kq->stale[set] = true;
            continue;
        }
        /* A look at the number must not be a look at another file. */
        struct stat st;
        if (fstat((int)(*at)->ident, &st) != 0 || st.st_dev != (*at)->dev ||
            st.st_ino != (*at)->ino) {
            drop(at);
            kq->stale[set] = true;
            continue;
        }
        found += deliver(kq, at, &events[found]);
    }
    if (kq->stale[set])
        remake(kq, set);
    return found;
}

static int scan_users(struct kq *kq, struct kevent *events, int room)
{
    int found = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        struct knote **at = &kq->knotes[i];
        while (*at != NULL && found < room) {
            struct knote *kn = *at;
            if (kn->filter == EVFILT_USER && kn->active && !kn->disabled)
                found += deliver(kq, at, &events[found]);
            if (*at == kn)
                at = &kn->next;
        }
    }
    signal_user(kq);
    return found;
}

static void shuffle(struct kq *kq, struct kevent *events, int count)
{
    for (int i = count - 1; i > 0; i--) {
        kq->seed ^= kq->seed << 13;
        kq->seed ^= kq->seed >> 17;
        kq->seed ^= kq->seed << 5;
        int other = (int)(kq->seed % (uint32_t)(i + 1));
        struct kevent kept = events[i];
        events[i] = events[other];
        events[other] = kept;
    }
}

/* What is true now, without waiting. */
static int scan(struct kq *kq, struct kevent *events, int room)
{
    struct epoll_event due[BATCH];
    int count = epoll_wait(kq->fd, due, BATCH, 0), found = 0;
    for (int i = 0; i < count && found < room; i++) {
        short filter = (short)(uint16_t)(due[i].data.u64 >> 32);
        if ((uint32_t)due[i].data.u64 != NO_IDENT) {
            struct knote **at = find(kq, (uint32_t)due[i].data.u64, filter);
            if (*at != NULL)
                found += deliver(kq, at, &events[found]);
        } else if (filter == EVFILT_USER) {
            found += scan_users(kq, events + found, room - found);
        } else {
            found += scan_set(kq, filter - 1, events + found, room - found);
        }
    }
    if (kq->strict)
        shuffle(kq, events, found);
    return found;
}

static int64_t now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static int collect(struct kq *kq, struct kevent *events, int room,
                   const struct timespec *timeout, const sigset_t *before)
{
    int64_t until = INT64_MAX;
    kq->collection++;
    if (timeout != NULL && timeout->tv_sec < 1000000000)
        until = now() + timeout->tv_sec * INT64_C(1000000000) + timeout->tv_nsec;
    bool at_once = timeout != NULL && timeout->tv_sec == 0 && timeout->tv_nsec == 0;
    for (;;) {
        int found = scan(kq, events, room);
        int64_t left = until == INT64_MAX || at_once ? 0 : until - now();
        if (found != 0 || at_once || left < 0)
            return found;
        struct timespec ts = {left / 1000000000, left % 1000000000};
        struct pollfd pfd = {.fd = kq->fd, .events = POLLIN};
        pthread_mutex_unlock(&kq->mutex);
        int answer = ppoll(&pfd, 1, until == INT64_MAX ? NULL : &ts, before);
        int error = errno;
        pthread_mutex_lock(&kq->mutex);
        if (answer < 0) {
            errno = error;
            return -1;
        }
    }
}

static struct kq *take(int fd)
{
    pthread_mutex_lock(&table_mutex);
    struct kq *kq = fd >= 0 && fd < KQUEUES ? table[fd] : NULL;
    pthread_mutex_unlock(&table_mutex);
    if (kq == NULL)
        errno = EBADF;
    else
        pthread_mutex_lock(&kq->mutex);
    return kq;
}

int kevent(int fd, const struct kevent *changes, int nchanges, struct kevent *events,
           int nevents, const struct timespec *timeout)
{
    /* May be called from signal handlers: none may come while the lock is held. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int saved = errno, count = -1;
    struct kq *kq = take(fd);
    if (kq != NULL) {
        count = apply(kq, changes, nchanges, events, nevents);
        if (count == 0 && nevents > 0)
            count = collect(kq, events, nevents, timeout, &before);
        int error = errno;
        pthread_mutex_unlock(&kq->mutex);
        errno = error;
    }
    if (count >= 0)
        errno = saved;
    int error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return count;
}
