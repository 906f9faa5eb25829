/* iocp_ops.c: how operations start and how they end; receives are in iocp_receive.c.
 *
 * Sends. LIO_OP_ALL is one overlapped send, whose cancel may leave part of the data on its way.
 * A plain send must have sent nothing when it is cancelled: on a claimed stream socket, which
 * is non-blocking, it is tried, and waits for room where it has to.
 *
 * Three ways for a call to end: at once with a packet to come, at once without (LIO_SKIPS, or
 * another port's handle), or later. */
#include "iocp.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define ACCEPT_ADDR_SIZE ((DWORD)sizeof(struct sockaddr_in6) + 16)

static_assert(2 * (sizeof(struct sockaddr_in6) + 16) <= LIO_ADDR_MAX, "addresses of an accept");

/* -- ending ------------------------------------------------------------------------ */

bool lio_iocp_take_turn(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_fd_entry *entry = lio_iocp_entry(b, slot);
    if (entry->ready & LIO_TURN_TAKEN) {
        slot->stage = LIO_STAGE_TURN;
        lio_list_append(&b->store, &entry->parked[LIO_TURN], number, LIO_LIST_PARKED);
        return false;
    }
    entry->ready |= LIO_TURN_TAKEN;
    slot->by_number = 1;
    return true;
}

void lio_iocp_finish(lio_backend *b, uint32_t number, int64_t result, int64_t data,
                     int64_t detail)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_fd_entry *entry = slot->by_number ? lio_iocp_entry(b, slot) : NULL;
    b->stats.cancelled += result == -ECANCELED;
    lio_store_complete(&b->store, number, result, data, detail);
    if (entry == NULL)
        return;
    entry->ready &= (uint8_t)~LIO_TURN_TAKEN;
    uint32_t next = entry->parked[LIO_TURN].head;
    if (next != LIO_NO_SLOT) {
        lio_list_remove(&b->store, &entry->parked[LIO_TURN], next);
        lio_store_requeue(&b->store, next, true);
    }
}

void lio_iocp_fail(lio_backend *b, uint32_t number, DWORD error)
{
    bool aborted = error == ERROR_OPERATION_ABORTED;
    lio_iocp_finish(b, number, -lio_errno_of_windows(error), -1, aborted ? -1 : (int64_t)error);
}

bool lio_iocp_may_use(lio_backend *b, uint32_t number)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    if (!lio_iocp_is_lost(b, lio_iocp_entry(b, slot), slot->op.fd))
        return true;
    lio_iocp_fail(b, number, ERROR_INVALID_HANDLE);
    return false;
}

void lio_iocp_finish_early(lio_backend *b, uint32_t number)
{
    uint64_t moved = lio_slot_at(&b->store, number)->moved;
    lio_iocp_finish(b, number, moved != 0 ? (int64_t)moved : -ECANCELED, -1, -1);
}

/* -- calls, and the three ways in which they end ----------------------------------- */

static void CALLBACK on_event(void *argument, BOOLEAN timed_out)
{
    lio_iocp_io *io = argument;
    (void)timed_out;
    lio_iocp_post(io->port, 0, (ULONG_PTR)LIO_KEY_OP, &io->overlapped);
}

static void drop_event(lio_iocp_io *io)
{
    if (io->wait != NULL) /* and the callback is over, which knows this memory */
        UnregisterWaitEx(io->wait, INVALID_HANDLE_VALUE);
    if (io->event != NULL)
        CloseHandle(io->event);
    io->wait = io->event = NULL;
}

DWORD lio_iocp_prepare(lio_backend *b, uint32_t number, const lio_fd_entry *entry)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_iocp_io *io = lio_iocp_io_at(b, number);
    memset(&io->overlapped, 0, sizeof io->overlapped);
    io->token = lio_store_token(slot, number);
    io->event = io->wait = NULL;
    io->port = lio_iocp_of(b)->port;
    if (!(entry->stream & LIO_IS_OTHERS))
        return 0;
    io->event = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (io->event == NULL)
        return GetLastError();
    io->overlapped.hEvent = (HANDLE)((ULONG_PTR)io->event | 1);
    return 0;
}

/* Whether an operation was done before it could be ended. */
static bool end_now(lio_backend *b, uint32_t number)
{
    HANDLE handle = (HANDLE)lio_iocp_handle_of(&lio_slot_at(&b->store, number)->op);
    OVERLAPPED *overlapped = &lio_iocp_io_at(b, number)->overlapped;
    DWORD transferred;
    CancelIoEx(handle, overlapped);
    return GetOverlappedResult(handle, overlapped, &transferred, TRUE) || transferred != 0;
}

bool lio_iocp_pends(lio_backend *b, uint32_t number, const lio_fd_entry *entry,
                    enum lio_iocp_stage stage, DWORD *error)
{
    lio_iocp_io *io = lio_iocp_io_at(b, number);
    bool pends = *error == ERROR_IO_PENDING;
    b->stats.syscalls++;
    if (pends && io->event != NULL &&
        !RegisterWaitForSingleObject(&io->wait, io->event, on_event, io, INFINITE,
                                     WT_EXECUTEONLYONCE | WT_EXECUTEINWAITTHREAD)) {
        *error = GetLastError();
        io->wait = NULL;
        if (end_now(b, number))
            *error = 0;
        pends = false;
    }
    bool sends_packet = *error == 0 && !(entry->stream & (LIO_SKIPS | LIO_IS_OTHERS));
    if (!pends && !sends_packet) {
        drop_event(io);
        return false;
    }
    lio_slot_at(&b->store, number)->stage = (uint8_t)stage;
    lio_iocp_of(b)->with_kernel++;
    return true;
}

/* How an operation went whose packet came: 0 or a Windows error. */
static DWORD error_of(lio_backend *b, uint32_t number, bool is_socket)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    lio_iocp_io *io = lio_iocp_io_at(b, number);
    lio_fd handle = lio_iocp_handle_of(&slot->op);
    DWORD transferred, flags, error;
    if (io->overlapped.Internal == 0)
        return 0;
    if (is_socket) {
        b->stats.syscalls++;
        if (WSAGetOverlappedResult((SOCKET)handle, &io->overlapped, &transferred, FALSE,
                                   &flags))
            return 0;
        error = (DWORD)WSAGetLastError();
    } else {
        if (GetOverlappedResult((HANDLE)handle, &io->overlapped, &transferred, FALSE))
            return 0;
        error = GetLastError();
    }
    /* Closed under the operation: the handle says so, or names something else by now. */
    bool closed = error == WSAENOTSOCK || error == ERROR_INVALID_HANDLE;
    return closed ? ERROR_OPERATION_ABORTED : error;
}

DWORD lio_iocp_parts(const lio_op *op, WSABUF *parts)
{
    const lio_iovec *iov = op->buf;
    for (uint64_t i = 0; i < op->len; i++)
        parts[i] = (WSABUF){lio_iocp_length(iov[i].len), iov[i].base};
    return (DWORD)op->len;
}

/* -- sending ----------------------------------------------------------------------- */

static DWORD call_send(lio_backend *b, uint32_t number, DWORD *sent, OVERLAPPED *overlapped)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_slot_extra *extra = lio_extra_at(&b->store, number);
    const lio_op *op = &slot->op;
    SOCKET socket = (SOCKET)op->fd;
    struct sockaddr *addr = op->addr_len == 0 ? NULL : (struct sockaddr *)extra->addr;
    WSABUF parts[LIO_PARTS_MAX];
    DWORD count = 1;
    int answer;
    if (op->opcode == LIO_SENDMSG)
        count = lio_iocp_parts(op, parts);
    else
        parts[0] =
            (WSABUF){lio_iocp_length(lio_slot_to_send(slot)),
                     op->buf == NULL ? (char *)extra->addr : (char *)op->buf + slot->moved};
    if (op->opcode == LIO_SENDMSG && op->control != NULL && op->control_len != 0) {
        WSAMSG message = {addr, op->addr_len, parts, count, {op->control_len, op->control}, 0};
        answer =
            lio_iocp_of(b)->send_message(socket, &message, op->flags, sent, overlapped, NULL);
    } else if (addr != NULL) {
        answer = WSASendTo(socket, parts, count, sent, op->flags, addr, op->addr_len,
                           overlapped, NULL);
    } else {
        answer = WSASend(socket, parts, count, sent, op->flags, overlapped, NULL);
    }
    return answer == 0 ? 0 : (DWORD)WSAGetLastError();
}

static void finish_send(lio_backend *b, uint32_t number, uint64_t sent)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    if (!(slot->op.op_flags & LIO_OP_ALL)) {
        lio_iocp_finish(b, number, (int64_t)sent, -1, -1);
        return;
    }
    slot->moved += sent;
    bool more = slot->moved < slot->op.len && slot->state != LIO_STATE_CANCELLING;
    if (more)
        lio_store_requeue(&b->store, number, true);
    else
        lio_iocp_finish(b, number, (int64_t)slot->moved, -1, -1);
}

static void fail_send(lio_backend *b, uint32_t number, DWORD error)
{
    if (error == ERROR_OPERATION_ABORTED)
        lio_iocp_finish_early(b, number);
    else
        lio_iocp_fail(b, number, error);
}

static void start_send(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    const lio_fd_entry *entry = lio_iocp_entry(b, slot);
    bool tries =
        entry->adopted && (entry->stream & LIO_IS_STREAM) && !(slot->op.op_flags & LIO_OP_ALL);
    DWORD sent = 0;
    if (tries) {
        b->stats.syscalls++;
        DWORD error = call_send(b, number, &sent, NULL);
        if (error == WSAEWOULDBLOCK)
            lio_iocp_await(b, number);
        else if (error == 0)
            finish_send(b, number, sent);
        else
            lio_iocp_fail(b, number, error);
        return;
    }
    OVERLAPPED *overlapped = &lio_iocp_io_at(b, number)->overlapped;
    DWORD error = lio_iocp_prepare(b, number, entry);
    if (error == 0)
        error = call_send(b, number, &sent, overlapped);
    if (lio_iocp_pends(b, number, entry, LIO_STAGE_KERNEL, &error))
        return;
    if (error == 0)
        finish_send(b, number, overlapped->InternalHigh);
    else
        fail_send(b, number, error);
}

void lio_iocp_send_again(lio_backend *b, uint32_t number)
{
    if (lio_iocp_may_use(b, number))
        start_send(b, number);
}

/* -- connections ------------------------------------------------------------------- */

/* A socket of the listener's kind. One that does not listen would be waited for for ever where
 * AcceptEx does not look (Wine). */
static SOCKET socket_like(SOCKET listener)
{
    WSAPROTOCOL_INFOW info;
    DWORD listens = 0;
    int length = sizeof listens;
    if (getsockopt(listener, SOL_SOCKET, SO_ACCEPTCONN, (char *)&listens, &length) == 0 &&
        !listens) {
        WSASetLastError(WSAEINVAL);
        return INVALID_SOCKET;
    }
    length = sizeof info;
    if (getsockopt(listener, SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info, &length) != 0)
        return INVALID_SOCKET;
    return WSASocketW(info.iAddressFamily, info.iSocketType, info.iProtocol, NULL, 0,
                      WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
}

static DWORD unblock(SOCKET socket)
{
    u_long on = 1;
    return ioctlsocket(socket, (long)FIONBIO, &on) == 0 ? 0 : (DWORD)WSAGetLastError();
}

void lio_iocp_drop_accepted(lio_backend *b, uint32_t number, DWORD error)
{
    closesocket(lio_iocp_io_at(b, number)->as.accepted);
    lio_iocp_fail(b, number, error);
}

static void start_accept(lio_backend *b, uint32_t number);

void lio_iocp_finish_accept(lio_backend *b, uint32_t number)
{
    lio_iocp *p = lio_iocp_of(b);
    const lio_slot *slot = lio_slot_at(&b->store, number);
    lio_slot_extra *extra = lio_extra_at(&b->store, number);
    SOCKET listener = (SOCKET)slot->op.fd, accepted = lio_iocp_io_at(b, number)->as.accepted;
    lio_msg *msg = (lio_msg *)lio_arena_room(&p->arena, sizeof *msg);
    if (msg == NULL) {
        /* Cannot be by accepts alone: the arena holds thousands of addresses. */
        lio_iocp_be_hungry(b, number);
        return;
    }
    if (lio_iocp_is_lost(b, lio_iocp_entry(b, slot), slot->op.fd)) {
        lio_iocp_drop_accepted(b, number, ERROR_INVALID_HANDLE);
        return;
    }
    struct sockaddr *local, *remote;
    int local_length, remote_length;
    memset(msg, 0, sizeof *msg);
    p->accept_addresses(extra->addr, 0, ACCEPT_ADDR_SIZE, ACCEPT_ADDR_SIZE, &local,
                        &local_length, &remote, &remote_length);
    if (remote_length > 0 && remote_length <= LIO_ADDR_MAX) {
        memcpy(msg->addr, remote, (size_t)remote_length);
        msg->addr_len = (uint32_t)remote_length;
    }
    b->stats.syscalls += 2;
    DWORD error = 0;
    if (setsockopt(accepted, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (const char *)&listener,
                   sizeof listener) != 0)
        error = (DWORD)WSAGetLastError();
    if (error == 0)
        error = unblock(accepted);
    if (error != 0) {
        lio_iocp_drop_accepted(b, number, error);
        return;
    }
    lio_arena_keep(&p->arena, sizeof *msg);
    lio_iocp_finish(b, number, (int64_t)accepted, -1, (char *)msg - p->arena.base);
}

static void fail_accept(lio_backend *b, uint32_t number, DWORD error)
{
    bool gone = error == WSAECONNRESET || error == ERROR_NETNAME_DELETED;
    if (!gone || lio_slot_at(&b->store, number)->state == LIO_STATE_CANCELLING) {
        lio_iocp_drop_accepted(b, number, gone ? ERROR_OPERATION_ABORTED : error);
        return;
    }
    /* That peer went before it was taken: the next one, please. */
    closesocket(lio_iocp_io_at(b, number)->as.accepted);
    if (lio_iocp_may_use(b, number))
        start_accept(b, number);
}

static void start_accept(lio_backend *b, uint32_t number)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    lio_iocp_io *io = lio_iocp_io_at(b, number);
    const lio_fd_entry *entry = lio_iocp_entry(b, slot);
    SOCKET listener = (SOCKET)slot->op.fd;
    DWORD received, error;
    b->stats.syscalls += 3;
    SOCKET accepted = socket_like(listener);
    if (accepted == INVALID_SOCKET) {
        lio_iocp_fail(b, number, (DWORD)WSAGetLastError());
        return;
    }
    error = lio_iocp_prepare(b, number, entry);
    io->as.accepted = accepted;
    if (error == 0 &&
        !lio_iocp_of(b)->accept(listener, accepted, lio_extra_at(&b->store, number)->addr, 0,
                                ACCEPT_ADDR_SIZE, ACCEPT_ADDR_SIZE, &received, &io->overlapped))
        error = (DWORD)WSAGetLastError();
    if (lio_iocp_pends(b, number, entry, LIO_STAGE_KERNEL, &error))
        return;
    if (error == 0)
        lio_iocp_finish_accept(b, number);
    else
        lio_iocp_drop_accepted(b, number, error);
}

/* ConnectEx wants a socket that has an address. */
static DWORD bind_any(SOCKET socket, int family)
{
    struct sockaddr_storage addr = {0};
    int length = sizeof addr;
    if (getsockname(socket, (struct sockaddr *)&addr, &length) == 0)
        return 0;
    memset(&addr, 0, sizeof addr);
    addr.ss_family = (ADDRESS_FAMILY)family;
    length =
        family == AF_INET6 ? (int)sizeof(struct sockaddr_in6) : (int)sizeof(struct sockaddr_in);
    return bind(socket, (struct sockaddr *)&addr, length) == 0 ? 0 : (DWORD)WSAGetLastError();
}

static void finish_connect(lio_backend *b, uint32_t number)
{
    SOCKET socket = (SOCKET)lio_slot_at(&b->store, number)->op.fd;
    if (!lio_iocp_may_use(b, number))
        return;
    b->stats.syscalls++;
    if (setsockopt(socket, SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT, NULL, 0) == 0)
        lio_iocp_finish(b, number, 0, -1, -1);
    else
        lio_iocp_fail(b, number, (DWORD)WSAGetLastError());
}

static void start_connect(lio_backend *b, uint32_t number)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    const lio_op *op = &slot->op;
    const lio_fd_entry *entry = lio_iocp_entry(b, slot);
    lio_iocp_io *io = lio_iocp_io_at(b, number);
    const struct sockaddr *addr = (struct sockaddr *)lio_extra_at(&b->store, number)->addr;
    SOCKET socket = (SOCKET)op->fd;
    DWORD error;
    if (!(entry->stream & LIO_IS_STREAM)) { /* only notes the address */
        b->stats.syscalls++;
        if (WSAConnect(socket, addr, op->addr_len, NULL, NULL, NULL, NULL) == 0)
            lio_iocp_finish(b, number, 0, -1, -1);
        else
            lio_iocp_fail(b, number, (DWORD)WSAGetLastError());
        return;
    }
    b->stats.syscalls++;
    error = bind_any(socket, addr->sa_family);
    if (error == 0)
        error = lio_iocp_prepare(b, number, entry);
    if (error == 0 &&
        !lio_iocp_of(b)->connect(socket, addr, op->addr_len, NULL, 0, NULL, &io->overlapped))
        error = (DWORD)WSAGetLastError();
    if (lio_iocp_pends(b, number, entry, LIO_STAGE_KERNEL, &error))
        return;
    if (error == 0)
        finish_connect(b, number);
    else
        lio_iocp_fail(b, number, error);
}

/* -- calls that do not wait -------------------------------------------------------- */

static void make_socket(lio_backend *b, uint32_t number)
{
    const lio_op *op = &lio_slot_at(&b->store, number)->op;
    b->stats.syscalls += 2;
    SOCKET socket = WSASocketW((int)op->fd, (int)op->flags, (int)op->offset, NULL, 0,
                               WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    DWORD error = socket == INVALID_SOCKET ? (DWORD)WSAGetLastError() : unblock(socket);
    if (error == 0) {
        lio_iocp_finish(b, number, (int64_t)socket, -1, -1);
        return;
    }
    if (socket != INVALID_SOCKET)
        closesocket(socket);
    lio_iocp_fail(b, number, error);
}

static void call_once(lio_backend *b, uint32_t number)
{
    const lio_op *op = &lio_slot_at(&b->store, number)->op;
    const struct sockaddr *addr = (struct sockaddr *)lio_extra_at(&b->store, number)->addr;
    SOCKET socket = (SOCKET)op->fd;
    int answer;
    b->stats.syscalls++;
    if (op->opcode == LIO_BIND)
        answer = bind(socket, addr, op->addr_len);
    else if (op->opcode == LIO_LISTEN)
        answer = listen(socket, op->len > INT_MAX ? INT_MAX : (int)op->len);
    else
        answer = shutdown(socket, (int)op->flags);
    if (answer == 0)
        lio_iocp_finish(b, number, 0, -1, -1);
    else
        lio_iocp_fail(b, number, (DWORD)WSAGetLastError());
}

static void start_timer(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    int64_t now = lio_now(), wanted = slot->op.offset;
    slot->stage = LIO_STAGE_TIMER;
    lio_timers_add(&lio_iocp_of(b)->timers, &b->store, number,
                   wanted > INT64_MAX - now ? INT64_MAX : now + wanted);
}

/* lio_push saw to it that nothing else goes on there. */
static void start_close(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_fd_entry *entry = lio_iocp_entry(b, slot);
    entry->stream = 0;
    b->stats.syscalls++;
    lio_iocp_finish(b, number, lio_close_handle(slot->op.fd), -1, -1);
}

/* -- handles ----------------------------------------------------------------------- */

static bool writes(uint8_t opcode)
{
    return opcode == LIO_WRITE || opcode == LIO_WRITE_AT;
}

static bool has_offset(uint8_t opcode)
{
    return opcode == LIO_READ_AT || opcode == LIO_WRITE_AT;
}

/* The end of a file or a pipe is no error for a reader. */
static void finish_transfer(lio_backend *b, uint32_t number, DWORD error, DWORD moved)
{
    bool reads = !writes(lio_slot_at(&b->store, number)->op.opcode);
    bool ended = error == ERROR_HANDLE_EOF || error == ERROR_BROKEN_PIPE ||
                 error == ERROR_PIPE_NOT_CONNECTED;
    if (error == 0 || (reads && error == ERROR_MORE_DATA))
        lio_iocp_finish(b, number, moved, -1, -1);
    else if (reads && ended)
        lio_iocp_finish(b, number, 0, -1, -1);
    else
        lio_iocp_fail(b, number, error);
}

static void start_transfer(lio_backend *b, uint32_t number)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    const lio_op *op = &slot->op;
    const lio_fd_entry *entry = lio_iocp_entry(b, slot);
    OVERLAPPED *overlapped = &lio_iocp_io_at(b, number)->overlapped;
    HANDLE handle = (HANDLE)op->fd;
    if (entry->stream & LIO_BLOCKS) {
        lio_iocp_give_job(b, number);
        return;
    }
    if (!has_offset(op->opcode) && GetFileType(handle) == FILE_TYPE_DISK) {
        lio_iocp_finish(b, number, -ESPIPE, -1, -1); /* has no position of its own */
        return;
    }
    DWORD error = lio_iocp_prepare(b, number, entry);
    uint64_t offset = has_offset(op->opcode) ? (uint64_t)op->offset : 0;
    overlapped->Offset = (DWORD)offset;
    overlapped->OffsetHigh = (DWORD)(offset >> 32);
    DWORD length = lio_iocp_length(op->len);
    BOOL done = FALSE;
    if (error == 0)
        done = writes(op->opcode) ? WriteFile(handle, op->buf, length, NULL, overlapped)
                                  : ReadFile(handle, op->buf, length, NULL, overlapped);
    if (error == 0 && !done)
        error = GetLastError();
    if (!lio_iocp_pends(b, number, entry, LIO_STAGE_KERNEL, &error))
        finish_transfer(b, number, error, (DWORD)overlapped->InternalHigh);
}

/* -- all of them ------------------------------------------------------------------- */

/* A packet for an operation that was not probing or polling. */
static void ended(lio_backend *b, uint32_t number, DWORD error)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    DWORD moved = (DWORD)lio_iocp_io_at(b, number)->overlapped.InternalHigh;
    switch (slot->op.opcode) {
    case LIO_ACCEPT:
        if (error == 0)
            lio_iocp_finish_accept(b, number);
        else
            fail_accept(b, number, error);
        return;
    case LIO_CONNECT:
        if (error == 0)
            finish_connect(b, number);
        else
            lio_iocp_fail(b, number, error);
        return;
    case LIO_SEND:
    case LIO_SENDTO:
    case LIO_SENDMSG:
        if (error == 0 || (error == ERROR_OPERATION_ABORTED && moved != 0))
            finish_send(b, number, moved);
        else
            fail_send(b, number, error);
        return;
    case LIO_RECV:
    case LIO_RECVFROM:
    case LIO_RECVMSG:
        lio_iocp_received(b, number, error, moved);
        return;
    case LIO_SPLICE:
        lio_iocp_transmitted(b, number, error, moved);
        return;
    default:
        finish_transfer(b, number, error, moved);
    }
}

bool lio_iocp_awaits_packet(const lio_backend *b, uint32_t number)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    switch (slot->stage) {
    case LIO_STAGE_KERNEL:
    case LIO_STAGE_PROBE:
    case LIO_STAGE_JOB:
        return true;
    case LIO_STAGE_READY:
        return lio_iocp_entry(b, slot)->round == number + 1; /* carries the poll */
    default:
        return false;
    }
}

void lio_iocp_ended(lio_backend *b, uint32_t number)
{
    const lio_slot *slot = lio_slot_at(&b->store, number);
    bool probed = slot->stage == LIO_STAGE_PROBE;
    bool is_socket = slot->op.opcode != LIO_READ && slot->op.opcode != LIO_WRITE &&
                     !has_offset(slot->op.opcode);
    DWORD error = error_of(b, number, is_socket);
    drop_event(lio_iocp_io_at(b, number));
    if (probed)
        lio_iocp_probed(b, number, error);
    else
        ended(b, number, error);
}

static void start_on_fd(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_fd_entry *entry = lio_iocp_entry(b, slot);
    if (!lio_iocp_may_use(b, number))
        return;
    bool is_marked = entry->adopted && entry->remembered != 0;
    if (!is_marked && slot->moved == 0) {
        DWORD error = lio_iocp_look(b, entry, slot->op.fd, false);
        if (error != 0) {
            lio_iocp_fail(b, number, error);
            return;
        }
    }
    switch (slot->op.opcode) {
    case LIO_RECV:
    case LIO_RECVFROM:
    case LIO_RECVMSG:
        lio_iocp_receive(b, number);
        return;
    case LIO_SEND:
    case LIO_SENDTO:
    case LIO_SENDMSG:
        start_send(b, number);
        return;
    case LIO_ACCEPT:
        start_accept(b, number);
        return;
    case LIO_CONNECT:
        start_connect(b, number);
        return;
    default:
        start_transfer(b, number);
    }
}

void lio_iocp_start(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    switch (slot->op.opcode) {
    case LIO_NOP:
        lio_iocp_finish(b, number, 0, -1, -1);
        return;
    case LIO_TIMEOUT:
        start_timer(b, number);
        return;
    case LIO_SOCKET:
        make_socket(b, number);
        return;
    case LIO_BIND:
    case LIO_LISTEN:
    case LIO_SHUTDOWN:
        if (lio_iocp_may_use(b, number))
            call_once(b, number);
        return;
    case LIO_POLL:
        lio_iocp_await(b, number);
        return;
    case LIO_CLOSE:
        start_close(b, number);
        return;
    case LIO_SPLICE:
        if (lio_iocp_may_use(b, number))
            lio_iocp_transmit(b, number);
        return;
    default:
        if (!lio_iocp_is_job(slot->op.opcode))
            start_on_fd(b, number);
        else if (!lio_opcode_has_fd(slot->op.opcode) || lio_iocp_may_use(b, number))
            lio_iocp_give_job(b, number);
    }
}
