/* Every operation with a success and an error; ids, room, refusals; who may call, and when. */
#include <pthread.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "contract.h"

static bool succeeded[LIO_OPCODE_COUNT], refused[LIO_OPCODE_COUNT], missing[LIO_OPCODE_COUNT];

static int64_t good(harness *h, lio_op op)
{
    int64_t result = perform(h, op);
    missing[op.opcode] = result == -ENOTSUP;
    if (!missing[op.opcode]) {
        CHECK(result >= 0 || (op.opcode == LIO_TIMEOUT && result == -ETIME));
        if (result < 0 && op.opcode != LIO_TIMEOUT)
            printf("    operation %d: %s\n", op.opcode, strerror((int)-result));
    }
    succeeded[op.opcode] = true;
    return result;
}

static void bad(harness *h, lio_op op, int error)
{
    int64_t result = perform(h, op);
    if (!missing[op.opcode] && result != -error)
        printf("    operation %d\n", op.opcode);
    if (!missing[op.opcode])
        CHECK_EQ(result, -error);
    refused[op.opcode] = true;
}

static void try_files(harness *h, int folder)
{
    char bytes[64] = "";
    struct stat st;
    int64_t fd = good(h, (lio_op){.opcode = LIO_OPENAT,
                                  .fd = folder,
                                  .path = "one",
                                  .flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC,
                                  .mode = 0640});
    MUST(fd >= 0);
    CHECK(fstat((int)fd, &st) == 0 && (st.st_mode & 0777) == 0640);
    bad(h, (lio_op){.opcode = LIO_OPENAT, .fd = folder, .path = "none"}, ENOENT);
    bad(h, (lio_op){.opcode = LIO_OPENAT, .fd = folder, .path = ""}, ENOENT);
    int read_only = openat(folder, "one", O_RDONLY | O_CLOEXEC);
    MUST(read_only >= 0);

    lio_op op = {.opcode = LIO_WRITE, .fd = fd, .buf = "0123456789", .len = 10};
    CHECK_EQ(good(h, op), 10);
    op.fd = read_only;
    bad(h, op, EBADF);
    op = (lio_op){.opcode = LIO_WRITE_AT, .fd = fd, .buf = "abc", .len = 3, .offset = 8};
    CHECK_EQ(good(h, op), 3);
    op.fd = read_only;
    bad(h, op, EBADF);
    op = (lio_op){.opcode = LIO_READ_AT, .fd = fd, .buf = bytes, .len = 64, .offset = 2};
    CHECK_EQ(good(h, op), 9);
    CHECK(memcmp(bytes, "234567abc", 9) == 0);
    op.offset = 1000;
    CHECK_EQ(good(h, op), 0);
    op.fd = folder;
    bad(h, op, EISDIR);
    op = (lio_op){.opcode = LIO_READ, .fd = read_only, .buf = bytes, .len = 4};
    CHECK_EQ(good(h, op), 4);
    CHECK_EQ(good(h, op), 4);
    CHECK(memcmp(bytes, "4567", 4) == 0);
    op.fd = folder;
    bad(h, op, EISDIR);
    lio_iovec parts[2] = {{bytes, 2}, {bytes + 10, 3}};
    op = (lio_op){.opcode = LIO_READV_AT, .fd = fd, .buf = parts, .len = 2, .offset = 1};
    CHECK_EQ(good(h, op), 5);
    CHECK(memcmp(bytes, "12", 2) == 0 && memcmp(bytes + 10, "345", 3) == 0);
    op.fd = folder;
    bad(h, op, EISDIR);
    op = (lio_op){.opcode = LIO_WRITEV_AT, .fd = fd, .buf = parts, .len = 2, .offset = 20};
    CHECK_EQ(good(h, op), 5);
    op.fd = read_only;
    bad(h, op, EBADF);
    good(h, (lio_op){.opcode = LIO_FSYNC, .fd = fd});
    good(h, (lio_op){.opcode = LIO_FDATASYNC, .fd = fd});
    int ends[2];
    MUST(pipe2(ends, O_CLOEXEC) == 0);
    bad(h, (lio_op){.opcode = LIO_FSYNC, .fd = ends[0]}, EINVAL);
    bad(h, (lio_op){.opcode = LIO_FDATASYNC, .fd = ends[0]}, EINVAL);
    close_pair(ends);
    if (good(h, (lio_op){.opcode = LIO_TRUNCATE, .fd = fd, .offset = 7}) == 0)
        CHECK(fstat((int)fd, &st) == 0 && st.st_size == 7);
    bad(h, (lio_op){.opcode = LIO_TRUNCATE, .fd = read_only, .offset = 7}, EINVAL);
    CHECK_EQ(good(h, (lio_op){.opcode = LIO_CLOSE, .fd = fd}), 0);
    CHECK(fcntl((int)fd, F_GETFD) < 0);
    bad(h, (lio_op){.opcode = LIO_CLOSE, .fd = fd}, EBADF);
    close(read_only);
}

static void try_paths(harness *h, int folder)
{
    struct statx stx;
    lio_op op = {.opcode = LIO_STATX,
                 .fd = folder,
                 .path = "one",
                 .mode = STATX_BASIC_STATS,
                 .buf = &stx};
    CHECK_EQ(good(h, op), 0);
    CHECK(S_ISREG(stx.stx_mode));
    op.path = "none";
    bad(h, op, ENOENT);
    op = (lio_op){
        .opcode = LIO_LINKAT, .fd = folder, .path = "one", .fd2 = folder, .path2 = "two"};
    CHECK_EQ(good(h, op), 0);
    bad(h, op, EEXIST);
    op = (lio_op){.opcode = LIO_SYMLINKAT, .fd = folder, .path = "one", .path2 = "soft"};
    CHECK_EQ(good(h, op), 0);
    bad(h, op, EEXIST);
    op = (lio_op){
        .opcode = LIO_RENAMEAT, .fd = folder, .path = "two", .fd2 = folder, .path2 = "three"};
    CHECK_EQ(good(h, op), 0);
    bad(h, op, ENOENT);
    op = (lio_op){.opcode = LIO_MKDIRAT, .fd = folder, .path = "below", .mode = 0700};
    CHECK_EQ(good(h, op), 0);
    bad(h, op, EEXIST);
    op = (lio_op){.opcode = LIO_UNLINKAT, .fd = folder, .path = "below", .flags = AT_REMOVEDIR};
    CHECK_EQ(good(h, op), 0);
    bad(h, op, ENOENT);
    static const char *const left[] = {"one", "three", "soft"};
    for (int i = 0; i < 3; i++) {
        op = (lio_op){.opcode = LIO_UNLINKAT, .fd = folder, .path = left[i]};
        CHECK_EQ(good(h, op), 0);
    }
}

static void try_connections(harness *h)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof addr;
    char bytes[16];
    lio_op make = {.opcode = LIO_SOCKET,
                   .fd = AF_INET,
                   .flags = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                   .offset = IPPROTO_TCP};
    int64_t listener = good(h, make), client = good(h, make), idle = good(h, make);
    MUST(listener >= 0 && client >= 0 && idle >= 0);
    CHECK(fcntl((int)client, F_GETFL) & O_NONBLOCK && fcntl((int)client, F_GETFD) & FD_CLOEXEC);
    bad(h, (lio_op){.opcode = LIO_SOCKET, .fd = 12345, .flags = SOCK_STREAM}, EAFNOSUPPORT);
    lio_op op = {.opcode = LIO_BIND, .fd = listener, .addr = &addr, .addr_len = sizeof addr};
    CHECK_EQ(good(h, op), 0);
    bad(h, op, EINVAL);
    MUST(getsockname((int)listener, (struct sockaddr *)&addr, &length) == 0);
    bad(h, (lio_op){.opcode = LIO_ACCEPT, .fd = idle}, EINVAL);
    bad(h, (lio_op){.opcode = LIO_RECV, .fd = idle, .len = 10}, ENOTCONN);
    bad(h, (lio_op){.opcode = LIO_SEND, .fd = idle, .buf = "x", .len = 1}, EPIPE);
    bad(h, (lio_op){.opcode = LIO_SHUTDOWN, .fd = idle, .flags = SHUT_WR}, ENOTCONN);
    close((int)idle);
    idle = good(h, make);
    op = (lio_op){.opcode = LIO_CONNECT, .fd = idle, .addr = &addr, .addr_len = sizeof addr};
    bad(h, op, ECONNREFUSED);
    close((int)idle);
    op.fd = client;
    CHECK_EQ(good(h, (lio_op){.opcode = LIO_LISTEN, .fd = listener, .len = 16}), 0);

    push(h, 1, (lio_op){.opcode = LIO_ACCEPT, .fd = listener});
    still_waits(h, 1);
    CHECK_EQ(good(h, op), 0);
    int64_t server = harness_result(h, 1);
    MUST(server >= 0);
    succeeded[LIO_ACCEPT] = true;
    CHECK(fcntl((int)server, F_GETFL) & O_NONBLOCK && fcntl((int)server, F_GETFD) & FD_CLOEXEC);
    struct sockaddr_in from;
    MUST(getsockname((int)client, (struct sockaddr *)&from, &length) == 0);
    CHECK_EQ(harness_msg(h, 1)->addr_len, sizeof from);
    CHECK(memcmp(harness_msg(h, 1)->addr, &from, sizeof from) == 0);
    int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
    bad(h, (lio_op){.opcode = LIO_LISTEN, .fd = file, .len = 16}, ENOTSOCK);
    close(file);

    CHECK_EQ(good(h, (lio_op){.opcode = LIO_SEND, .fd = client, .buf = "hello", .len = 5}), 5);
    CHECK_EQ(good(h, (lio_op){.opcode = LIO_RECV, .fd = server, .len = 3}), 3);
    CHECK(memcmp(harness_data(h, HARNESS_IDS - 1), "hel", 3) == 0);
    CHECK_EQ(good(h, (lio_op){.opcode = LIO_RECV, .fd = server, .buf = bytes, .len = 16}), 2);
    CHECK(memcmp(bytes, "lo", 2) == 0 && h->of[HARNESS_IDS - 1].data == -1);
    CHECK_EQ(good(h, (lio_op){.opcode = LIO_SHUTDOWN, .fd = client, .flags = SHUT_WR}), 0);
    CHECK_EQ(good(h, (lio_op){.opcode = LIO_RECV, .fd = server, .len = 3}), 0);
    CHECK_EQ(good(h, (lio_op){.opcode = LIO_POLL, .fd = server, .flags = LIO_POLL_READ}),
             LIO_POLL_READ);
    CHECK_EQ(good(h, (lio_op){.opcode = LIO_POLL, .fd = server, .flags = 3}), 3);
    close((int)server);
    bad(h, (lio_op){.opcode = LIO_POLL, .fd = server, .flags = LIO_POLL_READ}, EBADF);
    close((int)client);
    close((int)listener);
}

static void try_messages(harness *h)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof to;
    int one = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int two = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    MUST(one >= 0 && two >= 0 && bind(one, (struct sockaddr *)&to, sizeof to) == 0);
    MUST(getsockname(one, (struct sockaddr *)&to, &length) == 0);
    char head[2], rest[4], control[64];
    lio_iovec out[2] = {{"ab", 2}, {"cdef", 4}}, in[2] = {{head, 2}, {rest, 4}};
    lio_op from = {.opcode = LIO_RECVFROM, .fd = one, .len = 100};
    lio_op sendto_op = {.opcode = LIO_SENDTO,
                        .fd = two,
                        .buf = "datagram",
                        .len = 8,
                        .addr = &to,
                        .addr_len = sizeof to};
    CHECK_EQ(good(h, sendto_op), 8);
    CHECK_EQ(good(h, from), 8);
    CHECK(memcmp(harness_data(h, HARNESS_IDS - 1), "datagram", 8) == 0);
    CHECK_EQ(harness_msg(h, HARNESS_IDS - 1)->addr_len, sizeof to);
    lio_op sendmsg_op = {.opcode = LIO_SENDMSG,
                         .fd = two,
                         .buf = out,
                         .len = 2,
                         .addr = &to,
                         .addr_len = sizeof to};
    CHECK_EQ(good(h, sendmsg_op), 6);
    lio_op recvmsg_op = {.opcode = LIO_RECVMSG,
                         .fd = one,
                         .buf = in,
                         .len = 2,
                         .control = control,
                         .control_len = sizeof control};
    CHECK_EQ(good(h, recvmsg_op), 6);
    CHECK(memcmp(head, "ab", 2) == 0 && memcmp(rest, "cdef", 4) == 0);
    CHECK_EQ(harness_msg(h, HARNESS_IDS - 1)->control_len, 0);
    CHECK_EQ(good(h, sendmsg_op), 6);
    CHECK_EQ(good(h, (lio_op){.opcode = LIO_RECVMSG, .fd = one, .buf_len = 4}), 4);
    CHECK(memcmp(harness_data(h, HARNESS_IDS - 1), "abcd", 4) == 0);
    CHECK(harness_msg(h, HARNESS_IDS - 1)->flags & MSG_TRUNC);
    /* A datagram without bytes is one. */
    sendto_op.len = 0;
    CHECK_EQ(good(h, sendto_op), 0);
    CHECK_EQ(good(h, from), 0);
    CHECK_EQ(harness_msg(h, HARNESS_IDS - 1)->addr_len, sizeof to);
    int file = open("/dev/null", O_RDWR | O_CLOEXEC);
    sendto_op.fd = sendmsg_op.fd = recvmsg_op.fd = from.fd = file;
    bad(h, sendto_op, ENOTSOCK);
    bad(h, sendmsg_op, ENOTSOCK);
    bad(h, recvmsg_op, ENOTSOCK);
    bad(h, from, ENOTSOCK);
    close(file);
    close(one);
    close(two);
}

static void try_pipes(harness *h)
{
    int from[2], to[2];
    char bytes[16];
    MUST(pipe2(from, O_CLOEXEC | O_NONBLOCK) == 0 && pipe2(to, O_CLOEXEC | O_NONBLOCK) == 0);
    MUST(write(from[1], "pipe", 4) == 4);
    lio_op op = {.opcode = LIO_TEE, .fd = from[0], .fd2 = to[1], .len = 100};
    CHECK_EQ(good(h, op), 4);
    CHECK_EQ(read(to[0], bytes, sizeof bytes), 4);
    op = (lio_op){.opcode = LIO_SPLICE,
                  .fd = from[0],
                  .fd2 = to[1],
                  .len = 100,
                  .offset = -1,
                  .offset2 = -1};
    CHECK_EQ(good(h, op), 4);
    CHECK_EQ(read(to[0], bytes, sizeof bytes), 4);
    op.fd2 = op.fd;
    bad(h, op, EBADF);
    op.opcode = LIO_TEE;
    op.offset = op.offset2 = 0;
    bad(h, op, EBADF);
    close_pair(from);
    close_pair(to);
}

static void test_every_operation(void)
{
    harness *h = contract_open(64);
    int before = count_fds();
    memset(succeeded, 0, sizeof succeeded);
    memset(refused, 0, sizeof refused);
    int folder = open(scratch(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    MUST(folder >= 0);
    CHECK_EQ(good(h, (lio_op){.opcode = LIO_NOP}), 0);
    lio_op nop = {.opcode = LIO_NOP};
    CHECK_EQ(lio_push(h->b, LIO_ID_MAX + 1, &nop), -EINVAL);
    refused[LIO_NOP] = true;
    CHECK_EQ(good(h, (lio_op){.opcode = LIO_TIMEOUT, .offset = 1 * MS}), -ETIME);
    bad(h, (lio_op){.opcode = LIO_TIMEOUT, .offset = -1}, EINVAL);
    try_files(h, folder);
    int one = openat(folder, "one", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    close(one);
    try_paths(h, folder);
    try_connections(h);
    try_messages(h);
    try_pipes(h);
    for (int opcode = 0; opcode < LIO_OPCODE_COUNT; opcode++) {
        if (!succeeded[opcode] || !refused[opcode])
            printf("    operation %d was not tried\n", opcode);
        CHECK(succeeded[opcode] && refused[opcode]);
    }
    close(folder);
    CHECK_EQ(count_fds() - before, 0);
    harness_close(h);
}

/* Whatever the descriptor is, a read or a write of it waits rather than fails. */
static void test_transfers_wait(void)
{
    char bytes[512];
    static char block[65536];
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        harness *h = contract_open(64);
        int pipes[2], pair[2], flags = nonblocking ? O_NONBLOCK : 0;
        MUST(pipe2(pipes, O_CLOEXEC | flags) == 0);
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0),
                        0, pair) == 0);
        int notes = inotify_init1(IN_CLOEXEC | (nonblocking ? IN_NONBLOCK : 0));
        int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | flags);
        MUST(notes >= 0 && master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
        int terminal = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC | flags);
        MUST(terminal >= 0 && inotify_add_watch(notes, scratch(), IN_CREATE) >= 0);
        int readers[] = {pipes[0], pair[0], notes, terminal};
        for (uint64_t i = 0; i < 4; i++)
            push(h, i,
                 (lio_op){
                     .opcode = LIO_READ, .fd = readers[i], .buf = bytes + 100 * i, .len = 100});
        for (uint64_t i = 0; i < 4; i++)
            still_waits(h, i);
        MUST(write(pipes[1], "pipe", 4) == 4 && write(pair[1], "pair", 4) == 4);
        MUST(write(master, "line\n", 5) == 5);
        char path[256];
        snprintf(path, sizeof path, "%s/created", scratch());
        close(open(path, O_CREAT | O_CLOEXEC, 0600));
        CHECK_EQ(harness_result(h, 0), 4);
        CHECK_EQ(harness_result(h, 1), 4);
        CHECK(harness_result(h, 2) > 4);
        CHECK_EQ(harness_result(h, 3), 5);
        CHECK(memcmp(bytes, "pipe", 4) == 0 && memcmp(bytes + 300, "line\n", 5) == 0);
        unlink(path);
        /* And one that can be cancelled. */
        for (uint64_t i = 0; i < 4; i++)
            push(h, i, (lio_op){.opcode = LIO_READ, .fd = readers[i], .buf = bytes, .len = 1});
        still_waits(h, 0);
        for (uint64_t i = 1; i < 4; i++) {
            if (!h->of[i].done) /* the notes have more to tell */
                CHECK(lio_cancel(h->b, i) >= 0);
        }
        CHECK_EQ(lio_cancel(h->b, 0), 0);
        for (uint64_t i = 0; i < 4; i++)
            CHECK(harness_result(h, i) == -ECANCELED || (i == 2 && h->of[i].result > -EINVAL));
        /* Writing: a pipe and a terminal that nobody reads. */
        set_blocking(pipes[1], false);
        while (write(pipes[1], block, sizeof block) > 0)
            continue;
        set_blocking(pipes[1], !nonblocking);
        push(h, 5,
             (lio_op){.opcode = LIO_WRITE, .fd = pipes[1], .buf = block, .len = sizeof block});
        still_waits(h, 5);
        set_blocking(pipes[0], false);
        int64_t until = check_now() + 5 * SECOND;
        while (!h->of[5].done && check_now() < until) {
            while (read(pipes[0], block, sizeof block) > 0)
                continue;
            harness_wait(h, 1 * MS);
        }
        CHECK(harness_result(h, 5) > 0);
        close_pair(pipes);
        close_pair(pair);
        close(notes);
        close(terminal);
        close(master);
        harness_close(h);
    }
}

static void test_dontwait_does_not_wait(void)
{
    harness *h = contract_open(64);
    int fds[2], tcp[2];
    char byte;
    make_pair(fds);
    make_tcp_pair(tcp);
    for (int claimed = 0; claimed < 2; claimed++) {
        lio_op op = {.opcode = LIO_RECV, .fd = fds[0], .len = 1, .flags = MSG_DONTWAIT};
        CHECK_EQ(perform(h, op), -EAGAIN);
        op.opcode = LIO_RECVFROM;
        CHECK_EQ(perform(h, op), -EAGAIN);
        op.buf = &byte;
        CHECK_EQ(perform(h, op), -EAGAIN);
        op.opcode = LIO_RECV;
        CHECK_EQ(perform(h, op), -EAGAIN);
        op = (lio_op){.opcode = LIO_RECV, .fd = fds[0], .len = 1, .flags = MSG_DONTWAIT};
        MUST(write(fds[1], "x", 1) == 1);
        CHECK_EQ(perform(h, op), 1);
        CHECK(memcmp(harness_data(h, HARNESS_IDS - 1), "x", 1) == 0);
        stuff(tcp[0]);
        op = (lio_op){
            .opcode = LIO_SEND, .fd = tcp[0], .buf = "x", .len = 1, .flags = MSG_DONTWAIT};
        CHECK_EQ(perform(h, op), -EAGAIN);
        claim(h, fds[0]);
        claim(h, tcp[0]);
    }
    CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
    CHECK_EQ(lio_close_fd(h->b, tcp[0]), 0);
    close(fds[1]);
    close(tcp[1]);
    harness_close(h);
}

/* -- ids and room ------------------------------------------------------------------ */

static void test_ids_and_room(void)
{
    harness *h = contract_open(8);
    lio_op nop = {.opcode = LIO_NOP}, timer = {.opcode = LIO_TIMEOUT, .offset = 3600 * SECOND};
    CHECK_EQ(lio_push(h->b, 0, &timer), 0);
    CHECK_EQ(lio_push(h->b, 0, &nop), -EEXIST);
    CHECK_EQ(lio_flush(h->b), 1);
    CHECK_EQ(lio_push(h->b, 0, &nop), -EEXIST);
    for (uint64_t id = 1; id < 8; id++)
        CHECK_EQ(lio_push(h->b, id, &nop), 0);
    CHECK_EQ(lio_push(h->b, 8, &nop), -ENOBUFS);
    CHECK_EQ(lio_flush(h->b), 7);
    CHECK_EQ(lio_push(h->b, 8, &nop), -ENOBUFS); /* done or not, they are not handed out */
    for (uint64_t id = 1; id < 8; id++)
        CHECK_EQ(harness_result(h, id), 0);
    CHECK_EQ(lio_push(h->b, LIO_ID_MAX, &timer), 0);
    CHECK_EQ(lio_push(h->b, LIO_ID_MAX, &nop), -EEXIST);
    CHECK_EQ(lio_cancel(h->b, LIO_ID_MAX), 1);
    CHECK_EQ(lio_cancel(h->b, LIO_ID_MAX), -ENOENT);
    CHECK_EQ(lio_cancel(h->b, LIO_ID_WAKE), -ENOENT);
    lio_stats stats = stats_of(h);
    CHECK_EQ(stats.capacity, 8);
    CHECK_EQ(stats.in_flight, 1);
    CHECK_EQ(stats.pushed, 9);
    CHECK_EQ(stats.completed, 7);
    CHECK_EQ(stats.cancelled, 1);
    CHECK_EQ(stats.flushed, 8);
    harness_close(h);
}

static void test_growing_with_operations_in_flight(void)
{
    enum { PAIRS = 8, LIMIT = 3000 };
    harness *h = contract_open(PAIRS);
    int fds[PAIRS][2];
    char bytes[PAIRS];
    uint32_t capacity = PAIRS;
    for (uint64_t i = 0; i < PAIRS; i++) {
        make_pair(fds[i]);
        push(h, i,
             (lio_op){.opcode = LIO_RECVFROM, .fd = fds[i][0], .buf = &bytes[i], .len = 1});
    }
    CHECK_EQ(lio_flush(h->b), PAIRS);
    for (uint64_t id = PAIRS; id < LIMIT; id++) {
        lio_op op = {.opcode = LIO_TIMEOUT, .offset = 3600 * SECOND};
        int error = lio_push(h->b, id, &op);
        if (error == -ENOBUFS) {
            CHECK_EQ(stats_of(h).in_flight, capacity);
            CHECK_EQ(lio_grow(h->b, capacity / 2), 0);
            capacity += capacity / 2;
            CHECK_EQ(stats_of(h).capacity, capacity);
            error = lio_push(h->b, id, &op);
        }
        CHECK_EQ(error, 0);
        if (id % 100 == 0)
            CHECK(lio_flush(h->b) >= 0);
    }
    CHECK_EQ(lio_grow(h->b, 0), 0);
    CHECK_EQ(lio_grow(h->b, UINT32_MAX), -EINVAL);
    for (uint64_t i = 0; i < PAIRS; i++) {
        MUST(write(fds[i][1], &"abcdefgh"[i], 1) == 1);
        CHECK_EQ(harness_result(h, i), 1);
        CHECK_EQ(bytes[i], "abcdefgh"[i]);
    }
    int taken_back = 0;
    for (uint64_t id = PAIRS; id < LIMIT; id++) {
        int answer = lio_cancel(h->b, id);
        taken_back += answer;
        h->of[id].done = answer == 1;
    }
    for (uint64_t id = PAIRS; id < LIMIT; id++)
        harness_result(h, id);
    CHECK_EQ(h->arrived, PAIRS + LIMIT - PAIRS - taken_back);
    CHECK_EQ(stats_of(h).in_flight, 0);
    for (int i = 0; i < PAIRS; i++)
        close_pair(fds[i]);
    harness_close(h);
}

static void test_refusals(void)
{
    harness *h = contract_open(8);
    char byte;
    static const struct {
        lio_op op;
        int error;
    } refusals[] = {
        {{.opcode = LIO_OPCODE_COUNT}, EINVAL},
        {{.opcode = 255}, EINVAL},
        {{.opcode = LIO_RECV, .fd = -1, .len = 1}, EBADF},
        {{.opcode = LIO_RECV, .fd = 0, .len = 0}, EINVAL},
        {{.opcode = LIO_NOP, .op_flags = 8}, EINVAL},
        {{.opcode = LIO_RECV, .fd = 0, .len = 1, .op_flags = LIO_OP_ALL}, EINVAL},
        {{.opcode = LIO_RECV, .fd = 0, .len = 1, .op_flags = LIO_OP_HINT}, EINVAL},
        {{.opcode = LIO_OPENAT, .fd = AT_FDCWD}, EINVAL},
        {{.opcode = LIO_LINKAT, .fd = AT_FDCWD, .path = "x"}, EINVAL},
        {{.opcode = LIO_STATX, .fd = AT_FDCWD, .path = "x"}, EINVAL},
        {{.opcode = LIO_CONNECT, .fd = 0}, EINVAL},
        {{.opcode = LIO_BIND, .fd = 0, .addr = "x", .addr_len = LIO_ADDR_MAX + 1}, EINVAL},
        {{.opcode = LIO_POLL, .fd = 0}, EINVAL},
        {{.opcode = LIO_POLL, .fd = 0, .flags = 4}, EINVAL},
        {{.opcode = LIO_SENDMSG, .fd = 0, .buf = "x", .len = 1025}, EMSGSIZE},
        {{.opcode = LIO_SEND, .fd = 0, .len = 1}, EFAULT},
        {{.opcode = LIO_WRITE, .fd = 0, .len = 1}, EFAULT},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++)
        CHECK_EQ(lio_push(h->b, i, &refusals[i].op), -refusals[i].error);
    CHECK_EQ(lio_push(h->b, 1, NULL), -EINVAL);
#if INTPTR_MAX > INT32_MAX
    lio_op far = {.opcode = LIO_RECV, .fd = (lio_fd)INT32_MAX + 1, .buf = &byte, .len = 1};
    CHECK_EQ(lio_push(h->b, 1, &far), -EBADF);
#endif
    /* Numbers that no file can have. */
    for (lio_fd fd = INT32_MAX; fd > 20000; fd /= 10) {
        lio_op op = {.opcode = LIO_RECV, .fd = fd, .buf = &byte, .len = 1};
        CHECK_EQ(perform(h, op), -EBADF);
        CHECK_EQ(lio_adopt(h->b, fd), -EBADF);
        CHECK_EQ(lio_release_fd(h->b, fd), 0);
        CHECK_EQ(lio_close_fd(h->b, fd), -EBADF);
    }
    CHECK_EQ(lio_release_fd(h->b, -1), -EBADF);
    CHECK_EQ(lio_close_fd(h->b, -1), -EBADF);
    CHECK_EQ(stats_of(h).in_flight, 0);
    harness_close(h);
}

/* -- who, and when ----------------------------------------------------------------- */

/* What every function answers that is not for everybody. */
static void all_answer(lio_backend *b, int error)
{
    const lio_completion *records;
    lio_op nop = {.opcode = LIO_NOP};
    CHECK_EQ(lio_push(b, 1, &nop), error);
    CHECK_EQ(lio_cancel(b, 1), error);
    CHECK_EQ(lio_flush(b), error);
    CHECK_EQ(lio_wait(b, 0, &records), error);
    CHECK_EQ(lio_adopt(b, 0), error);
    CHECK_EQ(lio_release_fd(b, 0), error);
    CHECK_EQ(lio_close_fd(b, 0), error);
    CHECK_EQ(lio_grow(b, 1), error);
}

static void *call_from_elsewhere(void *argument)
{
    lio_stats stats;
    all_answer(argument, -EPERM);
    CHECK_EQ(lio_close(argument), -EPERM);
    CHECK_EQ(lio_wake(argument), 0);
    CHECK_EQ(lio_get_stats(argument, &stats), 0);
    return NULL;
}

static void test_wrong_thread(void)
{
    harness *h = contract_open(8);
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, call_from_elsewhere, h->b) == 0);
    pthread_join(thread, NULL);
    CHECK_EQ(perform(h, (lio_op){.opcode = LIO_NOP}), 0);
    CHECK_EQ(h->wakes, 1);
    harness_close(h);
}

static void test_phases(void)
{
    const lio_options options = {.without = variant->without}, odd = {.without = "magic"};
    lio_backend *b = NULL;
    void *base;
    size_t size;
    CHECK_EQ(lio_create(variant->backend, &odd, &b), -EINVAL);
    CHECK_EQ(lio_create("none", &options, &b), -ENOENT);
    MUST(lio_create(variant->backend, &options, &b) == 0);
    CHECK(strcmp(lio_name(b), variant->backend) == 0);
    all_answer(b, -ENXIO);
    CHECK_EQ(lio_wake(b), -ENXIO);
    CHECK_EQ(lio_wait_ready(b, 0), -ENXIO);
    CHECK_EQ(lio_pool(b, &base, &size), -ENXIO);
    CHECK_EQ(lio_init(b, 0), -EINVAL);
    CHECK_EQ(lio_init(b, UINT32_MAX), -EINVAL);
    CHECK_EQ(lio_init(b, 1), 0);
    CHECK_EQ(lio_init(b, 1), -EALREADY);
    CHECK_EQ(lio_close(b), 0);
    all_answer(b, -ESHUTDOWN);
    CHECK_EQ(lio_init(b, 1), -ESHUTDOWN);
    CHECK_EQ(lio_wake(b), -ESHUTDOWN);
    CHECK_EQ(lio_wait_ready(b, 0), -ESHUTDOWN);
    CHECK_EQ(lio_pool(b, &base, &size), -ESHUTDOWN);
    CHECK_EQ(lio_close(b), 0);
    lio_destroy(b);
    lio_destroy(NULL);
    all_answer(NULL, -EINVAL);
    CHECK_EQ(lio_close(NULL), -EINVAL);
    /* Never opened. */
    MUST(lio_create(variant->backend, &options, &b) == 0);
    lio_destroy(b);
    MUST(lio_create(variant->backend, &options, &b) == 0);
    CHECK_EQ(lio_close(b), 0);
    CHECK_EQ(lio_init(b, 1), -ESHUTDOWN);
    lio_destroy(b);
}

/* The handle stays, what was asked for stays, and what the first one had left is gone. */
static void test_replaced_before_it_begins(void)
{
    const lio_options options = {
        .without = variant->without, .faults = variant->faults, .seed = 7};
    const lio_completion *records;
    const lio_op nop = {.opcode = LIO_NOP};
    int before_fds = count_fds();
    lio_backend *b = NULL, *same = NULL;
    MUST(lio_create("sim", &options, &b) == 0);
    MUST(lio_create(variant->backend, &options, &same) == 0);
    MUST(lio_init(same, 8) == 0);
    CHECK_EQ(lio_replace(b, "none"), -ENOENT);
    CHECK_EQ(lio_replace(b, NULL), -EINVAL);
    CHECK_EQ(lio_replace(NULL, "sim"), -EINVAL);
    CHECK(strcmp(lio_name(b), "sim") == 0);
    CHECK_EQ(lio_replace(b, variant->backend), 0);
    CHECK(strcmp(lio_name(b), variant->backend) == 0);
    CHECK_EQ(lio_init(b, 8), 0);
    CHECK_EQ(lio_capabilities(b), lio_capabilities(same));
    CHECK_EQ(lio_replace(b, "sim"), -EALREADY);
    int done = 0;
    for (uint64_t id = 1; id <= 100; id++) {
        CHECK_EQ(lio_push(b, id, &nop), 0);
        for (int count = 0; count == 0 || records[0].id != id;)
            MUST((count = lio_wait(b, 5 * SECOND, &records)) > 0);
        done++;
    }
    CHECK_EQ(done, 100);
    lio_stats stats;
    CHECK_EQ(lio_get_stats(b, &stats), 0);
    CHECK_EQ(stats.delays != 0, variant->faults != NULL); /* they are over it, too */
    CHECK_EQ(lio_close(b), 0);
    CHECK_EQ(lio_replace(b, "sim"), -ESHUTDOWN);
    lio_destroy(b);
    lio_destroy(same);
    CHECK_EQ(count_fds(), before_fds);
}

#if defined(__linux__)
/* The numbers of a backend that comes late are those that were taken at the beginning. */
static void test_reserved_numbers(void)
{
    const lio_options options = {
        .without = variant->without, .faults = variant->faults, .seed = 7};
    int before_fds = count_fds();
    lio_backend *b = NULL;
    MUST(lio_create(variant->backend, &options, &b) == 0);
    CHECK_EQ(lio_reserve(NULL), -EINVAL);
    if (b->vtable->descriptors == 0) {
        CHECK_EQ(lio_reserve(b), -ENOTSUP);
        lio_destroy(b);
        return;
    }
    CHECK_EQ(lio_reserve(b), 0);
    CHECK_EQ(lio_reserve(b), 0);
    int taken = count_fds();
    CHECK_EQ(taken, before_fds + 1 + b->vtable->descriptors);
    lio_destroy(b); /* was never initialised */
    CHECK_EQ(count_fds(), before_fds);

    int low[4];
    for (int i = 0; i < 4; i++)
        MUST((low[i] = dup(1)) >= 0);
    MUST(lio_create(variant->backend, &options, &b) == 0);
    CHECK_EQ(lio_reserve(b), 0);
    for (int i = 0; i < 4; i++)
        close(low[i]);
    CHECK_EQ(lio_init(b, 8), 0);
    CHECK_EQ(count_fds(), taken);
    for (int i = 0; i < 4; i++)
        CHECK(fcntl(low[i], F_GETFD) < 0);
    CHECK_EQ(lio_reserve(b), -EALREADY);
    const lio_completion *records;
    const lio_op nop = {.opcode = LIO_NOP};
    CHECK_EQ(lio_push(b, 1, &nop), 0);
    CHECK_EQ(lio_wait(b, 5 * SECOND, &records) > 0, 1);
    CHECK_EQ(lio_wake(b), 0);
    CHECK_EQ(lio_wait(b, 5 * SECOND, &records) > 0, 1);
    CHECK_EQ(lio_close(b), 0);
    CHECK_EQ(lio_reserve(b), -ESHUTDOWN);
    lio_destroy(b);
    CHECK_EQ(count_fds(), before_fds);
}
#endif

static void in_child(harness *h, int fd)
{
    int before = check_failures;
    all_answer(h->b, -ECHILD);
    CHECK_EQ(lio_wake(h->b), -ECHILD);
    CHECK_EQ(lio_wait_ready(h->b, 0), -ECHILD);
    CHECK_EQ(lio_close(h->b), 0);
    lio_destroy(h->b);
    /* A backend of its own, on the descriptor that it inherited. */
    harness *own = contract_open(8);
    push_recv(own, 1, fd, 100);
    CHECK_EQ(harness_result(own, 1), 5);
    harness_close(own);
    free(h);
    _exit(check_failures != before);
}

/* Queued, submitted and done operations, registered files, buffers: the child leaves them
 * alone, and the parent goes on as if nothing had been. */
static void test_fork(void)
{
    if (!forks_truly())
        return;
    harness *h = contract_open(64);
    int fds[2], other[2];
    make_pair(fds);
    make_pair(other);
    claim(h, fds[0]);
    push_recv(h, 1, fds[0], 100);
    push_timeout(h, 2, 0);
    push(h, 3, (lio_op){.opcode = LIO_OPENAT, .fd = AT_FDCWD, .path = "/", .flags = O_CLOEXEC});
    CHECK_EQ(lio_flush(h->b), 3);
    push_send(h, 4, fds[0], "queued", 6);
    MUST(write(other[1], "child", 5) == 5);
    fflush(stdout);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0)
        in_child(h, other[0]);
    int status;
    MUST(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
    CHECK_EQ(peer_reads(fds[1]), -EAGAIN); /* what was queued did not go by itself */
    CHECK_EQ(harness_result(h, 2), -ETIME);
    CHECK(harness_result(h, 3) >= 0);
    close((int)h->of[3].result);
    CHECK_EQ(harness_result(h, 4), 6);
    CHECK_EQ(peer_reads(fds[1]), 6);
    MUST(write(fds[1], "still", 5) == 5);
    CHECK_EQ(harness_result(h, 1), 5);
    CHECK(memcmp(harness_data(h, 1), "still", 5) == 0);
    CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
    close(fds[1]);
    close_pair(other);
    harness_close(h);
}

static const check_test tests[] = {
    TEST(test_every_operation),
    TEST(test_transfers_wait),
    TEST(test_dontwait_does_not_wait),
    TEST(test_ids_and_room),
    TEST(test_growing_with_operations_in_flight),
    TEST(test_refusals),
    TEST(test_wrong_thread),
    TEST(test_phases),
    TEST(test_replaced_before_it_begins),
#if defined(__linux__)
    TEST(test_reserved_numbers),
#endif
    TEST(test_fork),
};

int main(int argc, char **argv)
{
    int code = contract_run(tests, sizeof tests / sizeof *tests, argc, argv);
    rmdir(scratch());
    return code;
}
