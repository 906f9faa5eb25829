/* fifo_open: opens a FIFO, which waits until somebody opens its other end, perhaps for ever. It
 * has a thread to itself, so that no other work on files waits behind it, and can be made to
 * give up: by a signal to that thread, as nothing else ends such an open for it alone. (To open
 * the other end for a moment would let in everybody who waits there, other processes too.)
 * Linux. */
#ifndef LIO_FIFO_OPEN_H
#define LIO_FIFO_OPEN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* All zero at first. Both threads use it: it has to stay until lio_open_fifo has returned, and
 * lio_give_up_fifo too. */
typedef struct lio_fifo_open {
    uint32_t state;
    uint32_t given_up;
    int32_t thread;
    int32_t signal;
} lio_fifo_open;

/* 1: the path names a FIFO. 0: it does not, or that cannot be told without waiting for a disk
 * or a network (a kernel before Linux 5.12 never can). */
int lio_is_fifo(const char *path);
/* Blocks the calling thread. The descriptor or a negative errno; -ECANCELED: gave up.
 *
 * Takes, from SIGRTMAX downwards, the first of 8 signals that nobody has a use for, and leaves
 * a handler there that does nothing. If there is none such an open cannot be given up. */
int64_t lio_open_fifo(lio_fifo_open *opening, const char *path, int flags, uint32_t mode);
/* Has another thread's lio_open_fifo give up, now or as soon as it begins; blocks until it is
 * over, however it ends. */
void lio_give_up_fifo(lio_fifo_open *opening);

#ifdef __cplusplus
}
#endif
#endif
