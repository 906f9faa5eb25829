/* iocp_receive.c: receives.
 *
 * Memory for data is wanted when the data is there, not while it is waited for. For a receive
 * from the pool a stream is therefore asked for nothing at all, which completes when there is
 * something, and a datagram socket for a look at nothing (an empty receive would throw the
 * datagram away); what came is then taken by a second call, which does not wait. */
#include "iocp.h"

#include <string.h>

static uint64_t wanted_by(const lio_op *op)
{
    uint64_t wanted = op->opcode == LIO_RECVMSG ? op->buf_len : op->len;
    return wanted > LIO_RECEIVE_MAX ? LIO_RECEIVE_MAX : wanted;
}

static size_t head_of(const lio_op *op)
{
    return op->opcode == LIO_RECV ? 0 : lio_arena_rounded(sizeof(lio_msg));
}

/* What the operation writes besides the data, in its lasting memory. */
static void prepare_receive(lio_iocp_io *io, lio_slot_extra *extra, const lio_op *op)
{
    io->as.receive.flags = op->flags;
    io->as.receive.addr_len = LIO_ADDR_MAX;
    io->as.receive.message = (WSAMSG){
        .name = (struct sockaddr *)extra->addr,
        .namelen = LIO_ADDR_MAX,
        .Control = {op->control == NULL ? 0 : op->control_len, op->control},
        .dwFlags = op->flags,
    };
}

/* Calls the function that receives into these parts; 0 or a Windows error. */
static DWORD call_receive(lio_backend *b, uint32_t number, const lio_fd_entry *entry,
                          WSABUF *parts, DWORD count, DWORD *received, OVERLAPPED *overlapped)
{
    const lio_op *op = &lio_slot_at(&b->store, number)->op;
    lio_slot_extra *extra = lio_extra_at(&b->store, number);
    lio_iocp_io *io = lio_iocp_io_at(b, number);
    SOCKET socket = (SOCKET)op->fd;
    int answer;
    prepare_receive(io, extra, op);
    if (op->opcode == LIO_RECVMSG && !(entry->stream & LIO_IS_STREAM)) {
        io->as.receive.message.lpBuffers = parts;
        io->as.receive.message.dwBufferCount = count;
        answer = lio_iocp_of(b)->receive_message(socket, &io->as.receive.message, received,
                                                 overlapped, NULL);
    } else if (op->opcode == LIO_RECV || (entry->stream & LIO_IS_STREAM)) {
        io->as.receive.addr_len = 0;
        answer =
            WSARecv(socket, parts, count, received, &io->as.receive.flags, overlapped, NULL);
    } else {
        answer = WSARecvFrom(socket, parts, count, received, &io->as.receive.flags,
                             (struct sockaddr *)extra->addr, &io->as.receive.addr_len,
                             overlapped, NULL);
    }
    return answer == 0 ? 0 : (DWORD)WSAGetLastError();
}

static void fill_msg(lio_backend *b, uint32_t number, const lio_fd_entry *entry, lio_msg *msg)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    const lio_slot_extra *extra = lio_extra_at(&b->store, number);
    const lio_iocp_io *io = lio_iocp_io_at(b, number);
    const WSAMSG *message = &io->as.receive.message;
    bool is_message = slot->op.opcode == LIO_RECVMSG && !(entry->stream & LIO_IS_STREAM);
    int length = is_message ? message->namelen : io->as.receive.addr_len;
    memset(msg, 0, sizeof *msg);
    msg->addr_len = length < 0 || length > LIO_ADDR_MAX ? 0 : (uint32_t)length;
    msg->control_len = is_message ? message->Control.len : 0;
    msg->flags = is_message ? message->dwFlags : 0;
    memcpy(msg->addr, extra->addr, msg->addr_len);
}

void lio_iocp_be_hungry(lio_backend *b, uint32_t number)
{
    lio_slot_at(&b->store, number)->stage = LIO_STAGE_HUNGRY;
    lio_list_append(&b->store, &lio_iocp_of(b)->hungry, number, LIO_LIST_PARKED);
}

/* Hands over what was received into the caller's memory. */
static void finish_into(lio_backend *b, uint32_t number, const lio_fd_entry *entry,
                        int64_t received)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    lio_iocp *p = lio_iocp_of(b);
    size_t head = head_of(&slot->op);
    char *room = lio_arena_room(&p->arena, head);
    int64_t detail = -1;
    if (head != 0) {
        if (room == NULL) { /* has its bytes, and no room for the address */
            lio_slot_at(&b->store, number)->result = received;
            lio_iocp_be_hungry(b, number);
            return;
        }
        fill_msg(b, number, entry, (lio_msg *)room);
        lio_arena_keep(&p->arena, head);
        detail = room - p->arena.base;
    }
    lio_iocp_finish(b, number, received, -1, detail);
}

static void probe(lio_backend *b, uint32_t number, const lio_fd_entry *entry);

/* Receives without waiting; 0 or a Windows error, WSAEWOULDBLOCK among them. */
static DWORD receive_now(lio_backend *b, uint32_t number, const lio_fd_entry *entry,
                         WSABUF part, DWORD *received)
{
    lio_iocp *p = lio_iocp_of(b);
    SOCKET socket = (SOCKET)lio_slot_at(&b->store, number)->op.fd;
    b->stats.syscalls++;
    if (entry->adopted) /* non-blocking, as its owner promised */
        return call_receive(b, number, entry, &part, 1, received, NULL);
    OVERLAPPED overlapped = {.hEvent = (HANDLE)((ULONG_PTR)p->event | 1)};
    DWORD flags, error = call_receive(b, number, entry, &part, 1, received, &overlapped);
    if (error != WSA_IO_PENDING)
        return error;
    b->stats.syscalls += 2;
    CancelIoEx((HANDLE)socket, &overlapped);
    if (WSAGetOverlappedResult(socket, &overlapped, received, TRUE, &flags))
        return 0;
    error = (DWORD)WSAGetLastError();
    return error == WSA_OPERATION_ABORTED ? WSAEWOULDBLOCK : error;
}

/* The second half of a receive from the pool: there is something. */
static void receive_pooled(lio_backend *b, uint32_t number)
{
    lio_iocp *p = lio_iocp_of(b);
    const lio_slot *slot = lio_slot_at(&b->store, number);
    const lio_fd_entry *entry = lio_iocp_entry(b, slot);
    size_t head = head_of(&slot->op);
    ULONG wanted = (ULONG)wanted_by(&slot->op);
    char *room = lio_arena_room(&p->arena, head + wanted);
    if (room == NULL) {
        lio_iocp_be_hungry(b, number);
        return;
    }
    DWORD received = 0;
    DWORD error = receive_now(b, number, entry, (WSABUF){wanted, room + head}, &received);
    if (error == WSAEWOULDBLOCK) {
        if (slot->state == LIO_STATE_CANCELLING)
            lio_iocp_finish_early(b, number);
        else
            probe(b, number, entry);
        return;
    }
    if (error != 0) {
        lio_iocp_fail(b, number, error);
        return;
    }
    if (head != 0)
        fill_msg(b, number, entry, (lio_msg *)room);
    lio_arena_keep(&p->arena, head + received);
    lio_iocp_finish(b, number, received, room + head - p->arena.base,
                    head != 0 ? room - p->arena.base : -1);
}

/* Asks for nothing, or for a look at nothing: completes when there is something. */
static void probe(lio_backend *b, uint32_t number, const lio_fd_entry *entry)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    lio_iocp_io *io = lio_iocp_io_at(b, number);
    char nothing;
    WSABUF part = {0, &nothing};
    DWORD received, error = lio_iocp_prepare(b, number, entry);
    if (error == 0) {
        io->as.receive.flags = entry->stream & LIO_IS_STREAM ? 0 : MSG_PEEK;
        error = WSARecv((SOCKET)slot->op.fd, &part, 1, &received, &io->as.receive.flags,
                        &io->overlapped, NULL) == 0
                    ? 0
                    : (DWORD)WSAGetLastError();
    }
    if (lio_iocp_pends(b, number, entry, LIO_STAGE_PROBE, &error))
        return;
    if (error == 0 || error == WSAEMSGSIZE)
        receive_pooled(b, number);
    else
        lio_iocp_fail(b, number, error);
}

static void receive_into(lio_backend *b, uint32_t number, const lio_fd_entry *entry)
{
    const lio_op *op = &lio_slot_at(&b->store, number)->op;
    lio_iocp_io *io = lio_iocp_io_at(b, number);
    WSABUF parts[LIO_PARTS_MAX];
    DWORD count = 1, received = 0;
    if (op->opcode == LIO_RECVMSG)
        count = lio_iocp_parts(op, parts);
    else
        parts[0] = (WSABUF){lio_iocp_length(op->len), op->buf};
    DWORD error = lio_iocp_prepare(b, number, entry);
    if (error == 0)
        error = call_receive(b, number, entry, parts, count, &received, &io->overlapped);
    if (lio_iocp_pends(b, number, entry, LIO_STAGE_KERNEL, &error))
        return;
    if (error == 0)
        finish_into(b, number, entry, (int64_t)io->overlapped.InternalHigh);
    else
        lio_iocp_fail(b, number, error);
}

/* Receives on one socket go in the order of their push, one at a time. */
void lio_iocp_receive(lio_backend *b, uint32_t number)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    const lio_fd_entry *entry = lio_iocp_entry(b, slot);
    if (!lio_iocp_take_turn(b, number))
        return;
    if (slot->op.buf == NULL)
        probe(b, number, entry);
    else
        receive_into(b, number, entry);
}

void lio_iocp_probed(lio_backend *b, uint32_t number, DWORD error)
{
    if (lio_slot_at(&b->store, number)->state == LIO_STATE_CANCELLING)
        lio_iocp_finish_early(b, number); /* nothing was taken yet */
    else if (error != 0 && error != WSAEMSGSIZE)
        lio_iocp_fail(b, number, error);
    else if (lio_iocp_may_use(b, number))
        receive_pooled(b, number);
}

void lio_iocp_received(lio_backend *b, uint32_t number, DWORD error, DWORD received)
{
    if (error == 0)
        finish_into(b, number, lio_iocp_entry(b, lio_slot_at(&b->store, number)), received);
    else
        lio_iocp_fail(b, number, error);
}

void lio_iocp_feed_hungry(lio_backend *b)
{
    lio_iocp *p = lio_iocp_of(b);
    lio_list hungry = p->hungry;
    p->hungry = (lio_list){LIO_NO_SLOT, LIO_NO_SLOT};
    while (hungry.head != LIO_NO_SLOT) {
        uint32_t number = hungry.head;
        lio_slot *slot = lio_slot_at(&b->store, number);
        lio_list_remove(&b->store, &hungry, number);
        if (slot->op.opcode == LIO_ACCEPT)
            lio_iocp_finish_accept(b, number);
        else if (slot->op.buf != NULL)
            finish_into(b, number, lio_iocp_entry(b, slot), slot->result);
        else if (lio_iocp_may_use(b, number))
            receive_pooled(b, number);
    }
}
