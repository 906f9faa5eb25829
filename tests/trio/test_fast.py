"""The part of the hot path that is in C, and its twin in Python."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from trio_lio import _inner, _manager, _socket

from .support import statistics, tcp_pair

Run = Callable[..., Any]

needs_fast = pytest.mark.skipif(_inner.fast is None, reason="there is no _fast here")
fast: Any = _inner.fast


def manager() -> Any:
    return trio._core._run.GLOBAL_RUN_CONTEXT.runner.io_manager


async def adopted(*socks: Any) -> None:
    """Has the run know each socket, have something completed, and operations that are free."""
    for sock in socks:
        with trio.move_on_after(0):
            await sock.recv(1)
        assert _socket.manager_of(sock) is manager()
        sock._lio_large = 0
    a, b = trio.socket.socketpair()
    with a, b:
        await a.send(b"x")
        await b.recv(1)
    assert manager().free


def taken_back(op: Any) -> None:
    """What was begun just now never happens."""
    assert op.task is trio.lowlevel.current_task()
    assert op.abort(None) is trio.lowlevel.Abort.SUCCEEDED


@needs_fast
def test_what_is_not_the_usual_is_left_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, nothing queued, no operation used up, no detector held."""

    async def main() -> None:
        a, b = tcp_pair()
        strange = trio.socket.socket()
        closed = trio.socket.socket()
        closed.close()
        with a, b, strange:
            await adopted(a)
            shut = trio.SocketStream(b)
            await adopted(b)
            b.shutdown(trio.socket.SHUT_WR)
            io = manager()
            free = list(io.free)
            assert free
            pushed = statistics().operations_pushed
            detector = trio.SocketStream(a)._send_conflict_detector
            held = trio.SocketStream(a)._send_conflict_detector
            held._held = True
            beyond = io.receive_max + 1
            for size in (0, -1, 1.0, "1", True, beyond, 1 << 31, 1 << 70, [], a):
                assert fast.begin_receive(a, size) is None
            for sock in (strange, closed, a._sock, shut, None, 1, object()):
                assert fast.begin_receive(sock, 10) is None
                assert fast.begin_send(sock, b"x") is None
                assert fast.begin_send_all(sock, b"x", None) is None
                assert fast.begin_send_all(sock, b"x", detector) is None
            for data in (bytearray(b"x"), memoryview(b"x"), "x", None, 1):
                assert fast.begin_send(a, data) is None
                assert fast.begin_send_all(a, data, detector) is None
            assert fast.begin_send_all(a, b"", detector) is None
            assert fast.begin_send_all(a, b"x", held) is None
            assert fast.begin_send_all(a, b"x", object()) is None
            assert fast.begin_send_all(b, b"x", detector) is None
            for arguments in ((), (a,), (a, b"x", detector, 1)):
                assert fast.begin_receive(*arguments) is None
                assert fast.begin_send(*arguments) is None
                assert fast.begin_send_all(*arguments) is None
            found: list[Any] = []
            thread = threading.Thread(target=lambda: found.append(fast.begin_receive(a, 10)))
            thread.start()
            thread.join()
            assert found == [None]
            a._lio_large = 1
            assert fast.begin_receive(a, 10) is None
            a._lio_large = 0
            io.free.clear()
            assert fast.begin_receive(a, 10) is None
            assert fast.begin_send_all(a, b"x", detector) is None
            io.free.extend(free)
            assert not detector._held
            assert io.free == free
            assert statistics().operations_pushed == pushed
            # And what is the usual is not.
            for begin, *arguments in (
                (fast.begin_receive, None),
                (fast.begin_receive, io.receive_max),
                (fast.begin_receive_from, 10),
                (fast.begin_send, b"x"),
                (fast.begin_send_all, b"x", None),
                (fast.begin_send_all, b"x", detector),
            ):
                taken_back(begin(a, *arguments))
            assert detector._held

    run(main)


@needs_fast
def test_what_cannot_be_queued_is_given_back(run: Run) -> None:
    """A second receive, and a second send, of one socket; then all is as it was."""

    async def main() -> None:
        a, b = tcp_pair()
        with a, b:
            await adopted(a)
            stream = trio.SocketStream(a)
            detector = stream._send_conflict_detector
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.recv, 10)
                await trio.testing.wait_all_tasks_blocked()
                free = sorted(op.id for op in manager().free)
                assert fast.begin_receive(a, 10) is None
                assert sorted(op.id for op in manager().free) == free
                assert all(op.task is None and op.keep is None for op in manager().free)
                with pytest.raises(trio.BusyResourceError):
                    await stream.receive_some(10)
                assert not detector._held
                await b.send(b"done")

    run(main)


ADDRESSES = ["127.0.0.1", "127.1.2.3", "127.200.30.4", "127.99.100.255", "127.10.0.254"]


@pytest.mark.parametrize("host", ADDRESSES)
def test_datagrams_by_address(host: str, run: Run, backend: str) -> None:
    """Both ways: what an address is to the kernel, and what is made of the kernel's."""
    if sys.platform != "linux" and host != "127.0.0.1":
        pytest.skip("there is one loopback address here")

    async def main() -> None:
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as a:
            with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as b:
                await a.bind((host, 0))
                await b.bind(("127.0.0.1", 0))
                for size in (1, 0, 100, 9000) * 2:
                    assert await b.sendto(bytes(size), a.getsockname()) == size
                    assert await a.recvfrom(10_000) == (bytes(size), b.getsockname())
                    assert await a.sendto(bytes(size), b.getsockname()) == size
                    assert await b.recvfrom(10_000) == (bytes(size), (host, a.getsockname()[1]))

    if backend == "sim":
        pytest.skip("sim has one loopback address")
    run(main)


@needs_fast
def test_addresses_that_are_not_the_usual(run: Run) -> None:
    """Those go to the method in Python, which resolves them or says what is wrong."""

    def accepts(host: str) -> bool:
        try:
            trio.socket.inet_pton(trio.socket.AF_INET, host)
        except (OSError, ValueError):
            return False
        return True

    async def main() -> None:
        kinds = trio.socket.AF_INET, trio.socket.AF_INET6
        a, b = (trio.socket.socket(kind, trio.socket.SOCK_DGRAM) for kind in kinds)
        with a, b:
            await a.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError):  # no IPv6 here
                await b.bind(("::1", 0))
            await adopted(a, b)
            port = a.getsockname()[1]
            free = sorted(op.id for op in manager().free)
            for address in (
                *(("localhost", port), ("", port), ("127.1", port), ("127.0.0.1", "80")),
                *(("127.0.0.1", -1), ("127.0.0.1", 65536), ("127.0.0.1", 1 << 80)),
                *(("127.0.0.1",), ("127.0.0.1", port, 0), ["127.0.0.1", port], None, 1),
                *((b"127.0.0.1", port), ("127.0.0.1", True), ("127.0.0.1\0", port)),
                *(("\ud800", port), ("::1", port)),
            ):
                assert fast.begin_send_to(a, b"x", address) is None
            assert fast.begin_send_to(b, b"x", ("127.0.0.1", port)) is None
            assert fast.begin_send_to(a, bytearray(b"x"), ("127.0.0.1", port)) is None
            assert fast.begin_receive_from(a, None) is None
            assert sorted(op.id for op in manager().free) == free
            for host in (
                *("0.0.0.0", "255.255.255.255", "127.0.0.1", "1.2.3.4", "9.99.199.249"),
                *(
                    "256.0.0.1",
                    "1.2.3",
                    "1.2.3.4.",
                    ".1.2.3.4",
                    "1..2.3",
                    "1.2.3.4.5",
                    "1.2.3.04",
                ),
                *(
                    "1.2.3.4 ",
                    " 1.2.3.4",
                    "1.2.3.x",
                    "0x1.2.3.4",
                    "1.2.3.0004",
                    "1.2.3.-4",
                    "...",
                ),
                *(
                    "00.0.0.0",
                    "0.0.0.00",
                    "1.2.3.400",
                    "1234.1.1.1",
                    "\u0661.1.1.1",
                    "1.2.3.4\n",
                ),
            ):
                op = fast.begin_send_to(a, b"x", (host, 9))
                assert (op is not None) == accepts(host), host
                if op is not None:
                    taken_back(op)
            assert sorted(op.id for op in manager().free) == free

    run(main)


def test_a_socket_of_another_run_is_not_used(run: Run) -> None:
    """What a run has adopted means nothing to the next one, in the same thread or another."""
    kept: list[Any] = []

    async def first() -> None:
        kept.extend(tcp_pair())
        await adopted(*kept)
        if fast is not None:
            await kept[1].send(b"x")
            kept[0]._lio_large = 0
            op = fast.begin_receive(kept[0], 10)
            assert await op == b"x"

    async def second() -> None:
        a, b = kept
        if fast is not None:
            assert fast.begin_receive(a, 10) is None
        await b.send(b"hello")
        assert await trio.SocketStream(a).receive_some(10) == b"hello"

    run(first)
    run(second)
    thread = threading.Thread(target=run, args=(second,))
    thread.start()
    thread.join()
    for sock in kept:
        sock._sock.close()


def test_operation_in_use_again_before_the_cancelled_task_ran(run: Run) -> None:
    """A wait that is taken back frees its operation at once. Whoever takes it next parks on it
    while the first task still has it on its stack."""

    async def main() -> None:
        a, b = tcp_pair()
        c, d = tcp_pair()
        got: list[bytes] = []
        with a, b, c, d:
            await adopted(a, c)

            async def cancelled(scope: trio.CancelScope) -> None:
                with scope:
                    await trio.SocketStream(a).receive_some(10)
                    raise AssertionError

            async def next_one() -> None:
                got.append(await trio.SocketStream(c).receive_some(10))

            for _ in range(20):
                scope = trio.CancelScope()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancelled, scope)
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    # Not handed over yet. Both run in the same turn, in either order.
                    scope.cancel()
                    nursery.start_soon(next_one)
                    await d.send(b"x")
                assert scope.cancelled_caught
            assert got == [b"x"] * 20

    run(main)


def test_frames_of_a_task_that_waits(run: Run) -> None:
    """As debuggers see it: down to where it parks."""

    async def main() -> None:
        a, b = tcp_pair()
        with a, b:

            async def receives() -> None:
                await trio.SocketStream(a).receive_some(10)

            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(receives)
                    await trio.testing.wait_all_tasks_blocked()
                    [task] = nursery.child_tasks
                    stack = traceback.StackSummary.extract(task.iter_await_frames())
                    names = [frame.name for frame in stack]
                    assert names[0] == "receives"
                    assert names[1].endswith("receive_some")
                    assert names[-1] in ("_parked", "__await__")
                    await b.send(b"x")
                    await trio.testing.wait_all_tasks_blocked()

    run(main)


def test_a_coroutine_that_waits_is_closed(run: Run) -> None:
    """And one that is thrown into: neither asks anything of the operation."""

    async def main() -> None:
        op = manager().take(_manager.KIND_OTHER)

        async def waits() -> Any:
            return await op

        closed, thrown, woken = waits(), waits(), waits()
        for coroutine in (closed, thrown, woken):
            assert coroutine.send(None) is op.message
        closed.close()
        with pytest.raises(KeyError):
            thrown.throw(KeyError())
        with pytest.raises(StopIteration) as caught:
            woken.send(7)
        assert caught.value.value == 7
        manager().give_back(op)

    run(main)


@needs_fast
@pytest.mark.parametrize("value", [b"", 0, (), (1, 2), ("a",), ValueError("x"), [1]])
def test_whatever_an_operation_is_sent_comes_out(value: Any, run: Run) -> None:
    """Also by name, as newer Pythons ask."""

    async def main() -> None:
        op = manager().take(_manager.KIND_OTHER)
        iterator = op.__await__()
        assert next(iterator) is op.message
        assert iterator.send(None) is op.message
        with pytest.raises(StopIteration) as caught:
            iterator.send(value)
        assert caught.value.value is value
        manager().give_back(op)

    run(main)


def test_a_run_that_is_over_has_no_events(run: Run) -> None:
    kept: list[Any] = []

    async def main() -> None:
        kept.append(manager())
        await trio.sleep(0)

    run(main)
    [over] = kept
    with pytest.raises(RuntimeError, match="this run is over"):
        over.get_events(0)
    assert over.unprocessed == 0
    assert over.free == over.operations == []


def test_there_is_fast_where_it_should_be() -> None:
    """It was built, and is used, unless this is a run without it."""
    builds = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", bool)
    with_lock = builds is bool or (builds and builds())
    asked = os.environ.get("TRIO_LIO_FAST", "1")
    assert (fast is not None) == (bool(with_lock) and asked == "1")


PROGRAM = """
    import trio, trio_lio
    from trio_lio import _inner

    async def main():
        a, b = map(trio.SocketStream, trio.socket.socketpair())
        for size in 1, 1000, 100_000:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.send_all, bytes(size))
                while size:
                    size -= len(await b.receive_some())

    trio_lio.run(main)
    print("plain" if _inner.fast is None else "fast")
"""


@pytest.mark.parametrize(("asked", "said"), [("0", "plain"), ("1", "fast"), ("", "fast")])
def test_fast_can_be_done_without(asked: str, said: str) -> None:
    if said == "fast" and fast is None and "TRIO_LIO_FAST" not in os.environ:
        pytest.skip("there is no _fast here")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        env={**os.environ, "TRIO_LIO_FAST": asked},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.strip()) == (0, said), done.stderr


def test_another_word_for_it_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import trio_lio"],
        env={**os.environ, "TRIO_LIO_FAST": "yes"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "ValueError: TRIO_LIO_FAST='yes' is neither 0 nor 1" in done.stderr
