/* Simulated objects under faults: every byte arrives, nothing is left, the same seed is the
 * same run. The contract tests run on "sim" as well; they bring descriptors of their own. */
#include <sys/un.h>

#include "check.h"

enum { SIZE = 20000, PAIRS = 4, SEEDS = 12 };

static const lio_faults rough = {.seed = 3,
                                 .short_io = 0.5,
                                 .delay = 0.4,
                                 .cancel_race = 0.5,
                                 .interrupt = 0.1,
                                 .overflow = 0.3,
                                 .queue_full = 0.3};

static harness *open_sim(uint64_t seed, const lio_faults *faults)
{
    const lio_options options = {.faults = faults, .seed = seed, .virtual_time = 1};
    return harness_open_with("sim", &options, 64);
}

static char byte_at(int pair, size_t at)
{
    return (char)(at * 31 + at / 251 + (size_t)pair * 7);
}

/* Moves SIZE bytes through each pair, with cancels in between; the hash of all that was. */
static uint64_t move_bytes(uint64_t seed, const lio_faults *faults)
{
    static char sent[PAIRS][SIZE], received[PAIRS][SIZE + 1];
    harness *h = open_sim(seed, faults);
    int fds[PAIRS][2];
    size_t out[PAIRS] = {0}, in[PAIRS] = {0};
    bool sending[PAIRS] = {false}, receiving[PAIRS] = {false};
    size_t left = (size_t)PAIRS * SIZE;
    lio_stats stats;
    for (int i = 0; i < PAIRS; i++) {
        MUST((i % 2 ? lio_sim_pair(h->b, SOCK_STREAM, fds[i]) : lio_sim_pipe(h->b, fds[i])) ==
             0);
        for (size_t at = 0; at < SIZE; at++)
            sent[i][at] = byte_at(i, at);
    }
    for (int round = 0; left != 0 && round < 100000; round++) {
        for (int i = 0; i < PAIRS; i++) {
            uint64_t write_id = (uint64_t)i, read_id = (uint64_t)(PAIRS + i);
            int reader = fds[i][i % 2 ? 1 : 0], writer = fds[i][i % 2 ? 0 : 1];
            if (sending[i] && h->of[write_id].done) {
                sending[i] = false;
                out[i] += h->of[write_id].result > 0 ? (size_t)h->of[write_id].result : 0;
            }
            if (receiving[i] && h->of[read_id].done) {
                receiving[i] = false;
                CHECK(h->of[read_id].result > 0 || h->of[read_id].result == -ECANCELED);
                size_t count = h->of[read_id].result > 0 ? (size_t)h->of[read_id].result : 0;
                in[i] += count;
                left -= count;
            }
            if (!sending[i] && out[i] < SIZE) {
                push(h, write_id,
                     (lio_op){.opcode = i % 2 ? LIO_SEND : LIO_WRITE,
                              .fd = writer,
                              .buf = sent[i] + out[i],
                              .len = SIZE - out[i] < 3000 ? SIZE - out[i] : 3000});
                sending[i] = true;
            }
            if (!receiving[i] && in[i] < SIZE) {
                push(h, read_id,
                     (lio_op){.opcode = LIO_READ,
                              .fd = reader,
                              .buf = received[i] + in[i],
                              .len = SIZE - in[i] + 1});
                receiving[i] = true;
            }
            if (round % 3 == i && receiving[i])
                receiving[i] = lio_cancel(h->b, read_id) != 1;
        }
        harness_wait(h, SECOND);
    }
    CHECK_EQ(left, 0);
    for (int i = 0; i < PAIRS; i++) {
        CHECK(memcmp(sent[i], received[i], SIZE) == 0);
        CHECK_EQ(lio_close_fd(h->b, fds[i][0]), 0);
        CHECK_EQ(lio_close_fd(h->b, fds[i][1]), 0);
    }
    MUST(lio_get_stats(h->b, &stats) == 0);
    harness_close(h);
    return stats.trace;
}

static void test_every_byte_arrives_and_again(void)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        const lio_faults *faults = seed % 2 ? &rough : NULL;
        CHECK(move_bytes(seed, faults) == move_bytes(seed, faults));
    }
}

static void test_connections_that_nobody_takes(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "server"};
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        harness *h = open_sim(seed, seed % 2 ? &rough : NULL);
        int listener = lio_sim_socket(h->b, SOCK_STREAM), clients[5];
        MUST(listener >= 0);
        push(h, 0,
             (lio_op){
                 .opcode = LIO_BIND, .fd = listener, .addr = &name, .addr_len = sizeof name});
        CHECK_EQ(harness_result(h, 0), 0);
        push(h, 1, (lio_op){.opcode = LIO_LISTEN, .fd = listener, .len = 3});
        CHECK_EQ(harness_result(h, 1), 0);
        for (uint64_t i = 0; i < 5; i++) {
            clients[i] = lio_sim_socket(h->b, SOCK_STREAM);
            push(h, 10 + i,
                 (lio_op){.opcode = LIO_CONNECT,
                          .fd = clients[i],
                          .addr = &name,
                          .addr_len = sizeof name});
        }
        push(h, 20, (lio_op){.opcode = LIO_ACCEPT, .fd = listener});
        int64_t accepted = harness_result(h, 20);
        CHECK(accepted >= 0);
        push(h, 21, (lio_op){.opcode = LIO_ACCEPT, .fd = listener});
        CHECK(lio_flush(h->b) >= 0); /* and nobody looks at what it brings */
        harness_close(h);
        close((int)accepted);
        close(listener);
        for (int i = 0; i < 5; i++)
            close(clients[i]);
    }
}

static void test_messages_and_files(void)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        harness *h = open_sim(seed, seed % 2 ? &rough : NULL);
        char text[] = "a message", more[9];
        int fds[2];
        MUST(lio_sim_pair(h->b, SOCK_DGRAM, fds) == 0);
        for (int i = 0; i < 3; i++) {
            push_send(h, 1, fds[0], text, sizeof text);
            CHECK_EQ(harness_result(h, 1), sizeof text);
        }
        push(h, 2, (lio_op){.opcode = LIO_RECVFROM, .fd = fds[1], .len = 100});
        CHECK_EQ(harness_result(h, 2), sizeof text);
        CHECK(memcmp(harness_data(h, 2), text, sizeof text) == 0);
        CHECK(harness_msg(h, 2)->addr_len > 0);
        int file = lio_sim_open(h->b, "file", O_RDWR | O_CREAT);
        push(h, 3,
             (lio_op){.opcode = LIO_WRITE_AT, .fd = file, .buf = text, .len = 1, .offset = 7});
        CHECK_EQ(harness_result(h, 3), 1);
        push(h, 4,
             (lio_op){.opcode = LIO_READ_AT, .fd = file, .buf = more, .len = 1, .offset = 7});
        CHECK_EQ(harness_result(h, 4), 1);
        CHECK(more[0] == 'a');
        harness_close(h); /* with messages that nobody read */
        close(fds[0]);
        close(fds[1]);
        close(file);
    }
}

static void test_only_sim_has_objects(void)
{
    int fds[2];
    harness *h = harness_open("epoll", NULL, 4);
    CHECK_EQ(lio_sim_socket(h->b, SOCK_STREAM), -ENOTSUP);
    CHECK_EQ(lio_sim_pair(h->b, SOCK_STREAM, fds), -ENOTSUP);
    CHECK_EQ(lio_sim_pipe(h->b, fds), -ENOTSUP);
    CHECK_EQ(lio_sim_open(h->b, "file", O_CREAT), -ENOTSUP);
    harness_close(h);
    h = open_sim(0, NULL);
    CHECK_EQ(lio_sim_socket(h->b, SOCK_RAW), -EINVAL);
    CHECK_EQ(lio_sim_pair(h->b, SOCK_STREAM, NULL), -EINVAL);
    CHECK_EQ(lio_sim_open(h->b, "", O_CREAT), -EINVAL);
    CHECK_EQ(lio_sim_open(h->b, "file", 0), -ENOENT);
    harness_close(h);
}

static void test_bad_faults(void)
{
    const lio_faults bad[] = {
        {.short_io = 1.01}, {.reset = -1},      {.delay = __builtin_nan("")}, {.interrupt = 1},
        {.overflow = 2},    {.latency_ns = -1}, {.queue_full = -0.1},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const lio_options options = {.faults = &bad[i]};
        lio_backend *b = NULL;
        CHECK_EQ(lio_create("sim", &options, &b), -EINVAL);
    }
}

static const check_test tests[] = {
    TEST(test_every_byte_arrives_and_again),
    TEST(test_connections_that_nobody_takes),
    TEST(test_messages_and_files),
    TEST(test_only_sim_has_objects),
    TEST(test_bad_faults),
};

int main(int argc, char **argv)
{
    return check_run(tests, sizeof tests / sizeof *tests, argc, argv);
}
