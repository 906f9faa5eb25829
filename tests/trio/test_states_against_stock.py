"""Sockets in a state that is wrong: as on stock Trio. See `stock_cases`."""

from __future__ import annotations

import os
import socket as stdlib_socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from .stock_cases import (
    DATA,
    Compare,
    filled,
    filled_many,
    simple,
)
from .support import (
    KINDS,
    STREAM_KINDS,
    Pair,
    attempt,
)

pytestmark = pytest.mark.filterwarnings("ignore:received malformed:RuntimeWarning")

ANY_CALL: dict[str, Callable[[Any], Any]] = {
    "recv": simple("recv", 10),
    "recv 0": simple("recv", 0),
    "recv own buffer": simple("recv", 100_000),
    "recv_into": filled("recv_into", lambda: bytearray(10)),
    "recvfrom": simple("recvfrom", 10),
    "recvfrom_into": filled("recvfrom_into", lambda: bytearray(10)),
    "recvmsg": simple("recvmsg", 10, 10),
    "recvmsg_into": filled_many([10]),
    "send": simple("send", DATA),
    "send nothing": simple("send", b""),
    "sendto": simple("sendto", DATA, ("127.0.0.1", 9)),
    "sendto path": simple("sendto", DATA, "@nowhere"),
    "sendmsg": simple("sendmsg", [DATA]),
    "sendmsg to": simple("sendmsg", [DATA], [], 0, ("127.0.0.1", 9)),
    "accept": simple("accept"),
    "connect": simple("connect", ("127.0.0.1", 9)),
    "connect 6": simple("connect", ("::1", 9)),
    "connect path": simple("connect", "/nonexistent/path"),
    "wait_writable": simple("wait_writable"),
}


@pytest.mark.parametrize("name", ANY_CALL)
def test_closed_socket(name: str, same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        pair.a.close()
        return await attempt(ANY_CALL[name], pair.a), repr(pair.a), pair.a.fileno()

    # On stock Trio, only the first wait for a descriptor of -1 says what is wrong.
    kinds = KINDS[:1] if name == "wait_writable" else KINDS
    found = same_on_each(case, kinds)
    if name != "recv 0":
        assert {result[0][0] for result in found.values()} == {"raised"}


@pytest.mark.parametrize("name", ANY_CALL)
def test_new_socket(name: str, backend: str, same_on_each: Compare) -> None:
    """Neither bound, connected nor listening."""
    if (name, backend) == ("wait_writable", "kqueue"):
        pytest.skip("an unconnected stream is hung up to Linux, and not writable to kqueue")

    async def case(pair: Pair) -> Any:
        with trio.socket.socket(pair.a.family, pair.a.type) as sock:
            return await attempt(ANY_CALL[name], sock)

    same_on_each(case, KINDS)


@pytest.mark.parametrize("name", ANY_CALL)
def test_connected_socket_with_its_peer_gone(name: str, same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        pair.b.close()
        return await attempt(ANY_CALL[name], pair.a), await attempt(ANY_CALL[name], pair.a)

    same_on_each(case, KINDS)


@pytest.mark.parametrize("name", ANY_CALL)
@pytest.mark.parametrize("how", ["SHUT_RD", "SHUT_WR", "SHUT_RDWR"])
def test_socket_that_is_shut_down(how: str, name: str, same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        pair.a.shutdown(getattr(stdlib_socket, how))
        return await attempt(ANY_CALL[name], pair.a)

    same_on_each(case, [*STREAM_KINDS, "unix_seqpacket"])


@pytest.mark.parametrize(
    "name", ["recv", "recv_into", "recvfrom", "recvmsg", "send", "sendmsg"]
)
def test_connection_that_was_reset(name: str, same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        linger = struct.pack("ii", 1, 0)
        pair.b.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, linger)
        pair.b.close()
        return await attempt(ANY_CALL[name], pair.a), await attempt(ANY_CALL[name], pair.a)

    found = same_on_each(case, ["tcp4"])
    assert found["tcp4"][0][1] in ("ConnectionResetError", "BrokenPipeError")


def test_reset_while_waiting(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        found = []
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                found.append(await attempt(pair.a.recv, 10))

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            linger = struct.pack("ii", 1, 0)
            pair.b.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, linger)
            pair.b.close()
        return found

    found = same_on_each(case, ["tcp4"])
    assert found["tcp4"][0][1] == "ConnectionResetError"


def test_refused_datagram(same_on_each: Compare) -> None:
    """The ICMP error of an earlier datagram, at the next call."""

    async def case(pair: Pair) -> Any:
        pair.b.close()
        found = [await attempt(pair.a.send, DATA)]
        await trio.sleep(0.05)
        found.append(await attempt(pair.a.recv, 10))
        found.append(await attempt(pair.a.send, DATA))
        return found

    found = same_on_each(case, ["udp4", "udp6"] if "udp6" in KINDS else ["udp4"])
    assert found["udp4"][1][1] == "ConnectionRefusedError"


# -- what does not go through operations -----------------------------------------------


def test_everything_else_of_a_socket(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        a = pair.a
        found: list[Any] = [
            a.family, a.type, a.proto, a.getsockname(), a.getpeername(),
            a.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_ERROR),
            a.get_inheritable(), a.did_shutdown_SHUT_WR, a.is_readable(),
            isinstance(a, trio.socket.SocketType), type(a._sock) is stdlib_socket.socket,
        ]  # fmt: skip
        await pair.b.send(DATA)
        found.append(a.is_readable())
        with a.dup() as copy:
            found.append(await copy.recv(4))
            found.append(copy.fileno() != a.fileno())
        a.set_inheritable(True)
        found.append(a.get_inheritable())
        found.append(await attempt(a.wait_writable))
        found.append(repr(a).startswith(f"<trio.socket.socket fd={a.fileno()}, family="))
        if pair.kind in STREAM_KINDS:
            a.shutdown(stdlib_socket.SHUT_WR)
            found.append((a.did_shutdown_SHUT_WR, await attempt(a.send, b"x")))
        fd = a.detach()
        found.append((a.fileno(), await attempt(a.recv, 1)))
        os.close(fd)
        a.close()
        return found

    same_on_each(case, KINDS)
