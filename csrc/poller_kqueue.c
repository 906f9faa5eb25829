/* poller_kqueue.c: the poller's OS half on macOS and the BSDs.
 *
 * Changes are noted and go down with the kevent(2) call that waits, one call a turn. Where a
 * change fails, kevent answers with its EV_ERROR and nothing else; it is asked again at once,
 * since otherwise a look without waiting would miss what is due. lio_flush hands them over by
 * themselves (EV_RECEIPT: a receipt for each change, and no event is taken).
 *
 * A filter is bound to a number and to the file that it named at EV_ADD, and goes with the
 * close of the number, whoever closes it. That is told nowhere, but it can be asked: a change
 * of a filter that is gone is ENOENT. fstat(2), which tells files apart on Linux, cannot do
 * that for the sockets of these systems, which have no inodes. So a second kqueue, the witness,
 * has a disabled filter for every descriptor where operations must not reach another file; it
 * is never waited for, only asked, by disabling the filter once more.
 *
 * A kqueue is not inherited by fork(2): in a child its number is somebody else's. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include <sys/event.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "poller.h"

#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)
#define TIMEOUT_MAX_S 86400 /* kernels refuse what is too long; the turn waits again */
/* udata of deletions: no generation. The flags of a change need not come back with its error.
 */
#define TAG_DELETION UINTPTR_MAX

/* Idents of EVFILT_USER, and indexes of the pairs of sockets in its place. */
enum { IDENT_WAKE, IDENT_NUDGE };

#if !defined(MSG_NOSIGNAL)
#define MSG_NOSIGNAL 0
#endif

typedef struct kqueue_os {
    lio_os base; /* base.pending: how many changes are noted */
    int kq;      /* is b->wake_fd with EVFILT_USER, and then lio_destroy's to close */
    int witness;
    int read_ends[2], nudge_fd; /* without EVFILT_USER */
    bool user;
    struct kevent changes[LIO_EVENT_MAX];
    struct kevent events[LIO_EVENT_MAX];
} kqueue_os;

static kqueue_os *os_of(lio_os *os)
{
    return (kqueue_os *)os;
}

static struct kevent change_of(uintptr_t ident, int filter, int flags, uintptr_t tag)
{
    struct kevent change; /* its types differ from system to system */
    memset(&change, 0, sizeof change);
    change.ident = ident;
    change.filter = (__typeof__(change.filter))filter;
    change.flags = (__typeof__(change.flags))flags;
    change.udata = (void *)tag;
    return change;
}

/* The negative errno of an answer to a change; 0 for a receipt. */
static int error_of(const struct kevent *answer)
{
    assert(answer->flags & EV_ERROR);
    return -(int)answer->data;
}

/* Makes changes now and takes no event; answers come in their order, one for each. */
static int change_now(int kq, struct kevent *changes, int count, struct kevent *answers)
{
    const struct timespec none = {0, 0};
    for (int i = 0; i < count; i++)
        changes[i].flags |= EV_RECEIPT;
    int answered;
    do {
        answered = kevent(kq, changes, count, answers, count, &none);
    } while (answered < 0 && errno == EINTR);
    if (answered < 0)
        return -errno;
    return answered == count ? 0 : -EIO;
}

static int change_one(int kq, struct kevent change)
{
    struct kevent answer;
    int error = change_now(kq, &change, 1, &answer);
    return error != 0 ? error : error_of(&answer);
}

/* What the kernel says of a file that has no such filter. */
static bool is_refusal(int error)
{
    return error == -EINVAL || error == -ENODEV || error == -EPERM || error == -EOPNOTSUPP ||
           error == -ENOTSUP;
}

/* -- life -------------------------------------------------------------------------- */

static int make_kqueue(void)
{
    int kq = kqueue();
    if (kq < 0)
        return -errno;
    if (fcntl(kq, F_SETFD, FD_CLOEXEC) == 0)
        return kq;
    int error = -errno;
    close(kq);
    return error;
}

static int watch_user(int kq, uintptr_t ident)
{
#if defined(EVFILT_USER)
    return change_one(kq, change_of(ident, EVFILT_USER, EV_ADD | EV_CLEAR, 0));
#else
    (void)kq, (void)ident;
    return -ENOTSUP;
#endif
}

static int trigger_user(int kq, uintptr_t ident)
{
#if defined(EVFILT_USER)
    struct kevent change = change_of(ident, EVFILT_USER, 0, 0);
    change.fflags = NOTE_TRIGGER;
    return kevent(kq, &change, 1, NULL, 0, NULL) == 0 ? 0 : -errno;
#else
    (void)kq, (void)ident;
    return -ENOTSUP;
#endif
}

/* The fallback for EVFILT_USER. Sockets rather than a pipe: a wake that comes after the end
 * must raise no SIGPIPE. */
static int open_pair(int kq, int *read_end, int *write_end)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
        return -errno;
    *read_end = ends[0];
    *write_end = ends[1];
    for (int i = 0; i < 2; i++) {
        if (fcntl(ends[i], F_SETFD, FD_CLOEXEC) != 0 ||
            fcntl(ends[i], F_SETFL, O_NONBLOCK) != 0)
            return -errno;
#if defined(SO_NOSIGPIPE)
        int on = 1;
        if (setsockopt(ends[i], SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on) != 0)
            return -errno;
#endif
    }
    return change_one(kq, change_of((uintptr_t)ends[0], EVFILT_READ, EV_ADD | EV_CLEAR, 0));
}

static int open_wake(lio_backend *b, kqueue_os *os)
{
    if (os->user) {
        int error = watch_user(os->kq, IDENT_WAKE);
        return error != 0 ? error : watch_user(os->kq, IDENT_NUDGE);
    }
    b->wake_fd = -1;
    b->wake_fd_dies_in_child = false;
    int error = open_pair(os->kq, &os->read_ends[IDENT_WAKE], &b->wake_fd);
    return error != 0 ? error : open_pair(os->kq, &os->read_ends[IDENT_NUDGE], &os->nudge_fd);
}

static int open_all(lio_backend *b, kqueue_os *os)
{
    os->kq = make_kqueue();
    if (os->kq < 0)
        return os->kq;
    os->witness = make_kqueue();
    if (os->witness < 0)
        return os->witness;
    return open_wake(b, os);
}

static void close_all(kqueue_os *os, bool forked)
{
    if (!forked && os->kq >= 0 && !os->user)
        close(os->kq);
    if (!forked && os->witness >= 0)
        close(os->witness);
    for (int i = 0; i < 2; i++) {
        if (os->read_ends[i] >= 0)
            close(os->read_ends[i]);
    }
    if (os->nudge_fd >= 0)
        close(os->nudge_fd);
    free(os);
}

static int kqueue_open(lio_backend *b, lio_os **os)
{
    kqueue_os *fresh = calloc(1, sizeof *fresh);
    if (fresh == NULL)
        return -ENOMEM;
    if (b->wake_fd >= 0)
        close(b->wake_fd); /* of an init that failed: nobody can have used it */
    b->wake_fd = -1;
    fresh->kq = fresh->witness = fresh->nudge_fd = -1;
    fresh->read_ends[0] = fresh->read_ends[1] = -1;
    fresh->user = (b->capabilities & LIO_CAP_USER_EVENT) != 0;
    int error = open_all(b, fresh);
    if (fresh->user) {
        b->wake_fd = fresh->kq < 0 ? -1 : fresh->kq;
        b->wake_fd_dies_in_child = true;
    }
    if (error != 0) {
        if (b->wake_fd >= 0)
            close(b->wake_fd);
        b->wake_fd = -1;
        close_all(fresh, false);
        return error;
    }
    *os = &fresh->base;
    return 0;
}

static void kqueue_close(lio_os *os, bool forked)
{
    close_all(os_of(os), forked);
}

/* -- registrations ----------------------------------------------------------------- */

static const int filters[2] = {EVFILT_READ, EVFILT_WRITE};

/* That there is nothing to delete is no error: somebody closed the descriptor. */
static bool is_nothing(const struct kevent *change, int error)
{
    return error == 0 || (change->flags & EV_DELETE && (error == -ENOENT || error == -EBADF));
}

/* Makes all noted changes. Those that failed stay, and fail again when they can be told. */
static int make_room(lio_backend *b, kqueue_os *os)
{
    struct kevent answers[LIO_EVENT_MAX];
    int count = (int)os->base.pending;
    b->stats.syscalls++;
    int error = change_now(os->kq, os->changes, count, answers);
    if (error != 0)
        return error;
    os->base.pending = 0;
    for (int i = 0; i < count; i++) {
        os->changes[i].flags &= (unsigned short)~EV_RECEIPT;
        if (!is_nothing(&os->changes[i], error_of(&answers[i])))
            os->changes[os->base.pending++] = os->changes[i];
    }
    return os->base.pending < LIO_EVENT_MAX ? 0 : -ENOBUFS;
}

static int note(lio_backend *b, kqueue_os *os, int fd, int filter, int flags, uintptr_t tag)
{
    int error = os->base.pending == LIO_EVENT_MAX ? make_room(b, os) : 0;
    if (error == 0)
        os->changes[os->base.pending++] = change_of((uintptr_t)fd, filter, flags, tag);
    return error;
}

static int note_both(lio_backend *b, kqueue_os *os, int fd, uint8_t which, int flags,
                     uintptr_t tag)
{
    int error = 0;
    for (int direction = LIO_READER; direction <= LIO_WRITER; direction++) {
        if (error == 0 && which & 1 << direction)
            error = note(b, os, fd, filters[direction], flags, tag);
    }
    return error;
}

static int kqueue_remember(lio_backend *b, lio_os *os, int fd)
{
    b->stats.syscalls++;
    return change_one(os_of(os)->witness,
                      change_of((uintptr_t)fd, EVFILT_READ, EV_ADD | EV_DISABLE, 0));
}

static int kqueue_recognise(lio_backend *b, lio_os *os, int fd)
{
    b->stats.syscalls++;
    return change_one(os_of(os)->witness, change_of((uintptr_t)fd, EVFILT_READ, EV_DISABLE, 0));
}

static int kqueue_adopt(lio_backend *b, lio_os *os, const lio_fd_entry *entry, int fd)
{
    int error = kqueue_remember(b, os, fd);
    if (error != 0)
        return is_refusal(error) ? 0 : error;
    error = note_both(b, os_of(os), fd, LIO_READY_BOTH, EV_ADD | EV_CLEAR, entry->generation);
    return error != 0 ? error : 1;
}

static int kqueue_arm(lio_backend *b, lio_os *os, const lio_fd_entry *entry, int fd,
                      uint8_t ready)
{
    uint8_t idle = entry->armed & (uint8_t)~ready & LIO_READY_BOTH;
    int error = note_both(b, os_of(os), fd, idle, EV_DELETE, TAG_DELETION);
    if (error == 0)
        error = note_both(b, os_of(os), fd, ready, EV_ADD | EV_ONESHOT, entry->generation);
    return error;
}

/* What was noted before goes first: so there is something to delete, unless the descriptor was
 * closed. */
static void kqueue_forget(lio_backend *b, lio_os *base, const lio_fd_entry *entry, int fd)
{
    kqueue_os *os = os_of(base);
    uint8_t which = entry->adopted ? LIO_READY_BOTH : entry->armed;
    int error = note_both(b, os, fd, which, EV_DELETE, TAG_DELETION);
    if (error == 0)
        error = make_room(b, os);
    assert(error == 0);
    (void)error;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < base->pending; i++) {
        if (os->changes[i].ident != (uintptr_t)fd)
            os->changes[kept++] = os->changes[i];
    }
    base->pending = kept;
}

/* -- waiting ----------------------------------------------------------------------- */

/* Takes out what was sent, lest it fills up. */
static void drain(lio_backend *b, int fd)
{
    char bytes[64];
    ssize_t count;
    do {
        b->stats.syscalls++;
        count = read(fd, bytes, sizeof bytes);
    } while (count == (ssize_t)sizeof bytes || (count < 0 && errno == EINTR));
}

static bool is_wake(lio_backend *b, const kqueue_os *os, const struct kevent *from,
                    lio_event *event)
{
#if defined(EVFILT_USER)
    if ((int)from->filter == EVFILT_USER) {
        event->kind = from->ident == IDENT_WAKE ? LIO_EVENT_WAKE : LIO_EVENT_NUDGE;
        return true;
    }
#endif
    for (int i = 0; !os->user && i < 2; i++) {
        if (from->ident == (uintptr_t)os->read_ends[i]) {
            event->kind = i == IDENT_WAKE ? LIO_EVENT_WAKE : LIO_EVENT_NUDGE;
            drain(b, os->read_ends[i]);
            return true;
        }
    }
    return false;
}

/* False: there is nothing to tell. */
static bool translate(lio_backend *b, const kqueue_os *os, const struct kevent *from,
                      lio_event *event)
{
    *event = (lio_event){.kind = LIO_EVENT_FD, .fd = (int)from->ident};
    event->generation = (uint32_t)(uintptr_t)from->udata;
    event->ready = (int)from->filter == EVFILT_READ ? LIO_READY_READ : LIO_READY_WRITE;
    event->spent = event->ready;
    if (from->flags & EV_ERROR) {
        event->error = error_of(from);
        return event->error != 0 && (uintptr_t)from->udata != TAG_DELETION;
    }
    if (is_wake(b, os, from, event))
        return true;
    /* There may be data to read before the end. */
    if (from->flags & EV_EOF)
        event->ready |= LIO_READY_ENDED;
    return true;
}

static int ask(lio_backend *b, kqueue_os *os, int changes, const struct timespec *timeout)
{
    b->stats.syscalls++;
    int count = kevent(os->kq, os->changes, changes, os->events, LIO_EVENT_MAX, timeout);
    if (count < 0) {
        /* kqueue(2): after EINTR all changes have been applied. */
        if (errno == EINTR)
            os->base.pending = 0;
        return -errno;
    }
    os->base.pending = 0;
    return count;
}

static int translate_all(lio_backend *b, const kqueue_os *os, int count, lio_event *events)
{
    int told = 0;
    for (int i = 0; i < count; i++)
        told += translate(b, os, &os->events[i], &events[told]);
    return told;
}

static int kqueue_wait(lio_backend *b, lio_os *base, int64_t timeout_ns, lio_event *events)
{
    kqueue_os *os = os_of(base);
    int64_t s = timeout_ns / NS_PER_S;
    const struct timespec none = {0, 0};
    const struct timespec ts = {.tv_sec = (time_t)(s > TIMEOUT_MAX_S ? TIMEOUT_MAX_S : s),
                                .tv_nsec = (long)(timeout_ns % NS_PER_S)};
    const struct timespec *timeout = timeout_ns < 0 ? NULL : &ts;
    int count = ask(b, os, (int)base->pending, timeout);
    if (count <= 0 || !(os->events[0].flags & EV_ERROR))
        return count <= 0 ? count : translate_all(b, os, count, events);
    int failed = translate_all(b, os, count, events);
    if (failed == LIO_EVENT_MAX)
        return failed;
    count = ask(b, os, 0, failed != 0 ? &none : timeout);
    if (count < 0)
        return failed != 0 ? failed : count;
    if (count > LIO_EVENT_MAX - failed)
        count = LIO_EVENT_MAX - failed;
    return failed + translate_all(b, os, count, events + failed);
}

static int kqueue_submit(lio_backend *b, lio_os *base, lio_event *events)
{
    kqueue_os *os = os_of(base);
    int count = (int)base->pending, told = 0;
    if (count == 0)
        return 0;
    b->stats.syscalls++;
    int error = change_now(os->kq, os->changes, count, os->events);
    if (error != 0)
        return error;
    base->pending = 0;
    for (int i = 0; i < count; i++) {
        if (!is_nothing(&os->changes[i], error_of(&os->events[i])))
            told += translate(b, os, &os->events[i], &events[told]);
    }
    return told;
}

static int kqueue_poll(lio_os *os, int64_t timeout_ns)
{
    struct pollfd pfd = {.fd = os_of(os)->kq, .events = POLLIN};
    /* Rounded up: one that ends early would have to be made again. */
    int64_t ms = timeout_ns < 0 ? -1 : timeout_ns / NS_PER_MS + (timeout_ns % NS_PER_MS != 0);
    int ready = poll(&pfd, 1, ms > INT32_MAX ? INT32_MAX : (int)ms);
    return ready < 0 ? -errno : ready > 0;
}

static int signal_pair(int fd)
{
    int saved = errno; /* a signal handler may call this */
    ssize_t done = send(fd, "", 1, MSG_NOSIGNAL);
    /* EAGAIN: so many are on their way that an event is due anyway. EPIPE: all is over. */
    int error = done < 0 && errno != EAGAIN && errno != EPIPE ? -errno : 0;
    errno = saved;
    return error;
}

static int kqueue_wake(lio_backend *b)
{
    if (!(b->capabilities & LIO_CAP_USER_EVENT))
        return signal_pair(b->wake_fd);
    int saved = errno;
    int error = trigger_user(b->wake_fd, IDENT_WAKE);
    errno = saved;
    return error;
}

static void kqueue_nudge(lio_os *base)
{
    kqueue_os *os = os_of(base);
    int error = os->user ? trigger_user(os->kq, IDENT_NUDGE) : signal_pair(os->nudge_fd);
    assert(error == 0);
    (void)error;
}

/* -- the backend ------------------------------------------------------------------- */

static void refuse(lio_probe_result *result, int error, const char *what)
{
    result->error = error;
    snprintf(result->reason, sizeof result->reason, "%s failed: %s", what, strerror(-error));
}

/* Whether a trigger arrives: once, and not before it is there. */
static bool try_user(int kq)
{
#if defined(EVFILT_USER)
    const struct timespec none = {0, 0};
    struct kevent event;
    return watch_user(kq, IDENT_WAKE) == 0 && kevent(kq, NULL, 0, &event, 1, &none) == 0 &&
           trigger_user(kq, IDENT_WAKE) == 0 && kevent(kq, NULL, 0, &event, 1, &none) == 1 &&
           (int)event.filter == EVFILT_USER && kevent(kq, NULL, 0, &event, 1, &none) == 0;
#else
    (void)kq;
    return false;
#endif
}

static void kqueue_probe(uint32_t without, lio_probe_result *result)
{
    int kq = make_kqueue();
    if (kq < 0) {
        refuse(result, kq, "kqueue");
        return;
    }
    if (!(without & LIO_CAP_USER_EVENT) && try_user(kq))
        result->capabilities |= LIO_CAP_USER_EVENT;
    close(kq);
    if (!(without & LIO_CAP_EDGE_TRIGGERED))
        result->capabilities |= LIO_CAP_EDGE_TRIGGERED;
    if (!(without & LIO_CAP_FILE_POOL))
        result->capabilities |= LIO_CAP_FILE_POOL;
}

static const lio_os_half kqueue_half = {
    .open = kqueue_open,
    .close = kqueue_close,
    .adopt = kqueue_adopt,
    .arm = kqueue_arm,
    .forget = kqueue_forget,
    .remember = kqueue_remember,
    .recognise = kqueue_recognise,
    .submit = kqueue_submit,
    .wait = kqueue_wait,
    .nudge = kqueue_nudge,
    .poll = kqueue_poll,
    .tells_urgent = false,
};

static int kqueue_init(lio_backend *b)
{
    lio_probe_result found = {0};
    kqueue_probe(b->without, &found);
    if (found.error != 0)
        return found.error;
    b->capabilities |= found.capabilities;
    return lio_poller_init(b, &kqueue_half);
}

const lio_vtable lio_kqueue_vtable = {
    .name = "kqueue",
    .probe = kqueue_probe,
    .init = kqueue_init,
    .supports = lio_poller_supports,
    .submit = lio_poller_submit,
    .turn = lio_poller_turn,
    .cancel = lio_poller_cancel,
    .adopt = lio_poller_adopt,
    .received = lio_poller_received,
    .is_claimed = lio_poller_is_claimed,
    .release_fd = lio_poller_release_fd,
    .recycle = lio_poller_recycle,
    .handed_out = lio_poller_handed_out,
    .wake = kqueue_wake,
    .wait_ready = lio_poller_wait_ready,
    .close = lio_poller_close,
};
