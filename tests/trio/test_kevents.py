"""current_kqueue, wait_kevent, monitor_kevent: what Trio's KqueueIOManager has in public.

On Linux, Trio's functions of these names are not in `trio.lowlevel`; they are taken from the
module that they are generated into, and Python's `select.kqueue` from tests/kqueue_on_linux.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing
from trio._core import _generated_io_kqueue as lowlevel

import trio_lio
from trio_lio._trio_compat import run_context
from trio_lio.backends import backend_names

Run = Callable[..., Any]

if "kqueue" not in backend_names():
    pytest.skip(
        "kqueue is not in this build: on Linux, TRIO_LIO_KQUEUE builds it in, for tests",
        allow_module_level=True,
    )

# What Trio's monitor_kevent gives, too.
pytestmark = pytest.mark.filterwarnings("ignore:.*UnboundedQueue.*")

select_module: Any = select


@pytest.fixture(autouse=True)
def kqueue_of_python(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not hasattr(select, "kqueue"):
        from tests.kqueue_on_linux import select_kqueue

        for name in ("kqueue", "kevent"):
            monkeypatch.setattr(select, name, getattr(select_kqueue, name), raising=False)
        for name, value in select_kqueue.CONSTANTS.items():
            monkeypatch.setattr(select, name, value, raising=False)
    return


@pytest.fixture
def run() -> Run:
    def run(async_fn: Callable[..., Any], *args: Any) -> Any:
        return trio_lio.run(async_fn, *args, backend="kqueue")

    return run


def kevent(*args: Any, **kwargs: Any) -> Any:
    return select_module.kevent(*args, **kwargs)


def register(*args: Any, **kwargs: Any) -> None:
    lowlevel.current_kqueue().control([kevent(*args, **kwargs)], 0)


def start_timer(ident: int, ms: int, flags: int = 0) -> None:
    flags |= select_module.KQ_EV_ADD
    register(ident, filter=select_module.KQ_FILTER_TIMER, flags=flags, data=ms)


def never(_: object) -> trio.lowlevel.Abort:
    raise AssertionError("nobody cancels this")


async def wait_for_timer(ident: int) -> Any:
    return await lowlevel.wait_kevent(ident, select_module.KQ_FILTER_TIMER, never)


def test_wait_kevent_brings_the_event(run: Run) -> None:
    async def main() -> None:
        assert lowlevel.current_kqueue() is lowlevel.current_kqueue()
        start_timer(4, 2, select_module.KQ_EV_ONESHOT)
        event = await wait_for_timer(4)
        assert (event.ident, event.filter) == (4, select_module.KQ_FILTER_TIMER)
        start_timer(4, 2, select_module.KQ_EV_ONESHOT)
        await wait_for_timer(4)

    run(main)


def test_many_waits_and_operations_at_once(run: Run) -> None:
    async def main() -> None:
        a, b = trio.socket.socketpair()
        async with trio.open_nursery() as nursery:
            for ident in range(1, 400):
                start_timer(ident, 1 + ident % 7, select_module.KQ_EV_ONESHOT)
                nursery.start_soon(wait_for_timer, ident)
            for i in range(100):
                await a.send(bytes([i]))
                assert await b.recv(10) == bytes([i])

    run(main)


def test_wait_kevent_cancelled(run: Run) -> None:
    asked = []

    async def main() -> None:
        start_timer(1, 60_000, select_module.KQ_EV_ONESHOT)

        def abort(_: object) -> trio.lowlevel.Abort:
            asked.append(True)
            register(1, filter=select_module.KQ_FILTER_TIMER, flags=select_module.KQ_EV_DELETE)
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.move_on_after(0.01) as scope:
            await lowlevel.wait_kevent(1, select_module.KQ_FILTER_TIMER, abort)
        assert scope.cancelled_caught
        assert asked == [True]
        start_timer(1, 1, select_module.KQ_EV_ONESHOT)
        await wait_for_timer(1)  # its place is free again

    run(main)


def test_two_that_wait_for_one(run: Run) -> None:
    async def main() -> None:
        start_timer(1, 60_000)
        with lowlevel.monitor_kevent(1, select_module.KQ_FILTER_TIMER):
            with pytest.raises(trio.BusyResourceError, match="same ident/filter"):
                await wait_for_timer(1)
            with pytest.raises(trio.BusyResourceError):
                with lowlevel.monitor_kevent(1, select_module.KQ_FILTER_TIMER):
                    pass
            statistics = trio.lowlevel.current_statistics().io_statistics
            assert (statistics.monitors, statistics.tasks_waiting_kevent) == (1, 0)
        statistics = trio.lowlevel.current_statistics().io_statistics
        assert statistics.monitors == 0

    run(main)


def test_monitor_kevent_collects(run: Run) -> None:
    async def main() -> None:
        r, w = os.pipe()
        flags = select_module.KQ_EV_ADD | select_module.KQ_EV_CLEAR
        with lowlevel.monitor_kevent(r, select_module.KQ_FILTER_READ) as queue:
            register(r, filter=select_module.KQ_FILTER_READ, flags=flags)
            for i in range(3):
                os.write(w, b"x")
                [event] = await queue.get_batch()
                assert (event.ident, event.data) == (r, i + 1)
            register(r, filter=select_module.KQ_FILTER_READ, flags=select_module.KQ_EV_DELETE)
        os.close(r)
        os.close(w)

    run(main)


def test_notify_closing_ends_a_wait(run: Run) -> None:
    async def main() -> None:
        r, w = os.pipe()
        flags = select_module.KQ_EV_ADD | select_module.KQ_EV_ONESHOT
        register(r, filter=select_module.KQ_FILTER_READ, flags=flags)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await lowlevel.wait_kevent(r, select_module.KQ_FILTER_READ, never)

            await trio.testing.wait_all_tasks_blocked()
            statistics = trio.lowlevel.current_statistics().io_statistics
            assert statistics.tasks_waiting_kevent == 1
            trio.lowlevel.notify_closing(r)
        with lowlevel.monitor_kevent(r, select_module.KQ_FILTER_READ):
            with pytest.raises(NotImplementedError, match="monitor_kevent"):
                trio.lowlevel.notify_closing(r)
        os.close(r)
        os.close(w)

    run(main)


def test_an_event_that_nobody_waits_for(run: Run) -> None:
    """Trio's run ends with a KeyError; here the error says what it is about."""

    async def main() -> None:
        lowlevel.current_kqueue()
        with pytest.raises(RuntimeError, match="ident 77"):
            run_context.runner.io_manager._kevents._hand_out(kevent(77))

    run(main)


def test_the_kqueue_ends_with_the_run(run: Run) -> None:
    async def main() -> Any:
        start_timer(1, 60_000)
        return lowlevel.current_kqueue()

    assert run(main).closed
    with pytest.raises(RuntimeError, match="must be called from async context"):
        lowlevel.current_kqueue()


def test_wait_all_tasks_blocked_is_not_disturbed(run: Run) -> None:
    """An unused kqueue is watched, and that is no event."""

    async def main() -> None:
        start_timer(1, 60_000)
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked(0.002)
        with trio.move_on_after(0.01):
            await trio.sleep_forever()

    run(main)


def test_child_processes_are_waited_for_by_kqueue(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trio's own way on these systems: EVFILT_PROC, NOTE_EXIT."""
    import trio._core
    import trio._subprocess
    from trio._subprocess_platform import kqueue as platform

    for name in ("current_kqueue", "wait_kevent"):
        monkeypatch.setattr(trio._core, name, getattr(lowlevel, name), raising=False)
    monkeypatch.setattr(trio._subprocess, "wait_child_exiting", platform.wait_child_exiting)
    monkeypatch.setattr(trio._subprocess, "can_try_pidfd_open", False)

    async def main() -> None:
        done = await trio.run_process([sys.executable, "-c", "print('x')"], capture_stdout=True)
        assert done.stdout == b"x\n"
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL
        )
        with trio.move_on_after(0.05) as scope:
            await process.wait()
        assert scope.cancelled_caught
        process.kill()
        assert await process.wait() == -signal.SIGKILL

    run(main)


def test_no_kqueue_left(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def main() -> None:
        monkeypatch.setattr(select, "kqueue", refuse, raising=False)
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                lowlevel.current_kqueue()
            assert caught.value.errno == errno.EMFILE
        monkeypatch.delattr(select, "kqueue")
        with pytest.raises(RuntimeError, match="no kqueue"):
            lowlevel.current_kqueue()

    run(main)
