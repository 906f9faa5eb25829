/* load_generator.c: a loop over epoll. Each connection sends a message, waits for all of it
 * to come back, compares, and sends the next: at once, or when it is due.
 *
 * The messages are windows into one block of noise, shifted from request to request: nothing
 * is copied to send or to compare, and an answer that belongs to another request shows. */
#include "load_generator.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    SHIFTS = 251,
    SCRATCH_BYTES = 256 * 1024,
    EVENTS = 256,
    CONNECT_WINDOW = 16, /* connections not answered yet: less than any backlog */
    LOOK_UP_MS = 20,     /* how often a quiet load looks at the clock and at stop */
    SOURCES = 16,        /* 127.0.0.2 and so on: a port that was just used is not free yet */
};
#define SECOND_NS 1000000000ll
#define DRAIN_NS (2 * SECOND_NS)

typedef struct connection {
    int fd; /* -1: not open, or over */
    bool connected;
    bool awaits_room; /* registered for EPOLLOUT */
    bool asked;       /* a request is under way */
    uint32_t sequence;
    uint32_t sent, received;
    const uint8_t *message;
    int64_t asked_at;
    int64_t due; /* the next request, at a fixed rate */
} connection;

typedef struct load {
    const lio_load_options *options;
    lio_load_progress *progress;
    lio_load_result *result;
    struct sockaddr_storage address;
    socklen_t address_len;
    connection *connections;
    uint8_t *noise;
    uint8_t *scratch;
    uint32_t scratch_len;
    int epoll;
    enum lio_load_phase phase;
    uint32_t wanted; /* connections, the idle ones last */
    uint32_t opened, live;
    uint32_t up; /* had an answer: the server has accepted them */
    int64_t now;
    int64_t moved_at; /* when something last happened */
    int64_t phase_since;
    int64_t interval; /* of one connection's requests; 0: as fast as the answers come */
    clockid_t server_clock;
    int64_t server_cpu;
} load;

static int64_t read_clock(clockid_t clock)
{
    struct timespec t = {0};
    clock_gettime(clock, &t);
    return t.tv_sec * SECOND_NS + t.tv_nsec;
}

static int64_t clock_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

static int64_t server_cpu_ns(const load *l)
{
    return l->options->server_pid == 0 ? 0 : read_clock(l->server_clock);
}

static void publish(load *l)
{
    __atomic_store_n(&l->progress->phase, l->phase, __ATOMIC_RELAXED);
    __atomic_store_n(&l->progress->connected, l->up, __ATOMIC_RELAXED);
    __atomic_store_n(&l->progress->requests, l->result->requests, __ATOMIC_RELAXED);
    __atomic_store_n(&l->progress->bytes, l->result->bytes, __ATOMIC_RELAXED);
    __atomic_store_n(&l->progress->errors, l->result->errors, __ATOMIC_RELAXED);
}

static bool must_stop(const load *l)
{
    return __atomic_load_n(&l->progress->stop, __ATOMIC_RELAXED) != 0;
}

/* The histogram: values below 64 have a bucket each, then 32 to every power of two. */

static uint32_t bucket_of(uint64_t value)
{
    if (value < 64)
        return (uint32_t)value;
    uint32_t shift = 63 - (uint32_t)__builtin_clzll(value) - 5;
    uint32_t bucket = (shift << 5) + (uint32_t)(value >> shift);
    return bucket < LIO_LOAD_BUCKETS ? bucket : LIO_LOAD_BUCKETS - 1;
}

uint64_t lio_load_bucket_start(uint32_t bucket)
{
    if (bucket < 64)
        return bucket;
    uint32_t shift = (bucket >> 5) - 1;
    return (uint64_t)(32 + (bucket & 31)) << shift;
}

double lio_load_percentile(const lio_load_result *result, double percent)
{
    double rank = (double)result->requests * percent / 100.0;
    double below = 0;
    for (uint32_t i = 0; i < LIO_LOAD_BUCKETS; i++) {
        double here = (double)result->latencies[i];
        if (here > 0 && below + here >= rank) {
            double start = (double)lio_load_bucket_start(i);
            double width = (double)lio_load_bucket_start(i + 1) - start;
            double most = (double)result->latency_max_ns;
            double value = start + width * (rank - below) / here;
            return value < most ? value : most;
        }
        below += here;
    }
    return 0;
}

static void record(lio_load_result *result, uint64_t latency, uint64_t bytes)
{
    result->requests++;
    result->bytes += bytes;
    result->latency_sum_ns += latency;
    if (latency > result->latency_max_ns)
        result->latency_max_ns = latency;
    result->latencies[bucket_of(latency)]++;
}

/* Connections. */

static void close_connection(load *l, connection *c)
{
    assert(c->fd >= 0);
    close(c->fd);
    c->fd = -1;
    l->live--;
}

static void lose(load *l, connection *c, int error)
{
    assert(error < 0);
    if (l->result->first_error == 0)
        l->result->first_error = error;
    l->result->errors++;
    l->result->corrupt += error == -EBADMSG;
    close_connection(l, c);
}

static int watch(load *l, connection *c, int how, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    return epoll_ctl(l->epoll, how, c->fd, &event) == 0 ? 0 : -errno;
}

static int parse_address(load *l)
{
    const lio_load_options *o = l->options;
    struct sockaddr_in *v4 = (struct sockaddr_in *)&l->address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&l->address;
    struct sockaddr_un *local = (struct sockaddr_un *)&l->address;
    if ((o->host == NULL) == (o->path == NULL))
        return -EINVAL;
    if (o->path != NULL) {
        if (strlen(o->path) >= sizeof local->sun_path)
            return -ENAMETOOLONG;
        local->sun_family = AF_UNIX;
        strcpy(local->sun_path, o->path);
        l->address_len = sizeof *local;
    } else if (inet_pton(AF_INET, o->host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(o->port);
        l->address_len = sizeof *v4;
    } else if (inet_pton(AF_INET6, o->host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(o->port);
        l->address_len = sizeof *v6;
    } else {
        return -EINVAL;
    }
    return 0;
}

/* Thousands of new connections a second would use up the ports of one source address. */
static void choose_source(const load *l, const connection *c, int fd)
{
    const struct sockaddr_in *to = (const struct sockaddr_in *)&l->address;
    if (to->sin_family != AF_INET || ntohl(to->sin_addr.s_addr) >> 24 != 127)
        return;
    uint32_t number = (uint32_t)(c - l->connections) + c->sequence;
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(0x7f000002u + number % SOURCES);
    int on = 1;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    (void)!bind(fd, (struct sockaddr *)&from, sizeof from); /* else one source has to do */
}

/* 0: under way; -EAGAIN: the backlog of a UNIX socket is full, try again later. */
static int open_connection(load *l, connection *c)
{
    int family = l->address.ss_family;
    bool datagrams = l->options->kind == LIO_LOAD_DATAGRAMS;
    int type = datagrams ? SOCK_DGRAM : SOCK_STREAM;
    int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int on = 1;
    if (family != AF_UNIX && !datagrams)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (l->options->kind == LIO_LOAD_RECONNECT)
        choose_source(l, c, fd);
    int error = connect(fd, (struct sockaddr *)&l->address, l->address_len) == 0 ? 0 : -errno;
    if (error != 0 && error != -EINPROGRESS) {
        close(fd);
        return error;
    }
    c->fd = fd;
    c->connected = c->awaits_room = c->asked = false;
    l->live++;
    error = watch(l, c, EPOLL_CTL_ADD, EPOLLOUT);
    if (error != 0)
        close_connection(l, c);
    return error;
}

static int finish_connecting(load *l, connection *c)
{
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        return -errno;
    if (error != 0)
        return -error;
    assert(!c->connected);
    c->connected = true;
    return watch(l, c, EPOLL_CTL_MOD, EPOLLIN);
}

static int wait_for_events(load *l, struct epoll_event *events)
{
    /* What is due at a time must not wait for this thread to wake up either. */
    bool awake = l->options->awake != 0 || l->options->rate != 0;
    bool busy = awake && l->phase >= LIO_LOAD_WARMING_UP;
    int count = epoll_wait(l->epoll, events, EVENTS, busy ? 0 : LOOK_UP_MS);
    if (count < 0)
        count = errno == EINTR ? 0 : -errno;
    l->now = clock_ns();
    return count;
}

static int out_of_patience(const load *l)
{
    int64_t patience = l->options->patience_ns;
    if (patience == 0)
        patience = 10 * SECOND_NS;
    return l->now - l->moved_at > patience ? -ETIMEDOUT : 0;
}

/* Requests. */

static void send_some(load *l, connection *c)
{
    uint32_t size = l->options->message_bytes;
    while (c->sent < size) {
        ssize_t n = send(c->fd, c->message + c->sent, size - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            lose(l, c, -errno);
            return;
        }
        if (n < 0)
            break;
        c->sent += (uint32_t)n;
        l->moved_at = l->now;
    }
    bool awaits_room = c->sent < size;
    if (awaits_room != c->awaits_room) {
        int error = watch(l, c, EPOLL_CTL_MOD, EPOLLIN | (awaits_room ? EPOLLOUT : 0u));
        if (error != 0)
            lose(l, c, error);
        c->awaits_room = awaits_room;
    }
}

static void start_request(load *l, connection *c, int64_t asked_at)
{
    assert(!c->asked);
    uint32_t number = (uint32_t)(c - l->connections);
    c->message = l->noise + (number * 31 + c->sequence * 7) % SHIFTS;
    c->sequence++;
    c->sent = 0;
    c->received = 0;
    c->asked_at = asked_at;
    c->asked = true;
    send_some(l, c);
}

/* What waits for no answer has nothing to wait for any more. */
static void begin_draining(load *l)
{
    for (uint32_t i = 0; i < l->opened; i++) {
        connection *c = &l->connections[i];
        if (c->fd >= 0 && (!c->asked || !c->connected))
            close_connection(l, c);
    }
}

static void enter(load *l, enum lio_load_phase phase)
{
    assert(phase > l->phase);
    if (phase == LIO_LOAD_MEASURING)
        l->server_cpu = server_cpu_ns(l);
    if (l->phase == LIO_LOAD_MEASURING) {
        l->result->elapsed_ns = l->now - l->phase_since;
        l->result->server_cpu_ns = server_cpu_ns(l) - l->server_cpu;
    }
    l->phase = phase;
    l->phase_since = l->now;
    if (phase == LIO_LOAD_DRAINING)
        begin_draining(l);
}

static void connect_again(load *l, connection *c)
{
    close_connection(l, c);
    int64_t asked_at = clock_ns(); /* the handshake belongs to the request */
    int error = open_connection(l, c);
    c->asked_at = asked_at;
    if (error != 0) {
        l->result->errors++;
        if (l->result->first_error == 0)
            l->result->first_error = error;
    }
}

/* c may be closed by this. */
static void finish_request(load *l, connection *c)
{
    const lio_load_options *o = l->options;
    l->now = clock_ns();
    c->asked = false;
    if (l->phase == LIO_LOAD_CONNECTING) {
        l->up++;
        return;
    }
    if (l->phase == LIO_LOAD_MEASURING) {
        record(l->result, (uint64_t)(l->now - c->asked_at), o->message_bytes);
        if (l->result->requests == o->requests) {
            enter(l, LIO_LOAD_DRAINING);
            return;
        }
    }
    if (l->phase == LIO_LOAD_DRAINING)
        close_connection(l, c);
    else if (o->kind == LIO_LOAD_RECONNECT)
        connect_again(l, c);
    else if (l->interval == 0)
        start_request(l, c, l->now);
}

static void start_what_is_due(load *l)
{
    for (uint32_t i = 0; i < l->options->connections; i++) {
        connection *c = &l->connections[i];
        if (c->fd < 0 || c->asked || c->due > l->now)
            continue;
        start_request(l, c, c->due);
        c->due += l->interval;
    }
}

static void receive_some(load *l, connection *c)
{
    uint32_t size = l->options->message_bytes;
    while (c->received < size) {
        uint32_t wanted = size - c->received;
        if (wanted > l->scratch_len)
            wanted = l->scratch_len;
        ssize_t n = recv(c->fd, l->scratch, wanted, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            lose(l, c, n < 0 ? -errno : -EPIPE);
            return;
        }
        if ((uint32_t)n > c->sent - c->received ||
            memcmp(l->scratch, c->message + c->received, (size_t)n) != 0) {
            lose(l, c, -EBADMSG);
            return;
        }
        if ((uint32_t)n < size && l->options->kind == LIO_LOAD_DATAGRAMS) {
            lose(l, c, -EBADMSG); /* cut */
            return;
        }
        c->received += (uint32_t)n;
        l->moved_at = l->now;
        if ((uint32_t)n < wanted)
            return;
    }
    finish_request(l, c);
}

/* Takes what the server sends unasked, and looks at none of it. */
static void swallow(load *l, connection *c)
{
    lio_load_result *result = l->result;
    ssize_t n = recv(c->fd, l->scratch, l->scratch_len, 0);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        lose(l, c, n < 0 ? -errno : -EPIPE);
        return;
    }
    l->now = l->moved_at = clock_ns();
    if (l->phase == LIO_LOAD_CONNECTING && c->received == 0) {
        c->received = 1;
        l->up++;
    }
    if (l->phase != LIO_LOAD_MEASURING)
        return;
    result->bytes += (uint64_t)n;
    result->requests = result->bytes / l->options->message_bytes;
    if (l->options->requests != 0 && result->requests >= l->options->requests)
        enter(l, LIO_LOAD_DRAINING);
}

static void handle(load *l, const struct epoll_event *event)
{
    connection *c = event->data.ptr;
    bool sink = l->options->kind == LIO_LOAD_SINK;
    if (c->fd < 0)
        return; /* closed when the load ended, with its event at hand */
    if (!c->connected) {
        int error = finish_connecting(l, c);
        if (error != 0)
            lose(l, c, error);
        else if (!sink)
            start_request(l, c, l->phase == LIO_LOAD_CONNECTING ? l->now : c->asked_at);
        return;
    }
    if (event->events & EPOLLOUT)
        send_some(l, c);
    if (c->fd < 0 || !(event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    if (sink)
        swallow(l, c);
    else
        receive_some(l, c);
}

/* Connects all and gets a first answer on each. Before it, the kernel has accepted a
 * connection but the server may not have: only so the backlog cannot overflow. */
static int connect_all(load *l)
{
    struct epoll_event events[EVENTS];
    while (l->up < l->wanted && !must_stop(l)) {
        while (l->opened < l->wanted && l->opened - l->up < CONNECT_WINDOW) {
            int error = open_connection(l, &l->connections[l->opened]);
            if (error == -EAGAIN)
                break;
            if (error != 0)
                return error;
            l->opened++;
        }
        int count = wait_for_events(l, events);
        if (count < 0)
            return count;
        for (int i = 0; i < count; i++)
            handle(l, &events[i]);
        if (l->result->errors > 0)
            return l->result->first_error;
        if (out_of_patience(l) != 0)
            return -ETIMEDOUT;
        publish(l);
    }
    return 0;
}

static void advance(load *l)
{
    const lio_load_options *o = l->options;
    int64_t since = l->now - l->phase_since;
    bool stop = must_stop(l);
    if (l->phase == LIO_LOAD_WARMING_UP && since >= o->warm_up_ns)
        enter(l, LIO_LOAD_MEASURING);
    else if (l->phase == LIO_LOAD_MEASURING && o->duration_ns > 0 && since >= o->duration_ns)
        stop = true;
    if (l->phase < LIO_LOAD_DRAINING && stop)
        enter(l, LIO_LOAD_DRAINING);
    if (l->live == 0 || (l->phase == LIO_LOAD_DRAINING && l->now - l->phase_since > DRAIN_NS))
        enter(l, LIO_LOAD_ENDED);
}

static void begin_requests(load *l)
{
    const lio_load_options *o = l->options;
    if (o->rate != 0)
        l->interval = SECOND_NS * o->connections / o->rate;
    for (uint32_t i = 0; i < o->connections; i++) {
        connection *c = &l->connections[i];
        if (l->interval != 0)
            c->due = l->now + l->interval * i / o->connections;
        else if (o->kind != LIO_LOAD_SINK)
            start_request(l, c, clock_ns());
    }
}

static int exchange(load *l)
{
    struct epoll_event events[EVENTS];
    l->now = clock_ns();
    l->moved_at = l->now;
    enter(l, LIO_LOAD_WARMING_UP);
    begin_requests(l);
    while (l->phase != LIO_LOAD_ENDED) {
        int count = wait_for_events(l, events);
        if (count < 0)
            return count;
        for (int i = 0; i < count; i++)
            handle(l, &events[i]);
        if (l->interval != 0 && l->phase < LIO_LOAD_DRAINING)
            start_what_is_due(l);
        if (l->phase != LIO_LOAD_DRAINING && out_of_patience(l) != 0) {
            enter(l, LIO_LOAD_ENDED);
            publish(l);
            return -ETIMEDOUT;
        }
        advance(l);
        publish(l);
    }
    return 0;
}

static int allocate(load *l)
{
    const lio_load_options *o = l->options;
    size_t noise_len = (size_t)o->message_bytes + SHIFTS;
    l->scratch_len = o->message_bytes < SCRATCH_BYTES && o->kind != LIO_LOAD_SINK
                         ? o->message_bytes
                         : SCRATCH_BYTES;
    l->connections = calloc(l->wanted, sizeof *l->connections);
    l->noise = malloc(noise_len);
    l->scratch = malloc(l->scratch_len);
    if (l->connections == NULL || l->noise == NULL || l->scratch == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < l->wanted; i++)
        l->connections[i].fd = -1;
    uint32_t noise = 2463534242u;
    for (size_t i = 0; i < noise_len; i++) {
        noise ^= noise << 13;
        noise ^= noise >> 17;
        noise ^= noise << 5;
        l->noise[i] = (uint8_t)(noise >> 11);
    }
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    return l->epoll < 0 ? -errno : 0;
}

static void release(load *l)
{
    for (uint32_t i = 0; l->connections != NULL && i < l->opened; i++) {
        if (l->connections[i].fd >= 0)
            close_connection(l, &l->connections[i]);
    }
    if (l->epoll >= 0)
        close(l->epoll);
    free(l->connections);
    free(l->noise);
    free(l->scratch);
}

int lio_load_run(const lio_load_options *options, lio_load_progress *progress,
                 lio_load_result *result)
{
    lio_load_progress unseen = {0};
    load l = {.options = options,
              .progress = progress == NULL ? &unseen : progress,
              .result = result,
              .epoll = -1};
    memset(result, 0, sizeof *result);
    if (options->connections == 0 || options->message_bytes == 0 || options->duration_ns < 0 ||
        options->warm_up_ns < 0 || options->patience_ns < 0 || options->kind > LIO_LOAD_SINK ||
        options->idle > UINT32_MAX - options->connections)
        return -EINVAL;
    if (options->kind == LIO_LOAD_DATAGRAMS && options->message_bytes > 65507)
        return -EMSGSIZE;
    l.wanted = options->connections + options->idle;
    l.now = clock_ns();
    l.moved_at = l.now;
    int error = parse_address(&l);
    if (error == 0 && options->server_pid != 0)
        error = -clock_getcpuclockid(options->server_pid, &l.server_clock);
    if (error == 0)
        error = allocate(&l);
    if (error == 0)
        error = connect_all(&l);
    if (error == 0 && !must_stop(&l))
        error = exchange(&l);
    release(&l);
    l.phase = LIO_LOAD_ENDED;
    publish(&l);
    return error;
}
