"""sendfile: from a file to a socket, and never through Python.

On Linux the bytes go from the file into a pipe and from the pipe into the socket, both by
splice: the pages themselves move. Both are operations, so that neither the disk nor the peer
is ever waited for by the loop's thread. macOS, FreeBSD and Windows send from a file to a
socket at once.
Where there is no socket beneath a stream (TLS), or no such call, the file is read and the
stream sends.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from functools import partial
from typing import Any

import trio

from . import lowlevel
from ._kinds import KIND_WRITE
from ._manager import LioIOManager, current_manager
from ._native import lib
from ._socket import manager_of
from ._trio_compat import (
    SocketStream,
    SocketType,
    highlevel_socket,
    let_others_run,
    must_not_begin,
    run_context,
)

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["sendfile"]

_PIPE_SIZE = 1024 * 1024  # as large as an ordinary user can have it
_READ_SIZE = 256 * 1024
_SPLICE_F_MOVE, _SPLICE_F_MORE = 1, 4
_NO_MORE = 2**62


async def _splice(
    manager: LioIOManager, source: int, offset: int, target: int, count: int, flags: int
) -> int:
    op = manager.take(KIND_WRITE)
    push = partial(
        lib.lio_py_splice, manager.handle, op.id, source, offset, target, count, flags
    )
    code = push()
    if code == 0:
        op.task = run_context.task
    else:
        op = manager.push_again(op, code, push)
    result = await op
    return result if type(result) is int else result.unwrap()


def _descriptor_of(file: Any) -> int:
    if isinstance(file, int) and not isinstance(file, bool):
        return file
    fileno = getattr(file, "fileno", None)
    if fileno is None:
        raise TypeError(
            f"sendfile needs a file or a descriptor to send from, not {type(file).__name__}"
        )
    return fileno()  # type: ignore[no-any-return]


def _check(file: Any, fd: int, offset: Any, count: Any) -> None:
    for name, value in (("offset", offset), ("count", 0 if count is None else count)):
        if not isinstance(value, int):
            raise TypeError(f"{name} must be an int, not {type(value).__name__}")
        if value < 0:
            raise ValueError(f"{name} must not be negative: {value}")
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise OSError(
            errno.EINVAL,
            "sendfile needs a regular file, which has offsets: read a pipe or a terminal and "
            "send what comes",
        )
    is_unwritten = getattr(file, "_is_unwritten", None)  # our own files can tell
    if is_unwritten is not None and is_unwritten():
        raise ValueError("flush the file first: what it has buffered would not be sent")


class _Pipe:
    """The way between the two; what is left in it at the end was not sent."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.size = fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        except OSError:  # this user has many pipes
            self.size = 65536

    def close(self) -> None:
        for fd in self.reader, self.writer:
            os.close(fd)


async def _by_splice(
    manager: LioIOManager, sock: int, fd: int, offset: int, left: int
) -> int | None:
    """The bytes that went. None: this file cannot be spliced."""
    pipe = _Pipe()
    sent = 0
    try:
        while left:
            try:
                filled = await _splice(
                    manager, fd, offset, pipe.writer, min(left, pipe.size), _SPLICE_F_MOVE
                )
            except OSError as exc:
                if sent == 0 and exc.errno == errno.EINVAL:
                    return None
                raise
            if filled == 0:
                break
            offset += filled
            left -= filled
            while filled:
                flags = _SPLICE_F_MOVE | (_SPLICE_F_MORE if left else 0)
                moved = await _splice(manager, pipe.reader, -1, sock, filled, flags)
                sent += moved
                filled -= moved
    except trio.Cancelled:
        if not sent:
            raise
    finally:
        pipe.close()
    return sent


async def _by_sendfile(
    manager: LioIOManager, sock: int, fd: int, offset: int, left: int
) -> int | None:
    """The same where a splice goes from a file to a socket without a pipe (macOS, FreeBSD,
    Windows). None: it does not."""
    fd, sent = _known_as(fd), 0
    try:
        while left:
            try:
                moved = await _splice(manager, fd, offset, sock, min(left, _PIPE_SIZE), 0)
            except OSError as exc:
                if sent == 0 and exc.errno in (errno.EINVAL, errno.ENOTSUP):
                    return None
                raise
            if moved == 0:
                break
            offset += moved
            left -= moved
            sent += moved
    except trio.Cancelled:
        if not sent:
            raise
    return sent


def _known_as(fd: int) -> int:
    """What the operations know it by: on Windows, not the number that C has for it."""
    if sys.platform == "win32":
        return msvcrt.get_osfhandle(fd)
    return fd


if sys.platform == "win32":

    def _pread(fd: int, size: int, offset: int) -> bytes:
        position = os.lseek(fd, 0, os.SEEK_CUR)
        try:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.read(fd, size)
        finally:
            os.lseek(fd, position, os.SEEK_SET)

else:
    _pread = os.pread


async def _read(fd: int, size: int, offset: int) -> bytes:
    if current_manager() is None:
        return await trio.to_thread.run_sync(_pread, fd, size, offset)
    data: bytes = await lowlevel.read_at(_known_as(fd), size, offset)
    return data


async def _by_reading(target: Any, fd: int, offset: int, left: int) -> int:
    sent = 0
    try:
        while left and (data := await _read(fd, min(left, _READ_SIZE), offset)):
            offset += len(data)
            left -= len(data)
            if not isinstance(target, SocketType):
                await target.send_all(data)
                sent += len(data)
                continue
            with memoryview(data) as view:
                done = 0
                while done < len(data):
                    moved = await target.send(view[done:])
                    done += moved
                    sent += moved
    except trio.Cancelled:
        # Of what a stream was sending nobody knows how much went.
        if not sent or not isinstance(target, SocketType):
            raise
    return sent


@trio.lowlevel.enable_ki_protection
async def sendfile(
    stream_or_socket: Any, file: Any, offset: int = 0, count: int | None = None
) -> int:
    """Sends part of a file, without copying it through Python.

    Args:
      stream_or_socket: a `trio.SocketStream` or a connected stream socket of
        `trio.socket`. For any other stream, such as one with TLS, the file is read and
        ``send_all`` is called.
      file: a regular file: an asynchronous or an ordinary file object, or a descriptor. Its
        position plays no part and stays; what its object has buffered for writing has to be
        flushed before.
      offset: where to begin, in bytes.
      count: how many bytes; ``None``: to the end.

    Returns:
      The number of bytes that were sent, which is fewer than ``count`` if the file ended
      before, or if the task was cancelled on the way (the cancellation then shows at the next
      checkpoint). It raises ``Cancelled`` only if nothing was sent, or if nobody can know
      (other streams).

    Raises:
      OSError: reading failed; the file is none that has offsets (EINVAL); on a socket, what
        sending raises.
      trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError: as
        ``send_all`` of the stream.
    """
    fd = _descriptor_of(file)
    _check(file, fd, offset, count)
    if must_not_begin():
        await trio.lowlevel.checkpoint()
    left = _NO_MORE if count is None else count
    if left == 0:
        await let_others_run()
        return 0
    if type(stream_or_socket) is not SocketStream:
        return await _send(stream_or_socket, fd, offset, left)
    with (
        stream_or_socket._send_conflict_detector,
        highlevel_socket._translate_socket_errors_to_stream_errors(),
    ):
        return await _send(stream_or_socket.socket, fd, offset, left)


async def _send(target: Any, fd: int, offset: int, left: int) -> int:
    if type(target) is SocketType:
        manager = manager_of(target) if target.type == socket.SOCK_STREAM else None
        direct = manager is not None and manager.name in ("kqueue", "iocp")
        if manager is not None and (direct or sys.platform == "linux"):
            sent = await (_by_sendfile if direct else _by_splice)(
                manager, target.fileno(), fd, offset, left
            )
            if sent is not None:
                return sent
    elif not hasattr(target, "send_all"):
        raise TypeError(f"sendfile needs a stream or a socket, not {type(target).__name__}")
    return await _by_reading(target, fd, offset, left)
