/* How a poller waits: timers, time-outs, wake-ups, signals, other threads, forks. */
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "../../csrc/backend.h"
#include "check.h"

static harness *open_poller(void)
{
    return harness_open("epoll", NULL, 64);
}

/* -- timers ------------------------------------------------------------------------ */

static void test_timers(void)
{
    enum { TIMERS = 200 };
    harness *h = harness_open("epoll", NULL, 16);
    CHECK_EQ(lio_grow(h->b, TIMERS), 0);
    uint32_t seed = 12345;
    int64_t start = check_now();
    for (uint64_t i = 0; i < TIMERS; i++) {
        seed = seed * 1103515245u + 12345u;
        push_timeout(h, i, (int64_t)(seed >> 8) % (50 * MS));
    }
    CHECK_EQ(lio_flush(h->b), TIMERS);
    for (uint64_t i = 0; i < TIMERS; i += 3)
        CHECK_EQ(lio_cancel(h->b, i), 0);
    seed = 12345;
    for (uint64_t i = 0; i < TIMERS; i++) {
        seed = seed * 1103515245u + 12345u;
        CHECK_EQ(harness_result(h, i), i % 3 == 0 ? -ECANCELED : -ETIME);
        if (i % 3 != 0)
            CHECK(check_now() - start >= (int64_t)(seed >> 8) % (50 * MS));
    }
    CHECK(check_now() - start < 1 * SECOND);
    /* The same deadline, in effect: in order of push. */
    for (uint64_t i = 0; i < 10; i++)
        push_timeout(h, i, 0);
    for (uint64_t i = 0; i < 10; i++)
        CHECK_EQ(harness_result(h, i), -ETIME);
    for (uint64_t i = 1; i < 10; i++)
        CHECK_EQ(h->of[i].order, h->of[i - 1].order + 1);
    push_timeout(h, 1, INT64_MAX);
    CHECK_EQ(harness_wait(h, 1 * MS), 0);
    harness_close(h);
}

/* Neither early nor by spinning, with and without epoll_pwait2. */
static void test_time_out_is_exact(void)
{
    for (int i = 0; i < 2; i++) {
        harness *h = harness_open("epoll", i ? "pwait2" : NULL, 16);
        if (i == 1)
            CHECK(!(lio_capabilities(h->b) & LIO_CAP_PWAIT2));
        for (int64_t timeout = 100000; timeout < 30 * MS; timeout = timeout * 3 + 7) {
            int64_t start = check_now();
            uint64_t before = harness_syscalls(h);
            CHECK_EQ(harness_wait(h, timeout), 0);
            CHECK(check_now() - start >= timeout);
            CHECK(harness_syscalls(h) - before <= 2);
        }
        harness_close(h);
    }
}

/* What it is told to do without it does not have, from the probe on. */
static void test_doing_without(void)
{
    const struct {
        const char *name;
        uint32_t bit;
    } each[] = {{"edge_triggered", LIO_CAP_EDGE_TRIGGERED},
                {"file_pool", LIO_CAP_FILE_POOL},
                {"pwait2", LIO_CAP_PWAIT2}};
    for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
        const lio_options options = {.without = each[i].name};
        lio_probe_result found;
        CHECK_EQ(lio_probe("epoll", &options, &found), 0);
        CHECK_EQ(found.error, 0);
        CHECK_EQ(found.capabilities & each[i].bit, 0);
        harness *h = harness_open("epoll", each[i].name, 16);
        CHECK_EQ(lio_capabilities(h->b) & each[i].bit, 0);
        harness_close(h);
    }
}

/* -- waking ------------------------------------------------------------------------ */

static void *wake_soon(void *argument)
{
    struct timespec pause = {0, 20000000};
    nanosleep(&pause, NULL);
    CHECK_EQ(lio_wake(argument), 0);
    return NULL;
}

static void test_wake(void)
{
    harness *h = open_poller();
    pthread_t thread;
    /* Before a wait, and several times: one record. */
    CHECK_EQ(lio_wake(h->b), 0);
    CHECK_EQ(lio_wake(h->b), 0);
    CHECK_EQ(harness_wait(h, -1), 1);
    CHECK_EQ(h->wakes, 1);
    CHECK_EQ(harness_wait(h, 0), 0);
    MUST(pthread_create(&thread, NULL, wake_soon, h->b) == 0);
    CHECK_EQ(harness_wait(h, -1), 1);
    CHECK_EQ(h->wakes, 2);
    pthread_join(thread, NULL);
    CHECK_EQ(harness_wait(h, 0), 0);
    harness_close(h);
}

static void on_alarm(int number)
{
    (void)number;
}

static void test_signal_ends_a_wait(void)
{
    harness *h = open_poller();
    struct sigaction action = {.sa_handler = on_alarm}, before;
    struct itimerval soon = {.it_value = {0, 20000}}, off = {{0, 0}, {0, 0}};
    MUST(sigaction(SIGALRM, &action, &before) == 0);
    MUST(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    CHECK_EQ(harness_wait(h, 5 * SECOND), 1);
    CHECK_EQ(h->signals, 1);
    MUST(setitimer(ITIMER_REAL, &off, NULL) == 0);
    MUST(sigaction(SIGALRM, &before, NULL) == 0);
    harness_close(h);
}

struct waiter {
    lio_backend *b;
    int64_t timeout;
    int answer;
    int64_t took;
};

static void *wait_ready(void *argument)
{
    struct waiter *waiter = argument;
    int64_t start = check_now();
    waiter->answer = lio_wait_ready(waiter->b, waiter->timeout);
    waiter->took = check_now() - start;
    return NULL;
}

static struct waiter in_thread(harness *h, int64_t timeout, void (*meanwhile)(harness *, int),
                               int fd)
{
    struct waiter waiter = {.b = h->b, .timeout = timeout};
    struct timespec pause = {0, 20000000};
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, wait_ready, &waiter) == 0);
    nanosleep(&pause, NULL);
    if (meanwhile != NULL)
        meanwhile(h, fd);
    pthread_join(thread, NULL);
    return waiter;
}

static void write_there(harness *h, int fd)
{
    (void)h;
    MUST(write(fd, "x", 1) == 1);
}

static void cancel_first(harness *h, int fd)
{
    (void)fd;
    CHECK_EQ(lio_cancel(h->b, 1), 0);
}

static void start_timer(harness *h, int fd)
{
    (void)fd;
    push_timeout(h, 9, 10 * MS);
    CHECK_EQ(lio_flush(h->b), 1);
}

static void test_wait_ready_in_another_thread(void)
{
    harness *h = open_poller();
    int fds[2];
    make_pair(fds);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    push_recv(h, 1, fds[0], 10);
    CHECK_EQ(harness_wait(h, 0), 0);
    CHECK_EQ(harness_wait(h, 0), 0);
    CHECK_EQ(in_thread(h, 50 * MS, NULL, 0).answer, 0);
    CHECK_EQ(in_thread(h, 5 * SECOND, write_there, fds[1]).answer, 1);
    CHECK_EQ(harness_wait(h, 0), 1); /* it took nothing */
    CHECK_EQ(harness_result(h, 1), 1);
    push_recv(h, 1, fds[0], 10);
    CHECK_EQ(harness_wait(h, 0), 0);
    struct waiter waiter = in_thread(h, 5 * SECOND, cancel_first, 0);
    CHECK_EQ(waiter.answer, 1);
    CHECK(waiter.took < 1 * SECOND);
    CHECK_EQ(harness_result(h, 1), -ECANCELED);
    while (harness_wait(h, 0) != 0) /* the wake-up that the cancel sent */
        continue;
    waiter = in_thread(h, 5 * SECOND, start_timer, 0);
    CHECK_EQ(waiter.answer, 1);
    CHECK(waiter.took < 1 * SECOND);
    CHECK_EQ(harness_result(h, 9), -ETIME);
    push_timeout(h, 3, 10 * MS);
    CHECK_EQ(lio_flush(h->b), 1);
    CHECK_EQ(in_thread(h, 5 * SECOND, NULL, 0).answer, 1);
    CHECK_EQ(harness_result(h, 3), -ETIME);
    close(fds[0]);
    close(fds[1]);
    harness_close(h);
}

/* The child closes what it inherited, and the parent's registrations stay. */
static void test_fork(void)
{
    if (!forks_truly())
        return;
    harness *h = open_poller();
    int fds[2];
    make_pair(fds);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    push_recv(h, 1, fds[0], 10);
    push(h, 2, (lio_op){.opcode = LIO_OPENAT, .fd = AT_FDCWD, .path = "/", .flags = 0});
    CHECK(harness_result(h, 2) >= 0);
    close((int)h->of[2].result);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        const lio_completion *records;
        bool good = lio_wait(h->b, 0, &records) == -ECHILD && lio_close(h->b) == 0;
        lio_destroy(h->b);
        free(h);
        _exit(good ? 0 : 1);
    }
    int status;
    MUST(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
    MUST(write(fds[1], "still", 5) == 5);
    CHECK_EQ(harness_result(h, 1), 5);
    close(fds[0]);
    close(fds[1]);
    harness_close(h);
}

static const check_test tests[] = {
    TEST(test_doing_without),
    TEST(test_timers),
    TEST(test_time_out_is_exact),
    TEST(test_wake),
    TEST(test_signal_ends_a_wait),
    TEST(test_wait_ready_in_another_thread),
    TEST(test_fork),
};

int main(int argc, char **argv)
{
    return check_run(tests, sizeof tests / sizeof *tests, argc, argv);
}
