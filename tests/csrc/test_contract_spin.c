/* Watching before sleeping: when it is done, and that a wait means the same with it. */
#include <poll.h>
#include <pthread.h>

#include "contract.h"

#define US INT64_C(1000)

/* -- the record -------------------------------------------------------------------- */

static lio_spin turned_on(void)
{
    lio_spin spin;
    MUST(lio_spin_init(&spin, 0) == 0);
    spin.cpus = 2;
    for (int i = 0; i < 4; i++)
        lio_spin_slept(&spin, 30 * US);
    MUST(lio_spin_is_on(&spin));
    return spin;
}

static void test_long_sleeps_never_turn_it_on(void)
{
    lio_spin spin;
    CHECK_EQ(lio_spin_init(&spin, 0), 0);
    spin.cpus = 2;
    CHECK(lio_spin_learns(&spin));
    for (int i = 0; i < 10000; i++)
        lio_spin_slept(&spin, MS);
    /* One short sleep for each long one is not enough either. */
    for (int i = 0; i < 10000; i++)
        lio_spin_slept(&spin, i % 2 ? MS : 30 * US);
    CHECK(!lio_spin_is_on(&spin));
    CHECK_EQ(spin.moments, 0);
}

static void test_hits_keep_it_on_and_misses_turn_it_off(void)
{
    lio_spin spin = turned_on();
    for (int i = 0; i < 3000; i++)
        lio_spin_watched(&spin, i % 4 != 0);
    CHECK(lio_spin_is_on(&spin));
    int misses = 0;
    while (lio_spin_is_on(&spin) && ++misses < 100)
        lio_spin_watched(&spin, false);
    CHECK(misses <= 8);
    CHECK(lio_spin_learns(&spin));
}

static void test_what_did_not_pay_is_tried_less_and_less(void)
{
    lio_spin spin = turned_on();
    int64_t sleeps = 0, before = 4;
    for (int i = 0; i < 12; i++) {
        while (lio_spin_is_on(&spin))
            lio_spin_watched(&spin, false);
        for (sleeps = 0; !lio_spin_is_on(&spin) && sleeps < 10000; sleeps++)
            lio_spin_slept(&spin, 30 * US);
        CHECK(sleeps == 2 * before || (sleeps == before && sleeps == 1024));
        before = sleeps;
    }
    /* Until it pays again. */
    for (int i = 0; i < 32; i++)
        lio_spin_watched(&spin, true);
    while (lio_spin_is_on(&spin))
        lio_spin_watched(&spin, false);
    for (sleeps = 0; !lio_spin_is_on(&spin) && sleeps < 10000; sleeps++)
        lio_spin_slept(&spin, 30 * US);
    CHECK_EQ(sleeps, 8);
}

static void test_never_on_one_cpu_or_when_switched_off(void)
{
    lio_spin spin;
    CHECK_EQ(lio_spin_init(&spin, 0), 0);
    spin.cpus = 1;
    for (int i = 0; i < 100; i++)
        lio_spin_slept(&spin, 30 * US);
    CHECK(!lio_spin_is_on(&spin));
    CHECK(!lio_spin_learns(&spin));
    CHECK_EQ(lio_spin_init(&spin, -1), 0);
    CHECK(!lio_spin_learns(&spin));
    CHECK_EQ(lio_spin_init(&spin, LIO_SPIN_US_MAX), 0);
    CHECK_EQ(lio_spin_init(&spin, LIO_SPIN_US_MAX + 1), -EINVAL);
    const lio_options options = {.spin_us = LIO_SPIN_US_MAX + 1};
    lio_backend *b = NULL;
    CHECK_EQ(lio_create("epoll", &options, &b), -EINVAL);
}

/* -- waits that watch -------------------------------------------------------------- */

/* A backend that watches for so long before it sleeps. */
static harness *open_watching(int64_t limit_ns)
{
    harness *h = contract_open(16);
    h->b->spin.limit_ns = limit_ns;
    h->b->spin.credit = 16;
    return h;
}

/* Where there is nothing to watch, nobody does; see uring_init. Nor does sim, at any time. */
static bool can_watch(const harness *h)
{
    return !on_sim() && (!on_uring() || (lio_capabilities(h->b) & LIO_CAP_TASKRUN_FLAG) != 0);
}

static void test_without_anything_to_watch_it_is_off(void)
{
    harness *h = contract_open(16);
    CHECK_EQ(h->b->spin.limit_ns != 0, can_watch(h));
    harness_close(h);
}

static void *wake_soon(void *b)
{
    doze(20 * MS);
    CHECK_EQ(lio_wake(b), 0);
    return NULL;
}

static void test_a_wake_ends_the_watching(void)
{
    harness *h = open_watching(20 * SECOND);
    pthread_t thread;
    for (int i = 0; can_watch(h) && i < 2; i++) {
        int64_t start = check_now();
        MUST(pthread_create(&thread, NULL, wake_soon, h->b) == 0);
        CHECK_EQ(harness_wait(h, i ? -1 : 15 * SECOND), 1);
        CHECK_EQ(h->wakes, i + 1);
        CHECK(check_now() - start < 10 * SECOND);
        pthread_join(thread, NULL);
        CHECK_EQ(stats_of(h).spins, i + 1);
        CHECK_EQ(stats_of(h).spin_hits, i + 1);
    }
    harness_close(h);
}

static void *send_soon(void *fd)
{
    doze(20 * MS);
    CHECK_EQ(write(*(int *)fd, "x", 1), 1);
    return NULL;
}

/* The receive is queued when the wait begins: watching must not keep it from the kernel. */
static void test_data_ends_the_watching(void)
{
    harness *h = open_watching(20 * SECOND);
    pthread_t thread;
    int fds[2];
    make_pair(fds);
    claim(h, fds[0]);
    for (int i = 0; can_watch(h) && i < 2; i++) {
        h->of[1].done = false;
        push_recv(h, 1, fds[0], 10);
        int64_t start = check_now();
        MUST(pthread_create(&thread, NULL, send_soon, &fds[1]) == 0);
        CHECK_EQ(harness_result(h, 1), 1);
        CHECK(check_now() - start < 10 * SECOND);
        pthread_join(thread, NULL);
        CHECK(stats_of(h).spin_hits > 0);
    }
    close_pair(fds);
    harness_close(h);
}

static void test_the_time_runs_out_while_watching(void)
{
    harness *h = open_watching(20 * SECOND);
    for (int i = 0; can_watch(h) && i < 3; i++) {
        int64_t start = check_now();
        CHECK_EQ(harness_wait(h, 5 * MS), 0);
        int64_t took = check_now() - start;
        CHECK(took >= 5 * MS);
        CHECK(took < 10 * SECOND);
    }
    CHECK_EQ(stats_of(h).spin_hits, 0);
    harness_close(h);
}

static void test_what_watching_missed_ends_the_sleep(void)
{
    harness *h = open_watching(MS);
    pthread_t thread;
    int fds[2];
    make_pair(fds);
    claim(h, fds[0]);
    push_recv(h, 1, fds[0], 10);
    MUST(pthread_create(&thread, NULL, send_soon, &fds[1]) == 0);
    CHECK_EQ(harness_result(h, 1), 1);
    pthread_join(thread, NULL);
    CHECK(!can_watch(h) || stats_of(h).spins > 0);
    MUST(pthread_create(&thread, NULL, wake_soon, h->b) == 0);
    CHECK_EQ(harness_wait(h, -1), 1);
    CHECK_EQ(h->wakes, 1);
    pthread_join(thread, NULL);
    close_pair(fds);
    harness_close(h);
}

/* -- lookouts: csrc/uring_lookout.h --------------------------------------------------- */

/* Such as they are on io_uring; the pollers have none. */
static bool looks_out(const harness *h)
{
    return on_uring() && can_watch(h) && variant->faults == NULL &&
           (lio_capabilities(h->b) & LIO_CAP_FIXED_FILES) != 0;
}

/* One request and its answer. What comes next has a lookout, where there are any. */
static void serve(harness *h, int fds[2])
{
    CHECK_EQ(write(fds[1], "request", 7), 7);
    h->of[1].done = h->of[2].done = false;
    push_recv(h, 1, fds[0], 10);
    CHECK_EQ(harness_result(h, 1), 7);
    push_send(h, 2, fds[0], "answer", 6);
    CHECK_EQ(harness_result(h, 2), 6);
    char got[10];
    CHECK_EQ(read(fds[1], got, sizeof got), 6);
}

static bool sees_the_end(int fd, int patience_ms)
{
    struct pollfd at = {.fd = fd, .events = POLLIN};
    char byte;
    return poll(&at, 1, patience_ms) == 1 && read(fd, &byte, 1) <= 0;
}

static void test_a_round_trip_takes_two_calls(void)
{
    harness *h = open_watching(20 * SECOND);
    pthread_t thread;
    int fds[2];
    make_pair(fds);
    claim(h, fds[0]);
    serve(h, fds);
    bool pooled = (lio_capabilities(h->b) & LIO_CAP_BUF_RING) != 0;
    for (int i = 0; looks_out(h) && i < 3; i++) {
        uint64_t before = stats_of(h).syscalls;
        MUST(pthread_create(&thread, NULL, send_soon, &fds[1]) == 0);
        h->of[1].done = h->of[2].done = false;
        push_recv(h, 1, fds[0], 10);
        CHECK_EQ(harness_result(h, 1), 1);
        push_send(h, 2, fds[0], "answer", 6);
        CHECK_EQ(harness_result(h, 2), 6);
        CHECK(!pooled || stats_of(h).syscalls - before <= 2);
        pthread_join(thread, NULL);
    }
    close_pair(fds);
    harness_close(h);
}

/* What nobody receives yet stays where it is, and a lookout that saw it is over. */
static void test_a_lookout_takes_nothing(void)
{
    harness *h = open_watching(MS);
    int fds[2];
    make_pair(fds);
    claim(h, fds[0]);
    for (int i = 0; i < 20; i++) {
        serve(h, fds);
        CHECK_EQ(write(fds[1], "unasked", 7), 7);
        CHECK_EQ(harness_wait(h, i % 2 ? 0 : 2 * MS), 0);
        char got[10];
        CHECK_EQ(recv(fds[0], got, sizeof got, MSG_DONTWAIT), 7);
    }
    close_pair(fds);
    harness_close(h);
}

static void test_a_lookout_ends_with_its_descriptor(void)
{
    for (int i = 0; i < 10; i++) {
        harness *h = open_watching(MS);
        int fds[2];
        make_pair(fds);
        claim(h, fds[0]);
        serve(h, fds);
        CHECK_EQ(lio_release_fd(h->b, fds[0]), 0);
        close(fds[0]);
        CHECK(sees_the_end(fds[1], 5000));
        close(fds[1]);
        /* And the next one that has the number is as good as new. */
        make_pair(fds);
        claim(h, fds[0]);
        serve(h, fds);
        serve(h, fds);
        close_pair(fds);
        harness_close(h);
    }
}

static void test_a_lookout_ends_with_its_backend(void)
{
    for (int i = 0; i < 10; i++) {
        harness *h = open_watching(MS);
        int fds[2];
        make_pair(fds);
        claim(h, fds[0]);
        serve(h, fds);
        bool sure = looks_out(h);
        close(fds[0]);
        harness_close(h);
        CHECK(sees_the_end(fds[1], sure ? 0 : 5000));
        close(fds[1]);
    }
}

static const check_test record_tests[] = {
    TEST(test_long_sleeps_never_turn_it_on),
    TEST(test_hits_keep_it_on_and_misses_turn_it_off),
    TEST(test_what_did_not_pay_is_tried_less_and_less),
    TEST(test_never_on_one_cpu_or_when_switched_off),
};

static const check_test tests[] = {
    TEST(test_without_anything_to_watch_it_is_off),
    TEST(test_a_wake_ends_the_watching),
    TEST(test_data_ends_the_watching),
    TEST(test_the_time_runs_out_while_watching),
    TEST(test_what_watching_missed_ends_the_sleep),
    TEST(test_a_round_trip_takes_two_calls),
    TEST(test_a_lookout_takes_nothing),
    TEST(test_a_lookout_ends_with_its_descriptor),
    TEST(test_a_lookout_ends_with_its_backend),
};

int main(int argc, char **argv)
{
    int failed =
        check_run(record_tests, sizeof record_tests / sizeof *record_tests, argc, argv);
    return contract_run(tests, sizeof tests / sizeof *tests, argc, argv) || failed;
}
