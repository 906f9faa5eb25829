/* iocp_afd.c: readiness, by polls of AFD, the driver beneath Winsock. It is what select uses
 * there, and it is not documented; wepoll, libuv and Trio use it in the same way.
 *
 * Two polls of one socket that report to one port disturb each other. So a socket has one poll
 * at a time, for all that waits there; one of the waiting slots carries it in its memory. When
 * more is to be asked for, the poll is cancelled, and another one follows once its packet came.
 * Cancelling takes a time that grows with the square of the polls that one helper handle has:
 * the polls are spread over several. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "iocp.h"

#define IOCTL_AFD_POLL_CODE 0x00012024u
#define GROUP_MAX 500u
#define CANCELLED ((LONG)0xC0000120)

enum {
    AFD_RECEIVE = 0x001,
    AFD_SEND = 0x004,
    AFD_DISCONNECT = 0x008, /* the peer sends no more */
    AFD_ABORT = 0x010,      /* reset */
    AFD_LOCAL_CLOSE = 0x020,
    AFD_ACCEPT = 0x080,
    AFD_CONNECT_FAIL = 0x100,
};
#define READABLE (AFD_RECEIVE | AFD_DISCONNECT | AFD_ABORT | AFD_LOCAL_CLOSE | AFD_ACCEPT)
#define WRITABLE (AFD_SEND | AFD_ABORT | AFD_LOCAL_CLOSE | AFD_CONNECT_FAIL)

/* -- helper handles ---------------------------------------------------------------- */

static HANDLE open_helper(lio_iocp *p)
{
    HANDLE handle = CreateFileW(L"\\\\.\\GLOBALROOT\\Device\\Afd\\Lio", SYNCHRONIZE,
                                FILE_SHARE_READ | FILE_SHARE_WRITE, NULL, OPEN_EXISTING,
                                FILE_FLAG_OVERLAPPED, NULL);
    if (handle == INVALID_HANDLE_VALUE)
        return NULL;
    if (CreateIoCompletionPort(handle, p->port, (ULONG_PTR)LIO_KEY_OP, 0) == NULL ||
        !SetFileCompletionNotificationModes(handle, FILE_SKIP_SET_EVENT_ON_HANDLE)) {
        DWORD error = GetLastError();
        CloseHandle(handle);
        SetLastError(error);
        return NULL;
    }
    return handle;
}

/* A helper handle with room; its index, or UINT32_MAX with an error. */
static uint32_t vacant_group(lio_iocp *p, DWORD *error)
{
    for (uint32_t i = p->group_count; i-- > 0;) {
        if (p->groups[i].polls < GROUP_MAX)
            return i;
    }
    lio_afd_group *groups = realloc(p->groups, (p->group_count + 1) * sizeof *groups);
    *error = ERROR_OUTOFMEMORY;
    if (groups == NULL)
        return UINT32_MAX;
    p->groups = groups;
    HANDLE handle = open_helper(p);
    *error = GetLastError();
    if (handle == NULL)
        return UINT32_MAX;
    groups[p->group_count] = (lio_afd_group){handle, 0};
    return p->group_count++;
}

void lio_iocp_close_groups(lio_iocp *p)
{
    for (uint32_t i = 0; i < p->group_count; i++)
        CloseHandle(p->groups[i].handle);
    free(p->groups);
    p->groups = NULL;
    p->group_count = 0;
}

/* -- polls ------------------------------------------------------------------------- */

static uint32_t wants(const lio_slot *slot)
{
    return slot->op.opcode == LIO_POLL ? slot->op.flags : (uint32_t)LIO_POLL_WRITE;
}

static uint32_t carrier_of(const lio_fd_entry *entry)
{
    return entry->round == 0 ? LIO_NO_SLOT : entry->round - 1;
}

static void unpark(lio_backend *b, lio_fd_entry *entry, uint32_t number)
{
    lio_list_remove(&b->store, &entry->parked[LIO_READY], number);
}

/* Has the socket polled for `mask`, carried by this slot. 0 or a Windows error. */
static DWORD begin_poll(lio_backend *b, lio_fd_entry *entry, uint32_t number, uint32_t mask)
{
    lio_iocp *p = lio_iocp_of(b);
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_iocp_io *io = lio_iocp_io_at(b, number);
    HANDLE base;
    DWORD error = lio_iocp_base_socket(b, (SOCKET)slot->op.fd, &base);
    uint32_t group = error == 0 ? vacant_group(p, &error) : UINT32_MAX;
    if (group == UINT32_MAX)
        return error;
    memset(&io->overlapped, 0, sizeof io->overlapped);
    io->token = lio_store_token(slot, number);
    io->as.poll = (lio_afd_poll){
        .timeout.QuadPart = INT64_MAX,
        .count = 1,
        .socket = base,
        .events =
            (mask & LIO_POLL_READ ? READABLE : 0u) | (mask & LIO_POLL_WRITE ? WRITABLE : 0u),
    };
    b->stats.syscalls++;
    if (!DeviceIoControl(p->groups[group].handle, IOCTL_AFD_POLL_CODE, &io->as.poll,
                         sizeof io->as.poll, &io->as.poll, sizeof io->as.poll, NULL,
                         &io->overlapped)) {
        error = GetLastError();
        if (error != ERROR_IO_PENDING)
            return error;
    }
    p->groups[group].polls++;
    p->with_kernel++;
    slot->aux = group;
    entry->round = number + 1;
    entry->armed = (uint8_t)mask;
    return 0;
}

static void end_poll(lio_backend *b, uint32_t carrier)
{
    const lio_iocp *p = lio_iocp_of(b);
    b->stats.syscalls++;
    /* NOT_FOUND: it is over, and the packet on its way. */
    CancelIoEx(p->groups[lio_slot_at(&b->store, carrier)->aux].handle,
               &lio_iocp_io_at(b, carrier)->overlapped);
}

static void deliver(lio_backend *b, lio_fd_entry *entry, uint32_t due);

/* Asks for all that is waited for and not asked for yet. */
static void refresh(lio_backend *b, lio_fd_entry *entry)
{
    lio_list *list = &entry->parked[LIO_READY];
    while (list->head != LIO_NO_SLOT) {
        uint32_t mask = 0, able = LIO_NO_SLOT;
        for (uint32_t n = list->head; n != LIO_NO_SLOT; n = lio_slot_at(&b->store, n)->next) {
            const lio_slot *slot = lio_slot_at(&b->store, n);
            mask |= wants(slot);
            if (slot->state == LIO_STATE_SUBMITTED)
                able = n;
        }
        uint32_t carrier = carrier_of(entry);
        if (carrier != LIO_NO_SLOT) {
            if (mask & ~(uint32_t)entry->armed)
                end_poll(b, carrier);
            return;
        }
        assert(able != LIO_NO_SLOT); /* only a carrier is cancelled and still here */
        if (entry->adopted && lio_iocp_is_lost(b, entry, lio_slot_at(&b->store, able)->op.fd)) {
            deliver(b, entry, LIO_POLL_READ | LIO_POLL_WRITE); /* who waits shall find out */
            return;
        }
        DWORD error = begin_poll(b, entry, able, mask);
        if (error == 0)
            return;
        unpark(b, entry, able);
        lio_iocp_fail(b, able, error);
    }
}

void lio_iocp_await(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_fd_entry *entry = lio_fd_find(&b->store, slot->op.fd);
    slot->stage = LIO_STAGE_READY;
    lio_list_append(&b->store, &entry->parked[LIO_READY], number, LIO_LIST_PARKED);
    refresh(b, entry);
}

/* What waits for one of these goes on. */
static void deliver(lio_backend *b, lio_fd_entry *entry, uint32_t due)
{
    uint32_t number = entry->parked[LIO_READY].head;
    for (uint32_t next; number != LIO_NO_SLOT; number = next) {
        lio_slot *slot = lio_slot_at(&b->store, number);
        next = slot->next;
        if ((wants(slot) & due) == 0)
            continue;
        unpark(b, entry, number);
        if (slot->op.opcode == LIO_POLL)
            lio_iocp_finish(b, number, wants(slot) & due, -1, -1);
        else if (slot->state == LIO_STATE_CANCELLING)
            lio_iocp_finish_early(b, number);
        else
            lio_iocp_send_again(b, number); /* at the end of the list, if it has to wait */
    }
}

void lio_iocp_polled(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    const lio_iocp_io *io = lio_iocp_io_at(b, number);
    lio_fd_entry *entry = lio_fd_find(&b->store, slot->op.fd);
    assert(carrier_of(entry) == number);
    LONG status = (LONG)io->overlapped.Internal;
    uint32_t events = status >= 0 && io->as.poll.count != 0 ? io->as.poll.events : 0;
    lio_iocp_of(b)->groups[slot->aux].polls--;
    slot->aux = 0;
    entry->round = 0;
    entry->armed = 0;
    uint32_t due = (events & READABLE ? (uint32_t)LIO_POLL_READ : 0) |
                   (events & WRITABLE ? (uint32_t)LIO_POLL_WRITE : 0);
    if ((status < 0 && status != CANCELLED) || slot->fault & LIO_FAULT_RESET)
        due = LIO_POLL_READ | LIO_POLL_WRITE; /* closed, or worse: who waits shall find out */
    deliver(b, entry, due);
    if (slot->linked == LIO_LIST_PARKED && slot->stage == LIO_STAGE_READY &&
        slot->state == LIO_STATE_CANCELLING) {
        unpark(b, entry, number);
        lio_iocp_finish_early(b, number);
    }
    refresh(b, entry);
}

void lio_iocp_cancel_poll(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_fd_entry *entry = lio_fd_find(&b->store, slot->op.fd);
    if (carrier_of(entry) == number) {
        end_poll(b, number); /* the kernel may still write to its memory */
        return;
    }
    unpark(b, entry, number);
    lio_iocp_finish_early(b, number);
}
