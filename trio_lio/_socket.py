"""trio.socket on operations.

These functions take the place of methods of Trio's own socket class while trio-lio is in
use. Each one starts an operation if the task's run is a lio run, and is Trio's method
otherwise. Trio's method is also taken for whatever is out of the ordinary (unusual flags,
wrong arguments, stand-ins for sockets): it tries the system call and waits for readiness, and
readiness is an operation too. So every error and every oddity is Trio's own.

Each method is a checkpoint: it parks on its operation, and a task that is cancelled already
has its operation taken back before it was handed over.
"""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from . import _address, _control
from ._inner import begin_receive as _begin_receive
from ._inner import begin_receive_from as _begin_receive_from
from ._inner import begin_send as _begin_send
from ._inner import begin_send_to as _begin_send_to
from ._inner import family_of, type_of
from ._kinds import (
    KIND_ACCEPT,
    KIND_OTHER,
    KIND_POLL_READ,
    KIND_RECEIVE,
    KIND_RECEIVE_FROM,
    KIND_RECEIVE_FROM_INTO,
    KIND_RECEIVE_FROM_OWN,
    KIND_RECEIVE_INTO,
    KIND_RECEIVE_MESSAGE,
    KIND_RECEIVE_MESSAGE_INTO,
    KIND_RECEIVE_MESSAGE_OWN,
    KIND_RECEIVE_OWN,
    KIND_SEND_ALL,
    KIND_WRITE,
)
from ._manager import EXCLUSIVE, LARGE_MIN, LioIOManager
from ._native import ffi, lib
from ._replaced import Replaced
from ._trio_compat import SocketType, run_context, socket_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

NULL = ffi.NULL
_await_data, _send_all = lib.lio_py_await_data, lib.lio_py_send_all
_RECV, _SEND = lib.LIO_RECV, lib.LIO_SEND
_EAGAIN = -errno.EAGAIN
_STREAM = int(stdlib_socket.SOCK_STREAM)
_AF_INET = int(stdlib_socket.AF_INET)

# What a completed receive or send means the same with. MSG_WAITALL, MSG_TRUNC, MSG_ERRQUEUE,
# MSG_OOB and MSG_DONTWAIT say something about *when* a call returns, or about buffers.
# Plain numbers: the complement of an enum of flags has no bit that the enum does not know.
_RECEIVE_FLAGS = int(stdlib_socket.MSG_PEEK) | int(
    getattr(stdlib_socket, "MSG_CMSG_CLOEXEC", 0)
)
_SEND_FLAGS = int(getattr(stdlib_socket, "MSG_NOSIGNAL", 0)) | int(
    getattr(stdlib_socket, "MSG_MORE", 0)
)
_SIZE_MAX = 0x7FFFFFFF

# After a large receive, so many may be small before it counts no longer.
LARGE_FOR = 4
LARGE_AT_FIRST = 0
# Memory for as much is allocated each time, however much comes.
_IN_PLACE_MAX = 1 << 20

_IOV_MAX = 1024
_AF_UNIX = getattr(stdlib_socket, "AF_UNIX", None)
_ADDRESS_FAMILIES = {stdlib_socket.AF_INET, stdlib_socket.AF_INET6, _AF_UNIX}

# Errors that a non-blocking connect reports later, by SO_ERROR; Trio names the address there.
_LATE_CONNECT_ERRORS = {
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
}


def manager_of(self: Any) -> LioIOManager | None:
    """The manager of this lio run, if operations can be used on this socket."""
    try:
        manager: LioIOManager = run_context.runner.io_manager
    except AttributeError:
        return None
    if type(manager) is not LioIOManager:
        return None
    if self._lio_manager is not manager:
        if not manager.adopt(self._sock):
            return None
        self._lio_manager = manager
    return manager


def start(
    manager: LioIOManager,
    kind: int,
    opcode: int,
    fd: int,
    buffer: Any,
    length: int,
    flags: int,
    keep: Any,
) -> Any:
    """Queues an operation on a buffer; ``keep`` stays alive until it completed."""
    op = manager.take(kind)
    op.keep = keep
    return manager.push(op, opcode, fd, buffer, length, flags)


def start_receive(manager: LioIOManager, fd: int, size: int) -> Any:
    """Queues a receive from the pool: ``await`` what this returns."""
    return manager.push(manager.take(KIND_RECEIVE), _RECV, fd, NULL, size)


def start_send_all(manager: LioIOManager, fd: int, data: Any) -> Any:
    """Queues a send of all of it, which keeps the data as long as the kernel may read them."""
    memory = data if type(data) is bytes else ffi.from_buffer(memoryview(data))
    op = manager.take(KIND_SEND_ALL)
    op.keep = memory
    op.want = length = len(memory)
    code = _send_all(manager.handle, op.id, fd, memory, length)
    if code < 0:
        again = partial(_send_all, manager.handle, op.id, fd, memory, length)
        return manager.push_again(op, code, again)
    op.task = run_context.task
    if code != 0:
        manager.hand_over()
    return op


def _writable(buffer: Any, nbytes: Any) -> tuple[Any, int] | None:
    """The memory to receive into; None when Trio's method has to say what is wrong."""
    if type(nbytes) is not int or nbytes < 0:
        return None
    try:
        memory = ffi.from_buffer(buffer, require_writable=True)
    except (TypeError, ValueError, BufferError):
        return None
    length = nbytes or len(memory)
    return (memory, length) if 0 < length <= len(memory) else None


def _readable(data: Any) -> tuple[Any, int] | None:
    if type(data) is bytes:
        return data, len(data)
    try:
        memory = ffi.from_buffer(data)
    except (TypeError, ValueError, BufferError):
        return None
    return memory, len(memory)


def note_large(self: Any, size: int) -> None:
    """After a receive of ``size`` bytes, `LARGE_MIN` or more."""
    manager = self._lio_manager
    if manager is not None and size >= manager.large and type_of(self._sock) == _STREAM:
        self._lio_large = LARGE_FOR


async def receive_in_place(self: Any, manager: LioIOManager, fd: int, buflen: int) -> Any:
    """Waits for data, then receives them into their own bytes.

    For sockets of which one of the last receives was large (``_lio_large`` counts down). As it
    waits before it takes anything, a cancellation loses nothing.
    """
    buflen = min(buflen, _IN_PLACE_MAX)
    while True:
        op = manager.take(KIND_POLL_READ)
        code = _await_data(manager.handle, op.id, fd)
        if code == 0:
            op.task = run_context.task
        else:
            op = manager.push_again(op, code, partial(_await_data, manager.handle, op.id, fd))
        result = await op
        if type(result) is not int:
            return result.unwrap()
        if lib.lio_still_adopted(manager.handle, fd) != 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            data = self._sock.recv(buflen)
        except BlockingIOError:  # somebody else has taken them, or there were none
            lib.lio_received(manager.handle, fd, buflen, _EAGAIN)
            continue
        size = len(data)
        self._lio_large = LARGE_FOR if size >= manager.large else self._lio_large - 1
        if size < buflen:
            lib.lio_received(manager.handle, fd, buflen, size)
        return data


@trio.lowlevel.enable_ki_protection
async def recv(self: Any, buflen: int, flags: int = 0, /) -> bytes:
    usual = type(flags) is int and not flags and buflen is not None
    op = _begin_receive(self, buflen) if usual else None
    if op is None:
        manager = manager_of(self)
        fd = self._sock.fileno()
        if (
            manager is None
            or fd < 0
            or type(buflen) is not int
            or not 0 < buflen <= _SIZE_MAX
            or (flags != 0 and (type(flags) is not int or flags & ~_RECEIVE_FLAGS))
        ):
            return await trio_method["recv"](self, buflen, flags)  # type: ignore[no-any-return]
        if self._lio_large and flags == 0:
            return await receive_in_place(self, manager, fd, buflen)  # type: ignore[no-any-return]
        if buflen > manager.receive_max and type_of(self._sock) != _STREAM:
            # A datagram must not be cut: it gets a buffer of the size asked for.
            memory = ffi.new("char[]", buflen)
            op = start(manager, KIND_RECEIVE_OWN, _RECV, fd, memory, buflen, flags, memory)
        else:
            op = manager.push(manager.take(KIND_RECEIVE), _RECV, fd, NULL, buflen, flags)
    result = await op
    if type(result) is not bytes:
        return result.unwrap()  # type: ignore[no-any-return]
    if len(result) >= LARGE_MIN:
        note_large(self, len(result))
    return result


@trio.lowlevel.enable_ki_protection
async def recv_into(self: Any, /, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
    manager = manager_of(self)
    fd = self._sock.fileno()
    target = None
    if (
        manager is None
        or fd < 0
        or type(flags) is not int
        or flags & ~_RECEIVE_FLAGS
        or (target := _writable(buffer, nbytes)) is None
    ):
        return await trio_method["recv_into"](self, buffer, nbytes, flags)  # type: ignore[no-any-return]
    memory, length = target
    op = start(manager, KIND_RECEIVE_INTO, _RECV, fd, memory, length, flags, memory)
    del target, memory
    result = await op
    return result if type(result) is int else result.unwrap()


@trio.lowlevel.enable_ki_protection
async def recvfrom(self: Any, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
    if type(flags) is int and not flags:
        op = _begin_receive_from(self, bufsize)
        if op is not None:
            result = await op
            return result if type(result) is tuple else result.unwrap()
    manager = manager_of(self)
    fd = self._sock.fileno()
    if (
        manager is None
        or fd < 0
        or type(bufsize) is not int
        or not 0 < bufsize <= _SIZE_MAX
        or type(flags) is not int
        or flags & ~_RECEIVE_FLAGS
    ):
        return await trio_method["recvfrom"](self, bufsize, flags)  # type: ignore[no-any-return]
    kind, memory = KIND_RECEIVE_FROM, NULL
    if bufsize > manager.receive_max and type_of(self._sock) != _STREAM:
        kind, memory = KIND_RECEIVE_FROM_OWN, ffi.new("char[]", bufsize)
    result = await start(manager, kind, lib.LIO_RECVFROM, fd, memory, bufsize, flags, memory)
    return result if type(result) is tuple else result.unwrap()


@trio.lowlevel.enable_ki_protection
async def recvfrom_into(
    self: Any, /, buffer: Buffer, nbytes: int = 0, flags: int = 0
) -> tuple[int, Any]:
    manager = manager_of(self)
    fd = self._sock.fileno()
    target = None
    if (
        manager is None
        or fd < 0
        or type(flags) is not int
        or flags & ~_RECEIVE_FLAGS
        or (target := _writable(buffer, nbytes)) is None
    ):
        return await trio_method["recvfrom_into"](self, buffer, nbytes, flags)  # type: ignore[no-any-return]
    memory, length = target
    op = start(
        manager, KIND_RECEIVE_FROM_INTO, lib.LIO_RECVFROM, fd, memory, length, flags, memory
    )
    del target, memory
    result = await op
    return result if type(result) is tuple else result.unwrap()


def _listed(items: Any) -> Any:
    """A list of the items; what is not iterable as it is, for Trio's method to refuse."""
    try:
        found = iter(items)
    except Exception:
        return items
    return list(found)  # what a generator raises is the caller's


def _iovecs(memories: list[Any]) -> Any:
    iov = ffi.new("lio_iovec[]", max(len(memories), 1))
    for entry, memory in zip(iov, memories, strict=False):
        entry.base = ffi.cast("void *", memory)
        entry.len = len(memory)
    return iov


def _message(
    manager: LioIOManager, kind: int, opcode: int, fd: int, flags: int, control: Any
) -> tuple[Any, Any]:
    op = manager.take(kind)
    native = ffi.new("lio_op *")
    native.opcode = opcode
    native.fd = fd
    native.flags = flags
    native.op_flags = EXCLUSIVE
    if control is not None:
        native.control = ffi.cast("void *", control)
        native.control_len = len(control)
        op.control = control
    return op, native


def _ancillary(size: int) -> Any:
    return ffi.new("char[]", size) if size else None


@trio.lowlevel.enable_ki_protection
async def recvmsg(
    self: Any, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
    manager = manager_of(self)
    fd = self._sock.fileno()
    if (
        manager is None
        or fd < 0
        or not (type(bufsize) is type(ancbufsize) is type(flags) is int)
        or not 0 < bufsize <= _SIZE_MAX
        or not 0 <= ancbufsize <= _SIZE_MAX
        or flags & ~_RECEIVE_FLAGS
    ):
        return await trio_method["recvmsg"](self, bufsize, ancbufsize, flags)  # type: ignore[no-any-return]
    control = _ancillary(ancbufsize)
    if bufsize > manager.receive_max and type_of(self._sock) != _STREAM:
        memory = ffi.new("char[]", bufsize)
        iov = _iovecs([memory])
        op, native = _message(
            manager, KIND_RECEIVE_MESSAGE_OWN, lib.LIO_RECVMSG, fd, flags, control
        )
        native.buf, native.len = iov, 1
        op.keep = (memory, iov)
    else:
        op, native = _message(
            manager, KIND_RECEIVE_MESSAGE, lib.LIO_RECVMSG, fd, flags, control
        )
        native.buf_len = bufsize
    result = await manager.push_struct(op, native)
    return result if type(result) is tuple else result.unwrap()


@trio.lowlevel.enable_ki_protection
async def recvmsg_into(
    self: Any, buffers: Iterable[Buffer], ancbufsize: int = 0, flags: int = 0, /
) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
    manager = manager_of(self)
    fd = self._sock.fileno()
    buffers = _listed(buffers)
    targets = [_writable(buffer, 0) for buffer in buffers] if type(buffers) is list else []
    if (
        manager is None
        or fd < 0
        or not (type(ancbufsize) is type(flags) is int)
        or not targets
        or len(targets) > _IOV_MAX
        or None in targets
        or not 0 <= ancbufsize <= _SIZE_MAX
        or flags & ~_RECEIVE_FLAGS
    ):
        return await trio_method["recvmsg_into"](self, buffers, ancbufsize, flags)  # type: ignore[no-any-return]
    memories = [target[0] for target in targets if target is not None]
    iov = _iovecs(memories)
    control = _ancillary(ancbufsize)
    op, native = _message(
        manager, KIND_RECEIVE_MESSAGE_INTO, lib.LIO_RECVMSG, fd, flags, control
    )
    native.buf, native.len = iov, len(memories)
    op.keep = (iov, memories)
    op = manager.push_struct(op, native)
    del iov, memories, targets
    result = await op
    return result if type(result) is tuple else result.unwrap()


@trio.lowlevel.enable_ki_protection
async def send(self: Any, data: Buffer, flags: int = 0, /) -> int:
    if type(flags) is int and not flags:
        op = _begin_send(self, data)
        if op is not None:
            result = await op
            return result if type(result) is int else result.unwrap()
    manager = manager_of(self)
    fd = self._sock.fileno()
    if (
        manager is None
        or fd < 0
        or (flags != 0 and (type(flags) is not int or flags & ~_SEND_FLAGS))
        or (source := _readable(data)) is None
    ):
        return await trio_method["send"](self, data, flags)  # type: ignore[no-any-return]
    memory, length = source
    op = start(manager, KIND_WRITE, _SEND, fd, memory, length, flags, memory)
    del source, memory
    result = await op
    return result if type(result) is int else result.unwrap()


@trio.lowlevel.enable_ki_protection
async def sendto(self: Any, *args: Any) -> int:
    op = _begin_send_to(self, *args)
    if op is not None:
        result = await op
        return result if type(result) is int else result.unwrap()
    manager = manager_of(self)
    source = _readable(args[0]) if 2 <= len(args) <= 3 else None
    flags = args[1] if len(args) == 3 else 0
    if (
        manager is None
        or source is None
        or type(flags) is not int
        or flags & ~_SEND_FLAGS
        or (family := family_of(self._sock)) not in _ADDRESS_FAMILIES
    ):
        return await trio_method["sendto"](self, *args)  # type: ignore[no-any-return]
    raw = None
    address = args[-1]
    if family == _AF_INET and type(address) is tuple and len(address) == 2:
        host, port = address
        if type(host) is str and type(port) is int:
            raw = _address.encode_numeric(host, port)
    if raw is None:
        address = await self._resolve_address_nocp(address, local=False)
        raw = _encoded(family, address)
    fd = self._sock.fileno()
    if raw is None or fd < 0:
        del source
        return await trio_method["sendto"](self, *args)  # type: ignore[no-any-return]
    memory, length = source
    op = manager.take(KIND_WRITE)
    op.keep = memory
    op = manager.push_address(op, lib.LIO_SENDTO, fd, raw, memory, length, flags)
    del source, memory
    result = await op
    return result if type(result) is int else result.unwrap()


def _encoded(family: int, address: Any) -> bytes | None:
    """The kernel's form of an address; None when Trio's method has to say what is wrong."""
    try:
        return _address.encode(family, address)
    except (OSError, OverflowError, TypeError, ValueError):
        return None


@trio.lowlevel.enable_ki_protection
async def sendmsg(
    self: Any,
    buffers: Iterable[Buffer],
    ancdata: Iterable[tuple[int, int, Buffer]] = (),
    flags: int = 0,
    address: Any = None,
    /,
) -> int:
    manager = manager_of(self)
    buffers, ancdata = _listed(buffers), _listed(ancdata)
    if type(buffers) is list and type(ancdata) is list:
        memories = [_contiguous(buffer) for buffer in buffers]
    else:
        memories = [None]
    if (
        manager is None
        or type(flags) is not int
        or flags & ~_SEND_FLAGS
        or None in memories
        or len(memories) > _IOV_MAX
        or (address is not None and self._sock.family not in _ADDRESS_FAMILIES)
    ):
        return await trio_method["sendmsg"](self, buffers, ancdata, flags, address)  # type: ignore[no-any-return]
    raw: bytes | None = b""
    if address is not None:
        resolved = await self._resolve_address_nocp(address, local=False)
        raw = _encoded(self._sock.family, resolved)
    try:
        control = ffi.from_buffer(_control.encode_control(ancdata)) if ancdata else None
    except (OSError, OverflowError, TypeError, ValueError):
        raw = None
    fd = self._sock.fileno()
    if raw is None or fd < 0:
        memories.clear()
        return await trio_method["sendmsg"](self, buffers, ancdata, flags, address)  # type: ignore[no-any-return]
    op, native = _message(manager, KIND_WRITE, lib.LIO_SENDMSG, fd, flags, control)
    iov = _iovecs(memories)
    native.buf, native.len = iov, len(memories)
    if raw:
        name = ffi.from_buffer(raw)
        native.addr, native.addr_len = name, len(raw)  # copied by the push
    op.keep = (iov, memories)
    op = manager.push_struct(op, native)
    del iov, memories, control
    result = await op
    return result if type(result) is int else result.unwrap()


def _contiguous(buffer: Any) -> Any:
    try:
        return ffi.from_buffer(buffer)
    except (TypeError, ValueError, BufferError):
        return None


@trio.lowlevel.enable_ki_protection
async def accept(self: Any) -> tuple[Any, Any]:
    manager = manager_of(self)
    fd = self._sock.fileno()
    if manager is None or fd < 0:
        return await trio_method["accept"](self)  # type: ignore[no-any-return]
    result = await start(manager, KIND_ACCEPT, lib.LIO_ACCEPT, fd, NULL, 0, 0, self._sock)
    if type(result) is not tuple:
        result = result.unwrap()
    sock, address = result
    return socket_module.from_stdlib_socket(sock), address


@trio.lowlevel.enable_ki_protection
async def connect(self: Any, address: Any) -> None:
    manager = manager_of(self)
    family = self._sock.family
    if manager is None or family not in _ADDRESS_FAMILIES:
        return await trio_method["connect"](self, address)  # type: ignore[no-any-return]
    try:
        resolved = await self._resolve_address_nocp(address, local=False)
        raw = _encoded(family, resolved)
        fd = self._sock.fileno()
        if raw is None or fd < 0:
            return await trio_method["connect"](self, address)  # type: ignore[no-any-return]
        result = await manager.push_address(manager.take(KIND_OTHER), lib.LIO_CONNECT, fd, raw)
        if type(result) is not int:
            result.unwrap()
    except trio.Cancelled:
        # As in Trio: what became of the connection is unknown, so nobody shall use it.
        close_quietly(self)
        raise
    except OSError as exc:
        if exc.errno in _LATE_CONNECT_ERRORS and family != _AF_UNIX:
            number = exc.errno
            raise OSError(
                number, f"Error connecting to {resolved!r}: {os.strerror(number)}"
            ) from None
        raise


@trio.lowlevel.enable_ki_protection
def close_quietly(self: Any) -> None:
    """Settles what is in flight on the socket, then closes it."""
    fd = self._sock.fileno()
    manager = manager_of(self)
    if manager is not None and fd >= 0:
        manager.notify_closing(fd)
    self._sock.close()


@trio.lowlevel.enable_ki_protection
def detach(self: Any) -> int:
    manager = manager_of(self)
    fd = self._sock.fileno()
    if manager is not None and fd >= 0:
        manager.notify_closing(fd)
    self._lio_manager = None
    return trio_method["detach"](self)  # type: ignore[no-any-return]


def __exit__(self: Any, *exc_info: object) -> None:
    close_quietly(self)


_OURS: dict[str, Callable[..., Any]] = {
    "recv": recv,
    "recv_into": recv_into,
    "recvfrom": recvfrom,
    "recvfrom_into": recvfrom_into,
    "recvmsg": recvmsg,
    "recvmsg_into": recvmsg_into,
    "send": send,
    "sendto": sendto,
    "sendmsg": sendmsg,
    "accept": accept,
    "connect": connect,
    "detach": detach,
    "__exit__": __exit__,
}
# Windows has no messages in the standard library, and so Trio has none there.
METHODS = Replaced(
    SocketType, {name: ours for name, ours in _OURS.items() if hasattr(SocketType, name)}
)
trio_method = METHODS.original


def put_in_place() -> None:
    """Replaces Trio's methods by ours."""
    METHODS.put_in_place()
    SocketType._lio_manager = None
    SocketType._lio_large = LARGE_AT_FIRST


def take_away() -> None:
    """Puts Trio's methods back."""
    METHODS.take_away()
    for name in ("_lio_manager", "_lio_large"):
        if name in vars(SocketType):
            delattr(SocketType, name)
