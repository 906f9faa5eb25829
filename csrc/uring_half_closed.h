/* uring_half_closed: waiting for writability after the peer closed its sending side.
 *
 * io_uring adds POLLRDHUP to every poll, also to one that asks for POLLOUT alone (the
 * kernel's IO_POLL_UNMASK). Once the peer has shut down its sending side, such a poll
 * completes at once, for ever, whether one can send or not; and a send that the kernel polls
 * for by itself is retried 128 times and then blocks one of the few worker threads. An HTTP
 * client that half-closes after its request, and reads slowly, would do that to a server.
 *
 * So sends go with MSG_DONTWAIT and wait by a poll of ours; and when that poll brings nothing
 * but the half-close, the descriptor is watched by an epoll set, which knows the difference,
 * and the ring watches the set.
 */
#ifndef LIO_URING_HALF_CLOSED_H
#define LIO_URING_HALF_CLOSED_H

#include <stdbool.h>
#include <stdint.h>

typedef struct lio_half_closed {
    int fd;           /* the epoll set; -1 until the first is needed */
    uint32_t waiting; /* operations that wait by it */
    bool armed;       /* the ring watches the set */
} lio_half_closed;

/* Waits once for writability of a descriptor. 0 or a negative errno. */
int lio_half_closed_watch(lio_half_closed *half, int fd);
void lio_half_closed_forget(lio_half_closed *half, int fd);
/* One descriptor that became writable, or -1. */
int lio_half_closed_next(lio_half_closed *half);
void lio_half_closed_close(lio_half_closed *half);

#endif
