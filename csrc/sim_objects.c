/* sim_objects.c: sockets and pipes that exist in this process only. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "sim.h"

#define QUEUE_MIN 64u
#define QUEUE_MAX 4096u
#define MESSAGES_MAX 16u
#define MESSAGE_SIZE_MAX 65536u
#define FIRST_PORT 40000u

/* -- bytes on their way ------------------------------------------------------------ */

static sim_queue *queue_new(lio_sim *sim, uint8_t users)
{
    sim_queue *queue = calloc(1, sizeof *queue);
    if (queue == NULL)
        return NULL;
    queue->room = QUEUE_MIN + lio_random_below(&sim->random, QUEUE_MAX - QUEUE_MIN + 1);
    queue->users = users;
    queue->bytes = malloc(queue->room);
    if (queue->bytes == NULL) {
        free(queue);
        return NULL;
    }
    return queue;
}

static void queue_leave(sim_queue *queue)
{
    if (queue == NULL || --queue->users != 0)
        return;
    free(queue->bytes);
    free(queue);
}

/* A transfer of up to so many bytes: at times all that is possible, at times less. */
static size_t some_of(lio_sim *sim, size_t most)
{
    if (most < 2 || lio_random_below(&sim->random, 4) != 0)
        return most;
    return 1 + lio_random_below(&sim->random, most);
}

static void queue_put(sim_queue *queue, const char *bytes, size_t count)
{
    assert(count <= queue->room - queue->used);
    for (size_t i = 0; i < count; i++)
        queue->bytes[(queue->start + queue->used + i) % queue->room] = bytes[i];
    queue->used += count;
}

static void queue_peek(const sim_queue *queue, size_t from, char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = queue->bytes[(queue->start + from + i) % queue->room];
}

static void queue_drop(sim_queue *queue, size_t count)
{
    assert(count <= queue->used);
    queue->start = (queue->start + count) % queue->room;
    queue->used -= count;
}

/* -- placeholders ------------------------------------------------------------------ */

sim_object *lio_sim_find(const lio_sim *sim, const uint64_t identity[2])
{
    sim_object *object = sim->objects;
    while (object != NULL && memcmp(object->identity, identity, sizeof object->identity) != 0)
        object = object->next;
    return object;
}

/* Closes on exec, does not block. */
static int make_placeholder(sim_object *object)
{
    int ends[2];
    struct stat st;
    int kind = object->type == SOCK_STREAM ? SOCK_STREAM : SOCK_SEQPACKET;
    if (socketpair(AF_UNIX, kind, 0, ends) != 0)
        return -errno;
    bool good = fstat(ends[0], &st) == 0 && shutdown(ends[1], SHUT_RD) == 0;
    for (int i = 0; i < 2; i++)
        good = good && fcntl(ends[i], F_SETFD, FD_CLOEXEC) == 0 &&
               fcntl(ends[i], F_SETFL, O_NONBLOCK) == 0;
    if (!good) {
        int error = -errno;
        close(ends[0]);
        close(ends[1]);
        return error;
    }
    object->identity[0] = (uint64_t)st.st_dev;
    object->identity[1] = (uint64_t)st.st_ino;
    object->own_end = ends[1];
    return ends[0];
}

static sim_object *object_new(uint8_t kind, int type)
{
    sim_object *object = calloc(1, sizeof *object);
    if (object == NULL)
        return NULL;
    object->kind = kind;
    object->type = (uint8_t)type;
    object->own_end = -1;
    return object;
}

/* Gives an object its placeholder and its place among the others. */
static int publish_object(lio_sim *sim, sim_object *object)
{
    int fd = make_placeholder(object);
    if (fd < 0)
        return fd;
    object->next = sim->objects;
    sim->objects = object;
    sim->object_count++;
    return fd;
}

int lio_sim_add(lio_sim *sim, sim_object **object, uint8_t kind, int type)
{
    sim_object *fresh = object_new(kind, type);
    if (fresh == NULL)
        return -ENOMEM;
    int fd = publish_object(sim, fresh);
    if (fd < 0)
        free(fresh);
    else
        *object = fresh;
    return fd;
}

/* -- the end of an object ---------------------------------------------------------- */

static void object_free(sim_object *object)
{
    if (object->in != NULL && object->out != NULL && object->in->used != 0)
        object->out->reset = true; /* as TCP has it: what came was not even read */
    if (object->in != NULL)
        object->in->broken = true;
    if (object->out != NULL)
        object->out->ended = true;
    queue_leave(object->in);
    queue_leave(object->out);
    while (object->waiting != NULL) {
        sim_object *connection = object->waiting;
        object->waiting = connection->next;
        connection->out->reset = connection->in->reset = true;
        object_free(connection);
    }
    while (object->messages != NULL) {
        sim_message *message = object->messages;
        object->messages = message->next;
        free(message);
    }
    if (object->own_end >= 0)
        close(object->own_end);
    free(object);
}

bool lio_sim_bury(lio_sim *sim)
{
    bool any = false;
    for (sim_object **at = &sim->objects; *at != NULL;) {
        sim_object *object = *at;
        struct pollfd pfd = {.fd = object->own_end};
        if (poll(&pfd, 1, 0) != 1 || !(pfd.revents & POLLHUP)) {
            at = &object->next;
            continue;
        }
        *at = object->next;
        sim->object_count--;
        object_free(object);
        any = true;
    }
    return any;
}

void lio_sim_free_objects(lio_sim *sim)
{
    while (sim->objects != NULL) {
        sim_object *object = sim->objects;
        sim->objects = object->next;
        object_free(object);
    }
    while (sim->inodes != NULL) {
        sim_inode *inode = sim->inodes;
        sim->inodes = inode->next;
        free(inode->name);
        free(inode->bytes);
        free(inode);
    }
}

/* -- addresses --------------------------------------------------------------------- */

static sim_object *named(const lio_sim *sim, uint8_t type, const void *addr, uint32_t length)
{
    sim_object *object = sim->objects;
    while (object != NULL &&
           (object->type != type || object->addr_len != length || object->kind == SIM_STREAM ||
            memcmp(object->addr, addr, length) != 0))
        object = object->next;
    return object;
}

static void name_self(lio_sim *sim, sim_object *object)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int length =
        snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "sim:%u", sim->next_port++);
    object->addr_len = (uint32_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
    memcpy(object->addr, &name, object->addr_len);
}

/* A port of 0 is any that is free. */
static void choose_port(lio_sim *sim, sim_object *object)
{
    sa_family_t family;
    uint16_t port;
    memcpy(&family, object->addr + offsetof(struct sockaddr, sa_family), sizeof family);
    static_assert(offsetof(struct sockaddr_in, sin_port) ==
                      offsetof(struct sockaddr_in6, sin6_port),
                  "ports stand in one place");
    uint8_t *place = object->addr + offsetof(struct sockaddr_in, sin_port);
    memcpy(&port, place, sizeof port);
    if ((family != AF_INET && family != AF_INET6) || port != 0)
        return;
    port = htons((uint16_t)(FIRST_PORT + sim->next_port++ % 20000));
    memcpy(place, &port, sizeof port);
}

static int bind_to(lio_sim *sim, sim_object *object, const lio_slot_extra *extra)
{
    if (object->addr_len != 0 || extra->addr_len <= sizeof(sa_family_t))
        return -EINVAL;
    if (named(sim, object->type, extra->addr, extra->addr_len) != NULL)
        return -EADDRINUSE;
    memcpy(object->addr, extra->addr, extra->addr_len);
    object->addr_len = extra->addr_len;
    choose_port(sim, object);
    return 0;
}

static int listen_with(sim_object *object, uint64_t backlog)
{
    if (object->type != SOCK_STREAM)
        return -EOPNOTSUPP;
    if (object->kind == SIM_STREAM || object->addr_len == 0)
        return -EINVAL;
    object->kind = SIM_LISTENER;
    object->backlog = backlog < 1 ? 1 : backlog > 4096 ? 4096 : (uint32_t)backlog;
    return 0;
}

/* -- connecting -------------------------------------------------------------------- */

static int join(lio_sim *sim, sim_object *one, sim_object *other)
{
    sim_queue *there = queue_new(sim, 2), *back = queue_new(sim, 2);
    if (there == NULL || back == NULL) {
        if (there != NULL)
            free(there->bytes);
        if (back != NULL)
            free(back->bytes);
        free(there);
        free(back);
        return -ENOMEM;
    }
    one->out = other->in = there;
    one->in = other->out = back;
    one->kind = other->kind = SIM_STREAM;
    memcpy(one->peer, other->addr, one->peer_len = other->addr_len);
    memcpy(other->peer, one->addr, other->peer_len = one->addr_len);
    return 0;
}

static lio_attempt connect_to(lio_sim *sim, sim_object *object, const lio_slot_extra *extra)
{
    if (object->type == SOCK_DGRAM) {
        memcpy(object->peer, extra->addr, extra->addr_len);
        object->peer_len = extra->addr_len;
        return sim_done(0);
    }
    if (object->kind != SIM_SOCKET)
        return sim_done(object->kind == SIM_STREAM ? -EISCONN : -EINVAL);
    sim_object *listener = named(sim, SOCK_STREAM, extra->addr, extra->addr_len);
    if (listener == NULL || listener->kind != SIM_LISTENER)
        return sim_done(-ECONNREFUSED);
    if (listener->waiting_count == listener->backlog)
        return sim_not_ready();
    if (object->addr_len == 0)
        name_self(sim, object);
    sim_object *accepted = object_new(SIM_STREAM, SOCK_STREAM);
    if (accepted == NULL)
        return sim_done(-ENOMEM);
    memcpy(accepted->addr, listener->addr, accepted->addr_len = listener->addr_len);
    int error = join(sim, object, accepted);
    if (error != 0) {
        free(accepted);
        return sim_done(error);
    }
    if (listener->waiting == NULL)
        listener->waiting = accepted;
    else
        listener->waiting_tail->next = accepted;
    listener->waiting_tail = accepted;
    listener->waiting_count++;
    return sim_done(0);
}

static lio_attempt accept_from(lio_backend *b, sim_object *listener)
{
    if (listener->kind != SIM_LISTENER)
        return sim_done(listener->type == SOCK_STREAM ? -EINVAL : -EOPNOTSUPP);
    if (listener->waiting == NULL)
        return sim_not_ready();
    lio_msg *msg = (lio_msg *)(void *)lio_poller_arena_room(b, sizeof *msg);
    if (msg == NULL)
        return (lio_attempt){.verdict = LIO_NO_ROOM};
    sim_object *accepted = listener->waiting, *others = accepted->next;
    int fd = publish_object(lio_sim_of(b), accepted);
    if (fd < 0)
        return sim_done(fd);
    listener->waiting = others;
    listener->waiting_count--;
    *msg = (lio_msg){.addr_len = accepted->peer_len};
    memcpy(msg->addr, accepted->peer, accepted->peer_len);
    lio_poller_arena_keep(b, sizeof *msg);
    lio_attempt done = sim_done(fd);
    done.detail = (char *)msg - b->pool;
    return done;
}

static int shut(sim_object *object, uint32_t how)
{
    if (object->kind != SIM_STREAM)
        return object->type == SOCK_DGRAM && object->peer_len != 0 ? 0 : -ENOTCONN;
    if (how != SHUT_RD && how != SHUT_WR && how != SHUT_RDWR)
        return -EINVAL;
    if (how != SHUT_WR)
        object->read_shut = object->in->broken = true;
    if (how != SHUT_RD)
        object->out->ended = true;
    return 0;
}

int lio_sim_reset(lio_backend *b, lio_fd fd)
{
    struct stat st;
    if (fstat((int)fd, &st) != 0)
        return -errno;
    const uint64_t identity[2] = {(uint64_t)st.st_dev, (uint64_t)st.st_ino};
    sim_object *object = lio_sim_find(lio_sim_of(b), identity);
    if (object == NULL)
        return 0;
    if (object->kind != SIM_STREAM || object->in->reset)
        return -ENOTCONN;
    object->in->reset = object->out->reset = true;
    return 1;
}

/* -- where bytes come from and go to ----------------------------------------------- */

/* The memory of an operation as a row of pieces. */
typedef struct pieces {
    const lio_iovec *list;
    size_t count;
    lio_iovec one;
    size_t total;
} pieces;

static void pieces_of(pieces *p, const lio_op *op, void *room, size_t wanted)
{
    bool vectored = (op->opcode == LIO_SENDMSG || op->opcode == LIO_RECVMSG) && room == NULL;
    p->one = (lio_iovec){room != NULL ? room : op->buf, wanted};
    p->list = vectored ? op->buf : &p->one;
    p->count = vectored ? (size_t)op->len : 1;
    p->total = 0;
    for (size_t i = 0; i < p->count; i++)
        p->total += p->list[i].len;
}

/* What a receive needs of the arena, and what it tells besides the bytes. */
typedef struct landing {
    char *room;
    size_t head;
    bool pooled;
    pieces to;
} landing;

static bool prepare_landing(lio_backend *b, const lio_op *op, landing *l)
{
    bool reads = op->opcode == LIO_READ;
    size_t wanted = (size_t)(op->opcode == LIO_RECVMSG ? op->buf_len : op->len);
    l->pooled = !reads && op->buf == NULL;
    if (l->pooled && wanted > LIO_RECEIVE_MAX)
        wanted = LIO_RECEIVE_MAX;
    l->head = reads || op->opcode == LIO_RECV ? 0 : (sizeof(lio_msg) + 63) & ~(size_t)63;
    l->room = lio_poller_arena_room(b, l->head + (l->pooled ? wanted : 0));
    if (l->room == NULL)
        return false;
    pieces_of(&l->to, op, l->pooled ? l->room + l->head : NULL, wanted);
    return true;
}

static lio_attempt landed(lio_backend *b, const landing *l, size_t count, uint32_t flags,
                          const uint8_t *addr, uint32_t addr_len)
{
    lio_attempt done = sim_done((int64_t)count);
    if (l->head != 0) {
        lio_msg *msg = (lio_msg *)(void *)l->room;
        *msg = (lio_msg){.addr_len = addr_len, .flags = flags};
        memcpy(msg->addr, addr, addr_len);
        done.detail = l->room - b->pool;
    }
    if (l->pooled)
        done.data = l->room + l->head - b->pool;
    if (l->head != 0 || l->pooled)
        lio_poller_arena_keep(b, l->head + (l->pooled ? count : 0));
    return done;
}

/* -- streams and pipes ------------------------------------------------------------- */

static lio_attempt take_bytes(lio_backend *b, sim_object *object, const lio_op *op)
{
    sim_queue *queue = object->in;
    bool peeks = op->opcode != LIO_READ && op->flags & MSG_PEEK;
    if (queue == NULL)
        return sim_done(object->kind == SIM_WRITER ? -EBADF : -ENOTCONN);
    if (queue->used == 0 && queue->reset && !object->told_reset) {
        object->told_reset = true;
        return sim_done(-ECONNRESET);
    }
    landing l;
    if (!prepare_landing(b, op, &l))
        return (lio_attempt){.verdict = LIO_NO_ROOM};
    bool over = queue->ended || queue->reset || object->read_shut;
    if (queue->used == 0 || l.to.total == 0)
        return over || l.to.total == 0 ? landed(b, &l, 0, 0, NULL, 0) : sim_not_ready();
    size_t most = l.to.total < queue->used ? l.to.total : queue->used;
    size_t count = some_of(lio_sim_of(b), most), done = 0;
    for (size_t i = 0; i < l.to.count && done < count; i++) {
        size_t part = l.to.list[i].len < count - done ? l.to.list[i].len : count - done;
        queue_peek(queue, done, l.to.list[i].base, part);
        done += part;
    }
    if (!peeks)
        queue_drop(queue, count);
    return landed(b, &l, count, 0, object->peer, 0);
}

static lio_attempt give_bytes(lio_backend *b, sim_object *object, lio_slot *slot)
{
    const lio_op *op = &slot->op;
    sim_queue *queue = object->out;
    if (queue == NULL)
        return sim_done(object->kind == SIM_READER ? -EBADF : -ENOTCONN);
    if (queue->reset && !object->told_reset) {
        object->told_reset = true;
        return sim_done(-ECONNRESET);
    }
    if (queue->reset || queue->broken || queue->ended)
        return sim_done(-EPIPE);
    pieces from;
    pieces_of(&from, op, NULL, (size_t)op->len);
    size_t room = queue->room - queue->used, left = from.total - (size_t)slot->moved;
    if (op->opcode == LIO_SEND)
        left = (size_t)lio_slot_to_send(slot);
    if (left == 0)
        return sim_done((int64_t)slot->moved);
    if (room == 0)
        return sim_not_ready();
    size_t count = some_of(lio_sim_of(b), left < room ? left : room), done = 0;
    size_t skip = (size_t)slot->moved;
    for (size_t i = 0; i < from.count && done < count; i++) {
        size_t length = from.list[i].len;
        size_t from_here = skip < length ? length - skip : 0;
        size_t part = from_here < count - done ? from_here : count - done;
        if (part != 0)
            queue_put(queue, (const char *)from.list[i].base + skip, part);
        done += part;
        skip -= skip < length ? skip : length;
    }
    if (!(op->op_flags & LIO_OP_ALL))
        return sim_done((int64_t)count);
    slot->moved += count;
    if (slot->moved == from.total)
        return sim_done((int64_t)slot->moved);
    return (lio_attempt){.verdict = LIO_AGAIN};
}

/* -- datagrams --------------------------------------------------------------------- */

static lio_attempt take_message(lio_backend *b, sim_object *object, const lio_op *op)
{
    sim_message *message = object->messages;
    landing l;
    if (message == NULL)
        return object->read_shut ? sim_done(0) : sim_not_ready();
    if (!prepare_landing(b, op, &l))
        return (lio_attempt){.verdict = LIO_NO_ROOM};
    size_t count = message->size < l.to.total ? message->size : l.to.total, done = 0;
    for (size_t i = 0; i < l.to.count && done < count; i++) {
        size_t part = l.to.list[i].len < count - done ? l.to.list[i].len : count - done;
        memcpy(l.to.list[i].base, message->bytes + done, part);
        done += part;
    }
    lio_attempt taken = landed(b, &l, count, message->size > count ? (uint32_t)MSG_TRUNC : 0,
                               message->addr, message->addr_len);
    if (op->opcode == LIO_READ || !(op->flags & MSG_PEEK)) {
        object->messages = message->next;
        object->message_count--;
        free(message);
    }
    return taken;
}

static lio_attempt give_message(lio_backend *b, sim_object *object, const lio_op *op,
                                const lio_slot_extra *extra)
{
    bool addressed = op->opcode != LIO_WRITE && op->addr_len != 0;
    const uint8_t *addr = addressed ? extra->addr : object->peer;
    uint32_t addr_len = addressed ? op->addr_len : object->peer_len;
    if (addr_len == 0)
        return sim_done(-EDESTADDRREQ);
    sim_object *receiver = named(lio_sim_of(b), SOCK_DGRAM, addr, addr_len);
    pieces from;
    pieces_of(&from, op, NULL, (size_t)op->len);
    if (receiver == NULL || from.total > MESSAGE_SIZE_MAX)
        return sim_done(receiver == NULL ? -ECONNREFUSED : -EMSGSIZE);
    if (receiver->message_count == MESSAGES_MAX)
        return sim_not_ready();
    sim_message *message = calloc(1, sizeof *message + from.total);
    if (message == NULL)
        return sim_done(-ENOMEM);
    for (size_t i = 0; i < from.count; i++) {
        if (from.list[i].len != 0)
            memcpy(message->bytes + message->size, from.list[i].base, from.list[i].len);
        message->size += from.list[i].len;
    }
    memcpy(message->addr, object->addr, message->addr_len = object->addr_len);
    if (receiver->messages == NULL)
        receiver->messages = message;
    else
        receiver->messages_tail->next = message;
    receiver->messages_tail = message;
    receiver->message_count++;
    return sim_done((int64_t)from.total);
}

/* -- all of them ------------------------------------------------------------------- */

static lio_attempt level_of(const sim_object *o, uint32_t mask)
{
    uint32_t due = 0;
    switch ((enum sim_kind)o->kind) {
    case SIM_LISTENER:
        due = o->waiting != NULL ? LIO_POLL_READ : 0;
        break;
    case SIM_DATAGRAM:
        due = LIO_POLL_WRITE | (o->messages != NULL || o->read_shut ? LIO_POLL_READ : 0);
        break;
    case SIM_STREAM:
    case SIM_READER:
    case SIM_WRITER:
        if (o->in != NULL && (o->in->used != 0 || o->in->ended || o->in->reset || o->read_shut))
            due |= LIO_POLL_READ;
        if (o->out != NULL &&
            (o->out->used < o->out->room || o->out->ended || o->out->broken || o->out->reset))
            due |= LIO_POLL_WRITE;
        break;
    case SIM_SOCKET:
    case SIM_FILE:
        due = LIO_POLL_READ | LIO_POLL_WRITE;
    }
    return (due & mask) == 0 ? sim_not_ready() : sim_done(due & mask);
}

static bool is_socket(const sim_object *object)
{
    return object->kind <= SIM_DATAGRAM;
}

lio_attempt lio_sim_try(lio_backend *b, sim_object *object, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    const lio_slot_extra *extra = lio_extra_at(&b->store, number);
    const lio_op *op = &slot->op;
    bool datagrams = object->kind == SIM_DATAGRAM;
    switch (op->opcode) {
    case LIO_POLL:
        return level_of(object, op->flags);
    case LIO_CLOSE:
        return sim_done(close((int)op->fd) == 0 || errno == EINTR ? 0 : -errno);
    case LIO_READ:
    case LIO_WRITE:
        if (object->kind == SIM_FILE)
            return lio_sim_try_file(b, object, slot);
        break;
    default:
        if (object->kind == SIM_FILE)
            return lio_sim_try_file(b, object, slot);
        if (!is_socket(object))
            return sim_done(lio_opcode_is_file(op->opcode) ? -ESPIPE : -ENOTSOCK);
    }
    switch (op->opcode) {
    case LIO_READ:
    case LIO_RECV:
    case LIO_RECVFROM:
    case LIO_RECVMSG:
        if (op->opcode != LIO_READ && op->flags & MSG_OOB)
            return sim_done(-EINVAL);
        return datagrams ? take_message(b, object, op) : take_bytes(b, object, op);
    case LIO_WRITE:
    case LIO_SEND:
    case LIO_SENDTO:
    case LIO_SENDMSG:
        if (op->opcode == LIO_SENDMSG && op->control_len != 0)
            return sim_done(-EOPNOTSUPP);
        return datagrams ? give_message(b, object, op, extra) : give_bytes(b, object, slot);
    case LIO_BIND:
        return sim_done(bind_to(lio_sim_of(b), object, extra));
    case LIO_LISTEN:
        return sim_done(listen_with(object, op->len));
    case LIO_CONNECT:
        return connect_to(lio_sim_of(b), object, extra);
    case LIO_ACCEPT:
        return accept_from(b, object);
    case LIO_SHUTDOWN:
        return sim_done(shut(object, op->flags));
    default:
        return sim_done(-EINVAL);
    }
}

/* -- making them ------------------------------------------------------------------- */

static int check(const lio_backend *b, int type)
{
    if (b == NULL || b->phase != LIO_PHASE_OPEN)
        return b == NULL ? -EINVAL : -ENXIO;
    if (strcmp(b->vtable->name, "sim") != 0)
        return -ENOTSUP;
    return type == SOCK_STREAM || type == SOCK_DGRAM ? 0 : -EINVAL;
}

int lio_sim_socket(lio_backend *b, int type)
{
    sim_object *object;
    int error = check(b, type);
    if (error != 0)
        return error;
    return lio_sim_add(lio_sim_of(b), &object, type == SOCK_DGRAM ? SIM_DATAGRAM : SIM_SOCKET,
                       type);
}

/* The object of the second end may be missing its other half: then it is closed again. */
static int add_two(lio_backend *b, int fds[2], sim_object *objects[2], uint8_t kind, int type)
{
    lio_sim *sim = lio_sim_of(b);
    for (int i = 0; i < 2; i++) {
        fds[i] = lio_sim_add(sim, &objects[i], kind, type);
        if (fds[i] >= 0)
            continue;
        int error = fds[i];
        if (i == 1)
            close(fds[0]); /* the next pass buries it */
        fds[0] = fds[1] = -1;
        return error;
    }
    return 0;
}

int lio_sim_pair(lio_backend *b, int type, int fds[2])
{
    sim_object *objects[2];
    int error = fds == NULL ? -EINVAL : check(b, type);
    if (error != 0)
        return error;
    bool datagrams = type == SOCK_DGRAM;
    error = add_two(b, fds, objects, datagrams ? SIM_DATAGRAM : SIM_SOCKET, type);
    for (int i = 0; error == 0 && datagrams && i < 2; i++)
        name_self(lio_sim_of(b), objects[i]);
    for (int i = 0; error == 0 && datagrams && i < 2; i++)
        memcpy(objects[i]->peer, objects[!i]->addr,
               objects[i]->peer_len = objects[!i]->addr_len);
    if (error == 0 && !datagrams)
        error = join(lio_sim_of(b), objects[0], objects[1]);
    if (error == -ENOMEM && fds[0] >= 0) {
        close(fds[0]);
        close(fds[1]);
    }
    return error;
}

int lio_sim_pipe(lio_backend *b, int fds[2])
{
    sim_object *objects[2];
    int error = fds == NULL ? -EINVAL : check(b, SOCK_STREAM);
    if (error == 0)
        error = add_two(b, fds, objects, SIM_READER, SOCK_STREAM);
    if (error != 0)
        return error;
    sim_queue *queue = queue_new(lio_sim_of(b), 2);
    if (queue == NULL) {
        close(fds[0]);
        close(fds[1]);
        return -ENOMEM;
    }
    objects[1]->kind = SIM_WRITER;
    objects[0]->in = objects[1]->out = queue;
    return 0;
}
