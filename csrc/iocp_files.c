/* iocp_files.c: what blocks on files, done by threads of the system's own pool.
 *
 * A handle that was not opened for overlapped operations serves one call at a time, and has a
 * position that every call moves: its jobs take turns, and those that name an offset put the
 * position back. A thread works on the memory of the slot, which stays until its packet came.
 */
#include "iocp.h"

#include <fcntl.h>
#include <stdlib.h>

#define AT_FDCWD (-100)
#define AT_REMOVEDIR 0x200u
#define RENAME_NOREPLACE 1u
#ifndef SYMBOLIC_LINK_FLAG_ALLOW_UNPRIVILEGED_CREATE
#define SYMBOLIC_LINK_FLAG_ALLOW_UNPRIVILEGED_CREATE 2
#endif

bool lio_iocp_is_job(uint8_t opcode)
{
    switch (opcode) {
    case LIO_READV_AT:
    case LIO_WRITEV_AT:
    case LIO_FSYNC:
    case LIO_FDATASYNC:
    case LIO_TRUNCATE:
        return true;
    default:
        return lio_opcode_has_path(opcode) && opcode != LIO_STATX; /* which there is not */
    }
}

bool lio_iocp_supports(const lio_backend *b, const lio_op *op)
{
    (void)b;
    switch (op->opcode) {
    case LIO_OPCODE_COUNT:
    case LIO_STATX:
    case LIO_TEE:
        return false;
    case LIO_SPLICE:
        return op->offset >= 0 && op->offset2 < 0; /* TransmitFile */
    case LIO_LINKAT:
    case LIO_RENAMEAT:
        return op->fd == AT_FDCWD && op->fd2 == AT_FDCWD;
    default: /* no path begins at a handle here */
        return !lio_opcode_has_path(op->opcode) || op->fd == AT_FDCWD;
    }
}

/* -- the work, on another thread --------------------------------------------------- */

/* Paths come in UTF-8. NULL with an error; to be freed. */
static wchar_t *wide(const char *path)
{
    int length = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
    if (length <= 0)
        return NULL;
    wchar_t *made = malloc((size_t)length * sizeof *made);
    if (made == NULL)
        SetLastError(ERROR_OUTOFMEMORY);
    else
        MultiByteToWideChar(CP_UTF8, 0, path, -1, made, length);
    return made;
}

static DWORD disposition_of(uint32_t flags)
{
    if (flags & _O_CREAT) {
        if (flags & _O_EXCL)
            return CREATE_NEW;
        return flags & _O_TRUNC ? CREATE_ALWAYS : OPEN_ALWAYS;
    }
    return flags & _O_TRUNC ? TRUNCATE_EXISTING : OPEN_EXISTING;
}

/* Opened as POSIX does: others may open, rename and remove the file meanwhile. */
static int64_t open_file(const wchar_t *path, const lio_op *op)
{
    static const DWORD accesses[4] = {GENERIC_READ, GENERIC_WRITE, GENERIC_READ | GENERIC_WRITE,
                                      0};
    DWORD access = accesses[op->flags & 3];
    if (op->flags & _O_APPEND)
        access = (access & ~(DWORD)GENERIC_WRITE) | FILE_APPEND_DATA | FILE_WRITE_ATTRIBUTES |
                 SYNCHRONIZE;
    DWORD attributes = FILE_ATTRIBUTE_NORMAL;
    if (op->flags & _O_CREAT && !(op->mode & 0200))
        attributes = FILE_ATTRIBUTE_READONLY;
    HANDLE handle =
        CreateFileW(path, access, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                    disposition_of(op->flags), attributes, NULL);
    return handle == INVALID_HANDLE_VALUE ? -1 : (int64_t)(intptr_t)handle;
}

static int64_t make_symlink(const wchar_t *target, const wchar_t *link)
{
    DWORD attributes = GetFileAttributesW(target);
    DWORD flags = SYMBOLIC_LINK_FLAG_ALLOW_UNPRIVILEGED_CREATE;
    if (attributes != INVALID_FILE_ATTRIBUTES && attributes & FILE_ATTRIBUTE_DIRECTORY)
        flags |= SYMBOLIC_LINK_FLAG_DIRECTORY;
    return CreateSymbolicLinkW(link, target, flags) ? 0 : -1;
}

static int64_t call_path(const wchar_t *path, const wchar_t *path2, const lio_op *op)
{
    switch (op->opcode) {
    case LIO_OPENAT:
        return open_file(path, op);
    case LIO_LINKAT:
        return CreateHardLinkW(path2, path, NULL) ? 0 : -1;
    case LIO_SYMLINKAT:
        return make_symlink(path, path2);
    case LIO_RENAMEAT:
        return MoveFileExW(path, path2,
                           op->flags & RENAME_NOREPLACE ? 0 : MOVEFILE_REPLACE_EXISTING)
                   ? 0
                   : -1;
    case LIO_UNLINKAT:
        return (op->flags & AT_REMOVEDIR ? RemoveDirectoryW(path) : DeleteFileW(path)) ? 0 : -1;
    default:
        return CreateDirectoryW(path, NULL) ? 0 : -1;
    }
}

static int64_t perform_on_path(const lio_op *op)
{
    bool two =
        op->opcode == LIO_LINKAT || op->opcode == LIO_RENAMEAT || op->opcode == LIO_SYMLINKAT;
    wchar_t *path = wide(op->path);
    wchar_t *path2 = two && path != NULL ? wide(op->path2) : NULL;
    int64_t result = -1;
    DWORD error;
    if (path != NULL && (!two || path2 != NULL))
        result = call_path(path, path2, op);
    error = GetLastError();
    free(path);
    free(path2);
    SetLastError(error);
    return result;
}

/* One call; -1 with an error. offset < 0: at the position of the handle. */
static int64_t transfer(HANDLE handle, bool writes, void *bytes, uint64_t length,
                        int64_t offset)
{
    OVERLAPPED at = {.Offset = (DWORD)offset, .OffsetHigh = (DWORD)((uint64_t)offset >> 32)};
    OVERLAPPED *where = offset < 0 ? NULL : &at;
    DWORD moved = 0;
    BOOL done = writes ? WriteFile(handle, bytes, lio_iocp_length(length), &moved, where)
                       : ReadFile(handle, bytes, lio_iocp_length(length), &moved, where);
    DWORD error = done ? 0 : GetLastError();
    if (!done && error == ERROR_IO_PENDING) { /* opened for overlapped operations */
        done = GetOverlappedResult(handle, &at, &moved, TRUE);
        error = done ? 0 : GetLastError();
    }
    if (done)
        return moved;
    if (!writes && (error == ERROR_HANDLE_EOF || error == ERROR_BROKEN_PIPE))
        return 0;
    SetLastError(error);
    return -1;
}

static int64_t transfer_parts(const lio_op *op, bool writes)
{
    const lio_iovec *iov = op->buf;
    int64_t total = 0;
    for (uint64_t i = 0; i < op->len; i++) {
        int64_t moved =
            transfer((HANDLE)op->fd, writes, iov[i].base, iov[i].len, op->offset + total);
        if (moved < 0)
            return total != 0 ? total : -1; /* what was moved before is not undone */
        total += moved;
        if ((uint64_t)moved < iov[i].len)
            break;
    }
    return total;
}

/* At an offset, and then the position is again where it was. */
static int64_t transfer_at(const lio_op *op)
{
    const LARGE_INTEGER stay = {.QuadPart = 0};
    LARGE_INTEGER position;
    HANDLE handle = (HANDLE)op->fd;
    bool writes = op->opcode == LIO_WRITE_AT || op->opcode == LIO_WRITEV_AT;
    bool parts = op->opcode == LIO_READV_AT || op->opcode == LIO_WRITEV_AT;
    bool has_position = SetFilePointerEx(handle, stay, &position, FILE_CURRENT);
    int64_t result = parts ? transfer_parts(op, writes)
                           : transfer(handle, writes, op->buf, op->len, op->offset);
    DWORD error = GetLastError();
    if (has_position)
        SetFilePointerEx(handle, position, NULL, FILE_BEGIN);
    SetLastError(error);
    return result;
}

static int64_t truncate_file(const lio_op *op)
{
    FILE_END_OF_FILE_INFO info = {.EndOfFile.QuadPart = op->offset};
    return SetFileInformationByHandle((HANDLE)op->fd, FileEndOfFileInfo, &info, sizeof info)
               ? 0
               : -1;
}

static int64_t perform(const lio_op *op)
{
    switch (op->opcode) {
    case LIO_READ:
    case LIO_WRITE:
        return transfer((HANDLE)op->fd, op->opcode == LIO_WRITE, op->buf, op->len, -1);
    case LIO_READ_AT:
    case LIO_WRITE_AT:
    case LIO_READV_AT:
    case LIO_WRITEV_AT:
        return transfer_at(op);
    case LIO_FSYNC:
    case LIO_FDATASYNC:
        return FlushFileBuffers((HANDLE)op->fd) ? 0 : -1;
    case LIO_TRUNCATE:
        return truncate_file(op);
    default:
        return perform_on_path(op);
    }
}

static void CALLBACK work(PTP_CALLBACK_INSTANCE instance, void *argument)
{
    lio_iocp_io *io = argument;
    OVERLAPPED *overlapped = &io->overlapped;
    HANDLE port = io->port;
    CallbackMayRunLong(instance); /* others need not wait for this thread */
    if (InterlockedCompareExchange(&io->as.job.state, LIO_JOB_RUNNING, LIO_JOB_QUEUED) ==
        LIO_JOB_QUEUED) {
        io->as.job.result = perform(io->as.job.op);
        io->as.job.error = io->as.job.result < 0 ? GetLastError() : 0;
    } else {
        io->as.job.result = -1;
        io->as.job.error = ERROR_OPERATION_ABORTED;
    }
    /* From here on the slot may be another's. */
    InterlockedExchangePointer((void **)&overlapped->Internal, NULL);
    lio_iocp_post(port, 0, (ULONG_PTR)LIO_KEY_OP, overlapped);
}

/* -- the owner's side -------------------------------------------------------------- */

void lio_iocp_give_job(lio_backend *b, uint32_t number)
{
    lio_slot *slot = lio_slot_at(&b->store, number);
    lio_iocp_io *io = lio_iocp_io_at(b, number);
    lio_iocp *p = lio_iocp_of(b);
    if (lio_opcode_has_fd(slot->op.opcode) && !lio_iocp_take_turn(b, number))
        return;
    io->token = lio_store_token(slot, number);
    io->event = io->wait = NULL;
    io->overlapped.Internal = LIO_STATUS_PENDING;
    io->port = p->port;
    io->as.job.op = &slot->op;
    io->as.job.state = LIO_JOB_QUEUED;
    b->stats.syscalls++;
    if (!TrySubmitThreadpoolCallback(work, io, NULL)) {
        lio_iocp_fail(b, number, GetLastError());
        return;
    }
    slot->stage = LIO_STAGE_JOB;
    p->with_kernel++;
}

void lio_iocp_cancel_job(lio_backend *b, uint32_t number)
{
    InterlockedCompareExchange(&lio_iocp_io_at(b, number)->as.job.state, LIO_JOB_CANCELLED,
                               LIO_JOB_QUEUED);
}

void lio_iocp_end_job(lio_backend *b, uint32_t number)
{
    const lio_iocp_io *io = lio_iocp_io_at(b, number);
    b->stats.syscalls++;
    if (io->as.job.error == 0)
        lio_iocp_finish(b, number, io->as.job.result, -1, -1);
    else
        lio_iocp_fail(b, number, io->as.job.error);
}
