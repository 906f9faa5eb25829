"""anyio's socket streams on operations: the two methods that carry the traffic.

As with `_stream`, these take the place of anyio's methods while trio-lio is in use, and are
anyio's methods outside a lio run and for whatever is out of the ordinary. They apply to every
stream that anyio makes on Trio: TCP, UNIX, and TLS above them.
"""

from __future__ import annotations

import socket as stdlib_socket
from typing import Any

import trio

from . import _install
from ._anyio_compat import EndOfStream, SocketStream, check
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
from ._trio_compat import SocketType

_STREAM = stdlib_socket.SOCK_STREAM
_SIZE_MAX = 0x7FFFFFFF


@trio.lowlevel.enable_ki_protection
async def receive(self: Any, max_bytes: int = 65536) -> bytes:
    sock = self._trio_socket
    guard = self._receive_guard
    usual = not guard._guarded and max_bytes is not None
    op = _begin_receive(sock, max_bytes) if usual else None
    if op is None:
        manager: Any = manager_of(sock) if type(sock) is SocketType else None
        if (
            manager is None
            or guard._guarded
            or type(max_bytes) is not int
            or not 0 < max_bytes <= _SIZE_MAX
            # A message of a seqpacket socket must not be cut.
            or (max_bytes > manager.receive_max and sock._sock.type != _STREAM)
            or (fd := sock._sock.fileno()) < 0
        ):
            return await anyio_method["receive"](self, max_bytes)  # type: ignore[no-any-return]
    guard._guarded = True
    try:
        if op is None and sock._lio_large:
            result = await receive_in_place(sock, manager, fd, max_bytes)
        else:
            if op is None:
                op = start_receive(manager, fd, max_bytes)
            result = await op
            if type(result) is not bytes:
                result.unwrap()
            if len(result) >= LARGE_MIN:
                note_large(sock, len(result))
    except BaseException as exc:
        self._convert_socket_error(exc)
    finally:
        guard._guarded = False
    if result:
        return result  # type: ignore[no-any-return]
    raise EndOfStream


@trio.lowlevel.enable_ki_protection
async def send(self: Any, item: bytes | bytearray) -> None:
    sock = self._trio_socket
    guard = self._send_guard
    op = None if guard._guarded else _begin_send_all(sock, item, None)
    if op is None:
        manager: Any = manager_of(sock) if type(sock) is SocketType else None
        if (
            manager is None
            or guard._guarded
            or not (type(item) is bytes or type(item) is bytearray)
            or not item
            or (fd := sock._sock.fileno()) < 0
        ):
            return await anyio_method["send"](self, item)  # type: ignore[no-any-return]
    guard._guarded = True
    try:
        if op is None:
            op = start_send_all(manager, fd, item)
        result = await op
        if type(result) is not int:
            result.unwrap()
    except BaseException as exc:
        self._convert_socket_error(exc)
    finally:
        guard._guarded = False


check()
METHODS = Replaced(SocketStream, {"receive": receive, "send": send})
anyio_method = METHODS.original
_install.add_layer(METHODS)
