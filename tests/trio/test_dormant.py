"""A run whose backend is made when it is first needed, and what happens when it cannot be."""

from __future__ import annotations

import errno
import os
import platform
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

import trio_lio
from trio_lio import _dormant
from trio_lio._manager import LioIOManager
from trio_lio._statistics import add_close_listener, remove_close_listener

from ..common import open_fds
from .conftest import VARIANTS
from .guest_hosts import Host
from .support import statistics, tcp_pair
from .test_fallback import ARCHITECTURES, FILTER, USE, python

if sys.platform == "linux":
    import resource
else:
    pytest.skip("only Linux has backends that are made late", allow_module_level=True)

Run = Callable[..., Any]

KINDS = ("anon_inode:[io_uring]", "anon_inode:[eventpoll]")


def of_backends() -> list[str]:
    """The descriptors of backends that are open now."""
    return sorted(kind for kind in open_fds().values() if kind in KINDS)


def manager() -> LioIOManager:
    found = trio._core._run.GLOBAL_RUN_CONTEXT.runner.io_manager
    assert type(found) is LioIOManager
    return found


@pytest.fixture(params=["uring", "epoll", "uring-old-kernel"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Those of which a run may begin without one: one was made before."""
    name, without = VARIANTS[request.param]
    monkeypatch.setenv("TRIO_LIO_URING_WITHOUT", without)
    monkeypatch.delenv("TRIO_LIO_BACKEND", raising=False)
    info = trio_lio._native.probe(name)
    if not info.available:
        pytest.skip(f"{name}: {info.reason}")
    trio_lio.run(trio.sleep, 0, backend=name)
    return name


@pytest.fixture
def no_descriptors() -> Iterator[Callable[[bool], None]]:
    """Takes every free descriptor number away, and gives them back."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def switch(none: bool) -> None:
        # Below the numbers that are reserved for a backend, too.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3 if none else limits[0], limits[1]))

    yield switch
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# -- when it is made ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uring", "epoll"])
def test_first_run_of_a_process_makes_it_at_once(name: str) -> None:
    done = python(
        textwrap.dedent("""
        import contextlib, os, sys, trio, trio_lio
        async def main():
            found = 0
            for fd in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    what = os.readlink(f"/proc/self/fd/{fd}")
                    found += "io_uring" in what or "eventpoll" in what
            print(found)
        for _ in range(3):
            try:
                trio_lio.run(main, backend=sys.argv[1])
            except trio_lio.BackendUnavailable as exc:
                print("no", sys.argv[1], "here:", exc)
                raise SystemExit(77)
        """),
        name,
    )
    assert done.stdout.split() == ["1", "0", "0"], done.stderr


def test_run_without_operations_makes_none(run: Run, backend: str) -> None:
    async def main() -> trio_lio.BackendInfo:
        assert of_backends() == before
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)
        assert of_backends() == before
        assert manager().dormant
        return trio_lio.current_backend()

    before = of_backends()
    info = run(main)
    assert (info.name, info.available, info.reason) == (backend, True, "asked for")


def test_what_is_said_of_it_before_and_after_is_the_same(run: Run) -> None:
    async def main() -> None:
        before = trio_lio.current_backend(), manager().receive_max, manager().capacity
        await trio.sleep(0.001)
        assert not manager().dormant
        assert before == (
            trio_lio.current_backend(),
            manager().receive_max,
            manager().capacity,
        )

    run(main, capacity=300)


@pytest.mark.parametrize(
    "use",
    [
        lambda: trio.sleep(0.001),
        lambda: trio.open_file(__file__),
        lambda: trio.Path(__file__).stat(),
        lambda: trio_lio.lowlevel.nop(),
        lambda: tcp_pair()[0].send(b"x"),
    ],
    ids=["sleep", "open_file", "stat", "nop", "send"],
)
def test_first_use_makes_it(run: Run, use: Callable[[], Any]) -> None:
    async def main() -> Any:
        assert manager().dormant
        made = await use()
        assert not manager().dormant
        assert statistics().batches >= 0
        if hasattr(made, "aclose"):
            await made.aclose()

    run(main)


def test_a_run_that_goes_on_makes_it(run: Run) -> None:
    """With a backend a tick is cheaper; a run of thousands of them is not empty."""

    async def main() -> None:
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert not manager().dormant

    run(main)


def test_wait_for_a_users_descriptor_is_the_backends(run: Run) -> None:
    async def main() -> None:
        a, b = os.pipe()
        with trio.move_on_after(0):
            await trio.lowlevel.wait_readable(a)
        os.write(b, b"x")
        await trio.lowlevel.wait_readable(a)
        assert not manager().dormant
        trio.lowlevel.notify_closing(a)
        os.close(a)
        os.close(b)

    run(main)


def test_another_user_and_a_child_make_their_own_at_once(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _dormant.recall(backend) is not None
    for name in "getpid", "geteuid", "getegid":
        with monkeypatch.context() as changed:
            changed.setattr(os, name, lambda: 123_456)
            assert _dormant.recall(backend) is None
    monkeypatch.setenv("TRIO_LIO_URING_WITHOUT", "no_iowait")
    assert _dormant.recall(backend) is None


def test_runs_with_faults_are_never_without(run: Run) -> None:
    async def main() -> bool:
        return manager().dormant

    with trio_lio.testing.faults(seed=1):
        assert not run(main)
    assert run(main)


# -- what reaches it ---------------------------------------------------------------------


def test_callback_from_a_thread_between_two_checkpoints(run: Run) -> None:
    """Nothing but a look at Trio's own socket tells of it."""

    async def main() -> None:
        token = trio.lowlevel.current_trio_token()
        came: list[bool] = []
        await trio.lowlevel.checkpoint()
        thread = threading.Thread(target=token.run_sync_soon, args=(came.append, True))
        thread.start()
        thread.join()
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        assert came
        assert manager().dormant

    run(main)


def test_idle_means_that_no_callback_waits(run: Run) -> None:
    """wait_all_tasks_blocked is not to return while one does."""

    async def main() -> None:
        token = trio.lowlevel.current_trio_token()
        done = trio.Event()

        async def waits() -> None:
            await done.wait()
            await trio.sleep(3600)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits)
            await trio.lowlevel.checkpoint()
            token.run_sync_soon(done.set)
            await trio.testing.wait_all_tasks_blocked(0)
            assert done.is_set()
            nursery.cancel_scope.cancel()

    run(main)


def test_clock_that_jumps_needs_none(run: Run) -> None:
    async def main() -> None:
        await trio.sleep(10_000)
        assert trio.current_time() >= 10_000
        assert manager().dormant

    run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_host_reaches_a_guest_that_has_none(backend: str) -> None:
    """The thread that waits for a guest makes no backend: it does not own it."""
    host = Host()
    scope: list[trio.CancelScope] = []
    seen: list[bool] = []

    async def main() -> None:
        with trio.CancelScope() as here:
            scope.append(here)
            await trio.sleep_forever()
        seen.append(manager().dormant)
        with trio.move_on_after(0.01):
            await trio.sleep_forever()
        seen.append(manager().dormant)

    host.start(main, backend=backend)
    threading.Timer(0.1, host.todo.put, [lambda: scope[0].cancel()]).start()
    host.loop()
    assert seen == [True, True]


def test_last_statistics_of_a_run_without(run: Run, backend: str) -> None:
    found: list[Any] = []
    add_close_listener(found.append)
    try:
        run(trio.sleep, 0, capacity=77)
    finally:
        remove_close_listener(found.append)
    [last] = found
    assert last.backend == f"lio-{backend}"
    assert (last.capacity, last.operations_pushed) == (77, 0)
    assert 0 < last.syscalls < 10  # looks at Trio's socket


def test_trios_own_wait_is_counted_before_and_after(run: Run) -> None:
    async def main() -> None:
        await trio.lowlevel.checkpoint()
        before = statistics()
        assert (before.tasks_waiting_read, before.operations_in_flight) == (1, 1)
        await trio.sleep(0.001)
        after = statistics()
        assert (after.tasks_waiting_read, after.operations_in_flight) == (1, 1)

    run(main)


def test_closing_without_any(run: Run) -> None:
    async def main() -> None:
        a, b = os.pipe()
        trio.lowlevel.notify_closing(a)
        os.close(a)
        trio_lio.lowlevel.close_fd(b)
        with pytest.raises(OSError) as caught:
            trio_lio.lowlevel.close_fd(b)
        assert caught.value.errno == errno.EBADF
        assert manager().dormant

    run(main)


def test_numbers_are_taken_at_the_beginning(run: Run, backend: str) -> None:
    """Where a number was closed and somebody still believes in it, no ring comes instead."""

    async def main() -> None:
        assert manager().dormant
        before = set(open_fds())
        a, b = os.pipe()
        os.close(a)
        os.close(b)
        await trio.sleep(0.001)
        assert not manager().dormant
        found = open_fds()
        assert found.keys() == before
        assert len(of_backends()) == others + 1

    others = len(of_backends())
    run(main)


def test_last_descriptors_of_a_process_are_enough(run: Run) -> None:
    """Every other one is taken before there is a backend."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> None:
        a, b = os.pipe()
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            with pytest.raises(OSError):
                os.dup(0)
            assert await trio_lio.lowlevel.write(b, b"x") == 1
            assert await trio_lio.lowlevel.read(a, 10) == b"x"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in a, b:
            trio_lio.lowlevel.close_fd(fd)

    before = open_fds()
    run(main)
    assert open_fds() == before


def test_want_of_descriptors_at_the_beginning(
    run: Run, no_descriptors: Callable[[bool], None]
) -> None:
    no_descriptors(True)
    with pytest.raises(OSError, match="cannot make the") as caught:
        run(trio.sleep, 0)
    no_descriptors(False)
    assert caught.value.errno == errno.EMFILE


# -- when it cannot be made --------------------------------------------------------------


def test_want_of_descriptors_shows_in_the_operation(
    run: Run, backend: str, no_descriptors: Callable[[bool], None]
) -> None:
    """It has no effect, and goes well as soon as there are some."""

    async def main() -> None:
        a, b = os.pipe()
        no_descriptors(True)
        for _ in range(3):
            with pytest.raises(OSError, match=f"cannot make the '{backend}' backend") as caught:
                await trio_lio.lowlevel.write(b, b"lost?")
            assert caught.value.errno == errno.EMFILE
            with pytest.raises(OSError, match="cannot make"):
                await trio.lowlevel.wait_readable(a)
            assert manager().dormant
        no_descriptors(False)
        assert await trio_lio.lowlevel.write(b, b"kept") == 4
        assert await trio_lio.lowlevel.read(a, 100) == b"kept"
        for fd in a, b:
            trio_lio.lowlevel.close_fd(fd)

    before = open_fds()
    run(main)
    no_descriptors(False)
    assert open_fds() == before


def test_sockets_without_descriptors_are_trios_own(
    run: Run, no_descriptors: Callable[[bool], None]
) -> None:
    """What need not wait succeeds, as on stock Trio; what has to says why it cannot."""

    async def main() -> None:
        a, b = tcp_pair()
        no_descriptors(True)
        assert await a.send(b"x") == 1
        with pytest.raises(OSError, match="cannot make"):
            await a.recv(1)
        no_descriptors(False)
        assert await b.recv(10) == b"x"
        a.close()
        b.close()

    run(main)


def test_without_descriptors_a_run_sleeps_and_is_woken(
    run: Run, no_descriptors: Callable[[bool], None]
) -> None:
    async def main() -> None:
        no_descriptors(True)
        before = trio.current_time()
        await trio.sleep(0.03)
        assert trio.current_time() - before >= 0.03
        assert await trio.to_thread.run_sync(int, "7") == 7
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert manager().dormant
        no_descriptors(False)
        await trio.sleep(0.001)
        assert not manager().dormant

    run(main)


def test_file_is_closed_all_the_same(
    run: Run, no_descriptors: Callable[[bool], None], tmp_path: Any
) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)

    async def main() -> None:
        file = await trio.open_file(fd, "wb")
        assert manager().dormant
        no_descriptors(True)
        await file.aclose()
        no_descriptors(False)
        with pytest.raises(OSError):
            os.fstat(fd)

    run(main)


def test_want_of_memory_for_trios_own_wait(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wakes up for nothing, and waits again."""

    class Short:
        left = 1

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def lio_py_push(self, *args: Any) -> int:
            if self.left:
                self.left -= 1
                return -errno.ENOMEM
            return int(real.lio_py_push(*args))

    real = trio_lio._manager.lib
    short = Short()
    monkeypatch.setattr(trio_lio._manager, "lib", short)

    async def main() -> None:
        with trio.fail_after(20):
            await trio.to_thread.run_sync(time.sleep, 0.05)
            assert short.left == 0
            assert not manager().dormant
            assert await trio.to_thread.run_sync(int, "7") == 7

    run(main)


def refused(code: str) -> list[str]:
    """Runs code in which ``deny()`` denies io_uring_setup from then on."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        pytest.skip(f"no filter for {machine}")
    deny = f"""
def deny():
    deny_io_uring({errno.EPERM}, {ARCHITECTURES[machine]})

try:
    trio_lio.run(trio.sleep, 0, backend="uring")
except trio_lio.BackendUnavailable as exc:
    print("no uring here:", exc)
    raise SystemExit(77)
"""
    done = python(FILTER + USE + deny + textwrap.dedent(code))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_refusal_in_mid_run_of_one_asked_for_by_name() -> None:
    """The operation says so, with the reason and the remedy; the run goes on."""
    lines = refused("""
        async def main():
            deny()
            for _ in range(2):
                try:
                    await trio_lio.lowlevel.nop()
                except trio_lio.BackendUnavailable as exc:
                    print(exc)
            await trio.sleep(0.001)
            print(trio_lio.current_backend().name)
        trio_lio.run(main, backend="uring")
        try:
            trio_lio.run(trio_lio.lowlevel.nop, backend="uring")
        except trio_lio.BackendUnavailable as exc:
            print(exc)
    """)
    *first, name, last = lines
    assert name == "uring"
    assert len(first) == 2
    for text in *first, last:
        assert "'uring' cannot run here" in text
        assert "EPERM" in text
        assert "epoll" in text


def test_refusal_in_mid_run_without_a_name() -> None:
    """The next backend takes its place, nothing being in flight yet, and the reason is told."""
    lines = refused("""
        import trio_lio.testing
        async def main():
            print(trio_lio.current_backend().name)
            deny()
            info = await use()
            print(info.name, "fallback" in info.reason, "EPERM" in info.reason)
            print(trio.lowlevel.current_statistics().io_statistics.backend)
        trio_lio.run(main)
        print(trio_lio.run(use).name)
        with trio_lio.testing.faults(seed=3):
            print(trio_lio.run(use).name)
    """)
    assert lines == ["uring", "epoll True True", "lio-epoll", "epoll", "epoll"]


def test_refusal_between_two_runs_with_faults() -> None:
    """Faults are laid over the backend that takes the place of the refused one."""
    lines = refused("""
        import trio_lio.testing
        trio_lio.run(use)
        deny()
        with trio_lio.testing.faults(seed=3) as injected:
            print(trio_lio.run(use).name, injected.counts.total > 0)
    """)
    assert lines == ["epoll True"]
