/* More at once than buffers, places for addresses, or entries of a queue; the end of a backend
 * in the midst of it; what was received and is never taken. */
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "contract.h"

static void allow_many_fds(void)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_cur < 16384 && limit.rlim_max > limit.rlim_cur) {
        limit.rlim_cur = limit.rlim_max < 16384 ? limit.rlim_max : 16384;
        MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    }
}

/* -- buffers ----------------------------------------------------------------------- */

/* Every receive that is due gets a buffer sooner or later, and its bytes stay until the next
 * wait. */
static void test_more_receives_than_buffers(void)
{
    enum { SOCKETS = 700, ROUNDS = 4 };
    static int fds[SOCKETS][2];
    static bool seen[SOCKETS];
    harness *h = contract_open(SOCKETS);
    for (int i = 0; i < SOCKETS; i++) {
        make_pair(fds[i]);
        if (i % 2)
            claim(h, fds[i][0]);
    }
    for (int round = 0; round < ROUNDS; round++) {
        int count = 0, waits = 0;
        for (uint64_t i = 0; i < SOCKETS; i++) {
            seen[i] = false;
            if (round % 2 == 0) /* the data first, or the receives first */
                MUST(dprintf(fds[i][1], "%d.%d", round, (int)i) > 0);
            lio_op op = {
                .opcode = i % 5 ? LIO_RECV : LIO_RECVFROM, .fd = fds[i][0], .len = 65536};
            CHECK_EQ(lio_push(h->b, i, &op), 0);
        }
        if (round % 2) {
            CHECK_EQ(lio_flush(h->b), SOCKETS);
            for (int i = 0; i < SOCKETS; i++)
                MUST(dprintf(fds[i][1], "%d.%d", round, i) > 0);
        }
        while (count < SOCKETS && waits++ < 200) {
            const lio_completion *records;
            void *base;
            size_t size;
            int got = lio_wait(h->b, 5 * SECOND, &records);
            CHECK(got > 0);
            MUST(lio_pool(h->b, &base, &size) == 0);
            /* What is submitted and collected meanwhile goes elsewhere. */
            lio_op nop = {.opcode = LIO_NOP};
            CHECK_EQ(lio_push(h->b, SOCKETS + (uint64_t)waits, &nop), got > 0 ? 0 : -ENOBUFS);
            CHECK(lio_flush(h->b) >= 0);
            for (int i = 0; i < got; i++) {
                char wanted[32];
                uint64_t id = records[i].id;
                if (id >= SOCKETS)
                    continue;
                snprintf(wanted, sizeof wanted, "%d.%d", round, (int)id);
                CHECK(!seen[id]);
                seen[id] = true;
                CHECK_EQ(records[i].result, (int)strlen(wanted));
                MUST(records[i].data >= 0 && (size_t)records[i].data < size);
                CHECK(memcmp((char *)base + records[i].data, wanted, strlen(wanted)) == 0);
                CHECK((records[i].detail >= 0) == (id % 5 == 0));
                count++;
            }
        }
        CHECK_EQ(count, SOCKETS);
        while (stats_of(h).in_flight != 0 && waits++ < 300) {
            const lio_completion *rest;
            CHECK(lio_wait(h->b, 0, &rest) >= 0);
        }
    }
    for (int i = 0; i < SOCKETS; i++)
        close_pair(fds[i]);
    harness_close(h);
}

/* An idle receive holds no buffer: far more of them than there are do not stop one another. */
static void test_idle_receives_hold_no_buffer(void)
{
    enum { SOCKETS = 2000 };
    static int fds[SOCKETS][2];
    harness *h = contract_open(SOCKETS);
    for (uint64_t i = 0; i < SOCKETS; i++) {
        make_pair(fds[i]);
        push_recv(h, i, fds[i][0], 65536);
    }
    CHECK_EQ(lio_flush(h->b), SOCKETS);
    still_waits(h, 0);
    for (int i = SOCKETS - 1; i >= 0; i -= 111) {
        MUST(write(fds[i][1], "x", 1) == 1);
        CHECK_EQ(harness_result(h, (uint64_t)i), 1);
    }
    void *base;
    size_t size;
    MUST(lio_pool(h->b, &base, &size) == 0);
    CHECK(size < 64u << 20);
    for (int i = 0; i < SOCKETS; i++)
        close_pair(fds[i]);
    harness_close(h);
}

/* -- addresses --------------------------------------------------------------------- */

static void test_more_messages_than_places(void)
{
    enum { SOCKETS = 1300 };
    static int fds[SOCKETS];
    static char bytes[SOCKETS];
    harness *h = contract_open(SOCKETS + 1);
    struct sockaddr_in to[2] = {{.sin_family = AF_INET}};
    for (uint64_t i = 0; i < SOCKETS; i++) {
        struct sockaddr_in addr = {.sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t length = sizeof addr;
        fds[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        MUST(fds[i] >= 0 && bind(fds[i], (struct sockaddr *)&addr, sizeof addr) == 0);
        MUST(getsockname(fds[i], (struct sockaddr *)&addr, &length) == 0);
        push(h, i,
             (lio_op){.opcode = LIO_RECVFROM,
                      .fd = fds[i],
                      .buf = i % 3 ? &bytes[i] : NULL,
                      .len = 1});
        if (i == 0) {
            to[0] = addr;
            CHECK_EQ(lio_flush(h->b), 1);
        }
        MUST(sendto(fds[0], &"abcdefgh"[i % 8], 1, 0, (struct sockaddr *)&addr, sizeof addr) ==
             1);
    }
    /* A descriptor is closed while there is no place left. */
    int pair[2];
    make_pair(pair);
    push_recv(h, SOCKETS, pair[0], 10);
    CHECK(lio_flush(h->b) >= 0);
    CHECK_EQ(lio_close_fd(h->b, pair[0]), 0);
    CHECK_EQ(peer_reads(pair[1]), 0);
    int waits = 0;
    while (h->arrived < SOCKETS + 1 && waits++ < 100) {
        int before = h->arrived;
        CHECK(harness_wait(h, 5 * SECOND) > 0);
        for (uint64_t i = 0; i < SOCKETS; i++) {
            if (h->of[i].order <= before)
                continue;
            CHECK_EQ(h->of[i].result, 1);
            CHECK_EQ(harness_msg(h, i)->addr_len, sizeof to[0]);
            CHECK(memcmp(harness_msg(h, i)->addr, &to[0], sizeof to[0]) == 0);
            CHECK_EQ(i % 3 ? bytes[i] : *harness_data(h, i), "abcdefgh"[i % 8]);
        }
    }
    CHECK_EQ(h->arrived, SOCKETS + 1);
    CHECK_EQ(harness_result(h, SOCKETS), -ECANCELED);
    close(pair[1]);
    for (int i = 0; i < SOCKETS; i++)
        close(fds[i]);
    harness_close(h);
}

static void test_more_accepts_than_places(void)
{
    enum { CLIENTS = 1100 };
    static int clients[CLIENTS], accepted[CLIENTS];
    harness *h = contract_open(CLIENTS);
    int before = count_fds(), count = 0;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s/socket", scratch());
    MUST(listener >= 0 && bind(listener, (struct sockaddr *)&addr, sizeof addr) == 0);
    MUST(listen(listener, CLIENTS) == 0);
    for (uint64_t i = 0; i < CLIENTS; i++)
        push(h, i, (lio_op){.opcode = LIO_ACCEPT, .fd = listener});
    CHECK_EQ(lio_flush(h->b), CLIENTS);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        MUST(clients[i] >= 0);
        MUST(connect(clients[i], (struct sockaddr *)&addr, sizeof addr) == 0);
    }
    for (uint64_t i = 0; i < CLIENTS; i++) {
        int64_t fd = harness_result(h, i);
        CHECK(fd >= 0);
        accepted[count++] = (int)fd;
    }
    for (int i = 0; i < CLIENTS; i++) {
        close(clients[i]);
        if (i < count)
            close(accepted[i]);
    }
    close(listener);
    unlink(addr.sun_path);
    CHECK_EQ(count_fds(), before);
    harness_close(h);
}

/* -- queues ------------------------------------------------------------------------ */

/* Many times the submission and the completion queue, of what is done at once, of what is done
 * together later, and of what is cancelled together. */
static void test_thousands_of_completions(void)
{
    enum { COUNT = 15000 };
    harness *h = contract_open(COUNT);
    int fds[2];
    make_pair(fds);
    for (int round = 0; round < 3; round++) {
        h->arrived = 0;
        for (uint64_t id = 0; id < COUNT; id++) {
            if (round == 0)
                push(h, id, (lio_op){.opcode = LIO_NOP});
            else if (round == 1)
                push_poll(h, id, fds[0], LIO_POLL_READ);
            else
                push_timeout(h, id, 3600 * SECOND);
        }
        CHECK_EQ(lio_flush(h->b), COUNT);
        if (round == 1)
            MUST(write(fds[1], "x", 1) == 1);
        for (uint64_t id = 0; round == 2 && id < COUNT; id++)
            CHECK_EQ(lio_cancel(h->b, id), 0);
        int waits = 0;
        while (h->arrived < COUNT && waits++ < 1000)
            CHECK(harness_wait(h, 5 * SECOND) > 0);
        CHECK_EQ(h->arrived, COUNT);
        for (uint64_t id = 0; id < COUNT; id++)
            CHECK_EQ(h->of[id].result, round == 0   ? 0
                                       : round == 1 ? LIO_POLL_READ
                                                    : -ECANCELED);
        CHECK_EQ(stats_of(h).in_flight, 0);
    }
    lio_stats stats = stats_of(h);
    CHECK_EQ(stats.pushed, 3 * COUNT);
    CHECK_EQ(stats.flushed, 3 * COUNT);
    CHECK_EQ(stats.completed, 3 * COUNT);
    CHECK_EQ(stats.cancelled, COUNT);
    CHECK_EQ(stats.largest_batch, COUNT);
    close_pair(fds);
    harness_close(h);
}

/* Some that are always due do not keep those away that have become due. */
static void test_nobody_starves(void)
{
    enum { BUSY = 400 };
    harness *h = contract_open(BUSY + 4);
    int fds[2], other[2];
    make_pair(fds);
    make_pair(other);
    push_recv(h, BUSY, fds[0], 10);
    push_timeout(h, BUSY + 1, 20 * MS);
    push_poll(h, BUSY + 2, other[0], LIO_POLL_READ);
    for (uint64_t id = 0; id < BUSY; id++)
        push(h, id, (lio_op){.opcode = LIO_NOP});
    harness_wait(h, 0);
    MUST(write(fds[1], "x", 1) == 1 && write(other[1], "x", 1) == 1);
    CHECK_EQ(lio_wake(h->b), 0);
    int64_t until = check_now() + 5 * SECOND;
    bool all = false;
    while (!all && check_now() < until) {
        for (uint64_t id = 0; id < BUSY; id++) {
            if (h->of[id].done)
                push(h, id, (lio_op){.opcode = LIO_NOP});
        }
        harness_wait(h, 0);
        all = h->of[BUSY].done && h->of[BUSY + 1].done && h->of[BUSY + 2].done && h->wakes == 1;
    }
    CHECK(all);
    close_pair(fds);
    close_pair(other);
    harness_close(h);
}

/* -- the end ----------------------------------------------------------------------- */

static void test_closing_with_thousands_in_flight(void)
{
    enum { PAIRS = 500 };
    static int fds[PAIRS][2];
    static char bytes[PAIRS][4][16], block[100000];
    static lio_iovec parts[PAIRS];
    for (int round = 0; round < 4; round++) {
        struct sockaddr_in addr;
        int listener = make_listener(&addr), clients[8], pipes[2];
        MUST(pipe2(pipes, O_CLOEXEC) == 0);
        for (int i = 0; i < PAIRS; i++)
            make_pair(fds[i]);
        int before = count_fds();
        harness *h = contract_open(16384);
        uint64_t id = 0;
        for (int i = 0; i < PAIRS; i++) {
            if (i % 3 == 0)
                claim(h, fds[i][0]);
            parts[i] = (lio_iovec){bytes[i][0], 16};
            push_recv(h, id++, fds[i][0], 10);
            push(h, id++,
                 (lio_op){.opcode = LIO_RECV, .fd = fds[i][0], .buf = bytes[i][1], .len = 16});
            push(h, id++,
                 (lio_op){.opcode = LIO_RECVMSG, .fd = fds[i][0], .buf = &parts[i], .len = 1});
            push_poll(h, id++, fds[i][0], LIO_POLL_READ);
            push(h, id++,
                 (lio_op){.opcode = LIO_SEND,
                          .op_flags = LIO_OP_ALL,
                          .fd = fds[i][0],
                          .buf = block,
                          .len = i % 2 ? sizeof block : 10});
            push_timeout(h, id++, 3600 * SECOND);
            push(h, id++,
                 (lio_op){.opcode = LIO_READ, .fd = pipes[0], .buf = bytes[i][3], .len = 16});
            push(h, id++,
                 (lio_op){.opcode = LIO_OPENAT,
                          .fd = AT_FDCWD,
                          .path = "/",
                          .flags = O_RDONLY | O_CLOEXEC});
            push(h, id++,
                 (lio_op){
                     .opcode = LIO_SOCKET, .fd = AF_INET, .flags = SOCK_DGRAM | SOCK_CLOEXEC});
            push(h, id++, (lio_op){.opcode = LIO_ACCEPT, .fd = listener});
            if (round == 1 && i % 100 == 99)
                CHECK(lio_flush(h->b) >= 0);
        }
        if (round >= 2)
            CHECK(lio_flush(h->b) >= 0);
        for (int i = 0; i < 8; i++) {
            clients[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            MUST(connect(clients[i], (struct sockaddr *)&addr, sizeof addr) == 0);
            MUST(write(fds[i][1], "data", 4) == 4);
        }
        if (round == 3)
            harness_wait(h, 0); /* what this brings is the caller's */
        int64_t start = check_now();
        CHECK_EQ(lio_close(h->b), 0);
        CHECK(check_now() - start < 5 * SECOND);
        for (uint64_t i = 0; round == 3 && i < id; i++) {
            bool brings = i % 10 >= 7 && h->of[i].done && h->of[i].result >= 0;
            if (brings)
                close((int)h->of[i].result);
        }
        harness_close(h);
        for (int i = 0; i < 8; i++)
            close(clients[i]);
        CHECK_EQ(count_fds(), before);
        for (int i = 0; i < PAIRS; i++)
            close_pair(fds[i]);
        close_pair(pipes);
        close(listener);
    }
}

/* Sends `count` duplicates of standard output along with a byte. */
static void send_rights(int fd, int count)
{
    union {
        char bytes[CMSG_SPACE(8 * sizeof(int))];
        struct cmsghdr align;
    } control;
    memset(&control, 0, sizeof control);
    struct iovec part = {"x", 1};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = &control,
                            .msg_controllen = CMSG_SPACE((size_t)count * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    for (int i = 0; i < count; i++) {
        int number = 1;
        memcpy(CMSG_DATA(c) + (size_t)i * sizeof number, &number, sizeof number);
    }
    MUST(sendmsg(fd, &header, 0) == 1);
}

/* Descriptors that a message brought: handed over with it, or closed if nobody takes it. */
static void test_rights_are_not_leaked(void)
{
    for (int round = 0; round < 4; round++) {
        bool pooled = round & 1, taken = round & 2;
        int fds[2], before = count_fds();
        char byte;
        union {
            char bytes[256];
            struct cmsghdr align;
        } control[2];
        lio_iovec part = {&byte, 1};
        make_pair(fds);
        harness *h = contract_open(16);
        for (uint64_t id = 0; id < 2; id++)
            push(h, id,
                 (lio_op){.opcode = LIO_RECVMSG,
                          .fd = fds[0],
                          .flags = MSG_CMSG_CLOEXEC,
                          .buf = pooled ? NULL : &part,
                          .len = pooled ? 0 : 1,
                          .buf_len = pooled ? 10 : 0,
                          .control = &control[id],
                          .control_len = sizeof control[id]});
        CHECK_EQ(lio_flush(h->b), 2);
        still_waits(h, 0);
        send_rights(fds[1], 3);
        send_rights(fds[1], 1);
        if (taken) {
            int got = 0;
            for (uint64_t id = 0; id < 2; id++) {
                CHECK_EQ(harness_result(h, id), 1);
            }
            got = count_fds();
            /* The messages stay readable, their descriptors are the caller's. */
            for (uint64_t id = 0; id < 2; id++) {
                struct cmsghdr *c = (struct cmsghdr *)(void *)&control[id];
                CHECK(c->cmsg_type == SCM_RIGHTS);
                size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                CHECK(count == 3 || count == 1);
                for (size_t i = 0; i < count; i++) {
                    int fd;
                    memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
                    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
                    close(fd);
                }
            }
            CHECK_EQ(got - count_fds(), 4);
        } else if (round == 0) {
            CHECK_EQ(lio_release_fd(h->b, fds[0]), 2); /* settled, and not handed out */
        }
        harness_close(h);
        close_pair(fds);
        CHECK_EQ(count_fds(), before);
    }
}

/* A file operation that does not end by itself. */
static void test_closing_with_a_blocked_file_operation(void)
{
    char path[256];
    snprintf(path, sizeof path, "%s/fifo", scratch());
    MUST(mkfifo(path, 0600) == 0);
    for (int round = 0; round < 2; round++) {
        int before = count_fds();
        harness *h = contract_open(16);
        push(h, 1,
             (lio_op){.opcode = LIO_OPENAT,
                      .fd = AT_FDCWD,
                      .path = path,
                      .flags = O_RDONLY | O_CLOEXEC});
        still_waits(h, 1);
        if (round == 0) {
            push(h, 2,
                 (lio_op){.opcode = LIO_OPENAT,
                          .fd = AT_FDCWD,
                          .path = path,
                          .flags = O_WRONLY | O_NONBLOCK | O_CLOEXEC});
            int64_t asked = harness_result(h, 2); /* with a reader that waits, or not yet */
            CHECK(asked >= 0 || asked == -ENXIO);
            int64_t both = perform(h, (lio_op){.opcode = LIO_OPENAT,
                                               .fd = AT_FDCWD,
                                               .path = path,
                                               .flags = O_RDWR | O_CLOEXEC});
            CHECK(both >= 0);
            int64_t reader = harness_result(h, 1);
            CHECK(reader >= 0);
            CHECK(!(fcntl((int)reader, F_GETFL) & O_NONBLOCK));
            close((int)reader);
            close((int)both);
            if (asked >= 0)
                close((int)asked);
            push(h, 1,
                 (lio_op){.opcode = LIO_OPENAT,
                          .fd = AT_FDCWD,
                          .path = path,
                          .flags = O_WRONLY | O_CLOEXEC});
            still_waits(h, 1);
            CHECK_EQ(lio_cancel(h->b, 1), 0);
            if (on_uring())
                CHECK_EQ(harness_result(h, 1), -ECANCELED);
        }
        /* The poller's threads cannot be interrupted: somebody opens the other end. */
        int writer = on_uring() ? -1 : open(path, O_RDWR | O_CLOEXEC);
        int64_t start = check_now();
        harness_close(h);
        CHECK(check_now() - start < 5 * SECOND);
        if (writer >= 0)
            close(writer);
        CHECK_EQ(count_fds(), before);
    }
    unlink(path);
}

static const check_test tests[] = {
    TEST(test_more_receives_than_buffers),
    TEST(test_idle_receives_hold_no_buffer),
    TEST(test_more_messages_than_places),
    TEST(test_more_accepts_than_places),
    TEST(test_thousands_of_completions),
    TEST(test_nobody_starves),
    TEST(test_closing_with_thousands_in_flight),
    TEST(test_rights_are_not_leaked),
    TEST(test_closing_with_a_blocked_file_operation),
};

int main(int argc, char **argv)
{
    allow_many_fds();
    int code = contract_run(tests, sizeof tests / sizeof *tests, argc, argv);
    rmdir(scratch());
    return code;
}
