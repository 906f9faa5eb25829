"""Accepting and connecting: as on stock Trio. See `stock_cases`."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from .stock_cases import (
    Compare,
)
from .support import (
    DATAGRAM_KINDS,
    KINDS,
    Pair,
    attempt,
)

pytestmark = pytest.mark.filterwarnings("ignore:received malformed:RuntimeWarning")


async def listen(family: int, address: Any) -> Any:
    listener = trio.socket.socket(family)
    await listener.bind(address)
    listener.listen()
    return listener


def shape(sock: Any) -> tuple[Any, ...]:
    """What an accepted socket is."""
    return (
        type(sock).__name__,
        type(sock._sock).__name__,
        sock.family,
        sock.type,
        sock.proto,
        sock._sock.getblocking(),
        sock._sock.gettimeout(),
        sock.get_inheritable(),
        sock.did_shutdown_SHUT_WR,
    )


@pytest.mark.parametrize("ready", [True, False], ids=["ready", "waiting"])
def test_accepted_sockets(ready: bool, same_as_stock: Compare, tmp_path: Any) -> None:
    async def main() -> Any:
        found = []
        for number, (family, address) in enumerate(
            [
                (stdlib_socket.AF_INET, ("127.0.0.1", 0)),
                *([(stdlib_socket.AF_INET6, ("::1", 0))] if "tcp6" in KINDS else []),
                (stdlib_socket.AF_UNIX, None),
                (stdlib_socket.AF_UNIX, b"\0trio-lio-test-abstract"),
            ]
        ):
            if address is None:
                address = str(tmp_path / f"{os.urandom(4).hex()}")
            listener = await listen(family, address)
            client = trio.socket.socket(family)
            with listener, client:
                async with trio.open_nursery() as nursery:

                    async def accept(number: int = number, listener: Any = listener) -> None:
                        sock, address = await listener.accept()
                        with sock:
                            assert address == client.getsockname()
                            peer = sock.getpeername() == client.getsockname()
                            found.append((number, shape(sock), peer, len(address)))

                    if not ready:
                        nursery.start_soon(accept)
                        await trio.testing.wait_all_tasks_blocked()
                    await client.connect(listener.getsockname())
                    assert client.getpeername() == listener.getsockname()
                    if ready:
                        nursery.start_soon(accept)
        return found

    assert len(same_as_stock(main)) >= 3


def test_accept_on_what_does_not_listen(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        return await attempt(pair.a.accept)

    found = same_on_each(case, KINDS)
    assert {result[0] for result in found.values()} == {"raised"}


def free_port(kind: int = stdlib_socket.SOCK_STREAM) -> int:
    with stdlib_socket.socket(stdlib_socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_connect_that_fails(same_as_stock: Compare, tmp_path: Any) -> None:
    port = free_port()
    (tmp_path / "file").touch()
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "not-listening"))
        inet, inet6, unix = stdlib_socket.AF_INET, stdlib_socket.AF_INET6, stdlib_socket.AF_UNIX
        stream, dgram = stdlib_socket.SOCK_STREAM, stdlib_socket.SOCK_DGRAM
        attempts = [
            (inet, stream, ("127.0.0.1", port)),
            (inet, stream, ("localhost", port)),
            (inet, stream, ("127.1", port)),
            (inet, stream, ("127.0.0.1", 0)),
            (inet, stream, ("127.0.0.1", 70_000)),
            (inet, stream, ("127.0.0.1", -1)),
            (inet, stream, ("127.0.0.1", "no-such-service")),
            (inet, stream, ("127.0.0.1", None)),
            (inet, stream, ("127.0.0.1", 1.5)),
            (inet, stream, (None, port)),
            (inet, stream, (5, port)),
            (inet, stream, ("255.255.255.255", port)),
            (inet, stream, ("<broadcast>", port)),
            (inet, stream, ("224.0.0.1", port)),
            (inet, stream, ("::1", port)),
            (inet, stream, ("127.0.0.1",)),
            (inet, stream, ("127.0.0.1", port, 0)),
            (inet, stream, ["127.0.0.1", port]),
            (inet, stream, "127.0.0.1"),
            (inet, stream, None),
            (inet, dgram, ("255.255.255.255", port)),
            (inet, dgram, ("127.0.0.1", port)),
            (inet6, stream, ("::1", port)),
            (inet6, stream, ("::1", port, 0, 0)),
            (inet6, stream, ("::1", port, 1 << 30, 0)),
            (inet6, stream, ("::1", port, 0, 12345)),
            (inet6, stream, ("fe80::1", port, 0, 12345)),
            (inet6, stream, ("127.0.0.1", port)),
            (unix, stream, str(tmp_path / "missing")),
            (unix, stream, str(tmp_path / "not-listening")),
            (unix, stream, tmp_path / "not-listening"),
            (unix, stream, str(tmp_path / "not-listening").encode()),
            (unix, stream, str(tmp_path / "file")),
            (unix, stream, str(tmp_path)),
            (unix, stream, "/" + "x" * 200),
            (unix, stream, ""),
            (unix, stream, b"\0nobody-listens-here"),
            (unix, dgram, str(tmp_path / "not-listening")),
            (unix, stream, "with\0nul"),
            (unix, stream, 5),
            (unix, stream, ("127.0.0.1", port)),
        ]

        async def main() -> list[Any]:
            found = []
            for family, kind, address in attempts:
                if family == inet6 and "tcp6" not in KINDS:
                    continue
                with trio.socket.socket(family, kind) as sock:
                    outcome = await attempt(sock.connect, address)
                    # A failed connect leaves the socket open, on stock Trio too.
                    found.append((address, outcome, sock.fileno() >= 0))
            return found

        found = same_as_stock(main)
    assert found[0][1][1] == "ConnectionRefusedError"
    assert found[0][1][2].endswith(
        f"Error connecting to ('127.0.0.1', {port}): Connection refused"
    )


def test_connect_twice(run: Callable[..., Any]) -> None:
    """The second call tells the truth: on stock Trio it once says that it has connected."""

    async def main() -> None:
        with await listen(stdlib_socket.AF_INET, ("127.0.0.1", 0)) as listener:
            to = listener.getsockname()
            with trio.socket.socket() as sock:
                assert await attempt(sock.connect, to) == ("returned", None)
                second = await attempt(sock.connect, to)
                assert second == ("returned", None) or second[3] == errno.EISCONN
                third = await attempt(sock.connect, to)
                assert third[3] == errno.EISCONN

    run(main)


def test_connect_of_sockets_in_other_states(same_as_stock: Compare) -> None:
    async def main() -> list[Any]:
        with await listen(stdlib_socket.AF_INET, ("127.0.0.1", 0)) as listener:
            to = listener.getsockname()
            found = []
            with trio.socket.socket() as sock:
                await sock.connect(to)
                found.append(await attempt(sock.accept))
            found.append(await attempt(listener.connect, to))
            return [(*outcome[:2], *outcome[3:]) for outcome in found]

    found = same_as_stock(main)
    assert found[0][0] == found[1][0] == "raised"


def test_connect_again_after_a_refusal(run: Callable[..., Any]) -> None:
    """Stock Trio's next call says ECONNABORTED, and the one after that connects."""

    async def main() -> None:
        port = free_port()
        with trio.socket.socket() as sock:
            refused = await attempt(sock.connect, ("127.0.0.1", port))
            assert refused[1] == "ConnectionRefusedError"
            with await listen(stdlib_socket.AF_INET, ("127.0.0.1", port)) as listener:
                if (await attempt(sock.connect, ("127.0.0.1", port)))[0] == "raised":
                    await sock.connect(("127.0.0.1", port))
                with (await listener.accept())[0] as peer:
                    await sock.send(b"x")
                    assert await peer.recv(10) == b"x"

    run(main)


def test_datagram_sockets_change_their_peer(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        with trio.socket.socket(pair.a.family, pair.a.type) as sock:
            found = []
            for peer in pair.a, pair.b, pair.a:
                found.append(await attempt(sock.connect, peer.getsockname()))
                if found[-1][0] == "returned":
                    found.append(sock.getpeername())
            return found

    same_on_each(case, DATAGRAM_KINDS)


def test_unix_connect_to_a_full_backlog(run: Callable[..., Any]) -> None:
    """A UNIX socket has no connect in progress. Stock Trio returns as if it were connected."""

    async def main() -> list[Any]:
        with stdlib_socket.socket(stdlib_socket.AF_UNIX) as server:
            server.bind(b"\0trio-lio-full-backlog")
            server.listen(0)
            socks = [trio.socket.socket(stdlib_socket.AF_UNIX) for _ in range(3)]
            found = []
            for sock in socks:
                found.append(await attempt(sock.connect, server.getsockname()))
                connected = found[-1] == ("returned", None)
                assert connected == (await attempt(sock.send, b"x") == ("returned", 1))
                sock.close()
            return found

    found = run(main)
    assert found[0] == ("returned", None)
    assert found[-1][1] == "BlockingIOError"
