"""Any number of tasks may wait, and those that are idle cost next to nothing."""

from __future__ import annotations

import socket as stdlib_socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

from .support import all_in_flight, allow_descriptors, rss, statistics

if sys.platform != "win32":
    import resource

Run = Callable[..., Any]

TASKS = 20_000


@pytest.fixture
def count() -> Iterator[int]:
    """How many tasks can wait with the descriptors that are to be had."""
    if sys.platform == "win32":  # each pair of sockets is a connection of TCP's
        yield TASKS // 10
        return
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = min(TASKS, allow_descriptors(TASKS + 1000))
    if found < 1000:
        pytest.skip(f"only {found} descriptors are to be had")
    yield found // 2 * 2
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def pairs(count: int) -> list[Any]:
    """So many sockets, each the peer of its neighbour."""
    made: list[Any] = []
    for _ in range(count // 2):
        made.extend(trio.socket.socketpair())
    return made


def close(socks: list[Any]) -> None:
    for sock in socks:
        sock.close()


def test_twenty_thousand_tasks_at_a_capacity_of_64(run: Run, count: int) -> None:
    async def main() -> None:
        socks = pairs(count)
        got: list[bytes] = []

        async def receive(sock: Any) -> None:
            got.append(await sock.recv(100))

        async with trio.open_nursery() as nursery:
            for sock in socks:
                nursery.start_soon(receive, sock)
            await all_in_flight(count)
            assert got == []
            assert statistics().tasks_waiting_read >= count
            for number, sock in enumerate(socks):
                assert sock._sock.send(number.to_bytes(4, "big")) == 4
        assert sorted(got) == [number.to_bytes(4, "big") for number in range(count)]
        close(socks)

    run(main, capacity=64)


def test_idle_receives_hold_no_memory(run: Run, count: int) -> None:
    """Each of them asks for 64 KiB: it would be more than a gigabyte."""

    async def main() -> None:
        socks = pairs(count)
        before = rss()
        async with trio.open_nursery() as nursery:
            for sock in socks:
                nursery.start_soon(sock.recv, 65536)
            await all_in_flight(count)
            held = rss() - before
            nursery.cancel_scope.cancel()
        close(socks)
        # A parked task is a coroutine, a Task and its context: some kilobytes each.
        assert held < count * 16_384, f"{held / count:.0f} bytes for each"

    run(main)


def test_many_tasks_are_cancelled_at_once(run: Run, count: int) -> None:
    async def main() -> None:
        socks = pairs(count // 4 * 2)
        async with trio.open_nursery() as nursery:
            for sock in socks:
                nursery.start_soon(sock.recv, 100)
            await all_in_flight(len(socks))
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert statistics().operations_in_flight <= 1
        for a, b in zip(socks[::2], socks[1::2], strict=True):
            a._sock.send(b"x")
            assert b._sock.recv(10) == b"x"
        close(socks)

    run(main, capacity=16)


def test_many_closes_with_tasks_waiting(run: Run) -> None:
    async def main() -> None:
        socks = pairs(2000)
        ended = 0

        async def receive(sock: Any) -> None:
            nonlocal ended
            try:
                assert await sock.recv(100) == b""
            except trio.ClosedResourceError:
                pass
            ended += 1

        async with trio.open_nursery() as nursery:
            for sock in socks:
                nursery.start_soon(receive, sock)
            await all_in_flight(len(socks))
            close(socks[::2])
        assert ended == len(socks)
        close(socks)

    run(main, capacity=64)


def test_more_operations_in_one_tick_than_fit(run: Run) -> None:
    """Sends, receives, polls and accepts, all started in one tick, at a capacity of one."""

    async def main() -> None:
        socks = pairs(600)
        done = 0

        async def receive(sock: Any) -> None:
            nonlocal done
            assert await sock.recv(100) == b"data"
            done += 1

        async def send(sock: Any) -> None:
            assert await sock.send(b"data") == 4

        async with trio.open_nursery() as nursery:
            for sock in socks:
                nursery.start_soon(receive, sock)
                nursery.start_soon(send, sock)
        assert done == len(socks)
        close(socks)

    run(main, capacity=1)


def test_many_connections_at_once(run: Run) -> None:
    async def main() -> None:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1000)
        port = listener.socket.getsockname()[1]
        done = 0

        async def echo(stream: Any) -> None:
            async for data in stream:
                await stream.send_all(data)

        async def client(number: int) -> None:
            nonlocal done
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                for _ in range(3):
                    await stream.send_all(number.to_bytes(4, "big") * 100)
                    got = b""
                    while len(got) < 400:
                        got += await stream.receive_some()
                    assert got == number.to_bytes(4, "big") * 100
                done += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, echo, [listener])
            async with trio.open_nursery() as clients:
                for number in range(700):
                    clients.start_soon(client, number)
            nursery.cancel_scope.cancel()
        assert done == 700

    run(main, capacity=64)


def test_more_data_at_once_than_the_pool_has_buffers(run: Run) -> None:
    """All of it arrives in one tick, each a whole buffer."""

    async def main() -> None:
        socks = pairs(800)
        data = bytes(range(256)) * 256
        got = 0

        async def receive(sock: Any) -> None:
            nonlocal got
            have = b""
            while len(have) < len(data):
                part = await sock.recv(65536)
                assert part
                have += part
            assert have == data
            got += 1

        async with trio.open_nursery() as nursery:
            for sock in socks:
                nursery.start_soon(receive, sock)
            await all_in_flight(len(socks))
            for sock in socks:
                assert sock._sock.send(data) == len(data)
        assert got == len(socks)
        close(socks)

    run(main)


def test_tasks_that_wait_for_one_datagram_socket_each(run: Run) -> None:
    async def main() -> None:
        socks = [trio.socket.socket(type=stdlib_socket.SOCK_DGRAM) for _ in range(500)]
        sender = trio.socket.socket(type=stdlib_socket.SOCK_DGRAM)
        await sender.bind(("127.0.0.1", 0))
        got: list[Any] = []

        async def receive(sock: Any) -> None:
            data, address = await sock.recvfrom(2000)
            got.append((data, address))

        async with trio.open_nursery() as nursery:
            for sock in socks:
                await sock.bind(("127.0.0.1", 0))
                nursery.start_soon(receive, sock)
            await all_in_flight(len(socks))
            for number, sock in enumerate(socks):
                await sender.sendto(number.to_bytes(4, "big"), sock.getsockname())
        address = sender.getsockname()
        assert sorted(got) == [(n.to_bytes(4, "big"), address) for n in range(len(socks))]
        close([*socks, sender])

    run(main, capacity=64)
