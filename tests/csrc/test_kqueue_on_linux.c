/* The kqueue that the tests bring themselves: what kqueue(2) of FreeBSD says, and nothing of
 * trio-lio. */
#include "check.h"

#include <signal.h>
#include <sys/event.h>
#include <sys/wait.h>

static const struct timespec none = {0, 0}, long_enough = {5, 0}, short_while = {0, 20000000};

static struct kevent change(uintptr_t ident, int filter, int flags)
{
    struct kevent made;
    EV_SET(&made, ident, (short)filter, (unsigned short)flags, 0, 0, (void *)7);
    return made;
}

static int make(void)
{
    int kq = kqueue();
    MUST(kq >= 0);
    return kq;
}

/* One change; 0 or the errno of its EV_ERROR. */
static int apply(int kq, struct kevent one)
{
    struct kevent answer;
    one.flags |= EV_RECEIPT;
    MUST(kevent(kq, &one, 1, &answer, 1, &none) == 1);
    CHECK(answer.flags & EV_ERROR);
    CHECK_EQ(answer.ident, one.ident);
    return (int)answer.data;
}

static int collect(int kq, struct kevent *events, int room, const struct timespec *timeout)
{
    return kevent(kq, NULL, 0, events, room, timeout);
}

static void test_level(void)
{
    int kq = make(), fds[2];
    struct kevent event;
    make_pair(fds);
    CHECK_EQ(apply(kq, change((uintptr_t)fds[0], EVFILT_READ, EV_ADD)), 0);
    CHECK_EQ(collect(kq, &event, 1, &none), 0);
    MUST(write(fds[1], "abc", 3) == 3);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(collect(kq, &event, 1, &none), 1);
        CHECK_EQ(event.ident, fds[0]);
        CHECK_EQ(event.filter, EVFILT_READ);
        CHECK_EQ(event.data, 3);
        CHECK_EQ((intptr_t)event.udata, 7);
        CHECK(!(event.flags & EV_EOF));
    }
    CHECK_EQ(drink(fds[0], 3), 3);
    CHECK_EQ(collect(kq, &event, 1, &none), 0);
    MUST(write(fds[1], "d", 1) == 1);
    CHECK_EQ(collect(kq, &event, 1, &none), 1); /* again, after it was not true */
    CHECK_EQ(apply(kq, change((uintptr_t)fds[0], EVFILT_READ, EV_DISABLE)), 0);
    CHECK_EQ(collect(kq, &event, 1, &none), 0);
    CHECK_EQ(apply(kq, change((uintptr_t)fds[0], EVFILT_READ, EV_ENABLE)), 0);
    CHECK_EQ(collect(kq, &event, 1, &none), 1);
    CHECK_EQ(apply(kq, change((uintptr_t)fds[0], EVFILT_READ, EV_DELETE)), 0);
    CHECK_EQ(collect(kq, &event, 1, &none), 0);
    CHECK_EQ(apply(kq, change((uintptr_t)fds[0], EVFILT_READ, EV_DELETE)), ENOENT);
    close(kq);
    close(fds[0]);
    close(fds[1]);
}

static void test_clear_is_once_for_each_arrival(void)
{
    int kq = make(), fds[2];
    struct kevent events[4];
    make_pair(fds);
    CHECK_EQ(apply(kq, change((uintptr_t)fds[0], EVFILT_READ, EV_ADD | EV_CLEAR)), 0);
    CHECK_EQ(apply(kq, change((uintptr_t)fds[0], EVFILT_WRITE, EV_ADD | EV_CLEAR)), 0);
    CHECK_EQ(collect(kq, events, 4, &none), 1);
    CHECK_EQ(events[0].filter, EVFILT_WRITE);
    for (int i = 0; i < 3; i++) {
        MUST(write(fds[1], "x", 1) == 1);
        CHECK_EQ(collect(kq, events, 4, &none), 1);
        CHECK_EQ(events[0].filter, EVFILT_READ);
        CHECK_EQ(events[0].data, i + 1);
        CHECK_EQ(collect(kq, events, 4, &none), 0);
    }
    size_t size = stuff(fds[0]);
    CHECK_EQ(collect(kq, events, 4, &none), 0);
    CHECK_EQ(drink(fds[1], size), size);
    CHECK_EQ(collect(kq, events, 4, &none), 1);
    CHECK_EQ(events[0].filter, EVFILT_WRITE);
    close(kq);
    close(fds[0]);
    close(fds[1]);
}

static void test_oneshot_and_dispatch(void)
{
    int kq = make(), fds[2];
    struct kevent event;
    make_pair(fds);
    MUST(write(fds[1], "x", 1) == 1);
    CHECK_EQ(apply(kq, change((uintptr_t)fds[0], EVFILT_READ, EV_ADD | EV_ONESHOT)), 0);
    CHECK_EQ(collect(kq, &event, 1, &none), 1);
    CHECK_EQ(collect(kq, &event, 1, &none), 0);
    CHECK_EQ(apply(kq, change((uintptr_t)fds[0], EVFILT_READ, EV_ENABLE)), ENOENT);
    CHECK_EQ(apply(kq, change((uintptr_t)fds[0], EVFILT_READ, EV_ADD | EV_DISPATCH)), 0);
    CHECK_EQ(collect(kq, &event, 1, &none), 1);
    CHECK_EQ(collect(kq, &event, 1, &none), 0);
    CHECK_EQ(apply(kq, change((uintptr_t)fds[0], EVFILT_READ, EV_ENABLE | EV_DISPATCH)), 0);
    CHECK_EQ(collect(kq, &event, 1, &none), 1);
    close(kq);
    close(fds[0]);
    close(fds[1]);
}

static void test_the_end_comes_with_what_is_left_to_read(void)
{
    int kq = make(), fds[2], ends[2];
    struct kevent event;
    make_pair(fds);
    CHECK_EQ(apply(kq, change((uintptr_t)fds[0], EVFILT_READ, EV_ADD)), 0);
    MUST(write(fds[1], "xyz", 3) == 3);
    close(fds[1]);
    CHECK_EQ(collect(kq, &event, 1, &none), 1);
    CHECK(event.flags & EV_EOF);
    CHECK_EQ(event.data, 3);
    MUST(pipe(ends) == 0);
    CHECK_EQ(apply(kq, change((uintptr_t)ends[1], EVFILT_WRITE, EV_ADD | EV_CLEAR)), 0);
    CHECK_EQ(collect(kq, &event, 1, &none), 1);
    if (event.ident != (uintptr_t)ends[1])
        CHECK_EQ(collect(kq, &event, 1, &none), 1);
    close(fds[0]);
    close(ends[0]);
    CHECK_EQ(collect(kq, &event, 1, &none), 1);
    CHECK_EQ(event.ident, ends[1]);
    CHECK(event.flags & EV_EOF);
    close(ends[1]);
    close(kq);
}

static void test_a_filter_goes_with_its_descriptor(void)
{
    int kq = make(), fds[2], other[2];
    struct kevent event;
    make_pair(fds);
    make_pair(other);
    int fd = fds[0], elsewhere = dup(fd);
    CHECK_EQ(apply(kq, change((uintptr_t)fd, EVFILT_READ, EV_ADD)), 0);
    CHECK_EQ(apply(kq, change((uintptr_t)fd, EVFILT_WRITE, EV_ADD | EV_DISABLE)), 0);
    MUST(dup2(other[0], fd) == fd);
    MUST(write(fds[1], "old", 3) == 3);
    MUST(write(other[1], "new", 3) == 3);
    CHECK_EQ(collect(kq, &event, 1, &none), 0);
    CHECK_EQ(apply(kq, change((uintptr_t)fd, EVFILT_WRITE, EV_DISABLE)), ENOENT);
    CHECK_EQ(apply(kq, change((uintptr_t)fd, EVFILT_READ, EV_ADD)), 0);
    CHECK_EQ(collect(kq, &event, 1, &none), 1);
    close(fd);
    CHECK_EQ(apply(kq, change((uintptr_t)fd, EVFILT_READ, EV_DELETE)), EBADF);
    CHECK_EQ(collect(kq, &event, 1, &none), 0);
    close(elsewhere);
    close(fds[1]);
    close(other[0]);
    close(other[1]);
    close(kq);
}

static void test_errors_come_alone_and_in_the_list(void)
{
    int kq = make(), fds[2], file = open("/etc/hosts", O_RDONLY);
    MUST(file >= 0);
    make_pair(fds);
    struct kevent changes[3] = {change((uintptr_t)fds[0], EVFILT_WRITE, EV_ADD),
                                change((uintptr_t)file, EVFILT_READ, EV_ADD),
                                change(9999, EVFILT_READ, EV_ADD)};
    struct kevent events[4];
    CHECK_EQ(kevent(kq, changes, 3, events, 4, &long_enough), 2);
    for (int i = 0; i < 2; i++)
        CHECK(events[i].flags & EV_ERROR);
    CHECK_EQ(events[0].data, EINVAL);
    CHECK_EQ(events[1].data, EBADF);
    CHECK_EQ(collect(kq, events, 4, &none), 1);
    CHECK_EQ(kevent(kq, &changes[1], 1, NULL, 0, &none), -1);
    CHECK_EQ(errno, EINVAL);
    CHECK_EQ(apply(kq, change((uintptr_t)kq, EVFILT_READ, EV_ADD)), EINVAL);
    CHECK_EQ(apply(kq, change(1, -99, EV_ADD)), EINVAL);
    close(file);
    close(fds[0]);
    close(fds[1]);
    close(kq);
    CHECK_EQ(collect(kq, events, 4, &none), -1);
    CHECK_EQ(errno, EBADF);
}

static void test_timers(void)
{
    int kq = make();
    struct kevent once = change(1, EVFILT_TIMER, EV_ADD | EV_ONESHOT), event;
    int64_t begun = check_now();
    once.fflags = NOTE_USECONDS;
    once.data = 3000;
    CHECK_EQ(apply(kq, once), 0);
    CHECK_EQ(collect(kq, &event, 1, &long_enough), 1);
    CHECK(check_now() - begun >= 3 * MS);
    CHECK_EQ(collect(kq, &event, 1, &short_while), 0);
    struct kevent again = change(2, EVFILT_TIMER, EV_ADD);
    again.data = 2;
    CHECK_EQ(apply(kq, again), 0);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(collect(kq, &event, 1, &long_enough), 1);
        CHECK(event.data >= 1);
    }
    CHECK_EQ(apply(kq, change(2, EVFILT_TIMER, EV_DELETE)), 0);
    CHECK_EQ(collect(kq, &event, 1, &short_while), 0);
    close(kq);
}

static void test_user_events_coalesce(void)
{
    int kq = make();
    struct kevent trigger = change(5, EVFILT_USER, 0), event;
    CHECK_EQ(apply(kq, trigger), ENOENT);
    CHECK_EQ(apply(kq, change(5, EVFILT_USER, EV_ADD | EV_CLEAR)), 0);
    CHECK_EQ(collect(kq, &event, 1, &none), 0);
    trigger.fflags = NOTE_TRIGGER | NOTE_FFOR | 3;
    for (int i = 0; i < 4; i++)
        CHECK_EQ(kevent(kq, &trigger, 1, NULL, 0, NULL), 0);
    CHECK_EQ(collect(kq, &event, 1, &long_enough), 1);
    CHECK_EQ(event.fflags, 3);
    CHECK_EQ(collect(kq, &event, 1, &none), 0);
    close(kq);
}

static void test_the_end_of_a_process(void)
{
    int kq = make();
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        pause();
        _exit(1);
    }
    struct kevent watch = change((uintptr_t)child, EVFILT_PROC, EV_ADD | EV_ONESHOT), event;
    watch.fflags = NOTE_EXIT;
    CHECK_EQ(apply(kq, watch), 0);
    CHECK_EQ(collect(kq, &event, 1, &none), 0);
    kill(child, SIGKILL);
    CHECK_EQ(collect(kq, &event, 1, &long_enough), 1);
    CHECK_EQ(event.fflags, NOTE_EXIT);
    CHECK_EQ(event.data, SIGKILL);
    MUST(waitpid(child, NULL, 0) == child);
    CHECK_EQ(apply(kq, watch), ESRCH);
    close(kq);
}

static void test_a_kqueue_in_a_kqueue(void)
{
    int outer = make(), inner = make(), fds[2];
    struct kevent event;
    make_pair(fds);
    CHECK_EQ(apply(outer, change((uintptr_t)inner, EVFILT_READ, EV_ADD)), 0);
    CHECK_EQ(apply(inner, change((uintptr_t)fds[0], EVFILT_READ, EV_ADD | EV_ONESHOT)), 0);
    CHECK_EQ(collect(outer, &event, 1, &none), 0);
    MUST(write(fds[1], "x", 1) == 1);
    CHECK_EQ(collect(outer, &event, 1, &long_enough), 1);
    CHECK_EQ(event.ident, inner);
    CHECK_EQ(collect(inner, &event, 1, &none), 1);
    CHECK_EQ(collect(outer, &event, 1, &none), 0);
    close(inner);
    close(outer);
    close(fds[0]);
    close(fds[1]);
}

static void test_a_child_has_none(void)
{
    int kq = make(), status;
    struct kevent event;
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0)
        _exit(fcntl(kq, F_GETFD) >= 0 || collect(kq, &event, 1, &none) >= 0);
    MUST(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
    CHECK_EQ(collect(kq, &event, 1, &none), 0);
    close(kq);
}

/* Whether a strict kqueue ends the program that does this. */
static bool is_forbidden(void (*act)(int kq, int fd))
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        int fds[2];
        make_pair(fds);
        MUST(write(fds[1], "x", 1) == 1 && dup2(open("/dev/null", O_WRONLY), 2) == 2);
        MUST(setenv("KQUEUE_ON_LINUX_STRICT", "1", 1) == 0);
        act(make(), fds[0]);
        _exit(0);
    }
    MUST(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void delete_after_event(int kq, int fd, int looks)
{
    struct kevent event;
    MUST(apply(kq, change((uintptr_t)fd, EVFILT_READ, EV_ADD | EV_ONESHOT)) == 0);
    for (int i = 0; i < looks; i++)
        MUST(collect(kq, &event, 1, &none) == (i == 0));
    apply(kq, change((uintptr_t)fd, EVFILT_READ, EV_DELETE));
}

static void delete_at_once(int kq, int fd)
{
    delete_after_event(kq, fd, 1);
}

static void delete_later(int kq, int fd)
{
    delete_after_event(kq, fd, 2);
}

static void leave_no_room(int kq, int fd)
{
    struct kevent changes[2] = {change((uintptr_t)fd, EVFILT_READ, EV_ADD),
                                change(9999, EVFILT_READ, EV_ADD)};
    kevent(kq, changes, 2, NULL, 0, &none);
}

static void test_strictness(void)
{
    CHECK(!is_forbidden(delete_at_once)); /* the event and the deletion may have crossed */
    CHECK(is_forbidden(delete_later));
    CHECK(is_forbidden(leave_no_room));
}

static const check_test tests[] = {
    TEST(test_level),
    TEST(test_clear_is_once_for_each_arrival),
    TEST(test_oneshot_and_dispatch),
    TEST(test_the_end_comes_with_what_is_left_to_read),
    TEST(test_a_filter_goes_with_its_descriptor),
    TEST(test_errors_come_alone_and_in_the_list),
    TEST(test_timers),
    TEST(test_user_events_coalesce),
    TEST(test_the_end_of_a_process),
    TEST(test_a_kqueue_in_a_kqueue),
    TEST(test_a_child_has_none),
    TEST(test_strictness),
};

int main(int argc, char **argv)
{
    return check_run(tests, sizeof tests / sizeof *tests, argc, argv);
}
