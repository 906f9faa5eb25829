/* Numbers that name another file than they did: never another file's bytes, never a hang. */
#include "check.h"

static harness *open_poller(void)
{
    return harness_open("epoll", NULL, 64);
}

/* Puts another socket under the number of fds[0]; returns its peer. */
static int replace(int fd)
{
    int other[2];
    make_pair(other);
    MUST(dup2(other[0], fd) == fd); /* closes what was there */
    close(other[0]);
    MUST(write(other[1], "not yours", 9) == 9);
    return other[1];
}

static void test_fd_reused_before_flush(void)
{
    harness *h = open_poller();
    int fds[2];
    char bytes[16];
    make_pair(fds);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    push_send(h, 1, fds[0], "secret", 6);
    push_send(h, 2, fds[0], "more", 4);
    push_recv(h, 3, fds[0], 100);
    int peer = replace(fds[0]);
    CHECK_EQ(harness_result(h, 1), -EBADF);
    CHECK_EQ(harness_result(h, 2), -EBADF);
    CHECK_EQ(harness_result(h, 3), -EBADF);
    CHECK(recv(peer, bytes, sizeof bytes, MSG_DONTWAIT) < 0);
    /* It is nobody's now, and can be claimed anew. */
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    push_recv(h, 4, fds[0], 100);
    CHECK_EQ(harness_result(h, 4), 9);
    close(fds[0]);
    close(fds[1]);
    close(peer);
    harness_close(h);
}

static void test_fd_reused_while_parked(void)
{
    for (int adopted = 0; adopted < 2; adopted++) {
        harness *h = open_poller();
        int fds[2];
        make_pair(fds);
        if (adopted)
            CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
        push_recv(h, 1, fds[0], 100);
        CHECK_EQ(harness_wait(h, 0), 0);
        int peer = replace(fds[0]);
        /* The next who uses the number, for instance. */
        push_recv(h, 2, fds[0], 100);
        CHECK_EQ(harness_result(h, 1), -EBADF);
        CHECK_EQ(harness_result(h, 2), adopted ? -EBADF : 9);
        close(fds[0]);
        close(fds[1]);
        close(peer);
        harness_close(h);
    }
}

/* Pushed for a file that is gone, on a descriptor that was not ready: what does nothing but
 * wait would wait for ever. */
static void test_fd_closed_before_wait(void)
{
    for (int reused = 0; reused < 2; reused++) {
        harness *h = open_poller();
        int fds[2], peer = -1;
        make_pair(fds);
        CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
        push_recv(h, 1, fds[0], 100);
        CHECK_EQ(harness_wait(h, 0), 0);
        CHECK_EQ(lio_cancel(h->b, 1), 0);
        CHECK_EQ(harness_result(h, 1), -ECANCELED);
        if (reused)
            peer = replace(fds[0]);
        else
            close(fds[0]);
        push_recv(h, 2, fds[0], 100);
        push_poll(h, 3, fds[0], LIO_POLL_READ);
        CHECK_EQ(harness_result(h, 2), -EBADF);
        CHECK_EQ(harness_result(h, 3), reused ? LIO_POLL_READ : -EBADF);
        if (reused) {
            close(fds[0]);
            close(peer);
        }
        close(fds[1]);
        harness_close(h);
    }
}

static void test_fd_reused_and_adopted_again(void)
{
    harness *h = open_poller();
    int fds[2];
    make_pair(fds);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    push_recv(h, 1, fds[0], 100);
    CHECK_EQ(harness_wait(h, 0), 0);
    int peer = replace(fds[0]);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    push_recv(h, 2, fds[0], 100);
    CHECK_EQ(harness_result(h, 1), -EBADF);
    CHECK_EQ(harness_result(h, 2), 9);
    close(fds[0]);
    close(fds[1]);
    close(peer);
    harness_close(h);
}

/* A copy keeps the old file and its registration alive: its events are not the new one's. */
static void test_old_registration_lives_on(void)
{
    harness *h = open_poller();
    int fds[2];
    make_pair(fds);
    int copy = dup(fds[0]);
    MUST(copy >= 0);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    push_recv(h, 1, fds[0], 100);
    CHECK_EQ(harness_wait(h, 0), 0);
    int other[2];
    make_pair(other);
    MUST(dup2(other[0], fds[0]) == fds[0]);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    CHECK_EQ(harness_result(h, 1), -EBADF);
    push_recv(h, 2, fds[0], 100);
    CHECK_EQ(harness_wait(h, 0), 0);
    MUST(write(fds[1], "for the copy", 12) == 12);
    CHECK_EQ(harness_wait(h, 20 * MS), 0);
    MUST(write(other[1], "new", 3) == 3);
    CHECK_EQ(harness_result(h, 2), 3);
    CHECK(memcmp(harness_data(h, 2), "new", 3) == 0);
    for (int i = 0; i < 2; i++) {
        close(fds[i]);
        close(other[i]);
    }
    close(copy);
    harness_close(h);
}

static void test_poll_of_reused_foreign_fd(void)
{
    harness *h = open_poller();
    int fds[2];
    make_pair(fds);
    push_poll(h, 1, fds[0], LIO_POLL_READ);
    CHECK_EQ(harness_wait(h, 0), 0);
    int peer = replace(fds[0]); /* the registration is gone with the file */
    push_poll(h, 2, fds[0], LIO_POLL_READ);
    CHECK_EQ(harness_result(h, 2), LIO_POLL_READ);
    CHECK_EQ(harness_result(h, 1), LIO_POLL_READ); /* for no reason: allowed */
    close(fds[0]);
    close(fds[1]);
    close(peer);
    harness_close(h);
}

static void test_close_spares_a_stolen_number(void)
{
    harness *h = open_poller();
    int fds[2];
    make_pair(fds);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    int peer = replace(fds[0]);
    CHECK_EQ(lio_close_fd(h->b, fds[0]), -EBADF);
    CHECK(fcntl(fds[0], F_GETFD) >= 0);
    close(fds[0]);
    close(fds[1]);
    close(peer);
    harness_close(h);
}

static void test_close_fd_settles(void)
{
    harness *h = open_poller();
    int fds[2];
    char byte;
    make_pair(fds);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    push_recv(h, 1, fds[0], 100);
    push_poll(h, 2, fds[0], LIO_POLL_READ);
    CHECK_EQ(harness_wait(h, 0), 0);
    push_recv(h, 3, fds[0], 100);
    CHECK_EQ(lio_close_fd(h->b, fds[0]), 0);
    CHECK_EQ(recv(fds[1], &byte, 1, MSG_DONTWAIT), 0); /* the peer sees the end now */
    CHECK_EQ(harness_wait(h, 5 * SECOND), 3);
    for (uint64_t id = 1; id <= 3; id++)
        CHECK_EQ(harness_result(h, id), -ECANCELED);
    close(fds[1]);
    harness_close(h);
}

static const check_test tests[] = {
    TEST(test_fd_reused_before_flush),       TEST(test_fd_reused_while_parked),
    TEST(test_fd_closed_before_wait),        TEST(test_fd_reused_and_adopted_again),
    TEST(test_old_registration_lives_on),    TEST(test_poll_of_reused_foreign_fd),
    TEST(test_close_spares_a_stolen_number), TEST(test_close_fd_settles),
};

int main(int argc, char **argv)
{
    return check_run(tests, sizeof tests / sizeof *tests, argc, argv);
}
