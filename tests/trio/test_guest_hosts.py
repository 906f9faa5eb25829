"""Guest runs and their hosts: who touches what, signals, hosts that go away."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from outcome import Outcome

import trio_lio
import trio_lio._manager
import trio_lio._plain
import trio_lio._socket
import trio_lio._stream
import trio_lio.lowlevel
from trio_lio import _inner
from trio_lio._native import ffi, lib

from ..common import pattern
from .guest_hosts import on_asyncio, on_queue
from .support import half_foreign_pair, receive_signals, send_through, signals_every, tcp_pair

Start = Callable[..., Any]


@pytest.fixture(params=[on_queue, on_asyncio], ids=["queue", "asyncio"])
def guest(request: pytest.FixtureRequest, backend: str) -> Start:
    def run(async_fn: Any, *args: Any, **options: Any) -> Any:
        return request.param(async_fn, *args, backend=backend, **options)

    return run


# -- who touches what ------------------------------------------------------------------


def watch_fast(request: pytest.FixtureRequest, watched: Any) -> None:
    """Has the C of `_fast` call Python instead of the core."""
    fast = _inner.fast
    if fast is None:
        return
    real = [ffi.addressof(lib, name) for name in _inner.FUNCTIONS]
    request.addfinalizer(lambda: _inner.configure(fast, *real))
    calls = [
        ffi.callback(ffi.typeof(function), getattr(watched, name))
        for function, name in zip(real, _inner.FUNCTIONS, strict=True)
    ]
    request.addfinalizer(calls.clear)
    _inner.configure(fast, *calls)


def test_waiting_thread_only_waits(
    guest: Start, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Of all calls into the core, the thread that waits makes one that is for it. By one more
    it learns that it is not the owner: that one is refused."""
    real = trio_lio._manager.lib
    here: set[str] = set()
    elsewhere: set[str] = set()
    refused: set[str] = set()
    host = threading.get_ident()

    class Watched:
        def __getattr__(self, name: str) -> Any:
            function = getattr(real, name)
            if not callable(function):
                return function

            def call(*args: Any) -> Any:
                result = function(*args)
                if threading.get_ident() == host:
                    here.add(name)
                else:
                    (refused if result == -errno.EPERM else elsewhere).add(name)
                return result

            return call

    for module in trio_lio._manager, trio_lio._socket, trio_lio._stream, trio_lio.lowlevel:
        if hasattr(module, "lib"):
            monkeypatch.setattr(module, "lib", Watched())
    monkeypatch.setattr(trio_lio._plain, "_wait", Watched().lio_py_wait)
    watch_fast(request, Watched())

    async def main() -> None:
        a, b = tcp_pair()
        with a, b:
            await send_through(a, b, pattern(300_000))
            with trio.move_on_after(0.01):
                await a.recv(10)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio_lio.lowlevel.recv, b.fileno(), 10)
                await trio.sleep(0.01)
                await trio.to_thread.run_sync(trio.from_thread.run, trio.sleep, 0)
                await a.send(b"x")
            await trio.sleep(0.01)

    guest(main)
    assert "lio_py_wait_ready" in elsewhere
    assert elsewhere <= {"lio_py_wait_ready", "lio_wake"}
    assert refused <= {"lio_py_wait"}
    assert here >= {"lio_py_wait", "lio_cancel"}


# -- signals ---------------------------------------------------------------------------


@pytest.fixture
def python_handles_sigint() -> Any:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_signal_receiver_in_a_guest_run(guest: Start) -> None:
    """While the other thread waits in the kernel, and while it does not."""

    guest(receive_signals)


@pytest.mark.usefixtures("python_handles_sigint")
def test_keyboard_interrupt_ends_a_guest_run(backend: str) -> None:
    """On a host that leaves signals to Trio, and while the guest's thread waits."""

    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            timer = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT])
            timer.start()
            try:
                await a.recv(10)
            finally:
                timer.join()
                b.send(b"still good")
                with trio.CancelScope(shield=True):
                    assert await a.recv(10) == b"still good"

    with pytest.raises(KeyboardInterrupt):
        on_queue(main, backend=backend)


@pytest.mark.usefixtures("python_handles_sigint")
def test_keyboard_interrupt_on_asyncio_is_asyncios(backend: str) -> None:
    """asyncio.run handles SIGINT itself: its task is cancelled, and takes the guest with it."""
    seen: list[str] = []

    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            try:
                await a.recv(10)
            except trio.Cancelled:
                seen.append("cancelled")
                raise

    async def host() -> None:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[Any] = loop.create_future()
        scope = trio.CancelScope()

        async def guest() -> None:
            with scope:
                await main()

        trio_lio.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=over.set_result,
            host_uses_signal_set_wakeup_fd=True,
            restrict_keyboard_interrupt_to_checkpoints=True,
            backend=backend,
        )
        loop.call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
        try:
            (await asyncio.shield(over)).unwrap()
        except asyncio.CancelledError:
            scope.cancel()
            (await over).unwrap()
            raise

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(host())
    # Before Python 3.11 asyncio does nothing about the signal: Trio's handler has it, and it is
    # what the guest comes to.
    assert seen == ["cancelled"] or sys.version_info < (3, 11)


def test_signals_while_the_other_thread_waits_disturb_nothing(guest: Start) -> None:
    async def main() -> None:
        a, b = tcp_pair()
        with a, b:
            await send_through(a, b, pattern(1_000_000))
            await trio.sleep(0.1)

    with signals_every(0.001, signal.SIGUSR1) as hits:
        guest(main)
    assert len(hits) > 5


# -- hosts that go away ----------------------------------------------------------------


def python(program: str, backend: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program), backend],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


HOST_GOES = """
import asyncio, gc, os, sys, threading, trio, trio_lio
backend = sys.argv[1]
async def guest():
    a, b = trio.socket.socketpair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.recv, 10)
        await {wait}
async def host():
    loop = asyncio.get_running_loop()
    trio_lio.start_guest_run(guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        run_sync_soon_not_threadsafe=loop.call_soon, done_callback=print,
        host_uses_signal_set_wakeup_fd=True, backend=backend)
    await asyncio.sleep(0.05)
asyncio.run(host())
# The loop is closed. The thread that waits will find nobody to tell.
for _ in range(3):
    gc.collect()
async def use():
    a, b = trio.socket.socketpair()
    with a, b:
        await a.send(b"x")
        return await b.recv(10)
thread = threading.Thread(target=lambda: print(trio_lio.run(use, backend=backend)))
thread.start()
thread.join()
"""


@pytest.mark.parametrize("wait", ["trio.sleep_forever()", "trio.sleep(0.2)"])
def test_asyncio_is_over_before_its_guest(wait: str, backend: str) -> None:
    """As on stock Trio the guest is abandoned: no crash, no hang, others run on."""
    done = python(HOST_GOES.format(wait=wait), backend)
    assert (done.returncode, done.stdout) == (0, "b'x'\n"), done.stderr


def test_host_raises_in_the_midst(backend: str) -> None:
    """The host's own callback fails; the guest goes on with the next turn of the loop."""
    todo: queue.Queue[Any] = queue.Queue()
    over: list[Outcome[Any]] = []

    async def main() -> bytes:
        a, b = half_foreign_pair()
        with a, b:
            todo.put(lambda: 1 / 0)
            b.send(b"data")
            return bytes(await a.recv(10))

    trio_lio.start_guest_run(
        main, run_sync_soon_threadsafe=todo.put, done_callback=over.append, backend=backend
    )
    failures = 0
    while not over:
        try:
            todo.get(timeout=60)()
        except ZeroDivisionError:
            failures += 1
    assert failures == 1
    assert over[0].unwrap() == b"data"


def test_abandoned_guests_are_many(backend: str) -> None:
    """Each with an operation in flight; none harms the process or the guest that follows."""
    program = """
    import gc, os, queue, sys, threading, trio, trio_lio
    backend = sys.argv[1]
    async def main():
        a, b = trio.socket.socketpair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.recv, 10)
            nursery.start_soon(trio.lowlevel.wait_readable, b.fileno())
            await trio.sleep(3600)
    def abandon(steps):
        todo = queue.Queue()
        trio_lio.start_guest_run(main, run_sync_soon_threadsafe=todo.put,
            done_callback=print, backend=backend)
        for _ in range(steps):
            try:
                todo.get(timeout=0.05)()
            except queue.Empty:
                break
    for steps in range(12):
        # A thread that was a host is in a run for ever.
        thread = threading.Thread(target=abandon, args=[steps])
        thread.start()
        thread.join()
        gc.collect()
    async def use():
        a, b = trio.socket.socketpair()
        with a, b:
            await a.send(b"x")
            return await b.recv(10)
    print(trio_lio.run(use, backend=backend), flush=True)
    os._exit(0)
    """
    done = python(program, backend)
    assert (done.returncode, done.stdout) == (0, "b'x'\n"), done.stderr


def test_guest_leaves_nothing_in_place(guest: Start, backend: str) -> None:
    before = trio._core._run.TheIOManager

    async def main() -> str:
        await trio.sleep(0)
        return trio_lio.current_backend().name

    for _ in range(3):
        assert guest(main) == backend
    gc.collect()
    assert trio._core._run.TheIOManager is before
