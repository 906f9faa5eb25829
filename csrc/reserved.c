/* reserved.c: descriptor numbers that are kept for an init that comes late.
 *
 * A program may believe in a number that it closed. What it does with that number must not hit
 * a ring that happened to be made just then, as it would not hit one made at the beginning. */
#include <errno.h>

#include "backend.h"
#include "lio_errno.h"

#if defined(__linux__)
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

int lio_reserve(lio_backend *b)
{
    if (b == NULL)
        return -EINVAL;
    if (b->phase != LIO_PHASE_NEW)
        return b->phase == LIO_PHASE_OPEN ? -EALREADY : -ESHUTDOWN;
    if (b->vtable->descriptors == 0)
        return -ENOTSUP;
    if (b->wake_fd < 0)
        b->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (b->wake_fd < 0)
        return -errno;
    for (int i = 0; i < b->vtable->descriptors; i++) {
        if (b->reserved[i] != 0)
            continue;
        int fd = fcntl(b->wake_fd, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            return -errno; /* what there is goes with the backend */
        b->reserved[i] = fd + 1;
    }
    return 0;
}

int lio_make_fd(lio_backend *b, int (*make)(void *), void *argument)
{
    int fd = make(argument), at = 0;
    while (at < LIO_RESERVED_MAX && b->reserved[at] == 0)
        at++;
    if (at == LIO_RESERVED_MAX || (fd < 0 && fd != -EMFILE))
        return fd;
    int number = b->reserved[at] - 1;
    b->reserved[at] = 0;
    if (fd < 0) { /* this very number is the last one */
        close(number);
        return make(argument);
    }
    if (dup3(fd, number, O_CLOEXEC) < 0) { /* above a limit that was lowered since */
        close(number);
        return fd;
    }
    close(fd);
    return number;
}

void lio_drop_reserved(lio_backend *b)
{
    for (int i = 0; i < LIO_RESERVED_MAX; i++) {
        if (b->reserved[i] != 0)
            close(b->reserved[i] - 1);
        b->reserved[i] = 0;
    }
}
#else
int lio_reserve(lio_backend *b)
{
    (void)b;
    return -ENOTSUP;
}

void lio_drop_reserved(lio_backend *b)
{
    (void)b;
}
#endif
