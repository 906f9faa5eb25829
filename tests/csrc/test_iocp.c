/* The contract on a completion port: what is particular to it. The conformance suite covers the
 * rest. */
#include "completion_port.h"

#if defined(_WIN32)

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
        TEST(test_socket_of_another_port),
        TEST(test_wakes_and_waiting_threads),
        TEST(test_close_while_another_thread_takes_packets),
        TEST(test_packets_of_others),
        TEST(test_many_receives_share_the_pool),
        TEST(test_close_gives_everything_back),
    };
    return run_all(tests, sizeof tests / sizeof *tests, argc, argv);
}
#endif
