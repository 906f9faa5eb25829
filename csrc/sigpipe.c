/* sigpipe.c: holds SIGPIPE back, and takes away the one that came of it. */
#include "sigpipe.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>

static bool is_pending(void)
{
    sigset_t pending;
    return sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1;
}

bool lio_sigpipe_kills(void)
{
    struct sigaction action;
    return sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL;
}

void lio_sigpipe_hold(lio_sigpipe_guard *guard, bool active)
{
    guard->active = active;
    if (!active)
        return;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    int error = pthread_sigmask(SIG_BLOCK, &set, &guard->before);
    assert(error == 0);
    (void)error;
    /* It can only be pending where it was blocked before. */
    guard->pending = sigismember(&guard->before, SIGPIPE) == 1 && is_pending();
}

void lio_sigpipe_release(const lio_sigpipe_guard *guard)
{
    if (!guard->active)
        return;
    int saved = errno;
    if (!guard->pending && is_pending()) {
        int number;
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGPIPE);
        sigwait(&set, &number);
    }
    int error = pthread_sigmask(SIG_SETMASK, &guard->before, NULL);
    assert(error == 0);
    (void)error;
    errno = saved;
}
