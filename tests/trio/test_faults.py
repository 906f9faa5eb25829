"""trio_lio.testing.faults: unchanged programs under a bad network."""

from __future__ import annotations

import contextlib
import functools
import queue
import signal
import socket as stdlib_socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

import trio_lio
from trio_lio import testing
from trio_lio.backends import probe

from ..common import ROUGH, pattern
from .support import statistics, tcp_listener, tcp_pair

Block = Callable[..., Any]


BACKENDS = ["iocp"] if sys.platform == "win32" else ["uring", "epoll", "sim"]


@pytest.fixture(params=BACKENDS)
def block(request: pytest.FixtureRequest) -> Block:
    """`testing.faults` on one backend."""
    info = probe(request.param)
    if not info.available:
        pytest.skip(f"{info.name}: {info.reason}")
    return functools.partial(testing.faults, backend=request.param)


async def echo(stream: trio.SocketStream) -> None:
    async with stream:
        async for part in stream:
            await stream.send_all(part)


async def through(stream: trio.SocketStream, data: bytes) -> bytes:
    """What comes back from an echo server."""
    received = bytearray()

    async def send() -> None:
        await stream.send_all(data)
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        async for part in stream:
            received += part
    return bytes(received)


@pytest.mark.parametrize("seed", range(3))
def test_every_byte_arrives(block: Block, seed: int) -> None:
    async def client(port: int, at: int) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        data = pattern(60_000, at)
        assert await through(stream, data) == data

    async def main() -> None:
        listener = await tcp_listener()
        port = listener.getsockname()[1]
        listeners = [trio.SocketListener(listener)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, echo, listeners)
            async with trio.open_nursery() as clients:
                for at in range(8):
                    clients.start_soon(client, port, at)
            nursery.cancel_scope.cancel()

    with block(seed, **ROUGH) as injected:
        trio.run(main)
    counts = injected.counts
    assert counts.short_ios and counts.delays and counts.overflows
    assert counts.resets == 0


@pytest.mark.parametrize("seed", range(3))
def test_no_byte_is_lost_to_a_cancel(block: Block, seed: int) -> None:
    async def main() -> None:
        a, b = tcp_pair()
        data = pattern(30_000)
        received = bytearray()
        cancelled = 0

        async def send() -> None:
            await trio.SocketStream(a).send_all(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while len(received) < len(data):
                with trio.CancelScope() as scope:
                    nursery.start_soon(cancel_soon, scope)
                    received += await b.recv(997)
                cancelled += scope.cancelled_caught
        assert bytes(received) == data
        a.close()
        b.close()

    async def cancel_soon(scope: trio.CancelScope) -> None:
        await trio.lowlevel.checkpoint()
        scope.cancel()

    with block(seed, **ROUGH) as injected:
        trio.run(main)
    assert injected.counts.total > 10


@pytest.mark.parametrize("cancels", [False, True], ids=["done", "cancelled"])
def test_an_operation_that_begins_or_ends_late_is_no_conflict(
    block: Block, cancels: bool
) -> None:
    """Two receives of one tick, of which the first does not wait, or no longer: in Trio they
    are no conflict, however full the kernel's queue is and however late its cancels come."""

    async def receive(sock: trio.socket.SocketType, scope: trio.CancelScope) -> None:
        with scope:
            assert len(await sock.recv(1)) == 1

    async def main() -> None:
        for _ in range(20):
            left, right = trio.socket.socketpair()
            first = trio.CancelScope()
            with left, right:
                async with trio.open_nursery() as nursery:
                    if not cancels:
                        await left.send(b"xy")
                    nursery.start_soon(receive, right, first)
                    if cancels:
                        await trio.testing.wait_all_tasks_blocked()
                        first.cancel()
                    nursery.start_soon(receive, right, trio.CancelScope())
                    if cancels:
                        await trio.testing.wait_all_tasks_blocked()
                        await left.send(b"xy")

    faults = {"cancel_race": 1, "queue_full": 1, "delay": 0.3, "overflow": 0.3}
    with block(5, short_io=0, **faults) as injected:
        trio.run(main)
    assert injected.counts.queue_fulls
    assert injected.counts.cancel_races >= (20 if cancels else 0)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_streams_keep_their_rules(block: Block, kind: str) -> None:
    """Trio's own conformance tests of a stream."""

    if kind == "unix" and not hasattr(stdlib_socket, "AF_UNIX"):
        pytest.skip("no sockets of the local family here")

    async def make() -> tuple[trio.SocketStream, trio.SocketStream]:
        left, right = tcp_pair() if kind == "tcp" else trio.socket.socketpair()
        return trio.SocketStream(left), trio.SocketStream(right)

    with block(5, **ROUGH):
        trio.run(trio.testing.check_half_closeable_stream, make, None)


def test_a_reset_breaks_the_stream(block: Block) -> None:
    async def main() -> None:
        a, b = tcp_pair()
        ours, theirs = trio.SocketStream(a), trio.SocketStream(b)
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await theirs.receive_some(1)
        await ours.aclose()
        await theirs.aclose()

    with block(1, reset=1) as injected:
        trio.run(main)
    assert injected.counts.resets == 1


def test_a_program_that_tries_again_comes_through_resets(block: Block) -> None:
    attempts = 0

    async def main() -> None:
        nonlocal attempts
        listener = await tcp_listener()
        port = listener.getsockname()[1]

        async def serve(stream: trio.SocketStream) -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                await echo(stream)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listener)])
            for at in range(20):
                data = pattern(3000, at)
                while True:
                    attempts += 1
                    stream = await trio.open_tcp_stream("127.0.0.1", port)
                    with contextlib.suppress(trio.BrokenResourceError):
                        await stream.send_all(data)  # fits into the socket's buffers
                        await stream.send_eof()
                        received = b"".join([part async for part in stream])
                        assert received == data
                        break
                    await trio.aclose_forcefully(stream)
                await stream.aclose()
            nursery.cancel_scope.cancel()

    with block(3, reset=0.1, short_io=0.3) as injected:
        trio.run(main)
    assert injected.counts.resets > 0
    assert attempts > 20


# -- blocks ----------------------------------------------------------------------------


async def some_io() -> Any:
    left, right = trio.socket.socketpair()
    for _ in range(30):
        await left.send(bytes(100))
        await right.recv(100)
    left.close()
    right.close()
    return statistics()


def test_only_runs_of_the_block_have_faults(block: Block) -> None:
    with block(7) as injected:
        inside = trio.run(some_io)
        trio_lio.run(some_io, backend=BACKENDS[-1])
    assert inside.faults.total > 0
    assert injected.runs == 2
    assert injected.counts.total > inside.faults.total
    assert trio_lio.run(some_io).faults is None
    assert not hasattr(trio.run(some_io), "faults")


def test_the_inner_block_counts() -> None:
    with testing.faults(1) as outer:
        with testing.faults(2) as inner:
            trio.run(some_io)
        assert (outer.runs, inner.runs) == (0, 1)
        trio.run(some_io)
    assert (outer.runs, inner.runs) == (1, 1)


def test_a_seed_is_found_when_none_is_given() -> None:
    with testing.faults() as one, testing.faults() as other:
        assert one.seed != other.seed


def test_counts_of_a_run_that_goes_on() -> None:
    async def main() -> None:
        await some_io()
        assert injected.counts == statistics().faults

    with testing.faults(7) as injected:
        trio.run(main)
        assert injected.counts.total > 0


def test_runs_of_other_threads() -> None:
    with testing.faults(7) as injected:
        thread = threading.Thread(target=trio.run, args=(some_io,))
        thread.start()
        thread.join()
    assert injected.runs == 1


def test_a_run_that_crashes_is_counted() -> None:
    async def main() -> None:
        await some_io()
        raise ValueError("crash")

    with testing.faults(7) as injected, pytest.raises(ValueError, match="crash"):
        trio.run(main)
    assert injected.counts.total > 0


def test_too_late_inside_a_run() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"put it around trio\.run"):
            testing.faults(seed=7).__enter__()

    trio.run(main)
    trio_lio.run(main)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="no fault 'resets'; there are: short_io, reset"):
        testing.faults(resets=1).__enter__()
    with pytest.raises(ValueError, match="backend="):
        testing.faults(backend="nothing").__enter__()
    assert trio_lio._faults.current() is None


def test_guest_runs(block: Block) -> None:
    todo: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
    outcomes: list[Any] = []

    def done(outcome: Any) -> None:
        outcomes.append(outcome)
        todo.put(None)

    with block(7, **ROUGH) as injected:
        trio.lowlevel.start_guest_run(
            some_io, run_sync_soon_threadsafe=todo.put, done_callback=done
        )
        while (job := todo.get(timeout=60)) is not None:
            job()
    assert outcomes[0].unwrap().faults.total > 0
    assert injected.runs == 1


@pytest.mark.parametrize("latency", [0.0, 0.005])
def test_a_clock_that_jumps_waits_for_what_is_kept_back(block: Block, latency: float) -> None:
    async def main() -> None:
        left, right = stdlib_socket.socketpair()
        a = trio.socket.from_stdlib_socket(left)
        with a, right:
            begun = trio.current_time()
            for at in range(20):
                right.send(b"x")
                with trio.fail_after(1):
                    assert await a.recv(10) == b"x", at
            assert trio.current_time() == begun
            with trio.move_on_after(1000) as scope:
                await a.recv(10)
            assert scope.cancelled_caught

    with block(4, delay=0.9, cancel_race=1, latency=latency) as injected:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert injected.counts.delays > 5


def test_signals_and_interrupts(block: Block) -> None:
    async def main() -> None:
        with trio.open_signal_receiver(signal.SIGUSR1) as received:
            for _ in range(5):
                signal.raise_signal(signal.SIGUSR1)
                async for number in received:
                    assert number == signal.SIGUSR1
                    break

    with block(4, interrupt=0.5, delay=0.5) as injected:
        trio.run(main)
    assert injected.counts.interrupts + injected.counts.delays > 0


@pytest.fixture(autouse=True)
def no_block_stays_behind() -> Iterator[None]:
    yield
    assert testing._faults.current() is None
