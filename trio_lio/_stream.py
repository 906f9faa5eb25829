"""trio.SocketStream's fast path: the two methods that carry the traffic, and a cheap end.

As with `_socket`, these take the place of Trio's methods while trio-lio is in use, and are
Trio's methods outside a lio run. Errors are translated where one happens, not by a context
manager around every call.
"""

from __future__ import annotations

from typing import Any

import trio

from ._inner import begin_receive as _begin_receive
from ._inner import begin_send_all as _begin_send_all
from ._manager import LARGE_MIN
from ._replaced import Replaced
from ._socket import (
    manager_of,
    note_large,
    receive_in_place,
    start_receive,
    start_send_all,
)
from ._trio_compat import (
    DEFAULT_RECEIVE_SIZE,
    SocketStream,
    SocketType,
    highlevel_socket,
)

_SIZE_MAX = 0x7FFFFFFF
# What a receive asks for when it is left to us, and large messages are what comes: each one
# costs a turn of the scheduler, and so does what is sent on account of it.
_LARGE_SIZE = 2 * DEFAULT_RECEIVE_SIZE


# Both methods have the usual case begun in C, where it can be.


@trio.lowlevel.enable_ki_protection
async def receive_some(self: Any, max_bytes: int | None = None) -> bytes:
    sock = self.socket
    op = _begin_receive(sock, max_bytes)
    if op is None:
        size = DEFAULT_RECEIVE_SIZE if max_bytes is None else max_bytes
        manager: Any = manager_of(sock) if type(sock) is SocketType else None
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
        op = start_receive(manager, fd, size)
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
        manager: Any = manager_of(sock) if type(sock) is SocketType else None
        if manager is None or sock._did_shutdown_SHUT_WR or detector._held or not data:
            return await trio_method["send_all"](self, data)  # type: ignore[no-any-return]
        fd = sock._sock.fileno()
        if fd < 0:
            return await trio_method["send_all"](self, data)  # type: ignore[no-any-return]
        detector._held = True
    try:
        if op is None:
            op = start_send_all(manager, fd, data)
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
