/* iocp: overlapped operations on a completion port. Its parts: life and turns (iocp.c), the
 * start and the end of operations (iocp_ops.c, iocp_receive.c, iocp_transmit.c), readiness
 * (iocp_afd.c), handles and errors (iocp_handles.c, iocp_errors.c), and what blocks on files
 * (iocp_files.c).
 *
 * The OVERLAPPED of an operation is in the extra memory of its slot, which never moves, and the
 * slot is not free before its packet came. */
#ifndef LIO_IOCP_H
#define LIO_IOCP_H

#include <mswsock.h>
#include <windows.h>
#include <winsock2.h>
#include <ws2tcpip.h>

#include "arena.h"
#include "atomics.h"
#include "backend.h"
#include "lio_errno.h"
#include "timer_heap.h"

/* Completion keys of ours, out of the way of all that others would choose. */
enum {
    LIO_KEY_WAKE = -1,  /* lio_wake was called */
    LIO_KEY_NUDGE = -2, /* ourselves: look again */
    LIO_KEY_OP = -3,    /* an OVERLAPPED of ours */
};

/* entry->stream: what a handle is. Of a handle that nobody adopted this is looked at again for
 * each operation. */
enum lio_iocp_trait {
    LIO_IS_SOCKET = 1,
    LIO_IS_STREAM = 2,  /* a stream socket */
    LIO_IS_OURS = 4,    /* belongs to our port */
    LIO_SKIPS = 8,      /* what succeeds at once sends no packet */
    LIO_IS_OTHERS = 16, /* belongs to another port, for ever: completes by an event */
    LIO_BLOCKS = 32,    /* was not opened for overlapped operations */
};

/* entry->ready */
enum {
    LIO_TURN_TAKEN = 1, /* by a slot with by_number set; later ones wait on parked[LIO_TURN] */
};

/* Indexes of entry->parked. */
enum {
    LIO_TURN,  /* receives and jobs whose turn has not come */
    LIO_READY, /* what waits for readiness: entry->round - 1 is the slot that carries the poll,
                  if that is not 0, and entry->armed what it asks for */
};

/* slot->stage: where a submitted operation is. */
enum lio_iocp_stage {
    LIO_STAGE_NEW,
    LIO_STAGE_KERNEL, /* a packet will come */
    LIO_STAGE_PROBE, /* the same, for a receive of nothing that tells when there is something */
    LIO_STAGE_READY, /* waits for readiness */
    LIO_STAGE_TURN,  /* waits behind another receive or job */
    LIO_STAGE_HUNGRY, /* waits for room in the arena */
    LIO_STAGE_TIMER,
    LIO_STAGE_JOB, /* with a thread of the system's pool, which sends a packet */
};

/* What IOCTL_AFD_POLL reads and writes. */
typedef struct lio_afd_poll {
    LARGE_INTEGER timeout;
    ULONG count;
    ULONG exclusive;
    HANDLE socket;
    ULONG events;
    LONG status;
} lio_afd_poll;

enum lio_iocp_job_state { LIO_JOB_QUEUED, LIO_JOB_RUNNING, LIO_JOB_CANCELLED };

/* The extra memory of a slot in flight. */
typedef struct lio_iocp_io {
    OVERLAPPED overlapped; /* first: it is what a packet names */
    uint64_t token;
    HANDLE event, wait; /* LIO_IS_OTHERS: how it completes */
    HANDLE port;
    union {
        struct {
            DWORD flags;
            int addr_len;
            WSAMSG message;
        } receive;
        SOCKET accepted;
        lio_afd_poll poll;
        struct {
            const lio_op *op; /* slots do not move */
            volatile LONG state;
            DWORD error;
            int64_t result;
        } job;
        struct {
            LARGE_INTEGER position;
            BOOL has_position;
        } transmit;
    } as;
} lio_iocp_io;

static_assert(sizeof(lio_iocp_io) <= sizeof((lio_slot_extra *)0)->os, "fits the extra memory");

/* One of the handles that polls go to. */
typedef struct lio_afd_group {
    HANDLE handle;
    uint32_t polls;
} lio_afd_group;

#define LIO_PACKETS_MAX (LIO_RECORDS_BEYOND - 2)

typedef struct lio_iocp {
    HANDLE port;
    lio_timer_heap timers;
    lio_arena arena;
    lio_list hungry;
    lio_afd_group *groups;
    uint32_t group_count;
    uint32_t with_kernel; /* operations whose packet is to come */
    HANDLE event;         /* of receives that must not wait */
    LPFN_ACCEPTEX accept;
    LPFN_GETACCEPTEXSOCKADDRS accept_addresses;
    LPFN_CONNECTEX connect;
    LPFN_WSARECVMSG receive_message;
    LPFN_WSASENDMSG send_message;
    lio_completion packets[LIO_PACKETS_MAX]; /* backend.packet_count of them */
    bool collected;                          /* the last turn asked the port */
    /* For other threads. */
    SRWLOCK lock; /* of what a thread that waits has taken from the port: */
    OVERLAPPED_ENTRY taken[LIO_PACKETS_MAX];
    ULONG taken_count;
    LONG owner_waits;   /* for packets */
    LONG64 first_timer; /* CLOCK_MONOTONIC; INT64_MAX: none */
} lio_iocp;

static inline lio_iocp *lio_iocp_of(const lio_backend *b)
{
    return b->state;
}

static inline lio_iocp_io *lio_iocp_io_at(const lio_backend *b, uint32_t number)
{
    return (lio_iocp_io *)lio_extra_at(&b->store, number)->os.bytes;
}

/* Any thread: posts a packet that has to arrive. */
void lio_iocp_post(HANDLE port, DWORD count, ULONG_PTR key, OVERLAPPED *overlapped);

/* -- errors: iocp_errors.c -- */

/* The errno, positive, of a Windows or Winsock error. */
int lio_errno_of_windows(DWORD error);

/* -- handles: iocp_handles.c -- */

/* Finds out what a handle is and joins it to the port if it can be; `ours`: its owner claims
 * it, so that what succeeds at once needs no packet. 0 or a Windows error. */
DWORD lio_iocp_look(lio_backend *b, lio_fd_entry *entry, lio_fd fd, bool ours);
/* Whether a number names what was claimed under it. */
bool lio_iocp_is_claimed(lio_backend *b, const lio_fd_entry *entry, lio_fd fd);
/* Whether a number was claimed for something that is gone: no operation may go there, except to
 * ask for readiness, until it is released. */
bool lio_iocp_is_lost(lio_backend *b, lio_fd_entry *entry, lio_fd fd);
/* The socket beneath layered service providers. 0 or a Windows error. */
DWORD lio_iocp_base_socket(lio_backend *b, SOCKET socket, HANDLE *base);
/* The functions of Winsock that are found through a socket. 0 or a Windows error. */
DWORD lio_iocp_find_functions(lio_iocp *p);

/* -- operations: iocp_ops.c -- */

#define LIO_PARTS_MAX 1024
#define LIO_STATUS_PENDING 0x103u /* OVERLAPPED.Internal while it is under way */

static inline ULONG lio_iocp_length(uint64_t wanted)
{
    const uint64_t most = 0x7ffff000;
    return (ULONG)(wanted > most ? most : wanted);
}

static inline lio_fd_entry *lio_iocp_entry(const lio_backend *b, const lio_slot *slot)
{
    return lio_fd_find(&b->store, slot->op.fd);
}

/* Whether a packet is to come for a submitted slot. */
bool lio_iocp_awaits_packet(const lio_backend *b, uint32_t number);
/* Asks for the end of one. */
void lio_iocp_cancel_io(lio_backend *b, uint32_t number);
void lio_iocp_start(lio_backend *b, uint32_t number);
/* A packet of this slot came. */
void lio_iocp_ended(lio_backend *b, uint32_t number);
/* Readiness came for a send. */
void lio_iocp_send_again(lio_backend *b, uint32_t number);
void lio_iocp_finish_accept(lio_backend *b, uint32_t number);
void lio_iocp_drop_accepted(lio_backend *b, uint32_t number, DWORD error);
/* Completes an operation: with a result, or with a Windows error. */
void lio_iocp_finish(lio_backend *b, uint32_t number, int64_t result, int64_t data,
                     int64_t detail);
void lio_iocp_fail(lio_backend *b, uint32_t number, DWORD error);
/* Before the handle of an operation is used, at its start and later: whether it is still what
 * it was pushed for. If not, the operation has ended. */
bool lio_iocp_may_use(lio_backend *b, uint32_t number);
/* The end of an operation that was asked for; what it has sent by then counts. */
void lio_iocp_finish_early(lio_backend *b, uint32_t number);
/* Of those that go one at a time on a descriptor, in the order of their push: false, it waits
 * for its turn. The turn ends with the operation. */
bool lio_iocp_take_turn(lio_backend *b, uint32_t number);
/* Makes the OVERLAPPED of a slot ready for a call. 0 or a Windows error. */
DWORD lio_iocp_prepare(lio_backend *b, uint32_t number, const lio_fd_entry *entry);
/* After the call, which said *error: true, a packet comes; false, none does, and *error says
 * how it went. */
bool lio_iocp_pends(lio_backend *b, uint32_t number, const lio_fd_entry *entry,
                    enum lio_iocp_stage stage, DWORD *error);
/* The parts of a message, for Winsock; returns how many. */
DWORD lio_iocp_parts(const lio_op *op, WSABUF *parts);

/* What the calls of an operation, and a cancel, name. */
static inline lio_fd lio_iocp_handle_of(const lio_op *op)
{
    return op->opcode == LIO_SPLICE ? op->fd2 : op->fd;
}

/* -- from a file to a socket: iocp_transmit.c -- */

void lio_iocp_transmit(lio_backend *b, uint32_t number);
void lio_iocp_transmitted(lio_backend *b, uint32_t number, DWORD error, DWORD moved);

/* -- receives: iocp_receive.c -- */

void lio_iocp_receive(lio_backend *b, uint32_t number);
/* A packet came for a probe, or for a receive into the caller's memory. */
void lio_iocp_probed(lio_backend *b, uint32_t number, DWORD error);
void lio_iocp_received(lio_backend *b, uint32_t number, DWORD error, DWORD received);
/* Waits for room in the arena. */
void lio_iocp_be_hungry(lio_backend *b, uint32_t number);
/* There is room again. */
void lio_iocp_feed_hungry(lio_backend *b);

/* -- readiness: iocp_afd.c -- */

/* Parks an operation until its descriptor is ready for `mask`, LIO_POLL_*. */
void lio_iocp_await(lio_backend *b, uint32_t number);
void lio_iocp_polled(lio_backend *b, uint32_t number);
void lio_iocp_cancel_poll(lio_backend *b, uint32_t number);
void lio_iocp_close_groups(lio_iocp *p);

/* -- files: iocp_files.c -- */

bool lio_iocp_is_job(uint8_t opcode);
/* Gives an operation to a thread of the system's pool. */
void lio_iocp_give_job(lio_backend *b, uint32_t number);
void lio_iocp_cancel_job(lio_backend *b, uint32_t number);
void lio_iocp_end_job(lio_backend *b, uint32_t number);
bool lio_iocp_supports(const lio_backend *b, const lio_op *op);

#endif
