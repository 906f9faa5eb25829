"""Buffered binary files: the buffer, and the file objects over it.

The buffer follows the standard library's to the letter: it reads and writes the same bytes
of the file in the same portions, so that what is on disk, and where the position is, are the
same after every call. It is kept in one place for reading and for writing, as there.

A call that is cancelled or fails leaves everything as it was before, or is completed: what was
read already goes back into the buffer, and data of which some was written is taken as a
whole, the rest into the buffer.
"""

from __future__ import annotations

import io
import operator
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ._descriptor import Descriptor, exported, size_argument
from ._file_raw import AsyncFile, call, lines_until, one_by_one, unsupported
from ._native import ffi

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

_NONE = -1  # the end of a buffer that is not in use


def _writes_what_fills_it() -> bool:
    raw = io.BytesIO()
    buffered = io.BufferedWriter(raw, 2)
    buffered.write(b"ab")
    written = raw.getvalue() == b"ab"
    buffered.detach()
    return written


# Since Python 3.13 data that would fill the buffer goes to the file at once; before, it stayed.
_FULL_IS_WRITTEN = _writes_what_fills_it()


class FileBuffer:
    """What `io.BufferedReader`, `io.BufferedWriter` and `io.BufferedRandom` keep.

    ``data`` mirrors a stretch of the file; positions are offsets into it. ``at`` is where the
    file object is, ``raw_at`` where the descriptor is. Up to ``read_end`` it was read from
    the file; from ``write_at`` to ``write_end`` it has yet to be written.
    """

    __slots__ = (
        "at",
        "data",
        "descriptor",
        "raw_at",
        "read_end",
        "size",
        "write_at",
        "write_end",
    )

    def __init__(self, descriptor: Descriptor, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        self.data = bytearray()
        self.at = self.raw_at = 0
        self.read_end = _NONE
        self.write_at = 0
        self.write_end = _NONE

    # -- what is in it

    def ahead(self) -> int:
        """Bytes that were read from the file and not yet from here."""
        return self.read_end - self.at if self.read_end != _NONE else 0

    def unwritten(self) -> bool:
        return self.write_end != _NONE and self.write_at < self.write_end

    def _distance(self) -> int:
        """How far the descriptor is ahead of us."""
        in_use = self.read_end != _NONE or self.write_end != _NONE
        return self.raw_at - self.at if in_use and self.raw_at >= 0 else 0

    def _move_to(self, at: int) -> None:
        self.at = at
        if self.read_end != _NONE and self.read_end < at:
            self.read_end = at

    def _room(self) -> None:
        """Makes ``data`` as large as it has to be, and no larger."""
        if len(self.data) != self.size:
            kept = max(self.read_end, self.write_end, 0)
            self.data = self.data[:kept] + bytes(max(0, self.size - kept))

    def _take(self, count: int) -> bytes:
        """``count`` bytes of those that are ahead."""
        at = self.at
        self.at = at + count
        return bytes(memoryview(self.data)[at : at + count])

    def put_back(self, data: bytes) -> None:
        """Takes back bytes that were read last."""
        if not data:
            return
        left = self._take(self.ahead()) if self.ahead() else b""
        self.data = bytearray(data + left)
        self.at = 0
        self.read_end = self.raw_at = len(self.data)

    # -- reading

    async def _fill(self) -> int:
        """Reads behind what is there; returns how many bytes, 0 at the end."""
        start = self.read_end if self.read_end != _NONE else 0
        self._room()
        wanted = max(0, self.size - start)
        # Not into the array itself: nothing must show there unless the call succeeds.
        data = await self.descriptor.read(wanted)
        self.data[start : start + len(data)] = data
        if data:
            self.read_end = self.raw_at = start + len(data)
        return len(data)

    async def _before_reading(self, taken: int) -> None:
        """What was written goes to the file before anything is read from there; ``taken``
        bytes of the buffer are the caller's already, if that succeeds."""
        if self.descriptor.writable:
            try:
                await self.flush_and_rewind()
            except BaseException:
                self.at -= taken
                raise
        self.read_end = _NONE

    async def read(self, size: int) -> bytes:
        if 0 <= size <= self.ahead():
            return self._take(size)
        ahead = self.ahead()
        parts = [self._take(ahead)] if ahead else []
        await self._before_reading(ahead)
        try:
            if size < 0:
                parts.append(await self.descriptor.read_all(parts.append))
            else:
                await self._read_on(size - sum(map(len, parts)), parts)
        except trio.Cancelled:
            self.put_back(b"".join(parts))
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read_on(self, left: int, parts: list[bytes]) -> None:
        while whole := left - left % self.size:
            part = await self.descriptor.read(whole)
            if not part:
                return
            parts.append(part)
            left -= len(part)
        self.at = self.raw_at = self.read_end = 0
        while left > 0 and self.read_end < self.size and await self._fill():
            part = self._take(min(left, self.ahead()))
            parts.append(part)
            left -= len(part)

    async def read1(self, size: int) -> bytes:
        if size < 0:
            size = self.size
        if size == 0:
            return b""
        if ahead := self.ahead():
            return self._take(min(size, ahead))
        await self._before_reading(0)
        return await self.descriptor.read(size)

    async def peek(self) -> bytes:
        if self.descriptor.writable or not self.ahead():
            await self._before_reading(0)
            await self._fill()
            self.at = 0
        return bytes(memoryview(self.data)[self.at : self.at + self.ahead()])

    async def read_into(self, memory: Any, *, once: bool) -> int:
        length = len(memory)
        done = min(self.ahead(), length)
        if done:
            ffi.memmove(memory, self._take(done), done)
        if done == length:
            return done
        await self._before_reading(done)
        self.at = 0
        try:
            while done < length:
                left = length - done
                if left > self.size:
                    count = await self.descriptor.read_into(memory[done:length])
                elif once and done:
                    break
                else:
                    count = min(left, await self._fill())
                    if count:
                        ffi.memmove(memory[done : done + count], self._take(count), count)
                done += count
                if count == 0 or once:
                    break
        except trio.Cancelled:
            self.put_back(ffi.buffer(memory, done)[:] if done else b"")
            raise
        return done

    async def read_line(self, limit: int) -> bytes:
        ahead = self.ahead()
        end = self._end_of_line(ahead if limit < 0 else min(ahead, limit))
        if end:
            return self._take(end)
        if 0 <= limit <= ahead:
            return self._take(limit)
        parts = [self._take(ahead)] if ahead else []
        left = limit - ahead
        await self._before_reading(ahead)
        try:
            while True:
                self.read_end = _NONE
                self.at = 0
                count = await self._fill()
                if not count:
                    break
                if limit >= 0:
                    count = min(count, left)
                end = self._end_of_line(count)
                parts.append(self._take(end or count))
                left -= count
                if end or (limit >= 0 and left <= 0):
                    break
        except trio.Cancelled:
            self.put_back(b"".join(parts))
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _end_of_line(self, within: int) -> int:
        """How many of the next bytes a line takes; 0: its end is not among them."""
        if not within:
            return 0
        end = self.data.find(b"\n", self.at, self.at + within)
        return end + 1 - self.at if end >= 0 else 0

    # -- writing

    async def flush(self) -> None:
        """Writes what is not written. Cancelled, the rest of it stays."""
        if self.unwritten():
            back = self._distance() + self.at - self.write_at
            if back:
                os.lseek(self.descriptor.fd, -back, os.SEEK_CUR)
                self.raw_at -= back
            # A copy: the array must be free to change its size.
            unwritten = bytes(memoryview(self.data)[self.write_at : self.write_end])
            memory = exported(unwritten, writable=False)
            done = 0
            while done < len(unwritten):
                count = await self.descriptor.write(memory[done : len(unwritten)])
                self._move_raw(count)
                done += count
        self.write_at, self.write_end = 0, _NONE

    def _move_raw(self, count: int) -> None:
        self.write_at += count
        self.raw_at = self.write_at

    async def flush_and_rewind(self) -> None:
        await self.flush()
        if self.descriptor.readable:
            distance = self._distance()
            if distance:
                os.lseek(self.descriptor.fd, -distance, os.SEEK_CUR)
            self.read_end = _NONE

    def _store(self, data: bytes, at: int) -> None:
        self._room()
        self.data[at : at + len(data)] = data

    async def write(self, memory: Any) -> int:
        length = len(memory)
        if self.read_end == _NONE and self.write_end == _NONE:
            self.at = self.raw_at = 0
        if self._fits(length):
            at = self.at
            self._store(ffi.buffer(memory)[:], at)
            if self.write_end == _NONE or self.write_at > at:
                self.write_at = at
            self._move_to(at + length)
            if self.write_end < self.at:
                self.write_end = self.at
            return length
        await self.flush()
        distance = self._distance()
        if distance:
            os.lseek(self.descriptor.fd, -distance, os.SEEK_CUR)
            self.raw_at -= distance
        done = 0
        try:
            while length - done > self.size - _FULL_IS_WRITTEN:
                done += await self.descriptor.write(memory[done:length])
        except (trio.Cancelled, OSError):
            if not done:
                raise
            # Some of it is in the file, so all of it is taken. A disk that is full will tell
            # the flush that comes next.
        if self.descriptor.readable:
            self.read_end = _NONE
        left = length - done
        self.data = bytearray(ffi.buffer(memory)[done:length])
        self.write_at, self.write_end, self.raw_at = 0, left, 0
        self._move_to(left)
        return length

    def _fits(self, length: int) -> bool:
        return length <= min(self.size - self.at, self.size - _FULL_IS_WRITTEN)

    # -- moving about

    def tell(self) -> int:
        return os.lseek(self.descriptor.fd, 0, os.SEEK_CUR) - self._distance()

    async def seek(self, target: int, whence: int) -> int:
        descriptor = self.descriptor
        if whence in (os.SEEK_SET, os.SEEK_CUR) and descriptor.readable and self.ahead():
            here = self.tell()
            offset = target - here if whence == os.SEEK_SET else target
            if -self.at <= offset <= self.ahead():
                self.at += offset
                return here + offset
        if descriptor.writable:
            await self.flush()
        if whence == os.SEEK_CUR:
            target -= self._distance()
        position = await descriptor.seek(target, whence)
        self.raw_at = -1
        if descriptor.readable:
            self.read_end = _NONE
        return position


def real_buffered(file: AsyncFile, buffer: FileBuffer, model: type) -> Any:
    """A standard library's object in the same state; nothing is written by that."""
    unwritten = b""
    if buffer.unwritten():
        unwritten = bytes(memoryview(buffer.data)[buffer.write_at : buffer.write_end])
        back = buffer._distance() + buffer.at - buffer.write_at
        if back:
            os.lseek(buffer.descriptor.fd, -back, os.SEEK_CUR)
        ahead, after = b"", buffer.at - buffer.write_end
    else:
        ahead, after = buffer._take(buffer.ahead()), 0
    raw = file._real_raw(ahead)
    real: Any = model(raw, buffer.size)
    if unwritten:
        real.write(unwritten)
        if after:
            real.seek(after, os.SEEK_CUR)
    return real


class BufferedFile(AsyncFile):
    """A buffered binary file."""

    def __init__(self, buffer: FileBuffer) -> None:
        super().__init__(buffer.descriptor)
        self._buffer = buffer

    def _real(self) -> Any:
        return real_buffered(self, self._buffer, self._model)

    def _is_unwritten(self) -> bool:
        return self._buffer.unwritten()

    async def _flush(self) -> None:
        self._descriptor.check_open()
        if self._descriptor.writable:
            await self._buffer.flush_and_rewind()

    # Of several things that are wrong the same one is told as there: that it is no file to
    # read from, then what the argument is, then that it is closed.

    def _check_is_to_read(self) -> None:
        if not self._descriptor.readable:
            unsupported("read")

    def _check_is_to_write(self) -> None:
        if not self._descriptor.writable:
            unsupported("write")

    def _check_readable(self) -> None:
        self._check_is_to_read()
        self._descriptor.check_open()

    @call
    async def read(self, size: int | None = -1, /) -> bytes:
        self._check_is_to_read()
        number = size_argument(size)
        self._descriptor.check_open()
        if number < -1:
            raise ValueError("read length must be non-negative or -1")
        return await self._buffer.read(number)

    @call
    async def read1(self, size: int = -1, /) -> bytes:
        self._check_is_to_read()
        most = operator.index(size)
        self._descriptor.check_open()
        return await self._buffer.read1(most)

    @call
    async def readinto(self, buffer: Buffer, /) -> int:
        memory = exported(buffer, writable=True)
        self._check_readable()
        return await self._buffer.read_into(memory, once=False)

    @call
    async def readinto1(self, buffer: Buffer, /) -> int:
        memory = exported(buffer, writable=True)
        self._check_readable()
        return await self._buffer.read_into(memory, once=True)

    @call
    async def readline(self, size: int | None = -1, /) -> bytes:
        limit = size_argument(size)
        if limit != 0:
            self._check_is_to_read()
        if self._descriptor.readable:
            self._descriptor.check_open()
        return await self._buffer.read_line(limit) if limit != 0 else b""

    @call
    async def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        most = size_argument(hint)
        self._descriptor.check_open()
        self._check_is_to_read()
        return await lines_until(most, partial(self._buffer.read_line, -1), self._descriptor)

    @call
    async def write(self, data: Buffer, /) -> int:
        return await self._write_one(data)

    @call
    async def writelines(self, lines: Iterable[Buffer], /) -> None:
        self._descriptor.check_open()
        await one_by_one(lines, self._write_one, self._descriptor)

    async def _write_one(self, data: Any) -> int:
        self._check_is_to_write()
        memory = exported(data, writable=False)
        self._descriptor.check_open()
        return await self._buffer.write(memory)

    @call
    async def seek(self, target: int, whence: int = os.SEEK_SET, /) -> int:
        whence = operator.index(whence)
        self._descriptor.check_open()
        if whence not in (0, 1, 2, getattr(os, "SEEK_DATA", 0), getattr(os, "SEEK_HOLE", 0)):
            raise ValueError(f"whence value {whence} unsupported")
        self._check_seekable()
        return await self._buffer.seek(operator.index(target), whence)

    def _check_seekable(self) -> None:
        if not self._descriptor.is_seekable():
            raise io.UnsupportedOperation("File or stream is not seekable.")

    @call
    async def tell(self) -> int:
        self._descriptor.check_open()
        return self._buffer.tell()

    @call
    async def truncate(self, size: int | None = None, /) -> int:
        self._descriptor.check_open()
        if not self._descriptor.writable:
            unsupported("truncate")
        await self._buffer.flush_and_rewind()
        if size is None:
            size = os.lseek(self._descriptor.fd, 0, os.SEEK_CUR)
        size = operator.index(size)
        await self._descriptor.truncate(size)
        return size


class BufferedReaderFile(BufferedFile):
    """A buffered binary file to read."""

    _model: type = io.BufferedReader

    @call
    async def peek(self, size: int = 0, /) -> bytes:
        """Bytes that come next, without moving on; at most one read."""
        operator.index(size)
        self._check_readable()
        return await self._buffer.peek()


class BufferedWriterFile(BufferedFile):
    """A buffered binary file to write."""

    _model: type = io.BufferedWriter


class BufferedRandomFile(BufferedReaderFile):
    """A buffered binary file to read and write."""

    _model: type = io.BufferedRandom


def default_buffer_size(descriptor: Descriptor) -> int:
    """What `open` takes when it is not told."""
    size = descriptor.blksize
    if sys.version_info >= (3, 14):
        return max(min(size, 8192 * 1024), io.DEFAULT_BUFFER_SIZE)
    return size if size > 1 else io.DEFAULT_BUFFER_SIZE
