/* Cancelling: queued, in flight, done; exactly one completion for each push whatever happens;
 * timers and time-outs. */
#include <poll.h>

#include "contract.h"

static void test_cancel_queued(void)
{
    harness *h = contract_open(16);
    int fds[2];
    make_pair(fds);
    push_send(h, 1, fds[0], "one", 3);
    push_send(h, 2, fds[0], "two", 3);
    push_send(h, 3, fds[0], "three", 5);
    CHECK_EQ(lio_cancel(h->b, 2), 1);
    CHECK_EQ(lio_cancel(h->b, 2), -ENOENT);
    push_timeout(h, 2, 0); /* the id is free */
    /* Two sends on one socket may go one after the other. */
    CHECK(lio_flush(h->b) >= 2);
    CHECK_EQ(harness_result(h, 2), -ETIME);
    CHECK_EQ(harness_result(h, 1), 3);
    CHECK_EQ(harness_result(h, 3), 5);
    CHECK_EQ(peer_reads(fds[1]), 8);
    CHECK_EQ(stats_of(h).in_flight, 0);
    close_pair(fds);
    harness_close(h);
}

/* What waits in each way that there is. */
static void test_cancel_in_flight(void)
{
    enum { COUNT = 13 };
    harness *h = contract_open(64);
    int pair[2], tcp[2], full[2], pipes[2], from[2], datagram[2];
    char bytes[COUNT][64], control[64];
    static char block[100000];
    lio_iovec part = {bytes[2], 64};
    struct sockaddr_in addr;
    int listener = make_listener(&addr);
    make_pair(pair);
    make_tcp_pair(tcp);
    make_pair(full);
    stuff(full[0]);
    MUST(pipe2(pipes, O_CLOEXEC) == 0 && pipe2(from, O_CLOEXEC) == 0);
    MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, datagram) == 0);
    for (int round = 0; round < 3; round++) {
        if (round == 2) {
            claim(h, pair[0]);
            claim(h, tcp[0]);
            claim(h, full[0]);
            claim(h, listener);
        }
        push_recv(h, 0, pair[0], 64);
        push(h, 1, (lio_op){.opcode = LIO_RECV, .fd = tcp[0], .buf = bytes[1], .len = 64});
        push(h, 2,
             (lio_op){.opcode = LIO_RECVMSG,
                      .fd = pair[0],
                      .buf = &part,
                      .len = 1,
                      .control = control,
                      .control_len = sizeof control});
        push(h, 3, (lio_op){.opcode = LIO_RECVMSG, .fd = datagram[0], .buf_len = 64});
        push(h, 4, (lio_op){.opcode = LIO_RECVFROM, .fd = datagram[0], .len = 64});
        push(h, 5, (lio_op){.opcode = LIO_ACCEPT, .fd = listener});
        push_poll(h, 6, tcp[0], LIO_POLL_READ);
        push_poll(h, 7, full[0], LIO_POLL_READ | LIO_POLL_WRITE);
        push(h, 8,
             (lio_op){.opcode = LIO_SEND,
                      .op_flags = round ? LIO_OP_ALL : 0,
                      .fd = full[0],
                      .buf = block,
                      .len = sizeof block});
        push_poll(h, 9, pair[0], LIO_POLL_READ);
        push(h, 10, (lio_op){.opcode = LIO_READ, .fd = pipes[0], .buf = bytes[10], .len = 64});
        push(h, 11,
             (lio_op){.opcode = LIO_SPLICE,
                      .fd = from[0],
                      .fd2 = pipes[1],
                      .len = 64,
                      .offset = -1,
                      .offset2 = -1});
        push_timeout(h, 12, 3600 * SECOND);
        CHECK_EQ(lio_flush(h->b), COUNT);
        if (round != 1) { /* round 1: asked for before anything has begun to wait */
            for (uint64_t i = 0; i < COUNT; i++)
                still_waits(h, i);
        }
        uint64_t before = stats_of(h).cancelled;
        for (uint64_t i = 0; i < COUNT; i++) {
            CHECK_EQ(lio_cancel(h->b, i), 0);
            CHECK_EQ(lio_cancel(h->b, i), 0);
        }
        for (uint64_t i = 0; i < COUNT; i++)
            CHECK_EQ(harness_result(h, i), -ECANCELED);
        CHECK_EQ(stats_of(h).cancelled - before, COUNT);
        for (uint64_t i = 0; i < COUNT; i++)
            CHECK_EQ(lio_cancel(h->b, i), -ENOENT);
        CHECK_EQ(stats_of(h).in_flight, 0);
        /* Nothing was taken: what comes now is for the next. */
        MUST(write(pair[1], "pair", 4) == 4 && write(tcp[1], "tcp", 3) == 3);
        MUST(send(datagram[1], "dgram", 5, 0) == 5 && write(pipes[1], "pi", 2) == 2);
        doze(5 * MS);
        CHECK_EQ(harness_wait(h, 0), 0);
        push_recv(h, 0, pair[0], 64);
        push_recv(h, 1, tcp[0], 64);
        push_recv(h, 2, datagram[0], 64);
        push(h, 3, (lio_op){.opcode = LIO_READ, .fd = pipes[0], .buf = bytes[3], .len = 64});
        CHECK_EQ(harness_result(h, 0), 4);
        CHECK_EQ(harness_result(h, 1), 3);
        CHECK_EQ(harness_result(h, 2), 5);
        CHECK_EQ(harness_result(h, 3), 2);
    }
    close_pair(pair);
    close_pair(tcp);
    close_pair(full);
    close_pair(pipes);
    close_pair(from);
    close_pair(datagram);
    close(listener);
    harness_close(h);
}

/* Its result stays, and comes once. */
static void test_cancel_done(void)
{
    harness *h = contract_open(16);
    int fds[2];
    struct sockaddr_in addr;
    int listener = make_listener(&addr), before = count_fds();
    make_pair(fds);
    for (int i = 0; i < 50; i++) {
        int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        push(h, 1, (lio_op){.opcode = LIO_NOP});
        push_recv(h, 2, fds[0], 10);
        push(h, 3, (lio_op){.opcode = LIO_ACCEPT, .fd = listener});
        if (i % 2)
            MUST(write(fds[1], "x", 1) == 1);
        CHECK_EQ(lio_flush(h->b), 3);
        if (i % 2 == 0)
            MUST(write(fds[1], "x", 1) == 1);
        MUST(connect(client, (struct sockaddr *)&addr, sizeof addr) == 0);
        for (uint64_t id = 1; id < 4; id++)
            CHECK_EQ(lio_cancel(h->b, id), 0);
        CHECK(harness_result(h, 1) == 0 || h->of[1].result == -ECANCELED);
        /* Won or lost, no byte and no connection is gone. */
        if (harness_result(h, 2) == -ECANCELED) {
            CHECK_EQ(peer_reads(fds[0]), 1);
        } else {
            CHECK_EQ(h->of[2].result, 1);
            CHECK(*harness_data(h, 2) == 'x');
        }
        int64_t accepted = harness_result(h, 3);
        if (accepted == -ECANCELED)
            accepted = accept(listener, NULL, NULL);
        CHECK(accepted >= 0);
        close((int)accepted);
        close(client);
    }
    close_pair(fds);
    CHECK_EQ(count_fds(), before);
    close(listener);
    harness_close(h);
}

/* -- the model --------------------------------------------------------------------- */

enum { MODEL_IDS = 160, MODEL_PAIRS = 12 };

struct model {
    harness *h;
    uint32_t seed;
    int fds[MODEL_PAIRS][2];
    bool live[MODEL_IDS], queued[MODEL_IDS], asked[MODEL_IDS];
    uint8_t opcode[MODEL_IDS];
    char bytes[MODEL_IDS][32];
    uint64_t pushed, completed, taken_back;
    int64_t written, received; /* towards us */
};

static uint32_t pick(struct model *m, uint32_t below)
{
    return next_random(&m->seed) % below;
}

static void model_push(struct model *m, uint64_t id)
{
    int *pair = m->fds[pick(m, MODEL_PAIRS)];
    lio_op op = {.fd = pair[0], .len = 1 + pick(m, 32)};
    switch (pick(m, 8)) {
    case 0:
        op = (lio_op){.opcode = LIO_NOP};
        break;
    case 1:
        op = (lio_op){.opcode = LIO_TIMEOUT, .offset = pick(m, 3) * MS};
        break;
    case 2:
        op = (lio_op){.opcode = LIO_POLL, .fd = pair[0], .flags = 1 + pick(m, 3)};
        break;
    case 3:
        op.opcode = LIO_SEND;
        op.op_flags = pick(m, 2) ? LIO_OP_ALL : 0;
        op.buf = m->bytes[id];
        break;
    case 4:
        op.opcode = LIO_RECV;
        op.buf = m->bytes[id];
        break;
    case 5:
        op.opcode = LIO_RECVFROM;
        break;
    default:
        op.opcode = LIO_RECV;
        break;
    }
    int error = lio_push(m->h->b, id, &op);
    if (m->live[id]) {
        CHECK_EQ(error, -EEXIST);
        return;
    }
    CHECK_EQ(error, 0);
    m->live[id] = m->queued[id] = true;
    m->asked[id] = false;
    m->opcode[id] = op.opcode;
    m->pushed++;
}

static void model_cancel(struct model *m, uint64_t id)
{
    int answer = lio_cancel(m->h->b, id);
    CHECK(!m->live[id] ? answer == -ENOENT : answer == 1 ? m->queued[id] : answer == 0);
    if (m->live[id] && m->queued[id])
        CHECK_EQ(answer, 1);
    if (answer == 1) {
        m->live[id] = false;
        m->taken_back++;
    }
    m->asked[id] = answer == 0;
}

static void model_take(struct model *m, const lio_completion *record)
{
    uint64_t id = record->id;
    if (id == LIO_ID_SIGNAL)
        return; /* of faults: something is coming yet */
    MUST(id < MODEL_IDS);
    CHECK(m->live[id]); /* neither twice nor unasked */
    m->live[id] = false;
    m->completed++;
    if (record->result == -ECANCELED) {
        CHECK(m->asked[id]);
        return;
    }
    switch (m->opcode[id]) {
    case LIO_NOP:
        CHECK_EQ(record->result, 0);
        break;
    case LIO_TIMEOUT:
        CHECK_EQ(record->result, -ETIME);
        break;
    case LIO_RECV:
    case LIO_RECVFROM:
        CHECK(record->result > 0 && record->result <= 32);
        m->received += record->result;
        break;
    default:
        CHECK(record->result > 0);
    }
}

static void model_wait(struct model *m, int64_t timeout)
{
    const lio_completion *records;
    int count = lio_wait(m->h->b, timeout, &records);
    CHECK(count >= 0);
    memset(m->queued, 0, sizeof m->queued);
    for (int i = 0; i < count; i++) {
        if (records[i].id != LIO_ID_WAKE)
            model_take(m, &records[i]);
    }
}

static void model_step(struct model *m)
{
    static const char block[64];
    uint64_t id = pick(m, MODEL_IDS);
    int *pair = m->fds[pick(m, MODEL_PAIRS)];
    switch (pick(m, 12)) {
    case 0:
    case 1:
    case 2:
    case 3:
        model_push(m, id);
        break;
    case 4:
    case 5:
        model_cancel(m, id);
        break;
    case 6:
        CHECK(lio_flush(m->h->b) >= 0);
        memset(m->queued, 0, sizeof m->queued);
        break;
    case 7:
        model_wait(m, (int64_t)pick(m, 2) * 100000);
        break;
    case 8:
    case 9: {
        ssize_t count = send(pair[1], block, 1 + pick(m, 40), MSG_DONTWAIT);
        m->written += count > 0 ? count : 0;
        break;
    }
    case 10: {
        char drained[4096];
        (void)!recv(pair[1], drained, sizeof drained, MSG_DONTWAIT);
        break;
    }
    default:
        CHECK_EQ(lio_wake(m->h->b), 0);
    }
}

static void test_exactly_one_completion(void)
{
    static struct model m;
    for (uint32_t seed = 1; seed <= 6; seed++) {
        memset(&m, 0, sizeof m);
        m.h = contract_open(MODEL_IDS);
        m.seed = seed * 2654435761u;
        for (int i = 0; i < MODEL_PAIRS; i++) {
            make_pair(m.fds[i]);
            if (i % 2)
                claim(m.h, m.fds[i][0]);
        }
        int failures = check_failures;
        for (int step = 0; step < 6000 && check_failures == failures; step++)
            model_step(&m);
        for (uint64_t id = 0; id < MODEL_IDS; id++)
            model_cancel(&m, id);
        int64_t until = check_now() + 5 * SECOND;
        while (stats_of(m.h).in_flight != 0 && check_now() < until)
            model_wait(&m, 10 * MS);
        lio_stats stats = stats_of(m.h);
        CHECK_EQ(stats.in_flight, 0);
        CHECK_EQ(stats.pushed, m.pushed);
        CHECK_EQ(stats.completed, m.completed);
        CHECK_EQ(m.completed + m.taken_back, m.pushed);
        CHECK_EQ(stats.flushed + m.taken_back, m.pushed);
        /* Every byte that came was handed out or is still there. */
        for (int i = 0; i < MODEL_PAIRS; i++) {
            int64_t count;
            while ((count = peer_reads(m.fds[i][0])) > 0)
                m.received += count;
            close_pair(m.fds[i]);
        }
        CHECK_EQ(m.received, m.written);
        if (check_failures != failures)
            printf("    seed %u\n", seed);
        harness_close(m.h);
    }
}

/* -- time -------------------------------------------------------------------------- */

static void test_timers(void)
{
    enum { TIMERS = 300 };
    harness *h = contract_open(TIMERS);
    uint32_t seed = 12345;
    int64_t start = check_now(), due[TIMERS];
    for (uint64_t i = 0; i < TIMERS; i++) {
        due[i] = next_random(&seed) % (50 * MS);
        push_timeout(h, i, due[i]);
    }
    CHECK_EQ(lio_flush(h->b), TIMERS);
    for (uint64_t i = 0; i < TIMERS; i += 3)
        CHECK_EQ(lio_cancel(h->b, i), 0);
    for (uint64_t i = 0; i < TIMERS; i++) {
        int64_t result = harness_result(h, i);
        CHECK(result == -ETIME || (i % 3 == 0 && result == -ECANCELED));
        if (result == -ETIME)
            CHECK(check_now() - start >= due[i]);
    }
    CHECK(check_now() - start < 2 * SECOND);
    push_timeout(h, 1, INT64_MAX);
    push_timeout(h, 2, 3600 * SECOND);
    CHECK_EQ(harness_wait(h, 1 * MS), 0);
    harness_close(h);
}

/* Neither early nor by spinning; 0 if and only if the time ran out. */
static void test_time_outs(void)
{
    harness *h = contract_open(16);
    int fds[2];
    make_pair(fds);
    push_recv(h, 1, fds[0], 1);
    for (int64_t timeout = 100000; timeout < 30 * MS; timeout = timeout * 3 + 7) {
        uint64_t before = harness_syscalls(h);
        int64_t start = check_now();
        CHECK_EQ(harness_wait(h, timeout), 0);
        CHECK(check_now() - start >= timeout);
        CHECK(check_now() - start < timeout + SECOND);
        CHECK(harness_syscalls(h) - before <= 8);
    }
    int64_t start = check_now();
    for (int i = 0; i < 100; i++)
        CHECK_EQ(harness_wait(h, 0), 0);
    CHECK(check_now() - start < SECOND);
    push_timeout(h, 2, 5 * MS);
    CHECK_EQ(harness_wait(h, INT64_MAX), 1);
    push_timeout(h, 2, 5 * MS);
    CHECK_EQ(harness_wait(h, -1), 1);
    push_timeout(h, 2, 5 * MS);
    CHECK_EQ(harness_wait(h, 5 * SECOND), 1);
    close_pair(fds);
    harness_close(h);
}

static const check_test tests[] = {
    TEST(test_cancel_queued),          TEST(test_cancel_in_flight), TEST(test_cancel_done),
    TEST(test_exactly_one_completion), TEST(test_timers),           TEST(test_time_outs),
};

int main(int argc, char **argv)
{
    return contract_run(tests, sizeof tests / sizeof *tests, argc, argv);
}
