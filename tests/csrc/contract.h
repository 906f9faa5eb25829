/* contract.h: tests that hold for every backend. A test is a function over the backend that
 * `variant` names; contract_run runs each of them on every backend of this build, on io_uring
 * also as if the kernel were an older one. What cannot be opened here is skipped, and says
 * why. */
#ifndef LIO_CONTRACT_H
#define LIO_CONTRACT_H

#ifndef HARNESS_IDS
#define HARNESS_IDS 16384
#endif
#include "check.h"

typedef struct contract_variant {
    const char *label, *backend, *without;
    const lio_faults *faults;
} contract_variant;

/* What no test may notice: what is done comes late, out of order and in small portions. */
static const lio_faults slow = {.seed = 7, .delay = 0.3, .overflow = 0.3};

/* The pollers go first: the end of a ring is asynchronous, and the kernel interrupts the thread
 * that had it for that, whatever it waits in by then. An epoll_wait ends with EINTR. */
static const contract_variant contract_variants[] = {
    {"sim", "sim", NULL, NULL},
    {"sim_slow", "sim", NULL, &slow},
    {"epoll", "epoll", NULL, NULL},
    {"epoll_slow", "epoll", NULL, &slow},
    {"epoll_old", "epoll", "edge_triggered,pwait2,wipe_on_fork", NULL},
    {"kqueue", "kqueue", NULL, NULL},
    {"kqueue_old", "kqueue", "edge_triggered,user_event,wipe_on_fork", NULL},
    {"uring", "uring", NULL, NULL},
    {"uring_slow", "uring", NULL, &slow},
    {"uring_no_tables", "uring", "buf_ring,fixed_files", NULL},
    {"uring_coop", "uring", "defer_taskrun", NULL},
    {"uring_old", "uring",
     "single_issuer,defer_taskrun,taskrun_flag,coop_taskrun,submit_all,cqsize,no_sqarray,"
     "ext_arg,buf_ring,fixed_files,wipe_on_fork",
     NULL},
};

static const contract_variant *variant;

static inline bool on_uring(void)
{
    return strcmp(variant->backend, "uring") == 0;
}

static inline bool on_sim(void)
{
    return strcmp(variant->backend, "sim") == 0;
}

/* The file is claimed with the kernel, and operations reach it whoever reuses its number. */
static inline bool claims(const harness *h)
{
    return on_uring() || on_sim() || (lio_capabilities(h->b) & LIO_CAP_EDGE_TRIGGERED) != 0;
}

static inline harness *contract_open(uint32_t capacity)
{
    const lio_options options = {
        .without = variant->without, .faults = variant->faults, .seed = 7};
    return harness_open_with(variant->backend, &options, capacity);
}

static inline void claim(harness *h, int fd)
{
    CHECK_EQ(lio_adopt(h->b, fd), claims(h));
}

/* With an argument NAME or NAME_LABEL: only these. */
static inline int contract_run(const check_test *tests, size_t count, int argc, char **argv)
{
    int failed = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t v = 0; v < sizeof contract_variants / sizeof *contract_variants; v++) {
        variant = &contract_variants[v];
        const lio_options options = {.without = variant->without};
        lio_probe_result found;
        int error = lio_probe(variant->backend, &options, &found);
        if (error != 0 || found.error != 0) {
            printf("skipped: %s: %s\n", variant->label,
                   error != 0 ? strerror(-error) : found.reason);
            continue;
        }
        for (size_t i = 0; i < count; i++) {
            char name[256];
            snprintf(name, sizeof name, "%s_%s", tests[i].name, variant->label);
            if (argc > 1 && strcmp(argv[1], tests[i].name) != 0 && strcmp(argv[1], name) != 0)
                continue;
            int before = check_failures;
            printf("%s\n", name);
            tests[i].run();
            failed += check_failures != before;
        }
    }
    printf("%s: %d failed\n", failed == 0 ? "ok" : "FAILED", failed);
    return failed != 0;
}

/* -- operations -------------------------------------------------------------------- */

/* Pushes one operation and waits for it; its result, or why it was refused. */
static inline int64_t perform(harness *h, lio_op op)
{
    const uint64_t id = HARNESS_IDS - 1;
    h->of[id].done = false;
    int error = lio_push(h->b, id, &op);
    return error != 0 ? error : harness_result(h, id);
}

static inline lio_stats stats_of(const harness *h)
{
    lio_stats stats;
    MUST(lio_get_stats(h->b, &stats) == 0);
    return stats;
}

/* Lets everything that is due happen, and makes sure that `id` is not among it. */
static inline void still_waits(harness *h, uint64_t id)
{
    for (int i = 0; i < 3; i++)
        harness_wait(h, 2 * MS);
    CHECK(!h->of[id].done);
}

static inline void doze(int64_t ns)
{
    const struct timespec pause = {.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
    nanosleep(&pause, NULL);
}

/* -- descriptors ------------------------------------------------------------------- */

static inline void close_pair(int fds[2])
{
    for (int i = 0; i < 2; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
}

/* How many descriptors this process has open. */
static inline int count_fds(void)
{
    int count = 0;
    for (int fd = 0; fd < 20000; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* What the peer reads at this moment: bytes, 0 at the end, or -EAGAIN. */
static inline int64_t peer_reads(int fd)
{
    char bytes[65536];
    ssize_t count = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    return count < 0 ? -errno : count;
}

static inline uint32_t next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* A folder of this program's own. */
static inline const char *scratch(void)
{
    static char path[] = "/tmp/lio_contract_XXXXXX";
    static bool made;
    if (!made)
        MUST(mkdtemp(path) != NULL);
    made = true;
    return path;
}

#endif
