/* Random use of a poller: sockets come and go, operations of all kinds start and are cancelled,
 * numbers are closed behind its back. Every operation must complete exactly once, with a
 * result that is possible. Prints its seed; takes one as an argument. */
#include <stddef.h>

#include "check.h"

#define SOCKETS 12
#define OPERATIONS 200
#define STEPS 20000

struct churn {
    lio_backend *b;
    uint64_t seed;
    int fds[SOCKETS];
    bool in_flight[OPERATIONS];
    char out[OPERATIONS][4096], in[OPERATIONS][4096];
    uint64_t pushed, completed;
};

static uint32_t draw(struct churn *c, uint32_t below)
{
    c->seed = c->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(c->seed >> 33) % below;
}

static void collect(struct churn *c, int64_t timeout)
{
    const lio_completion *records;
    void *base;
    size_t size;
    int count = lio_wait(c->b, timeout, &records);
    CHECK(count >= 0);
    MUST(lio_pool(c->b, &base, &size) == 0);
    for (int i = 0; i < count; i++) {
        if (records[i].id > LIO_ID_MAX)
            continue;
        MUST(records[i].id < OPERATIONS && c->in_flight[records[i].id]);
        c->in_flight[records[i].id] = false;
        c->completed++;
        CHECK(records[i].result > -4096 && records[i].result <= 65536);
        if (records[i].data >= 0 && records[i].result > 0) {
            const char *bytes = (const char *)base + records[i].data;
            CHECK((size_t)(records[i].data + records[i].result) <= size);
            for (int64_t at = 0; at < records[i].result; at++)
                MUST(bytes[at] == 'd');
        }
    }
}

static lio_op draw_operation(struct churn *c, uint64_t id)
{
    static const uint8_t opcodes[] = {LIO_RECV,    LIO_RECV,  LIO_RECV,    LIO_SEND,
                                      LIO_SEND,    LIO_SEND,  LIO_POLL,    LIO_READ,
                                      LIO_WRITE,   LIO_NOP,   LIO_TIMEOUT, LIO_RECVFROM,
                                      LIO_RECVMSG, LIO_STATX, LIO_SHUTDOWN};
    lio_op op = {.opcode = opcodes[draw(c, sizeof opcodes)],
                 .fd = c->fds[draw(c, SOCKETS)],
                 .buf = c->out[id],
                 .len = 1 + draw(c, sizeof c->out[id])};
    switch (op.opcode) {
    case LIO_RECV:
    case LIO_RECVFROM:
        op.buf = draw(c, 2) ? NULL : c->in[id];
        op.flags = draw(c, 10) == 0 ? MSG_PEEK : 0;
        break;
    case LIO_RECVMSG:
        op.buf = NULL;
        op.buf_len = op.len;
        break;
    case LIO_SEND:
        op.op_flags = draw(c, 2) ? LIO_OP_ALL : 0;
        break;
    case LIO_READ:
        op.buf = c->in[id];
        break;
    case LIO_POLL:
        op.flags = 1 + draw(c, 3);
        break;
    case LIO_TIMEOUT:
        op.offset = draw(c, 3000000);
        break;
    case LIO_STATX:
        op.fd = AT_FDCWD;
        op.path = "/";
        op.buf = c->in[id];
        break;
    case LIO_SHUTDOWN:
        op.flags = draw(c, 3);
        if (draw(c, 20) != 0)
            op.opcode = LIO_NOP;
        break;
    default:
        break;
    }
    return op;
}

static void renew(struct churn *c, int pair)
{
    int *fds = &c->fds[pair * 2];
    if (draw(c, 2))
        make_pair(fds);
    else
        make_tcp_pair(fds);
    for (int i = 0; i < 2; i++) {
        if (draw(c, 3))
            CHECK(lio_adopt(c->b, fds[i]) == 1);
    }
}

static void step(struct churn *c)
{
    uint64_t id = draw(c, OPERATIONS);
    uint32_t what = draw(c, 1000);
    int pair = (int)draw(c, SOCKETS / 2);
    if (what < 5) {
        for (int i = 0; i < 2; i++) {
            /* -EBADF: of what was claimed there and closed behind its back. */
            int error = lio_close_fd(c->b, c->fds[pair * 2 + i]);
            CHECK(error >= 0 || error == -EBADF);
            if (error == -EBADF)
                CHECK_EQ(lio_close_fd(c->b, c->fds[pair * 2 + i]), 0);
        }
        renew(c, pair);
    } else if (what < 8) {
        close(c->fds[pair * 2]); /* behind its back; the numbers are used again at once */
        close(c->fds[pair * 2 + 1]);
        renew(c, pair);
    } else if (what < 12) {
        int error = lio_release_fd(c->b, c->fds[pair]);
        CHECK(error >= 0 || error == -EBADF);
    } else if (what < 300) {
        collect(c, draw(c, 10) ? 0 : (int64_t)draw(c, 1000000));
    } else if (what < 400) {
        CHECK(lio_flush(c->b) >= 0);
    } else if (what < 600 && c->in_flight[id]) {
        int answer = lio_cancel(c->b, id);
        CHECK(answer == 0 || answer == 1 || answer == -ENOENT);
        if (answer == 1) {
            c->in_flight[id] = false;
            c->completed++;
        }
    } else if (!c->in_flight[id]) {
        lio_op op = draw_operation(c, id);
        int error = lio_push(c->b, id, &op);
        CHECK_EQ(error, 0);
        c->in_flight[id] = true;
        c->pushed++;
    }
}

static void churn(uint64_t seed)
{
    struct churn *c = calloc(1, sizeof *c);
    MUST(c != NULL);
    c->seed = seed;
    memset(c->out, 'd', sizeof c->out);
    MUST(lio_create("epoll", NULL, &c->b) == 0);
    MUST(lio_init(c->b, OPERATIONS) == 0);
    for (int pair = 0; pair < SOCKETS / 2; pair++)
        renew(c, pair);
    for (int i = 0; i < STEPS; i++)
        step(c);
    /* Whatever is left ends when its descriptor does. */
    for (uint64_t id = 0; id < OPERATIONS; id++) {
        if (c->in_flight[id] && lio_cancel(c->b, id) == 1) {
            c->in_flight[id] = false;
            c->completed++;
        }
    }
    int64_t until = check_now() + 5 * SECOND;
    while (c->completed < c->pushed && check_now() < until)
        collect(c, 10 * MS);
    CHECK_EQ(c->completed, c->pushed);
    lio_stats stats;
    CHECK_EQ(lio_get_stats(c->b, &stats), 0);
    CHECK_EQ(stats.in_flight, 0);
    CHECK_EQ(lio_close(c->b), 0);
    lio_destroy(c->b);
    for (int i = 0; i < SOCKETS; i++)
        close(c->fds[i]);
    free(c);
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)check_now();
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (uint64_t round = 0; round < 5 && check_failures == 0; round++) {
        printf("seed %" PRIu64 "\n", seed + round);
        churn(seed + round);
    }
    printf("%s\n", check_failures == 0 ? "ok" : "FAILED");
    return check_failures != 0;
}
