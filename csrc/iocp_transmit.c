/* iocp_transmit.c: from a file to a stream socket, by TransmitFile. It is an operation of the
 * socket, whose port its packet goes to. */
#include "iocp.h"

/* Restores what a read through a handle may have moved: the operation names an offset. */
static void set_position(const lio_iocp_io *io, HANDLE file)
{
    if (io->as.transmit.has_position)
        SetFilePointerEx(file, io->as.transmit.position, NULL, FILE_BEGIN);
}

/* How much of what is asked for the file has; 0 or a Windows error. */
static DWORD measure(const lio_op *op, DWORD *length)
{
    LARGE_INTEGER size;
    if (GetFileType((HANDLE)op->fd) != FILE_TYPE_DISK)
        return ERROR_INVALID_PARAMETER;
    if (!GetFileSizeEx((HANDLE)op->fd, &size))
        return GetLastError();
    uint64_t left = op->offset < size.QuadPart ? (uint64_t)(size.QuadPart - op->offset) : 0;
    *length = lio_iocp_length(op->len < left ? op->len : left);
    return 0;
}

/* What the socket is, and whether it is still that. 0 or a Windows error. */
static DWORD look_at_target(lio_backend *b, lio_fd_entry *entry, lio_fd fd)
{
    if (entry == NULL)
        return ERROR_OUTOFMEMORY;
    if (lio_iocp_is_lost(b, entry, fd))
        return ERROR_INVALID_HANDLE;
    DWORD error = entry->adopted ? 0 : lio_iocp_look(b, entry, fd, false);
    return error == 0 && !(entry->stream & LIO_IS_STREAM) ? WSAENOTSOCK : error;
}

void lio_iocp_transmit(lio_backend *b, uint32_t number)
{
    const LARGE_INTEGER stay = {.QuadPart = 0};
    const lio_op *op = &lio_slot_at(&b->store, number)->op;
    lio_iocp_io *io = lio_iocp_io_at(b, number);
    lio_fd_entry *target = lio_fd_get(&b->store, op->fd2);
    DWORD length = 0, error = look_at_target(b, target, op->fd2);
    b->stats.syscalls += 4;
    if (error == 0)
        error = measure(op, &length);
    if (error == 0 && length != 0)
        error = lio_iocp_prepare(b, number, target);
    if (error != 0 || length == 0) { /* to TransmitFile 0 is all of it */
        if (error != 0)
            lio_iocp_fail(b, number, error);
        else
            lio_iocp_finish(b, number, 0, -1, -1);
        return;
    }
    io->as.transmit.has_position =
        SetFilePointerEx((HANDLE)op->fd, stay, &io->as.transmit.position, FILE_CURRENT);
    io->overlapped.Offset = (DWORD)op->offset;
    io->overlapped.OffsetHigh = (DWORD)((uint64_t)op->offset >> 32);
    if (!TransmitFile((SOCKET)op->fd2, (HANDLE)op->fd, length, 0, &io->overlapped, NULL, 0))
        error = (DWORD)WSAGetLastError();
    if (!lio_iocp_pends(b, number, target, LIO_STAGE_KERNEL, &error))
        lio_iocp_transmitted(b, number, error, (DWORD)io->overlapped.InternalHigh);
}

void lio_iocp_transmitted(lio_backend *b, uint32_t number, DWORD error, DWORD moved)
{
    set_position(lio_iocp_io_at(b, number), (HANDLE)lio_slot_at(&b->store, number)->op.fd);
    if (error == 0 || (error == ERROR_OPERATION_ABORTED && moved != 0))
        lio_iocp_finish(b, number, moved, -1, -1);
    else
        lio_iocp_fail(b, number, error);
}
