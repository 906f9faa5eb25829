/* iocp_faults.c: a connection is broken by a shutdown in both directions, and what waits on it
 * is woken: Winsock has no way to reset a connection and keep its socket. The peer sees the
 * end. Here every operation has ECONNRESET from then on, and what had arrived is gone, as it is
 * with Winsock after a RST. */
#include "faults_os.h"
#include "iocp.h"

#include <string.h>

/* Nothing tells one socket from the next that gets its number (iocp_handles.c): this is what
 * can be told. A claimed one is known by its mark. */
bool lio_fault_file(lio_fd fd, uint64_t identity[2])
{
    BY_HANDLE_FILE_INFORMATION info;
    enum lio_medium medium = lio_fault_medium(fd);
    identity[0] = (uint64_t)medium;
    identity[1] = 0;
    if (medium != LIO_MEDIUM_FILE)
        return true;
    if (!GetFileInformationByHandle((HANDLE)fd, &info))
        return false;
    identity[0] |= (uint64_t)info.dwVolumeSerialNumber << 8;
    identity[1] = (uint64_t)info.nFileIndexHigh << 32 | info.nFileIndexLow;
    return true;
}

static uint64_t mix(uint64_t hash, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ at[i]) * UINT64_C(0x100000001B3); /* FNV-1a */
    return hash;
}

/* A number for an address, of what both its ends know of it alike. */
static uint64_t hash(const struct sockaddr_storage *addr)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)addr;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)addr;
    uint64_t found = UINT64_C(0xCBF29CE484222325);
    if (addr->ss_family == AF_INET)
        return mix(mix(found, &v4->sin_port, 2), &v4->sin_addr, sizeof v4->sin_addr);
    return mix(mix(found, &v6->sin6_port, 2), &v6->sin6_addr, sizeof v6->sin6_addr);
}

bool lio_fault_connection(lio_fd fd, lio_connection *found)
{
    struct sockaddr_storage own = {0}, peer = {0};
    int own_length = sizeof own, peer_length = sizeof peer;
    if (getsockname((SOCKET)fd, (struct sockaddr *)&own, &own_length) != 0)
        return false;
    found->fd = fd;
    found->identity[0] = hash(&own);
    found->identity[1] = 0;
    if (getpeername((SOCKET)fd, (struct sockaddr *)&peer, &peer_length) == 0)
        found->identity[1] = hash(&peer);
    return true;
}

/* The other end learns of a reset only here: to it, it looked like the end. */
bool lio_fault_concerns(const lio_connection *broken, const lio_connection *found)
{
    const uint64_t *a = broken->identity, *b = found->identity;
    return (a[0] == b[0] && a[1] == b[1]) || (a[0] == b[1] && a[1] == b[0]);
}

enum lio_medium lio_fault_medium(lio_fd fd)
{
    DWORD flags = 0;
    int type = 0, length = sizeof type;
    if (getsockopt((SOCKET)fd, SOL_SOCKET, SO_TYPE, (char *)&type, &length) == 0)
        return type == SOCK_STREAM ? LIO_MEDIUM_STREAM : LIO_MEDIUM_OTHER;
    switch (GetFileType((HANDLE)fd)) {
    case FILE_TYPE_DISK:
        return LIO_MEDIUM_FILE;
    case FILE_TYPE_PIPE: /* a message is no stream of bytes */
        return GetNamedPipeInfo((HANDLE)fd, &flags, NULL, NULL, NULL) &&
                       !(flags & PIPE_TYPE_MESSAGE)
                   ? LIO_MEDIUM_PIPE
                   : LIO_MEDIUM_OTHER;
    default:
        return LIO_MEDIUM_OTHER;
    }
}

bool lio_fault_break(lio_backend *b, lio_fd fd)
{
    lio_connection connection;
    b->stats.syscalls += 3;
    if (!lio_fault_connection(fd, &connection) || connection.identity[1] == 0 ||
        shutdown((SOCKET)fd, SD_BOTH) != 0)
        return false;
    /* A shutdown does not wake what waits. */
    const lio_fd_entry *entry = lio_fd_find(&b->store, fd);
    for (uint32_t n = entry->ops.head; n != LIO_NO_SLOT;
         n = lio_slot_at(&b->store, n)->fd_next) {
        lio_slot *slot = lio_slot_at(&b->store, n);
        if (slot->state != LIO_STATE_SUBMITTED || !lio_iocp_awaits_packet(b, n))
            continue;
        slot->fault |= LIO_FAULT_RESET;
        if (slot->stage == LIO_STAGE_READY)
            lio_iocp_cancel_poll(b, n);
        else
            lio_iocp_cancel_io(b, n);
    }
    return true;
}

void lio_fault_tell_of_reset(lio_slot *slot, bool told, bool sends)
{
    (void)told, (void)sends;
    slot->result = -ECONNRESET;
    slot->detail = WSAECONNRESET;
}
