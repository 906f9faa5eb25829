"""trio.SocketStream's fast path: the two methods that carry the traffic, and a cheap end.

As with `_socket`, these take the place of Trio's methods while trio-lio is in use, and are
Trio's methods outside a lio run. Errors are translated where one happens, not by a context
manager around every call.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

from ._inner import begin_receive as _begin_receive
from ._inner import begin_send_all as _begin_send_all
from ._kinds import KIND_RECEIVE, KIND_SEND_ALL
from ._manager import LARGE_MIN
from ._native import ffi, lib
from ._replaced import Replaced
from ._socket import manager_of, note_large, receive_in_place
from ._trio_compat import (
    DEFAULT_RECEIVE_SIZE,
    SocketStream,
    SocketType,
    highlevel_socket,
    run_context,
)

_receive, _send = lib.lio_py_receive, lib.lio_py_send_all
_SIZE_MAX = 0x7FFFFFFF
# What a receive asks for when it is left to us, and large messages are what comes: each one
# costs a turn of the scheduler, and so does what is sent on account of it.
_LARGE_SIZE = 2 * DEFAULT_RECEIVE_SIZE


# Both methods have the usual case begun in C, where it can be. Otherwise they do first what
# `manager_of` and `LioIOManager.take` do in most cases, and look the thread's context up once:
# each call and each look would cost more than the core does.


@trio.lowlevel.enable_ki_protection
async def receive_some(self: Any, max_bytes: int | None = None) -> bytes:
    sock = self.socket
    op = _begin_receive(sock, max_bytes)
    if op is None:
        size = DEFAULT_RECEIVE_SIZE if max_bytes is None else max_bytes
        context = run_context.__dict__
        manager: Any = context["runner"].io_manager if "runner" in context else None
        if type(sock) is not SocketType:
            manager = None
        elif manager is None or sock._lio_manager is not manager:
            manager = manager_of(sock)
        if manager is None or type(size) is not int or not 0 < size <= _SIZE_MAX:
            return await trio_method["receive_some"](self, max_bytes)  # type: ignore[no-any-return]
        fd = sock._sock.fileno()
        if fd < 0:
            return await trio_method["receive_some"](self, max_bytes)  # type: ignore[no-any-return]
        if sock._lio_large:
            if max_bytes is None:
                size = _LARGE_SIZE
            try:
                return await receive_in_place(sock, manager, fd, size)  # type: ignore[no-any-return]
            except OSError:
                with highlevel_socket._translate_socket_errors_to_stream_errors():
                    raise
        free = manager.free
        op = free.pop() if free else manager.take(KIND_RECEIVE)
        op.kind = KIND_RECEIVE
        code = _receive(manager.handle, op.id, fd, size)
        if code == 0:
            op.task = context["task"]
        else:
            op = manager.push_again(
                op, code, partial(_receive, manager.handle, op.id, fd, size)
            )
    result = await op
    if type(result) is bytes:
        if len(result) >= LARGE_MIN:
            note_large(sock, len(result))
        return result
    with highlevel_socket._translate_socket_errors_to_stream_errors():
        return result.unwrap()  # type: ignore[no-any-return]


@trio.lowlevel.enable_ki_protection
async def send_all(self: Any, data: bytes | bytearray | memoryview) -> None:
    sock = self.socket
    detector = self._send_conflict_detector
    op = _begin_send_all(sock, data, detector)
    if op is None:
        context = run_context.__dict__
        manager: Any = context["runner"].io_manager if "runner" in context else None
        if type(sock) is not SocketType:
            manager = None
        elif manager is None or sock._lio_manager is not manager:
            manager = manager_of(sock)
        if manager is None or sock._did_shutdown_SHUT_WR or detector._held or not data:
            return await trio_method["send_all"](self, data)  # type: ignore[no-any-return]
        fd = sock._sock.fileno()
        if fd < 0:
            return await trio_method["send_all"](self, data)  # type: ignore[no-any-return]
        detector._held = True
    try:
        if op is None:
            memory = data if type(data) is bytes else ffi.from_buffer(memoryview(data))
            free = manager.free
            op = free.pop() if free else manager.take(KIND_SEND_ALL)
            op.kind = KIND_SEND_ALL
            op.keep = memory
            op.want = length = len(memory)
            code = _send(manager.handle, op.id, fd, memory, length)
            if code >= 0:
                op.task = context["task"]
                if code != 0:
                    manager.hand_over()
            else:
                op = manager.push_again(
                    op, code, partial(_send, manager.handle, op.id, fd, memory, length)
                )
            del memory  # the operation keeps it, as long as the kernel may read it
        result = await op
    finally:
        detector._held = False
    if type(result) is not int:
        with highlevel_socket._translate_socket_errors_to_stream_errors():
            result.unwrap()


async def aclose_forcefully(resource: trio.abc.AsyncResource) -> None:
    if type(resource) is SocketStream:
        # Its aclose waits for nothing: there is nothing that a cancelled scope would cut
        # short, and the scope costs more than the close.
        await resource.aclose()
    else:
        await trio_function["aclose_forcefully"](resource)


METHODS = Replaced(SocketStream, {"receive_some": receive_some, "send_all": send_all})
FUNCTIONS = Replaced(trio, {"aclose_forcefully": aclose_forcefully})
trio_method = METHODS.original
trio_function = FUNCTIONS.original
