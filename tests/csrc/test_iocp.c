/* The contract on a completion port: what is particular to it. The conformance suite covers the
 * rest. Windows only; elsewhere there is nothing to test. */
#include "check.h"

#if !defined(_WIN32)
int main(void)
{
    printf("test_iocp_elsewhere\nok: no completion ports here\n");
    return 0;
}
#else

static harness *open_iocp(uint32_t capacity)
{
    return harness_open("iocp", NULL, capacity);
}

static int64_t perform(harness *h, lio_op op)
{
    const uint64_t id = HARNESS_IDS - 1;
    h->of[id].done = false;
    int error = lio_push(h->b, id, &op);
    return error != 0 ? error : harness_result(h, id);
}

static void still_waits(harness *h, uint64_t id)
{
    for (int i = 0; i < 3; i++)
        harness_wait(h, 2 * MS);
    CHECK(!h->of[id].done);
}

static void close_pair(harness *h, SOCKET fds[2])
{
    for (int i = 0; i < 2; i++) {
        if (fds[i] != INVALID_SOCKET)
            CHECK_EQ(lio_close_fd(h->b, (lio_fd)fds[i]), 0);
    }
}

static DWORD handles(void)
{
    DWORD count = 0;
    MUST(GetProcessHandleCount(GetCurrentProcess(), &count));
    return count;
}

static void test_nop_and_timeout(void)
{
    harness *h = open_iocp(8);
    CHECK_EQ(perform(h, (lio_op){.opcode = LIO_NOP}), 0);
    int64_t before = check_now();
    CHECK_EQ(perform(h, (lio_op){.opcode = LIO_TIMEOUT, .offset = 30 * MS}), -ETIME);
    CHECK(check_now() - before >= 30 * MS);
    CHECK_EQ(harness_wait(h, 5 * MS), 0);
    harness_close(h);
}

static void test_receive_from_pool(void)
{
    harness *h = open_iocp(8);
    for (int claimed = 0; claimed < 2; claimed++) {
        SOCKET fds[2];
        make_tcp_pair(fds);
        if (claimed)
            CHECK_EQ(lio_adopt(h->b, (lio_fd)fds[0]), 1);
        push_recv(h, 1, (lio_fd)fds[0], 100);
        still_waits(h, 1);
        MUST(send(fds[1], "hello", 5, 0) == 5);
        CHECK_EQ(harness_result(h, 1), 5);
        CHECK(memcmp(harness_data(h, 1), "hello", 5) == 0);
        MUST(send(fds[1], "again", 5, 0) == 5);
        push_recv(h, 1, (lio_fd)fds[0], 3);
        CHECK_EQ(harness_result(h, 1), 3);
        push_recv(h, 1, (lio_fd)fds[0], 3);
        CHECK_EQ(harness_result(h, 1), 2);
        closesocket(fds[1]);
        fds[1] = INVALID_SOCKET;
        push_recv(h, 1, (lio_fd)fds[0], 3);
        CHECK_EQ(harness_result(h, 1), 0);
        close_pair(h, fds);
    }
    harness_close(h);
}

/* Asked for nothing, no datagram must go. */
static void test_datagrams_are_not_cut(void)
{
    harness *h = open_iocp(8);
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int length = sizeof addr;
    SOCKET fds[2];
    for (int i = 0; i < 2; i++) {
        fds[i] = WSASocketW(AF_INET, SOCK_DGRAM, IPPROTO_UDP, NULL, 0, WSA_FLAG_OVERLAPPED);
        MUST(fds[i] != INVALID_SOCKET);
        addr.sin_port = 0;
        MUST(bind(fds[i], (struct sockaddr *)&addr, sizeof addr) == 0);
        set_nonblocking(fds[i]);
    }
    MUST(getsockname(fds[0], (struct sockaddr *)&addr, &length) == 0);
    CHECK_EQ(lio_adopt(h->b, (lio_fd)fds[0]), 1);
    for (int early = 0; early < 2; early++) {
        lio_op op = {.opcode = LIO_RECVFROM, .fd = (lio_fd)fds[0], .len = 1000};
        if (!early) {
            push(h, 1, op);
            still_waits(h, 1);
        }
        MUST(sendto(fds[1], "one", 3, 0, (struct sockaddr *)&addr, sizeof addr) == 3);
        if (early)
            push(h, 1, op);
        CHECK_EQ(harness_result(h, 1), 3);
        CHECK(memcmp(harness_data(h, 1), "one", 3) == 0);
        CHECK_EQ(harness_msg(h, 1)->addr_len, sizeof addr);
    }
    close_pair(h, fds);
    harness_close(h);
}

/* A receive that is cut ends at once with a warning, and sends a packet all the same. */
static void test_packet_of_a_warning_ends_nothing_else(void)
{
    harness *h = open_iocp(1); /* the next operation has the same slot */
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int length = sizeof addr;
    char byte;
    SOCKET fd = WSASocketW(AF_INET, SOCK_DGRAM, IPPROTO_UDP, NULL, 0, WSA_FLAG_OVERLAPPED);
    MUST(fd != INVALID_SOCKET);
    MUST(bind(fd, (struct sockaddr *)&addr, sizeof addr) == 0);
    MUST(getsockname(fd, (struct sockaddr *)&addr, &length) == 0);
    lio_op op = {.opcode = LIO_RECV, .fd = (lio_fd)fd, .buf = &byte, .len = 1};
    for (int claimed = 0; claimed < 2; claimed++) {
        MUST(sendto(fd, "long", 4, 0, (struct sockaddr *)&addr, sizeof addr) == 4);
        CHECK_EQ(perform(h, op), -EMSGSIZE);
        push(h, 1, op);
        still_waits(h, 1);
        MUST(sendto(fd, "x", 1, 0, (struct sockaddr *)&addr, sizeof addr) == 1);
        CHECK_EQ(harness_result(h, 1), 1);
        CHECK_EQ(lio_adopt(h->b, (lio_fd)fd), 1);
    }
    CHECK_EQ(lio_close_fd(h->b, (lio_fd)fd), 0);
    harness_close(h);
}

static void test_cancelled_receive_loses_no_byte(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    make_tcp_pair(fds);
    CHECK_EQ(lio_adopt(h->b, (lio_fd)fds[0]), 1);
    int64_t sent = 0, received = 0;
    for (int round = 0; round < 300; round++) {
        push_recv(h, 1, (lio_fd)fds[0], 100);
        if (round % 3 == 0)
            lio_flush(h->b);
        else
            harness_wait(h, 0);
        if (round % 2 == 0) {
            MUST(send(fds[1], "x", 1, 0) == 1);
            sent++;
        }
        if (!harness_is_done(h, 1))
            CHECK_EQ(lio_cancel(h->b, 1), 0);
        int64_t result = harness_result(h, 1);
        CHECK(result > 0 || result == -ECANCELED);
        received += result > 0 ? result : 0;
    }
    char bytes[400];
    int rest = recv(fds[0], bytes, sizeof bytes, 0);
    received += rest > 0 ? rest : 0;
    CHECK_EQ(received, sent);
    close_pair(h, fds);
    harness_close(h);
}

static void test_accept_and_connect(void)
{
    harness *h = open_iocp(8);
    struct sockaddr_in addr;
    SOCKET listener = make_listener(&addr);
    lio_op make = {.opcode = LIO_SOCKET, .fd = AF_INET, .flags = SOCK_STREAM};
    int64_t client = perform(h, make);
    MUST(client >= 0);
    push(h, 1, (lio_op){.opcode = LIO_ACCEPT, .fd = (lio_fd)listener});
    still_waits(h, 1);
    lio_op connect_op = {
        .opcode = LIO_CONNECT, .fd = client, .addr = &addr, .addr_len = sizeof addr};
    CHECK_EQ(perform(h, connect_op), 0);
    int64_t server = harness_result(h, 1);
    MUST(server >= 0);
    struct sockaddr_in from = {0};
    int length = sizeof from;
    MUST(getsockname((SOCKET)client, (struct sockaddr *)&from, &length) == 0);
    CHECK_EQ(harness_msg(h, 1)->addr_len, sizeof from);
    CHECK(memcmp(harness_msg(h, 1)->addr, &from, 8) == 0);
    lio_op send_op = {.opcode = LIO_SEND, .fd = client, .buf = (void *)"hello", .len = 5};
    CHECK_EQ(perform(h, send_op), 5);
    CHECK_EQ(perform(h, (lio_op){.opcode = LIO_RECV, .fd = server, .len = 9}), 5);
    CHECK_EQ(lio_close_fd(h->b, client), 0);
    CHECK_EQ(perform(h, (lio_op){.opcode = LIO_RECV, .fd = server, .len = 9}), 0);
    CHECK_EQ(lio_close_fd(h->b, server), 0);
    push(h, 1, (lio_op){.opcode = LIO_ACCEPT, .fd = (lio_fd)listener});
    still_waits(h, 1);
    CHECK_EQ(lio_cancel(h->b, 1), 0);
    CHECK_EQ(harness_result(h, 1), -ECANCELED);
    CHECK_EQ(lio_close_fd(h->b, (lio_fd)listener), 0);
    client = perform(h, make);
    connect_op.fd = client;
    CHECK_EQ(perform(h, connect_op), -ECONNREFUSED);
    CHECK_EQ(h->of[HARNESS_IDS - 1].detail, WSAECONNREFUSED);
    CHECK_EQ(lio_close_fd(h->b, client), 0);
    harness_close(h);
}

static void test_cancelled_accept_that_won_is_not_lost(void)
{
    harness *h = open_iocp(8);
    struct sockaddr_in addr;
    SOCKET listener = make_listener(&addr);
    int taken = 0, made = 0;
    for (int round = 0; round < 40; round++) {
        push(h, 1, (lio_op){.opcode = LIO_ACCEPT, .fd = (lio_fd)listener});
        lio_flush(h->b);
        SOCKET client =
            WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
        MUST(client != INVALID_SOCKET);
        MUST(connect(client, (struct sockaddr *)&addr, sizeof addr) == 0);
        made++;
        lio_cancel(h->b, 1);
        int64_t result = harness_result(h, 1);
        CHECK(result >= 0 || result == -ECANCELED);
        if (result < 0) /* it is still there for the next one */
            result = perform(h, (lio_op){.opcode = LIO_ACCEPT, .fd = (lio_fd)listener});
        CHECK(result >= 0);
        taken += result >= 0;
        closesocket((SOCKET)result);
        closesocket(client);
    }
    CHECK_EQ(taken, made);
    CHECK_EQ(lio_close_fd(h->b, (lio_fd)listener), 0);
    harness_close(h);
}

static void test_send_all_of_much(void)
{
    harness *h = open_iocp(8);
    static char bytes[5000000];
    SOCKET fds[2];
    make_tcp_pair(fds);
    CHECK_EQ(lio_adopt(h->b, (lio_fd)fds[0]), 1);
    push(h, 1,
         (lio_op){.opcode = LIO_SEND,
                  .fd = (lio_fd)fds[0],
                  .buf = bytes,
                  .len = sizeof bytes,
                  .op_flags = LIO_OP_ALL});
    lio_flush(h->b);
    size_t got = 0;
    for (int64_t until = check_now() + 20 * SECOND;
         got < sizeof bytes && check_now() < until;) {
        harness_wait(h, 0);
        char part[65536];
        int count = recv(fds[1], part, sizeof part, 0);
        got += count > 0 ? (size_t)count : 0;
    }
    CHECK_EQ(got, sizeof bytes);
    CHECK_EQ(harness_result(h, 1), sizeof bytes);
    close_pair(h, fds);
    harness_close(h);
}

static void test_plain_send_waits_for_room(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    make_tcp_pair(fds);
    CHECK_EQ(lio_adopt(h->b, (lio_fd)fds[0]), 1);
    size_t inside = stuff(fds[0]);
    push_send(h, 1, (lio_fd)fds[0], "x", 1);
    still_waits(h, 1);
    CHECK_EQ(lio_cancel(h->b, 1), 0);
    CHECK_EQ(harness_result(h, 1), -ECANCELED);
    push_send(h, 1, (lio_fd)fds[0], "x", 1);
    still_waits(h, 1);
    for (size_t got = 0; got < inside && !harness_is_done(h, 1); got += 65536) {
        drink(fds[1], 65536);
        harness_wait(h, 1 * MS);
    }
    CHECK_EQ(harness_result(h, 1), 1);
    close_pair(h, fds);
    harness_close(h);
}

static void test_readiness_of_both_directions_at_once(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    make_tcp_pair(fds);
    push_poll(h, 1, (lio_fd)fds[0], LIO_POLL_READ);
    still_waits(h, 1);
    push_poll(h, 2, (lio_fd)fds[0], LIO_POLL_WRITE);
    CHECK_EQ(harness_result(h, 2), LIO_POLL_WRITE);
    still_waits(h, 1);
    stuff(fds[0]);
    push_poll(h, 2, (lio_fd)fds[0], LIO_POLL_WRITE);
    still_waits(h, 2);
    CHECK_EQ(lio_cancel(h->b, 2), 0);
    CHECK_EQ(harness_result(h, 2), -ECANCELED);
    still_waits(h, 1);
    MUST(send(fds[1], "x", 1, 0) == 1);
    CHECK_EQ(harness_result(h, 1), LIO_POLL_READ);
    push_poll(h, 1, (lio_fd)fds[0], LIO_POLL_READ);
    CHECK_EQ(harness_result(h, 1), LIO_POLL_READ);
    close_pair(h, fds);
    push_poll(h, 1, (lio_fd)fds[0], LIO_POLL_READ);
    CHECK_EQ(harness_result(h, 1), -ENOTSOCK);
    harness_close(h);
}

static void test_close_under_pending_operations(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    make_tcp_pair(fds);
    CHECK_EQ(lio_adopt(h->b, (lio_fd)fds[0]), 1);
    stuff(fds[0]);
    push_recv(h, 1, (lio_fd)fds[0], 10);
    push_recv(h, 2, (lio_fd)fds[0], 10);
    push_poll(h, 3, (lio_fd)fds[0], LIO_POLL_WRITE);
    push(h, 4,
         (lio_op){.opcode = LIO_SEND,
                  .fd = (lio_fd)fds[0],
                  .buf = (void *)"x",
                  .len = 1,
                  .op_flags = LIO_OP_ALL});
    still_waits(h, 1);
    CHECK(!harness_is_done(h, 4));
    CHECK_EQ(lio_close_fd(h->b, (lio_fd)fds[0]), 0);
    fds[0] = INVALID_SOCKET;
    for (uint64_t id = 1; id <= 4; id++)
        CHECK_EQ(harness_result(h, id), -ECANCELED);
    close_pair(h, fds);
    harness_close(h);
}

/* -- numbers closed behind our back, and used again -------------------------------- */

/* Closes a socket as somebody else would, and makes another connection that has its number. */
static SOCKET reuse(SOCKET number)
{
    struct sockaddr_in addr;
    SOCKET others[64], listener = make_listener(&addr), fd = INVALID_SOCKET;
    int count = 0;
    closesocket(number);
    for (; count < 64 && fd != number; count++)
        others[count] = fd =
            WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
    MUST(fd == number);
    MUST(connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0);
    SOCKET peer = accept(listener, NULL, NULL);
    MUST(peer != INVALID_SOCKET);
    set_nonblocking(fd);
    set_nonblocking(peer);
    for (int i = 0; i < count - 1; i++)
        closesocket(others[i]);
    closesocket(listener);
    return peer;
}

/* Whether a stranger has all that was sent to it, and its peer nothing that was not its own. */
static void check_untouched(SOCKET stranger, SOCKET peer)
{
    char bytes[16];
    MUST(send(peer, "mine", 4, 0) == 4);
    CHECK_EQ(drink(stranger, 4), 4);
    CHECK_EQ(recv(peer, bytes, sizeof bytes, 0), SOCKET_ERROR);
    CHECK_EQ(WSAGetLastError(), WSAEWOULDBLOCK);
}

static void test_handle_reused_before_the_flush(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    make_tcp_pair(fds);
    lio_fd fd = (lio_fd)fds[0];
    CHECK_EQ(lio_adopt(h->b, fd), 1);
    push_recv(h, 1, fd, 10);
    push_send(h, 2, fd, "not yours", 9);
    push(h, 3, (lio_op){.opcode = LIO_SHUTDOWN, .fd = fd, .flags = SD_BOTH});
    SOCKET peer = reuse(fds[0]);
    for (uint64_t id = 1; id <= 3; id++)
        CHECK_EQ(harness_result(h, id), -EBADF);
    check_untouched(fds[0], peer);
    CHECK_EQ(lio_close_fd(h->b, fd), -EBADF); /* nor is it ours to close */
    check_untouched(fds[0], peer);
    CHECK_EQ(lio_adopt(h->b, fd), 1);
    push_recv(h, 1, fd, 10);
    MUST(send(peer, "x", 1, 0) == 1);
    CHECK_EQ(harness_result(h, 1), 1);
    CHECK_EQ(lio_close_fd(h->b, fd), 0);
    closesocket(peer);
    closesocket(fds[1]);
    harness_close(h);
}

/* There was something to receive, and the packet that says so is on the port. */
static void test_handle_reused_before_the_second_half_of_a_receive(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    make_tcp_pair(fds);
    lio_fd fd = (lio_fd)fds[0];
    CHECK_EQ(lio_adopt(h->b, fd), 1);
    push_recv(h, 1, fd, 10);
    still_waits(h, 1);
    MUST(send(fds[1], "yours", 5, 0) == 5);
    Sleep(20);
    SOCKET peer = reuse(fds[0]);
    MUST(send(peer, "mine", 4, 0) == 4);
    CHECK_EQ(harness_result(h, 1), -EBADF);
    CHECK_EQ(drink(fds[0], 4), 4);
    CHECK_EQ(lio_release_fd(h->b, fd), 0);
    closesocket(fds[0]);
    closesocket(peer);
    closesocket(fds[1]);
    harness_close(h);
}

static void test_handle_reused_while_operations_wait(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    make_tcp_pair(fds);
    lio_fd fd = (lio_fd)fds[0];
    CHECK_EQ(lio_adopt(h->b, fd), 1);
    stuff(fds[0]);
    push_send(h, 1, fd, "not yours", 9); /* for room */
    push_recv(h, 2, fd, 10);
    push_recv(h, 3, fd, 10); /* its turn */
    push_poll(h, 4, fd, LIO_POLL_READ);
    still_waits(h, 1);
    still_waits(h, 4);
    SOCKET peer = reuse(fds[0]);
    for (uint64_t id = 1; id <= 3; id++)
        CHECK(harness_result(h, id) < 0);
    CHECK_EQ(harness_result(h, 4), LIO_POLL_READ); /* as if woken for no reason */
    check_untouched(fds[0], peer);
    /* Whoever asks for readiness may mean the new one. */
    push_poll(h, 4, fd, LIO_POLL_READ);
    still_waits(h, 4);
    MUST(send(peer, "x", 1, 0) == 1);
    CHECK_EQ(harness_result(h, 4), LIO_POLL_READ);
    CHECK_EQ(lio_release_fd(h->b, fd), 0);
    closesocket(fds[0]);
    closesocket(peer);
    closesocket(fds[1]);
    harness_close(h);
}

/* A cancel names a handle and an OVERLAPPED: what it does not find there it leaves alone. */
static void test_cancel_after_the_handle_was_reused(void)
{
    harness *h = open_iocp(8), *other = open_iocp(8);
    for (int closes = 0; closes < 2; closes++) {
        SOCKET fds[2];
        make_tcp_pair(fds);
        lio_fd fd = (lio_fd)fds[0];
        CHECK_EQ(lio_adopt(h->b, fd), 1);
        push_recv(h, 1, fd, 10);
        still_waits(h, 1);
        SOCKET peer = reuse(fds[0]);
        push_recv(other, 1, fd, 10);
        still_waits(other, 1);
        if (closes)
            CHECK_EQ(lio_close_fd(h->b, fd), -EBADF);
        else
            CHECK_EQ(lio_cancel(h->b, 1), 0);
        CHECK(harness_result(h, 1) < 0);
        still_waits(other, 1);
        MUST(send(peer, "mine", 4, 0) == 4);
        CHECK_EQ(harness_result(other, 1), 4);
        CHECK_EQ(lio_release_fd(h->b, fd), 0);
        CHECK_EQ(lio_close_fd(other->b, fd), 0);
        closesocket(peer);
        closesocket(fds[1]);
    }
    harness_close(h);
    harness_close(other);
}

static void test_adopting_a_number_used_again_ends_what_waited(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    make_tcp_pair(fds);
    lio_fd fd = (lio_fd)fds[0];
    CHECK_EQ(lio_adopt(h->b, fd), 1);
    push_recv(h, 1, fd, 10);
    still_waits(h, 1);
    CHECK_EQ(lio_adopt(h->b, fd), 1); /* the same one: nothing changes */
    still_waits(h, 1);
    SOCKET peer = reuse(fds[0]);
    CHECK_EQ(lio_adopt(h->b, fd), 1);
    CHECK(harness_result(h, 1) < 0);
    push_recv(h, 1, fd, 10);
    still_waits(h, 1);
    MUST(send(peer, "mine", 4, 0) == 4);
    CHECK_EQ(harness_result(h, 1), 4);
    CHECK_EQ(lio_close_fd(h->b, fd), 0);
    closesocket(peer);
    closesocket(fds[1]);
    harness_close(h);
}

/* A socket belongs to the first port that it joined. */
static void test_socket_of_another_port(void)
{
    harness *first = open_iocp(8);
    SOCKET fds[2];
    make_tcp_pair(fds);
    CHECK_EQ(lio_adopt(first->b, (lio_fd)fds[0]), 1);
    CHECK_EQ(
        perform(
            first,
            (lio_op){.opcode = LIO_SEND, .fd = (lio_fd)fds[0], .buf = (void *)"one", .len = 3}),
        3);
    CHECK_EQ(lio_release_fd(first->b, (lio_fd)fds[0]), 0);
    harness_close(first);
    harness *h = open_iocp(8);
    CHECK_EQ(lio_adopt(h->b, (lio_fd)fds[0]), 1);
    push_recv(h, 1, (lio_fd)fds[0], 10);
    still_waits(h, 1);
    CHECK_EQ(lio_cancel(h->b, 1), 0);
    CHECK_EQ(harness_result(h, 1), -ECANCELED);
    push_recv(h, 1, (lio_fd)fds[0], 10);
    still_waits(h, 1);
    MUST(send(fds[1], "two", 3, 0) == 3);
    CHECK_EQ(harness_result(h, 1), 3);
    CHECK(memcmp(harness_data(h, 1), "two", 3) == 0);
    char bytes[8];
    lio_op op = {.opcode = LIO_RECV, .fd = (lio_fd)fds[0], .buf = bytes, .len = 8};
    push(h, 1, op);
    still_waits(h, 1);
    MUST(send(fds[1], "three", 5, 0) == 5);
    CHECK_EQ(harness_result(h, 1), 5);
    close_pair(h, fds);
    harness_close(h);
}

static void test_named_pipe(void)
{
    harness *h = open_iocp(8);
    char name[64], bytes[16];
    snprintf(name, sizeof name, "\\\\.\\pipe\\lio-test-%lu", GetCurrentProcessId());
    HANDLE ours = CreateNamedPipeA(name, PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED, 0, 1, 65536,
                                   65536, 0, NULL);
    MUST(ours != INVALID_HANDLE_VALUE);
    HANDLE theirs = CreateFileA(name, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING,
                                FILE_FLAG_OVERLAPPED, NULL);
    MUST(theirs != INVALID_HANDLE_VALUE);
    push(h, 1,
         (lio_op){.opcode = LIO_READ, .fd = (lio_fd)ours, .buf = bytes, .len = sizeof bytes});
    still_waits(h, 1);
    CHECK_EQ(lio_cancel(h->b, 1), 0);
    CHECK_EQ(harness_result(h, 1), -ECANCELED);
    push(h, 1,
         (lio_op){.opcode = LIO_READ, .fd = (lio_fd)ours, .buf = bytes, .len = sizeof bytes});
    still_waits(h, 1);
    lio_op op = {.opcode = LIO_WRITE, .fd = (lio_fd)theirs, .buf = (void *)"hello", .len = 5};
    CHECK_EQ(perform(h, op), 5);
    CHECK_EQ(harness_result(h, 1), 5);
    CHECK_EQ(lio_close_fd(h->b, (lio_fd)theirs), 0);
    op = (lio_op){.opcode = LIO_READ, .fd = (lio_fd)ours, .buf = bytes, .len = sizeof bytes};
    CHECK_EQ(perform(h, op), 0);
    op.opcode = LIO_WRITE;
    CHECK_EQ(perform(h, op), -EPIPE);
    CHECK_EQ(lio_close_fd(h->b, (lio_fd)ours), 0);
    harness_close(h);
}

static void test_files(void)
{
    harness *h = open_iocp(8);
    char folder[MAX_PATH], path[MAX_PATH + 32], other[MAX_PATH + 64], bytes[16] = "";
    MUST(GetTempPathA(sizeof folder, folder) != 0);
    snprintf(path, sizeof path, "%slio-test-%lu", folder, GetCurrentProcessId());
    snprintf(other, sizeof other, "%s-other", path);
    lio_op op = {.opcode = LIO_OPENAT,
                 .fd = -100,
                 .path = path,
                 .flags = _O_RDWR | _O_CREAT | _O_EXCL,
                 .mode = 0600};
    int64_t file = perform(h, op);
    MUST(file >= 0);
    CHECK_EQ(perform(h, op), -EEXIST);
    op = (lio_op){.opcode = LIO_WRITE, .fd = file, .buf = (void *)"0123456789", .len = 10};
    CHECK_EQ(perform(h, op), 10);
    op = (lio_op){.opcode = LIO_READ_AT, .fd = file, .buf = bytes, .len = 16, .offset = 4};
    CHECK_EQ(perform(h, op), 6);
    CHECK(memcmp(bytes, "456789", 6) == 0);
    op.offset = 100;
    CHECK_EQ(perform(h, op), 0);
    /* The position stayed where the write left it. */
    op = (lio_op){.opcode = LIO_WRITE, .fd = file, .buf = (void *)"ab", .len = 2};
    CHECK_EQ(perform(h, op), 2);
    lio_iovec parts[2] = {{bytes, 1}, {bytes + 4, 8}};
    op = (lio_op){.opcode = LIO_READV_AT, .fd = file, .buf = parts, .len = 2, .offset = 9};
    CHECK_EQ(perform(h, op), 3);
    CHECK(bytes[0] == '9' && bytes[4] == 'a' && bytes[5] == 'b');
    CHECK_EQ(perform(h, (lio_op){.opcode = LIO_FSYNC, .fd = file}), 0);
    CHECK_EQ(perform(h, (lio_op){.opcode = LIO_TRUNCATE, .fd = file, .offset = 3}), 0);
    op = (lio_op){.opcode = LIO_READ_AT, .fd = file, .buf = bytes, .len = 16};
    CHECK_EQ(perform(h, op), 3);
    CHECK_EQ(perform(h, (lio_op){.opcode = LIO_CLOSE, .fd = file}), 0);
    op =
        (lio_op){.opcode = LIO_RENAMEAT, .fd = -100, .path = path, .fd2 = -100, .path2 = other};
    CHECK_EQ(perform(h, op), 0);
    CHECK_EQ(perform(h, op), -ENOENT);
    CHECK_EQ(perform(h, (lio_op){.opcode = LIO_UNLINKAT, .fd = -100, .path = other}), 0);
    CHECK_EQ(perform(h, (lio_op){.opcode = LIO_UNLINKAT, .fd = -100, .path = other}), -ENOENT);
    CHECK_EQ(perform(h, (lio_op){.opcode = LIO_UNLINKAT, .fd = 4, .path = other}), -ENOTSUP);
    harness_close(h);
}

enum { TRANSMIT_SIZE = 16000000 };

/* A file of so many bytes, gone when it is closed. */
static HANDLE make_file(void)
{
    char folder[MAX_PATH], path[MAX_PATH + 32];
    static char bytes[TRANSMIT_SIZE];
    DWORD written;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i % 251);
    MUST(GetTempPathA(sizeof folder, folder) != 0);
    snprintf(path, sizeof path, "%slio-transmit-%lu", folder, GetCurrentProcessId());
    HANDLE file = CreateFileA(path, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ, NULL,
                              CREATE_ALWAYS, FILE_FLAG_DELETE_ON_CLOSE, NULL);
    MUST(file != INVALID_HANDLE_VALUE);
    MUST(WriteFile(file, bytes, sizeof bytes, &written, NULL) && written == sizeof bytes);
    MUST(SetFilePointer(file, 7, NULL, FILE_BEGIN) == 7);
    return file;
}

static void test_from_a_file_to_a_socket(void)
{
    harness *h = open_iocp(8);
    HANDLE file = make_file();
    SOCKET fds[2];
    static char bytes[65536];
    make_tcp_pair(fds);
    lio_op op = {.opcode = LIO_SPLICE,
                 .fd = (lio_fd)file,
                 .fd2 = (lio_fd)fds[0],
                 .offset = 5,
                 .offset2 = -1,
                 .len = 1000};
    CHECK_EQ(perform(h, op), 1000);
    for (int got = 0, count; got < 1000; got += count > 0 ? count : 0) {
        count = recv(fds[1], bytes + got, 1000 - got, 0);
        CHECK(count > 0 || WSAGetLastError() == WSAEWOULDBLOCK);
    }
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(bytes[i], (char)((i + 5) % 251));
    op.offset = TRANSMIT_SIZE - 10;
    CHECK_EQ(perform(h, op), 10);
    CHECK_EQ(drink(fds[1], 10), 10);
    op.offset = TRANSMIT_SIZE;
    CHECK_EQ(perform(h, op), 0);
    op.offset = 0;
    op.len = 0;
    CHECK_EQ(perform(h, op), 0);
    CHECK_EQ(SetFilePointer(file, 0, NULL, FILE_CURRENT), 7);
    op.fd2 = (lio_fd)file;
    CHECK_EQ(perform(h, op), -ENOTSOCK);
    op.fd = op.fd2 = (lio_fd)fds[0];
    CHECK_EQ(perform(h, op), -EINVAL);
    CloseHandle(file);
    close_pair(h, fds);
    harness_close(h);
}

static void test_cancelled_transmission_tells_how_much_went(void)
{
    harness *h = open_iocp(8);
    HANDLE file = make_file();
    for (int closes = 0; closes < 2; closes++) {
        SOCKET fds[2];
        make_tcp_pair(fds);
        CHECK_EQ(lio_adopt(h->b, (lio_fd)fds[0]), 1);
        push(h, 1,
             (lio_op){.opcode = LIO_SPLICE,
                      .fd = (lio_fd)file,
                      .fd2 = (lio_fd)fds[0],
                      .offset2 = -1,
                      .len = TRANSMIT_SIZE});
        still_waits(h, 1);
        if (closes)
            CHECK_EQ(lio_close_fd(h->b, (lio_fd)fds[0]), 0);
        else
            CHECK_EQ(lio_cancel(h->b, 1), 0);
        int64_t result = harness_result(h, 1);
        CHECK(result > 0);
        if (!closes)
            CHECK_EQ(lio_close_fd(h->b, (lio_fd)fds[0]), 0);
        size_t got = 0;
        for (int count = 1; count > 0; got += (size_t)count) {
            static char bytes[65536];
            u_long off = 0;
            MUST(ioctlsocket(fds[1], (long)FIONBIO, &off) == 0);
            count = recv(fds[1], bytes, sizeof bytes, 0);
            MUST(count >= 0);
        }
        CHECK_EQ(got, result);
        closesocket(fds[1]);
    }
    CloseHandle(file);
    harness_close(h);
}

/* While it waits: of one that had gone before, Wine's TransmitFile never learns. */
static void test_transmission_to_a_peer_that_goes(void)
{
    harness *h = open_iocp(8);
    HANDLE file = make_file();
    SOCKET fds[2];
    make_tcp_pair(fds);
    push(h, 1,
         (lio_op){.opcode = LIO_SPLICE,
                  .fd = (lio_fd)file,
                  .fd2 = (lio_fd)fds[0],
                  .offset2 = -1,
                  .len = TRANSMIT_SIZE});
    still_waits(h, 1);
    closesocket(fds[1]);
    CHECK_EQ(harness_result(h, 1), -ECONNRESET);
    CHECK_EQ(lio_close_fd(h->b, (lio_fd)fds[0]), 0);
    CloseHandle(file);
    harness_close(h);
}

static DWORD CALLBACK wake_soon(void *argument)
{
    Sleep(20);
    lio_wake(argument);
    return 0;
}

static DWORD CALLBACK look(void *argument)
{
    return (DWORD)lio_wait_ready(argument, 10 * SECOND);
}

static void test_wakes_and_waiting_threads(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    DWORD answer;
    make_tcp_pair(fds);
    HANDLE thread = CreateThread(NULL, 0, wake_soon, h->b, 0, NULL);
    CHECK_EQ(harness_wait(h, 10 * SECOND), 1);
    CHECK_EQ(h->wakes, 1);
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
    CHECK_EQ(lio_wake(h->b), 0);
    CHECK_EQ(lio_wake(h->b), 0);
    CHECK_EQ(harness_wait(h, 0), 1);
    CHECK_EQ(harness_wait(h, 0), 0);
    CHECK_EQ(h->wakes, 2);
    /* What a waiting thread dequeues is the owner's. */
    push_recv(h, 1, (lio_fd)fds[0], 10);
    lio_flush(h->b);
    thread = CreateThread(NULL, 0, look, h->b, 0, NULL);
    Sleep(20);
    MUST(send(fds[1], "x", 1, 0) == 1);
    WaitForSingleObject(thread, INFINITE);
    CHECK(GetExitCodeThread(thread, &answer) && answer == 1);
    CloseHandle(thread);
    CHECK_EQ(harness_wait(h, 0), 1);
    CHECK_EQ(h->of[1].result, 1);
    close_pair(h, fds);
    harness_close(h);
}

/* The thread that waits may take the very packet that a close waits for. */
static void test_close_while_another_thread_takes_packets(void)
{
    harness *h = open_iocp(8);
    DWORD answer;
    for (int round = 0; round < 10; round++) {
        SOCKET fds[2];
        make_tcp_pair(fds);
        push_recv(h, 1, (lio_fd)fds[0], 10);
        lio_flush(h->b);
        HANDLE thread = CreateThread(NULL, 0, look, h->b, 0, NULL);
        Sleep(2 * (DWORD)(round % 3));
        int64_t before = check_now();
        CHECK_EQ(lio_close_fd(h->b, (lio_fd)fds[0]), 0);
        CHECK(check_now() - before < 5 * SECOND);
        fds[0] = INVALID_SOCKET;
        WaitForSingleObject(thread, INFINITE);
        CHECK(GetExitCodeThread(thread, &answer) && answer == 1);
        CloseHandle(thread);
        CHECK_EQ(harness_result(h, 1), -ECANCELED);
        close_pair(h, fds);
    }
    harness_close(h);
}

/* A packet of somebody else's, whose OVERLAPPED is none. */
static void test_packets_of_others(void)
{
    harness *h = open_iocp(8);
    const lio_completion *records;
    HANDLE port = (HANDLE)(intptr_t)h->b->wake_fd;
    for (uintptr_t i = 0; i < 100; i++)
        MUST(PostQueuedCompletionStatus(port, (DWORD)i, 4, (OVERLAPPED *)(3 * i)));
    uint32_t seen = 0;
    while (seen < 100) {
        int count = lio_wait(h->b, 1 * SECOND, &records);
        MUST(count > 0);
        for (int i = 0; i < count; i++) {
            CHECK(records[i].id == LIO_ID_PACKET && records[i].detail == 4);
            CHECK_EQ(records[i].data, 3 * records[i].result);
        }
        seen += (uint32_t)count;
    }
    CHECK_EQ(seen, 100);
    harness_close(h);
}

static void test_many_receives_share_the_pool(void)
{
    enum { COUNT = 60 };
    harness *h = open_iocp(COUNT);
    static SOCKET fds[COUNT][2];
    static char bytes[65536];
    for (uint64_t i = 0; i < COUNT; i++) {
        make_tcp_pair(fds[i]);
        CHECK_EQ(lio_adopt(h->b, (lio_fd)fds[i][0]), 1);
        push_recv(h, i, (lio_fd)fds[i][0], sizeof bytes);
    }
    lio_flush(h->b);
    for (int i = 0; i < COUNT; i++)
        MUST(send(fds[i][1], bytes, 60000, 0) == 60000);
    for (uint64_t i = 0; i < COUNT; i++)
        CHECK(harness_result(h, i) > 0);
    for (int i = 0; i < COUNT; i++)
        close_pair(h, fds[i]);
    harness_close(h);
}

static void test_close_gives_everything_back(void)
{
    harness_close(open_iocp(8)); /* what the system keeps for itself */
    DWORD before = handles();
    for (int round = 0; round < 3; round++) {
        harness *h = open_iocp(16);
        SOCKET fds[2];
        struct sockaddr_in addr;
        SOCKET listener = make_listener(&addr);
        make_tcp_pair(fds);
        push_recv(h, 1, (lio_fd)fds[0], 10);
        push_poll(h, 2, (lio_fd)fds[1], LIO_POLL_READ);
        push(h, 3, (lio_op){.opcode = LIO_ACCEPT, .fd = (lio_fd)listener});
        push_timeout(h, 4, 100 * SECOND);
        push(h, 5, (lio_op){.opcode = LIO_SOCKET, .fd = AF_INET, .flags = SOCK_STREAM});
        lio_flush(h->b);
        harness_close(h);
        closesocket(fds[0]);
        closesocket(fds[1]);
        closesocket(listener);
    }
    CHECK_EQ(handles(), before);
}

int main(int argc, char **argv)
{
    static const check_test tests[] = {
        TEST(test_nop_and_timeout),
        TEST(test_receive_from_pool),
        TEST(test_datagrams_are_not_cut),
        TEST(test_packet_of_a_warning_ends_nothing_else),
        TEST(test_cancelled_receive_loses_no_byte),
        TEST(test_accept_and_connect),
        TEST(test_cancelled_accept_that_won_is_not_lost),
        TEST(test_send_all_of_much),
        TEST(test_plain_send_waits_for_room),
        TEST(test_readiness_of_both_directions_at_once),
        TEST(test_close_under_pending_operations),
        TEST(test_handle_reused_before_the_flush),
        TEST(test_handle_reused_before_the_second_half_of_a_receive),
        TEST(test_handle_reused_while_operations_wait),
        TEST(test_cancel_after_the_handle_was_reused),
        TEST(test_adopting_a_number_used_again_ends_what_waited),
        TEST(test_socket_of_another_port),
        TEST(test_named_pipe),
        TEST(test_files),
        TEST(test_from_a_file_to_a_socket),
        TEST(test_cancelled_transmission_tells_how_much_went),
        TEST(test_transmission_to_a_peer_that_goes),
        TEST(test_wakes_and_waiting_threads),
        TEST(test_close_while_another_thread_takes_packets),
        TEST(test_packets_of_others),
        TEST(test_many_receives_share_the_pool),
        TEST(test_close_gives_everything_back),
    };
    WSADATA data;
    MUST(WSAStartup(MAKEWORD(2, 2), &data) == 0);
    return check_run(tests, sizeof tests / sizeof *tests, argc, argv);
}
#endif
