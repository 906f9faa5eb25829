"""Text files, over the buffer of `_file_buffered`.

Decoding and encoding are done by the codecs that the standard library uses, line endings by
its `io.IncrementalNewlineDecoder`, in the same portions. A portion is decoded at once, and
lines are handed out from it.

A position in a text file is a number that only the file understands: where in the bytes the
last portion began, in what state the decoder was, and how much of it was read. Making such a
number is left to an `io.TextIOWrapper` over the bytes of that portion.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import operator
import os
import struct
import types
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import attrs
import trio

from ._descriptor import exported, size_argument
from ._file_buffered import FileBuffer, real_buffered
from ._file_raw import AsyncFile, call, lines_until, one_by_one, unsupported
from ._trio_compat import SCHEDULE_POINT, must_not_begin

if TYPE_CHECKING:
    from collections.abc import Iterable


def _sends_first() -> bool:
    """What `io.TextIOWrapper` does with text that would make too much of what is pending: up to
    Python 3.13 it sends that before, from 3.14 on both together."""
    sent = io.BytesIO()
    with io.TextIOWrapper(sent, encoding="latin-1") as text:
        text._CHUNK_SIZE = 3  # type: ignore[attr-defined]
        text.write("ab")
        text.write("cd")
        return sent.getvalue() == b"ab"


_SENDS_FIRST = _sends_first()


def _taken_apart(cookie: int) -> tuple[int, int, int, int, int]:
    """What `io.TextIOWrapper` puts into a position: a byte to start from, the decoder's flags,
    and how many bytes it is to be fed and characters to be skipped, perhaps at the end."""
    try:
        raw = cookie.to_bytes(21, "little")
    except OverflowError:
        raise OverflowError("int too big to convert") from None
    return struct.unpack("<qiiiB", raw)


@attrs.frozen
class _Portion:
    """Where the decoded text comes from."""

    flags: int
    """The decoder's state before it."""
    kept: bytes
    """What the decoder had kept of the portion before."""
    data: bytes


class TextFile(AsyncFile):
    """A text file."""

    _model: type = io.TextIOWrapper
    _CHUNK_SIZE = 8192  # bytes; as io.TextIOWrapper has it

    def __init__(
        self, buffer: FileBuffer, mode: str, template: io.TextIOWrapper, newline: str | None
    ) -> None:
        """``template`` has the encoding, the errors and the line buffering."""
        super().__init__(buffer.descriptor)
        self._buffer = buffer
        self._mode = mode
        self._newline = newline
        self.encoding: str = template.encoding
        self.errors: str | None = template.errors
        self.line_buffering: bool = template.line_buffering
        self._text = ""
        self._used = 0
        self._portion: _Portion | None = None
        self._held: list[tuple[str, _Portion]] | None = None
        self._ratio = 0.0  # bytes for a character, lately
        self._unsent: list[bytes] = []
        self._unsent_size = 0
        self._decoder, self._encoder = self._codecs()

    def _codecs(self) -> tuple[Any, Any]:
        codec = codecs.lookup(self.encoding)
        decoder = encoder = None
        if self._descriptor.readable and codec.incrementaldecoder is not None:
            decoder = codec.incrementaldecoder(self.errors or "strict")
            if self._newline in (None, ""):
                decoder = io.IncrementalNewlineDecoder(decoder, self._newline is None)  # type: ignore[assignment]
        if self._descriptor.writable and codec.incrementalencoder is not None:
            encoder = codec.incrementalencoder(self.errors or "strict")
            if self._descriptor.is_seekable() and self._buffer.tell() != 0:
                encoder.setstate(0)  # no byte order mark in the middle
        return decoder, encoder

    @property
    def mode(self) -> str:
        return self._mode

    @property
    def newlines(self) -> Any:
        return getattr(self._decoder, "newlines", None)

    # -- the standard library's own

    def _real(self) -> Any:
        descriptor, cookie = self._descriptor, None
        if self._portion is not None:
            if descriptor.is_seekable():
                cookie = self._position(self._buffer.tell())
            elif self._used < len(self._text) or self._decoder.getstate()[0]:
                raise io.UnsupportedOperation(
                    "text was read ahead from a pipe, and cannot be given to another file "
                    "object: ask for .wrapped, .buffer or .detach before reading"
                )
        model: type = io.BufferedReader
        if descriptor.writable:
            model = io.BufferedRandom if descriptor.readable else io.BufferedWriter
        binary = real_buffered(self, self._buffer, model)
        real = io.TextIOWrapper(
            binary, self.encoding, self.errors, self._newline, self.line_buffering
        )
        real.mode = self._mode  # type: ignore[misc]
        if cookie is not None:
            real.seek(cookie)
        if self._unsent:
            binary.write(b"".join(self._unsent))
        return real

    # -- checks

    def _check_readable(self) -> None:
        self._descriptor.check_open()
        if self._decoder is None:
            unsupported("not readable")

    def _check_writable(self) -> None:
        self._descriptor.check_open()
        if self._encoder is None:
            unsupported("not writable")

    def _check_seekable(self) -> None:
        self._descriptor.check_open()
        if not self._descriptor.is_seekable():
            unsupported("underlying stream is not seekable")

    # -- reading

    def _forget(self) -> None:
        """What was decoded is no longer where we are."""
        self._text, self._used, self._portion = "", 0, None

    async def _decode_more(self, characters: int = 0) -> bool:
        """Decodes the next portion, in place of the last. False: that was the end."""
        kept, flags = self._decoder.getstate()
        size = max(self._CHUNK_SIZE, int(max(self._ratio, 1.0) * characters))
        data = await self._buffer.read1(size)
        text = self._decoder.decode(data, not data)
        if self._held is not None and self._portion is not None:
            self._held.append((self._text, self._portion))
        self._text, self._used = text, 0
        self._ratio = len(data) / len(text) if text else 0.0
        self._portion = _Portion(flags, kept, data)
        return bool(data or text)

    async def _through(self, read: Callable[..., Any], *args: Any) -> Any:
        """A call that may need several portions holds those that it has left behind, until it
        is through. Cancelled, it goes back to where it began; all are one portion then."""
        self._held, used = [], self._used
        try:
            return await read(*args)
        except trio.Cancelled:
            held = self._held
            if held and self._portion is not None:
                held.append((self._text, self._portion))
                first = held[0][1]
                data = b"".join([portion.data for _, portion in held])
                self._portion = _Portion(first.flags, first.kept, data)
                self._text = "".join([text for text, _ in held])
            self._used = used
            raise
        finally:
            self._held = None

    async def _read(self, size: int) -> str:
        await self._send()
        if size < 0:
            data = await self._buffer.read(-1)
            text: str = self._text[self._used :] + self._decoder.decode(data, True)
            self._forget()
            return text
        if size <= len(self._text) - self._used:
            self._used += size
            return self._text[self._used - size : self._used]
        return await self._through(self._read_on, size)  # type: ignore[no-any-return]

    async def _read_on(self, size: int) -> str:
        parts: list[str] = []
        while True:
            part = self._text[self._used : self._used + size]
            parts.append(part)
            self._used += len(part)
            size -= len(part)
            if size == 0 or not await self._decode_more(size):
                return "".join(parts)

    def _find_end(self, text: str, start: int) -> int:
        """Where the line that begins at ``start`` ends; -1: not in this text."""
        if self._newline != "":
            ending = self._newline or "\n"
            at = text.find(ending, start)
            return at + len(ending) if at >= 0 else -1
        feed, carriage = text.find("\n", start), text.find("\r", start)
        if carriage < 0 or 0 <= feed < carriage:
            return feed + 1 if feed >= 0 else -1
        return carriage + 2 if feed == carriage + 1 else carriage + 1

    async def _read_line(self, limit: int = -1) -> str:
        await self._send()
        end = self._find_end(self._text, self._used)
        if end >= 0 and (limit < 0 or end - self._used <= limit):
            start, self._used = self._used, end
            return self._text[start:end]
        return await self._through(self._read_line_on, limit)  # type: ignore[no-any-return]

    async def _read_line_on(self, limit: int) -> str:
        parts: list[str] = []
        length = 0
        rest = ""  # of a line ending that may go on in the next portion
        while True:
            while self._used == len(self._text):
                if not await self._decode_more():
                    self._forget()
                    return "".join([*parts, rest])
            text, start, moved = self._text, self._used, 0
            if rest:
                text, start, moved = rest + text[start:], 0, start - len(rest)
            end = self._find_end(text, start)
            found = end >= 0
            if not found:
                split = self._newline == "\r\n" and text[-1] == "\r"
                end = len(text) - split
            if 0 <= limit <= end - start + length:
                end, found = start + limit - length, True
            parts.append(text[start:end])
            if found:
                self._used = end + moved
                return "".join(parts)
            length += end - start
            rest = text[end:]
            self._used = len(self._text)

    @call
    async def read(self, size: int | None = -1, /) -> str:
        number = size_argument(size)
        self._check_readable()
        return await self._read(number)

    @call
    async def readline(self, size: int = -1, /) -> str:
        limit = operator.index(size)
        self._descriptor.check_open()
        await self._send()
        self._check_readable()
        return await self._read_line(limit)

    @call
    async def readlines(self, hint: int | None = -1, /) -> list[str]:
        wanted = size_argument(hint)
        self._descriptor.check_open()
        await self._send()
        self._check_readable()
        return await lines_until(wanted, self._read_line, self._descriptor)

    @trio.lowlevel.enable_ki_protection
    @types.coroutine
    def __anext__(self) -> Generator[Any, Any, str]:
        # The usual case: the line is there already. It costs a checkpoint all the same, and
        # little else: no coroutine within another.
        mine = self.__dict__
        descriptor = mine.get("_descriptor")
        if (
            descriptor is not None
            and not descriptor.busy
            and mine["_newline"] is None
            and not mine["_unsent_size"]
            and not must_not_begin()
        ):
            start = mine["_used"]
            end = mine["_text"].find("\n", start) + 1
            if end:
                line: str = mine["_text"][start:end]
                mine["_used"] = end
                yield SCHEDULE_POINT
                return line
        following: str = yield from self.readline().__await__()
        if following:
            return following
        raise StopAsyncIteration

    # -- writing

    def _is_unwritten(self) -> bool:
        return bool(self._unsent) or self._buffer.unwritten()

    async def _send(self) -> None:
        """Gives to the buffer what was encoded. Fails as a whole."""
        if self._unsent:
            data = b"".join(self._unsent)
            await self._buffer.write(exported(data, writable=False))
            self._unsent, self._unsent_size = [], 0

    async def _send_last(self, data: bytes, state: int) -> None:
        """As `_send`; should it fail, the last piece was not taken."""
        try:
            await self._send()
        except Exception:
            self._unsent.pop()
            self._unsent_size -= len(data)
            self._encoder.setstate(state)
            raise

    async def _flush(self) -> None:
        self._descriptor.check_open()
        await self._send()
        if self._descriptor.writable:
            await self._buffer.flush_and_rewind()

    async def _write(self, text: Any) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._check_writable()
        length = len(text)
        translated = self._newline != ""
        has_feed = (translated or self.line_buffering) and "\n" in text
        flushes = self.line_buffering and (has_feed or "\r" in text)
        if has_feed and translated and self._newline not in (None, "\n"):
            text = text.replace("\n", self._newline)
        state = self._encoder.getstate()
        data = self._encoder.encode(text)
        if _SENDS_FIRST and self._unsent_size + len(data) > self._CHUNK_SIZE:
            try:
                await self._send()
            except BaseException:
                self._encoder.setstate(state)
                raise
        self._unsent.append(data)
        self._unsent_size += len(data)
        # Now it is ours: cancelled, it goes with the next flush.
        with contextlib.suppress(trio.Cancelled):
            if self._unsent_size >= self._CHUNK_SIZE or flushes:
                await self._send_last(data, state)
            if flushes:
                await self._buffer.flush_and_rewind()
        if self._portion is not None:
            self._forget()
        if self._decoder is not None:
            self._decoder.reset()
        return length

    @call
    async def write(self, text: str, /) -> int:
        return await self._write(text)

    @call
    async def writelines(self, lines: Iterable[str], /) -> None:
        self._descriptor.check_open()
        await one_by_one(lines, self._write, self._descriptor)

    # -- moving about

    def _position(self, after: int) -> int:
        """The number for where we are; ``after``: the byte where the last portion ends."""
        portion = self._portion
        if portion is None:
            return after
        source = portion.kept + portion.data
        start = after - len(source)
        if self._used == 0:
            return start | portion.flags << 64
        # One byte before it, because the start of a stream is something special.
        replay = io.TextIOWrapper(
            io.BytesIO(b"\0" + source), self.encoding, self.errors, self._newline
        )
        replay._CHUNK_SIZE = len(source) + 1  # type: ignore[attr-defined]
        replay.seek(1 | portion.flags << 64)
        replay.read(self._used)
        return replay.tell() + start - 1

    async def _tell(self) -> int:
        self._check_seekable()
        await self._flush()
        return self._position(self._buffer.tell())

    @call
    async def tell(self) -> int:
        """A number that `seek` understands."""
        return await self._tell()

    @call
    async def seek(self, cookie: int, whence: int = os.SEEK_SET, /) -> int:
        whence = operator.index(whence)
        self._check_seekable()
        if whence == os.SEEK_CUR:
            if cookie != 0:
                unsupported("can't do nonzero cur-relative seeks")
            cookie = await self._tell()
        elif whence == os.SEEK_END:
            if cookie != 0:
                unsupported("can't do nonzero end-relative seeks")
            return await self._seek_end()
        elif whence != os.SEEK_SET:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        cookie = operator.index(cookie)
        if cookie < 0:
            raise ValueError(f"negative seek position {cookie}")
        await self._flush()
        return await self._seek_to(cookie)

    async def _seek_end(self) -> int:
        await self._flush()
        position = await self._buffer.seek(0, os.SEEK_END)
        self._forget()
        if self._decoder is not None:
            self._decoder.reset()
        self._start_encoder(position == 0)
        return position

    def _start_encoder(self, at_start: bool) -> None:
        if self._encoder is not None:
            if at_start:
                self._encoder.reset()
            else:
                self._encoder.setstate(0)

    async def _seek_to(self, cookie: int) -> int:
        start, flags, feed, skip, eof = _taken_apart(cookie)
        await self._buffer.seek(start, os.SEEK_SET)
        self._forget()
        if self._decoder is not None:
            if start == 0 and flags == 0:
                self._decoder.reset()
            else:
                self._decoder.setstate((b"", flags))
        if skip and self._decoder is not None:
            data = await self._buffer.read(feed)
            text = self._decoder.decode(data, bool(eof))
            self._text, self._portion = text, _Portion(flags, b"", data)
            if len(text) < skip:
                raise OSError("can't restore logical file position")
            self._used = skip
        elif self._decoder is not None:
            self._portion = _Portion(flags, b"", b"")
        self._start_encoder(start == 0 and flags == 0)
        return cookie

    @call
    async def truncate(self, size: int | None = None, /) -> int:
        self._descriptor.check_open()
        await self._flush()
        if not self._descriptor.writable:
            unsupported("truncate")
        if size is None:
            size = self._buffer.tell()
        size = operator.index(size)
        await self._buffer.flush_and_rewind()
        await self._descriptor.truncate(size)
        return size
