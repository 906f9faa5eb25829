"""One open file: its descriptor, and the operations on it.

Every operation is handed over with its push: the kernel then has the file, whoever closes the
number behind our back. Reading, writing and moving about happen at the position that the
kernel keeps, so everybody who shares the open file sees them, and ``O_APPEND`` is the
kernel's too. Calls that use the position take turns: neither io_uring nor two threads would
keep two of them apart.
"""

from __future__ import annotations

import errno
import operator
import os
import stat
import types
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ._flight import new_unset, unset_bytes
from ._kinds import KIND_OTHER, KIND_RECEIVE_INTO, KIND_RECEIVE_OWN, KIND_WRITE
from ._manager import Operation, current_manager
from ._native import ffi, lib
from ._op import LENGTH_MAX
from ._trio_compat import (
    WaitTaskRescheduled,
    run_context,
)

if TYPE_CHECKING:
    pass

# Up to here a read goes into memory of the operation's own and is copied; above, into the
# result itself, which costs more the shorter the read turns out to be.
COPIED_MAX = 16 * 1024
# What is cached is copied in the loop's thread: others get their turn after so many bytes.
_PIECE = 2 * 1024 * 1024
_UNKNOWN_SIZE = 8192  # the first read of a file that says it is empty, such as those in /proc
_AT_EMPTY_PATH = int(lib.LIO_PY_AT_EMPTY_PATH)
_STATX_SIZE = 0x200
_STATX_SIZE_AT = 40

_UNCANCELLABLE = WaitTaskRescheduled(lambda _: trio.lowlevel.Abort.FAILED)


@types.coroutine
def _park_shielded(op: Any) -> Generator[Any, Any, Any]:
    if type(op) is not Operation:
        return (yield from op.__await__())
    return (yield _UNCANCELLABLE)


def exported(value: Any, *, writable: bool) -> Any:
    """The bytes of a buffer, exported as long as the result lives."""
    if isinstance(value, str):
        raise TypeError("a bytes-like object is required, not 'str'")
    try:
        return ffi.from_buffer("char[]", value, require_writable=writable)
    except TypeError:
        raise TypeError(
            f"a bytes-like object is required, not {type(value).__name__!r}"
        ) from None
    except BufferError:
        if writable and memoryview(value).readonly:
            raise TypeError(
                f"a read-write bytes-like object is required, not {type(value).__name__!r}"
            ) from None
        raise


def size_argument(size: Any) -> int:
    """What ``read(size)`` means: a number of bytes, or -1 for all of them."""
    if size is None:
        return -1
    return operator.index(size)


class Descriptor:
    """An open file. Its coroutines are for the holder of the turn, in a lio run."""

    __slots__ = (
        "appending",
        "blksize",
        "busy",
        "closefd",
        "created",
        "fd",
        "format",
        "name",
        "operations",
        "positional",
        "readable",
        "seekable",
        "shielded",
        "waiting",
        "writable",
    )

    def __init__(self, fd: int, name: Any, mode: str, closefd: bool) -> None:
        self.fd = fd
        self.name = name
        self.closefd = closefd
        updating = "+" in mode
        self.created = "x" in mode
        self.appending = "a" in mode
        self.readable = "r" in mode or updating
        self.writable = "r" not in mode or updating
        self.busy = False
        self.shielded = False
        self.operations = 0
        self.positional = 0
        self.waiting: Any = None
        self.seekable: bool | None = None
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        self.format = stat.S_IFMT(status.st_mode)
        self.blksize = status.st_blksize
        if self.appending and self.is_seekable():
            os.lseek(fd, 0, os.SEEK_END)

    @property
    def mode(self) -> str:
        """As `io.FileIO.mode`."""
        letter = "x" if self.created else "a" if self.appending else "r"
        if letter == "r" and not self.readable:
            letter = "w"
        return f"{letter}b+" if self.readable and self.writable else f"{letter}b"

    def check_open(self) -> None:
        if self.fd < 0:
            raise ValueError("I/O operation on closed file")

    def is_seekable(self) -> bool:
        if self.seekable is None:
            try:
                os.lseek(self.fd, 0, os.SEEK_CUR)
            except OSError:
                self.seekable = False
            else:
                self.seekable = True
        return self.seekable

    def is_terminal(self) -> bool:
        return stat.S_ISCHR(self.format) and os.isatty(self.fd)

    # -- turns

    async def wait_for_turn(self) -> None:
        if self.waiting is None:
            self.waiting = trio.lowlevel.ParkingLot()
        await self.waiting.park()

    def end_turn(self) -> None:
        if self.waiting:
            self.waiting.unpark()  # which stays busy, for the next one
        else:
            self.busy = False

    # -- operations

    async def _perform(
        self, kind: int, opcode: int, memory: Any, length: int, offset: int = 0
    ) -> Any:
        manager = current_manager()
        op = manager.take(kind)
        op.keep = memory
        push = lib.lio_py_transfer
        code = push(manager.handle, op.id, opcode, self.fd, memory, length, offset)
        if code == 0:
            op.task = run_context.task
        else:
            again = partial(
                push, manager.handle, op.id, opcode, self.fd, memory, length, offset
            )
            op = manager.push_again(op, code, again)
        self.operations += 1
        del memory  # the operation keeps it, as long as the kernel may use it
        result = await (_park_shielded(op) if self.shielded else op)
        kind_of = type(result)
        return result if kind_of is int or kind_of is bytes else result.unwrap()

    async def read(self, size: int) -> bytes:
        """One read at the file's position; at the end ``b""``."""
        if size <= COPIED_MAX:
            if size == 0:
                return b""
            memory = new_unset("char[]", size)
            return await self._perform(  # type: ignore[no-any-return]
                KIND_RECEIVE_OWN, lib.LIO_READ, memory, size
            )
        return await self._read_large(min(size, LENGTH_MAX), lib.LIO_READ, 0)

    async def _read_large(self, size: int, opcode: int, offset: int) -> bytes:
        # Nobody else has seen this object yet: it may be written to, as C code does.
        data = unset_bytes(size)
        memory = ffi.from_buffer("char[]", data)
        piece = _PIECE if self.format == stat.S_IFREG else size
        done = 0
        try:
            while done < size:
                wanted = min(piece, size - done)
                count = await self._perform(
                    KIND_RECEIVE_INTO, opcode, memory[done : done + wanted], wanted, offset
                )
                done += count
                offset += count
                if count < wanted:
                    break
        except trio.Cancelled:
            if done and opcode == lib.LIO_READ:
                os.lseek(self.fd, -done, os.SEEK_CUR)
            raise
        return data if done == size else data[:done]

    async def read_into(self, memory: Any) -> int:
        if not len(memory):
            return 0
        return await self._perform(  # type: ignore[no-any-return]
            KIND_RECEIVE_INTO, lib.LIO_READ, memory, min(len(memory), LENGTH_MAX)
        )

    async def read_all(self, keep: Callable[[bytes], None]) -> bytes:
        """All that is left. Should it be cancelled, ``keep`` gets what was read so far."""
        parts: list[bytes] = []
        left = self._bytes_left()
        try:
            while True:
                part = await self.read(left + 1 if left else _UNKNOWN_SIZE << len(parts))
                parts.append(part)
                if not part or len(part) == left:
                    break
                left = 0
        except trio.Cancelled:
            keep(b"".join(parts))
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _bytes_left(self) -> int:
        if self.format != stat.S_IFREG:
            return 0
        return max(0, os.fstat(self.fd).st_size - os.lseek(self.fd, 0, os.SEEK_CUR))

    async def write(self, memory: Any) -> int:
        """One write at the file's position, or at its end; fewer bytes than asked for may
        have gone, and then that is what counts."""
        if not len(memory):
            return 0
        return await self._perform(  # type: ignore[no-any-return]
            KIND_WRITE, lib.LIO_WRITE, memory, min(len(memory), LENGTH_MAX)
        )

    async def seek(self, offset: int, whence: int) -> int:
        """Moves the position. In place where that is a matter of memory."""
        if whence in (os.SEEK_SET, os.SEEK_CUR) or self.format == stat.S_IFCHR:
            return os.lseek(self.fd, offset, whence)
        if whence == os.SEEK_END and self.format == stat.S_IFREG:
            # A file system may have to ask for the size, over a network.
            return os.lseek(self.fd, await self._size() + offset, os.SEEK_SET)
        self.operations += 1
        return await trio.to_thread.run_sync(os.lseek, self.fd, offset, whence)

    async def _size(self) -> int:
        status = ffi.new("char[256]")
        await self.perform_path(
            lib.LIO_STATX, self.fd, b"", _AT_EMPTY_PATH, _STATX_SIZE, status
        )
        return int.from_bytes(ffi.buffer(status)[_STATX_SIZE_AT : _STATX_SIZE_AT + 8], "little")

    async def perform_path(
        self, opcode: int, fd: int, path: bytes, flags: int, mode: int, buffer: Any
    ) -> int:
        self.operations += 1
        return await perform_path(opcode, fd, path, flags, mode, buffer, self.shielded)

    async def truncate(self, size: int) -> None:
        try:
            await self._perform(KIND_OTHER, lib.LIO_TRUNCATE, ffi.NULL, 0, size)
        except OSError as exc:
            if exc.errno != errno.ENOTSUP:
                raise
        else:
            return
        # io_uring has it from Linux 6.9 on.
        await trio.to_thread.run_sync(os.ftruncate, self.fd, size)

    async def sync(self, opcode: int) -> None:
        await self._perform(KIND_OTHER, opcode, ffi.NULL, 0)

    # -- at an offset: no turn needed

    async def read_at(self, size: int, offset: int) -> bytes:
        if size == 0:
            return b""
        self.positional += 1
        try:
            if size > COPIED_MAX:
                return await self._read_large(min(size, LENGTH_MAX), lib.LIO_READ_AT, offset)
            memory = new_unset("char[]", size)
            return await self._perform(  # type: ignore[no-any-return]
                KIND_RECEIVE_OWN, lib.LIO_READ_AT, memory, size, offset
            )
        finally:
            self.positional -= 1

    async def transfer_at(self, opcode: int, memories: list[Any], offset: int) -> int:
        """A read or a write of one buffer, or of several, at an offset."""
        reads = opcode in (lib.LIO_READ_AT, lib.LIO_READV_AT)
        if opcode in (lib.LIO_READ_AT, lib.LIO_WRITE_AT):
            target, length = memories[0], min(len(memories[0]), LENGTH_MAX)
        else:
            target, length = ffi.new("lio_iovec[]", max(1, len(memories))), len(memories)
            for entry, memory in zip(target, memories, strict=False):
                entry.base, entry.len = ffi.cast("void *", memory), len(memory)
        if not any(len(memory) for memory in memories):
            return 0
        self.positional += 1
        try:
            return await self._perform(  # type: ignore[no-any-return]
                KIND_RECEIVE_INTO if reads else KIND_WRITE, opcode, target, length, offset
            )
        finally:
            # An iovec array does not keep what it points to; this frame did.
            memories.clear()
            self.positional -= 1

    # -- the end

    async def close(self) -> None:
        """Closes it, whatever happens: afterwards it is closed, also after an error."""
        fd, self.fd = self.fd, -1
        if fd < 0 or not self.closefd:
            return
        manager = current_manager()
        if manager.dormant:
            manager.begin()
        manager.notify_closing(fd)
        op = manager.take(KIND_OTHER)
        code = lib.lio_py_transfer(manager.handle, op.id, lib.LIO_CLOSE, fd, ffi.NULL, 0, 0)
        self.operations += 1
        if code != 0:
            manager.give_back(op)
            os.close(fd)
            return
        op.task = run_context.task
        result = await _park_shielded(op)
        if type(result) is not int:
            result.unwrap()

    def interrupt(self) -> None:
        """Ends what waits on a pipe or a terminal, perhaps for ever."""
        if not self.is_seekable():
            current_manager().notify_closing(self.fd)


@trio.lowlevel.enable_ki_protection
async def perform_path(
    opcode: int,
    fd: int,
    path: bytes,
    flags: int,
    mode: int,
    buffer: Any = ffi.NULL,
    shielded: bool = False,
    *,
    fd2: int = 0,
    path2: bytes | None = None,
) -> int:
    """An operation that names a path. ``path`` has no null byte in it."""
    manager = current_manager()
    op = manager.take(KIND_OTHER)
    names = ffi.from_buffer(path + b"\0"), ffi.NULL
    if path2 is not None:
        names = names[0], ffi.from_buffer(path2 + b"\0")
    op.keep = names, buffer
    push = partial(
        lib.lio_py_path,
        manager.handle,
        *(op.id, opcode, fd, names[0], fd2, names[1], flags, mode, buffer),
    )
    code = push()
    if code == 0:
        op.task = run_context.task
    else:
        op = manager.push_again(op, code, push)
    result = await (_park_shielded(op) if shielded else op)
    return result if type(result) is int else result.unwrap()
