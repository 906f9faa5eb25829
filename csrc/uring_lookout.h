/* uring_lookout: what makes watching before sleeping free of a system call.
 *
 * There is something to watch for only once a receive is with the kernel, and to hand it over
 * is a call of its own. So while the backend watches at all (spin.h), a send that goes by
 * itself, on a socket from which the last request came, takes a poll for the answer along. The
 * receive that follows is then held back until that poll shows in the ring's flags, and goes
 * down with the call that collects: two calls for a round trip instead of three.
 *
 * A lookout takes nothing from the socket, and nobody waits for it. It holds the file, like
 * every request, so it ends when the descriptor is released. */
#ifndef LIO_URING_LOOKOUT_H
#define LIO_URING_LOOKOUT_H

#include "uring.h"

/* One operation alone is about to be submitted: adds a lookout if it is such a send. */
void lio_uring_look_out(lio_backend *b, uint32_t number);
/* Data came from a socket. */
void lio_uring_may_answer(lio_backend *b, const lio_slot *slot);
/* Whether all that is not submitted yet can wait until a lookout sees something. */
bool lio_uring_may_hold_back(lio_backend *b);
/* Whether the completion is a lookout's, which is over. */
bool lio_uring_lookout_over(lio_backend *b, uint64_t token);
/* The token of a descriptor's lookout. */
uint64_t lio_uring_lookout_token(lio_fd fd);

#endif
