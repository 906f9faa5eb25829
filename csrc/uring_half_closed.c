#include "uring_half_closed.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

int lio_half_closed_watch(lio_half_closed *half, int fd)
{
    struct epoll_event event = {.events = EPOLLOUT | EPOLLONESHOT, .data = {.fd = fd}};
    if (half->fd < 0) {
        half->fd = epoll_create1(EPOLL_CLOEXEC);
        if (half->fd < 0)
            return -errno;
    }
    if (epoll_ctl(half->fd, EPOLL_CTL_ADD, fd, &event) == 0)
        return 0;
    if (errno != EEXIST)
        return -errno;
    return epoll_ctl(half->fd, EPOLL_CTL_MOD, fd, &event) == 0 ? 0 : -errno;
}

void lio_half_closed_forget(lio_half_closed *half, int fd)
{
    struct epoll_event none = {0};
    if (half->fd >= 0) /* failing means that it is not there: as wanted */
        (void)epoll_ctl(half->fd, EPOLL_CTL_DEL, fd, &none);
}

int lio_half_closed_next(lio_half_closed *half)
{
    struct epoll_event event;
    if (half->fd < 0 || epoll_wait(half->fd, &event, 1, 0) != 1)
        return -1;
    return event.data.fd;
}

void lio_half_closed_close(lio_half_closed *half)
{
    if (half->fd >= 0)
        close(half->fd);
    half->fd = -1;
}
