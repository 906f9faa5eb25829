"""Signals and KeyboardInterrupt, wherever the run is at that moment."""

from __future__ import annotations

import os
import random
import signal
import socket as stdlib_socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import trio_lio

from ..common import pattern, take_now
from .support import (
    PATIENCE,
    half_foreign_pair,
    receive_signals,
    signals_every,
    statistics,
    tcp_pair,
)

# On stock Trio too, a signal can come while the run's wake-up socket is being closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

Run = Callable[..., Any]


def deliver(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGINT)
    elif how == "pthread_kill":
        assert threading.main_thread().ident is not None
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:  # lands in another thread: only the wake-up descriptor tells the run
        signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def python_handles_sigint() -> Any:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("how", ["kill", "pthread_kill", "raise_signal"])
@pytest.mark.parametrize("waits", ["for ever", "for a time", "for data"])
def test_keyboard_interrupt_while_blocked(waits: str, how: str, run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            if waits == "for ever":
                await trio.sleep_forever()
            elif waits == "for a time":
                await trio.sleep(100)
            else:
                await a.recv(10)

    timer = threading.Timer(0.05, deliver, [how])
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(main)
    timer.join()
    assert time.monotonic() - start < 10


def test_keyboard_interrupt_between_ticks(run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            b.send(b"data")
            signal.raise_signal(signal.SIGINT)
            await a.recv(10)

    with pytest.raises(KeyboardInterrupt):
        run(main)


@pytest.mark.parametrize("method", ["recv", "recv_into", "stream"])
def test_keyboard_interrupt_in_a_busy_run_loses_nothing(method: str, backend: str) -> None:
    """However often it comes: what was sent is counted, what was received is in order."""
    a, b = tcp_pair()
    data = pattern(2_000_000)
    got = bytearray()
    sent = interrupts = 0
    over = threading.Event()
    wanted = threading.Event()
    shot = threading.Event()

    @trio.lowlevel.enable_ki_protection
    async def send() -> None:
        nonlocal sent
        while sent < len(data):
            sent += await a.send(memoryview(data)[sent : sent + 20_000])

    @trio.lowlevel.enable_ki_protection
    async def receive() -> None:
        while len(got) < len(data):
            if method == "stream":
                got.extend(await trio.SocketStream(b).receive_some(30_000))
            elif method == "recv":
                got.extend(await b.recv(30_000))
            else:
                buffer = bytearray(30_000)
                got.extend(buffer[: await b.recv_into(buffer)])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(receive)
            wanted.set()

    def interrupt() -> None:
        dice = random.Random(3)
        while True:
            wanted.wait()
            wanted.clear()
            if over.wait(dice.random() * 0.004):
                return
            os.kill(os.getpid(), signal.SIGINT)
            shot.set()

    def transfer() -> None:
        nonlocal interrupts
        while len(got) < len(data):
            try:
                shot.clear()
                trio.run(main)
                shot.wait(1)
                time.sleep(0.001)
            except KeyboardInterrupt:
                interrupts += 1
            except BaseExceptionGroup as group:
                assert group.split(KeyboardInterrupt)[1] is None
                interrupts += 1

    thread = threading.Thread(target=interrupt)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while interrupts < 5 and time.monotonic() < deadline:
        sent = 0
        got.clear()
        with trio_lio.installed(backend):
            transfer()
        assert got == data
    over.set()
    wanted.set()
    thread.join()
    for sock in a, b:
        sock._sock.close()
    assert interrupts >= 5


def test_keyboard_interrupt_with_operations_in_flight(run: Run) -> None:
    """All are cancelled by it; the run ends; each of them can be used again."""
    pairs = [half_foreign_pair() for _ in range(100)]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for a, _ in pairs:
                nursery.start_soon(a.recv, 10)
            await trio.testing.wait_all_tasks_blocked()
            signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()

    with pytest.raises(BaseException) as caught:
        run(main)
    error = caught.value
    assert isinstance(error, KeyboardInterrupt) or isinstance(
        error.exceptions[0],  # type: ignore[attr-defined]
        KeyboardInterrupt,
    )

    async def again() -> None:
        for a, b in pairs:
            b.send(b"data")
            assert await a.recv(10) == b"data"
            a.close()
            b.close()

    run(again)


def test_keyboard_interrupt_caught_inside_leaves_the_run_whole(run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            for _ in range(50):
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
                    await a.recv(10)
                    await trio.sleep(0)
                b.send(b"data")
                assert await a.recv(10) == b"data"
            await trio.testing.wait_all_tasks_blocked()
            assert statistics().operations_in_flight <= 1

    run(main)


def test_methods_are_protected_from_keyboard_interrupt(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A KeyboardInterrupt must not come between the data and its receiver."""
    seen: list[bool] = []

    def watch(module: Any, name: str) -> None:
        real = getattr(module, name)

        def watched(*args: Any) -> Any:
            seen.append(trio.lowlevel.currently_ki_protected())
            return real(*args)

        monkeypatch.setattr(module, name, watched)

    # What each method calls first.
    watch(trio_lio._socket, "manager_of")
    watch(trio_lio._socket, "_await_data")
    watch(trio_lio._stream, "manager_of")
    watch(trio_lio._stream, "start_receive")
    watch(trio_lio._stream, "start_send_all")
    for module in trio_lio._socket, trio_lio._stream:
        for name in [name for name in vars(module) if name.startswith("_begin_")]:
            watch(module, name)

    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            stream = trio.SocketStream(a)
            for call in (
                lambda: stream.receive_some(10),
                lambda: stream.send_all(b"x"),
                lambda: a.recv(10),
                lambda: a.recv_into(bytearray(10)),
                lambda: a.recvfrom(10),
                lambda: a.recvfrom_into(bytearray(10)),
                lambda: a.recvmsg(10),
                lambda: a.recvmsg_into([bytearray(10)]),
                lambda: a.send(b"x"),
                lambda: a.sendmsg([b"x"]),
            ):
                b.send(b"data")
                seen.clear()
                await call()
                assert seen
                assert all(seen)
            assert not trio.lowlevel.currently_ki_protected()

    run(main)


def test_open_signal_receiver(run: Run) -> None:
    run(receive_signals)


def test_wakeup_fd_is_given_back(run: Run) -> None:
    """Python's own, or somebody's; also by a run that fails."""
    ours, theirs = stdlib_socket.socketpair()
    ours.setblocking(False)

    async def fails() -> None:
        await trio.sleep(0)
        raise ValueError

    with ours, theirs:
        for fd in -1, ours.fileno():
            before = signal.set_wakeup_fd(fd)
            try:
                for each in run, trio.run:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", RuntimeWarning)  # as on stock Trio
                        each(trio.sleep, 0)
                        with pytest.raises(ValueError):
                            each(fails)
            finally:
                left = signal.set_wakeup_fd(before)
            assert left == fd


def test_somebody_elses_wakeup_fd_is_warned_about(same_as_stock: Callable[..., Any]) -> None:
    ours, theirs = stdlib_socket.socketpair()
    ours.setblocking(False)

    async def main() -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            before = signal.set_wakeup_fd(ours.fileno())
            await trio.sleep(0.01)
            signal.set_wakeup_fd(before)
        return [str(warning.message) for warning in caught]

    with ours, theirs:
        same_as_stock(main)


@pytest.mark.parametrize("direction", ["receive", "send"])
def test_signal_receiver_with_operations_in_flight(direction: str, run: Run) -> None:
    """A signal that is handled by a task ends no other task's operation."""

    async def main() -> None:
        a, b = half_foreign_pair()
        data = pattern(3_000_000)
        with a, b:
            async with trio.open_nursery() as nursery:
                got = bytearray()

                async def work() -> None:
                    if direction == "send":
                        await trio.SocketStream(a).send_all(data)
                    else:
                        got.extend(await a.recv(10))

                nursery.start_soon(work)
                await trio.testing.wait_all_tasks_blocked()
                with trio.open_signal_receiver(signal.SIGUSR1) as signals:
                    for how in (signal.raise_signal, lambda n: os.kill(os.getpid(), n)) * 10:
                        how(signal.SIGUSR1)
                        assert await signals.__anext__() == signal.SIGUSR1
                assert statistics().operations_in_flight >= 2
                if direction == "send":
                    while len(got) < len(data):
                        got += take_now(b) or b""
                        await trio.sleep(0)
                else:
                    b.send(data[:10])
            assert got == data[: len(got)]
            assert len(got) in (10, len(data))

    run(main)


@pytest.mark.parametrize("place", ["abort", "process_events", "get_events", "reschedule"])
def test_keyboard_interrupt_inside_the_run_loop(
    place: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Trio calls us: it shows in the main task, and the run is whole."""
    owner, name = {
        "abort": (trio_lio._manager.Operation, "abort"),
        "process_events": (trio_lio._manager.LioIOManager, "process_events"),
        "get_events": (trio_lio._manager.LioIOManager, "get_events"),
        "reschedule": (trio_lio._manager.LioIOManager, "_value"),
    }[place]
    real = getattr(owner, name)
    hits = 0

    def interrupted(*args: Any) -> Any:
        nonlocal hits
        if hits < 3 and armed:
            hits += 1
            signal.raise_signal(signal.SIGINT)
        return real(*args)

    armed = False
    # An operation makes its message once, of the method that the class has then.
    monkeypatch.setattr(owner, name, interrupted)

    async def main() -> None:
        nonlocal armed
        a, b = half_foreign_pair()
        sent, got = bytearray(), bytearray()

        @trio.lowlevel.enable_ki_protection
        async def receive() -> None:
            got.extend(await a.recv(10))

        @trio.lowlevel.enable_ki_protection
        def send(data: bytes) -> None:
            sent.extend(data[: b.send(data)])

        with a, b:
            for number in range(3):
                armed = True
                try:
                    with trio.move_on_after(0.01):
                        await receive()
                    send(b"%d" % number)
                    await receive()
                    await trio.sleep(0.01)
                except KeyboardInterrupt:
                    pass
                armed = False
                await trio.sleep(0)
            send(b"!")
            while len(got) < len(sent):
                await receive()
            assert got == sent

    try:
        run(main)
    except KeyboardInterrupt:
        pass  # the last one, if it came when nobody was left to catch it
    assert hits


def test_many_signals_do_not_disturb_the_traffic(run: Run) -> None:
    """Each interrupts whatever system call is under way."""

    async def main() -> None:
        a, b = tcp_pair()
        data = pattern(3_000_000)
        got = bytearray()
        with a, b:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.SocketStream(a).send_all, data)
                while len(got) < len(data):
                    got += await b.recv(50_000)
                    if len(got) % 7 == 0:
                        await trio.sleep(0.001)
        assert got == data

    with signals_every(0.0005, signal.SIGUSR1) as hits:
        run(main)
        run(trio.sleep, 0.1)
    assert len(hits) > 10


def test_timer_signal_does_not_end_a_sleep_early(run: Run) -> None:
    async def main() -> float:
        start = time.monotonic()
        await trio.sleep(0.2)
        return time.monotonic() - start

    with signals_every(0.01, signal.SIGVTALRM, threading.get_ident()) as hits:
        assert 0.19 < run(main) < 5
    assert len(hits) > 3


def test_sigpipe_never_kills(run: Run) -> None:
    """Even where the process has asked to die of it."""

    async def main() -> None:
        for call in (
            lambda a: a.send(b"x"),
            lambda a: a.sendmsg([b"x"]),
            lambda a: trio.SocketStream(a).send_all(b"x"),
            lambda a: trio.SocketStream(a).send_all(pattern(3_000_000)),
        ):
            a, b = half_foreign_pair()
            with a:
                b.close()
                with pytest.raises((BrokenPipeError, trio.BrokenResourceError)):
                    await call(a)
            a, b = half_foreign_pair()
            with a, b:
                async with trio.open_nursery() as nursery:

                    async def send(a: Any = a, call: Any = call) -> None:
                        try:
                            while True:
                                await call(a)
                        except (
                            BrokenPipeError,
                            ConnectionResetError,
                            trio.BrokenResourceError,
                        ):
                            pass

                    nursery.start_soon(send)
                    await trio.testing.wait_all_tasks_blocked()
                    take_now(b, 100)
                    b.close()

    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        run(main)
    finally:
        signal.signal(signal.SIGPIPE, before)
