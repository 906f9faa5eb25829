/* On a completion port: numbers that were closed behind our back, and used again. */
#include "completion_port.h"

#if defined(_WIN32)

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

/* Of the new connection and of the old one. */
static void close_peers(const SOCKET fds[2], SOCKET peer)
{
    closesocket(peer);
    closesocket(fds[1]);
}

static void test_handle_reused_before_the_flush(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    lio_fd fd = make_claimed_pair(h, fds);
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
    close_peers(fds, peer);
    harness_close(h);
}

/* There was something to receive, and the packet that says so is on the port. */
static void test_handle_reused_before_the_second_half_of_a_receive(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    lio_fd fd = make_claimed_pair(h, fds);
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
    close_peers(fds, peer);
    harness_close(h);
}

static void test_handle_reused_while_operations_wait(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    lio_fd fd = make_claimed_pair(h, fds);
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
    close_peers(fds, peer);
    harness_close(h);
}

/* A cancel names a handle and an OVERLAPPED: what it does not find there it leaves alone. */
static void test_cancel_after_the_handle_was_reused(void)
{
    harness *h = open_iocp(8), *other = open_iocp(8);
    for (int closes = 0; closes < 2; closes++) {
        SOCKET fds[2];
        lio_fd fd = make_claimed_pair(h, fds);
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
        close_peers(fds, peer);
    }
    harness_close(h);
    harness_close(other);
}

static void test_adopting_a_number_used_again_ends_what_waited(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    lio_fd fd = make_claimed_pair(h, fds);
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
    close_peers(fds, peer);
    harness_close(h);
}

/* A number that was ours, and is that of a socket which somebody else has on a port. */
static void test_number_of_what_another_port_has(void)
{
    for (int adopts = 0; adopts < 2; adopts++) {
        harness *h = open_iocp(8);
        SOCKET fds[2];
        make_tcp_pair(fds);
        lio_fd fd = (lio_fd)fds[0];
        push_send(h, 1, fd, "joins", 5);
        CHECK_EQ(harness_result(h, 1), 5);
        SOCKET peer = reuse(fds[0]);
        HANDLE port = CreateIoCompletionPort((HANDLE)fds[0], NULL, 7, 0);
        MUST(port != NULL);
        if (adopts)
            CHECK_EQ(lio_adopt(h->b, fd), 1);
        push_recv(h, 1, fd, 10);
        still_waits(h, 1);
        MUST(send(peer, "mine", 4, 0) == 4);
        CHECK_EQ(harness_result(h, 1), 4);
        push_recv(h, 1, fd, 10);
        still_waits(h, 1);
        CHECK_EQ(lio_cancel(h->b, 1), 0);
        CHECK_EQ(harness_result(h, 1), -ECANCELED);
        CHECK_EQ(lio_close_fd(h->b, fd), 0);
        close_peers(fds, peer);
        harness_close(h);
        CloseHandle(port);
    }
}

int main(int argc, char **argv)
{
    static const check_test tests[] = {
        TEST(test_handle_reused_before_the_flush),
        TEST(test_handle_reused_before_the_second_half_of_a_receive),
        TEST(test_handle_reused_while_operations_wait),
        TEST(test_cancel_after_the_handle_was_reused),
        TEST(test_adopting_a_number_used_again_ends_what_waited),
        TEST(test_number_of_what_another_port_has),
    };
    return run_all(tests, sizeof tests / sizeof *tests, argc, argv);
}
#endif
