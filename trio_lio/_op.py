"""`Op`: one operation, as a person writes it down and as `lio_push` wants it.

An `Op` is checked when it is made and names things only: descriptors, numbers, the caller's
buffers. What it costs to be in flight is taken at push (`trio_lio._flight`). That is why one
`Op` can be pushed any number of times.
"""

from __future__ import annotations

import enum
import errno
import math
import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import attrs

from . import _address
from ._control import encode_control
from ._native import ffi, lib

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

    Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

__all__ = ["FD_MAX", "LENGTH_MAX", "Op", "Ready", "checked_seconds", "export", "nanoseconds"]

LENGTH_MAX = 0x7FFFF000
"""The most bytes that one transfer moves (the kernel's ``MAX_RW_COUNT``)."""

IOVECS_MAX = 1024
FD_MAX = 2**31 - 1
OFFSET_MAX = 2**63 - 1
_UINT32_MAX = 2**32 - 1
_TIMEOUT_MAX_NS = 2**63 - 1
# Without these (macOS) the core makes sockets so by itself.
_SOCKET_FLAGS = int(getattr(socket, "SOCK_NONBLOCK", 0)) | int(
    getattr(socket, "SOCK_CLOEXEC", 0)
)
_AT_FDCWD = int(lib.LIO_PY_AT_FDCWD)
_NEW_FILE = int(getattr(os, "O_CLOEXEC", 0))


class Ready(enum.IntFlag):
    """What a poll found due."""

    READ = int(lib.LIO_POLL_READ)
    WRITE = int(lib.LIO_POLL_WRITE)


# -- arguments -------------------------------------------------------------------------


def _integer(value: Any, name: str) -> int:
    if isinstance(value, int):
        return int(value)
    try:
        return int(value.__index__())
    except AttributeError:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}") from None


def _within(value: Any, name: str, low: int, high: int) -> int:
    number = _integer(value, name)
    if not low <= number <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {number}")
    return number


def _descriptor(value: Any, name: str = "fd") -> int:
    if not isinstance(value, int):
        hint = "; give its fileno()" if hasattr(value, "fileno") else ""
        raise TypeError(f"{name} must be an int, not {type(value).__name__}{hint}")
    if value < 0:
        raise ValueError(f"{name} must be a file descriptor, not {value}: is it closed?")
    return _within(value, name, 0, FD_MAX)


def _directory(value: Any) -> int:
    return _AT_FDCWD if value is None else _descriptor(value, "dir_fd")


def _length(value: Any, name: str = "n") -> int:
    return _within(value, name, 0, LENGTH_MAX)


def _flags(value: Any, name: str = "flags") -> int:
    return _within(value, name, 0, _UINT32_MAX)


def _path(value: Any, name: str = "path") -> bytes:
    raw = os.fsencode(value)
    if b"\0" in raw:
        raise ValueError(f"{name} has a null byte in it: {value!r}")
    return raw


def _buffer(value: Any, *, writable: bool) -> Any:
    """The buffer, once it is known that it can be exported as an operation needs it."""
    ffi.release(export(value, writable=writable))
    return value


def export(value: Any, *, writable: bool) -> Any:
    """A C array over the bytes of a buffer, which stays exported until it is released."""
    if isinstance(value, str):
        raise TypeError("a bytes-like object is required, not 'str'")
    try:
        return ffi.from_buffer("char[]", value, require_writable=writable)
    except TypeError:
        name = type(value).__name__
        raise TypeError(f"a bytes-like object is required, not {name!r}") from None
    except BufferError as exc:
        if writable and memoryview(value).readonly:
            raise TypeError("a writable buffer is required, and this one is read-only") from exc
        raise ValueError(f"this buffer cannot be used: {exc}") from exc


def _buffers(values: Any, *, writable: bool) -> tuple[Any, ...]:
    if isinstance(values, (str, bytes, bytearray, memoryview)) or not isinstance(
        values, Iterable
    ):
        raise TypeError(
            f"an iterable of bytes-like objects is required, not {type(values).__name__}"
        )
    found = tuple(values)
    if len(found) > IOVECS_MAX:
        raise OSError(errno.EMSGSIZE, f"{len(found)} buffers, and {IOVECS_MAX} is the most")
    for value in found:
        _buffer(value, writable=writable)
    return found


def _family_of(address: Any) -> int:
    """The family that an address looks like."""
    if isinstance(address, tuple):
        host = address[0] if address else ""
        wide = len(address) > 2
        if isinstance(host, (bytes, bytearray)):
            wide = wide or b":" in host
        elif isinstance(host, str):
            wide = wide or ":" in host
        return int(socket.AF_INET6 if wide else socket.AF_INET)
    if isinstance(address, int) or address is None:
        raise TypeError(f"a socket address is required, not {type(address).__name__}")
    return int(getattr(socket, "AF_UNIX", -1))


def _sockaddr(address: Any, family: int | None) -> bytes:
    chosen = _family_of(address) if family is None else _integer(family, "family")
    return _address.encode(chosen, address)


def nanoseconds(seconds: Any) -> int:
    """A time-out in whole nanoseconds, rounded up; more than 292 years are 292 years.

    Raises:
      TypeError: not a number.
      ValueError: negative, or not a number in the other sense.
    """
    value = checked_seconds(seconds)
    if value is None or value >= _TIMEOUT_MAX_NS / 1e9:
        return _TIMEOUT_MAX_NS
    return -int(-value * 1e9 // 1)


def checked_seconds(seconds: Any) -> float | None:
    """A time-out as a float; `None` and infinity mean for ever."""
    if seconds is None:
        return None
    if isinstance(seconds, (str, bytes, bytearray)):
        raise TypeError(f"a time-out must be a number, not {type(seconds).__name__}")
    try:
        value = float(seconds)
    except TypeError:
        raise TypeError(
            f"a time-out must be a number of seconds or None, not {type(seconds).__name__}"
        ) from None
    except OverflowError:
        value = float("inf") if seconds > 0 else -1.0
    if math.isnan(value):
        raise ValueError("a time-out must not be NaN")
    if value < 0:
        raise ValueError(f"a time-out must not be negative: {seconds!r}")
    return None if value == float("inf") else value


# -- the operations ----------------------------------------------------------------------


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Op:
    """One operation, made by one of the functions below (``Op.recv(fd, 4096)``).

    An `Op` may be pushed several times, also while it is in flight. Descriptors are ints.
    Buffers are exported (a `bytearray` cannot be resized) from push to completion.

    Raises:
      TypeError, ValueError: an argument that no kernel would understand.
      OSError: an address that is none, too many buffers.
    """

    name: str
    opcode: int
    fd: int = 0
    fd2: int = 0
    buffers: tuple[Any, ...] = ()
    writable: bool = False
    vectored: bool = False
    receives: bool = False
    """Brings bytes, into memory that the backend provides."""
    pooled: bool = False
    length: int = 0
    offset: int = 0
    offset2: int = 0
    flags: int = 0
    op_flags: int = 0
    mode: int = 0
    address: bytes = b""
    paths: tuple[bytes, ...] = ()
    control: bytes = b""
    control_size: int = 0

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in attrs.fields(Op)
            if field.name
            not in ("name", "opcode", "writable", "vectored", "receives", "pooled")
            and getattr(self, field.name) != field.default
        ]
        return f"<Op.{self.name} {' '.join(shown)}>" if shown else f"<Op.{self.name}>"

    # -- nothing and time

    @classmethod
    def nop(cls) -> Self:
        """Does nothing. Result: 0."""
        return cls(name="nop", opcode=lib.LIO_NOP)

    @classmethod
    def timeout(cls, seconds: float | None) -> Self:
        """Completes once ``seconds`` have passed since the flush. Result: 0.

        `None` and infinity never complete, unless cancelled.
        """
        return cls(name="timeout", opcode=lib.LIO_TIMEOUT, offset=nanoseconds(seconds))

    # -- files and pipes

    @classmethod
    def read(cls, fd: int, buffer_or_n: int | Buffer) -> Self:
        """Reads at the file's own position, or from a pipe.

        Result: `bytes`, at most ``n``; or, given a writable buffer, the number of bytes that
        it has now. Empty or 0 at the end.
        """
        return cls._reading("read", lib.LIO_READ, fd, buffer_or_n, 0)

    @classmethod
    def read_at(cls, fd: int, buffer_or_n: int | Buffer, offset: int) -> Self:
        """Reads at an offset in bytes; the file's own position stays. Result: as `read`."""
        return cls._reading("read_at", lib.LIO_READ_AT, fd, buffer_or_n, offset)

    @classmethod
    def _reading(cls, name: str, opcode: int, fd: int, target: Any, offset: int) -> Self:
        where = _within(offset, "offset", 0, OFFSET_MAX)
        if isinstance(target, int):
            return cls(
                name=name,
                opcode=opcode,
                fd=_descriptor(fd),
                length=_length(target),
                receives=True,
                offset=where,
            )
        return cls(
            name=name,
            opcode=opcode,
            fd=_descriptor(fd),
            buffers=(_buffer(target, writable=True),),
            writable=True,
            offset=where,
        )

    @classmethod
    def write(cls, fd: int, data: Buffer) -> Self:
        """Writes at the file's own position, or to a pipe. Result: bytes written."""
        return cls(
            name="write",
            opcode=lib.LIO_WRITE,
            fd=_descriptor(fd),
            buffers=(_buffer(data, writable=False),),
        )

    @classmethod
    def write_at(cls, fd: int, data: Buffer, offset: int) -> Self:
        """Writes at an offset in bytes. Result: bytes written."""
        return cls(
            name="write_at",
            opcode=lib.LIO_WRITE_AT,
            fd=_descriptor(fd),
            buffers=(_buffer(data, writable=False),),
            offset=_within(offset, "offset", 0, OFFSET_MAX),
        )

    @classmethod
    def readv_at(cls, fd: int, buffers: Iterable[Buffer], offset: int) -> Self:
        """Reads at an offset into several writable buffers. Result: bytes read."""
        return cls(
            name="readv_at",
            opcode=lib.LIO_READV_AT,
            fd=_descriptor(fd),
            buffers=_buffers(buffers, writable=True),
            writable=True,
            vectored=True,
            offset=_within(offset, "offset", 0, OFFSET_MAX),
        )

    @classmethod
    def writev_at(cls, fd: int, buffers: Iterable[Buffer], offset: int) -> Self:
        """Writes several buffers at an offset. Result: bytes written."""
        return cls(
            name="writev_at",
            opcode=lib.LIO_WRITEV_AT,
            fd=_descriptor(fd),
            buffers=_buffers(buffers, writable=False),
            vectored=True,
            offset=_within(offset, "offset", 0, OFFSET_MAX),
        )

    # -- sockets: data

    @classmethod
    def recv(cls, fd: int, n: int, flags: int = 0) -> Self:
        """Receives at most ``n`` bytes. Result: `bytes`, empty at the end of a stream.

        Up to the size of a pool buffer (64 KiB) the memory is found when the data comes:
        waiting costs none.
        """
        return cls(
            name="recv",
            opcode=lib.LIO_RECV,
            fd=_descriptor(fd),
            length=_length(n),
            receives=True,
            pooled=True,
            flags=_flags(flags),
        )

    @classmethod
    def recv_into(cls, fd: int, buffer: Buffer, flags: int = 0) -> Self:
        """Receives into a writable buffer. Result: bytes received."""
        return cls._into("recv_into", lib.LIO_RECV, fd, buffer, flags)

    @classmethod
    def recvfrom(cls, fd: int, n: int, flags: int = 0) -> Self:
        """Receives a datagram of at most ``n`` bytes. Result: ``(bytes, address)``."""
        return cls(
            name="recvfrom",
            opcode=lib.LIO_RECVFROM,
            fd=_descriptor(fd),
            length=_length(n),
            receives=True,
            pooled=True,
            flags=_flags(flags),
        )

    @classmethod
    def recvfrom_into(cls, fd: int, buffer: Buffer, flags: int = 0) -> Self:
        """Receives a datagram into a writable buffer. Result: ``(bytes received, address)``."""
        return cls._into("recvfrom_into", lib.LIO_RECVFROM, fd, buffer, flags)

    @classmethod
    def _into(cls, name: str, opcode: int, fd: int, buffer: Any, flags: int) -> Self:
        return cls(
            name=name,
            opcode=opcode,
            fd=_descriptor(fd),
            buffers=(_buffer(buffer, writable=True),),
            writable=True,
            flags=_flags(flags),
        )

    @classmethod
    def recvmsg(cls, fd: int, n: int, ancbufsize: int = 0, flags: int = 0) -> Self:
        """Receives a message. Result: ``(bytes, ancdata, msg_flags, address)``, as
        `socket.socket.recvmsg`; ``ancbufsize`` is the room for ancillary data, in bytes."""
        return cls(
            name="recvmsg",
            opcode=lib.LIO_RECVMSG,
            fd=_descriptor(fd),
            length=_length(n),
            receives=True,
            pooled=True,
            control_size=_within(ancbufsize, "ancbufsize", 0, FD_MAX),
            flags=_flags(flags),
        )

    @classmethod
    def recvmsg_into(
        cls, fd: int, buffers: Iterable[Buffer], ancbufsize: int = 0, flags: int = 0
    ) -> Self:
        """Receives a message into several writable buffers. Result: ``(bytes received,
        ancdata, msg_flags, address)``, as `socket.socket.recvmsg_into`."""
        return cls(
            name="recvmsg_into",
            opcode=lib.LIO_RECVMSG,
            fd=_descriptor(fd),
            buffers=_buffers(buffers, writable=True),
            writable=True,
            vectored=True,
            control_size=_within(ancbufsize, "ancbufsize", 0, FD_MAX),
            flags=_flags(flags),
        )

    @classmethod
    def send(cls, fd: int, data: Buffer, flags: int = 0, *, all: bool = False) -> Self:  # noqa: A002
        """Sends. Result: bytes sent, which may be fewer.

        With ``all``, goes on until all is sent, an error, or a cancel: the result is then
        what was sent until then, however little. Sends on one socket leave in their order.
        """
        return cls(
            name="send",
            opcode=lib.LIO_SEND,
            fd=_descriptor(fd),
            buffers=(_buffer(data, writable=False),),
            flags=_flags(flags),
            op_flags=lib.LIO_OP_ALL if all else 0,
        )

    @classmethod
    def sendto(
        cls, fd: int, data: Buffer, address: Any, flags: int = 0, *, family: int | None = None
    ) -> Self:
        """Sends a datagram to an address. Result: bytes sent.

        ``family`` is told by the look of the address (an IPv6 host has a colon, a path is no
        tuple), unless given.
        """
        return cls(
            name="sendto",
            opcode=lib.LIO_SENDTO,
            fd=_descriptor(fd),
            buffers=(_buffer(data, writable=False),),
            flags=_flags(flags),
            address=_sockaddr(address, family),
        )

    @classmethod
    def sendmsg(
        cls,
        fd: int,
        buffers: Iterable[Buffer],
        ancdata: Iterable[tuple[int, int, Buffer]] = (),
        flags: int = 0,
        address: Any = None,
        *,
        family: int | None = None,
    ) -> Self:
        """Sends a message, as `socket.socket.sendmsg`. Result: bytes sent."""
        return cls(
            name="sendmsg",
            opcode=lib.LIO_SENDMSG,
            fd=_descriptor(fd),
            buffers=_buffers(buffers, writable=False),
            vectored=True,
            control=encode_control(ancdata),
            flags=_flags(flags),
            address=b"" if address is None else _sockaddr(address, family),
        )

    # -- sockets: life

    @classmethod
    def socket(cls, family: int, type: int, proto: int = 0) -> Self:  # noqa: A002
        """Makes a socket, non-blocking and close-on-exec. Result: its descriptor."""
        kind = _within(type, "type", 0, FD_MAX)
        return cls(
            name="socket",
            opcode=lib.LIO_SOCKET,
            fd=_within(family, "family", 0, FD_MAX),
            flags=kind | _SOCKET_FLAGS,
            offset=_within(proto, "proto", 0, FD_MAX),
        )

    @classmethod
    def bind(cls, fd: int, address: Any, *, family: int | None = None) -> Self:
        """Gives a socket its address. Result: 0. ``family``: as for `sendto`."""
        return cls(
            name="bind",
            opcode=lib.LIO_BIND,
            fd=_descriptor(fd),
            address=_sockaddr(address, family),
        )

    @classmethod
    def listen(cls, fd: int, backlog: int = 128) -> Self:
        """Makes a socket accept connections. Result: 0."""
        return cls(
            name="listen",
            opcode=lib.LIO_LISTEN,
            fd=_descriptor(fd),
            length=_within(backlog, "backlog", 0, FD_MAX),
        )

    @classmethod
    def accept(cls, fd: int) -> Self:
        """Takes a connection. Result: ``(fd, address)``; the descriptor is non-blocking and
        close-on-exec, and the caller's to close."""
        return cls(name="accept", opcode=lib.LIO_ACCEPT, fd=_descriptor(fd))

    @classmethod
    def connect(cls, fd: int, address: Any, *, family: int | None = None) -> Self:
        """Connects a socket. Result: 0. ``family``: as for `sendto`."""
        return cls(
            name="connect",
            opcode=lib.LIO_CONNECT,
            fd=_descriptor(fd),
            address=_sockaddr(address, family),
        )

    @classmethod
    def shutdown(cls, fd: int, how: int) -> Self:
        """Ends reading, writing or both (``socket.SHUT_*``). Result: 0."""
        return cls(
            name="shutdown",
            opcode=lib.LIO_SHUTDOWN,
            fd=_descriptor(fd),
            flags=_flags(how, "how"),
        )

    @classmethod
    def poll(cls, fd: int, *, readable: bool = False, writable: bool = False) -> Self:
        """Waits until a descriptor is readable or writable. Result: `Ready`.

        A hang-up or an error makes it both.
        """
        mask = (Ready.READ if readable else 0) | (Ready.WRITE if writable else 0)
        if not mask:
            raise ValueError("say what to wait for: readable=True, writable=True or both")
        return cls(name="poll", opcode=lib.LIO_POLL, fd=_descriptor(fd), flags=int(mask))

    # -- names and descriptors

    @classmethod
    def openat(
        cls, path: Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> Self:
        """Opens a file, close-on-exec. Result: its descriptor.

        ``flags``: ``os.O_*``. A relative path begins at ``dir_fd``, or where we are.
        """
        return cls(
            name="openat",
            opcode=lib.LIO_OPENAT,
            fd=_directory(dir_fd),
            paths=(_path(path),),
            flags=_flags(flags) | _NEW_FILE,
            mode=_within(mode, "mode", 0, 0o7777),
        )

    @classmethod
    def close(cls, fd: int) -> Self:
        """Closes a descriptor that no operation is using. Result: 0.

        For one in use there is `IoBackend.close_fd`.
        """
        return cls(name="close", opcode=lib.LIO_CLOSE, fd=_descriptor(fd))

    @classmethod
    def fsync(cls, fd: int) -> Self:
        """Puts a file's data and metadata on the disk. Result: 0."""
        return cls(name="fsync", opcode=lib.LIO_FSYNC, fd=_descriptor(fd))

    @classmethod
    def fdatasync(cls, fd: int) -> Self:
        """Puts a file's data on the disk. Result: 0."""
        return cls(name="fdatasync", opcode=lib.LIO_FDATASYNC, fd=_descriptor(fd))

    @classmethod
    def truncate(cls, fd: int, length: int) -> Self:
        """Sets the size of an open file, in bytes. Result: 0."""
        return cls(
            name="truncate",
            opcode=lib.LIO_TRUNCATE,
            fd=_descriptor(fd),
            offset=_within(length, "length", 0, OFFSET_MAX),
        )

    @classmethod
    def statx(
        cls, path: Path, flags: int = 0, mask: int = 0x7FF, *, dir_fd: int | None = None
    ) -> Self:
        """Looks at a file. Result: `os.stat_result`.

        ``flags``, by their numbers on Linux: ``AT_SYMLINK_NOFOLLOW`` (0x100);
        ``AT_EMPTY_PATH`` (0x1000) with an empty path looks at ``dir_fd`` itself; elsewhere
        they are the platform's. ``mask``: ``STATX_*``, all that `os.stat` has.
        """
        return cls(
            name="statx",
            opcode=lib.LIO_STATX,
            fd=_directory(dir_fd),
            paths=(_path(path),),
            flags=_flags(flags),
            mode=_flags(mask, "mask"),
        )

    @classmethod
    def linkat(
        cls,
        source: Path,
        target: Path,
        flags: int = 0,
        *,
        source_dir_fd: int | None = None,
        target_dir_fd: int | None = None,
    ) -> Self:
        """Gives a file a second name. Result: 0."""
        return cls._two_paths(
            "linkat", lib.LIO_LINKAT, source, target, flags, source_dir_fd, target_dir_fd
        )

    @classmethod
    def renameat(
        cls,
        source: Path,
        target: Path,
        flags: int = 0,
        *,
        source_dir_fd: int | None = None,
        target_dir_fd: int | None = None,
    ) -> Self:
        """Renames a file, replacing ``target`` unless the flag RENAME_NOREPLACE (1) is set.
        Result: 0."""
        return cls._two_paths(
            "renameat", lib.LIO_RENAMEAT, source, target, flags, source_dir_fd, target_dir_fd
        )

    @classmethod
    def _two_paths(
        cls,
        name: str,
        opcode: int,
        source: Path,
        target: Path,
        flags: int,
        source_dir_fd: int | None,
        target_dir_fd: int | None,
    ) -> Self:
        return cls(
            name=name,
            opcode=opcode,
            fd=_directory(source_dir_fd),
            fd2=_directory(target_dir_fd),
            paths=(_path(source, "source"), _path(target, "target")),
            flags=_flags(flags),
        )

    @classmethod
    def symlinkat(cls, target: Path, link: Path, *, dir_fd: int | None = None) -> Self:
        """Makes ``link`` a symbolic link to ``target``. Result: 0."""
        return cls(
            name="symlinkat",
            opcode=lib.LIO_SYMLINKAT,
            fd=_directory(dir_fd),
            paths=(_path(target, "target"), _path(link, "link")),
        )

    @classmethod
    def unlinkat(cls, path: Path, flags: int = 0, *, dir_fd: int | None = None) -> Self:
        """Removes a name; with the flag AT_REMOVEDIR (0x200) a directory. Result: 0."""
        return cls(
            name="unlinkat",
            opcode=lib.LIO_UNLINKAT,
            fd=_directory(dir_fd),
            paths=(_path(path),),
            flags=_flags(flags),
        )

    @classmethod
    def mkdirat(cls, path: Path, mode: int = 0o777, *, dir_fd: int | None = None) -> Self:
        """Makes a directory. Result: 0."""
        return cls(
            name="mkdirat",
            opcode=lib.LIO_MKDIRAT,
            fd=_directory(dir_fd),
            paths=(_path(path),),
            mode=_within(mode, "mode", 0, 0o7777),
        )

    # -- pipes

    @classmethod
    def tee(cls, fd_in: int, fd_out: int, n: int, flags: int = 0) -> Self:
        """Copies from one pipe to another and leaves the data there. Result: bytes."""
        return cls(
            name="tee",
            opcode=lib.LIO_TEE,
            fd=_descriptor(fd_in, "fd_in"),
            fd2=_descriptor(fd_out, "fd_out"),
            length=_length(n),
            flags=_flags(flags),
        )

    @classmethod
    def splice(
        cls,
        fd_in: int,
        fd_out: int,
        n: int,
        offset_in: int | None = None,
        offset_out: int | None = None,
        flags: int = 0,
    ) -> Self:
        """Moves bytes between two descriptors, one of them a pipe. Result: bytes, 0 at the
        end. `None` is the descriptor's own position, and the only offset of a pipe."""

        def offset(value: int | None, name: str) -> int:
            return -1 if value is None else _within(value, name, 0, OFFSET_MAX)

        return cls(
            name="splice",
            opcode=lib.LIO_SPLICE,
            fd=_descriptor(fd_in, "fd_in"),
            fd2=_descriptor(fd_out, "fd_out"),
            length=_length(n),
            offset=offset(offset_in, "offset_in"),
            offset2=offset(offset_out, "offset_out"),
            flags=_flags(flags),
        )
