/* What the tests of the completion port share. Windows only; elsewhere there is nothing to
 * test, and each of them says so. */
#ifndef LIO_TESTS_COMPLETION_PORT_H
#define LIO_TESTS_COMPLETION_PORT_H

#include "check.h"

#if !defined(_WIN32)
int main(void)
{
    printf("test_iocp_elsewhere\nok: no completion ports here\n");
    return 0;
}
#else

static inline harness *open_iocp(uint32_t capacity)
{
    return harness_open("iocp", NULL, capacity);
}

static inline int64_t perform(harness *h, lio_op op)
{
    const uint64_t id = HARNESS_IDS - 1;
    h->of[id].done = false;
    int error = lio_push(h->b, id, &op);
    return error != 0 ? error : harness_result(h, id);
}

static inline void still_waits(harness *h, uint64_t id)
{
    for (int i = 0; i < 3; i++)
        harness_wait(h, 2 * MS);
    CHECK(!h->of[id].done);
}

static inline void close_pair(harness *h, SOCKET fds[2])
{
    for (int i = 0; i < 2; i++) {
        if (fds[i] != INVALID_SOCKET)
            CHECK_EQ(lio_close_fd(h->b, (lio_fd)fds[i]), 0);
    }
}

/* A connection, of which the first socket is claimed; returns that. */
static inline lio_fd make_claimed_pair(harness *h, SOCKET fds[2])
{
    make_tcp_pair(fds);
    CHECK_EQ(lio_adopt(h->b, (lio_fd)fds[0]), 1);
    return (lio_fd)fds[0];
}

static inline int run_all(const check_test *tests, size_t count, int argc, char **argv)
{
    WSADATA data;
    MUST(WSAStartup(MAKEWORD(2, 2), &data) == 0);
    return check_run(tests, count, argc, argv);
}
#endif
#endif
