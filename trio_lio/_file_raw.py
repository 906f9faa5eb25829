"""What all file objects have in common, and the unbuffered one."""

from __future__ import annotations

import errno
import functools
import io
import operator
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from ._descriptor import COPIED_MAX, Descriptor, exported, size_argument
from ._flight import new_unset
from ._kinds import KIND_RECEIVE_OWN
from ._manager import current_manager
from ._native import ffi, lib
from ._trio_compat import AsyncIOWrapper, let_others_run, must_not_begin, run_context

if TYPE_CHECKING:
    from typing_extensions import Buffer

_transfer, _READ = lib.lio_py_transfer, lib.LIO_READ
_OFFSET_MAX = 2**62  # within what every file system takes; others are for lseek to judge


def call(method: Callable[..., Any]) -> Any:
    """Makes a method of a file object of what is to be done once it is its turn.

    A cancelled task begins nothing. A call that finds all it needs in memory lets others run
    before it returns; one that waited for an operation has done so already.
    """
    name = method.__name__.removeprefix("_").removesuffix("_in_turn")

    @functools.wraps(method)
    @trio.lowlevel.enable_ki_protection
    async def in_turn(self: Any, *args: Any, **kwargs: Any) -> Any:
        descriptor = self.__dict__.get("_descriptor")
        if descriptor is None or current_manager() is None:
            return await _as_in_trio(self, name, args, kwargs)
        if must_not_begin():
            await trio.lowlevel.checkpoint()
        if descriptor.busy:
            await descriptor.wait_for_turn()
        descriptor.busy = True
        before = descriptor.operations
        try:
            return await method(self, *args, **kwargs)
        finally:
            descriptor.end_turn()
            if descriptor.operations == before:
                await let_others_run()

    return in_turn


def at_an_offset(method: Callable[..., Any]) -> Any:
    """The same for calls that do not use the position, and go on side by side."""
    name = method.__name__

    @functools.wraps(method)
    @trio.lowlevel.enable_ki_protection
    async def at_once(self: Any, *args: Any, **kwargs: Any) -> Any:
        descriptor = self.__dict__.get("_descriptor")
        if descriptor is None or current_manager() is None:
            raise RuntimeError(
                f"{name} needs a lio run, and a file whose .wrapped is not in use"
            )
        if must_not_begin():
            await trio.lowlevel.checkpoint()
        before = descriptor.operations
        try:
            descriptor.check_open()
            if self._is_unwritten():
                await self.flush()
                descriptor.check_open()
            return await method(self, *args, **kwargs)
        finally:
            if descriptor.operations == before:
                await let_others_run()

    return at_once


async def _as_in_trio(
    self: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A call outside a lio run, or on a file whose ``.wrapped`` was taken."""
    if type(self) is not AsyncIOWrapper:
        await trio.to_thread.run_sync(self._become_trios)
    return await getattr(self, name)(*args, **kwargs)


class AsyncFile(AsyncIOWrapper):  # type: ignore[misc]
    """A file whose calls are operations: what `trio_lio.open_file` returns.

    Its methods are those of `trio.open_file`'s files, with the same meaning, and `pread`,
    `pwrite`, `preadv`, `pwritev`, `fsync` and `fdatasync`.

    `wrapped`, ``buffer``, ``raw`` and ``detach`` hand out objects of the standard library that
    read and write by themselves. When one of them is asked for the file becomes one of
    Trio's own, around a standard library's file in the same state; its calls are made in
    threads from then on. A file that is used outside a lio run becomes one too.
    """

    _model: type = io.IOBase
    _descriptor: Descriptor

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor

    # -- what the standard library has no coroutine for

    @property
    def closed(self) -> bool:
        return self._descriptor.fd < 0

    @property
    def name(self) -> Any:
        return self._descriptor.name

    @property
    def mode(self) -> str:
        return self._descriptor.mode

    def fileno(self) -> int:
        self._descriptor.check_open()
        return self._descriptor.fd

    def isatty(self) -> bool:
        self._descriptor.check_open()
        return self._descriptor.is_terminal()

    def readable(self) -> bool:
        if self._descriptor.readable:
            self._descriptor.check_open()
        return self._descriptor.readable

    def writable(self) -> bool:
        if self._descriptor.writable:
            self._descriptor.check_open()
        return self._descriptor.writable

    def seekable(self) -> bool:
        self._descriptor.check_open()
        return self._descriptor.is_seekable()

    # -- the standard library's own file

    @property
    def _wrapped(self) -> Any:
        return self._become_trios()

    @_wrapped.setter
    def _wrapped(self, real: Any) -> None:
        raise AttributeError("_wrapped")

    @property
    def wrapped(self) -> Any:
        """The standard library's file object, which does not go through operations."""
        return self._become_trios()

    def _become_trios(self) -> Any:
        descriptor = self._descriptor
        if descriptor.busy or descriptor.positional:
            raise trio.BusyResourceError(
                "the standard library's file cannot be had while a call is under way"
            )
        real = self._real() if descriptor.fd >= 0 else _closed(self._model, descriptor.name)
        self.__dict__.clear()
        self.__class__ = AsyncIOWrapper
        self.__dict__["_wrapped"] = real
        return real

    def _real(self) -> Any:
        raise NotImplementedError

    def _real_raw(self, unread: bytes = b"") -> io.FileIO:
        descriptor = self._descriptor
        if unread and not descriptor.is_seekable():
            raw: io.FileIO = _Refed(descriptor.fd, descriptor.mode, descriptor.closefd)
            raw.unread = unread  # type: ignore[attr-defined]
        else:
            if unread:
                os.lseek(descriptor.fd, -len(unread), os.SEEK_CUR)
            raw = io.FileIO(descriptor.fd, descriptor.mode, descriptor.closefd)
        raw.name = descriptor.name
        return raw

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self._model, name):
            raise AttributeError(name)
        return super().__getattr__(name)

    def __dir__(self) -> Iterable[str]:
        return {*object.__dir__(self), *(n for n in dir(self._model) if n[0] != "_")}

    def __del__(self) -> None:
        descriptor = self.__dict__.get("_descriptor")
        if descriptor is not None and descriptor.fd >= 0:
            # The standard library's file warns, writes what is left to write, and closes.
            descriptor.busy, descriptor.positional = False, 0
            self._become_trios()

    # -- calls

    def _is_unwritten(self) -> bool:
        """Whether something waits in memory to be written."""
        return False

    def _check_readable(self) -> None:
        self._descriptor.check_open()
        if not self._descriptor.readable:
            raise io.UnsupportedOperation("not readable")

    def _check_writable(self) -> None:
        self._descriptor.check_open()
        if not self._descriptor.writable:
            raise io.UnsupportedOperation("not writable")

    async def _flush(self) -> None:
        self._descriptor.check_open()

    async def __anext__(self) -> Any:
        line = await self.readline()
        if line:
            return line
        raise StopAsyncIteration

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Writes what is left to write and closes, cancelled or not; then raises
        ``Cancelled`` if it was. What a pipe's or a terminal's reader waits for ends."""
        descriptor = self.__dict__.get("_descriptor")
        if descriptor is None or current_manager() is None:
            return await _as_in_trio(self, "aclose", (), {})  # type: ignore[no-any-return]
        before = descriptor.operations
        if descriptor.busy:
            descriptor.interrupt()
            with trio.CancelScope(shield=True):
                await descriptor.wait_for_turn()
        descriptor.busy = descriptor.shielded = True
        try:
            if descriptor.fd >= 0:
                try:
                    await self._flush()
                finally:
                    await descriptor.close()
        finally:
            descriptor.shielded = False
            descriptor.end_turn()
        if descriptor.operations == before:
            await let_others_run()
        if must_not_begin():
            await trio.lowlevel.checkpoint()

    @call
    async def flush(self) -> None:
        """Writes what is buffered. Cancelled, it leaves the rest in the buffer."""
        await self._flush()

    @call
    async def fsync(self) -> None:
        """Flushes, then has the kernel write the file to its disk. Returns only if it did."""
        await self._flush()
        await self._descriptor.sync(lib.LIO_FSYNC)

    @call
    async def fdatasync(self) -> None:
        """As `fsync`, without what is not needed to read the data again."""
        await self._flush()
        await self._descriptor.sync(lib.LIO_FDATASYNC)

    @at_an_offset
    async def pread(self, size: int, offset: int) -> bytes:
        """Reads at most ``size`` bytes at an offset, past all buffers; the position stays.

        What is buffered for writing is flushed first. Calls from several tasks go on side by
        side.
        """
        size = operator.index(size)
        if size < 0:
            raise ValueError(f"size must not be negative: {size}")
        return await self._descriptor.read_at(size, _offset(offset))

    @at_an_offset
    async def preadv(self, buffers: Iterable[Buffer], offset: int) -> int:
        """Reads at an offset into one or several writable buffers; returns how many bytes."""
        memories = [exported(buffer, writable=True) for buffer in buffers]
        return await self._descriptor.transfer_at(lib.LIO_READV_AT, memories, _offset(offset))

    @at_an_offset
    async def pwrite(self, data: Buffer, offset: int) -> int:
        """Writes at an offset, past all buffers; returns how many bytes."""
        memories = [exported(data, writable=False)]
        return await self._descriptor.transfer_at(lib.LIO_WRITE_AT, memories, _offset(offset))

    @at_an_offset
    async def pwritev(self, buffers: Iterable[Buffer], offset: int) -> int:
        """Writes one or several buffers at an offset; returns how many bytes."""
        memories = [exported(buffer, writable=False) for buffer in buffers]
        return await self._descriptor.transfer_at(lib.LIO_WRITEV_AT, memories, _offset(offset))


def _offset(offset: Any) -> int:
    number: int = operator.index(offset)
    if number < 0:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return number


def unsupported(name: str) -> NoReturn:
    raise io.UnsupportedOperation(name)


class _Refed(io.FileIO):
    """A pipe of which something was read ahead: that comes first."""

    unread = b""

    def readinto(self, buffer: Any) -> Any:
        if not self.unread:
            return super().readinto(buffer)
        view = memoryview(buffer).cast("B")
        part = self.unread[: len(view)]
        view[: len(part)] = part
        self.unread = self.unread[len(part) :]
        return len(part)

    def read(self, size: int | None = -1) -> Any:
        if not self.unread or size is None or size < 0:
            return super().read(size)
        part, self.unread = self.unread[:size], self.unread[size:]
        return part

    def readall(self) -> Any:
        part, self.unread = self.unread, b""
        return part + super().readall()


def _closed(model: type, name: Any) -> Any:
    """A closed file of a class of the standard library."""
    mode = "wb" if model is io.BufferedWriter else "r+b"
    raw = io.FileIO(os.devnull, mode)
    raw.name = name
    real: Any = raw
    if model is io.TextIOWrapper:
        real = model(io.BufferedReader(raw))
    elif model is not io.FileIO:
        real = model(raw)
    real.close()
    return real


class RawFile(AsyncFile):
    """An unbuffered binary file: every call is one operation."""

    _model: type = io.FileIO

    def __init__(self, descriptor: Descriptor) -> None:
        super().__init__(descriptor)
        descriptor.is_seekable()
        self._ahead = b""  # of a pipe, when reading to its end was cancelled

    def readable(self) -> bool:
        self._descriptor.check_open()
        return self._descriptor.readable

    def writable(self) -> bool:
        self._descriptor.check_open()
        return self._descriptor.writable

    @property
    def closefd(self) -> bool:
        return self._descriptor.closefd

    def _real(self) -> Any:
        return self._real_raw(self._ahead)

    def _put_back(self, data: bytes) -> None:
        if self._descriptor.is_seekable():
            os.lseek(self._descriptor.fd, -len(data), os.SEEK_CUR)
        else:
            self._ahead = data + self._ahead

    async def _read(self, size: int) -> bytes:
        if size < 0:
            ahead, self._ahead = self._ahead, b""
            try:
                return ahead + await self._descriptor.read_all(self._put_back)
            except trio.Cancelled:
                self._ahead = ahead + self._ahead
                raise
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return await self._descriptor.read(size)

    @call
    async def _read_in_turn(self, size: int | None) -> bytes:
        number = size_argument(size)
        self._check_readable()
        return await self._read(number)

    # Those two are most of what an unbuffered file is there for. The usual case is written
    # out flat: layers of coroutines would cost as much as the operation.

    @trio.lowlevel.enable_ki_protection
    async def read(self, size: int | None = -1, /) -> bytes:
        """One read of at most ``size`` bytes; of all that is left if it is negative."""
        descriptor = self.__dict__.get("_descriptor")
        manager = current_manager()
        if (
            manager is None
            or descriptor is None
            or type(size) is not int
            or not 0 < size <= COPIED_MAX
            or descriptor.busy
            or descriptor.fd < 0
            or not descriptor.readable
            or self._ahead
            or must_not_begin()
        ):
            return await RawFile._read_in_turn(self, size)  # type: ignore[no-any-return]
        descriptor.busy = True
        try:
            op = manager.take(KIND_RECEIVE_OWN)
            op.keep = memory = new_unset("char[]", size)
            code = _transfer(manager.handle, op.id, _READ, descriptor.fd, memory, size, 0)
            if code == 0:
                op.task = run_context.task
            else:
                op = manager.push_again(
                    op,
                    code,
                    partial(
                        _transfer,
                        *(manager.handle, op.id, _READ, descriptor.fd, memory, size, 0),
                    ),
                )
            descriptor.operations += 1
            result = await op
        finally:
            descriptor.end_turn()
        return result if type(result) is bytes else result.unwrap()

    @call
    async def readall(self) -> bytes:
        self._descriptor.check_open()
        return await self._read(-1)

    @call
    async def readinto(self, buffer: Buffer, /) -> int:
        memory = exported(buffer, writable=True)
        self._check_readable()
        if self._ahead:
            data = await self._read(len(memory))
            ffi.memmove(memory, data, len(data))
            return len(data)
        return await self._descriptor.read_into(memory)

    async def _read_line(self, limit: int) -> bytes:
        """As the standard library: byte by byte, to read nothing ahead."""
        line = bytearray()
        while limit < 0 or len(line) < limit:
            try:
                byte = await self._read(1)
            except trio.Cancelled:
                if line:
                    self._put_back(bytes(line))
                raise
            line += byte
            if byte in (b"", b"\n"):
                break
        return bytes(line)

    @call
    async def readline(self, size: int | None = -1, /) -> bytes:
        limit = size_argument(size)
        if limit == 0:
            return b""
        self._check_readable()
        return await self._read_line(limit)

    @call
    async def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        most = size_argument(hint)
        self._check_readable()
        return await lines_until(most, partial(self._read_line, -1), self._descriptor)

    @call
    async def write(self, data: Buffer, /) -> int:
        memory = exported(data, writable=False)
        self._check_writable()
        return await self._descriptor.write(memory)

    @call
    async def writelines(self, lines: Iterable[Buffer], /) -> None:
        self._descriptor.check_open()
        await one_by_one(lines, self._write_one, self._descriptor)

    async def _write_one(self, line: Any) -> None:
        memory = exported(line, writable=False)
        self._check_writable()
        await self._descriptor.write(memory)

    @call
    async def _seek_in_turn(self, offset: int, whence: int) -> int:
        self._descriptor.check_open()
        self._ahead = b""
        return await self._descriptor.seek(offset, whence)

    @trio.lowlevel.enable_ki_protection
    async def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Moves the position, which is the kernel's; returns it."""
        descriptor = self.__dict__.get("_descriptor")
        if (
            descriptor is None
            or whence != os.SEEK_SET
            or type(offset) is not int
            or not 0 <= offset <= _OFFSET_MAX
            or descriptor.busy
            or not descriptor.seekable
            or descriptor.fd < 0
            or must_not_begin()
        ):
            return await RawFile._seek_in_turn(self, offset, whence)  # type: ignore[no-any-return]
        position = os.lseek(descriptor.fd, offset, os.SEEK_SET)
        await let_others_run()
        return position

    @call
    async def tell(self) -> int:
        self._descriptor.check_open()
        return os.lseek(self._descriptor.fd, 0, os.SEEK_CUR)

    @call
    async def truncate(self, size: int | None = None, /) -> int:
        self._check_writable()
        if size is None:
            size = os.lseek(self._descriptor.fd, 0, os.SEEK_CUR)
        size = operator.index(size)
        await self._descriptor.truncate(size)
        return size


async def one_by_one(
    items: Iterable[Any], write: Callable[[Any], Any], descriptor: Descriptor
) -> None:
    """Writes all of them: once the first is written, the rest is too."""
    try:
        for item in items:
            await write(item)
            descriptor.shielded = True
    finally:
        descriptor.shielded = False


async def lines_until(
    hint: int, read_line: Callable[[], Any], descriptor: Descriptor
) -> list[Any]:
    """Lines to the end, or until they have more than ``hint`` bytes or characters together.

    Cancelled only before the first: those that were read could not be handed over.
    """
    lines: list[Any] = []
    total = 0
    try:
        while line := await read_line():
            descriptor.shielded = True
            lines.append(line)
            total += len(line)
            if 0 < hint < total:
                break
    finally:
        descriptor.shielded = False
    return lines
