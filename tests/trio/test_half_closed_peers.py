"""A peer that has shut down its side and goes on reading, slowly.

Such a socket is "hung up" for whoever polls it: for ever ready, and yet full.
"""

from __future__ import annotations

import socket as stdlib_socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from ..common import pattern
from .support import cpu, receive_exactly, statistics, stdlib_tcp_pair, tcp_pair

Run = Callable[..., Any]

DATA = pattern(5_000_000)


def half_closed(kind: str) -> tuple[Any, Any]:
    """Our socket and its peer, which has sent its end."""
    a, b = stdlib_tcp_pair() if kind == "tcp" else stdlib_socket.socketpair()
    if kind == "tcp":
        b.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, 100_000)
        a.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, 100_000)
    b.shutdown(stdlib_socket.SHUT_WR)
    return trio.socket.from_stdlib_socket(a), trio.socket.from_stdlib_socket(b)


async def read_slowly(sock: Any, total: int, pauses: int) -> bytes:
    got = bytearray()
    for _ in range(pauses):
        await trio.sleep(0.02)
        got += await receive_exactly(sock, total // pauses // 2)
    return bytes(got) + await receive_exactly(sock, total - len(got))


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("how", ["send_all", "send", "wait_writable"])
def test_send_to_a_half_closed_peer_that_reads_slowly(how: str, kind: str, run: Run) -> None:
    async def main() -> None:
        a, b = half_closed(kind)
        with a, b:
            assert await a.recv(10) == b""

            async def send() -> None:
                if how == "send_all":
                    await trio.SocketStream(a).send_all(DATA)
                    return
                rest = memoryview(DATA)
                while rest:
                    if how == "wait_writable":
                        await a.wait_writable()
                        try:
                            rest = rest[a._sock.send(rest) :]
                        except BlockingIOError:
                            continue
                    else:
                        rest = rest[await a.send(rest) :]

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                assert await read_slowly(b, len(DATA), 10) == DATA

    run(main)


def test_waiting_for_a_half_closed_peer_is_no_busy_loop(run: Run) -> None:
    async def main() -> None:
        pairs = [half_closed(kind) for kind in ("tcp", "unix") for _ in range(5)]
        async with trio.open_nursery() as nursery:
            for a, _ in pairs:
                nursery.start_soon(trio.SocketStream(a).send_all, DATA)
            await trio.sleep(0.1)
            before, at = statistics(), cpu()
            await trio.sleep(0.5)
            after = statistics()
            assert after.syscalls - before.syscalls < 100
            assert cpu() - at < 0.25
            assert after.operations_in_flight >= 10
            nursery.cancel_scope.cancel()
        for a, b in pairs:
            a.close()
            b.close()

    run(main)


def test_fifty_half_closed_peers_beside_other_traffic(run: Run) -> None:
    async def main() -> None:
        part = DATA[:1_000_000]
        pairs = [half_closed("tcp" if number % 2 else "unix") for number in range(50)]
        trips = 0
        x, y = tcp_pair()

        async def traffic() -> None:
            nonlocal trips
            while True:
                await x.send(b"ping")
                assert await y.recv(10) == b"ping"
                trips += 1
                await trio.sleep(0)

        async def finish(a: Any, b: Any) -> None:
            got = await read_slowly(b, len(part), 5)
            assert got == part

        async with trio.open_nursery() as outer:
            outer.start_soon(traffic)
            async with trio.open_nursery() as nursery:
                for a, b in pairs:
                    nursery.start_soon(trio.SocketStream(a).send_all, part)
                    nursery.start_soon(finish, a, b)
            assert trips > 3  # beside, not after
            outer.cancel_scope.cancel()
        for sock in (x, y, *(sock for pair in pairs for sock in pair)):
            sock.close()

    run(main)


def test_half_closed_peer_goes_away_while_we_wait(run: Run) -> None:
    async def main() -> None:
        for kind in ("tcp", "unix"):
            for how in ("close", "cancel", "close ours"):
                a, b = half_closed(kind)
                outcome = []

                async def send(a: Any = a, outcome: list[str] = outcome) -> None:
                    try:
                        await trio.SocketStream(a).send_all(DATA)
                    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                        outcome.append(type(exc).__name__)

                with a, b:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(send)
                        await trio.sleep(0.02)
                        assert outcome == []
                        if how == "close":
                            b.close()
                        elif how == "close ours":
                            a.close()
                        else:
                            nursery.cancel_scope.cancel()
                expected = {
                    "close": ["BrokenResourceError"],
                    "close ours": ["ClosedResourceError"],
                    "cancel": [],
                }
                assert outcome == expected[how]

    run(main)


def test_send_to_a_peer_that_half_closes_while_we_wait(run: Run) -> None:
    async def main() -> None:
        for kind in ("tcp", "unix"):
            a, b = tcp_pair() if kind == "tcp" else trio.socket.socketpair()
            with a, b:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.SocketStream(a).send_all, DATA)
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    b.shutdown(stdlib_socket.SHUT_WR)
                    assert await a.recv(10) == b""
                    assert await read_slowly(b, len(DATA), 5) == DATA

    run(main)
