/* check.h: what the C tests share. A test program runs all its tests, prints the name of
 * each and what went wrong, and exits with 0 or 1. */
#ifndef LIO_CHECK_H
#define LIO_CHECK_H

#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../csrc/backend.h"
#include "../../csrc/lio_errno.h"

#if defined(_WIN32)
#include <ws2tcpip.h>
#else
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)

static int check_failures;

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            printf("    %s:%d: not true: %s\n", __FILE__, __LINE__, #condition);               \
            check_failures++;                                                                  \
        }                                                                                      \
    } while (0)

#define CHECK_EQ(actual, expected)                                                             \
    do {                                                                                       \
        int64_t actual_ = (int64_t)(actual), expected_ = (int64_t)(expected);                  \
        if (actual_ != expected_) {                                                            \
            printf("    %s:%d: %s is %" PRId64 ", not %s = %" PRId64 "\n", __FILE__, __LINE__, \
                   #actual, actual_, #expected, expected_);                                    \
            check_failures++;                                                                  \
        }                                                                                      \
    } while (0)

/* For what a test cannot go on without. */
#define MUST(condition)                                                                        \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            printf("    %s:%d: cannot go on: %s (errno %d)\n", __FILE__, __LINE__, #condition, \
                   errno);                                                                     \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

typedef struct check_test {
    const char *name;
    void (*run)(void);
} check_test;

#define TEST(function) {#function, function}

/* Runs all tests, or the one that is named on the command line. */
static inline int check_run(const check_test *tests, size_t count, int argc, char **argv)
{
    int failed = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < count; i++) {
        if (argc > 1 && strcmp(argv[1], tests[i].name) != 0)
            continue;
        int before = check_failures;
        printf("%s\n", tests[i].name);
        tests[i].run();
        failed += check_failures != before;
    }
    printf("%s: %d failed\n", failed == 0 ? "ok" : "FAILED", failed);
    return failed != 0;
}

static inline int64_t check_now(void)
{
    return lio_now();
}

/* Emulators of user mode say that memory will be wiped in a child, and do not wipe it. */
static inline bool forks_truly(void)
{
#if defined(MADV_WIPEONFORK)
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    char *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(page != MAP_FAILED);
    bool promised = madvise(page, size, MADV_WIPEONFORK) == 0;
    *page = 1;
    int status;
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0)
        _exit(*page);
    MUST(waitpid(child, &status, 0) == child);
    munmap(page, size);
    if (promised && status != 0) {
        printf("skipped: memory is not wiped in a child, although madvise said so\n");
        return false;
    }
#endif
    return true;
}

/* -- a backend, and what it said --------------------------------------------------- */

#ifndef HARNESS_IDS
#define HARNESS_IDS 4096
#endif

typedef struct harness {
    lio_backend *b;
    struct {
        bool done;
        int order; /* of arrival, from 1 */
        int64_t result, data, detail;
    } of[HARNESS_IDS];
    int arrived, wakes, signals;
} harness;

static inline harness *harness_open_with(const char *name, const lio_options *options,
                                         uint32_t capacity)
{
    harness *h = calloc(1, sizeof *h);
    MUST(h != NULL);
    MUST(lio_create(name, options, &h->b) == 0);
    MUST(lio_init(h->b, capacity) == 0);
    return h;
}

static inline harness *harness_open(const char *name, const char *without, uint32_t capacity)
{
    const lio_options options = {.without = without};
    return harness_open_with(name, &options, capacity);
}

static inline void harness_close(harness *h)
{
    CHECK_EQ(lio_close(h->b), 0);
    lio_destroy(h->b);
    free(h);
}

/* One lio_wait; notes what it brought and returns how many that was. */
static inline int harness_wait(harness *h, int64_t timeout_ns)
{
    const lio_completion *records;
    int count = lio_wait(h->b, timeout_ns, &records);
    for (int i = 0; i < count; i++) {
        if (records[i].id == LIO_ID_WAKE) {
            h->wakes++;
        } else if (records[i].id == LIO_ID_SIGNAL) {
            h->signals++;
        } else {
            MUST(records[i].id < HARNESS_IDS);
            CHECK(!h->of[records[i].id].done);
            h->of[records[i].id].done = true;
            h->of[records[i].id].order = ++h->arrived;
            h->of[records[i].id].result = records[i].result;
            h->of[records[i].id].data = records[i].data;
            h->of[records[i].id].detail = records[i].detail;
        }
    }
    return count;
}

#define NEVER INT64_C(-99999)

/* Waits for one operation; its result, or NEVER. */
static inline int64_t harness_result(harness *h, uint64_t id)
{
    int64_t until = check_now() + 5 * SECOND;
    while (!h->of[id].done && check_now() < until) {
        int count = harness_wait(h, 1 * SECOND);
        if (count < 0)
            return count;
    }
    return h->of[id].done ? h->of[id].result : NEVER;
}

static inline bool harness_is_done(const harness *h, uint64_t id)
{
    return h->of[id].done;
}

static inline void harness_forget(harness *h, uint64_t id)
{
    h->of[id].done = false;
}

static inline const char *harness_data(const harness *h, uint64_t id)
{
    void *base;
    size_t size;
    MUST(lio_pool(h->b, &base, &size) == 0);
    MUST(h->of[id].data >= 0 && (size_t)h->of[id].data < size);
    return (const char *)base + h->of[id].data;
}

static inline const lio_msg *harness_msg(const harness *h, uint64_t id)
{
    void *base;
    size_t size;
    MUST(lio_pool(h->b, &base, &size) == 0);
    MUST(h->of[id].detail >= 0 && (size_t)h->of[id].detail + sizeof(lio_msg) <= size);
    return (const lio_msg *)((const char *)base + h->of[id].detail);
}

static inline uint64_t harness_syscalls(const harness *h)
{
    lio_stats stats;
    MUST(lio_get_stats(h->b, &stats) == 0);
    return stats.syscalls;
}

static inline void push(harness *h, uint64_t id, lio_op op)
{
    h->of[id].done = false;
    int error = lio_push(h->b, id, &op);
    CHECK_EQ(error, 0);
}

static inline void push_recv(harness *h, uint64_t id, lio_fd fd, size_t length)
{
    push(h, id, (lio_op){.opcode = LIO_RECV, .fd = fd, .len = length});
}

static inline void push_send(harness *h, uint64_t id, lio_fd fd, const void *bytes,
                             size_t length)
{
    push(h, id, (lio_op){.opcode = LIO_SEND, .fd = fd, .buf = (void *)bytes, .len = length});
}

static inline void push_poll(harness *h, uint64_t id, lio_fd fd, uint32_t mask)
{
    push(h, id, (lio_op){.opcode = LIO_POLL, .fd = fd, .flags = mask});
}

static inline void push_timeout(harness *h, uint64_t id, int64_t ns)
{
    push(h, id, (lio_op){.opcode = LIO_TIMEOUT, .offset = ns});
}

/* -- descriptors ------------------------------------------------------------------- */

#if defined(_WIN32)

static inline SOCKET make_listener(struct sockaddr_in *addr)
{
    int length = sizeof *addr;
    SOCKET fd = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
    MUST(fd != INVALID_SOCKET);
    *addr =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    MUST(bind(fd, (struct sockaddr *)addr, length) == 0);
    MUST(listen(fd, 16) == 0);
    MUST(getsockname(fd, (struct sockaddr *)addr, &length) == 0);
    return fd;
}

static inline void set_nonblocking(SOCKET fd)
{
    u_long on = 1;
    MUST(ioctlsocket(fd, (long)FIONBIO, &on) == 0);
}

/* Non-blocking ones. */
static inline void make_tcp_pair(SOCKET fds[2])
{
    struct sockaddr_in addr;
    SOCKET listener = make_listener(&addr);
    fds[0] = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
    MUST(fds[0] != INVALID_SOCKET);
    MUST(connect(fds[0], (struct sockaddr *)&addr, sizeof addr) == 0);
    fds[1] = accept(listener, NULL, NULL);
    MUST(fds[1] != INVALID_SOCKET);
    set_nonblocking(fds[0]);
    set_nonblocking(fds[1]);
    closesocket(listener);
}

/* Fills the way from fd; returns how many bytes went in. The system moves on what it has, and
 * then finds more room: it is full when that is over. */
static inline size_t stuff(SOCKET fd)
{
    static const char bytes[65536];
    size_t total = 0;
    for (int idle = 0; idle < 8; idle++) {
        int count;
        while ((count = send(fd, bytes, idle == 0 ? (int)sizeof bytes : 1, 0)) > 0) {
            total += (size_t)count;
            idle = 0;
        }
        MUST(WSAGetLastError() == WSAEWOULDBLOCK);
        Sleep(50);
    }
    return total;
}

/* Takes exactly `length` bytes out of fd, or gives up after five seconds. */
static inline size_t drink(SOCKET fd, size_t length)
{
    char bytes[65536];
    size_t total = 0;
    int64_t until = check_now() + 5 * SECOND;
    while (total < length && check_now() < until) {
        size_t left = length - total;
        int count = recv(fd, bytes, left < sizeof bytes ? (int)left : (int)sizeof bytes, 0);
        if (count == 0 || (count < 0 && WSAGetLastError() != WSAEWOULDBLOCK))
            break;
        total += count > 0 ? (size_t)count : 0;
    }
    return total;
}

#else

static inline void set_blocking(int fd, bool blocking)
{
    int flags = fcntl(fd, F_GETFL);
    MUST(flags >= 0);
    flags = blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK;
    MUST(fcntl(fd, F_SETFL, flags) == 0);
}

static inline void make_pair(int fds[2])
{
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
}

static inline int make_listener(struct sockaddr_in *addr)
{
    socklen_t length = sizeof *addr;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    MUST(fd >= 0);
    *addr =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    MUST(bind(fd, (struct sockaddr *)addr, length) == 0);
    MUST(listen(fd, 16) == 0);
    MUST(getsockname(fd, (struct sockaddr *)addr, &length) == 0);
    return fd;
}

static inline void make_tcp_pair(int fds[2])
{
    struct sockaddr_in addr;
    int listener = make_listener(&addr);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(fds[0] >= 0);
    MUST(connect(fds[0], (struct sockaddr *)&addr, sizeof addr) == 0);
    set_blocking(fds[0], false);
    struct timespec pause = {0, 1000000};
    while ((fds[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) < 0) {
        MUST(errno == EAGAIN);
        nanosleep(&pause, NULL);
    }
    close(listener);
}

/* Fills the way from fd; returns how many bytes went in. */
static inline size_t stuff(int fd)
{
    static const char bytes[65536];
    size_t total = 0;
    ssize_t count;
    while ((count = send(fd, bytes, sizeof bytes, MSG_DONTWAIT | MSG_NOSIGNAL)) > 0)
        total += (size_t)count;
    MUST(errno == EAGAIN);
    return total;
}

/* Takes exactly `length` bytes out of fd, or gives up after five seconds. */
static inline size_t drink(int fd, size_t length)
{
    char bytes[65536];
    size_t total = 0;
    int64_t until = check_now() + 5 * SECOND;
    while (total < length && check_now() < until) {
        size_t left = length - total;
        ssize_t count =
            recv(fd, bytes, left < sizeof bytes ? left : sizeof bytes, MSG_DONTWAIT);
        if (count == 0 || (count < 0 && errno != EAGAIN))
            break;
        total += count > 0 ? (size_t)count : 0;
    }
    return total;
}

#endif
#endif
