"""Large receives wait for data first, then receive into their own bytes: see `_socket`."""

from __future__ import annotations

import random
import socket as stdlib_socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from trio_lio import _manager, _socket

from ..common import pattern, take_now
from .support import PATIENCE, all_in_flight, receive_exactly, statistics, tcp_pair

Run = Callable[..., Any]

LARGE = 40_000
"""Bytes that every backend counts as large."""


@pytest.fixture
def run_in_place(run: Run, backend: str) -> Run:
    if backend not in _manager._LARGE:
        pytest.skip(f"{backend} receives into its pool only")
    return run


async def large_pair() -> tuple[Any, stdlib_socket.socket]:
    """A socket of which the last receive was large, and its peer's stdlib socket."""
    a, b = tcp_pair()
    with trio.fail_after(PATIENCE):
        while a._lio_large == 0:
            await b.send(bytes(LARGE))
            await trio.testing.wait_all_tasks_blocked(0.01)
            await a.recv(65536)
        while take_now(a._sock):
            pass
    return a, b._sock


def test_a_large_receive_makes_the_next_ones_wait_first(run_in_place: Run) -> None:
    """And four small ones end that."""

    async def main() -> list[int]:
        a, b = await large_pair()
        counts = []
        with a, b:
            for _ in range(6):
                b.send(b"small")
                assert await a.recv(100) == b"small"
                counts.append(a._lio_large)
        return counts

    counts = run_in_place(main)
    if _socket.LARGE_AT_FIRST == 0:
        assert counts == [3, 2, 1, 0, 0, 0]


def test_every_byte_arrives_whatever_the_sizes(run_in_place: Run) -> None:
    async def main() -> None:
        data = pattern(6_000_000)
        dice = random.Random(3)
        a, b = tcp_pair()
        got = bytearray()
        seen = set()

        async def send() -> None:
            at = 0
            while at < len(data):
                size = dice.choice([1, 700, 20_000, 100_000, 300_000])
                await trio.SocketStream(b).send_all(data[at : at + size])
                at += size
                if dice.random() < 0.2:
                    await trio.sleep(0.0005)
            b.shutdown(stdlib_socket.SHUT_WR)

        with a, b:
            stream = trio.SocketStream(a)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                part = b"-"
                while part:
                    size = dice.choice([10, 5000, None, 65536, 1 << 20, 1 << 30])
                    part = await stream.receive_some(size)
                    assert size is None or len(part) <= size
                    got += part
                    seen.add(a._lio_large > 0)
        assert got == data
        assert True in seen
        assert False in seen or _socket.LARGE_AT_FIRST

    run_in_place(main)


def test_a_receive_without_a_size_takes_more_then(run_in_place: Run) -> None:
    async def main() -> None:
        a, b = await large_pair()
        data = pattern(110_000)
        with a, b:
            await trio.SocketStream(trio.socket.from_stdlib_socket(b.dup())).send_all(data)
            stream = trio.SocketStream(a)
            got = await stream.receive_some()
            assert len(got) > 65536
            assert got + await receive_exactly(a, len(data) - len(got)) == data

    run_in_place(main)


def test_cancelled_large_receives_lose_nothing(run_in_place: Run) -> None:
    async def main() -> int:
        data = pattern(3_000_000)
        a, b = await large_pair()
        peer = trio.socket.from_stdlib_socket(b)
        got = bytearray()
        cancelled = 0

        async def send() -> None:
            for at in range(0, len(data), 50_000):
                await trio.SocketStream(peer).send_all(data[at : at + 50_000])
                await trio.sleep(0.0005)

        with a, peer:
            stream = trio.SocketStream(a)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                while len(got) < len(data):
                    with trio.move_on_after(0.0003) as scope:
                        got += await stream.receive_some()
                    cancelled += scope.cancelled_caught
        assert got == data
        return cancelled

    assert run_in_place(main) > 0


def test_a_cancelled_scope_takes_nothing(run_in_place: Run) -> None:
    async def main() -> None:
        a, b = await large_pair()
        with a, b:
            b.send(b"kept")
            await trio.testing.wait_all_tasks_blocked(0.01)
            with trio.CancelScope() as scope:
                scope.cancel()
                await a.recv(100)
            assert scope.cancelled_caught
            assert await a.recv(100) == b"kept"

    run_in_place(main)


def test_data_that_somebody_else_took(run_in_place: Run) -> None:
    """The wait was for nothing: it goes on."""

    async def main() -> None:
        a, b = await large_pair()
        other = a._sock.dup()
        got = []

        async def receive() -> None:
            got.append(await a.recv(100))

        class Thief(trio.abc.Instrument):
            stolen: bytes | None = None

            def task_scheduled(self, task: Any) -> None:
                if task.name.endswith("receive") and self.stolen is None:
                    self.stolen = take_now(other)

        thief = Thief()
        with a, b, other:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await all_in_flight(2)  # the run's own wait is the other
                trio.lowlevel.add_instrument(thief)
                b.send(b"for somebody else")
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert thief.stolen == b"for somebody else"
                assert got == []
                trio.lowlevel.remove_instrument(thief)
                b.send(b"for us")
            assert got == [b"for us"]

    run_in_place(main)


def test_states_of_a_stream_with_a_large_receive(run_in_place: Run) -> None:
    async def waiting(stream: trio.SocketStream, then: Callable[[], object]) -> Any:
        """What a receive that waits comes to when this happens."""
        came: list[Any] = []

        async def receive() -> None:
            try:
                came.append(await stream.receive_some())
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                came.append(type(exc))

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await all_in_flight(2)
                with pytest.raises(trio.BusyResourceError):
                    await stream.receive_some()
                then()
        return came[0]

    def reset(sock: stdlib_socket.socket) -> None:
        sock.setsockopt(
            stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        sock.close()

    async def main() -> None:
        for then, expected in [
            (lambda a, b: b.close(), b""),
            (lambda a, b: reset(b), trio.BrokenResourceError),
            (lambda a, b: a.close(), trio.ClosedResourceError),
            (lambda a, b: b.send(b"data"), b"data"),
        ]:
            a, b = await large_pair()
            with a, b:
                stream = trio.SocketStream(a)
                assert await waiting(stream, lambda: then(a, b)) == expected
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

    run_in_place(main)


def test_idle_large_receives_hold_no_memory_of_the_pool(run_in_place: Run) -> None:
    """More of them than there are buffers: the small one beside them still gets one."""

    async def main() -> None:
        pairs = [await large_pair() for _ in range(40)]
        c, d = tcp_pair()
        async with trio.open_nursery() as nursery:
            for a, _ in pairs:
                nursery.start_soon(a.recv, 65536)
            await all_in_flight(len(pairs))
            assert statistics().tasks_waiting_read >= len(pairs)
            await d.send(b"small")
            with trio.fail_after(PATIENCE):
                assert await c.recv(100) == b"small"
            nursery.cancel_scope.cancel()
        for a, b in [*pairs, (c, d)]:
            a.close()
            b.close()

    run_in_place(main)


def test_much_to_send_goes_before_the_tick_ends(run: Run, backend: str) -> None:
    """But not in a cancelled scope, where nothing goes at all."""

    async def main() -> None:
        a, b = tcp_pair()
        with a, b:
            stream = trio.SocketStream(a)
            with trio.CancelScope() as scope:
                scope.cancel()
                await stream.send_all(bytes(400_000))
            assert scope.cancelled_caught
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert take_now(b._sock) is None

            received = []

            class Look(trio.abc.Instrument):
                def after_task_step(self, task: Any) -> None:
                    if task.name.endswith("send") and not received:
                        received.append(take_now(b._sock))

            async def send() -> None:
                await stream.send_all(pattern(400_000))

            look = Look()
            trio.lowlevel.add_instrument(look)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                await trio.testing.wait_all_tasks_blocked(0.01)
                early = received[0] or b""
                assert early or backend == "sim"
                late = await receive_exactly(b, 400_000 - len(early))
            trio.lowlevel.remove_instrument(look)
            assert early + late == pattern(400_000)

    run(main)
