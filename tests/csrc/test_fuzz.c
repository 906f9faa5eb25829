/* test_fuzz.c: garbage through the raw contract. Every operation that is pushed, with whatever
 * in its fields, gets one completion or is taken back; nothing else is ever heard of it; in the
 * end nothing is in flight and no descriptor is left.
 *
 *     LIO_FUZZ_SEED=7 LIO_FUZZ_STEPS=1000000 test_fuzz
 *
 * Pointers are NULL or name memory that is there, and lengths may lie. Numbers are those of
 * files made for it, or of none. */
#include <dirent.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "contract.h"

#define IDS 64
#define BUFFER 65536
#define BEYOND (UINT64_C(5) << 30)
#define FILES 12

static uint32_t seed;
static uint64_t steps = 4000;

static uint32_t any(uint32_t below)
{
    return next_random(&seed) % below;
}

static uint64_t odd_number(void)
{
    static const uint64_t odd[] = {
        0,         1,          2,
        7,         100,        4096,
        65535,     65536,      INT32_MAX,
        1u << 31,  UINT32_MAX, UINT64_C(1) << 32,
        INT64_MAX, UINT64_MAX, UINT64_MAX - 1,
    };
    uint32_t choice = any(24);
    if (choice < sizeof odd / sizeof *odd)
        return odd[choice];
    return choice < 21 ? any(BUFFER) : (uint64_t)next_random(&seed) << 32 | next_random(&seed);
}

static uint32_t odd_flags(void)
{
    return any(3) == 0 ? (uint32_t)odd_number() : any(2) == 0 ? 0 : 1u << any(32);
}

/* -- files that may be hurt -------------------------------------------------------- */

typedef struct sandbox {
    int fds[FILES];
    int folder;
    char *memory;
    lio_iovec vectors[4];
} sandbox;

static void make_files(sandbox *s)
{
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s->fds) == 0);
    MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, s->fds + 2) == 0);
    struct sockaddr_in addr;
    s->fds[4] = make_listener(&addr);
    s->fds[5] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    s->fds[6] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    MUST(pipe2(s->fds + 7, O_NONBLOCK) == 0);
    s->fds[9] = memfd_create("file", 0);
    MUST(s->fds[9] >= 0 && ftruncate(s->fds[9], 1000) == 0);
    s->fds[10] = dup(s->folder);
    s->fds[11] = open("/dev/null", O_RDWR);
    for (int i = 0; i < FILES; i++)
        MUST(s->fds[i] >= 0);
}

static void sandbox_open(sandbox *s)
{
    s->folder = open(scratch(), O_RDONLY | O_DIRECTORY);
    MUST(s->folder >= 0);
    /* What a length claims beyond it faults. */
    s->memory = mmap(NULL, 2 * BUFFER + BEYOND, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(s->memory != MAP_FAILED);
    MUST(mprotect(s->memory, 2 * BUFFER, PROT_READ | PROT_WRITE) == 0);
    for (int i = 0; i < 4; i++)
        s->vectors[i] = (lio_iovec){s->memory + i * 1000, 1000};
    s->vectors[3] = (lio_iovec){NULL, 7};
    make_files(s);
}

/* A name that operations made is anything: a link, a folder, a file without permissions. */
static void empty_folder(int folder)
{
    DIR *dir = fdopendir(dup(folder));
    MUST(dir != NULL);
    rewinddir(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            unlinkat(folder, entry->d_name, 0) != 0)
            MUST(unlinkat(folder, entry->d_name, AT_REMOVEDIR) == 0);
    }
    closedir(dir);
}

static void close_files(sandbox *s)
{
    for (int i = 0; i < FILES; i++)
        close(s->fds[i]); /* unless an operation did */
}

static void sandbox_close(sandbox *s)
{
    close_files(s);
    empty_folder(s->folder);
    close(s->folder);
    munmap(s->memory, 2 * BUFFER + BEYOND);
}

static lio_fd some_fd(const sandbox *s)
{
    static const lio_fd none[] = {-1, -100, 1000000, INT32_MAX, INTPTR_MAX, INTPTR_MIN};
    return any(8) != 0 ? s->fds[any(FILES)] : none[any(sizeof none / sizeof *none)];
}

static lio_op some_op(const sandbox *s)
{
    static const char *const paths[] = {NULL, "", "file", "a", "b", "no/such"};
    static const struct sockaddr_storage nowhere = {.ss_family = AF_INET};
    lio_op op = {
        .opcode = (uint8_t)any(LIO_OPCODE_COUNT + 3),
        .op_flags = (uint8_t)(any(4) == 0 ? any(256) : any(3)),
        .flags = odd_flags(),
        .fd = some_fd(s),
        .fd2 = some_fd(s),
        .len = odd_number(),
        .offset = (int64_t)odd_number(),
        .offset2 = (int64_t)odd_number(),
        .mode = (uint32_t)odd_number(),
    };
    if (lio_opcode_is_vectored(op.opcode)) {
        op.buf = any(5) == 0 ? NULL : (void *)s->vectors;
        op.len = any(5) == 0 ? UINT64_MAX - any(2) : any(5);
        if (any(4) == 0) {
            op.control = s->memory;
            op.control_len = any(300);
        }
    } else if (lio_opcode_has_path(op.opcode)) {
        op.buf = s->memory;
        op.fd2 = op.fd = s->fds[10];
    } else {
        op.buf = any(5) == 0 ? NULL : s->memory + BUFFER;
    }
    if (any(2) == 0 && op.control == NULL)
        op.path2 = paths[any(6)];
    if (lio_opcode_has_path(op.opcode)) {
        op.path = paths[any(6)];
        op.path2 = paths[any(6)];
    } else if (any(3) == 0) {
        op.addr = any(3) == 0 ? (const void *)s->memory : (const void *)&nowhere;
        op.addr_len =
            (uint16_t)(any(2) == 0 ? sizeof(struct sockaddr_in) : any(LIO_ADDR_MAX + 1));
    }
    if (op.opcode == LIO_TIMEOUT && any(2) == 0)
        op.offset = any(1000);
    return op;
}

/* -- the books --------------------------------------------------------------------- */

typedef struct books {
    harness *h;
    bool in_flight[IDS];
    uint8_t opcode[IDS];
    int count;
} books;

static void settle_one(books *k, const lio_completion *record)
{
    if (record->id > LIO_ID_MAX)
        return; /* a wake-up or a signal */
    CHECK(record->id < IDS);
    if (record->id >= IDS)
        return;
    CHECK(k->in_flight[record->id]);
    k->in_flight[record->id] = false;
    k->count--;
    lio_discard_result(k->opcode[record->id], record->result);
    void *base;
    size_t size;
    CHECK_EQ(lio_pool(k->h->b, &base, &size), 0);
    CHECK(record->data < 0 || record->data + record->result <= (int64_t)size);
    CHECK(record->detail < 0 || record->detail + (int64_t)sizeof(lio_msg) <= (int64_t)size);
}

static void collect(books *k, int64_t timeout_ns)
{
    const lio_completion *records;
    int count = lio_wait(k->h->b, timeout_ns, &records);
    CHECK(count >= 0);
    for (int i = 0; i < count; i++)
        settle_one(k, &records[i]);
}

static void push_some(books *k, const sandbox *s)
{
    lio_op op = some_op(s);
    /* Both are refused: one is reserved, one is in flight. */
    uint64_t id = any(20) == 0 ? LIO_ID_MAX + 1 + any(3) : any(IDS);
    int error = lio_push(k->h->b, id, &op);
    CHECK(error <= 0);
    if (id >= IDS || k->in_flight[id]) {
        CHECK(error != 0);
    } else if (error == 0) {
        CHECK(op.opcode < LIO_OPCODE_COUNT);
        k->in_flight[id] = true;
        k->opcode[id] = op.opcode;
        k->count++;
    }
}

static void cancel_one(books *k, uint64_t id)
{
    bool known = id < IDS && k->in_flight[id];
    int answer = lio_cancel(k->h->b, id);
    CHECK(known ? answer == 0 || answer == 1 : answer < 0);
    if (answer == 1) {
        k->in_flight[id] = false;
        k->count--;
    }
}

static void step(books *k, sandbox *s)
{
    lio_backend *b = k->h->b;
    uint32_t what = any(100);
    if (what < 60) {
        push_some(k, s);
    } else if (what < 72) {
        cancel_one(k, any(10) == 0 ? odd_number() : any(IDS));
    } else if (what < 80) {
        CHECK(lio_flush(b) >= 0);
    } else if (what < 90) {
        collect(k, any(20) == 0 ? MS / 10 : 0);
    } else if (what < 92) {
        CHECK_EQ(lio_wake(b), 0);
    } else if (what < 94) {
        (void)lio_adopt(b, some_fd(s));
    } else if (what < 96) {
        (void)lio_release_fd(b, some_fd(s));
    } else if (what < 97) {
        CHECK(lio_wait_ready(b, 0) >= 0);
    } else if (what < 98) {
        CHECK(stats_of(k->h).in_flight >= (uint64_t)k->count);
    } else if (what < 99) {
        CHECK(lio_grow(b, any(2) == 0 ? any(4) : UINT32_MAX - any(4)) <= 0);
    } else {
        /* Close them all, and begin again with the same numbers. */
        for (int i = 0; i < FILES; i++)
            (void)lio_close_fd(b, s->fds[i]);
        close_files(s);
        make_files(s);
    }
}

static void finish(books *k)
{
    for (uint64_t id = 0; id < IDS; id++) {
        if (k->in_flight[id])
            cancel_one(k, id);
    }
    int64_t until = check_now() + 20 * SECOND;
    while (k->count > 0 && check_now() < until)
        collect(k, SECOND / 10);
    CHECK_EQ(k->count, 0);
    for (uint64_t id = 0; id < IDS; id++) {
        if (k->in_flight[id])
            printf("    opcode %d is still in flight\n", k->opcode[id]);
    }
}

static void test_garbage(void)
{
    for (uint32_t round = 0; round < 4; round++) {
        const char *given = getenv("LIO_FUZZ_SEED");
        seed = (given != NULL ? (uint32_t)strtoul(given, NULL, 10) : 1) * 2654435761u + round;
        if (seed == 0)
            seed = 1;
        int before = count_fds(), failures = check_failures;
        sandbox s;
        sandbox_open(&s);
        books k = {.h = contract_open(1 + any(IDS))};
        /* Such rings finish a write to a pipe within any later system call. */
        bool guarded = !on_uring() || lio_capabilities(k.h->b) & LIO_CAP_DEFER_TASKRUN;
        signal(SIGPIPE, guarded ? SIG_DFL : SIG_IGN);
        for (uint64_t i = 0; i < steps / 4 && check_failures == failures; i++)
            step(&k, &s);
        /* Half of the rounds leave it to lio_close to end what is in flight. */
        if (round % 2 == 0)
            finish(&k);
        harness_close(k.h);
        sandbox_close(&s);
        CHECK_EQ(count_fds(), before);
        if (check_failures != failures)
            printf("    with LIO_FUZZ_SEED=%s\n", given != NULL ? given : "1");
    }
}

static const check_test tests[] = {TEST(test_garbage)};

int main(int argc, char **argv)
{
    const char *given = getenv("LIO_FUZZ_STEPS");
    if (given != NULL)
        steps = strtoull(given, NULL, 10);
    return contract_run(tests, sizeof tests / sizeof *tests, argc, argv);
}
