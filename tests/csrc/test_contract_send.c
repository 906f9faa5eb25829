/* Sends: their order, LIO_OP_ALL, LIO_OP_EXCLUSIVE, and peers that have closed their half. */
#include <signal.h>

#include "contract.h"

static uint8_t pattern_at(size_t position)
{
    return (uint8_t)(position * 31 + (position >> 8) * 7 + (position >> 16));
}

static char *make_pattern(size_t size)
{
    char *bytes = malloc(size);
    MUST(bytes != NULL);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)pattern_at(i);
    return bytes;
}

/* Reads what is there; returns how much, having compared it with the pattern from `at`. */
static size_t read_pattern(int fd, size_t at, size_t most)
{
    char bytes[65536];
    ssize_t count = recv(fd, bytes, most < sizeof bytes ? most : sizeof bytes, MSG_DONTWAIT);
    for (ssize_t i = 0; i < count; i++) {
        if ((uint8_t)bytes[i] != pattern_at(at + (size_t)i)) {
            printf("    byte %zu is wrong\n", at + (size_t)i);
            check_failures++;
            return 0;
        }
    }
    return count < 0 ? 0 : (size_t)count;
}

static void make_kind(int kind, int fds[2])
{
    if (kind)
        make_tcp_pair(fds);
    else
        make_pair(fds);
}

static lio_op send_all(int fd, const void *bytes, size_t length)
{
    return (lio_op){.opcode = LIO_SEND,
                    .op_flags = LIO_OP_ALL,
                    .fd = fd,
                    .buf = (void *)bytes,
                    .len = length};
}

/* -- order ------------------------------------------------------------------------- */

/* Big and small, of all kinds, while the peer reads slowly: the stream is as pushed. */
static void test_sends_leave_in_order(void)
{
    enum { SENDS = 30 };
    const size_t size = 4 << 20;
    char *bytes = make_pattern(size);
    for (int kind = 0; kind < 4; kind++) {
        harness *h = contract_open(64);
        int fds[2];
        size_t at = 0, got = 0;
        uint32_t seed = 5 + (uint32_t)kind;
        static lio_iovec parts[SENDS][2];
        make_kind(kind & 1, fds);
        if (kind & 2)
            claim(h, fds[0]);
        for (uint64_t id = 0; id < SENDS; id++) {
            size_t length = id == SENDS - 1 ? size - at
                            : id % 3        ? 1 + next_random(&seed) % 300
                                            : 200000;
            lio_op op = send_all(fds[0], bytes + at, length);
            if (length < 300 && id % 2) { /* goes as a whole, as it is small */
                parts[id][0] = (lio_iovec){bytes + at, length / 2};
                parts[id][1] = (lio_iovec){bytes + at + length / 2, length - length / 2};
                op = (lio_op){.opcode = LIO_SENDMSG, .fd = fds[0], .buf = parts[id], .len = 2};
            }
            push(h, id, op);
            at += length;
            if (id % 7 == 0)
                CHECK(lio_flush(h->b) >= 0);
        }
        CHECK_EQ(at, size);
        int64_t until = check_now() + 20 * SECOND;
        while ((got < size || h->arrived < SENDS) && check_now() < until) {
            harness_wait(h, got % 3 ? 0 : 100000);
            got += read_pattern(fds[1], got, 1 + next_random(&seed) % 65536);
        }
        CHECK_EQ(got, size);
        for (uint64_t id = 0; id < SENDS; id++) {
            CHECK(harness_result(h, id) > 0);
            if (id > 0 && variant->faults == NULL) /* they complete in any order */
                CHECK(h->of[id].order > h->of[id - 1].order);
        }
        close_pair(fds);
        harness_close(h);
    }
    free(bytes);
}

/* The first, which waits for room, is cancelled: the next has its turn. */
static void test_cancel_opens_the_gate(void)
{
    char *bytes = make_pattern(1 << 20);
    for (int kind = 0; kind < 4; kind++) {
        harness *h = contract_open(64);
        int fds[2];
        make_kind(kind & 1, fds);
        if (kind & 2)
            claim(h, fds[0]);
        size_t full = stuff(fds[0]);
        push(h, 1, send_all(fds[0], bytes, 1 << 20));
        push(h, 2, send_all(fds[0], bytes, 100));
        push(h, 3, send_all(fds[0], bytes + 100, 100));
        CHECK(lio_flush(h->b) >= 1);
        harness_wait(h, 5 * MS);
        CHECK_EQ(lio_cancel(h->b, 1), 0);
        int64_t first = harness_result(h, 1);
        CHECK(first == -ECANCELED || first > 0); /* TCP may have found more room */
        CHECK(!h->of[2].done || kind & 1);
        CHECK(lio_cancel(h->b, 3) >= 0 || (kind & 1 && h->of[3].done));
        full += first > 0 ? (size_t)first : 0;
        size_t got = 0;
        int64_t until = check_now() + 5 * SECOND;
        while (got < full && check_now() < until) {
            got += drink(fds[1], full - got < 10000 ? full - got : 10000);
            harness_wait(h, 0);
        }
        CHECK_EQ(got, full);
        CHECK_EQ(harness_result(h, 2), 100);
        CHECK_EQ(read_pattern(fds[1], 0, 1000),
                 100 + (h->of[3].done && h->of[3].result == 100 ? 100 : 0));
        close_pair(fds);
        harness_close(h);
    }
    free(bytes);
}

static void test_close_while_gated(void)
{
    char *bytes = make_pattern(1 << 20);
    for (int round = 0; round < 8; round++) {
        harness *h = contract_open(64);
        int fds[2];
        make_kind(round & 1, fds);
        if (round & 2)
            claim(h, fds[0]);
        size_t got = 0;
        int64_t sent = 0;
        for (uint64_t id = 1; id < 10; id++)
            push(h, id, send_all(fds[0], bytes, 1 << 20));
        CHECK(lio_flush(h->b) >= 1);
        if (round & 4)
            harness_wait(h, 5 * MS);
        CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
        for (uint64_t id = 1; id < 10; id++) {
            int64_t result = harness_result(h, id);
            CHECK(result == -ECANCELED || result > 0);
            sent += result > 0 ? result : 0;
        }
        for (int64_t count; (count = peer_reads(fds[1])) != 0;) {
            CHECK(count > 0 || count == -EAGAIN);
            got += count > 0 ? (size_t)count : 0;
        }
        CHECK_EQ(got, sent);
        close(fds[1]);
        /* Nothing of it is left with the number. */
        make_kind(0, fds);
        for (uint64_t id = 1; id < 4; id++)
            push_send(h, id, fds[0], bytes, 10);
        for (uint64_t id = 1; id < 4; id++)
            CHECK_EQ(harness_result(h, id), 10);
        close_pair(fds);
        harness_close(h);
    }
    free(bytes);
}

/* -- all of it --------------------------------------------------------------------- */

/* However it ends, the result is what the peer gets. */
static void test_partial_send_is_counted(void)
{
    const size_t size = 8 << 20;
    char *bytes = make_pattern(size);
    for (int round = 0; round < 24; round++) {
        harness *h = contract_open(64);
        int fds[2];
        make_kind(round & 1, fds);
        if (round & 2)
            claim(h, fds[0]);
        size_t got = 0, until = (size_t)round * 100000;
        push(h, 1, send_all(fds[0], bytes, size));
        do {
            harness_wait(h, 1 * MS);
            got += read_pattern(fds[1], got, 65536);
        } while (got < until);
        if (round % 3 == 0) {
            CHECK_EQ(lio_release_fd(h->b, fds[0]), 1);
        } else {
            if (round % 3 == 1)
                got += read_pattern(fds[1], got, 65536); /* there is room, and it may go on */
            CHECK_EQ(lio_cancel(h->b, 1), 0);
        }
        int64_t result = harness_result(h, 1);
        CHECK(result > 0);
        CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
        int64_t patience = check_now() + 5 * SECOND;
        for (size_t count = 1; got < (size_t)result || count != 0; got += count) {
            count = read_pattern(fds[1], got, 65536);
            if (check_now() > patience)
                break;
        }
        CHECK_EQ(got, result);
        CHECK_EQ(peer_reads(fds[1]), 0);
        close(fds[1]);
        harness_close(h);
    }
    /* The peer goes away. */
    for (int kind = 0; kind < 2; kind++) {
        harness *h = contract_open(64);
        int fds[2];
        make_kind(kind, fds);
        push(h, 1, send_all(fds[0], bytes, size));
        harness_wait(h, 5 * MS);
        close(fds[1]);
        int64_t result = harness_result(h, 1);
        CHECK(result == -EPIPE || result == -ECONNRESET);
        push(h, 2, send_all(fds[0], bytes, 10));
        CHECK_EQ(harness_result(h, 2), -EPIPE); /* and no signal */
        close(fds[0]);
        harness_close(h);
    }
    /* Nothing to send. */
    harness *h = contract_open(64);
    int fds[2];
    make_pair(fds);
    CHECK_EQ(perform(h, send_all(fds[0], bytes, 0)), 0);
    close_pair(fds);
    harness_close(h);
    free(bytes);
}

static void test_exclusive(void)
{
    harness *h = contract_open(64);
    int fds[2];
    char byte;
    make_pair(fds);
    lio_op receive = {
        .opcode = LIO_RECV, .op_flags = LIO_OP_EXCLUSIVE, .fd = fds[0], .len = 10};
    lio_op poll_read = {
        .opcode = LIO_POLL, .op_flags = LIO_OP_EXCLUSIVE, .fd = fds[0], .flags = LIO_POLL_READ};
    lio_op poll_both = poll_read;
    poll_both.flags = LIO_POLL_READ | LIO_POLL_WRITE;
    lio_op send = {
        .opcode = LIO_SEND, .op_flags = LIO_OP_EXCLUSIVE, .fd = fds[0], .buf = &byte, .len = 1};
    byte = 'x';
    CHECK_EQ(lio_push(h->b, 1, &receive), 0);
    CHECK_EQ(lio_push(h->b, 2, &receive), -EBUSY);
    CHECK_EQ(lio_push(h->b, 2, &poll_both), -EBUSY);
    CHECK_EQ(lio_flush(h->b), 1);
    CHECK_EQ(lio_push(h->b, 2, &poll_read), -EBUSY);
    CHECK_EQ(lio_push(h->b, 2, &send), 0); /* the other direction */
    CHECK_EQ(harness_result(h, 2), 1);
    CHECK_EQ(peer_reads(fds[1]), 1);
    CHECK_EQ(lio_cancel(h->b, 1), 0);
    CHECK_EQ(harness_result(h, 1), -ECANCELED);
    CHECK_EQ(lio_push(h->b, 1, &receive), 0);
    CHECK_EQ(lio_cancel(h->b, 1), 1);
    /* Sends that go down together do not wait for each other; one that waits is in the way. */
    for (uint64_t id = 1; id < 4; id++)
        CHECK_EQ(lio_push(h->b, id, &send), 0);
    for (uint64_t id = 1; id < 4; id++)
        h->of[id].done = false;
    for (uint64_t id = 1; id < 4; id++)
        CHECK_EQ(harness_result(h, id), 1);
    stuff(fds[0]);
    CHECK_EQ(lio_push(h->b, 1, &send), 0);
    h->of[1].done = false;
    CHECK_EQ(lio_flush(h->b), 1);
    CHECK_EQ(lio_push(h->b, 2, &send), -EBUSY);
    still_waits(h, 1);
    CHECK_EQ(lio_push(h->b, 2, &send), -EBUSY);
    CHECK_EQ(lio_cancel(h->b, 1), 0);
    CHECK_EQ(harness_result(h, 1), -ECANCELED);
    close_pair(fds);
    harness_close(h);
}

/* -- half-closed peers ------------------------------------------------------------- */

/* A client that sends its request, closes its half, and reads the answer slowly. io_uring adds
 * POLLRDHUP to every poll: waiting must neither spin nor end before there is room. */
static void make_half_closed(int kind, int fds[2], size_t *full)
{
    make_kind(kind, fds);
    for (int i = 0; i < 2; i++) { /* fixed, or TCP finds more room by and by */
        int size = 65536;
        MUST(setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0);
        MUST(setsockopt(fds[i], SOL_SOCKET, SO_RCVBUF, &size, sizeof size) == 0);
    }
    MUST(shutdown(fds[1], SHUT_WR) == 0);
    *full = stuff(fds[0]);
    for (int quiet = 0; kind && quiet < 3;) {
        doze(20 * MS);
        size_t more = stuff(fds[0]);
        *full += more;
        quiet = more == 0 ? quiet + 1 : 0;
    }
}

static void test_half_closed_peer(void)
{
    static char block[200000];
    for (int round = 0; round < 8; round++) {
        harness *h = contract_open(64);
        int fds[2];
        size_t full, got = 0;
        bool polls = round & 4;
        make_half_closed(round & 1, fds, &full);
        if (round & 2)
            claim(h, fds[0]);
        if (polls)
            push_poll(h, 1, fds[0], LIO_POLL_WRITE);
        else
            push(h, 1, send_all(fds[0], block, sizeof block));
        push_recv(h, 2, fds[0], 10);
        CHECK_EQ(harness_result(h, 2), 0); /* the end is seen */
        uint64_t before = harness_syscalls(h);
        still_waits(h, 1);
        CHECK(harness_syscalls(h) - before < 30);
        before = harness_syscalls(h);
        CHECK_EQ(harness_wait(h, 50 * MS), 0);
        CHECK(harness_syscalls(h) - before < 8);
        /* A poll for both is due at once, for reading. */
        push_poll(h, 3, fds[0], LIO_POLL_READ | LIO_POLL_WRITE);
        CHECK_EQ(harness_result(h, 3), LIO_POLL_READ);
        CHECK(!h->of[1].done);
        size_t all = full + (polls ? 0 : sizeof block);
        int64_t until = check_now() + 5 * SECOND;
        while ((got < all || !h->of[1].done) && check_now() < until) {
            int64_t count = peer_reads(fds[1]);
            got += count > 0 ? (size_t)count : 0;
            harness_wait(h, 1 * MS);
        }
        CHECK_EQ(got, all);
        CHECK_EQ(harness_result(h, 1), polls ? (int64_t)LIO_POLL_WRITE : (int64_t)sizeof block);
        close_pair(fds);
        harness_close(h);
    }
}

static void test_cancel_and_close_with_half_closed_peer(void)
{
    static char block[200000];
    for (int round = 0; round < 16; round++) {
        harness *h = contract_open(64);
        int fds[2], other[2];
        size_t full, rest;
        make_half_closed(round & 1, fds, &full);
        make_half_closed(0, other, &rest);
        if (round & 2)
            claim(h, fds[0]);
        push_poll(h, 1, fds[0], LIO_POLL_WRITE);
        push(h, 2, send_all(fds[0], block, sizeof block));
        push(h, 3, send_all(fds[0], block, sizeof block));
        push_poll(h, 4, other[0], LIO_POLL_WRITE);
        if (round & 4)
            still_waits(h, 1);
        else
            CHECK(lio_flush(h->b) >= 3);
        if (round & 8) {
            for (uint64_t id = 1; id < 4; id++) {
                int answer = lio_cancel(h->b, id);
                CHECK(answer == 0 || (id == 3 && answer == 1));
                h->of[id].done = answer == 1;
                h->of[id].result = -ECANCELED;
            }
        } else {
            CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
        }
        for (uint64_t id = 1; id < 4; id++)
            CHECK_EQ(harness_result(h, id), -ECANCELED);
        if (!(round & 8)) {
            CHECK_EQ(drink(fds[1], SIZE_MAX), full);
            CHECK_EQ(peer_reads(fds[1]), 0);
        }
        /* The one beside it waits on, and is woken. */
        still_waits(h, 4);
        CHECK_EQ(drink(other[1], rest), rest);
        CHECK_EQ(harness_result(h, 4), LIO_POLL_WRITE);
        if (round & 8)
            close(fds[0]);
        close(fds[1]);
        close_pair(other);
        harness_close(h);
    }
    /* The end of a backend finds some waiting there. */
    harness *h = contract_open(64);
    int fds[2];
    size_t full;
    make_half_closed(0, fds, &full);
    push(h, 1, send_all(fds[0], block, sizeof block));
    push_poll(h, 2, fds[0], LIO_POLL_WRITE);
    still_waits(h, 2);
    harness_close(h);
    close_pair(fds);
}

/* Another thread that waits for the ring learns of room there. */
static void test_wait_ready_with_half_closed_peers(void)
{
    harness *h = contract_open(64);
    int fds[2][2];
    size_t full[2];
    for (int i = 0; i < 2; i++) {
        make_half_closed(0, fds[i], &full[i]);
        push_poll(h, (uint64_t)i, fds[i][0], LIO_POLL_WRITE);
    }
    still_waits(h, 0);
    while (lio_wait_ready(h->b, 0) != 0)
        harness_wait(h, 0);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(drink(fds[i][1], full[i]), full[i]);
        int64_t start = check_now();
        int64_t until = start + 5 * SECOND;
        while (!h->of[i].done && check_now() < until) {
            CHECK_EQ(lio_wait_ready(h->b, 2 * SECOND), 1);
            harness_wait(h, 0);
        }
        CHECK(check_now() - start < SECOND);
        CHECK_EQ(h->of[i].result, LIO_POLL_WRITE);
        close_pair(fds[i]);
    }
    harness_close(h);
}

/* A splice to a socket that does not block: it waits for either end, also for this one. */
static void test_splice_waits_for_either_end(void)
{
    static char bytes[30000];
    signal(SIGPIPE, SIG_IGN); /* else it is held back, by system calls that would count */
    for (int round = 0; round < 4; round++) {
        harness *h = contract_open(64);
        int from[2], to[2];
        size_t full, got = 0;
        MUST(pipe2(from, O_CLOEXEC | O_NONBLOCK) == 0);
        lio_op op = {.opcode = LIO_SPLICE, .len = sizeof bytes, .offset = -1, .offset2 = -1};
        make_pair(to);
        op.fd = from[0];
        op.fd2 = to[0];
        push(h, 1, op);
        still_waits(h, 1);
        MUST(write(from[1], bytes, 3) == 3);
        CHECK_EQ(harness_result(h, 1), 3);
        CHECK_EQ(peer_reads(to[1]), 3);
        full = stuff(to[0]);
        if (round & 1)
            MUST(shutdown(to[1], SHUT_WR) == 0);
        MUST(write(from[1], bytes, sizeof bytes) == sizeof bytes);
        push(h, 1, op);
        uint64_t before = harness_syscalls(h);
        still_waits(h, 1);
        /* It does not spin: a spin makes thousands. SIGPIPE, which kills here, is held back
         * around each enter, and that alone is three calls. */
        CHECK(harness_syscalls(h) - before < 4 * 40);
        if (round & 2) {
            CHECK_EQ(lio_cancel(h->b, 1), 0);
            CHECK_EQ(harness_result(h, 1), -ECANCELED);
        } else {
            int64_t until = check_now() + 5 * SECOND;
            while (!h->of[1].done && check_now() < until) {
                got += drink(to[1], full - got < 10000 ? full - got : 10000);
                harness_wait(h, 1 * MS);
            }
            CHECK(harness_result(h, 1) > 0);
        }
        close_pair(from);
        close_pair(to);
        harness_close(h);
    }
    signal(SIGPIPE, SIG_DFL);
}

static const check_test tests[] = {
    TEST(test_sends_leave_in_order),
    TEST(test_cancel_opens_the_gate),
    TEST(test_close_while_gated),
    TEST(test_partial_send_is_counted),
    TEST(test_exclusive),
    TEST(test_half_closed_peer),
    TEST(test_cancel_and_close_with_half_closed_peer),
    TEST(test_wait_ready_with_half_closed_peers),
    TEST(test_splice_waits_for_either_end),
};

int main(int argc, char **argv)
{
    return contract_run(tests, sizeof tests / sizeof *tests, argc, argv);
}
