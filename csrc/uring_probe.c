/* uring_probe.c: what this kernel's io_uring offers, found out by use. */
#include "uring_probe.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "uring_pool.h"

int lio_uring_probe_opcodes(lio_ring *ring, uint8_t offered[URING_OP_LAST])
{
    struct uring_probe probe;
    memset(&probe, 0, sizeof probe);
    int error = lio_ring_register(ring, URING_REGISTER_PROBE, &probe, URING_OP_LAST);
    if (error < 0)
        return error;
    for (unsigned i = 0; i < probe.ops_len && i < URING_OP_LAST; i++)
        offered[i] = (probe.ops[i].flags & URING_OP_SUPPORTED) != 0;
    static const uint8_t needed[] = {URING_OP_NOP,         URING_OP_POLL_ADD, URING_OP_SENDMSG,
                                     URING_OP_RECVMSG,     URING_OP_TIMEOUT,  URING_OP_ACCEPT,
                                     URING_OP_CONNECT,     URING_OP_SEND,     URING_OP_RECV,
                                     URING_OP_ASYNC_CANCEL};
    for (size_t i = 0; i < sizeof needed; i++) {
        if (!offered[needed[i]])
            return -ENOTSUP;
    }
    return 0;
}

int lio_uring_register_files(lio_ring *ring, uint32_t count)
{
    struct uring_rsrc_register table = {.nr = count, .flags = URING_RSRC_REGISTER_SPARSE};
    int error = lio_ring_register(ring, URING_REGISTER_FILES2, &table, sizeof table);
    if (error < 0)
        return error;
    /* A file taken out of the table must be let go at once. Older kernels could keep it for
     * a while, and the peer of a closed socket would see its end late. */
    int ends[2];
    if (pipe(ends) != 0)
        return -errno;
    error = lio_uring_update_file(ring, 0, ends[1]);
    close(ends[1]);
    if (error == 0)
        error = lio_uring_update_file(ring, 0, -1);
    struct pollfd end = {.fd = ends[0], .events = POLLIN};
    if (error == 0 && (poll(&end, 1, 0) != 1 || !(end.revents & POLLHUP)))
        error = -ENOTSUP;
    close(ends[0]);
    return error;
}

int lio_uring_update_file(lio_ring *ring, uint32_t index, int32_t file)
{
    struct uring_files_update update = {.offset = index, .fds = (uint64_t)(uintptr_t)&file};
    int done = lio_ring_register(ring, URING_REGISTER_FILES_UPDATE, &update, 1);
    return done < 0 ? done : 0;
}

static const char *why_refused(int error)
{
    switch (error) {
    case -EPERM:
    case -EACCES:
        return "io_uring_setup is forbidden here: a seccomp filter (the default in Docker and "
               "containerd) or the sysctl kernel.io_uring_disabled";
    case -ENOSYS:
        return "this kernel has no io_uring, or a seccomp filter hides it";
    case -EMFILE:
    case -ENFILE:
        return "no file descriptor is left for a ring";
    case -ENOMEM:
        return "no memory is left for a ring (before Linux 5.12: RLIMIT_MEMLOCK)";
    default:
        return "io_uring is there, but refuses what trio-lio needs (Linux 5.7 or newer)";
    }
}

static int try_nop(lio_ring *ring)
{
    struct uring_sqe *sqe = lio_ring_sqe(ring);
    sqe->opcode = URING_OP_NOP;
    int done = lio_ring_enter(ring, 1, -1, true);
    return done < 0 ? done : 0;
}

void lio_uring_probe(uint32_t without, lio_probe_result *result)
{
    lio_ring ring;
    uint8_t offered[URING_OP_LAST] = {0};
    int error = lio_ring_open(&ring, 4, 8, without);
    if (error == 0) {
        result->capabilities = ring.capabilities;
        error = lio_uring_probe_opcodes(&ring, offered);
        if (error == 0)
            error = try_nop(&ring);
        if (!(without & LIO_CAP_FIXED_FILES) && lio_uring_register_files(&ring, 1) == 0)
            result->capabilities |= LIO_CAP_FIXED_FILES;
        lio_uring_pool pool;
        bool pooled = lio_uring_pool_init(&pool, 1, 0) == 0;
        if (pooled && !(without & LIO_CAP_BUF_RING) &&
            lio_uring_pool_register(&pool, &ring) == 0)
            result->capabilities |= LIO_CAP_BUF_RING;
        lio_ring_close(&ring, false);
        if (pooled)
            lio_uring_pool_free(&pool, false);
    }
    result->error = error;
    if (error != 0)
        strncpy(result->reason, why_refused(error), sizeof result->reason - 1);
}
