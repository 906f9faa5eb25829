"""Guest runs: on a host of a thread and a queue, and on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket as stdlib_socket
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from outcome import Outcome, capture

import trio_lio

from ..common import pattern, sees_end, take_now
from .guest_hosts import Host, on_asyncio
from .support import half_foreign_pair, receive_exactly, statistics, tcp_pair, until

Guest = Callable[..., Any]


@pytest.fixture
def guest(backend: str) -> Guest:
    """Runs a function as a guest of a `Host`, which the function gets."""

    def run(async_fn: Any, **options: Any) -> Any:
        host = Host()
        result: list[Outcome[Any]] = []

        def in_thread() -> Any:
            host.start(async_fn, host, backend=backend, **options)
            return host.loop()

        # A guest that fails to end leaves its host's thread in a run for ever.
        thread = threading.Thread(target=lambda: result.append(capture(in_thread)), daemon=True)
        thread.start()
        thread.join()
        return result[0].unwrap()

    return run


def test_guest_run_returns_and_raises(guest: Guest, backend: str) -> None:
    async def returns(host: Host) -> str:
        await trio.lowlevel.checkpoint()
        return trio_lio.current_backend().name

    async def raises(host: Host) -> None:
        await trio.sleep(0.01)
        raise LookupError("mine")

    assert guest(returns) == backend
    with pytest.raises(LookupError, match="mine"):
        guest(raises)


def test_guest_without_a_checkpoint(guest: Guest) -> None:
    async def main(host: Host) -> int:
        return 5

    assert guest(main) == 5


def test_guest_does_io(guest: Guest) -> None:
    async def main(host: Host) -> None:
        a, b = tcp_pair()
        with a, b:
            async with trio.open_nursery() as nursery:

                async def receive() -> None:
                    assert await b.recv(10) == b"data"

                nursery.start_soon(receive)
                await trio.sleep(0.02)
                await a.send(b"data")

    guest(main)


def test_guest_carries_much_both_ways(guest: Guest) -> None:
    async def main(host: Host) -> None:
        data = pattern(2_000_000)
        a, b = tcp_pair()
        with a, b:
            async with trio.open_nursery() as nursery:

                async def receive(sock: Any) -> None:
                    assert await receive_exactly(sock, len(data)) == data

                for sock in a, b:
                    nursery.start_soon(trio.SocketStream(sock).send_all, data)
                    nursery.start_soon(receive, sock)

    guest(main)


def test_guest_with_many_operations(guest: Guest) -> None:
    async def main(host: Host) -> None:
        pairs = [half_foreign_pair() for _ in range(500)]
        got: list[bytes] = []

        async def receive(sock: Any) -> None:
            got.append(await sock.recv(10))

        async with trio.open_nursery() as nursery:
            for a, _ in pairs:
                nursery.start_soon(receive, a)
            await trio.sleep(0.05)
            for number, (_, b) in enumerate(pairs):
                b.send(number.to_bytes(4, "big"))
        assert sorted(got) == [number.to_bytes(4, "big") for number in range(500)]
        for a, b in pairs:
            a.close()
            b.close()

    guest(main, capacity=16)


def test_data_comes_while_the_other_thread_waits(guest: Guest) -> None:
    async def main(host: Host) -> None:
        a, b = half_foreign_pair()
        with a, b:
            for number in range(20):
                timer = threading.Timer(0.005, b.send, [b"%d" % number])
                timer.start()
                assert await a.recv(10) == b"%d" % number
                timer.join()

    guest(main)


def test_host_cancels_while_the_other_thread_waits(guest: Guest) -> None:
    """The abort comes from the host's thread, and nothing else wakes the other one."""

    async def main(host: Host) -> None:
        a, b = half_foreign_pair()
        with a, b:
            for call in (
                lambda: a.recv(10),
                lambda: trio.lowlevel.wait_readable(a),
                lambda: trio.SocketStream(a).receive_some(10),
                lambda: trio.SocketStream(a).send_all(pattern(5_000_000)),
            ):
                with trio.CancelScope() as scope:
                    timer = threading.Timer(0.03, host.todo.put, [scope.cancel])
                    timer.start()
                    start = time.monotonic()
                    await call()
                assert scope.cancelled_caught
                assert time.monotonic() - start < 10
                timer.join()
            with trio.move_on_after(0.01):
                await a.recv(10)

    guest(main)


def test_host_closes_a_socket_while_the_other_thread_waits(guest: Guest) -> None:
    async def main(host: Host) -> None:
        for close in (
            lambda sock: sock.close(),
            lambda sock: sock._sock.close(),
            lambda sock: trio.lowlevel.notify_closing(sock),
        ):
            a, b = half_foreign_pair()
            with a, b:
                seen: list[bool] = []

                def close_it(
                    a: Any = a, b: Any = b, close: Any = close, seen: Any = seen
                ) -> None:
                    close(a)
                    seen.append(sees_end(b) or a.fileno() >= 0)

                timer = threading.Timer(0.03, host.todo.put, [close_it])
                timer.start()
                with pytest.raises(trio.ClosedResourceError):
                    await a.recv(10)
                timer.join()
                assert seen == [True]

    guest(main)


def test_host_makes_tasks_runnable_while_the_other_thread_waits(guest: Guest) -> None:
    async def main(host: Host) -> None:
        event = trio.Event()
        threading.Timer(0.03, host.todo.put, [event.set]).start()
        await event.wait()
        event = trio.Event()
        token = trio.lowlevel.current_trio_token()
        threading.Timer(0.03, token.run_sync_soon, [event.set]).start()
        await event.wait()

    guest(main)


def test_cancel_racing_with_data_in_a_guest_run(guest: Guest) -> None:
    async def main(host: Host) -> None:
        a, b = half_foreign_pair()
        got = bytearray()
        with a, b:
            for number in range(300):
                with trio.CancelScope() as scope:

                    def race(number: int = number, scope: trio.CancelScope = scope) -> None:
                        if number % 2:
                            b.send(number.to_bytes(4, "big"))
                            scope.cancel()
                        else:
                            scope.cancel()
                            b.send(number.to_bytes(4, "big"))

                    host.todo.put(race)
                    if number % 3 == 0:
                        await trio.sleep(0)
                    got += await a.recv(100)
            got += take_now(a._sock) or b""
        # A race that the cancel won left its bytes for the next receive.
        assert got == b"".join(number.to_bytes(4, "big") for number in range(300))

    guest(main)


def test_guest_sleeps_are_punctual_and_idle(guest: Guest) -> None:
    async def main(host: Host) -> None:
        a, b = half_foreign_pair()
        with a, b:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.recv, 10)
                await trio.sleep(0.02)
                steps, start = host.steps, time.perf_counter()
                used = time.process_time()
                await trio.sleep(0.3)
                assert 0.3 <= time.perf_counter() - start < 5
                assert host.steps - steps < 10
                assert time.process_time() - used < 0.15
                nursery.cancel_scope.cancel()

    guest(main)


def test_autojump_in_a_guest_run(guest: Guest) -> None:
    async def main(host: Host) -> None:
        a, b = half_foreign_pair()
        with a, b:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.recv, 10)
                await trio.sleep(10_000)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()

    guest(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


def test_half_closed_peer_in_a_guest_run(guest: Guest) -> None:
    async def main(host: Host) -> None:
        a, b = tcp_pair()
        data = pattern(3_000_000)
        with a, b:
            b.shutdown(stdlib_socket.SHUT_WR)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.SocketStream(a).send_all, data)
                await trio.sleep(0.05)
                steps, used = host.steps, time.process_time()
                await trio.sleep(0.2)
                assert host.steps - steps < 20
                assert time.process_time() - used < 0.1
                assert await receive_exactly(b, len(data)) == data

    guest(main)


def test_host_starts_io_before_the_first_wait(backend: str) -> None:
    """Between the start and the host's first turn; and the run ends while a thread waits."""
    host = Host()
    a, b = half_foreign_pair()

    async def main() -> bytes:
        with a, b:
            return bytes(await a.recv(10))

    host.start(main, backend=backend)
    b.send(b"early")
    assert host.loop() == b"early"


def test_guest_runs_one_after_the_other_and_nested_installs(backend: str) -> None:
    for _ in range(20):
        host = Host()

        async def main() -> None:
            a, b = tcp_pair()
            with a, b:
                await a.send(b"x")
                assert await b.recv(10) == b"x"

        host.start(main, backend=backend)
        with trio_lio.installed(backend):
            host.loop()


def test_plain_start_guest_run_while_installed(backend: str) -> None:
    host = Host()

    async def main() -> str:
        a, b = tcp_pair()
        with a, b:
            await a.send(b"x")
            assert await b.recv(10) == b"x"
        return trio_lio.current_backend().name

    with trio_lio.installed(backend):
        trio.lowlevel.start_guest_run(
            main, run_sync_soon_threadsafe=host.todo.put, done_callback=host.done
        )
        assert host.loop() == backend


def test_failed_start_leaves_nothing_behind(backend: str) -> None:
    with pytest.raises(TypeError):
        trio_lio.start_guest_run(
            trio.sleep,
            0,
            run_sync_soon_threadsafe=print,
            done_callback=print,
            backend=backend,
            nonsense=1,
        )


def test_guest_and_a_run_in_another_thread(backend: str) -> None:
    a, b = half_foreign_pair()
    other = trio.socket.from_stdlib_socket(b)
    host = Host()

    async def receive() -> bytes:
        return bytes(await receive_exactly(a, 100_000))

    async def send() -> None:
        await trio.SocketStream(other).send_all(pattern(100_000))

    host.start(receive, backend=backend)
    thread = threading.Thread(target=lambda: trio_lio.run(send, backend=backend))
    thread.start()
    assert host.loop() == pattern(100_000)
    thread.join()
    a._sock.close()
    b.close()


def test_second_guest_in_one_thread_is_refused(backend: str) -> None:
    """As on stock Trio; and the first one goes on."""
    first, second = Host(), Host()

    async def main() -> str:
        await trio.sleep(0.02)
        return trio_lio.current_backend().name

    first.start(main, backend=backend)
    with pytest.raises(RuntimeError, match="Attempted to call run"):
        second.start(main, backend=backend)
    with pytest.raises(RuntimeError, match="Attempted to call run"):
        trio_lio.run(main, backend=backend)
    assert first.loop() == backend


# -- abandoned -------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [False, True], ids=["at its start", "while it waits"])
def test_abandoned_guest_run(waits: bool, backend: str) -> None:
    """The host goes away in the midst: no crash, and other runs work. In a process of its own,
    because the guest never says that it is done.
    """
    import os
    import subprocess
    import sys

    code = f"""
import gc, queue, threading, trio, trio_lio, warnings
warnings.simplefilter("ignore")
todo = queue.Queue()
async def main():
    a, b = trio.socket.socketpair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.recv, 10)
        await trio.sleep(3600)
trio_lio.start_guest_run(main, run_sync_soon_threadsafe=todo.put,
    done_callback=print, backend={backend!r})
if {waits}:
    for _ in range(8):
        try:
            todo.get(timeout=0.2)()
        except queue.Empty:
            break
del todo, main
for _ in range(4):
    gc.collect()
async def use():
    a, b = trio.socket.socketpair()
    with a, b:
        await a.send(b"x")
        return await b.recv(10)
def run():
    print(trio_lio.run(use, backend={backend!r}), flush=True)
# As on stock Trio, the thread that was the host's is in a run for ever.
thread = threading.Thread(target=run)
thread.start()
thread.join()
threading.Timer(0.1, __import__("os")._exit, [0]).start()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=20,
        env=os.environ,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "b'x'\n", done.stderr


# -- asyncio ---------------------------------------------------------------------------


def test_on_asyncio_both_do_io(backend: str) -> None:
    async def main() -> str:
        a, b = half_foreign_pair()
        b.setblocking(False)
        with a, b:
            loop = asyncio.get_running_loop()

            async def asyncio_side() -> None:
                for _ in range(50):
                    data = await loop.sock_recv(b, 100)
                    await loop.sock_sendall(b, data.upper())

            task = loop.create_task(asyncio_side())
            for number in range(50):
                await a.send(b"x%d" % number)
                assert await a.recv(100) == b"X%d" % number
            await until(task.done, "asyncio's side is not done")
        return trio_lio.current_backend().name

    assert on_asyncio(main, backend=backend) == backend


def test_on_asyncio_serve_tcp(backend: str) -> None:
    async def main() -> None:
        async def echo(stream: Any) -> None:
            async for data in stream:
                await stream.send_all(data)

        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(
                lambda task_status: trio.serve_tcp(
                    echo, 0, host="127.0.0.1", task_status=task_status
                )
            )
            port = listener.socket.getsockname()[1]

            async def client(number: int) -> None:
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(pattern(50_000, number))
                    await stream.send_eof()
                    got = b"".join([data async for data in stream])
                    assert got == pattern(50_000, number)

            async with trio.open_nursery() as clients:
                for number in range(30):
                    clients.start_soon(client, number)
            assert statistics().tasks_waiting_read >= 1
            nursery.cancel_scope.cancel()

    on_asyncio(main, backend=backend)


def test_on_asyncio_cancelled_from_asyncio(backend: str) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b, trio.CancelScope() as scope:
            asyncio.get_running_loop().call_later(0.03, scope.cancel)
            await a.recv(10)
        assert scope.cancelled_caught

    on_asyncio(main, backend=backend)


def test_on_asyncio_raises(backend: str) -> None:
    async def main() -> None:
        await trio.sleep(0)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        on_asyncio(main, backend=backend)


def test_collection_of_a_finished_guest(backend: str) -> None:
    """Nothing of a guest run is kept once it is done."""
    import weakref

    host = Host()
    seen: list[Any] = []

    async def main() -> None:
        manager = trio._core._run.GLOBAL_RUN_CONTEXT.runner.io_manager
        seen.append(weakref.ref(manager))
        await trio.sleep(0)

    host.start(main, backend=backend)
    host.loop()
    del host
    with warnings.catch_warnings(), contextlib.suppress(NameError):
        gc.collect()
    assert seen[0]() is None
