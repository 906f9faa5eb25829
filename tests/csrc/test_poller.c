/* What is special to the poller: arenas, edges, parking, order, blocking mode. */
#include <poll.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "check.h"

static harness *open_poller(void)
{
    return harness_open("epoll", NULL, 64);
}

/* -- the arenas -------------------------------------------------------------------- */

static void test_received_bytes_stay_until_next_wait(void)
{
    harness *h = open_poller();
    int a[2], c[2];
    make_pair(a);
    make_pair(c);
    CHECK_EQ(lio_adopt(h->b, a[0]), 1);
    for (int round = 0; round < 5; round++) {
        MUST(write(a[1], "first", 5) == 5);
        push_recv(h, 1, a[0], 100);
        CHECK_EQ(harness_result(h, 1), 5);
        const char *first = harness_data(h, 1);
        CHECK(memcmp(first, "first", 5) == 0);
        /* Flushed after the hand-out and done at once: its bytes go elsewhere. */
        MUST(write(c[1], "other", 5) == 5);
        push_recv(h, 2, c[0], 65536);
        CHECK_EQ(lio_flush(h->b), 1);
        CHECK(memcmp(first, "first", 5) == 0);
        CHECK_EQ(harness_result(h, 2), 5);
        CHECK(memcmp(harness_data(h, 2), "other", 5) == 0);
    }
    for (int i = 0; i < 2; i++) {
        close(a[i]);
        close(c[i]);
    }
    harness_close(h);
}

/* More receives at once than the arena can hold: the rest comes with the next wait, which
 * does not block, and every byte is right. */
static void test_full_arena(void)
{
    enum { SOCKETS = 60, BYTES = 40000 };
    harness *h = open_poller();
    int fds[SOCKETS][2];
    static char block[BYTES];
    int seen = 0, waits = 0;
    for (int i = 0; i < SOCKETS; i++) {
        make_pair(fds[i]);
        if (i % 2)
            CHECK_EQ(lio_adopt(h->b, fds[i][0]), 1);
        memset(block, 'A' + i, sizeof block);
        MUST(write(fds[i][1], block, sizeof block) == BYTES);
        push_recv(h, (uint64_t)i, fds[i][0], 65536);
    }
    while (seen < SOCKETS && waits < 50) {
        const lio_completion *records;
        int count = lio_wait(h->b, 5 * SECOND, &records);
        void *base;
        size_t size;
        MUST(lio_pool(h->b, &base, &size) == 0);
        CHECK(count > 0);
        for (int i = 0; i < count; i++) {
            const char *bytes = (const char *)base + records[i].data;
            CHECK_EQ(records[i].result, BYTES);
            CHECK_EQ(bytes[0], 'A' + (int)records[i].id);
            CHECK_EQ(bytes[BYTES - 1], 'A' + (int)records[i].id);
        }
        seen += count > 0 ? count : 0;
        waits++;
    }
    CHECK_EQ(seen, SOCKETS);
    CHECK(waits > 1);
    for (int i = 0; i < SOCKETS; i++) {
        close(fds[i][0]);
        close(fds[i][1]);
    }
    harness_close(h);
}

static void test_recvfrom_brings_address(void)
{
    harness *h = open_poller();
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof addr;
    int one = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    int two = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    MUST(one >= 0 && two >= 0);
    MUST(bind(one, (struct sockaddr *)&addr, sizeof addr) == 0);
    MUST(getsockname(one, (struct sockaddr *)&addr, &length) == 0);
    push(h, 1, (lio_op){.opcode = LIO_RECVFROM, .fd = one, .len = 4});
    CHECK_EQ(harness_wait(h, 0), 0);
    push(h, 2,
         (lio_op){.opcode = LIO_SENDTO,
                  .fd = two,
                  .buf = "datagram",
                  .len = 8,
                  .addr = &addr,
                  .addr_len = sizeof addr});
    CHECK_EQ(harness_result(h, 1), 4);
    CHECK_EQ(harness_result(h, 2), 8);
    CHECK(harness_msg(h, 1)->flags & MSG_TRUNC);
    CHECK_EQ(harness_msg(h, 1)->addr_len, sizeof addr);
    CHECK_EQ(h->of[1].detail % 8, 0);
    CHECK(memcmp(harness_data(h, 1), "data", 4) == 0);
    close(one);
    close(two);
    harness_close(h);
}

/* -- edges ------------------------------------------------------------------------- */

/* Data and FIN come before the first read: that read is short and takes the data; the end
 * of the stream has no edge of its own any more. */
static void test_end_after_short_read(void)
{
    for (int looked = 0; looked < 2; looked++) {
        harness *h = open_poller();
        int fds[2];
        make_tcp_pair(fds);
        CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
        if (looked) {
            push_recv(h, 1, fds[0], 1000);
            CHECK_EQ(harness_wait(h, 0), 0);
        }
        MUST(send(fds[1], "bye", 3, 0) == 3);
        close(fds[1]);
        struct timespec pause = {0, 20000000};
        nanosleep(&pause, NULL);
        if (!looked)
            push_recv(h, 1, fds[0], 1000);
        CHECK_EQ(harness_result(h, 1), 3);
        push_recv(h, 2, fds[0], 1000);
        CHECK_EQ(harness_result(h, 2), 0);
        push_recv(h, 3, fds[0], 1000);
        CHECK_EQ(harness_result(h, 3), 0);
        close(fds[0]);
        harness_close(h);
    }
}

/* A short read says "empty"; what comes then is an edge, and nothing is tried before it. */
static void test_short_read_saves_a_call(void)
{
    harness *h = open_poller();
    int fds[2];
    make_tcp_pair(fds);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    for (int i = 0; i < 3; i++) {
        MUST(send(fds[1], "ping", 4, 0) == 4);
        push_recv(h, 1, fds[0], 1000);
        CHECK_EQ(harness_result(h, 1), 4);
    }
    push_recv(h, 2, fds[0], 1000);
    CHECK_EQ(harness_wait(h, 0), 0); /* collects the edges that are old */
    push_recv(h, 3, fds[0], 1000);
    uint64_t before = harness_syscalls(h);
    CHECK_EQ(lio_flush(h->b), 1);
    CHECK(harness_syscalls(h) - before <= 1); /* that of the identity */
    MUST(send(fds[1], "x", 1, 0) == 1);
    CHECK_EQ(harness_result(h, 2), 1);
    MUST(send(fds[1], "yz", 2, 0) == 2);
    CHECK_EQ(harness_result(h, 3), 2);
    close(fds[0]);
    close(fds[1]);
    harness_close(h);
}

/* TCP cuts a read at the urgent mark although there is more. */
static void test_urgent_byte_does_not_hide_data(void)
{
    harness *h = open_poller();
    int fds[2];
    make_tcp_pair(fds);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    push_recv(h, 1, fds[0], 100);
    CHECK_EQ(harness_wait(h, 0), 0);
    MUST(send(fds[1], "ab", 2, 0) == 2);
    MUST(send(fds[1], "U", 1, MSG_OOB) == 1);
    MUST(send(fds[1], "cd", 2, 0) == 2);
    struct timespec pause = {0, 20000000};
    nanosleep(&pause, NULL);
    size_t total = 0;
    for (uint64_t id = 1; total < 4 && id < 5; id++) {
        if (id > 1)
            push_recv(h, id, fds[0], 100);
        int64_t count = harness_result(h, id);
        CHECK(count > 0);
        total += count > 0 ? (size_t)count : 0;
    }
    CHECK_EQ(total, 4);
    close(fds[0]);
    close(fds[1]);
    harness_close(h);
}

/* A local socket cuts a read where a descriptor was sent, although there is more. */
static void test_sent_descriptor_does_not_hide_data(void)
{
    harness *h = open_poller();
    int fds[2];
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)),
                            .cmsg_level = SOL_SOCKET,
                            .cmsg_type = SCM_RIGHTS}};
    struct iovec iov = {"with", 4};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control};
    make_pair(fds);
    memcpy(CMSG_DATA(&control.header), &fds[1], sizeof(int));
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    push_recv(h, 1, fds[0], 100);
    CHECK_EQ(harness_wait(h, 0), 0);
    MUST(sendmsg(fds[1], &message, 0) == 4);
    MUST(send(fds[1], "more", 4, 0) == 4);
    CHECK_EQ(harness_result(h, 1), 4);
    push_recv(h, 2, fds[0], 100);
    CHECK_EQ(harness_result(h, 2), 4);
    close(fds[0]);
    close(fds[1]);
    harness_close(h);
}

/* Rights that came and were never taken are closed with the backend. */
static void test_close_discards_received_rights(void)
{
    harness *h = open_poller();
    int fds[2], ends[2];
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } out = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)),
                        .cmsg_level = SOL_SOCKET,
                        .cmsg_type = SCM_RIGHTS}},
      in;
    struct iovec iov = {"x", 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = out.bytes,
                             .msg_controllen = sizeof out};
    char byte;
    make_pair(fds);
    MUST(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    memcpy(CMSG_DATA(&out.header), &ends[1], sizeof(int));
    MUST(sendmsg(fds[1], &message, 0) == 1);
    close(ends[1]);
    push(h, 1,
         (lio_op){.opcode = LIO_RECVMSG,
                  .fd = fds[0],
                  .buf_len = 10,
                  .control = in.bytes,
                  .control_len = sizeof in});
    CHECK_EQ(lio_flush(h->b), 1);
    CHECK(read(ends[0], &byte, 1) < 0 && errno == EAGAIN);
    harness_close(h);
    CHECK_EQ(read(ends[0], &byte, 1), 0);
    close(ends[0]);
    close(fds[0]);
    close(fds[1]);
}

static void test_peek_leaves_readiness(void)
{
    harness *h = open_poller();
    int fds[2];
    make_tcp_pair(fds);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    MUST(send(fds[1], "peek", 4, 0) == 4);
    push(h, 1, (lio_op){.opcode = LIO_RECV, .fd = fds[0], .len = 100, .flags = MSG_PEEK});
    CHECK_EQ(harness_result(h, 1), 4);
    push_recv(h, 2, fds[0], 100);
    CHECK_EQ(harness_result(h, 2), 4);
    close(fds[0]);
    close(fds[1]);
    harness_close(h);
}

static void test_polls(void)
{
    for (int adopted = 0; adopted < 2; adopted++) {
        harness *h = open_poller();
        int fds[2];
        make_pair(fds);
        if (adopted)
            CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
        push_poll(h, 1, fds[0], LIO_POLL_READ);
        push_poll(h, 2, fds[0], LIO_POLL_READ | LIO_POLL_WRITE);
        push_poll(h, 3, fds[0], LIO_POLL_WRITE);
        push_recv(h, 4, fds[0], 10);
        CHECK_EQ(harness_result(h, 3), LIO_POLL_WRITE);
        CHECK_EQ(harness_result(h, 2), LIO_POLL_WRITE);
        CHECK_EQ(harness_wait(h, 0), 0);
        push_poll(h, 5, fds[0], LIO_POLL_READ);
        stuff(fds[0]);
        push_poll(h, 6, fds[0], LIO_POLL_WRITE);
        CHECK_EQ(harness_wait(h, 0), 0);
        MUST(write(fds[1], "some", 4) == 4);
        CHECK_EQ(harness_result(h, 4), 4);
        /* The receive came after the first poll and took what there was: both are right. */
        MUST(write(fds[1], "more", 4) == 4);
        CHECK_EQ(harness_result(h, 1), LIO_POLL_READ);
        CHECK_EQ(harness_result(h, 5), LIO_POLL_READ);
        CHECK(!harness_is_done(h, 6));
        close(fds[1]); /* a hang-up wakes writers as well */
        CHECK_EQ(harness_result(h, 6), LIO_POLL_WRITE);
        close(fds[0]);
        harness_close(h);
    }
}

static void test_poll_of_what_cannot_be_polled(void)
{
    harness *h = open_poller();
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    MUST(file >= 0);
    CHECK_EQ(lio_adopt(h->b, file), 0);
    push_poll(h, 1, file, LIO_POLL_READ);
    CHECK_EQ(harness_result(h, 1), -EPERM);
    close(file);
    push_poll(h, 2, file, LIO_POLL_READ);
    CHECK_EQ(harness_result(h, 2), -EBADF);
    push_recv(h, 3, file, 10);
    CHECK_EQ(harness_result(h, 3), -EBADF);
    push(h, 4, (lio_op){.opcode = LIO_CLOSE, .fd = file});
    CHECK_EQ(harness_result(h, 4), -EBADF);
    harness_close(h);
}

/* -- order ------------------------------------------------------------------------- */

static void test_parked_sends_keep_their_order(void)
{
    for (int adopted = 0; adopted < 2; adopted++) {
        harness *h = open_poller();
        int fds[2];
        static char blocks[4][100000];
        make_pair(fds);
        if (adopted)
            CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
        size_t before = stuff(fds[0]);
        for (int i = 0; i < 4; i++) {
            memset(blocks[i], 'a' + i, sizeof blocks[i]);
            push(h, (uint64_t)i,
                 (lio_op){.opcode = LIO_SEND,
                          .op_flags = LIO_OP_ALL,
                          .fd = fds[0],
                          .buf = blocks[i],
                          .len = sizeof blocks[i]});
        }
        CHECK_EQ(harness_wait(h, 0), 0);
        uint64_t syscalls = harness_syscalls(h);
        CHECK_EQ(harness_wait(h, 20 * MS), 0);
        CHECK(harness_syscalls(h) - syscalls < 5); /* no spinning */
        CHECK_EQ(drink(fds[1], before), before);
        char bytes[1000];
        size_t total = 0;
        bool ordered = true;
        int64_t until = check_now() + 5 * SECOND;
        while (total < sizeof blocks && check_now() < until) {
            harness_wait(h, 0);
            ssize_t count = recv(fds[1], bytes, sizeof bytes, MSG_DONTWAIT);
            for (ssize_t i = 0; i < count; i++)
                ordered =
                    ordered && bytes[i] == 'a' + (int)((total + (size_t)i) / sizeof blocks[0]);
            total += count > 0 ? (size_t)count : 0;
        }
        CHECK_EQ(total, sizeof blocks);
        CHECK(ordered);
        for (uint64_t i = 0; i < 4; i++) {
            CHECK_EQ(harness_result(h, i), sizeof blocks[0]);
            CHECK_EQ(h->of[i].order, (int)i + 1);
        }
        close(fds[0]);
        close(fds[1]);
        harness_close(h);
    }
}

static void test_parked_receives_keep_their_order(void)
{
    harness *h = open_poller();
    int fds[2];
    make_pair(fds);
    for (uint64_t id = 1; id <= 3; id++)
        push_recv(h, id, fds[0], 1);
    CHECK_EQ(harness_wait(h, 0), 0);
    CHECK_EQ(lio_cancel(h->b, 2), 0);
    MUST(write(fds[1], "xyz", 3) == 3);
    push_recv(h, 4, fds[0], 1); /* would find something, but it is not its turn */
    CHECK_EQ(harness_result(h, 4), 1);
    CHECK_EQ(harness_data(h, 4)[0], 'z');
    CHECK_EQ(harness_result(h, 1), 1);
    CHECK_EQ(harness_data(h, 1)[0], 'x');
    CHECK_EQ(harness_result(h, 3), 1);
    CHECK_EQ(harness_data(h, 3)[0], 'y');
    CHECK_EQ(harness_result(h, 2), -ECANCELED);
    close(fds[0]);
    close(fds[1]);
    harness_close(h);
}

static void test_cancelled_send_tells_what_went(void)
{
    harness *h = open_poller();
    int fds[2];
    size_t size = 50000000;
    char *block = calloc(1, size);
    MUST(block != NULL);
    make_tcp_pair(fds);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    push(h, 1,
         (lio_op){.opcode = LIO_SEND,
                  .op_flags = LIO_OP_ALL,
                  .fd = fds[0],
                  .buf = block,
                  .len = size});
    CHECK_EQ(harness_wait(h, 0), 0);
    CHECK_EQ(lio_cancel(h->b, 1), 0);
    CHECK_EQ(harness_wait(h, 0), 1); /* at once */
    CHECK(h->of[1].result > 0 && h->of[1].result < (int64_t)size);
    CHECK_EQ(drink(fds[1], (size_t)h->of[1].result), h->of[1].result);
    free(block);
    close(fds[0]);
    close(fds[1]);
    harness_close(h);
}

/* A socket that always has something must not keep the loop from looking at the others. */
static void test_nobody_starves(void)
{
    harness *h = open_poller();
    int busy[2], quiet[2];
    make_pair(busy);
    make_pair(quiet);
    CHECK_EQ(lio_adopt(h->b, busy[0]), 1);
    CHECK_EQ(lio_adopt(h->b, quiet[0]), 1);
    push_recv(h, 2, quiet[0], 10);
    CHECK_EQ(harness_wait(h, 0), 0);
    MUST(write(quiet[1], "me!", 3) == 3);
    int rounds = 0;
    while (!harness_is_done(h, 2) && rounds < 20) {
        MUST(write(busy[1], "x", 1) == 1);
        push_recv(h, 1, busy[0], 10);
        CHECK(harness_wait(h, 0) >= 1);
        rounds++;
    }
    CHECK(harness_is_done(h, 2));
    CHECK(rounds <= 3);
    close(busy[0]);
    close(busy[1]);
    close(quiet[0]);
    close(quiet[1]);
    harness_close(h);
}

/* A local datagram socket whose receiver is full is "writable" all the same. */
static void test_full_receiver_of_datagrams(void)
{
    for (int mode = 0; mode < 4; mode++) {
        bool adopted = mode & 1, connected = mode & 2;
        harness *h = open_poller();
        struct sockaddr_un addr = {.sun_family = AF_UNIX};
        int receiver = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        int sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        MUST(receiver >= 0 && sender >= 0);
        memcpy(addr.sun_path, "\0trio-lio-test-poller", 21);
        MUST(bind(receiver, (struct sockaddr *)&addr, sizeof addr) == 0);
        if (adopted)
            CHECK_EQ(lio_adopt(h->b, sender), 1);
        while (sendto(sender, "x", 1, 0, (struct sockaddr *)&addr, sizeof addr) == 1)
            continue;
        MUST(errno == EAGAIN);
        if (connected) {
            MUST(connect(sender, (struct sockaddr *)&addr, sizeof addr) == 0);
            push_send(h, 1, sender, "last", 4);
        } else {
            push(h, 1,
                 (lio_op){.opcode = LIO_SENDTO,
                          .fd = sender,
                          .buf = "last",
                          .len = 4,
                          .addr = &addr,
                          .addr_len = sizeof addr});
        }
        uint64_t before = harness_syscalls(h);
        CHECK_EQ(harness_wait(h, 30 * MS), 0);
        CHECK(harness_syscalls(h) - before < 200); /* no spinning */
        char bytes[8];
        while (recv(receiver, bytes, sizeof bytes, 0) > 0)
            continue;
        CHECK_EQ(harness_result(h, 1), 4);
        close(receiver);
        close(sender);
        harness_close(h);
    }
}

/* -- connections ------------------------------------------------------------------- */

static void test_accept_and_connect(void)
{
    for (int mode = 0; mode < 4; mode++) { /* adopted or not, non-blocking or not */
        harness *h = open_poller();
        struct sockaddr_in addr;
        int listener = make_listener(&addr);
        int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        MUST(client >= 0);
        set_blocking(client, mode & 2);
        set_blocking(listener, mode & 2);
        if (mode & 1) {
            CHECK_EQ(lio_adopt(h->b, listener), 1);
            CHECK_EQ(lio_adopt(h->b, client), 1);
        }
        push(h, 1, (lio_op){.opcode = LIO_ACCEPT, .fd = listener});
        CHECK_EQ(harness_wait(h, 0), 0);
        push(h, 2,
             (lio_op){
                 .opcode = LIO_CONNECT, .fd = client, .addr = &addr, .addr_len = sizeof addr});
        int64_t accepted = harness_result(h, 1);
        CHECK(accepted >= 0);
        CHECK_EQ(harness_msg(h, 1)->addr_len, sizeof addr);
        CHECK(fcntl((int)accepted, F_GETFL) & O_NONBLOCK);
        CHECK(fcntl((int)accepted, F_GETFD) & FD_CLOEXEC);
        CHECK_EQ(harness_result(h, 2), 0);
        CHECK_EQ((fcntl(client, F_GETFL) & O_NONBLOCK) == 0, (mode & 2) != 0);
        MUST(send((int)accepted, "hi", 2, 0) == 2);
        close((int)accepted);
        push_recv(h, 3, client, 10);
        CHECK_EQ(harness_result(h, 3), 2);
        push_recv(h, 4, client, 10);
        CHECK_EQ(harness_result(h, 4), 0);
        close(listener);
        /* Nobody listens there any more. */
        int late = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        MUST(late >= 0);
        if (mode & 1)
            CHECK_EQ(lio_adopt(h->b, late), 1);
        push(h, 5,
             (lio_op){
                 .opcode = LIO_CONNECT, .fd = late, .addr = &addr, .addr_len = sizeof addr});
        CHECK_EQ(harness_result(h, 5), -ECONNREFUSED);
        close(late);
        close(client);
        harness_close(h);
    }
}

/* An accepted socket that nobody took is closed with the backend. */
static void test_close_discards_what_was_accepted(void)
{
    harness *h = open_poller();
    struct sockaddr_in addr;
    int listener = make_listener(&addr);
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(client >= 0 && connect(client, (struct sockaddr *)&addr, sizeof addr) == 0);
    push(h, 1, (lio_op){.opcode = LIO_ACCEPT, .fd = listener});
    CHECK_EQ(lio_flush(h->b), 1);
    harness_close(h);
    char byte;
    struct pollfd pfd = {.fd = client, .events = POLLIN};
    CHECK_EQ(poll(&pfd, 1, 1000), 1);
    CHECK(recv(client, &byte, 1, MSG_DONTWAIT) <= 0);
    close(client);
    close(listener);
}

static void test_unheard_connection_kills_nobody(void)
{
    harness *h = open_poller();
    int fds[2], ends[2];
    make_pair(fds);
    MUST(pipe2(ends, O_CLOEXEC) == 0);
    close(fds[1]);
    close(ends[0]);
    push_send(h, 1, fds[0], "x", 1);
    push(h, 2, (lio_op){.opcode = LIO_WRITE, .fd = ends[1], .buf = "x", .len = 1});
    CHECK_EQ(harness_result(h, 1), -EPIPE);
    CHECK_EQ(harness_result(h, 2), -EPIPE);
    close(fds[0]);
    close(ends[1]);
    harness_close(h);
}

/* -- descriptors in blocking mode -------------------------------------------------- */

/* Nothing that is pushed on them may take longer than the wait was told to. */
static void test_blocking_mode_never_blocks_the_loop(void)
{
    harness *h = open_poller();
    int fds[2], ends[2], full[2], listener;
    struct sockaddr_in addr;
    static char block[1 << 20];
    char byte;
    make_pair(fds);
    listener = make_listener(&addr);
    MUST(pipe2(ends, O_CLOEXEC) == 0);
    MUST(pipe2(full, O_CLOEXEC) == 0);
    set_blocking(fds[0], true);
    set_blocking(listener, true);
    push_recv(h, 1, fds[0], 100);
    push(h, 2, (lio_op){.opcode = LIO_ACCEPT, .fd = listener});
    push(h, 3, (lio_op){.opcode = LIO_READ, .fd = ends[0], .buf = &byte, .len = 1});
    push(h, 4, (lio_op){.opcode = LIO_WRITE, .fd = full[1], .buf = block, .len = sizeof block});
    push(h, 5, (lio_op){.opcode = LIO_WRITE, .fd = full[1], .buf = block, .len = sizeof block});
    push(h, 6, (lio_op){.opcode = LIO_SEND, .fd = fds[0], .buf = block, .len = sizeof block});
    int64_t before = check_now();
    CHECK(harness_result(h, 4) > 0);
    CHECK(harness_result(h, 6) > 0);
    harness_wait(h, 20 * MS);
    CHECK(check_now() - before < 1 * SECOND);
    CHECK(!harness_is_done(h, 1) && !harness_is_done(h, 2) && !harness_is_done(h, 3));
    MUST(write(ends[1], "!", 1) == 1);
    CHECK_EQ(harness_result(h, 3), 1);
    CHECK_EQ(byte, '!');
    MUST(write(fds[1], "ok", 2) == 2);
    CHECK_EQ(harness_result(h, 1), 2);
    while (!harness_is_done(h, 5)) {
        char sink[4096];
        MUST(read(full[0], sink, sizeof sink) > 0);
        harness_wait(h, 0);
    }
    CHECK(h->of[5].result > 0);
    for (int i = 0; i < 2; i++) {
        close(fds[i]);
        close(ends[i]);
        close(full[i]);
    }
    close(listener);
    harness_close(h);
}

static void test_terminal(void)
{
    harness *h = open_poller();
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    MUST(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    int terminal = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    MUST(terminal >= 0);
    static char block[200000], bytes[64];
    push(h, 1, (lio_op){.opcode = LIO_READ, .fd = terminal, .buf = bytes, .len = 64});
    CHECK_EQ(harness_wait(h, 0), 0);
    MUST(write(master, "line\n", 5) == 5);
    CHECK_EQ(harness_result(h, 1), 5);
    memset(block, 'x', sizeof block);
    int64_t before = check_now();
    bool stuck = false;
    for (int i = 0; i < 20000 && !stuck; i++) { /* nobody reads: it has to get stuck */
        push(h, 2,
             (lio_op){.opcode = LIO_WRITE, .fd = terminal, .buf = block, .len = sizeof block});
        stuck = harness_wait(h, 20 * MS) == 0;
    }
    CHECK(stuck);
    CHECK(check_now() - before < 4 * SECOND);
    CHECK_EQ(lio_cancel(h->b, 2), 0);
    CHECK_EQ(harness_result(h, 2), -ECANCELED);
    close(terminal);
    close(master);
    harness_close(h);
}

static const check_test tests[] = {
    TEST(test_received_bytes_stay_until_next_wait),
    TEST(test_full_arena),
    TEST(test_recvfrom_brings_address),
    TEST(test_end_after_short_read),
    TEST(test_short_read_saves_a_call),
    TEST(test_urgent_byte_does_not_hide_data),
    TEST(test_sent_descriptor_does_not_hide_data),
    TEST(test_close_discards_received_rights),
    TEST(test_peek_leaves_readiness),
    TEST(test_polls),
    TEST(test_poll_of_what_cannot_be_polled),
    TEST(test_parked_sends_keep_their_order),
    TEST(test_parked_receives_keep_their_order),
    TEST(test_cancelled_send_tells_what_went),
    TEST(test_nobody_starves),
    TEST(test_full_receiver_of_datagrams),
    TEST(test_accept_and_connect),
    TEST(test_close_discards_what_was_accepted),
    TEST(test_unheard_connection_kills_nobody),
    TEST(test_blocking_mode_never_blocks_the_loop),
    TEST(test_terminal),
};

int main(int argc, char **argv)
{
    return check_run(tests, sizeof tests / sizeof *tests, argc, argv);
}
