/* What is particular to the poller over kqueue: when its changes are made, and what becomes of
 * those that fail. */
#include "check.h"

#include <sys/resource.h>
#include <sys/wait.h>

#define MANY 700

static harness *open_poller(uint32_t capacity)
{
    return harness_open("kqueue", NULL, capacity);
}

static void test_changes_go_with_the_wait(void)
{
    harness *h = open_poller(64);
    int fds[8][2];
    for (int i = 0; i < 8; i++) {
        make_pair(fds[i]);
        CHECK_EQ(lio_adopt(h->b, fds[i][0]), 1);
    }
    uint64_t before = harness_syscalls(h);
    CHECK_EQ(harness_wait(h, 0), 0);
    CHECK_EQ(harness_syscalls(h) - before, 1); /* sixteen changes and all their events */
    for (uint64_t i = 0; i < 8; i++)
        push_poll(h, i, fds[i][0], LIO_POLL_READ);
    harness_wait(h, 0);
    for (int i = 0; i < 8; i++)
        MUST(write(fds[i][1], "x", 1) == 1);
    for (uint64_t i = 0; i < 8; i++)
        CHECK_EQ(harness_result(h, i), LIO_POLL_READ);
    for (int i = 0; i < 8; i++) {
        CHECK_EQ(lio_close_fd(h->b, fds[i][0]), 0);
        close(fds[i][1]);
    }
    harness_close(h);
}

/* A flush hands them over by itself: afterwards the number may be another file's. */
static void test_flush_makes_the_changes(void)
{
    harness *h = open_poller(16);
    int fds[2], other[2];
    make_pair(fds);
    make_pair(other);
    push_poll(h, 1, fds[0], LIO_POLL_READ);
    CHECK_EQ(lio_flush(h->b), 1);
    MUST(dup2(other[0], fds[0]) == fds[0]);
    MUST(write(other[1], "x", 1) == 1);
    CHECK_EQ(harness_wait(h, 20 * MS), 0);
    CHECK(!harness_is_done(h, 1));
    CHECK_EQ(lio_release_fd(h->b, fds[0]), 1);
    CHECK_EQ(harness_result(h, 1), -ECANCELED);
    close(fds[0]);
    close(fds[1]);
    close(other[0]);
    close(other[1]);
    harness_close(h);
}

/* kevent answers errors alone; what is due must be found in the same look even so. */
static void test_a_failed_change_hides_no_event(void)
{
    harness *h = open_poller(16);
    int fds[2], file = open("/etc/hosts", O_RDONLY | O_CLOEXEC);
    MUST(file >= 0);
    make_pair(fds);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    push_poll(h, 1, fds[0], LIO_POLL_READ);
    harness_wait(h, 0);
    MUST(write(fds[1], "x", 1) == 1);
    push_poll(h, 2, file, LIO_POLL_READ);
    CHECK_EQ(harness_wait(h, 0), 2);
    CHECK_EQ(h->of[1].result, LIO_POLL_READ);
    CHECK_EQ(h->of[2].result, -EINVAL);
    /* The same where nobody is interested in what failed. */
    push_poll(h, 3, fds[1], LIO_POLL_READ);
    CHECK_EQ(lio_flush(h->b), 1);
    CHECK_EQ(lio_cancel(h->b, 3), 0); /* a deletion is noted */
    close(fds[1]);
    push_poll(h, 4, fds[0], LIO_POLL_READ);
    harness_wait(h, 0);
    CHECK_EQ(h->of[3].result, -ECANCELED);
    CHECK_EQ(h->of[4].result, LIO_POLL_READ);
    CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
    close(file);
    harness_close(h);
}

static void test_what_cannot_be_watched(void)
{
    harness *h = open_poller(16);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    MUST(null >= 0);
    CHECK_EQ(lio_adopt(h->b, null), 0);
    push_poll(h, 1, null, LIO_POLL_READ);
    CHECK_EQ(harness_result(h, 1), -ENODEV);
    push_poll(h, 2, null, LIO_POLL_READ | LIO_POLL_WRITE);
    CHECK_EQ(harness_result(h, 2), -ENODEV);
    push_poll(h, 3, 9999, LIO_POLL_WRITE);
    CHECK_EQ(harness_result(h, 3), -EBADF);
    close(null);
    harness_close(h);
}

/* More changes in one turn than one call takes. */
static void test_more_changes_than_fit(void)
{
    static int fds[MANY][2];
    harness *h = open_poller(MANY);
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max < 4096 ? limit.rlim_max : 4096;
    MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    for (uint64_t i = 0; i < MANY; i++) {
        make_pair(fds[i]);
        push_poll(h, i, fds[i][0], LIO_POLL_READ);
    }
    close(fds[5][0]); /* one of them fails */
    CHECK_EQ(lio_flush(h->b), MANY);
    for (int i = 0; i < MANY; i++)
        CHECK(send(fds[i][1], "x", 1, MSG_NOSIGNAL) == 1 || i == 5);
    for (uint64_t i = 0; i < MANY; i++)
        CHECK_EQ(harness_result(h, i), i == 5 ? -EBADF : LIO_POLL_READ);
    for (int i = 0; i < MANY; i++) {
        close(fds[i][1]);
        if (i != 5)
            close(fds[i][0]);
    }
    harness_close(h);
}

/* A socket of these systems has no inode: only the kernel knows that the number was closed. */
static void test_adopting_a_number_of_another_file(void)
{
    harness *h = open_poller(16);
    int fds[2], other[2];
    make_pair(fds);
    make_pair(other);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    push_recv(h, 1, fds[0], 10);
    harness_wait(h, 0);
    MUST(dup2(other[0], fds[0]) == fds[0]);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    CHECK_EQ(harness_result(h, 1), -EBADF);
    push_recv(h, 2, fds[0], 10);
    MUST(write(other[1], "x", 1) == 1);
    CHECK_EQ(harness_result(h, 2), 1);
    CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
    close(fds[1]);
    close(other[0]);
    close(other[1]);
    harness_close(h);
}

/* In a child the number of a kqueue is free, and soon somebody else's. */
static void test_a_child_closes_nothing_of_others(void)
{
    if (!forks_truly())
        return;
    harness *h = open_poller(16);
    int status, fds[2];
    make_pair(fds);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        int opened[8], bad = 0;
        for (int i = 0; i < 8; i++)
            opened[i] = open("/dev/null", O_RDONLY);
        lio_destroy(h->b);
        for (int i = 0; i < 8; i++)
            bad += fcntl(opened[i], F_GETFD) < 0;
        _exit(bad);
    }
    MUST(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
    push_recv(h, 1, fds[0], 10);
    harness_wait(h, 0);
    MUST(write(fds[1], "x", 1) == 1);
    CHECK_EQ(harness_result(h, 1), 1);
    CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
    close(fds[1]);
    harness_close(h);
}

static const check_test tests[] = {
    TEST(test_changes_go_with_the_wait),
    TEST(test_flush_makes_the_changes),
    TEST(test_a_failed_change_hides_no_event),
    TEST(test_what_cannot_be_watched),
    TEST(test_more_changes_than_fit),
    TEST(test_adopting_a_number_of_another_file),
    TEST(test_a_child_closes_nothing_of_others),
};

int main(int argc, char **argv)
{
    return check_run(tests, sizeof tests / sizeof *tests, argc, argv);
}
