"""trio.lowlevel.FdStream on operations: pipes, and so the pipes of processes.

As with `_socket`, these take the place of Trio's methods while trio-lio is in use, and are
Trio's methods outside a lio run. An operation is handed over with its push: the descriptor
belongs to the stream, but nothing keeps others from closing its number.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import Any

import trio

from ._descriptor import exported
from ._flight import unset_bytes
from ._kinds import KIND_RECEIVE_INTO, KIND_WRITE
from ._manager import LioIOManager, current_manager
from ._native import ffi, lib
from ._replaced import Replaced
from ._trio_compat import FdStream, must_not_begin, run_context

_RECEIVE_SIZE = 65536  # as Trio's default
_RECEIVE_MAX = 1024 * 1024  # the largest pipe that an ordinary user can have


def _manager_for(stream: Any, detector: Any) -> LioIOManager | None:
    """The manager, unless Trio's method has to say something about the call."""
    manager: LioIOManager | None = current_manager()
    if manager is None or not manager.files or detector._held or stream._fd_holder.fd < 0:
        return None
    return manager


def _transfer(manager: LioIOManager, kind: int, opcode: int, fd: int, memory: Any) -> Any:
    op = manager.take(kind)
    op.keep = memory
    push = partial(
        lib.lio_py_transfer, manager.handle, op.id, opcode, fd, memory, len(memory), 0
    )
    code = push()
    if code == 0:
        op.task = run_context.task
        return op
    return manager.push_again(op, code, push)


def _unwrap(result: Any) -> Any:
    """Raises what a stream raises for an error of its descriptor."""
    try:
        return result.unwrap()
    except OSError as exc:
        if exc.errno == errno.EBADF:
            raise trio.ClosedResourceError("file was already closed") from None
        raise trio.BrokenResourceError from exc


@trio.lowlevel.enable_ki_protection
async def receive_some(self: Any, max_bytes: int | None = None) -> bytes:
    detector = self._receive_conflict_detector
    manager = _manager_for(self, detector)
    size = _RECEIVE_SIZE if max_bytes is None else max_bytes
    if manager is None or type(size) is not int or size < 1:
        return await trio_method["receive_some"](self, max_bytes)  # type: ignore[no-any-return]
    if must_not_begin():
        await trio.lowlevel.checkpoint()
    detector._held = True
    try:
        size = min(size, _RECEIVE_MAX)
        data = unset_bytes(size)  # which nobody else has seen yet: it may be written to
        memory = ffi.from_buffer("char[]", data)
        result = await _transfer(
            manager, KIND_RECEIVE_INTO, lib.LIO_READ, self._fd_holder.fd, memory
        )
    finally:
        detector._held = False
    if type(result) is not int:
        result = _unwrap(result)
    return data if result == size else data[:result]


@trio.lowlevel.enable_ki_protection
async def send_all(self: Any, data: bytes | bytearray | memoryview) -> None:
    detector = self._send_conflict_detector
    manager = _manager_for(self, detector)
    if manager is None or not data:
        return await trio_method["send_all"](self, data)  # type: ignore[no-any-return]
    if must_not_begin():
        await trio.lowlevel.checkpoint()
    detector._held = True
    try:
        memory = exported(data, writable=False)
        length, sent = len(memory), 0
        while sent < length:
            fd = self._fd_holder.fd
            if fd < 0:
                raise trio.ClosedResourceError("file was already closed")
            result = await _transfer(
                manager, KIND_WRITE, lib.LIO_WRITE, fd, memory[sent:length]
            )
            sent += result if type(result) is int else _unwrap(result)
    finally:
        detector._held = False


METHODS = Replaced(FdStream, {"receive_some": receive_some, "send_all": send_all})
trio_method = METHODS.original
