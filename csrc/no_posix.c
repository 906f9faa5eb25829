/* no_posix.c: what a build for Windows has not: the simulated kernel stands on POSIX. */
#include "backend.h"
#include "lio_errno.h"

int lio_sim_socket(lio_backend *b, int type)
{
    (void)b, (void)type;
    return -ENOTSUP;
}

int lio_sim_pair(lio_backend *b, int type, int fds[2])
{
    (void)b, (void)type, (void)fds;
    return -ENOTSUP;
}

int lio_sim_pipe(lio_backend *b, int fds[2])
{
    (void)b, (void)fds;
    return -ENOTSUP;
}

int lio_sim_open(lio_backend *b, const char *name, int flags)
{
    (void)b, (void)name, (void)flags;
    return -ENOTSUP;
}
