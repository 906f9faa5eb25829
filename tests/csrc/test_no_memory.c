/* Memory that runs out: at each allocation of the core in turn. What fails leaves nothing
 * behind and can be tried again; what is in flight goes on. */
#include <sys/mman.h>

#include "../../csrc/op_store.h"
#include "contract.h"

/* The program is linked so that the core's allocations come here. */
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_mmap(void *addr, size_t size, int protection, int flags, int fd, off_t offset);
void __real_free(void *memory);
int __real_munmap(void *addr, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_mmap(void *addr, size_t size, int protection, int flags, int fd, off_t offset);
void __wrap_free(void *memory);
int __wrap_munmap(void *addr, size_t size);

static int until_failure = -1; /* -1: never */
static long blocks, mappings;  /* there are now; atomic, for the threads of the pool */

static bool fails(void)
{
    return until_failure >= 0 && until_failure-- == 0;
}

static void *counted(void *memory)
{
    if (memory != NULL)
        __atomic_add_fetch(&blocks, 1, __ATOMIC_RELAXED);
    return memory;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : counted(__real_calloc(count, size));
}

void *__wrap_realloc(void *old, size_t size)
{
    if (fails())
        return NULL;
    return old == NULL ? counted(__real_realloc(old, size)) : __real_realloc(old, size);
}

void __wrap_free(void *memory)
{
    if (memory != NULL)
        __atomic_sub_fetch(&blocks, 1, __ATOMIC_RELAXED);
    __real_free(memory);
}

void *__wrap_mmap(void *addr, size_t size, int protection, int flags, int fd, off_t offset)
{
    if (fails()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    void *memory = __real_mmap(addr, size, protection, flags, fd, offset);
    mappings += memory != MAP_FAILED;
    return memory;
}

int __wrap_munmap(void *addr, size_t size)
{
    mappings--;
    return __real_munmap(addr, size);
}

static void test_init_without_memory(void)
{
    const lio_options options = {.without = variant->without};
    bool done = false;
    int failed = 0, before_fds = count_fds();
    for (int at = 0; !done; at++) {
        long before_blocks = blocks, before_mappings = mappings;
        lio_backend *b = NULL;
        until_failure = at;
        int error = lio_create(variant->backend, &options, &b);
        if (error == 0) {
            error = lio_init(b, 1000);
            done = until_failure >= 0; /* there was none to fail any more */
            until_failure = -1;
            if (error != 0) {
                CHECK_EQ(error, -ENOMEM);
                CHECK_EQ(lio_init(b, 1000), 0); /* it may be tried again */
            }
            /* With a shortage that it can live with: it works. */
            const lio_completion *records;
            lio_op nop = {.opcode = LIO_NOP};
            CHECK_EQ(lio_push(b, 1, &nop), 0);
            CHECK_EQ(lio_wait(b, 5 * SECOND, &records), 1);
            lio_destroy(b);
        } else {
            until_failure = -1;
            CHECK_EQ(error, -ENOMEM);
        }
        failed += error == -ENOMEM;
        CHECK_EQ(blocks, before_blocks);
        CHECK_EQ(mappings, before_mappings);
        CHECK_EQ(count_fds(), before_fds);
        MUST(at < 100);
    }
    CHECK(failed > 5);
}

static void test_growing_without_memory(void)
{
    enum { START = 16, MORE = 3000 };
    bool done = false;
    for (int at = 0; !done; at++) {
        harness *h = contract_open(START);
        int fds[2];
        make_pair(fds);
        char bytes[10];
        push(h, 1, (lio_op){.opcode = LIO_RECVFROM, .fd = fds[0], .buf = bytes, .len = 10});
        push_timeout(h, 2, 3600 * SECOND);
        CHECK_EQ(lio_flush(h->b), 2);
        push_timeout(h, 3, 3600 * SECOND);
        until_failure = at;
        int error = lio_grow(h->b, MORE);
        done = until_failure >= 0;
        until_failure = -1;
        CHECK_EQ(error, done ? 0 : -ENOMEM);
        CHECK_EQ(stats_of(h).capacity, done ? START + MORE : START);
        if (!done) {
            for (uint64_t id = 4; id <= START; id++)
                push_timeout(h, id, 3600 * SECOND);
            lio_op nop = {.opcode = LIO_NOP};
            CHECK_EQ(lio_push(h->b, START + 1, &nop), -ENOBUFS);
            CHECK_EQ(lio_flush(h->b), START - 2);
            CHECK_EQ(lio_grow(h->b, MORE), 0);
        }
        for (uint64_t id = START + 1; id < START + MORE - 20; id++)
            push(h, id, (lio_op){.opcode = LIO_NOP});
        for (uint64_t id = START + 1; id < START + MORE - 20; id++)
            CHECK_EQ(harness_result(h, id), 0);
        MUST(write(fds[1], "moved?", 6) == 6);
        CHECK_EQ(harness_result(h, 1), 6);
        CHECK(memcmp(bytes, "moved?", 6) == 0);
        close_pair(fds);
        harness_close(h);
        MUST(at < 100);
    }
}

/* A turn that wants memory for what lio_grow made room for gets it at the next one. */
static void test_turns_without_memory(void)
{
    for (int at = 0; at < 4; at++) {
        harness *h = contract_open(16);
        CHECK_EQ(lio_grow(h->b, 1000), 0);
        for (uint64_t id = 0; id < 500; id++)
            push_timeout(h, id, 0);
        const lio_completion *records;
        until_failure = at;
        int count = lio_wait(h->b, 0, &records);
        until_failure = -1;
        CHECK(count >= 0 || count == -ENOMEM);
        for (int i = 0; i < count; i++)
            h->of[records[i].id].done = true;
        for (uint64_t id = 0; id < 500; id++)
            CHECK(harness_result(h, id) != NEVER);
        harness_close(h);
    }
}

static void test_descriptors_without_memory(void)
{
    harness *h = contract_open(16);
    char byte;
    for (int at = 0; at < 2; at++) {
        lio_op op = {.opcode = LIO_RECV, .fd = 100000 * (at + 1), .buf = &byte, .len = 1};
        until_failure = at;
        CHECK_EQ(lio_push(h->b, 1, &op), -ENOMEM);
        until_failure = -1;
        CHECK_EQ(stats_of(h).in_flight, 0);
        CHECK_EQ(perform(h, op), -EBADF);
    }
    harness_close(h);
}

static const check_test tests[] = {
    TEST(test_init_without_memory),
    TEST(test_growing_without_memory),
    TEST(test_turns_without_memory),
    TEST(test_descriptors_without_memory),
};

int main(int argc, char **argv)
{
    return contract_run(tests, sizeof tests / sizeof *tests, argc, argv);
}
