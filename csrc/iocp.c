/* iocp.c: the port's life and turns.
 *
 * A packet is taken from the port by whoever waits. The owner handles it; another thread, which
 * may look but not touch (lio_wait_ready), keeps what it took for the owner's next turn.
 * Packets with keys of others are handed to the caller as they are: what they carry in the
 * place of an OVERLAPPED may be anything (a job object sends process ids). */
#include "iocp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATIENCE_NS INT64_C(10000000000)
#define NS_PER_MS INT64_C(1000000)
#define LONGEST_MS 0x7fffffff

/* -- beginning and end ------------------------------------------------------------- */

static void iocp_probe(uint32_t without, lio_probe_result *result)
{
    (void)without;
    HANDLE port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 0);
    if (port == NULL) {
        DWORD error = GetLastError();
        result->error = -lio_errno_of_windows(error);
        snprintf(result->reason, sizeof result->reason,
                 "CreateIoCompletionPort failed: Windows error %lu", (unsigned long)error);
        return;
    }
    CloseHandle(port);
    result->capabilities = LIO_CAP_FILE_POOL;
}

static DWORD open_all(lio_backend *b, lio_iocp *p)
{
    const size_t size = 2 * LIO_ARENA_SIZE + b->pool_reserve;
    p->port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1);
    if (p->port == NULL)
        return GetLastError();
    b->wake_fd = (int)(intptr_t)p->port;
    p->event = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (p->event == NULL)
        return GetLastError();
    p->arena.base = VirtualAlloc(NULL, size, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    if (p->arena.base == NULL || lio_timers_reserve(&p->timers, b->store.capacity) != 0)
        return ERROR_OUTOFMEMORY;
    b->pool = p->arena.base;
    b->pool_size = size;
    b->receive_max = LIO_RECEIVE_MAX;
    return lio_iocp_find_functions(p);
}

static void free_all(lio_backend *b, lio_iocp *p)
{
    lio_iocp_close_groups(p);
    lio_timers_free(&p->timers);
    if (p->event != NULL)
        CloseHandle(p->event);
    if (p->arena.base != NULL)
        VirtualFree(p->arena.base, 0, MEM_RELEASE);
    b->pool = NULL;
    b->pool_size = 0;
    free(p);
    b->state = NULL;
    WSACleanup();
}

static int iocp_init(lio_backend *b)
{
    WSADATA data;
    int error = WSAStartup(MAKEWORD(2, 2), &data);
    if (error != 0)
        return -lio_errno_of_windows((DWORD)error);
    lio_iocp *p = calloc(1, sizeof *p);
    if (p == NULL) {
        WSACleanup();
        return -ENOMEM;
    }
    b->state = p;
    b->capabilities |= LIO_CAP_FILE_POOL;
    p->hungry = (lio_list){LIO_NO_SLOT, LIO_NO_SLOT};
    p->first_timer = INT64_MAX;
    InitializeSRWLock(&p->lock);
    DWORD failure = open_all(b, p);
    if (failure == 0)
        return 0;
    free_all(b, p);
    if (b->wake_fd >= 0)
        lio_close_handle(b->wake_fd);
    b->wake_fd = -1;
    return -lio_errno_of_windows(failure);
}

/* -- packets ----------------------------------------------------------------------- */

void lio_iocp_post(HANDLE port, DWORD count, ULONG_PTR key, OVERLAPPED *overlapped)
{
    /* What else may fail is want of memory, which is over some time. */
    while (!PostQueuedCompletionStatus(port, count, key, overlapped) &&
           GetLastError() != ERROR_INVALID_HANDLE)
        Sleep(1);
}

/* A packet means: look. It may be one too many: a call that ends at once with a warning (a
 * datagram was longer than the buffer) says so, and sends a packet all the same. What holds the
 * slot by then is over, or still under way, as its own OVERLAPPED tells. */
static void on_op(lio_backend *b, OVERLAPPED *overlapped)
{
    const lio_iocp_io *io = (lio_iocp_io *)overlapped;
    uint32_t number = lio_store_resolve(&b->store, io->token);
    if (number == LIO_NO_SLOT || io->overlapped.Internal == LIO_STATUS_PENDING ||
        !lio_iocp_awaits_packet(b, number))
        return;
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_iocp_of(b)->with_kernel--;
    if (slot->stage == LIO_STAGE_READY)
        lio_iocp_polled(b, number);
    else if (slot->stage == LIO_STAGE_JOB)
        lio_iocp_end_job(b, number);
    else
        lio_iocp_ended(b, number);
}

/* Somebody else's: the caller gets it, at the next turn if there is no room in this one. */
static void on_packet(lio_backend *b, const OVERLAPPED_ENTRY *entry)
{
    lio_iocp *p = lio_iocp_of(b);
    if (b->packet_count == LIO_PACKETS_MAX) {
        lio_iocp_post(p->port, entry->dwNumberOfBytesTransferred, entry->lpCompletionKey,
                      entry->lpOverlapped);
        return;
    }
    p->packets[b->packet_count++] = (lio_completion){
        .id = LIO_ID_PACKET,
        .result = entry->dwNumberOfBytesTransferred,
        .data = (int64_t)(intptr_t)entry->lpOverlapped,
        .detail = (int64_t)entry->lpCompletionKey,
    };
}

static void on_entry(lio_backend *b, const OVERLAPPED_ENTRY *entry)
{
    switch ((LONG_PTR)entry->lpCompletionKey) {
    case LIO_KEY_OP:
        on_op(b, entry->lpOverlapped);
        return;
    case LIO_KEY_WAKE:
        /* Before what the waker did is looked at. */
        __atomic_store_n(&b->wake_posted, 0, __ATOMIC_SEQ_CST);
        b->woken = true;
        return;
    case LIO_KEY_NUDGE:
        return;
    default:
        on_packet(b, entry);
    }
}

/* What another thread took from the port while it waited. */
static void handle_taken(lio_backend *b)
{
    lio_iocp *p = lio_iocp_of(b);
    OVERLAPPED_ENTRY entries[LIO_PACKETS_MAX];
    AcquireSRWLockExclusive(&p->lock);
    ULONG count = p->taken_count;
    memcpy(entries, p->taken, count * sizeof *entries);
    p->taken_count = 0;
    ReleaseSRWLockExclusive(&p->lock);
    for (ULONG i = 0; i < count; i++)
        on_entry(b, &entries[i]);
}

/* Milliseconds until then, rounded up: a wait must not end before its time. */
static DWORD ms_until(int64_t deadline_ns)
{
    if (deadline_ns == INT64_MAX)
        return INFINITE;
    int64_t now = deadline_ns <= 0 ? 0 : lio_now();
    if (deadline_ns <= now)
        return 0;
    int64_t ms = (deadline_ns - now + NS_PER_MS - 1) / NS_PER_MS;
    return (DWORD)(ms > LONGEST_MS ? LONGEST_MS : ms);
}

static bool has_taken(lio_iocp *p)
{
    AcquireSRWLockShared(&p->lock);
    bool has = p->taken_count != 0;
    ReleaseSRWLockShared(&p->lock);
    return has;
}

/* Asks the port once, and handles what it has. Another thread may take the packet that we wait
 * for: either it sees that we wait, and says so, or we see what it took. */
static int collect(lio_backend *b, DWORD ms)
{
    lio_iocp *p = lio_iocp_of(b);
    OVERLAPPED_ENTRY entries[LIO_PACKETS_MAX];
    ULONG count = 0;
    InterlockedExchange(&p->owner_waits, ms != 0);
    if (ms != 0 && has_taken(p))
        ms = 0;
    b->stats.syscalls++;
    BOOL found =
        GetQueuedCompletionStatusEx(p->port, entries, LIO_PACKETS_MAX, &count, ms, FALSE);
    DWORD error = found ? 0 : GetLastError();
    InterlockedExchange(&p->owner_waits, 0);
    if (!found)
        return error == WAIT_TIMEOUT ? 0 : -lio_errno_of_windows(error);
    for (ULONG i = 0; i < count; i++)
        on_entry(b, &entries[i]);
    return 0;
}

/* -- turns ------------------------------------------------------------------------- */

/* Whoever waits for packets, here or in another thread, looks again. */
static void nudge(lio_iocp *p)
{
    lio_iocp_post(p->port, 0, (ULONG_PTR)LIO_KEY_NUDGE, NULL);
}

/* For lio_wait_ready: when something is due without any packet. */
static void announce(lio_backend *b)
{
    lio_iocp *p = lio_iocp_of(b);
    int64_t first = p->hungry.head != LIO_NO_SLOT ? 0 : lio_timers_first(&p->timers);
    int64_t before = InterlockedExchange64(&p->first_timer, first);
    if (first < before && __atomic_load_n(&b->waiters, __ATOMIC_SEQ_CST) != 0)
        nudge(p);
}

static int take_queued(lio_backend *b)
{
    int error = lio_timers_reserve(&lio_iocp_of(b)->timers, b->store.capacity);
    if (error != 0)
        return error;
    uint32_t number;
    while ((number = lio_store_next(&b->store)) != LIO_NO_SLOT) {
        b->stats.flushed++;
        lio_iocp_start(b, number);
    }
    return 0;
}

static int iocp_submit(lio_backend *b)
{
    int error = take_queued(b);
    announce(b);
    return error;
}

static void expire_timers(lio_backend *b)
{
    lio_iocp *p = lio_iocp_of(b);
    if (lio_timers_first(&p->timers) == INT64_MAX)
        return;
    int64_t now = lio_now();
    while (lio_timers_first(&p->timers) <= now) {
        uint32_t number = p->timers.timers[0].number;
        lio_timers_remove(&p->timers, &b->store, number);
        lio_iocp_finish(b, number, -ETIME, -1, -1);
    }
}

/* All that goes on without asking the port. */
static int go_on(lio_backend *b)
{
    lio_iocp_feed_hungry(b);
    handle_taken(b);
    int error = take_queued(b); /* also what a completed send let through */
    expire_timers(b);
    return error;
}

static bool is_due(const lio_backend *b)
{
    return b->store.done_count != 0 || b->woken || b->packet_count != 0;
}

static int iocp_turn(lio_backend *b, int64_t deadline_ns)
{
    lio_iocp *p = lio_iocp_of(b);
    int error = go_on(b);
    /* With results at hand the port is asked every other time: those who produce results
     * without pause must not keep the others waiting for ever. */
    if (error != 0 || (is_due(b) && p->collected)) {
        p->collected = false;
        return error;
    }
    for (;;) {
        int64_t until = lio_timers_first(&p->timers);
        if (until > deadline_ns)
            until = deadline_ns;
        bool busy =
            is_due(b) || p->hungry.head != LIO_NO_SLOT || b->store.queue.head != LIO_NO_SLOT;
        error = collect(b, busy ? 0 : ms_until(until));
        p->collected = true;
        if (error == 0)
            error = go_on(b);
        if (error != 0 || is_due(b))
            return error;
        if (deadline_ns != INT64_MAX && ms_until(deadline_ns) == 0)
            return 0;
    }
}

static void iocp_recycle(lio_backend *b)
{
    lio_arena_recycle(&lio_iocp_of(b)->arena);
}

static void iocp_handed_out(lio_backend *b)
{
    lio_arena_handed_out(&lio_iocp_of(b)->arena);
    announce(b);
}

static uint32_t iocp_packets(lio_backend *b, lio_completion *records)
{
    uint32_t count = b->packet_count;
    memcpy(records, lio_iocp_of(b)->packets, count * sizeof *records);
    b->packet_count = 0;
    return count;
}

/* -- other threads ----------------------------------------------------------------- */

static int iocp_wake(lio_backend *b)
{
    if (__atomic_exchange_n(&b->wake_posted, 1, __ATOMIC_SEQ_CST) == 0)
        lio_iocp_post((HANDLE)(intptr_t)b->wake_fd, 0, (ULONG_PTR)LIO_KEY_WAKE, NULL);
    return 0;
}

/* Takes packets for the owner, as many as there is room for. 1, 0: the time ran out. */
static int take_for_owner(lio_iocp *p, DWORD ms)
{
    OVERLAPPED_ENTRY entry;
    ULONG count = 0;
    if (!GetQueuedCompletionStatusEx(p->port, &entry, 1, &count, ms, FALSE)) {
        DWORD error = GetLastError();
        return error == WAIT_TIMEOUT ? 0 : -lio_errno_of_windows(error);
    }
    AcquireSRWLockExclusive(&p->lock);
    bool kept = p->taken_count < LIO_PACKETS_MAX;
    if (kept)
        p->taken[p->taken_count++] = entry;
    ReleaseSRWLockExclusive(&p->lock);
    if (kept && InterlockedCompareExchange(&p->owner_waits, 0, 0) != 0)
        nudge(p);
    if (!kept)
        lio_iocp_post(p->port, entry.dwNumberOfBytesTransferred, entry.lpCompletionKey,
                      entry.lpOverlapped);
    return 1;
}

static int iocp_wait_ready(lio_backend *b, int64_t timeout_ns)
{
    lio_iocp *p = lio_iocp_of(b);
    int64_t deadline = lio_deadline(timeout_ns);
    for (;;) {
        if (has_taken(p))
            return 1;
        int64_t first = InterlockedCompareExchange64(&p->first_timer, 0, 0);
        if (first != INT64_MAX && ms_until(first) == 0)
            return 1;
        int ready = take_for_owner(p, ms_until(first < deadline ? first : deadline));
        if (ready != 0)
            return ready;
        if (deadline != INT64_MAX && ms_until(deadline) == 0)
            return 0;
    }
}

/* -- cancelling, adopting, releasing ----------------------------------------------- */

void lio_iocp_cancel_io(lio_backend *b, uint32_t number)
{
    b->stats.syscalls++;
    /* If there is nothing to cancel, or the handle was closed, the packet is on its way. */
    CancelIoEx((HANDLE)lio_iocp_handle_of(&lio_slot_at(&b->store, number)->op),
               &lio_iocp_io_at(b, number)->overlapped);
}

static void cancel_parked(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    bool hungry = slot->stage == LIO_STAGE_HUNGRY;
    lio_list *list =
        hungry ? &lio_iocp_of(b)->hungry : &lio_iocp_entry(b, slot)->parked[LIO_TURN];
    if (hungry && (slot->op.buf != NULL || slot->op.opcode == LIO_ACCEPT))
        return; /* has its result: only the room to tell it is missing */
    lio_list_remove(&b->store, list, number);
    lio_iocp_finish_early(b, number);
}

static int iocp_cancel(lio_backend *b, uint32_t number)
{
    switch (lio_slot_at(&b->store, number)->stage) {
    case LIO_STAGE_KERNEL:
    case LIO_STAGE_PROBE:
        lio_iocp_cancel_io(b, number);
        break;
    case LIO_STAGE_READY:
        lio_iocp_cancel_poll(b, number);
        break;
    case LIO_STAGE_TURN:
    case LIO_STAGE_HUNGRY:
        cancel_parked(b, number);
        break;
    case LIO_STAGE_TIMER:
        lio_timers_remove(&lio_iocp_of(b)->timers, &b->store, number);
        lio_iocp_finish_early(b, number);
        break;
    case LIO_STAGE_JOB:
        lio_iocp_cancel_job(b, number);
        break;
    default:
        assert(!"a stage of what is submitted");
    }
    announce(b);
    return 0;
}

static int iocp_adopt(lio_backend *b, lio_fd_entry *entry, lio_fd fd)
{
    DWORD error = lio_iocp_look(b, entry, fd, true);
    return error == 0 ? 1 : -lio_errno_of_windows(error);
}

/* Whether the kernel still has operations on this descriptor. */
static bool is_used(const lio_backend *b, const lio_fd_entry *entry, lio_fd fd)
{
    for (uint32_t n = 0; b->store.pairs != 0 && n < b->store.fresh; n++) {
        const lio_slot *slot = lio_slot_at(&b->store, n);
        if (lio_slot_reaches(slot, fd) && slot->stage == LIO_STAGE_KERNEL)
            return true;
    }
    for (uint32_t n = entry->ops.head; n != LIO_NO_SLOT;
         n = lio_slot_at(&b->store, n)->fd_next) {
        uint8_t stage = lio_slot_at(&b->store, n)->stage;
        if (stage != LIO_STAGE_JOB && stage != LIO_STAGE_HUNGRY)
            return true;
    }
    return false;
}

static int iocp_release_fd(lio_backend *b, lio_fd_entry *entry, lio_fd fd)
{
    for (uint32_t number = entry->ops.head, next; number != LIO_NO_SLOT; number = next) {
        lio_slot *slot = lio_slot_at(&b->store, number);
        next = slot->fd_next;
        if (slot->state == LIO_STATE_SUBMITTED) {
            lio_store_cancelling(&b->store, number);
            iocp_cancel(b, number);
        } else if (slot->state == LIO_STATE_QUEUED) { /* its turn has just come */
            lio_iocp_finish_early(b, number);
        }
    }
    /* Only then is the handle its owner's again to close: Windows gives out its number at once,
     * and a cancel would hit whoever has it next. */
    int error = 0;
    for (int64_t until = lio_deadline(PATIENCE_NS); is_used(b, entry, fd) && error == 0;) {
        DWORD ms = ms_until(until);
        if (ms == 0)
            break; /* a copy of the handle lives on elsewhere, with our operation */
        error = collect(b, ms);
        handle_taken(b);
    }
    entry->stream = 0;
    announce(b);
    return error;
}

static void iocp_close(lio_backend *b, bool forked)
{
    lio_iocp *p = lio_iocp_of(b);
    (void)forked;
    for (uint32_t number = 0; number < b->store.fresh; number++) {
        lio_slot *slot = lio_slot_at(&b->store, number);
        if (slot->state == LIO_STATE_SUBMITTED) {
            lio_store_cancelling(&b->store, number);
            iocp_cancel(b, number);
        }
    }
    int error = 0;
    for (int64_t until = lio_deadline(PATIENCE_NS); p->with_kernel != 0 && error == 0;) {
        DWORD ms = ms_until(until);
        if (ms == 0)
            break;
        error = collect(b, ms);
        handle_taken(b);
        b->packet_count = 0;
    }
    /* Hungry ones have a socket that nobody was told of. */
    for (uint32_t n = p->hungry.head; n != LIO_NO_SLOT; n = lio_slot_at(&b->store, n)->next) {
        if (lio_slot_at(&b->store, n)->op.opcode == LIO_ACCEPT)
            closesocket(lio_iocp_io_at(b, n)->as.accepted);
    }
    for (uint32_t n = b->store.done.head; n != LIO_NO_SLOT; n = lio_slot_at(&b->store, n)->next)
        lio_discard_result(lio_slot_at(&b->store, n)->op.opcode,
                           lio_slot_at(&b->store, n)->result);
    bool ended = p->with_kernel == 0;
    free_all(b, p);
    /* The kernel or a thread still writes there. Rather leak it than let it write into what
     * somebody else got. */
    if (!ended)
        memset(&b->store, 0, sizeof b->store);
}

const lio_vtable lio_iocp_vtable = {
    .name = "iocp",
    .probe = iocp_probe,
    .init = iocp_init,
    .supports = lio_iocp_supports,
    .submit = iocp_submit,
    .turn = iocp_turn,
    .cancel = iocp_cancel,
    .adopt = iocp_adopt,
    .is_claimed = lio_iocp_is_claimed,
    .release_fd = iocp_release_fd,
    .recycle = iocp_recycle,
    .handed_out = iocp_handed_out,
    .packets = iocp_packets,
    .wake = iocp_wake,
    .wait_ready = iocp_wait_ready,
    .close = iocp_close,
};
