#include "uring_ring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend.h"
#include "sigpipe.h"

static int sys_setup(uint32_t entries, struct uring_params *params)
{
    long fd = syscall(URING_NR_SETUP, entries, params);
    return fd < 0 ? -errno : (int)fd;
}

/* What to give up when the kernel says EINVAL, newest first, and with what it goes. */
static const struct {
    uint32_t capability;
    uint32_t flag;
    uint32_t needs; /* useless or refused without these */
} setup_ladder[] = {
    {LIO_CAP_NO_SQARRAY, URING_SETUP_NO_SQARRAY, 0},
    {LIO_CAP_DEFER_TASKRUN, URING_SETUP_DEFER_TASKRUN, LIO_CAP_SINGLE_ISSUER},
    {LIO_CAP_SINGLE_ISSUER, URING_SETUP_SINGLE_ISSUER, 0},
    {LIO_CAP_TASKRUN_FLAG, URING_SETUP_TASKRUN_FLAG, 0},
    {LIO_CAP_COOP_TASKRUN, URING_SETUP_COOP_TASKRUN, 0},
    {LIO_CAP_SUBMIT_ALL, URING_SETUP_SUBMIT_ALL, 0},
    {LIO_CAP_CQSIZE, URING_SETUP_CQSIZE, 0},
};
#define LADDER_LENGTH (sizeof setup_ladder / sizeof *setup_ladder)

static uint32_t setup_flags(uint32_t *wanted)
{
    /* Deferred task work is the stronger form of cooperative task work. */
    if (!(*wanted & LIO_CAP_SINGLE_ISSUER))
        *wanted &= ~(uint32_t)LIO_CAP_DEFER_TASKRUN;
    uint32_t use = *wanted;
    if (use & LIO_CAP_DEFER_TASKRUN)
        use &= ~(uint32_t)LIO_CAP_COOP_TASKRUN;
    else if (!(use & LIO_CAP_COOP_TASKRUN))
        use &= ~(uint32_t)LIO_CAP_TASKRUN_FLAG;
    uint32_t flags = URING_SETUP_CLAMP;
    for (size_t i = 0; i < LADDER_LENGTH; i++) {
        if (use & setup_ladder[i].capability)
            flags |= setup_ladder[i].flag;
    }
    return flags;
}

static uint32_t granted(uint32_t flags)
{
    uint32_t capabilities = 0;
    for (size_t i = 0; i < LADDER_LENGTH; i++) {
        if (flags & setup_ladder[i].flag)
            capabilities |= setup_ladder[i].capability;
    }
    return capabilities;
}

static int setup(lio_ring *ring, uint32_t entries, uint32_t cq_entries, uint32_t without,
                 struct uring_params *params)
{
    uint32_t wanted = ~without;
    for (size_t step = 0;; step++) {
        memset(params, 0, sizeof *params);
        params->flags = setup_flags(&wanted);
        if (params->flags & URING_SETUP_CQSIZE)
            params->cq_entries = cq_entries;
        ring->fd = sys_setup(entries, params);
        if (ring->fd >= 0) {
            ring->capabilities = granted(params->flags);
            return 0;
        }
        if (ring->fd != -EINVAL || step == LADDER_LENGTH)
            return ring->fd;
        wanted &= ~setup_ladder[step].capability;
    }
}

static int map(lio_ring *ring, const struct uring_params *params)
{
    size_t sq_size = params->sq_off.array + params->sq_entries * sizeof(uint32_t);
    size_t cq_size = params->cq_off.cqes + params->cq_entries * sizeof(struct uring_cqe);
    if (params->flags & URING_SETUP_NO_SQARRAY)
        sq_size = params->sq_off.array;
    ring->rings_size = sq_size > cq_size ? sq_size : cq_size;
    ring->sqes_size = params->sq_entries * sizeof(struct uring_sqe);
    const int protection = PROT_READ | PROT_WRITE;
    const int kind = MAP_SHARED | MAP_POPULATE;
    char *rings = mmap(NULL, ring->rings_size, protection, kind, ring->fd, URING_OFF_SQ_RING);
    if (rings == MAP_FAILED)
        return -errno;
    void *sqes = mmap(NULL, ring->sqes_size, protection, kind, ring->fd, URING_OFF_SQES);
    if (sqes == MAP_FAILED) {
        int error = -errno;
        munmap(rings, ring->rings_size);
        return error;
    }
    /* A child must not even see them. */
    if (madvise(rings, ring->rings_size, MADV_DONTFORK) != 0 ||
        madvise(sqes, ring->sqes_size, MADV_DONTFORK) != 0) {
        int error = -errno;
        munmap(rings, ring->rings_size);
        munmap(sqes, ring->sqes_size);
        return error;
    }
    ring->rings = rings;
    ring->sqes = sqes;
    ring->mapped = true;
    ring->sq_head = (uint32_t *)(rings + params->sq_off.head);
    ring->sq_tail = (uint32_t *)(rings + params->sq_off.tail);
    ring->sq_flags = (uint32_t *)(rings + params->sq_off.flags);
    ring->sq_entries = params->sq_entries;
    ring->sq_mask = params->sq_entries - 1;
    ring->cq_head = (uint32_t *)(rings + params->cq_off.head);
    ring->cq_tail = (uint32_t *)(rings + params->cq_off.tail);
    ring->cq_entries = params->cq_entries;
    ring->cq_mask = params->cq_entries - 1;
    ring->cqes = (struct uring_cqe *)(rings + params->cq_off.cqes);
    if (!(params->flags & URING_SETUP_NO_SQARRAY)) {
        uint32_t *array = (uint32_t *)(rings + params->sq_off.array);
        for (uint32_t i = 0; i < params->sq_entries; i++)
            array[i] = i;
    }
    return 0;
}

int lio_ring_open(lio_ring *ring, uint32_t entries, uint32_t cq_entries, uint32_t without)
{
    struct uring_params params;
    memset(ring, 0, sizeof *ring);
    ring->fd = -1;
    int error = setup(ring, entries, cq_entries, without, &params);
    if (error != 0)
        return error;
    ring->features = params.features;
    ring->sigpipe_kills = lio_sigpipe_kills();
    const uint32_t needed = URING_FEAT_SINGLE_MMAP | URING_FEAT_NODROP |
                            URING_FEAT_SUBMIT_STABLE | URING_FEAT_FAST_POLL;
    /* Before 5.7 an operation that cannot proceed takes a kernel thread: not for us. */
    error = (params.features & needed) == needed ? map(ring, &params) : -ENOTSUP;
    if (error != 0) {
        close(ring->fd);
        ring->fd = -1;
        return error;
    }
    if ((params.features & URING_FEAT_EXT_ARG) && !(without & LIO_CAP_EXT_ARG))
        ring->capabilities |= LIO_CAP_EXT_ARG;
    if ((params.features & URING_FEAT_NO_IOWAIT) && !(without & LIO_CAP_NO_IOWAIT))
        ring->capabilities |= LIO_CAP_NO_IOWAIT;
    return 0;
}

void lio_ring_close(lio_ring *ring, bool forked)
{
    if (ring->mapped && !forked) {
        munmap(ring->rings, ring->rings_size);
        munmap(ring->sqes, ring->sqes_size);
    }
    ring->mapped = false;
    if (ring->fd >= 0)
        close(ring->fd);
    ring->fd = -1;
}

uint32_t lio_ring_unsubmitted(const lio_ring *ring)
{
    return ring->sq_local - __atomic_load_n(ring->sq_head, __ATOMIC_ACQUIRE);
}

struct uring_sqe *lio_ring_sqe(lio_ring *ring)
{
    if (lio_ring_unsubmitted(ring) == ring->sq_entries)
        return NULL;
    struct uring_sqe *sqe = &ring->sqes[ring->sq_local & ring->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    ring->sq_local++;
    return sqe;
}

int lio_ring_enter(lio_ring *ring, uint32_t min_complete, int64_t timeout_ns, bool collect)
{
    struct uring_timespec ts;
    struct uring_getevents_arg arg = {0};
    unsigned flags = collect ? URING_ENTER_GETEVENTS : 0;
    void *argp = NULL;
    size_t arg_size = 0;
    if (min_complete != 0) {
        if (timeout_ns >= 0) {
            assert(ring->capabilities & LIO_CAP_EXT_ARG);
            ts.tv_sec = timeout_ns / 1000000000;
            ts.tv_nsec = timeout_ns % 1000000000;
            arg.ts = (uint64_t)(uintptr_t)&ts;
            argp = &arg;
            arg_size = sizeof arg;
            flags |= URING_ENTER_EXT_ARG;
        }
        if (ring->capabilities & LIO_CAP_NO_IOWAIT)
            flags |= URING_ENTER_NO_IOWAIT;
    }
    /* The entries must be whole before the kernel can see the new tail. */
    __atomic_store_n(ring->sq_tail, ring->sq_local, __ATOMIC_RELEASE);
    ring->syscalls++;
    lio_sigpipe_guard guard;
    lio_sigpipe_hold(&guard, ring->sigpipe_kills && ring->raises_sigpipe);
    ring->syscalls += guard.active ? 3 : 0;
    long done = syscall(URING_NR_ENTER, ring->fd, lio_ring_unsubmitted(ring), min_complete,
                        flags, argp, arg_size);
    lio_sigpipe_release(&guard);
    return done < 0 ? -errno : (int)done;
}

int lio_ring_register(lio_ring *ring, unsigned opcode, const void *arg, unsigned count)
{
    ring->syscalls++;
    long done = syscall(URING_NR_REGISTER, ring->fd, opcode, arg, count);
    return done < 0 ? -errno : (int)done;
}
