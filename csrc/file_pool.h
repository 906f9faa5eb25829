/* file_pool: threads that do what would block the loop, because the kernel offers it no
 * other way: to a poller a regular file is always "ready", and then the disk is waited for.
 *
 * A job lives in its slot's extra memory, which never moves, so that the pool allocates
 * nothing. It holds a copy of the operation: threads never look at slots, whose table the
 * owner may be growing. Everything here but the threads' work is the owner's to call. */
#ifndef LIO_FILE_POOL_H
#define LIO_FILE_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "lio.h"

#define LIO_FILE_THREADS 8u

/* sendfile(2): LIO_SPLICE from a file to a socket, where it goes without a pipe. (On Linux it
 * stands in for those of macOS and FreeBSD, in the tests of backend "kqueue".) */
#if defined(__APPLE__) || defined(__FreeBSD__) || (defined(__linux__) && defined(LIO_KQUEUE))
#define LIO_HAS_SENDFILE 1
#endif

typedef struct lio_file_pool lio_file_pool;

enum lio_job_state { LIO_JOB_IDLE, LIO_JOB_QUEUED, LIO_JOB_RUNNING, LIO_JOB_FINISHED };

typedef struct lio_file_job {
    struct lio_file_job *next, *prev;
    lio_op op;
    uint64_t moved;          /* bytes of a transfer that were moved before it came here */
    int64_t result;          /* once finished */
    uint64_t identity[2][2]; /* which files fd and fd2 were when it came */
    uint32_t number;
    uint8_t state; /* enum lio_job_state */
    uint8_t ends;  /* how many of those count: 0, 1 or 2 */
} lio_file_job;

/* Whether an opcode always works on files, and so always comes here. */
bool lio_opcode_is_file(uint8_t opcode);

/* Starts no thread yet. `notify` is called, by any thread of the pool, when finished jobs
 * begin to wait for lio_file_pool_take. NULL: no memory. */
lio_file_pool *lio_file_pool_new(void (*notify)(void *), void *argument);
/* 0, or a negative errno when there is no thread and none could be started. */
int lio_file_pool_add(lio_file_pool *pool, lio_file_job *job);
/* True: it had not begun, and is the caller's again. */
bool lio_file_pool_cancel(lio_file_pool *pool, lio_file_job *job);
/* Waits for a job that runs or ran; it is the caller's again. */
void lio_file_pool_finish(lio_file_pool *pool, lio_file_job *job);
/* The next finished job, or NULL. */
lio_file_job *lio_file_pool_take(lio_file_pool *pool);
/* Ends the threads once they have finished what they run; nothing may be queued. False: one
 * of them still waits for a file that does not answer after `patience_ns`. It has been
 * left to itself, and the memory of its job must stay. */
bool lio_file_pool_close(lio_file_pool *pool, int64_t patience_ns);
/* In a forked child, which has no such threads: frees the memory. */
void lio_file_pool_forget(lio_file_pool *pool);

/* Notes which files a job is about. 0 or a negative errno. */
int lio_file_job_prepare(lio_file_job *job);
/* Does it: blocks, and answers with a result or a negative errno. A descriptor that was closed
 * meanwhile and names another file is -EBADF. */
int64_t lio_file_job_perform(const lio_file_job *job);
/* The operation itself. */
int64_t lio_file_perform(const lio_op *op, uint64_t moved);

#endif
