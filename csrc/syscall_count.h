/* syscall_count: how many system calls another process makes, all its threads together, by
 * ptrace. The process runs on afterwards. Meanwhile it is slow, and nobody else may trace it
 * or wait for it (a waitpid of its parent would take the stops away). */
#ifndef LIO_SYSCALL_COUNT_H
#define LIO_SYSCALL_COUNT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { LIO_SYSCALL_NUMBERS = 512 };

typedef struct lio_syscall_options {
    int32_t pid;
    int32_t reserved;
    int64_t duration_ns;  /* 0: until stop is set or the process ends */
    const uint32_t *stop; /* NULL, or set by another thread to end early */
    /* NULL, or a counter in this process of the work that the calls do, read when counting
     * starts and when it ends: lio_load_progress.requests, for example. */
    const uint64_t *work;
} lio_syscall_options;

typedef struct lio_syscall_counts {
    uint64_t total;
    uint64_t work; /* by how much *options->work grew */
    int64_t elapsed_ns;
    uint32_t threads; /* seen, those that started or ended meanwhile included */
    uint32_t exited;  /* 1: the process ended */
    uint64_t by_number[LIO_SYSCALL_NUMBERS]; /* larger numbers are only in total */
} lio_syscall_counts;

/* A call counts when it is entered. Blocks the calling thread. -EPERM: ptrace is not allowed
 * here (seccomp, kernel.yama.ptrace_scope, another user's process), or the process is traced
 * already; -ESRCH: no such process; -ENOTSUP: the kernel is older than Linux 5.3. */
int lio_count_syscalls(const lio_syscall_options *options, lio_syscall_counts *counts);

#ifdef __cplusplus
}
#endif
#endif
