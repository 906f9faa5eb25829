/* On a completion port: pipes, files, and from a file to a socket. */
#include "completion_port.h"

#if defined(_WIN32)

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

static lio_op transmission(HANDLE file, SOCKET to, int64_t offset, uint64_t len)
{
    return (lio_op){.opcode = LIO_SPLICE,
                    .fd = (lio_fd)file,
                    .fd2 = (lio_fd)to,
                    .offset = offset,
                    .offset2 = -1,
                    .len = len};
}

static void test_from_a_file_to_a_socket(void)
{
    harness *h = open_iocp(8);
    HANDLE file = make_file();
    SOCKET fds[2];
    static char bytes[65536];
    make_tcp_pair(fds);
    lio_op op = transmission(file, fds[0], 5, 1000);
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
        make_claimed_pair(h, fds);
        push(h, 1, transmission(file, fds[0], 0, TRANSMIT_SIZE));
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
    push(h, 1, transmission(file, fds[0], 0, TRANSMIT_SIZE));
    still_waits(h, 1);
    closesocket(fds[1]);
    CHECK_EQ(harness_result(h, 1), -ECONNRESET);
    CHECK_EQ(lio_close_fd(h->b, (lio_fd)fds[0]), 0);
    CloseHandle(file);
    harness_close(h);
}

int main(int argc, char **argv)
{
    static const check_test tests[] = {
        TEST(test_named_pipe),
        TEST(test_files),
        TEST(test_from_a_file_to_a_socket),
        TEST(test_cancelled_transmission_tells_how_much_went),
        TEST(test_transmission_to_a_peer_that_goes),
    };
    return run_all(tests, sizeof tests / sizeof *tests, argc, argv);
}
#endif
