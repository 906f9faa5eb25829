/* iocp_handles.c: what a handle is, whose port it belongs to, and how it is closed.
 *
 * A handle belongs to one port for its whole life, and nothing tells which one that is. Joining
 * it to ours works if it belonged to none; if it is refused, it is ours if we remember that,
 * and another port's (an earlier run's, or asyncio's) if not. What we remember ends with a
 * close or a release, so that it cannot be true of whatever gets the number next. Operations on
 * another port's handles go by an event of their own: with the lowest bit of hEvent set no
 * packet is sent to that port.
 *
 * Nor does anything tell one socket from the next that gets its number. But how a handle tells
 * of what is over is a property of the file, can be asked for, and nothing new has what we set
 * on all that is claimed. */
#include "iocp.h"

#include <winternl.h>

#define SIO_BASE_HANDLE_CODE 0x48000022u
#define SIO_BSP_HANDLE_POLL_CODE 0x4800001Du

typedef struct mode_information {
    ULONG mode;
} mode_information;
#define MODE_INFORMATION ((FILE_INFORMATION_CLASS)16)
#define SYNCHRONOUS (0x10u | 0x20u) /* FILE_SYNCHRONOUS_IO_ALERT, _NONALERT */

/* FILE_IO_COMPLETION_NOTIFICATION_INFORMATION */
#define NOTIFICATION_INFORMATION ((FILE_INFORMATION_CLASS)41)

static uint8_t notification_modes(lio_backend *b, HANDLE handle)
{
    IO_STATUS_BLOCK status;
    ULONG modes = 0;
    b->stats.syscalls++;
    NTSTATUS answer =
        NtQueryInformationFile(handle, &status, &modes, sizeof modes, NOTIFICATION_INFORMATION);
    return answer < 0 ? 0 : (uint8_t)modes;
}

/* What is claimed shall be known by its modes. */
static void mark(lio_backend *b, lio_fd_entry *entry, HANDLE handle)
{
    entry->remembered = notification_modes(b, handle);
    if (entry->remembered != 0)
        return;
    b->stats.syscalls++;
    if (SetFileCompletionNotificationModes(handle, FILE_SKIP_SET_EVENT_ON_HANDLE))
        entry->remembered = notification_modes(b, handle);
}

bool lio_iocp_is_claimed(lio_backend *b, const lio_fd_entry *entry, lio_fd fd)
{
    return notification_modes(b, (HANDLE)fd) == entry->remembered;
}

bool lio_iocp_is_lost(lio_backend *b, lio_fd_entry *entry, lio_fd fd)
{
    if (!entry->adopted)
        return entry->lost;
    if (lio_iocp_is_claimed(b, entry, fd))
        return false;
    entry->lost = 1;
    entry->adopted = 0;
    entry->stream = 0;
    return true;
}

/* Whether operations on it block, because it was not opened for overlapped ones. */
static bool blocks(HANDLE handle)
{
    IO_STATUS_BLOCK status;
    mode_information found = {0};
    NTSTATUS answer =
        NtQueryInformationFile(handle, &status, &found, sizeof found, MODE_INFORMATION);
    return answer >= 0 && (found.mode & SYNCHRONOUS) != 0;
}

/* Whether the handle of a socket is the kernel's own: only then is a success that sends no
 * packet reported as such (a layered service provider would hide it). */
static bool is_of_kernel(SOCKET socket)
{
    WSAPROTOCOL_INFOW info;
    int length = sizeof info;
    return getsockopt(socket, SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info, &length) == 0 &&
           (info.dwServiceFlags1 & XP1_IFS_HANDLES) != 0;
}

static uint8_t socket_traits(lio_backend *b, SOCKET socket)
{
    int type = 0, length = sizeof type;
    b->stats.syscalls++;
    if (getsockopt(socket, SOL_SOCKET, SO_TYPE, (char *)&type, &length) != 0)
        return 0;
    return (uint8_t)(LIO_IS_SOCKET | (type == SOCK_STREAM ? LIO_IS_STREAM : 0));
}

static DWORD join(lio_backend *b, lio_fd_entry *entry, HANDLE handle, bool ours)
{
    const lio_iocp *p = lio_iocp_of(b);
    b->stats.syscalls++;
    if (CreateIoCompletionPort(handle, p->port, (ULONG_PTR)LIO_KEY_OP, 0) == NULL) {
        DWORD error = GetLastError();
        if (error != ERROR_INVALID_PARAMETER)
            return error;
        /* We set modes on all that joins: what has none was given this number since. */
        if (entry->stream & LIO_IS_OURS && notification_modes(b, handle) != 0)
            return 0;
        entry->stream &= (uint8_t)~(LIO_IS_OURS | LIO_SKIPS);
        bool is_socket = entry->stream & LIO_IS_SOCKET;
        entry->stream |= !is_socket && blocks(handle) ? LIO_BLOCKS : LIO_IS_OTHERS;
        return 0;
    }
    entry->stream = (uint8_t)((entry->stream & ~LIO_SKIPS) | LIO_IS_OURS);
    UCHAR modes = FILE_SKIP_SET_EVENT_ON_HANDLE;
    bool skips = ours && (entry->stream & LIO_IS_SOCKET) && is_of_kernel((SOCKET)handle);
    if (skips)
        modes |= FILE_SKIP_COMPLETION_PORT_ON_SUCCESS;
    b->stats.syscalls++;
    if (SetFileCompletionNotificationModes(handle, modes) && skips)
        entry->stream |= LIO_SKIPS;
    return 0;
}

DWORD lio_iocp_look(lio_backend *b, lio_fd_entry *entry, lio_fd fd, bool ours)
{
    uint8_t known = entry->stream & (LIO_IS_OURS | LIO_SKIPS);
    entry->stream = known | socket_traits(b, (SOCKET)fd);
    DWORD error = join(b, entry, (HANDLE)fd, ours);
    if (error == 0 && ours)
        mark(b, entry, (HANDLE)fd);
    return error;
}

DWORD lio_iocp_base_socket(lio_backend *b, SOCKET socket, HANDLE *base)
{
    DWORD size, error;
    /* The number of a closed socket may be one of our own handles by now, and to poll that is
     * deadly. */
    if (!(socket_traits(b, socket) & LIO_IS_SOCKET))
        return WSAENOTSOCK;
    for (;;) {
        b->stats.syscalls++;
        if (WSAIoctl(socket, SIO_BASE_HANDLE_CODE, NULL, 0, base, sizeof *base, &size, NULL,
                     NULL) == 0)
            return 0;
        error = (DWORD)WSAGetLastError();
        if (error == WSAENOTSOCK)
            return error;
        /* Some providers hide the base, but not what is below them for select. */
        if (WSAIoctl(socket, SIO_BSP_HANDLE_POLL_CODE, NULL, 0, base, sizeof *base, &size, NULL,
                     NULL) != 0 ||
            *base == (HANDLE)socket)
            return error;
        socket = (SOCKET)*base;
    }
}

static bool find(SOCKET socket, GUID id, void *function, size_t size)
{
    DWORD got;
    return WSAIoctl(socket, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof id, function,
                    (DWORD)size, &got, NULL, NULL) == 0;
}

DWORD lio_iocp_find_functions(lio_iocp *p)
{
    const DWORD flags = WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT;
    SOCKET socket = WSASocketW(AF_INET, SOCK_DGRAM, IPPROTO_UDP, NULL, 0, flags);
    if (socket == INVALID_SOCKET)
        return (DWORD)WSAGetLastError();
    bool found =
        find(socket, (GUID)WSAID_WSARECVMSG, &p->receive_message, sizeof p->receive_message) &&
        find(socket, (GUID)WSAID_WSASENDMSG, &p->send_message, sizeof p->send_message);
    closesocket(socket);
    if (!found)
        return (DWORD)WSAGetLastError();
    socket = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, flags);
    if (socket == INVALID_SOCKET)
        return (DWORD)WSAGetLastError();
    found = find(socket, (GUID)WSAID_ACCEPTEX, &p->accept, sizeof p->accept) &&
            find(socket, (GUID)WSAID_CONNECTEX, &p->connect, sizeof p->connect) &&
            find(socket, (GUID)WSAID_GETACCEPTEXSOCKADDRS, &p->accept_addresses,
                 sizeof p->accept_addresses);
    DWORD error = found ? 0 : (DWORD)WSAGetLastError();
    closesocket(socket);
    return error;
}

int lio_close_handle(lio_fd fd)
{
    int type, length = sizeof type;
    if (fd < 0)
        return -EBADF;
    if (getsockopt((SOCKET)fd, SOL_SOCKET, SO_TYPE, (char *)&type, &length) == 0)
        return closesocket((SOCKET)fd) == 0 ? 0
                                            : -lio_errno_of_windows((DWORD)WSAGetLastError());
    return CloseHandle((HANDLE)fd) ? 0 : -lio_errno_of_windows(GetLastError());
}
