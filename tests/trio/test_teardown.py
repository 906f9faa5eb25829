"""However a run ends: nothing is leaked, nothing of the next run is harmed."""

from __future__ import annotations

import contextlib
import gc
import os
import socket as stdlib_socket
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from ..common import open_fds, pattern, sees_end, take_now
from .support import drop_what_is_not_here, half_foreign_pair, tcp_listener, tcp_pair

Run = Callable[..., Any]


async def start_everything(nursery: trio.Nursery) -> list[Any]:
    """Operations of every kind in flight; returns the sockets, for the test to close."""
    socks: list[Any] = []
    calls: dict[str, Callable[[Any], Any]] = {
        "recv": lambda a: a.recv(100),
        "recv_into": lambda a: a.recv_into(bytearray(100)),
        "recv large": lambda a: a.recv(1_000_000),
        "recvfrom": lambda a: a.recvfrom(100),
        "recvmsg": lambda a: a.recvmsg(100, 100),
        "recvmsg_into": lambda a: a.recvmsg_into([bytearray(100)]),
        "send_all": lambda a: trio.SocketStream(a).send_all(pattern(5_000_000)),
        "sendmsg": lambda a: a.sendmsg([pattern(5_000_000), b"x"]),
        "wait_readable": lambda a: trio.lowlevel.wait_readable(a),
    }
    drop_what_is_not_here(calls)
    for call in calls.values():
        a, b = half_foreign_pair()
        socks += [a, b]
        nursery.start_soon(call, a)
    listener = await tcp_listener()
    socks.append(listener)
    nursery.start_soon(listener.accept)
    if sys.platform == "win32":
        dgram, other = (stdlib_socket.socket(type=stdlib_socket.SOCK_DGRAM) for _ in range(2))
        dgram.bind(("127.0.0.1", 0))
    else:
        dgram, other = stdlib_socket.socketpair(type=stdlib_socket.SOCK_DGRAM)
    socks += [trio.socket.from_stdlib_socket(dgram), other]
    nursery.start_soon(socks[-2].recv, 100_000)
    await trio.testing.wait_all_tasks_blocked()
    return socks


def close_all(socks: list[Any]) -> None:
    for sock in socks:
        getattr(sock, "_sock", sock).close()


async def use() -> None:
    a, b = tcp_pair()
    with a, b:
        await a.send(b"x")
        assert await b.recv(10) == b"x"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_main_raises_with_operations_in_flight(error: type[BaseException], run: Run) -> None:
    socks: list[Any] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            socks.extend(await start_everything(nursery))
            raise error

    with pytest.raises(BaseException) as caught:
        run(main)
    inner = caught.value
    assert isinstance(inner, error) or isinstance(inner.exceptions[0], error)  # type: ignore[attr-defined]
    close_all(socks)
    run(use)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("how", ["clock", "schedule points"])
def test_internal_error_with_operations_in_flight(how: str, run: Run) -> None:
    """The run loop itself crashes: the tasks are abandoned where they are."""
    socks: list[Any] = []

    class Clock(trio.abc.Clock):
        broken = False

        def start_clock(self) -> None:
            pass

        def current_time(self) -> float:
            return 0.0

        def deadline_to_sleep_time(self, deadline: float) -> float:
            if self.broken:
                raise ValueError("the clock is broken")
            return 0.001

    clock = Clock()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            socks.extend(await start_everything(nursery))
            if how == "clock":
                clock.broken = True
            else:
                trio.lowlevel.current_task()._schedule_points = "hello!"  # type: ignore[assignment]
            await trio.lowlevel.checkpoint()
            await trio.sleep(0)

    for _ in range(3):
        clock.broken = False
        with pytest.raises(trio.TrioInternalError):
            run(main, clock=clock if how == "clock" else None)
        gc.collect()
        close_all(socks)
        socks.clear()
    run(use)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning")
def test_peers_see_the_end_after_an_internal_error(run: Run) -> None:
    socks: list[Any] = []

    async def main() -> None:
        a, b = half_foreign_pair()
        socks.extend([a, b])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.recv, 10)
            await trio.testing.wait_all_tasks_blocked()
            trio.lowlevel.current_task()._schedule_points = "hello!"  # type: ignore[assignment]
            await trio.lowlevel.checkpoint()

    with pytest.raises(trio.TrioInternalError):
        run(main)
    gc.collect()
    a, b = socks
    # What comes now stays in the socket: no operation of the dead run takes it.
    b.send(b"late")
    assert take_now(a._sock) == b"late"
    a._sock.close()
    assert sees_end(b)
    b.close()


def test_system_task_crashes_with_operations_in_flight(run: Run) -> None:
    socks: list[Any] = []

    async def main() -> None:
        async def crash() -> None:
            raise ValueError

        async with trio.open_nursery() as nursery:
            socks.extend(await start_everything(nursery))
            trio.lowlevel.spawn_system_task(crash)

    with pytest.raises(trio.TrioInternalError):
        run(main)
    close_all(socks)
    run(use)


def test_descriptors_of_a_run_are_gone_with_it(run: Run) -> None:
    """Ring, epoll set, wake-up: none outlives its run."""

    async def main() -> int:
        await use()
        return len(open_fds())

    before = open_fds()
    inside = run(main)
    assert inside > len(before)
    assert open_fds() == before


def test_sockets_left_open_are_still_good_after_the_run(run: Run) -> None:
    async def main() -> Any:
        a, b = half_foreign_pair()
        with trio.move_on_after(0.01):
            await a.recv(10)
        return a, b

    a, b = run(main)
    b.send(b"data")
    assert take_now(a._sock) == b"data"
    a._sock.send(b"back")
    assert take_now(b) == b"back"
    a._sock.close()
    assert sees_end(b)
    b.close()


def test_socket_that_outlives_its_run_is_collected_later(run: Run) -> None:
    async def main() -> Any:
        a, b = half_foreign_pair()
        b.send(b"x")
        await a.recv(10)
        return a, b

    a, b = run(main)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del a
        gc.collect()
    assert sees_end(b)
    b.close()


def test_accepted_while_the_run_ends(run: Run) -> None:
    """A connection that an operation has accepted and that nobody can take any more."""

    async def main() -> Any:
        listener = await tcp_listener()
        client = stdlib_socket.socket()
        client.setblocking(False)

        async def accept() -> None:
            sock, _ = await listener.accept()
            sock.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            client.connect_ex(listener.getsockname())
            nursery.cancel_scope.cancel()
        listener.close()
        return client

    for _ in range(50):
        client = run(main)
        client.setblocking(True)
        client.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""
        client.close()


def test_callbacks_after_the_run_are_refused_and_harmless(run: Run) -> None:
    async def main() -> Any:
        return trio.lowlevel.current_trio_token()

    token = run(main)
    with pytest.raises(trio.RunFinishedError):
        token.run_sync_soon(lambda: None)


def test_async_generators_are_finished_on_lio(run: Run) -> None:
    finished = []

    async def main() -> None:
        a, b = half_foreign_pair()

        async def generate() -> Any:
            try:
                while True:
                    yield await a.recv(10)
            finally:
                finished.append(a.fileno() >= 0)
                a.close()

        generator = generate()
        b.send(b"data")
        assert await generator.__anext__() == b"data"
        with contextlib.suppress(OSError):
            b.send(b"more")
        b.close()

    run(main)
    assert finished == [True]


def test_exit_with_a_run_under_way_in_a_thread(backend: str) -> None:
    """The interpreter goes down while a daemon thread waits in a run."""
    import subprocess
    import sys

    code = f"""
import threading, time, trio, trio_lio
started = threading.Event()
async def main():
    a, b = trio.socket.socketpair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.recv, 10)
        await trio.sleep(0.05)
        started.set()
        await trio.sleep_forever()
thread = threading.Thread(target=lambda: trio_lio.run(main, backend={backend!r}), daemon=True)
thread.start()
started.wait()
print("out")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=20,
        env=os.environ,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "out\n"), done.stderr
