/* floor_server.c: receive, send, receive; one submission and one wait in each system call. */
#include "floor_server.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "uring_ring.h"

#define FLOOR_ENTRIES 4096u
#define TOKEN_ACCEPT UINT64_MAX

typedef struct peer {
    int fd;
    uint32_t have, sent; /* sent < have: a send is under way, else a receive */
    char buffer[];
} peer;

typedef struct server {
    lio_ring ring;
    int listener;
    uint32_t buffer_bytes;
} server;

static struct uring_sqe *entry(server *s)
{
    struct uring_sqe *sqe = lio_ring_sqe(&s->ring);
    if (sqe == NULL && lio_ring_enter(&s->ring, 0, 0, false) >= 0)
        sqe = lio_ring_sqe(&s->ring);
    return sqe;
}

static int ask_accept(server *s)
{
    struct uring_sqe *sqe = entry(s);
    if (sqe == NULL)
        return -EBUSY;
    sqe->opcode = URING_OP_ACCEPT;
    sqe->fd = s->listener;
    sqe->op_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
    sqe->user_data = TOKEN_ACCEPT;
    return 0;
}

static int ask(server *s, peer *p)
{
    struct uring_sqe *sqe = entry(s);
    if (sqe == NULL)
        return -EBUSY;
    bool sends = p->sent < p->have;
    sqe->opcode = sends ? URING_OP_SEND : URING_OP_RECV;
    sqe->fd = p->fd;
    sqe->addr = (uint64_t)(uintptr_t)(p->buffer + (sends ? p->sent : 0));
    sqe->len = sends ? p->have - p->sent : s->buffer_bytes;
    sqe->op_flags = MSG_NOSIGNAL;
    sqe->user_data = (uint64_t)(uintptr_t)p;
    return 0;
}

static int on_accept(server *s, int fd)
{
    if (fd < 0)
        return fd == -ECONNABORTED ? ask_accept(s) : fd;
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    peer *p = malloc(sizeof *p + s->buffer_bytes);
    if (p == NULL) {
        close(fd);
        return -ENOMEM;
    }
    p->fd = fd;
    p->have = p->sent = 0;
    int error = ask(s, p);
    return error != 0 ? error : ask_accept(s);
}

static int on_transfer(server *s, peer *p, int moved)
{
    if (moved <= 0) {
        close(p->fd);
        free(p);
        return 0;
    }
    if (p->sent < p->have) {
        p->sent += (uint32_t)moved;
    } else {
        p->have = (uint32_t)moved;
        p->sent = 0;
    }
    return ask(s, p);
}

static int serve(server *s, const uint32_t *stop)
{
    int error = ask_accept(s);
    while (error == 0 && __atomic_load_n(stop, __ATOMIC_RELAXED) == 0) {
        int done = lio_ring_enter(&s->ring, 1, -1, true);
        if (done < 0 && done != -EINTR && done != -EBUSY)
            return done;
        const struct uring_cqe *cqe;
        while (error == 0 && (cqe = lio_ring_peek(&s->ring)) != NULL) {
            uint64_t token = cqe->user_data;
            int result = cqe->res;
            lio_ring_seen(&s->ring);
            error = token == TOKEN_ACCEPT ? on_accept(s, result)
                                          : on_transfer(s, (peer *)(uintptr_t)token, result);
        }
    }
    return error;
}

int lio_floor_serve(int listener, uint32_t buffer_bytes, const uint32_t *stop)
{
    if (buffer_bytes == 0 || stop == NULL)
        return -EINVAL;
    server s = {.listener = listener, .buffer_bytes = buffer_bytes};
    int error = lio_ring_open(&s.ring, FLOOR_ENTRIES, 2 * FLOOR_ENTRIES, 0);
    if (error != 0)
        return error;
    error = serve(&s, stop);
    lio_ring_close(&s.ring, false);
    return error;
}
