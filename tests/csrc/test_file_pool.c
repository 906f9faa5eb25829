/* File operations on a poller: they run in threads of the pool, never in the loop's own. */
#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include "check.h"

#if !defined(RENAME_NOREPLACE) /* musl */
#define RENAME_NOREPLACE 1
#endif
#if !defined(RWF_NOWAIT)
#define RWF_NOWAIT 8
#endif
#define THREADS_MAX 8

/* A directory of the test's own. */
static void make_directory(char *path, size_t size)
{
    const char *base = getenv("TMPDIR");
    snprintf(path, size, "%s/lio-test-XXXXXX", base == NULL ? "/tmp" : base);
    MUST(mkdtemp(path) != NULL);
}

static int count_entries(const char *path)
{
    int count = 0;
    DIR *directory = opendir(path);
    MUST(directory != NULL);
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

static int count_threads(void)
{
    return count_entries("/proc/self/task") - 2;
}

/* The same once those that ended are gone: who joins a thread may go on a moment before. */
static int count_threads_left(int expected)
{
    const struct timespec moment = {0, 10000000};
    for (int i = 0; i < 200 && count_threads() != expected; i++)
        nanosleep(&moment, NULL);
    return count_threads();
}

static void push_open(harness *h, uint64_t id, int directory, const char *path, int flags)
{
    push(h, id,
         (lio_op){.opcode = LIO_OPENAT,
                  .fd = directory,
                  .path = path,
                  .flags = (uint32_t)flags | O_CLOEXEC,
                  .mode = 0600});
}

/* Opening a pipe that nobody writes to keeps a thread busy for as long as we like. */
static void make_busy(harness *h, uint64_t first, int directory, int count)
{
    MUST(mkfifoat(directory, "fifo", 0600) == 0 || errno == EEXIST);
    for (int i = 0; i < count; i++)
        push_open(h, first + (uint64_t)i, directory, "fifo", O_RDONLY);
    CHECK_EQ(lio_flush(h->b), count);
    struct timespec pause = {0, 50000000};
    nanosleep(&pause, NULL);
}

/* Ends them all: a writer comes. */
static int end_busy(int directory)
{
    int writer = openat(directory, "fifo", O_RDWR | O_CLOEXEC);
    MUST(writer >= 0);
    return writer;
}

static void test_every_operation(void)
{
    char path[128], bytes[16] = "";
    make_directory(path, sizeof path);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    MUST(directory >= 0);
    harness *h = harness_open("epoll", NULL, 64);
    push_open(h, 1, directory, "file", O_RDWR | O_CREAT);
    int fd = (int)harness_result(h, 1);
    MUST(fd >= 0);
    const lio_op common = {.fd = fd};
    lio_iovec parts[2] = {{"one ", 4}, {"two", 3}}, into[2] = {{bytes, 4}, {bytes + 4, 12}};
    struct statx st;
    lio_op op = common;

    op.opcode = LIO_WRITE;
    op.buf = "0123456789";
    op.len = 10;
    push(h, 2, op);
    CHECK_EQ(harness_result(h, 2), 10);
    op.opcode = LIO_WRITE_AT;
    op.offset = 5;
    op.buf = "abc";
    op.len = 3;
    push(h, 3, op);
    CHECK_EQ(harness_result(h, 3), 3);
    op = (lio_op){.opcode = LIO_READ_AT, .fd = fd, .buf = bytes, .len = 16, .offset = 2};
    push(h, 4, op);
    CHECK_EQ(harness_result(h, 4), 8);
    CHECK(memcmp(bytes, "234abc89", 8) == 0);
    MUST(lseek(fd, 8, SEEK_SET) == 8);
    push(h, 5, (lio_op){.opcode = LIO_READ, .fd = fd, .buf = bytes, .len = 16});
    CHECK_EQ(harness_result(h, 5), 2);
    push(h, 6, (lio_op){.opcode = LIO_READ, .fd = fd, .buf = bytes, .len = 16});
    CHECK_EQ(harness_result(h, 6), 0);
    push(h, 7, (lio_op){.opcode = LIO_WRITEV_AT, .fd = fd, .buf = parts, .len = 2});
    CHECK_EQ(harness_result(h, 7), 7);
    push(h, 8, (lio_op){.opcode = LIO_READV_AT, .fd = fd, .buf = into, .len = 2});
    CHECK_EQ(harness_result(h, 8), 10);
    CHECK(memcmp(bytes, "one twoc89", 10) == 0);
    push(h, 9, (lio_op){.opcode = LIO_FSYNC, .fd = fd});
    CHECK_EQ(harness_result(h, 9), 0);
    push(h, 10, (lio_op){.opcode = LIO_FDATASYNC, .fd = fd});
    CHECK_EQ(harness_result(h, 10), 0);
    push(h, 11, (lio_op){.opcode = LIO_TRUNCATE, .fd = fd, .offset = 3});
    CHECK_EQ(harness_result(h, 11), 0);
    push(h, 12,
         (lio_op){.opcode = LIO_STATX,
                  .fd = directory,
                  .path = "file",
                  .mode = STATX_SIZE,
                  .buf = &st});
    CHECK_EQ(harness_result(h, 12), 0);
    CHECK_EQ(st.stx_size, 3);
    push(h, 13, (lio_op){.opcode = LIO_CLOSE, .fd = fd});
    CHECK_EQ(harness_result(h, 13), 0);
    CHECK(fcntl(fd, F_GETFD) < 0);

    push(h, 14, (lio_op){.opcode = LIO_MKDIRAT, .fd = directory, .path = "sub", .mode = 0700});
    CHECK_EQ(harness_result(h, 14), 0);
    op = (lio_op){.fd = directory, .fd2 = directory, .path = "file", .path2 = "sub/hard"};
    op.opcode = LIO_LINKAT;
    push(h, 15, op);
    CHECK_EQ(harness_result(h, 15), 0);
    op.opcode = LIO_SYMLINKAT;
    op.path2 = "soft";
    push(h, 16, op);
    CHECK_EQ(harness_result(h, 16), 0);
    op.opcode = LIO_RENAMEAT;
    op.path2 = "sub/hard";
    op.flags = RENAME_NOREPLACE;
    push(h, 17, op);
    CHECK_EQ(harness_result(h, 17), -EEXIST);
    op.flags = 0;
    op.path = "soft";
    op.path2 = "softer";
    push(h, 18, op);
    CHECK_EQ(harness_result(h, 18), 0);
    const char *const names[] = {"sub/hard", "softer", "file", "sub"};
    for (uint64_t i = 0; i < 4; i++) {
        uint32_t flags = i == 3 ? AT_REMOVEDIR : 0;
        push(h, 19 + i,
             (lio_op){
                 .opcode = LIO_UNLINKAT, .fd = directory, .path = names[i], .flags = flags});
        CHECK_EQ(harness_result(h, 19 + i), 0);
    }
    push_open(h, 30, directory, "file", O_RDONLY);
    CHECK_EQ(harness_result(h, 30), -ENOENT);
    CHECK_EQ(h->wakes, 0); /* what is done in a thread is no lio_wake */
    CHECK_EQ(count_entries(path), 2);
    harness_close(h);
    close(directory);
    rmdir(path);
}

/* What the page cache has comes at once, in the loop; all else from the pool. */
static void test_many_reads(void)
{
    enum { READS = 200, SIZE = 4096 };
    char path[128];
    static char bytes[READS][SIZE];
    make_directory(path, sizeof path);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = openat(directory, "file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    MUST(directory >= 0 && fd >= 0);
    for (int i = 0; i < READS; i++) {
        memset(bytes[i], i, SIZE);
        MUST(pwrite(fd, bytes[i], SIZE, (off_t)i * SIZE) == SIZE);
        memset(bytes[i], 0xff, SIZE);
    }
    harness *h = harness_open("epoll", NULL, 256);
    for (int i = 0; i < READS; i++) {
        if (i == READS / 2) {
            MUST(fdatasync(fd) == 0);
            posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        }
        push(h, (uint64_t)i,
             (lio_op){.opcode = LIO_READ_AT,
                      .fd = fd,
                      .buf = bytes[i],
                      .len = SIZE,
                      .offset = (int64_t)i * SIZE});
    }
    for (int i = 0; i < READS; i++) {
        CHECK_EQ(harness_result(h, (uint64_t)i), SIZE);
        CHECK_EQ(bytes[i][0], (char)i);
        CHECK_EQ(bytes[i][SIZE - 1], (char)i);
    }
    /* Only part of it is in memory, perhaps: the answer is whole all the same. */
    posix_fadvise(fd, SIZE * 20, SIZE * 20, POSIX_FADV_DONTNEED);
    push(h, 1,
         (lio_op){.opcode = LIO_READ_AT, .fd = fd, .buf = bytes, .len = (uint64_t)SIZE * 40});
    CHECK_EQ(harness_result(h, 1), SIZE * 40);
    CHECK_EQ(bytes[39][SIZE - 1], 39);
    harness_close(h);
    unlinkat(directory, "file", 0);
    rmdir(path);
    close(directory);
    close(fd);
}

/* Reads what is cached, `count` pieces of 1 MiB in one turn; returns how many threads there are
 * then. */
static int read_pieces(harness *h, int fd, char *into, int count)
{
    enum { PIECE = 1 << 20 };
    for (int i = 0; i < count; i++)
        push(h, (uint64_t)i,
             (lio_op){.opcode = LIO_READ_AT,
                      .fd = fd,
                      .buf = into + (size_t)i * PIECE,
                      .len = PIECE,
                      .offset = (int64_t)i * PIECE});
    for (int i = 0; i < count; i++)
        CHECK_EQ(harness_result(h, (uint64_t)i), PIECE);
    return count_threads();
}

/* The loop copies 2 MiB of large reads in a turn, and has others to serve then. */
static void test_large_reads(void)
{
    enum { SIZE = 4 << 20 };
    char path[128];
    make_directory(path, sizeof path);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = openat(directory, "file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    char *bytes = malloc(SIZE), *into = calloc(1, SIZE);
    MUST(directory >= 0 && fd >= 0 && bytes != NULL && into != NULL);
    for (int i = 0; i < SIZE; i++)
        bytes[i] = (char)(i >> 12 ^ i);
    MUST(pwrite(fd, bytes, SIZE, 0) == SIZE);
    struct iovec iov = {into, SIZE};
    bool able = preadv2(fd, &iov, 1, 0, RWF_NOWAIT) == SIZE;
    memset(into, 0, SIZE);
    harness *h = harness_open("epoll", NULL, 64);
    int before = count_threads(); /* a sanitizer has one too */
    for (int turn = 0; turn < 3; turn++) {
        int threads = read_pieces(h, fd, into, 2);
        if (able)
            CHECK_EQ(threads, before);
    }
    CHECK(memcmp(bytes, into, SIZE / 2) == 0);
    CHECK(read_pieces(h, fd, into, 4) > before);
    CHECK(memcmp(bytes, into, SIZE) == 0);
    harness_close(h);
    unlinkat(directory, "file", 0);
    rmdir(path);
    close(directory);
    close(fd);
    free(bytes);
    free(into);
}

static void test_cancel(void)
{
    char path[128];
    make_directory(path, sizeof path);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    MUST(directory >= 0);
    int threads = count_threads();
    harness *h = harness_open("epoll", NULL, 64);
    CHECK_EQ(count_threads(), threads); /* none before it is needed */
    make_busy(h, 0, directory, THREADS_MAX + 4);
    CHECK_EQ(count_threads(), threads + THREADS_MAX);
    CHECK_EQ(harness_wait(h, 0), 0);
    for (uint64_t id = 0; id < THREADS_MAX + 4; id++)
        CHECK_EQ(lio_cancel(h->b, id), 0);
    CHECK_EQ(harness_wait(h, 0), 4); /* those that had not begun: at once */
    for (uint64_t id = THREADS_MAX; id < THREADS_MAX + 4; id++)
        CHECK_EQ(h->of[id].result, -ECANCELED);
    int writer = end_busy(directory);
    for (uint64_t id = 0; id < THREADS_MAX; id++) {
        CHECK(harness_result(h, id) >= 0); /* the others have their result */
        close((int)h->of[id].result);
    }
    harness_close(h);
    CHECK_EQ(count_threads_left(threads), threads);
    close(writer);
    unlinkat(directory, "fifo", 0);
    rmdir(path);
    close(directory);
}

static void *come_later(void *argument)
{
    struct timespec pause = {0, 100000000};
    nanosleep(&pause, NULL);
    int writer = end_busy(*(int *)argument);
    nanosleep(&pause, NULL);
    close(writer);
    return NULL;
}

/* The end waits for what runs, drops what is queued, and leaves no descriptor behind. */
static void test_close_with_work_running(void)
{
    char path[128];
    make_directory(path, sizeof path);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    MUST(directory >= 0);
    int threads = count_threads();
    int descriptors = count_entries("/proc/self/fd");
    harness *h = harness_open("epoll", NULL, 64);
    push_open(h, 40, directory, ".", O_RDONLY);
    CHECK_EQ(lio_flush(h->b), 1); /* finished, and never taken */
    make_busy(h, 0, directory, THREADS_MAX + 4);
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, come_later, &directory) == 0);
    harness_close(h);
    pthread_join(thread, NULL);
    CHECK_EQ(count_threads_left(threads), threads);
    CHECK_EQ(count_entries("/proc/self/fd"), descriptors);
    unlinkat(directory, "fifo", 0);
    rmdir(path);
    close(directory);
}

/* While threads are stuck, the loop is not. */
static void test_loop_goes_on(void)
{
    char path[128];
    int fds[2];
    make_directory(path, sizeof path);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    MUST(directory >= 0);
    harness *h = harness_open("epoll", NULL, 64);
    make_busy(h, 0, directory, 3);
    make_pair(fds);
    CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
    int64_t start = check_now();
    for (int i = 0; i < 100; i++) {
        push_recv(h, 50, fds[0], 10);
        push_send(h, 51, fds[0], "x", 1);
        MUST(write(fds[1], "y", 1) == 1);
        CHECK_EQ(harness_result(h, 50), 1);
        CHECK_EQ(harness_result(h, 51), 1);
    }
    CHECK_EQ(harness_wait(h, 10 * MS), 0);
    CHECK(check_now() - start < 1 * SECOND);
    int writer = end_busy(directory);
    for (uint64_t id = 0; id < 3; id++) {
        CHECK(harness_result(h, id) >= 0);
        close((int)h->of[id].result);
    }
    close(fds[0]);
    close(fds[1]);
    close(writer);
    harness_close(h);
    unlinkat(directory, "fifo", 0);
    rmdir(path);
    close(directory);
}

static void test_close_fd_waits_for_what_runs(void)
{
    char path[128];
    static char block[1 << 20];
    make_directory(path, sizeof path);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = openat(directory, "file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    MUST(directory >= 0 && fd >= 0);
    harness *h = harness_open("epoll", NULL, 64);
    for (uint64_t id = 0; id < 40; id++)
        push(h, id,
             (lio_op){.opcode = LIO_WRITE_AT,
                      .fd = fd,
                      .buf = block,
                      .len = sizeof block,
                      .offset = (int64_t)(id * sizeof block)});
    CHECK_EQ(lio_flush(h->b), 40);
    CHECK(lio_close_fd(h->b, fd) >= 0);
    CHECK(fcntl(fd, F_GETFD) < 0);
    harness_wait(h, 0);
    for (uint64_t id = 0; id < 40; id++) {
        CHECK(harness_is_done(h, id));
        CHECK(h->of[id].result == sizeof block || h->of[id].result == -ECANCELED);
    }
    harness_close(h);
    unlinkat(directory, "file", 0);
    rmdir(path);
    close(directory);
}

/* Queued for a file whose number was given to another one since. */
static void test_fd_reused_while_queued(void)
{
    char path[128], byte;
    make_directory(path, sizeof path);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = openat(directory, "file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int other = openat(directory, "other", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    MUST(directory >= 0 && fd >= 0 && other >= 0);
    harness *h = harness_open("epoll", NULL, 64);
    make_busy(h, 0, directory, THREADS_MAX);
    push(h, 50, (lio_op){.opcode = LIO_WRITE_AT, .fd = fd, .buf = "secret", .len = 6});
    push(h, 51, (lio_op){.opcode = LIO_WRITE, .fd = fd, .buf = "secret", .len = 6});
    push(h, 52, (lio_op){.opcode = LIO_CLOSE, .fd = other});
    CHECK_EQ(lio_flush(h->b), 3);
    MUST(dup2(other, fd) == fd);
    MUST(dup2(directory, other) == other);
    int writer = end_busy(directory);
    CHECK_EQ(harness_result(h, 50), -EBADF);
    CHECK_EQ(harness_result(h, 51), -EBADF);
    CHECK_EQ(harness_result(h, 52), -EBADF);
    CHECK_EQ(pread(fd, &byte, 1, 0), 0);
    CHECK(fcntl(other, F_GETFD) >= 0);
    for (uint64_t id = 0; id < THREADS_MAX; id++) {
        CHECK(harness_result(h, id) >= 0);
        close((int)h->of[id].result);
    }
    harness_close(h);
    close(writer);
    close(fd);
    close(other);
    unlinkat(directory, "fifo", 0);
    unlinkat(directory, "file", 0);
    unlinkat(directory, "other", 0);
    rmdir(path);
    close(directory);
}

static void test_without_pool(void)
{
    harness *h = harness_open("epoll", "file_pool", 16);
    lio_op op = {.opcode = LIO_OPENAT, .fd = AT_FDCWD, .path = "/", .flags = O_RDONLY};
    char byte;
    CHECK_EQ(lio_push(h->b, 1, &op), -ENOTSUP);
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    MUST(fd >= 0);
    push(h, 2, (lio_op){.opcode = LIO_READ, .fd = fd, .buf = &byte, .len = 1});
    CHECK_EQ(harness_result(h, 2), -ENOTSUP);
    push(h, 3, (lio_op){.opcode = LIO_CLOSE, .fd = fd});
    CHECK_EQ(harness_result(h, 3), 0);
    harness_close(h);
}

/* A file to a socket by way of a pipe, with the socket's reader slow. */
static void test_splice(void)
{
    enum { SIZE = 1 << 20 };
    char path[128];
    int ends[2], fds[2];
    static char block[SIZE];
    make_directory(path, sizeof path);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = openat(directory, "file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    MUST(directory >= 0 && fd >= 0 && write(fd, block, SIZE) == SIZE);
    MUST(pipe2(ends, O_CLOEXEC) == 0);
    make_tcp_pair(fds);
    for (int adopted = 0; adopted < 2; adopted++) {
        harness *h = harness_open("epoll", NULL, 16);
        if (adopted)
            CHECK_EQ(lio_adopt(h->b, fds[0]), 1);
        int64_t in = 0, out = 0, drunk = 0, until = check_now() + 5 * SECOND;
        stuff(fds[0]);
        lio_op fill = {.opcode = LIO_SPLICE, .fd = fd, .fd2 = ends[1], .len = SIZE};
        lio_op drain = {.opcode = LIO_SPLICE,
                        .fd = ends[0],
                        .fd2 = fds[0],
                        .len = SIZE,
                        .offset = -1,
                        .offset2 = -1};
        fill.offset2 = -1;
        push(h, 1, fill);
        push(h, 2, drain);
        CHECK(harness_result(h, 1) > 0);
        harness_wait(h, 20 * MS); /* the socket is full */
        while (harness_is_done(h, 2) && check_now() < until) {
            out += h->of[2].result; /* TCP found more room after all */
            stuff(fds[0]);
            push(h, 2, drain);
            harness_wait(h, 20 * MS);
        }
        CHECK_EQ(lio_cancel(h->b, 2), 0);
        CHECK_EQ(harness_result(h, 2), -ECANCELED);
        in = h->of[1].result;
        push(h, 2, drain);
        fill.offset = in;
        push(h, 1, fill); /* the pipe is full, too */
        while (out < SIZE && check_now() < until) {
            char sink[65536];
            ssize_t count = recv(fds[1], sink, sizeof sink, MSG_DONTWAIT);
            drunk += count > 0 ? count : 0;
            harness_wait(h, 0);
            if (harness_is_done(h, 1) && in < SIZE) {
                CHECK(h->of[1].result > 0);
                in += h->of[1].result;
                fill.offset = in;
                if (in < SIZE)
                    push(h, 1, fill);
            }
            if (harness_is_done(h, 2)) {
                CHECK(h->of[2].result > 0);
                out += h->of[2].result;
                if (out < SIZE)
                    push(h, 2, drain);
            }
        }
        if (in < SIZE) /* a thread may tell later than the pipe shows */
            in += harness_result(h, 1);
        CHECK_EQ(in, SIZE);
        CHECK_EQ(out, SIZE);
        CHECK(drunk > 0);
        harness_close(h);
        char sink[65536];
        while (recv(fds[1], sink, sizeof sink, MSG_DONTWAIT) > 0)
            continue;
    }
    for (int i = 0; i < 2; i++) {
        close(fds[i]);
        close(ends[i]);
    }
    close(fd);
    unlinkat(directory, "file", 0);
    rmdir(path);
    close(directory);
}

static const check_test tests[] = {
    TEST(test_every_operation),
    TEST(test_many_reads),
    TEST(test_large_reads),
    TEST(test_cancel),
    TEST(test_close_with_work_running),
    TEST(test_loop_goes_on),
    TEST(test_close_fd_waits_for_what_runs),
    TEST(test_fd_reused_while_queued),
    TEST(test_without_pool),
    TEST(test_splice),
};

int main(int argc, char **argv)
{
    return check_run(tests, sizeof tests / sizeof *tests, argc, argv);
}
