"""No byte and no accepted socket is lost between a cancel and a completion."""

from __future__ import annotations

import random
import socket as stdlib_socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from ..common import pattern, take_now
from .support import (
    PATIENCE,
    drop_what_is_not_here,
    half_foreign_pair,
    receive_exactly,
    statistics,
    tcp_listener,
    tcp_pair,
)

Run = Callable[..., Any]

TRIES = 2500

RECEIVES: dict[str, Callable[[Any], Any]] = {}


def receive(name: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    def add(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        RECEIVES[name] = function
        return function

    return add


@receive("recv")
async def _recv(sock: Any) -> bytes:
    return bytes(await sock.recv(100))


@receive("receive_some")
async def _receive_some(sock: Any) -> bytes:
    return bytes(await trio.SocketStream(sock).receive_some(100))


@receive("recv_into")
async def _recv_into(sock: Any) -> bytes:
    buffer = bytearray(100)
    return bytes(buffer[: await sock.recv_into(buffer)])


@receive("recvfrom")
async def _recvfrom(sock: Any) -> bytes:
    return bytes((await sock.recvfrom(100))[0])


@receive("recvmsg")
async def _recvmsg(sock: Any) -> bytes:
    return bytes((await sock.recvmsg(100, 50))[0])


@receive("wait_readable")
async def _wait_readable(sock: Any) -> bytes:
    await trio.lowlevel.wait_readable(sock)
    return take_now(sock._sock, 100) or b""


drop_what_is_not_here(RECEIVES)


@pytest.mark.parametrize("name", RECEIVES)
def test_cancel_racing_with_data(name: str, run: Run) -> None:
    """In one tick the data comes and the receiver is cancelled; in all orders."""

    async def main() -> tuple[int, int]:
        dice = random.Random(7)
        a, b = half_foreign_pair()
        got = bytearray()
        sent = 0
        done = cancelled = 0
        with a, b:
            for number in range(TRIES):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:

                        async def work() -> None:
                            got.extend(await RECEIVES[name](a))

                        nursery.start_soon(work)
                        for _ in range(dice.randrange(4)):
                            await trio.sleep(0)
                        steps = [lambda: b.send(number.to_bytes(4, "big")), scope.cancel]
                        if dice.random() < 0.5:
                            steps.reverse()
                        for step in steps:
                            step()
                            if dice.random() < 0.3:
                                await trio.lowlevel.cancel_shielded_checkpoint()
                sent += 4
                cancelled += scope.cancelled_caught
                done += not scope.cancelled_caught
            got.extend(take_now(a._sock) or b"" if len(got) < sent else b"")
        expected = b"".join(number.to_bytes(4, "big") for number in range(TRIES))
        assert bytes(got) == expected
        return done, cancelled

    done, cancelled = run(main)
    assert done > TRIES / 50, "the race was hardly ever won by the data"
    assert cancelled > TRIES / 50, "the race was hardly ever won by the cancel"


def test_cancel_racing_with_datagrams(run: Run) -> None:
    async def main() -> None:
        a, b = stdlib_socket.socketpair(type=stdlib_socket.SOCK_DGRAM)
        ours = trio.socket.from_stdlib_socket(a)
        got = []
        with ours, b:
            for number in range(TRIES):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:

                        async def work() -> None:
                            got.append((await ours.recvfrom(100))[0])

                        nursery.start_soon(work)
                        for _ in range(number % 4):
                            await trio.sleep(0)
                        b.send(number.to_bytes(4, "big"))
                        scope.cancel()
                if scope.cancelled_caught:
                    got.append(await ours.recv(100))
            assert got == [number.to_bytes(4, "big") for number in range(TRIES)]
            assert take_now(a) is None

    run(main)


def test_deadline_racing_with_data(run: Run) -> None:
    """Deadlines are Trio's to cancel by: the cancel comes from the run loop itself."""

    async def main() -> None:
        a, b = tcp_pair()
        got = bytearray()
        data = pattern(400_000)
        with a, b:
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    for at in range(0, len(data), 500):
                        await b.send(data[at : at + 500])
                        if at % 2500 == 0:
                            await trio.sleep(0.0005)
                    b.shutdown(stdlib_socket.SHUT_WR)

                nursery.start_soon(send)
                timeouts = 0
                while len(got) < len(data):
                    with trio.move_on_after(0.0003) as scope:
                        got += await a.recv(1000)
                    timeouts += scope.cancelled_caught
        assert got == data
        assert timeouts > 0

    run(main)


def test_cancel_racing_with_accept(run: Run) -> None:
    """Every connection is accepted in the end, by this call or by a later one."""

    async def main() -> tuple[int, int]:
        accepted: set[Any] = set()
        clients: set[Any] = set()
        done = cancelled = 0

        async def accept() -> None:
            sock, address = await listener.accept()
            with sock:
                accepted.add(address)
                await sock.send(b"welcome")

        with await tcp_listener() as listener:
            to = listener.getsockname()
            for number in range(600):
                client = stdlib_socket.socket()
                client.setblocking(False)
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(accept)
                        for _ in range(number % 4):
                            await trio.sleep(0)
                        client.connect_ex(to)
                        if number % 3 == 0:
                            await trio.lowlevel.cancel_shielded_checkpoint()
                        scope.cancel()
                clients.add(client.getsockname())
                if client.getsockname() in accepted:
                    done += 1
                else:
                    cancelled += 1
                    with trio.fail_after(PATIENCE):
                        await accept()
                client.close()
            assert accepted == clients
        return done, cancelled

    done, cancelled = run(main)
    assert done + cancelled == 600
    assert cancelled > 10


def test_cancel_of_send_all_leaves_an_exact_prefix(run: Run) -> None:
    async def main() -> None:
        # More than the system takes at once.
        data = pattern(16_000_000)
        for take in (0, 1, 70_000, 500_000, 3_000_000):
            a, b = tcp_pair()
            with a, b:
                stream = trio.SocketStream(a)
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(stream.send_all, data)
                        got = await receive_exactly(b, take)
                        await trio.testing.wait_all_tasks_blocked(0.001)
                        scope.cancel()
                assert scope.cancelled_caught
                await stream.send_eof()
                while part := await b.recv(1 << 20):
                    got += part
                assert take <= len(got) < len(data)
                assert data.startswith(got)

    run(main)


def test_cancel_of_send_all_at_any_moment_sends_a_prefix(run: Run) -> None:
    async def main() -> None:
        data = pattern(600_000)
        whole = cut = 0
        for number in range(150):
            a, b = half_foreign_pair()
            with a, b:
                stream = trio.SocketStream(a)
                got = bytearray()
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(stream.send_all, data)
                        for _ in range(number % 25):
                            await trio.sleep(0)
                            got += take_now(b, 65536) or b""
                        scope.cancel()
                await stream.send_eof()
                while part := take_now(b):
                    got += part
                assert data.startswith(bytes(got))
                if scope.cancelled_caught:
                    cut += 1
                else:
                    whole += 1
                    assert len(got) == len(data)
        assert cut and whole

    run(main)


def test_nothing_stays_in_flight_after_cancels(run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            await trio.testing.wait_all_tasks_blocked()
            before = statistics().operations_in_flight
            for ticks in range(300):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(a.recv, 10)
                        for _ in range(ticks % 3):
                            await trio.sleep(0)
                        scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert statistics().operations_in_flight == before
            assert statistics().tasks_waiting_read <= 1

    run(main)


def test_passed_descriptors_are_not_lost_by_a_cancel(run: Run) -> None:
    """A descriptor that came with a message is handed over with it: watched by the fixture
    that looks for leaks."""
    import array
    import os

    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            for number in range(300):
                got: list[int] = []
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:

                        async def work(got: list[int] = got) -> None:
                            _, ancillary, _, _ = await a.recvmsg(10, 100)
                            for _, _, data in ancillary:
                                got.extend(array.array("i", data))

                        nursery.start_soon(work)
                        for _ in range(number % 4):
                            await trio.sleep(0)
                        stdlib_socket.send_fds(b, [b"x"], [0])
                        scope.cancel()
                if not got:
                    data, fds, _, _ = stdlib_socket.recv_fds(a._sock, 10, 5)
                    assert data == b"x"
                    got = fds
                assert len(got) == 1
                os.close(got[0])

    run(main)
