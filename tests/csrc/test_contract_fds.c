/* Descriptors: numbers closed and used again behind our back, claimed or not; releasing and
 * closing; few descriptors, large numbers. */
#include <sys/resource.h>
#include <sys/stat.h>

#include "contract.h"

/* Puts one end of a fresh pair at `number`, whatever was there; returns the other end. */
static int replace(int number)
{
    int fds[2];
    make_pair(fds);
    if (fds[0] != number) {
        if (fds[1] == number)
            fds[1] = fcntl(number, F_DUPFD_CLOEXEC, 0);
        MUST(fds[1] >= 0 && dup3(fds[0], number, O_CLOEXEC) == number);
        close(fds[0]);
    }
    return fds[1];
}

static const char *peek(int fd)
{
    static char bytes[64];
    ssize_t count = recv(fd, bytes, sizeof bytes - 1, MSG_DONTWAIT);
    bytes[count > 0 ? count : 0] = '\0';
    return bytes;
}

/* -- behind our back --------------------------------------------------------------- */

/* Closed by somebody else and used again while operations are queued. A claimed file gets what
 * was meant for it or nothing; the new file never does. */
static void test_number_reused_before_flush(void)
{
    harness *h = contract_open(64);
    for (int round = 0; round < 20; round++) {
        int fds[2];
        make_pair(fds);
        claim(h, fds[0]);
        if (!claims(h)) { /* then flushed at once, as lio.h says */
            close_pair(fds);
            break;
        }
        push_send(h, 1, fds[0], "secret", 6);
        push_recv(h, 2, fds[0], 10);
        push(h, 3, (lio_op){.opcode = LIO_SHUTDOWN, .fd = fds[0], .flags = SHUT_WR});
        close(fds[0]);
        int stranger = replace(fds[0]);
        MUST(write(stranger, "theirs", 6) == 6);
        int64_t sent = harness_result(h, 1);
        if (sent == 6) {
            CHECK(strcmp(peek(fds[1]), "secret") == 0);
            MUST(write(fds[1], "ours", 4) == 4);
            CHECK_EQ(harness_result(h, 2), 4);
            CHECK(memcmp(harness_data(h, 2), "ours", 4) == 0);
        } else {
            CHECK_EQ(sent, -EBADF);
            CHECK_EQ(harness_result(h, 2), -EBADF);
        }
        harness_result(h, 3);
        CHECK_EQ(peer_reads(stranger), -EAGAIN);      /* neither bytes nor an end */
        CHECK(strcmp(peek(fds[0]), "theirs") == 0);   /* nobody took them */
        CHECK_EQ(lio_close_fd(h->b, fds[0]), -EBADF); /* and nobody closes it */
        CHECK_EQ(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
        CHECK_EQ(peer_reads(fds[1]), 0); /* while ours is let go */
        close(fds[0]);
        close(fds[1]);
        close(stranger);
    }
    harness_close(h);
}

/* The same with the operations in flight. */
static void test_number_reused_in_flight(void)
{
    harness *h = contract_open(64);
    for (int claimed = 0; claimed < 2; claimed++) {
        for (int round = 0; round < 10; round++) {
            int fds[2];
            make_pair(fds);
            if (claimed)
                claim(h, fds[0]);
            push_recv(h, 1, fds[0], 10);
            CHECK_EQ(lio_flush(h->b), 1);
            still_waits(h, 1);
            close(fds[0]);
            int stranger = replace(fds[0]);
            MUST(write(stranger, "theirs", 6) == 6);
            (void)send(fds[1], "ours", 4,
                       MSG_NOSIGNAL); /* the poller let go of the file already */
            push_recv(h, 2, fds[0], 10);
            int64_t until = check_now() + 5 * SECOND;
            while (!h->of[1].done && !h->of[2].done && check_now() < until)
                harness_wait(h, 100 * MS);
            if (claimed && claims(h)) {
                /* Both were meant for the claimed file, and none is for the new one. */
                for (uint64_t id = 1; id < 3; id++) {
                    if (!h->of[id].done)
                        CHECK_EQ(lio_cancel(h->b, id), 0);
                    int64_t result = harness_result(h, id);
                    CHECK(result == 4 || result == -EBADF || result == -ECANCELED);
                }
                CHECK(strcmp(peek(fds[0]), "theirs") == 0);
                CHECK_EQ(lio_close_fd(h->b, fds[0]), -EBADF);
            } else {
                int64_t first = harness_result(h, 1);
                CHECK(first == 4 || first == -EBADF);
                CHECK_EQ(harness_result(h, 2), 6);
            }
            CHECK_EQ(lio_release_fd(h->b, fds[0]), 0);
            close(fds[0]);
            close(fds[1]);
            close(stranger);
        }
    }
    harness_close(h);
}

/* What goes to the kernel in several rounds finds the file of the first round, or nothing. */
static void test_number_reused_between_rounds(void)
{
    static char block[1 << 20];
    harness *h = contract_open(64);
    for (int claimed = 0; claimed < 2; claimed++) {
        int fds[2];
        make_pair(fds);
        if (claimed)
            claim(h, fds[0]);
        size_t waiting = stuff(fds[0]);
        push(h, 1,
             (lio_op){.opcode = LIO_SEND,
                      .op_flags = LIO_OP_ALL,
                      .fd = fds[0],
                      .buf = block,
                      .len = sizeof block});
        CHECK_EQ(lio_flush(h->b), 1);
        still_waits(h, 1);
        CHECK_EQ(drink(fds[1], 30000), 30000);
        still_waits(h, 1);
        close(fds[0]);
        int stranger = replace(fds[0]);
        drink(fds[1], waiting - 30000);
        int64_t until = check_now() + (on_uring() || claimed ? 5 * SECOND : 100 * MS);
        size_t got = waiting;
        while (!h->of[1].done && check_now() < until) {
            harness_wait(h, 1 * MS);
            int64_t count = peer_reads(fds[1]);
            got += count > 0 ? (size_t)count : 0;
        }
        /* The poller is told nothing of a file that is gone, unless it was claimed. */
        if (!h->of[1].done)
            CHECK_EQ(lio_cancel(h->b, 1), 0);
        int64_t result = harness_result(h, 1);
        for (int64_t count; (count = peer_reads(fds[1])) > 0;)
            got += (size_t)count;
        CHECK(result == -EBADF || result == -ECANCELED ||
              (result > 0 && (size_t)result == got - waiting));
        CHECK_EQ(peer_reads(stranger), -EAGAIN);
        if (claimed && claims(h))
            CHECK_EQ(lio_close_fd(h->b, fds[0]), -EBADF);
        close(fds[0]);
        close(fds[1]);
        close(stranger);
    }
    harness_close(h);
}

/* The same number, claimed for one file after the other, with and without saying so. */
static void test_adopt_again(void)
{
    harness *h = contract_open(64);
    int fds[2], stranger;
    make_pair(fds);
    for (int round = 0; round < 30; round++) {
        claim(h, fds[0]);
        claim(h, fds[0]); /* twice is as good as once */
        push_recv(h, 1, fds[0], 10);
        if (round % 2)
            CHECK_EQ(lio_flush(h->b), 1);
        if (round % 3 == 0)
            CHECK_EQ(lio_release_fd(h->b, fds[0]), 1);
        close(fds[0]);
        stranger = replace(fds[0]);
        claim(h, fds[0]); /* settles what still waited for the file that is gone */
        if (round % 3 != 0 && !claims(h))
            CHECK(lio_release_fd(h->b, fds[0]) == 1);
        int64_t old = harness_result(h, 1);
        CHECK(old == -ECANCELED || old == -EBADF);
        CHECK_EQ(peer_reads(fds[1]), 0);
        close(fds[1]);
        fds[1] = stranger;
        push_recv(h, 2, fds[0], 10);
        push_send(h, 3, fds[0], "to the new", 10);
        MUST(write(fds[1], "from the", 8) == 8);
        CHECK_EQ(harness_result(h, 2), 8);
        CHECK_EQ(harness_result(h, 3), 10);
        CHECK_EQ(peer_reads(fds[1]), 10);
    }
    CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
    close(fds[1]);
    CHECK_EQ(lio_adopt(h->b, fds[0]), -EBADF);
    harness_close(h);
}

/* -- receives of the caller's own -------------------------------------------------- */

static void push_hint(harness *h, uint64_t id, int fd)
{
    push(h, id,
         (lio_op){.opcode = LIO_POLL,
                  .op_flags = LIO_OP_EXCLUSIVE | LIO_OP_HINT,
                  .fd = fd,
                  .flags = LIO_POLL_READ});
}

/* Receives until there is no more, and tells. */
static size_t receive_all(harness *h, int fd, size_t room)
{
    static char bytes[100000];
    size_t total = 0;
    for (;;) {
        ssize_t count = recv(fd, bytes, room, MSG_DONTWAIT);
        MUST(count > 0 || (count < 0 && errno == EAGAIN));
        if (count == (ssize_t)room) {
            total += room;
            continue;
        }
        CHECK_EQ(lio_received(h->b, fd, room, count < 0 ? -EAGAIN : count), 0);
        return total + (count < 0 ? 0 : (size_t)count);
    }
}

/* A poll tells of all that comes after what the caller says it has received, and of nothing
 * else; whether an event of it was collected meanwhile or not. */
static void test_polls_between_receives_of_the_callers_own(void)
{
    harness *h = contract_open(64);
    for (int round = 0; round < 12; round++) {
        bool tcp = round & 1, exact = round & 2;
        int fds[2];
        if (tcp)
            make_tcp_pair(fds);
        else
            make_pair(fds);
        claim(h, fds[0]);
        for (int i = 0; i < 4; i++) {
            bool before = i & 1, collected = i & 2;
            if (before)
                MUST(write(fds[1], "0123456789", 10) == 10);
            if (collected)
                harness_wait(h, 2 * MS);
            push_hint(h, 1, fds[0]);
            if (!before) {
                still_waits(h, 1);
                MUST(write(fds[1], "0123456789", 10) == 10);
            }
            CHECK_EQ(harness_result(h, 1), LIO_POLL_READ);
            CHECK_EQ(receive_all(h, fds[0], exact ? 10 : 1000), 10);
        }
        push_hint(h, 1, fds[0]);
        still_waits(h, 1);
        CHECK_EQ(lio_cancel(h->b, 1), 0);
        CHECK_EQ(harness_result(h, 1), -ECANCELED);
        /* The last data and the end come together: no event may be left to tell of the end. */
        MUST(write(fds[1], "0123456789", 10) == 10);
        close(fds[1]);
        harness_wait(h, 2 * MS);
        push_hint(h, 1, fds[0]);
        CHECK_EQ(harness_result(h, 1), LIO_POLL_READ);
        char bytes[100];
        CHECK_EQ(recv(fds[0], bytes, sizeof bytes, 0), 10);
        CHECK_EQ(lio_received(h->b, fds[0], sizeof bytes, 10), 0);
        push_hint(h, 1, fds[0]);
        CHECK_EQ(harness_result(h, 1), LIO_POLL_READ);
        CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
    }
    harness_close(h);
}

static void test_a_number_is_still_what_was_adopted(void)
{
    harness *h = contract_open(64);
    int fds[2], stranger;
    make_pair(fds);
    CHECK_EQ(lio_still_adopted(h->b, fds[0]), 0);
    claim(h, fds[0]);
    CHECK_EQ(lio_still_adopted(h->b, fds[0]), 0);
    push_recv(h, 1, fds[0], 10);
    CHECK_EQ(lio_flush(h->b), 1);
    close(fds[0]);
    if (claims(h))
        CHECK_EQ(lio_still_adopted(h->b, fds[0]), -EBADF);
    stranger = replace(fds[0]);
    for (int i = 0; i < 2 && claims(h); i++) { /* also once the poller has found out */
        CHECK_EQ(lio_still_adopted(h->b, fds[0]), -EBADF);
        (void)send(fds[1], "x", 1, MSG_NOSIGNAL);
        harness_wait(h, 60 * MS);
    }
    claim(h, fds[0]);
    CHECK_EQ(lio_still_adopted(h->b, fds[0]), 0);
    CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
    close(fds[1]);
    close(stranger);
    harness_close(h);
}

/* -- releasing and closing --------------------------------------------------------- */

static void push_everything(harness *h, int fd)
{
    static char block[1 << 20], control[64];
    static lio_iovec part = {block, 100};
    push_recv(h, 1, fd, 100);
    push(h, 2, (lio_op){.opcode = LIO_RECVFROM, .fd = fd, .len = 100});
    push(h, 3,
         (lio_op){.opcode = LIO_RECVMSG,
                  .fd = fd,
                  .buf = &part,
                  .len = 1,
                  .control = control,
                  .control_len = sizeof control});
    push_poll(h, 4, fd, LIO_POLL_READ);
    push_send(h, 5, fd, block, sizeof block);
    push(h, 6,
         (lio_op){.opcode = LIO_SEND,
                  .op_flags = LIO_OP_ALL,
                  .fd = fd,
                  .buf = block,
                  .len = sizeof block});
    push(h, 7, (lio_op){.opcode = LIO_READ, .fd = fd, .buf = block, .len = 10});
    push_send(h, 8, fd, block, sizeof block);
}

/* Whatever is queued or in flight is settled when it returns, and the peer sees the end now. */
static void test_closing_settles_everything(void)
{
    harness *h = contract_open(64);
    for (int round = 0; round < 16; round++) {
        bool claimed = round & 1, flushed = round & 2, waited = round & 4, closes = round & 8;
        int fds[2];
        if (round % 3)
            make_tcp_pair(fds);
        else
            make_pair(fds);
        size_t waiting = stuff(fds[0]);
        if (claimed)
            claim(h, fds[0]);
        push_everything(h, fds[0]);
        if (flushed)
            CHECK(lio_flush(h->b) >= 6);
        if (waited)
            harness_wait(h, 2 * MS);
        int open = 0;
        for (uint64_t id = 1; id <= 8; id++)
            open += !h->of[id].done;
        int64_t start = check_now();
        if (closes) {
            CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
            CHECK(fcntl(fds[0], F_GETFD) < 0);
        } else {
            CHECK_EQ(lio_release_fd(h->b, fds[0]), open);
            CHECK_EQ(lio_release_fd(h->b, fds[0]), 0);
            CHECK(fcntl(fds[0], F_GETFD) >= 0);
            close(fds[0]);
        }
        CHECK(check_now() - start < SECOND);
        /* The end, after what had gone before. */
        size_t got = drink(fds[1], SIZE_MAX);
        CHECK_EQ(peer_reads(fds[1]), 0);
        for (uint64_t id = 1; id <= 8; id++) {
            int64_t result = harness_result(h, id);
            if (id == 5 || id == 6 || id == 8)
                waiting += result > 0 ? (size_t)result : 0;
            CHECK(result == -ECANCELED || (result > 0 && (id == 5 || id == 6 || id == 8)));
        }
        CHECK_EQ(got, waiting);
        CHECK_EQ(stats_of(h).in_flight, 0);
        close(fds[1]);
    }
    harness_close(h);
}

/* The operations of other descriptors go on. */
static void test_closing_leaves_others_alone(void)
{
    harness *h = contract_open(64);
    int fds[8][2];
    for (uint64_t i = 0; i < 8; i++) {
        make_pair(fds[i]);
        if (i % 2)
            claim(h, fds[i][0]);
        push_recv(h, i, fds[i][0], 10);
    }
    CHECK_EQ(lio_flush(h->b), 8);
    for (int i = 0; i < 4; i++)
        MUST(write(fds[2 * i][1], "x", 1) == 1);
    CHECK_EQ(lio_close_fd(h->b, fds[3][0]), 0);
    CHECK_EQ(lio_close_fd(h->b, fds[7][0]), 0);
    for (uint64_t i = 0; i < 8; i += 2)
        CHECK_EQ(harness_result(h, i), 1);
    CHECK_EQ(harness_result(h, 3), -ECANCELED);
    CHECK_EQ(harness_result(h, 7), -ECANCELED);
    CHECK(!h->of[1].done && !h->of[5].done);
    for (uint64_t i = 1; i < 8; i += 4) {
        MUST(write(fds[i][1], "x", 1) == 1);
        CHECK_EQ(harness_result(h, i), 1);
        CHECK_EQ(lio_close_fd(h->b, fds[i][0]), 0);
    }
    for (int i = 0; i < 8; i++) {
        if (i % 2 == 0)
            close(fds[i][0]);
        close(fds[i][1]);
    }
    harness_close(h);
}

/* What moves bytes to a descriptor is settled with it too. */
static void test_closing_the_far_end_of_a_splice(void)
{
    harness *h = contract_open(64);
    for (int round = 0; round < 6; round++) {
        int from[2], to[2], stranger = -1;
        MUST(pipe2(from, O_CLOEXEC | O_NONBLOCK) == 0);
        make_pair(to);
        if (round & 1)
            claim(h, to[0]);
        lio_op op = {.opcode = LIO_SPLICE,
                     .fd = from[0],
                     .fd2 = to[0],
                     .len = 64,
                     .offset = -1,
                     .offset2 = -1};
        push(h, 1, op);
        if (round >= 2) {
            CHECK_EQ(lio_flush(h->b), 1);
            if (round >= 4)
                still_waits(h, 1);
        }
        CHECK_EQ(lio_close_fd(h->b, to[0]), 0);
        CHECK_EQ(peer_reads(to[1]), 0);
        stranger = replace(to[0]);
        MUST(write(from[1], "secret", 6) == 6);
        CHECK_EQ(harness_result(h, 1), -ECANCELED);
        harness_wait(h, 2 * MS);
        CHECK_EQ(peer_reads(stranger), -EAGAIN);
        close(to[0]);
        close(to[1]);
        close(stranger);
        close_pair(from);
        CHECK_EQ(lio_release_fd(h->b, from[0]), 0);
    }
    harness_close(h);
}

/* LIO_CLOSE is for descriptors where nothing is going on. */
static void test_close_operation(void)
{
    harness *h = contract_open(16);
    int fds[2];
    make_pair(fds);
    lio_op op = {.opcode = LIO_CLOSE, .fd = fds[0]};
    push_recv(h, 1, fds[0], 10);
    CHECK_EQ(lio_push(h->b, 2, &op), -EBUSY);
    CHECK_EQ(lio_flush(h->b), 1);
    CHECK_EQ(lio_push(h->b, 2, &op), -EBUSY);
    CHECK_EQ(lio_cancel(h->b, 1), 0);
    CHECK_EQ(harness_result(h, 1), -ECANCELED);
    claim(h, fds[0]);
    if (claims(h))
        CHECK_EQ(lio_push(h->b, 2, &op), -EBUSY);
    CHECK_EQ(lio_release_fd(h->b, fds[0]), 0);
    CHECK_EQ(perform(h, op), 0);
    CHECK_EQ(peer_reads(fds[1]), 0);
    close(fds[1]);
    harness_close(h);
}

/* After the end of a backend its claims are void at once: the peer of a socket that is closed
 * then need not wait, and an address can be bound again. */
static void test_closing_the_backend_lets_go(void)
{
    for (int round = 0; round < 10; round++) {
        harness *h = contract_open(16);
        struct sockaddr_in addr;
        int fds[2], listener = make_listener(&addr);
        make_pair(fds);
        claim(h, fds[0]);
        claim(h, listener);
        push_recv(h, 1, fds[0], 10);
        push(h, 2, (lio_op){.opcode = LIO_ACCEPT, .fd = listener});
        if (round % 2)
            CHECK_EQ(lio_flush(h->b), 2);
        harness_close(h);
        close(fds[0]);
        CHECK_EQ(peer_reads(fds[1]), 0);
        close(fds[1]);
        close(listener);
        int again = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_EQ(bind(again, (struct sockaddr *)&addr, sizeof addr), 0);
        close(again);
    }
}

/* -- few descriptors, large numbers ------------------------------------------------ */

static void limit_fds(rlim_t soft, struct rlimit *before)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (before != NULL)
        *before = limit;
    limit.rlim_cur = soft;
    MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static void test_numbers_beyond_the_first_limit(void)
{
    struct rlimit before;
    limit_fds(64, &before);
    harness *h = contract_open(64);
    int low[2], high[2], highest = (int)(before.rlim_max > 4096 ? 4000 : before.rlim_max - 1);
    make_pair(low);
    claim(h, low[0]); /* from here on the size of the table is what it is */
    limit_fds(before.rlim_max > 4096 ? 4096 : before.rlim_max, NULL);
    make_pair(high);
    MUST(dup3(high[0], highest, O_CLOEXEC) == highest);
    close(high[0]);
    high[0] = highest;
    claim(h, high[0]);
    for (int i = 0; i < 2; i++) {
        int *pair = i ? high : low;
        push_recv(h, 1, pair[0], 10);
        push_send(h, 2, pair[0], "there", 5);
        MUST(write(pair[1], "here", 4) == 4);
        CHECK_EQ(harness_result(h, 1), 4);
        CHECK_EQ(harness_result(h, 2), 5);
        push_recv(h, 1, pair[0], 10);
        CHECK_EQ(lio_flush(h->b), 1);
        harness_wait(h, 0);
        push_send(h, 2, pair[0], "queued", 6);
        close(pair[0]);
        int stranger = replace(pair[0]);
        MUST(write(stranger, "theirs", 6) == 6);
        int64_t sent = claims(h) ? harness_result(h, 2) : 6;
        CHECK(sent == 6 || sent == -EBADF);
        if (claims(h))
            CHECK_EQ(peer_reads(stranger), -EAGAIN);
        CHECK_EQ(lio_close_fd(h->b, pair[0]), claims(h) ? -EBADF : 0);
        int64_t received = harness_result(h, 1);
        CHECK(received == -ECANCELED || received == -EBADF || (!claims(h) && received == 6));
        harness_result(h, 2);
        close(pair[0]);
        close(pair[1]);
        close(stranger);
    }
    harness_close(h);
    MUST(setrlimit(RLIMIT_NOFILE, &before) == 0);
}

/* Running out of descriptors is an error of whoever asked, and hurts nobody else. */
static void test_no_descriptor_left(void)
{
    struct rlimit before;
    struct sockaddr_in addr;
    harness *h = contract_open(64);
    int fds[2], other[2], listener = make_listener(&addr), client;
    make_pair(fds);
    make_pair(other);
    client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(client >= 0 && connect(client, (struct sockaddr *)&addr, sizeof addr) == 0);
    lio_op open_op = {.opcode = LIO_OPENAT, .fd = AT_FDCWD, .path = "/", .flags = O_CLOEXEC};
    int64_t warm = perform(h, open_op); /* the pool of the poller has its threads now */
    close((int)warm);
    limit_fds(3, &before); /* no less: poll(2) refuses more entries than the limit */
    CHECK_EQ(perform(h, open_op), -EMFILE);
    CHECK_EQ(perform(h, (lio_op){.opcode = LIO_ACCEPT, .fd = listener}), -EMFILE);
    CHECK_EQ(perform(h, (lio_op){.opcode = LIO_SOCKET, .fd = AF_INET, .flags = SOCK_STREAM}),
             -EMFILE);
    claim(h, fds[0]); /* the first: a table may be wanted */
    push_recv(h, 1, fds[0], 10);
    CHECK_EQ(lio_flush(h->b), 1);
    MUST(write(fds[1], "x", 1) == 1);
    CHECK_EQ(harness_result(h, 1), 1);
    lio_probe_result found;
    CHECK_EQ(lio_probe(variant->backend, NULL, &found), 0);
    CHECK_EQ(found.error, -EMFILE);
    CHECK(found.reason[0] != '\0');
    const lio_options options = {.without = variant->without};
    lio_backend *second;
    MUST(lio_create(variant->backend, &options, &second) == 0);
    CHECK_EQ(lio_init(second, 16), -EMFILE);
    /* Want of descriptors is no reason to fall back. */
    lio_backend *any = NULL;
    CHECK_EQ(lio_create(NULL, NULL, &any), -EMFILE);
    MUST(setrlimit(RLIMIT_NOFILE, &before) == 0);
    CHECK_EQ(lio_init(second, 16), 0); /* it may be tried again */
    lio_destroy(second);
    int64_t accepted = perform(h, (lio_op){.opcode = LIO_ACCEPT, .fd = listener});
    CHECK(accepted >= 0);
    close((int)accepted);
    claim(h, other[0]);
    CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
    CHECK_EQ(lio_close_fd(h->b, other[0]), 0);
    CHECK_EQ(peer_reads(fds[1]), 0);
    CHECK_EQ(peer_reads(other[1]), 0);
    close(fds[1]);
    close(other[1]);
    close(client);
    close(listener);
    harness_close(h);
}

/* One descriptor for each of those that a backend makes: init fails at every one of them once,
 * and leaves nothing behind. */
static void test_init_short_of_descriptors(void)
{
    struct rlimit before;
    const lio_options options = {.without = variant->without};
    int holes[1024], top = 0, count = 0, fd;
    for (fd = 0; fd < 20000; fd++)
        top = fcntl(fd, F_GETFD) >= 0 ? fd + 1 : top;
    while ((fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) < top) {
        MUST(fd >= 0 && count < 1024);
        holes[count++] = fd;
    }
    close(fd);
    int open_now = count_fds();
    for (int more = 0; more < 20; more++) {
        lio_backend *b;
        limit_fds((rlim_t)(top + more), &before);
        MUST(lio_create(variant->backend, &options, &b) == 0);
        int error = lio_init(b, 16);
        CHECK(error == 0 || error == -EMFILE);
        lio_destroy(b);
        MUST(setrlimit(RLIMIT_NOFILE, &before) == 0);
        CHECK_EQ(count_fds(), open_now);
        CHECK(error == 0 || more < 19);
    }
    while (count > 0)
        close(holes[--count]);
}

static const check_test tests[] = {
    TEST(test_number_reused_before_flush),
    TEST(test_number_reused_in_flight),
    TEST(test_number_reused_between_rounds),
    TEST(test_adopt_again),
    TEST(test_polls_between_receives_of_the_callers_own),
    TEST(test_a_number_is_still_what_was_adopted),
    TEST(test_closing_settles_everything),
    TEST(test_closing_leaves_others_alone),
    TEST(test_closing_the_far_end_of_a_splice),
    TEST(test_close_operation),
    TEST(test_closing_the_backend_lets_go),
    TEST(test_numbers_beyond_the_first_limit),
    TEST(test_no_descriptor_left),
    TEST(test_init_short_of_descriptors),
};

int main(int argc, char **argv)
{
    return contract_run(tests, sizeof tests / sizeof *tests, argc, argv);
}
