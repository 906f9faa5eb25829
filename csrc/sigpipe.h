/* sigpipe: calls that write to pipes have no MSG_NOSIGNAL. */
#ifndef LIO_SIGPIPE_H
#define LIO_SIGPIPE_H

#include <signal.h>
#include <stdbool.h>

typedef struct lio_sigpipe_guard {
    bool active, pending;
    sigset_t before;
} lio_sigpipe_guard;

/* Whether SIGPIPE would kill this process now. */
bool lio_sigpipe_kills(void);
/* No SIGPIPE of what this thread does between the two comes through; errno is kept. Three
 * system calls when `active`, else none. */
void lio_sigpipe_hold(lio_sigpipe_guard *guard, bool active);
void lio_sigpipe_release(const lio_sigpipe_guard *guard);

#endif
