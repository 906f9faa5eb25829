/* floor_server: an echo server in C on a bare io_uring, for the benchmarks: what the kernel
 * alone costs on this machine. One thread, no timeouts, no limits: not for anything else. */
#ifndef LIO_FLOOR_SERVER_H
#define LIO_FLOOR_SERVER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Serves a listening TCP socket until *stop is set (looked at once a batch) or something
 * fails that is not one connection's own. buffer_bytes: the most that one receive takes.
 * Returns a negative errno, or 0 when stopped. */
int lio_floor_serve(int listener, uint32_t buffer_bytes, const uint32_t *stop);

#ifdef __cplusplus
}
#endif
#endif
