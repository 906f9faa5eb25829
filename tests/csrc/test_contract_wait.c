/* Waiting: wake-ups, signals, and lio_wait_ready in another thread while the owner goes on. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/time.h>

#include "contract.h"

/* -- wake-ups ---------------------------------------------------------------------- */

static void *wake_soon(void *b)
{
    doze(20 * MS);
    CHECK_EQ(lio_wake(b), 0);
    return NULL;
}

static void test_wake(void)
{
    harness *h = contract_open(16);
    pthread_t thread;
    int fds[2];
    make_pair(fds);
    /* Before a wait, and several times: one record. */
    for (int i = 0; i < 5; i++)
        CHECK_EQ(lio_wake(h->b), 0);
    CHECK_EQ(harness_wait(h, -1), 1);
    CHECK_EQ(h->wakes, 1);
    CHECK_EQ(harness_wait(h, 0), 0);
    CHECK_EQ(harness_wait(h, 2 * MS), 0);
    /* During a wait, of both kinds. */
    for (int i = 0; i < 2; i++) {
        MUST(pthread_create(&thread, NULL, wake_soon, h->b) == 0);
        CHECK_EQ(harness_wait(h, i ? -1 : 5 * SECOND), 1);
        CHECK_EQ(h->wakes, 2 + i);
        pthread_join(thread, NULL);
        CHECK_EQ(harness_wait(h, 0), 0);
    }
    /* Together with results, and with a poll. */
    push(h, 1, (lio_op){.opcode = LIO_NOP});
    CHECK_EQ(lio_wake(h->b), 0);
    for (int i = 0; i < 3; i++)
        harness_wait(h, 0);
    CHECK(h->of[1].done);
    CHECK_EQ(h->wakes, 4);
    /* While a descriptor is released, which collects too. */
    for (int i = 0; i < 2; i++) {
        push_recv(h, 2, fds[0], 10);
        CHECK_EQ(lio_flush(h->b), 1);
        CHECK_EQ(lio_wake(h->b), 0);
        CHECK_EQ(lio_release_fd(h->b, fds[0]), 1);
        for (int j = 0; j < 3; j++)
            harness_wait(h, 0);
        CHECK(h->of[2].done);
        CHECK_EQ(h->wakes, 5 + i);
    }
    CHECK_EQ(stats_of(h).wakeups, 6);
    close_pair(fds);
    harness_close(h);
}

struct waker {
    lio_backend *b;
    int seen, ended; /* atomic */
};

/* Wakes again only when the one before was seen: a lost one would hang. */
static void *wake_often(void *argument)
{
    struct waker *waker = argument;
    for (int i = 1; i <= 3000; i++) {
        CHECK_EQ(lio_wake(waker->b), 0);
        int64_t until = check_now() + 5 * SECOND;
        while (__atomic_load_n(&waker->seen, __ATOMIC_SEQ_CST) < i && check_now() < until)
            sched_yield();
    }
    __atomic_store_n(&waker->ended, 1, __ATOMIC_SEQ_CST);
    lio_wake(waker->b);
    return NULL;
}

static void test_no_wake_is_lost(void)
{
    harness *h = contract_open(16);
    struct waker waker = {.b = h->b};
    pthread_t thread;
    uint32_t seed = 99;
    bool in_flight = false;
    MUST(pthread_create(&thread, NULL, wake_often, &waker) == 0);
    while (!__atomic_load_n(&waker.ended, __ATOMIC_SEQ_CST)) {
        int before = h->wakes;
        uint32_t kind = next_random(&seed) % 4;
        if (kind == 0 && (!in_flight || h->of[1].done)) {
            in_flight = true;
            push(h, 1, (lio_op){.opcode = LIO_NOP});
        }
        int count = harness_wait(h, kind == 1 ? 0 : 5 * SECOND);
        CHECK(count > 0 || kind == 1);
        if (count <= 0 && kind != 1)
            break;
        __atomic_add_fetch(&waker.seen, h->wakes - before, __ATOMIC_SEQ_CST);
    }
    pthread_join(thread, NULL);
    CHECK(waker.seen >= 3000);
    harness_close(h);
}

static lio_backend *closing;

static void *wake_until_closed(void *argument)
{
    (void)argument;
    while (lio_wake(closing) == 0)
        continue;
    return NULL;
}

static void test_wake_races_with_close(void)
{
    for (int i = 0; i < 50; i++) {
        harness *h = contract_open(16);
        pthread_t thread;
        closing = h->b;
        MUST(pthread_create(&thread, NULL, wake_until_closed, NULL) == 0);
        for (int j = 0; j < i % 5; j++)
            harness_wait(h, 0);
        CHECK_EQ(lio_close(h->b), 0);
        pthread_join(thread, NULL);
        harness_close(h);
    }
}

/* -- signals ----------------------------------------------------------------------- */

static void on_alarm(int number)
{
    (void)number;
}

static void on_alarm_wake(int number)
{
    (void)number;
    lio_wake(closing);
}

static void alarm_every(int64_t ns)
{
    struct itimerval when = {.it_value = {ns / SECOND, ns % SECOND / 1000}};
    when.it_interval = when.it_value;
    MUST(setitimer(ITIMER_REAL, &when, NULL) == 0);
}

static void test_signals(void)
{
    harness *h = contract_open(16);
    int fds[2];
    make_pair(fds);
    struct sigaction action = {.sa_handler = on_alarm}, before;
    MUST(sigaction(SIGALRM, &action, &before) == 0);
    for (int restart = 0; restart < 2; restart++) {
        action.sa_flags = restart ? SA_RESTART : 0;
        MUST(sigaction(SIGALRM, &action, NULL) == 0);
        for (int kind = 0; kind < 4; kind++) {
            h->signals = 0;
            if (kind & 1) { /* something is submitted with the wait */
                push_recv(h, 1, fds[0], 10);
            }
            alarm_every(20 * MS);
            int64_t start = check_now();
            CHECK_EQ(harness_wait(h, kind & 2 ? 5 * SECOND : -1), 1);
            CHECK(check_now() - start < 2 * SECOND);
            CHECK_EQ(h->signals, 1);
            alarm_every(0);
            if (kind & 1) {
                CHECK(!h->of[1].done);
                MUST(write(fds[1], "x", 1) == 1);
                CHECK_EQ(harness_result(h, 1), 1);
            }
            CHECK_EQ(harness_wait(h, 0), 0);
        }
    }
    /* A handler that wakes: one or both, and not another time. */
    closing = h->b;
    action = (struct sigaction){.sa_handler = on_alarm_wake};
    MUST(sigaction(SIGALRM, &action, NULL) == 0);
    alarm_every(20 * MS);
    CHECK(harness_wait(h, 5 * SECOND) >= 1);
    alarm_every(0);
    harness_wait(h, 0);
    CHECK_EQ(h->wakes, 1);
    CHECK_EQ(harness_wait(h, 0), 0);
    /* Under a rain of signals everything still comes, and nothing twice. */
    action = (struct sigaction){.sa_handler = on_alarm};
    MUST(sigaction(SIGALRM, &action, NULL) == 0);
    alarm_every(300000);
    static char block[1 << 20];
    int tcp[2];
    make_tcp_pair(tcp);
    push(h, 1,
         (lio_op){.opcode = LIO_SEND,
                  .op_flags = LIO_OP_ALL,
                  .fd = tcp[0],
                  .buf = block,
                  .len = sizeof block});
    size_t total = 0;
    int64_t until = check_now() + 10 * SECOND;
    while (total < sizeof block && check_now() < until) {
        push(h, 2, (lio_op){.opcode = LIO_RECV, .fd = tcp[1], .len = 8192});
        int64_t count = harness_result(h, 2);
        CHECK(count > 0);
        total += count > 0 ? (size_t)count : sizeof block;
    }
    CHECK_EQ(total, sizeof block);
    CHECK_EQ(harness_result(h, 1), sizeof block);
    alarm_every(0);
    MUST(sigaction(SIGALRM, &before, NULL) == 0);
    close_pair(tcp);
    close_pair(fds);
    harness_close(h);
}

/* -- lio_wait_ready ---------------------------------------------------------------- */

struct watcher {
    lio_backend *b;
    pthread_t thread;
    pthread_barrier_t start, end;
    int64_t timeout;
    int answer;
    bool stop;
};

static void *watch(void *argument)
{
    struct watcher *w = argument;
    for (;;) {
        pthread_barrier_wait(&w->start);
        if (w->stop)
            return NULL;
        w->answer = lio_wait_ready(w->b, w->timeout);
        pthread_barrier_wait(&w->end);
    }
}

static void watcher_start(struct watcher *w, harness *h)
{
    memset(w, 0, sizeof *w);
    w->b = h->b;
    MUST(pthread_barrier_init(&w->start, NULL, 2) == 0);
    MUST(pthread_barrier_init(&w->end, NULL, 2) == 0);
    MUST(pthread_create(&w->thread, NULL, watch, w) == 0);
}

static void watcher_stop(struct watcher *w)
{
    w->stop = true;
    pthread_barrier_wait(&w->start);
    pthread_join(w->thread, NULL);
    pthread_barrier_destroy(&w->start);
    pthread_barrier_destroy(&w->end);
}

static void watcher_begin(struct watcher *w, int64_t timeout)
{
    w->timeout = timeout;
    pthread_barrier_wait(&w->start);
}

static int watcher_end(struct watcher *w)
{
    pthread_barrier_wait(&w->end);
    return w->answer;
}

/* Takes all that is there, as a guest run would, until there is no more to do. */
static void settle(harness *h)
{
    while (harness_wait(h, 0) > 0)
        continue;
}

static void test_wait_ready(void)
{
    harness *h = contract_open(16);
    struct watcher w;
    int fds[2];
    make_pair(fds);
    claim(h, fds[0]);
    watcher_start(&w, h);
    /* What was pushed and not flushed cannot be waited for. */
    push_recv(h, 1, fds[0], 10);
    CHECK_EQ(lio_wait_ready(h->b, -1), 1);
    CHECK_EQ(lio_flush(h->b), 1);
    settle(h);
    int64_t start = check_now();
    CHECK_EQ(lio_wait_ready(h->b, 0), 0);
    CHECK_EQ(lio_wait_ready(h->b, 20 * MS), 0);
    CHECK(check_now() - start >= 20 * MS);
    watcher_begin(&w, 50 * MS);
    CHECK_EQ(watcher_end(&w), 0);
    /* Data; it is not taken. */
    watcher_begin(&w, 5 * SECOND);
    doze(10 * MS);
    MUST(write(fds[1], "x", 1) == 1);
    CHECK_EQ(watcher_end(&w), 1);
    CHECK_EQ(lio_wait_ready(h->b, 5 * SECOND), 1);
    CHECK_EQ(harness_wait(h, 0), 1);
    settle(h);
    /* A wake; it is not taken either. */
    watcher_begin(&w, -1);
    doze(10 * MS);
    CHECK_EQ(lio_wake(h->b), 0);
    CHECK_EQ(watcher_end(&w), 1);
    CHECK_EQ(harness_wait(h, 0), 1);
    CHECK_EQ(h->wakes, 1);
    settle(h);
    /* Started meanwhile: something that waits, and something that is done at once. */
    watcher_begin(&w, 5 * SECOND);
    doze(10 * MS);
    push_timeout(h, 2, 20 * MS);
    CHECK_EQ(lio_flush(h->b), 1);
    start = check_now();
    CHECK_EQ(watcher_end(&w), 1);
    CHECK(check_now() - start < 2 * SECOND);
    CHECK_EQ(harness_result(h, 2), -ETIME);
    settle(h);
    watcher_begin(&w, 5 * SECOND);
    doze(10 * MS);
    push(h, 2, (lio_op){.opcode = LIO_NOP});
    push(h, 3, (lio_op){.opcode = LIO_SOCKET, .fd = AF_INET, .flags = SOCK_STREAM});
    CHECK_EQ(lio_flush(h->b), 2);
    start = check_now();
    CHECK_EQ(watcher_end(&w), 1);
    CHECK(check_now() - start < 2 * SECOND);
    CHECK(harness_result(h, 2) == 0 && harness_result(h, 3) >= 0);
    close((int)h->of[3].result);
    watcher_stop(&w);
    CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
    close(fds[1]);
    harness_close(h);
}

/* A send whose turn comes only when the one before it is done goes on in the next turn, and
 * the thread that waits for that turn has to know. */
static void test_wait_ready_knows_of_gated_sends(void)
{
    static char block[400000];
    for (int claimed = 0; claimed < 2; claimed++) {
        harness *h = contract_open(64);
        int fds[2];
        make_pair(fds);
        if (claimed)
            claim(h, fds[0]);
        for (uint64_t id = 1; id <= 20; id++)
            push(h, id,
                 (lio_op){.opcode = LIO_SEND,
                          .op_flags = LIO_OP_ALL,
                          .fd = fds[0],
                          .buf = block,
                          .len = 20000});
        size_t total = 0;
        int64_t until = check_now() + 5 * SECOND;
        while (h->arrived < 20 && check_now() < until) {
            int ready = lio_wait_ready(h->b, 0);
            if (ready == 0) { /* nothing more to do but to make room */
                size_t more = drink(fds[1], 20000);
                CHECK(more != 0); /* or else the kernel has nothing, and nobody goes on */
                if (more == 0)
                    break;
                total += more;
            } else {
                CHECK_EQ(ready, 1);
                CHECK(harness_wait(h, 0) >= 0);
            }
        }
        CHECK_EQ(h->arrived, 20);
        for (uint64_t id = 1; id <= 20; id++)
            CHECK(h->of[id].done && h->of[id].result == 20000);
        total += drink(fds[1], 400000 - total);
        CHECK_EQ(total, 400000);
        close_pair(fds);
        harness_close(h);
    }
}

/* Receives for which there was no buffer go again when there are. */
static void test_wait_ready_knows_of_receives_without_buffer(void)
{
    enum { SOCKETS = 600 };
    harness *h = contract_open(SOCKETS);
    static int fds[SOCKETS][2];
    for (uint64_t i = 0; i < SOCKETS; i++) {
        make_pair(fds[i]);
        push_recv(h, i, fds[i][0], 65536);
    }
    CHECK(lio_flush(h->b) == SOCKETS);
    settle(h);
    for (int i = 0; i < SOCKETS; i++)
        MUST(write(fds[i][1], &i, sizeof i) == sizeof i);
    while (h->arrived < SOCKETS) {
        int ready = lio_wait_ready(h->b, 5 * SECOND);
        CHECK_EQ(ready, 1);
        if (ready != 1)
            break;
        CHECK(harness_wait(h, 0) >= 0);
    }
    CHECK_EQ(h->arrived, SOCKETS);
    for (int i = 0; i < SOCKETS; i++)
        close_pair(fds[i]);
    harness_close(h);
}

/* Whatever the owner settles while a thread is about to wait, waits, or has just waited. */
static void test_no_end_is_lost_to_a_waiting_thread(void)
{
    enum { ROUNDS = 3000 };
    harness *h = contract_open(64);
    struct watcher w;
    int fds[2], other[2];
    uint32_t seed = 4711;
    make_pair(fds);
    make_pair(other);
    watcher_start(&w, h);
    for (int round = 0; round < ROUNDS; round++) {
        if (round % 100 == 0) {
            CHECK(lio_adopt(h->b, fds[0]) >= 0);
            CHECK(lio_adopt(h->b, other[0]) >= 0);
        }
        int kind = (int)(next_random(&seed) % 6);
        push_recv(h, 1, fds[0], 10);
        push_poll(h, 2, other[0], LIO_POLL_READ);
        CHECK_EQ(lio_flush(h->b), 2);
        settle(h);
        watcher_begin(&w, 5 * SECOND);
        for (uint32_t spin = next_random(&seed) % 2000; spin != 0; spin--)
            __asm__ volatile("" ::: "memory");
        switch (kind) {
        case 0:
            CHECK_EQ(lio_cancel(h->b, 1), 0);
            break;
        case 1:
            CHECK_EQ(lio_release_fd(h->b, fds[0]), 1);
            break;
        case 2:
            MUST(write(fds[1], "x", 1) == 1);
            break;
        case 3:
            push(h, 3, (lio_op){.opcode = LIO_NOP});
            CHECK_EQ(lio_flush(h->b), 1);
            break;
        case 4:
            CHECK_EQ(lio_cancel(h->b, 1), 0);
            CHECK_EQ(lio_release_fd(h->b, other[0]), 1);
            break;
        default:
            CHECK_EQ(lio_wake(h->b), 0);
        }
        int64_t start = check_now();
        CHECK_EQ(watcher_end(&w), 1);
        CHECK(check_now() - start < 2 * SECOND);
        settle(h);
        for (uint64_t id = 1; id < 3; id++) {
            if (!h->of[id].done) {
                CHECK(lio_cancel(h->b, id) >= 0);
                CHECK_EQ(harness_result(h, id), -ECANCELED);
            }
        }
        CHECK_EQ(stats_of(h).in_flight, 0);
        settle(h);
    }
    watcher_stop(&w);
    close_pair(fds);
    close_pair(other);
    harness_close(h);
}

static const check_test tests[] = {
    TEST(test_wake),
    TEST(test_no_wake_is_lost),
    TEST(test_wake_races_with_close),
    TEST(test_signals),
    TEST(test_wait_ready),
    TEST(test_wait_ready_knows_of_gated_sends),
    TEST(test_wait_ready_knows_of_receives_without_buffer),
    TEST(test_no_end_is_lost_to_a_waiting_thread),
};

int main(int argc, char **argv)
{
    return contract_run(tests, sizeof tests / sizeof *tests, argc, argv);
}
