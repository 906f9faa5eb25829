/* On a completion port: what the system refuses now and then, for want of memory. */
#include "completion_port.h"

#if defined(_WIN32)

static volatile LONG refused_posts, refused_waits;
static SOCKET feeds = INVALID_SOCKET; /* before a wait is refused it sends something */

static FARPROC of_system(const char *name)
{
    return GetProcAddress(GetModuleHandleA("kernel32.dll"), name);
}

typedef BOOL(WINAPI *post_function)(HANDLE, DWORD, ULONG_PTR, OVERLAPPED *);

static BOOL WINAPI post(HANDLE port, DWORD count, ULONG_PTR key, OVERLAPPED *overlapped)
{
    if (InterlockedDecrement(&refused_posts) >= 0) {
        SetLastError(ERROR_NO_SYSTEM_RESOURCES);
        return FALSE;
    }
    return ((post_function)(void *)of_system("PostQueuedCompletionStatus"))(port, count, key,
                                                                            overlapped);
}

typedef BOOL(WINAPI *wait_function)(HANDLE *, HANDLE, WAITORTIMERCALLBACK, void *, ULONG,
                                    ULONG);

static BOOL WINAPI register_wait(HANDLE *wait, HANDLE object, WAITORTIMERCALLBACK callback,
                                 void *context, ULONG ms, ULONG flags)
{
    if (InterlockedDecrement(&refused_waits) >= 0) {
        if (feeds != INVALID_SOCKET)
            MUST(send(feeds, "data", 4, 0) == 4);
        Sleep(20);
        SetLastError(ERROR_NO_SYSTEM_RESOURCES);
        return FALSE;
    }
    return ((wait_function)(void *)of_system("RegisterWaitForSingleObject"))(
        wait, object, callback, context, ms, flags);
}

/* The linker finds these before those of the import library. */
void *__imp_PostQueuedCompletionStatus = (void *)post;
void *__imp_RegisterWaitForSingleObject = (void *)register_wait;

/* A connection, of which the first socket belongs to a port of somebody else's. */
static HANDLE make_pair_of_another_port(SOCKET fds[2])
{
    make_tcp_pair(fds);
    HANDLE port = CreateIoCompletionPort((HANDLE)fds[0], NULL, 7, 0);
    MUST(port != NULL);
    return port;
}

static void test_a_job_tells_that_it_is_done(void)
{
    harness *h = open_iocp(8);
    char path[MAX_PATH], name[MAX_PATH];
    MUST(GetTempPathA(sizeof path, path) != 0 && GetTempFileNameA(path, "lio", 0, name) != 0);
    HANDLE file = CreateFileA(name, GENERIC_WRITE, 0, NULL, OPEN_EXISTING,
                              FILE_FLAG_DELETE_ON_CLOSE, NULL);
    MUST(file != INVALID_HANDLE_VALUE);
    refused_posts = 3;
    CHECK_EQ(perform(h, (lio_op){.opcode = LIO_FSYNC, .fd = (lio_fd)file}), 0);
    CHECK(refused_posts < 0);
    CHECK_EQ(lio_close_fd(h->b, (lio_fd)file), 0);
    harness_close(h);
}

static void test_a_wake_ends_the_wait(void)
{
    harness *h = open_iocp(8);
    refused_posts = 3;
    CHECK_EQ(lio_wake(h->b), 0);
    CHECK_EQ(harness_wait(h, 0), 1);
    CHECK_EQ(h->wakes, 1);
    refused_posts = 0;
    harness_close(h);
}

static void test_an_event_is_told(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    HANDLE port = make_pair_of_another_port(fds);
    push_recv(h, 1, (lio_fd)fds[0], 10);
    still_waits(h, 1);
    refused_posts = 3;
    MUST(send(fds[1], "data", 4, 0) == 4);
    CHECK_EQ(harness_result(h, 1), 4);
    CHECK(refused_posts < 0);
    close_pair(h, fds);
    harness_close(h);
    CloseHandle(port);
}

static DWORD CALLBACK look_late(void *argument)
{
    Sleep(10);
    return (DWORD)lio_wait_ready(argument, 10 * SECOND);
}

static DWORD CALLBACK feed_late(void *argument)
{
    Sleep(20);
    refused_posts = 2;
    MUST(send((SOCKET)argument, "x", 1, 0) == 1);
    return 0;
}

/* A thread takes the packet that the owner sleeps for, and has to say so. */
static void test_the_owner_is_told_of_what_was_taken(void)
{
    harness *h = open_iocp(8);
    bool refused = false;
    /* Which of the two gets the packet is the scheduler's to say. */
    for (int round = 0; round < 300 && !refused; round++) {
        SOCKET fds[2];
        make_tcp_pair(fds);
        push_recv(h, 1, (lio_fd)fds[0], 10);
        lio_flush(h->b);
        HANDLE threads[2] = {CreateThread(NULL, 0, look_late, h->b, 0, NULL),
                             CreateThread(NULL, 0, feed_late, (void *)fds[1], 0, NULL)};
        int64_t before = check_now();
        CHECK_EQ(harness_wait(h, 10 * SECOND), 1);
        CHECK(check_now() - before < 5 * SECOND); /* it does not sleep to the end */
        CHECK_EQ(h->of[1].result, 1);
        refused = refused_posts < 2;
        refused_posts = 0;
        CHECK_EQ(lio_wake(h->b), 0); /* if the owner was first, the thread still looks */
        WaitForMultipleObjects(2, threads, TRUE, INFINITE);
        CloseHandle(threads[0]);
        CloseHandle(threads[1]);
        harness_wait(h, 0);
        close_pair(h, fds);
    }
    CHECK(refused);
    harness_close(h);
}

/* A receive begins, has its bytes, and then nobody can be made to wait for it. */
static void test_a_wait_that_is_refused_loses_no_byte(void)
{
    harness *h = open_iocp(8);
    SOCKET fds[2];
    char bytes[8] = "";
    HANDLE port = make_pair_of_another_port(fds);
    feeds = fds[1];
    refused_waits = 1;
    lio_op op = {.opcode = LIO_RECV, .fd = (lio_fd)fds[0], .buf = bytes, .len = sizeof bytes};
    int64_t result = perform(h, op);
    if (result < 0)
        result = perform(h, op);
    CHECK_EQ(result, 4);
    CHECK(memcmp(bytes, "data", 4) == 0);
    feeds = INVALID_SOCKET;
    /* Without any byte it is an error, and leaves nothing behind. */
    refused_waits = 1;
    CHECK_EQ(perform(h, op), -ENOMEM);
    MUST(send(fds[1], "more", 4, 0) == 4);
    CHECK_EQ(perform(h, op), 4);
    close_pair(h, fds);
    harness_close(h);
    CloseHandle(port);
}

int main(int argc, char **argv)
{
    static const check_test tests[] = {
        TEST(test_a_job_tells_that_it_is_done),
        TEST(test_a_wake_ends_the_wait),
        TEST(test_an_event_is_told),
        TEST(test_the_owner_is_told_of_what_was_taken),
        TEST(test_a_wait_that_is_refused_loses_no_byte),
    };
    return run_all(tests, sizeof tests / sizeof *tests, argc, argv);
}
#endif
