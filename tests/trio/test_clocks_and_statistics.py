"""MockClock, wait_all_tasks_blocked, instruments and statistics."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from trio_lio import _socket

from ..common import pattern, take_now
from .support import half_foreign_pair, statistics, tcp_pair, waiting

Run = Callable[..., Any]


# -- clocks ----------------------------------------------------------------------------


def test_autojump_with_operations_in_flight(run: Run) -> None:
    """Tasks that wait for data do not keep the clock from jumping."""

    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.recv, 10)
                start = time.monotonic()
                await trio.sleep(10_000)
                assert time.monotonic() - start < 5
                assert trio.current_time() >= 10_000
                with trio.move_on_after(500) as scope:
                    await trio.lowlevel.wait_writable(a)
                    await trio.SocketStream(a).send_all(pattern(5_000_000))
                assert scope.cancelled_caught
                nursery.cancel_scope.cancel()

    run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_autojump_happens_once_nothing_is_due(run: Run) -> None:
    """What is on its way through the kernel comes before the jump."""

    async def main() -> None:
        a, b = tcp_pair()
        with a, b:
            for number in range(300):
                with trio.fail_after(1):
                    async with trio.open_nursery() as nursery:

                        async def receive(number: int = number) -> None:
                            assert await b.recv(10) == number.to_bytes(4, "big")

                        nursery.start_soon(receive)
                        if number % 2:
                            await trio.sleep(0)
                        await a.send(number.to_bytes(4, "big"))

    run(main, clock=trio.testing.MockClock(autojump_threshold=0.005))


def test_autojump_with_a_large_transfer(run: Run) -> None:
    async def main() -> None:
        a, b = tcp_pair()
        data = pattern(3_000_000)
        got = bytearray()
        with a, b, trio.fail_after(100):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.SocketStream(a).send_all, data)
                while len(got) < len(data):
                    got += await b.recv(70_000)
        assert got == data

    run(main, clock=trio.testing.MockClock(autojump_threshold=0.02))


def test_autojump_after_cancels_and_closes(run: Run) -> None:
    """A completion that nobody waits for costs a turn, and no endless row of them."""

    async def main() -> None:
        for _ in range(50):
            a, b = half_foreign_pair()
            with trio.move_on_after(10):
                await a.recv(10)
            async with trio.open_nursery() as nursery:

                async def receive(a: Any = a) -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await a.recv(10)

                nursery.start_soon(receive)
                await trio.sleep(1)
                a.close()
            b.close()

    start = time.monotonic()
    run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert time.monotonic() - start < 10


def test_rate_of_a_mock_clock(run: Run) -> None:
    async def main() -> None:
        start = time.monotonic()
        await trio.sleep(100)
        assert time.monotonic() - start < 5

    run(main, clock=trio.testing.MockClock(rate=1000))


def test_wait_all_tasks_blocked_with_operations_in_flight(run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            async with waiting(a.recv, 10) as outcome:
                for cushion in (0, 0, 0.01, 0.05):
                    start = time.perf_counter()
                    await trio.testing.wait_all_tasks_blocked(cushion)
                    assert cushion * 0.9 <= time.perf_counter() - start < 5
                b.send(b"data")
                await trio.testing.wait_all_tasks_blocked()
                assert outcome == [("returned", b"data")]

    run(main)


def test_wait_all_tasks_blocked_waits_for_what_is_due(run: Run) -> None:
    """Two tasks that play ping-pong are not blocked."""

    async def main() -> None:
        a, b = half_foreign_pair()
        c = trio.socket.from_stdlib_socket(b)
        rounds = 0

        async def play(sock: Any, starts: bool) -> None:
            nonlocal rounds
            if starts:
                await sock.send(b"ball")
            for _ in range(200):
                assert await sock.recv(10) == b"ball"
                rounds += 1
                await sock.send(b"ball")

        with a, c:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(play, a, True)
                nursery.start_soon(play, c, False)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert rounds == 400

    run(main)


def test_timeouts_are_punctual(run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            for seconds in (0, 0.001, 0.02, 0.1):
                start = time.monotonic()
                with trio.move_on_after(seconds):
                    await a.recv(10)
                took = time.monotonic() - start
                assert seconds <= took < seconds + 2

    run(main)


def test_idle_run_uses_no_cpu(run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            async with waiting(a.recv, 10):
                before = statistics()
                start = time.process_time()
                await trio.sleep(0.3)
                assert time.process_time() - start < 0.1
                after = statistics()
                assert after.batches - before.batches < 10
                assert after.syscalls - before.syscalls < 30
                b.send(b"x")

    run(main)


def test_get_events_is_falsy_if_and_only_if_the_time_ran_out(run: Run) -> None:
    async def main() -> None:
        manager = trio._core._run.GLOBAL_RUN_CONTEXT.runner.io_manager
        seen = []
        real = manager.get_events

        def watching(timeout: float) -> Any:
            start = time.monotonic()
            events = real(timeout)
            seen.append((timeout, time.monotonic() - start, bool(events)))
            return events

        manager.get_events = watching
        a, b = tcp_pair()
        with a, b:
            for _ in range(50):
                await a.send(b"x")
                await b.recv(10)
            await trio.sleep(0.01)
            trio.lowlevel.current_trio_token().run_sync_soon(lambda: None)
            await trio.sleep(0.01)
            with trio.move_on_after(0.01):
                await a.recv(10)
        del manager.get_events
        assert any(timeout > 0 and not events for timeout, _, events in seen)
        for timeout, took, events in seen:
            if not events and timeout > 0:
                assert took >= timeout * 0.95 or timeout < 1e-6, (timeout, took)

    run(main)


# -- instruments -----------------------------------------------------------------------


def test_instruments_see_the_same_as_on_stock_trio(
    same_as_stock: Callable[..., Any],
) -> None:
    async def main() -> Any:
        class Watcher(trio.abc.Instrument):
            def __init__(self) -> None:
                self.seen: list[str] = []
                self.waits: list[str] = []

            def task_scheduled(self, task: Any) -> None:
                if task.name.endswith("work"):
                    self.seen.append("scheduled")

            def before_task_step(self, task: Any) -> None:
                if task.name.endswith("work"):
                    self.seen.append("before step")

            def after_task_step(self, task: Any) -> None:
                if task.name.endswith("work"):
                    self.seen.append("after step")

            def task_exited(self, task: Any) -> None:
                if task.name.endswith("work"):
                    self.seen.append("exited")

            def before_io_wait(self, timeout: float) -> None:
                self.waits.append("before")

            def after_io_wait(self, timeout: float) -> None:
                self.waits.append("after")

        a, b = half_foreign_pair()
        watcher = Watcher()

        async def work() -> None:
            assert await a.recv(10) == b"one"
            with trio.move_on_after(0.01):
                await a.recv(10)

        with a, b:
            trio.lowlevel.add_instrument(watcher)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work)
                await trio.testing.wait_all_tasks_blocked()
                b.send(b"one")
            trio.lowlevel.remove_instrument(watcher)
        assert watcher.waits.count("before") == watcher.waits.count("after") > 0
        return watcher.seen

    found = same_as_stock(main)
    assert "exited" in found


# -- statistics ------------------------------------------------------------------------


def test_statistics_are_a_frozen_attrs_class(backend: str, run: Run) -> None:
    async def main() -> None:
        stats = statistics()
        assert attrs.has(type(stats))
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            stats.backend = "else"
        assert stats.backend == f"lio-{backend}"
        for field in attrs.fields(type(stats)):
            value = getattr(stats, field.name)
            if field.name not in ("backend", "faults"):
                assert isinstance(value, int)
                assert value >= 0
        assert stats.faults is None
        names = {field.name for field in attrs.fields(type(stats))}
        assert names >= {
            "backend",
            "tasks_waiting_read",
            "tasks_waiting_write",
            "operations_in_flight",
            "syscalls",
        }

    run(main)


def test_statistics_count_waiting_tasks(run: Run) -> None:
    """By the rules of Trio's own test_io_manager_statistics: differences, not totals."""

    async def main() -> None:
        pairs = [half_foreign_pair() for _ in range(5)]
        async with trio.open_nursery() as nursery:
            await trio.testing.wait_all_tasks_blocked()
            before = statistics()
            a, b, c, d, e = (a for a, _ in pairs)
            nursery.start_soon(a.recv, 10)
            nursery.start_soon(trio.lowlevel.wait_readable, b)
            nursery.start_soon(trio.SocketStream(c).receive_some)
            nursery.start_soon(trio.SocketStream(d).send_all, pattern(5_000_000))
            e._sock.setblocking(False)
            while True:
                try:
                    e._sock.send(bytes(65536))
                except BlockingIOError:
                    break
            nursery.start_soon(trio.lowlevel.wait_writable, e)
            await trio.testing.wait_all_tasks_blocked()
            now = statistics()
            assert now.tasks_waiting_read - before.tasks_waiting_read == 3
            assert now.tasks_waiting_write - before.tasks_waiting_write == 2
            assert now.operations_in_flight - before.operations_in_flight == 5
            assert now.operations_pushed - before.operations_pushed >= 5
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        after = statistics()
        assert after.tasks_waiting_read == before.tasks_waiting_read
        assert after.tasks_waiting_write == before.tasks_waiting_write
        assert after.operations_in_flight == before.operations_in_flight
        assert after.operations_cancelled - before.operations_cancelled >= 4
        for a, b in pairs:
            a.close()
            b.close()

    run(main)


def test_one_tick_is_one_batch(run: Run) -> None:
    """What a hundred tasks start in one tick goes down in one native call."""

    async def main() -> None:
        pairs = [half_foreign_pair() for _ in range(100)]
        for a, b in pairs:  # known to the backend
            b.send(b"x")
            await a.recv(10)
        await trio.testing.wait_all_tasks_blocked()
        before = statistics()
        async with trio.open_nursery() as nursery:
            for a, _ in pairs:
                nursery.start_soon(a.send, b"data")
        after = statistics()
        assert after.largest_batch >= 100
        assert after.operations_pushed - before.operations_pushed == 100
        assert after.batches - before.batches <= 5
        for a, b in pairs:
            assert take_now(b) == b"data"
            a.close()
            b.close()

    run(main)


def test_echo_costs_few_system_calls(backend: str, run: Run) -> None:
    if _socket.LARGE_AT_FIRST:
        pytest.skip("a large receive is a system call by itself")
    import os

    async def main() -> float:
        pairs = [tcp_pair() for _ in range(20)]

        async def echo(sock: Any) -> None:
            while data := await sock.recv(1000):
                await sock.send(data)

        async def client(sock: Any) -> None:
            for _ in range(50):
                await sock.send(b"x" * 1000)
                await sock.recv(1000)

        async with trio.open_nursery() as nursery:
            for _, b in pairs:
                nursery.start_soon(echo, b)
            before = statistics().syscalls
            async with trio.open_nursery() as clients:
                for a, _ in pairs:
                    clients.start_soon(client, a)
            used = statistics().syscalls - before
            nursery.cancel_scope.cancel()
        for a, b in pairs:
            a.close()
            b.close()
        return used / (20 * 50)

    each = run(main)
    if backend == "uring" and not os.environ["TRIO_LIO_URING_WITHOUT"]:
        assert each < 1
