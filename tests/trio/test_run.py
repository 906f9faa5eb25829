"""run, install, uninstall, installed and what tells about backends."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import trio_lio

from .support import half_foreign_pair, statistics

Run = Callable[..., Any]

BACKENDS = [info.name for info in trio_lio.available_backends() if info.available]


async def backend_in_use() -> str | None:
    try:
        return trio_lio.current_backend().name
    except RuntimeError:
        return None


async def echo(*args: Any) -> tuple[Any, ...]:
    a, b = trio.socket.socketpair()
    with a, b:
        await a.send(b"x")
        assert await b.recv(1) == b"x"
    return args


# -- run -------------------------------------------------------------------------------


def test_run_passes_arguments_and_returns_the_result(run: Run) -> None:
    assert run(echo, 1, "two") == (1, "two")


def test_run_raises_what_main_raises(run: Run) -> None:
    async def main() -> None:
        await echo()
        raise LookupError("mine")

    with pytest.raises(LookupError, match="^mine$"):
        run(main)


@pytest.mark.filterwarnings("ignore::trio.TrioDeprecationWarning")
def test_run_wraps_what_a_nursery_raises_in_a_group(run: Run) -> None:
    async def fail() -> None:
        raise LookupError("mine")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)

    for given, shape in ({}, True), ({"strict_exception_groups": False}, False):
        with pytest.raises(BaseException) as caught:
            run(main, **given)
        assert hasattr(caught.value, "exceptions") is shape


def test_run_takes_the_keyword_arguments_of_trio(run: Run) -> None:
    async def main() -> float:
        await trio.sleep(1000)
        return trio.current_time()

    clock = trio.testing.MockClock(autojump_threshold=0)
    assert run(main, clock=clock) >= 1000

    class Watcher(trio.abc.Instrument):
        spawned = 0

        def task_spawned(self, task: object) -> None:
            self.spawned += 1

    watcher = Watcher()
    run(echo, instruments=[watcher])
    assert watcher.spawned > 0
    with pytest.raises(TypeError, match="nonsense"):
        run(echo, nonsense=1)


def test_run_inside_a_run_is_refused(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="Attempted to call run"):
            run(echo)
        with pytest.raises(RuntimeError, match="Attempted to call run"):
            trio.run(echo)
        assert await backend_in_use() is not None
        await echo()

    run(main)


def test_run_of_something_that_is_not_async(run: Run) -> None:
    with pytest.raises(TypeError, match="async"):
        run(lambda: None)
    assert trio.run(backend_in_use) is None


def test_many_runs_in_a_row(run: Run) -> None:
    for number in range(100):
        assert run(echo, number) == (number,)


def test_run_after_a_failed_start_is_not_a_lio_run_by_accident(backend: str) -> None:
    """The choice for one run must not stay behind for the next when that run never began."""

    with pytest.raises(TypeError):
        trio_lio.run(echo, backend=backend, clock=1, nonsense=2)
    assert trio.run(backend_in_use) is None


def test_a_run_leaves_runs_of_stock_trio_alone(run: Run) -> None:
    """Another thread's trio.run, started meanwhile, stays a run of stock Trio."""
    answers: list[Any] = []

    def other() -> None:
        answers.append(trio.run(backend_in_use))
        answers.append(trio.run(echo, 5))

    async def main() -> None:
        await trio.to_thread.run_sync(other)
        assert await backend_in_use() is not None

    run(main)
    assert answers == [None, (5,)]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"backend": "kqueue9"}, ValueError, "kqueue9"),
        ({"backend": ""}, ValueError, "backend="),
        ({"backend": 3}, TypeError, "int"),
        ({"capacity": 0}, ValueError, "capacity"),
        ({"capacity": -5}, ValueError, "capacity"),
        ({"capacity": 1 << 21}, ValueError, "capacity"),
        ({"capacity": "many"}, TypeError, "capacity"),
        ({"capacity": True}, TypeError, "capacity"),
    ],
)
def test_wrong_options_are_refused_everywhere(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    def guest() -> None:
        trio_lio.start_guest_run(
            echo,
            run_sync_soon_threadsafe=lambda fn: None,
            done_callback=lambda outcome: None,
            **options,
        )

    def with_installed() -> None:
        with trio_lio.installed(**options):
            raise AssertionError("installed")

    for call in (
        lambda: trio_lio.run(echo, **options),
        lambda: trio_lio.install(**options),
        with_installed,
        guest,
    ):
        with pytest.raises(error, match=text):
            call()


# -- the environment variable ----------------------------------------------------------


@pytest.mark.parametrize("name", BACKENDS)
def test_variable_chooses_the_backend(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_LIO_BACKEND", name)
    assert trio_lio.run(backend_in_use) == name
    with trio_lio.installed():
        assert trio.run(backend_in_use) == name


def test_argument_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_LIO_BACKEND", "uring")
    assert trio_lio.run(backend_in_use, backend="epoll") == "epoll"


def test_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_LIO_BACKEND", "")
    assert trio_lio.run(backend_in_use) == BACKENDS[0]


def test_variable_with_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_LIO_BACKEND", "magic")
    for call in (lambda: trio_lio.run(echo), trio_lio.install):
        with pytest.raises(ValueError, match=r"TRIO_LIO_BACKEND.*'magic'.*uring.*epoll"):
            call()


def test_unknown_capability_in_the_test_switch_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIO_LIO_URING_WITHOUT", "defer_taskrun,warp_drive")
    with pytest.raises(ValueError, match="warp_drive"):
        trio_lio.run(echo, backend="uring")


# -- what tells about backends ---------------------------------------------------------


def test_available_backends_are_named_in_order_of_preference() -> None:
    infos = trio_lio.available_backends()
    names = [info.name for info in infos]
    assert names in (["uring", "epoll"], ["uring", "epoll", "kqueue"])  # the latter: for tests
    for info in infos:
        assert isinstance(info, trio_lio.BackendInfo)
        assert info.available is (info.reason == "") is (info.errno == 0)
    with pytest.raises(AttributeError):
        infos[0].name = "else"  # type: ignore[misc]


def test_current_backend_inside_a_run(backend: str, run: Run) -> None:
    async def main() -> trio_lio.BackendInfo:
        return trio_lio.current_backend()

    info = run(main)
    assert info.name == backend
    assert info.available
    assert info.reason == "asked for"
    assert info.capabilities


def test_capabilities_that_are_switched_off_are_not_shown(backend: str, run: Run) -> None:
    without = os.environ["TRIO_LIO_URING_WITHOUT"].split(",")

    async def main() -> tuple[str, ...]:
        await echo()
        return trio_lio.current_backend().capabilities

    assert not set(run(main)) & set(without)


def test_current_backend_outside_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="inside a run"):
        trio_lio.current_backend()

    async def main() -> None:
        with pytest.raises(RuntimeError, match="not a lio run"):
            trio_lio.current_backend()

    trio.run(main)


# -- install ---------------------------------------------------------------------------


def patched_attributes() -> dict[str, Any]:
    import socket

    import trio._core._io_epoll
    import trio._highlevel_socket

    found: dict[str, Any] = {}
    for owner in (
        trio._socket._SocketType,
        trio._socket.SocketType,
        trio.SocketStream,
        trio.SocketListener,
        trio.SSLStream,
        trio.lowlevel.FdStream,
        trio.Path,
        socket.socket,
        trio._core._io_epoll.EpollIOManager,
    ):
        for name, value in vars(owner).items():
            found[f"{owner.__module__}.{owner.__qualname__}.{name}"] = value
    for module in (
        trio,
        trio.socket,
        trio.lowlevel,
        trio._socket,
        trio._core._run,
        trio._highlevel_socket,
        trio._core,
        socket,
    ):
        for name, value in vars(module).items():
            found[f"{module.__name__}.{name}"] = value
    return {
        name: value
        for name, value in found.items()
        if name.rpartition(".")[2] not in ("__dict__", "__weakref__", "_abc_impl")
    }


def differing(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {
        name
        for name in before.keys() | after.keys()
        if before.get(name, "absent") is not after.get(name, "absent")
    }


def test_uninstall_restores_every_attribute(backend: str) -> None:
    before = patched_attributes()
    trio_lio.install(backend)
    during = differing(before, patched_attributes())
    assert "trio._core._run.TheIOManager" in during
    assert "trio._socket._SocketType.recv" in during
    trio.run(echo)
    trio_lio.uninstall()
    assert differing(before, patched_attributes()) == set()


def test_run_restores_every_attribute(run: Run) -> None:
    before = patched_attributes()
    run(echo)
    assert differing(before, patched_attributes()) == set()

    async def main() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        run(main)
    assert differing(before, patched_attributes()) == set()


def test_replaced_methods_look_like_those_of_trio(backend: str) -> None:
    before = {
        name: (method.__doc__, method.__qualname__, method.__name__)
        for name, method in vars(trio._socket._SocketType).items()
        if callable(method)
    }
    with trio_lio.installed(backend):
        for name, expected in before.items():
            method = vars(trio._socket._SocketType)[name]
            assert (method.__doc__, method.__qualname__, method.__name__) == expected


def test_install_makes_every_run_a_lio_run(backend: str) -> None:
    trio_lio.install(backend)
    try:
        assert trio.run(backend_in_use) == backend
        assert trio.run(echo, 1) == (1,)
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(trio.run(backend_in_use)))
        thread.start()
        thread.join()
        assert answers == [backend]
    finally:
        trio_lio.uninstall()
    assert trio.run(backend_in_use) is None


@pytest.mark.parametrize("direction", ["in", "out"])
def test_keyboard_interrupt_while_methods_are_replaced(direction: str, run: Run) -> None:
    """Wherever it comes, the next run works, and after that everything is as it was."""
    before = patched_attributes()
    name = {"in": "_put_in_place", "out": "_take_away"}[direction]
    steps = 0

    def interrupt_at(step: int) -> bool:
        """Runs with an interrupt before that line; whether there is such a line."""
        seen = 0

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal seen
            if frame.f_code.co_name not in ("put_in_place", "take_away", name):
                return None
            if event == "line":
                seen += 1
                if seen == step:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            run(echo)
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    while interrupt_at(steps + 1):
        steps += 1
        assert trio.run(echo, 1) == (1,)
        assert run(echo, 2) == (2,)
        assert differing(before, patched_attributes()) == set()
    assert steps > 10


def test_nested_installs_are_a_stack() -> None:
    with trio_lio.installed("epoll"):
        with trio_lio.installed(BACKENDS[0]):
            assert trio.run(backend_in_use) == BACKENDS[0]
            assert trio_lio.run(backend_in_use, backend="epoll") == "epoll"
            assert trio.run(backend_in_use) == BACKENDS[0]
        assert trio.run(backend_in_use) == "epoll"
    assert trio.run(backend_in_use) is None


def test_what_a_run_leaves_open_install_says(monkeypatch: pytest.MonkeyPatch) -> None:
    async def in_use() -> tuple[str | None, int]:
        statistics = trio.lowlevel.current_statistics().io_statistics
        return await backend_in_use(), statistics.capacity

    monkeypatch.setenv("TRIO_LIO_BACKEND", BACKENDS[0])
    with trio_lio.installed("epoll", capacity=7):
        assert trio_lio.run(in_use) == ("epoll", 7)
        assert trio_lio.run(in_use, backend=BACKENDS[0]) == (BACKENDS[0], 7)
        assert trio_lio.run(in_use, capacity=9) == ("epoll", 9)
        with trio_lio.installed():
            assert trio_lio.run(in_use) == (BACKENDS[0], 256)
    assert trio_lio.run(in_use) == (BACKENDS[0], 256)


def test_uninstall_without_install_is_an_error() -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not installed"):
            trio_lio.uninstall()


def test_uninstall_is_not_possible_by_the_end_of_a_run(run: Run) -> None:
    """`run` counts for itself: what it put in place cannot be uninstalled."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="not installed"):
            trio_lio.uninstall()
        await echo()

    run(main)


def test_installed_leaves_by_an_exception(backend: str) -> None:
    with pytest.raises(LookupError), trio_lio.installed(backend):
        raise LookupError
    assert trio.run(backend_in_use) is None


def test_install_inside_a_stock_run_leaves_it_as_it_is(backend: str) -> None:
    """Sockets get our methods in the midst of a run of Trio's own, which they must serve."""

    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            with trio_lio.installed(backend):
                assert await backend_in_use() is None
                b.send(b"1")
                assert await a.recv(10) == b"1"
            b.send(b"2")
            assert await a.recv(10) == b"2"

    trio.run(main)


def test_uninstall_inside_a_lio_run_leaves_it_as_it_is(backend: str) -> None:
    """Without our methods, sockets use Trio's, on a manager that is ours."""

    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            b.send(b"1")
            assert await a.recv(10) == b"1"
            trio_lio.uninstall()
            async with trio.open_nursery() as nursery:

                async def receive() -> None:
                    assert await a.recv(10) == b"2"

                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                b.send(b"2")
            assert statistics().backend == f"lio-{backend}"

    trio_lio.install(backend)
    trio.run(main)
    assert trio.run(backend_in_use) is None


def test_uninstall_while_a_task_is_parked(backend: str) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            async with trio.open_nursery() as nursery:

                async def receive() -> None:
                    assert await a.recv(10) == b"late"

                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                trio_lio.uninstall()
                b.send(b"late")

    trio_lio.install(backend)
    trio.run(main)


def test_capacity_is_what_was_asked_for(run: Run) -> None:
    async def main() -> int:
        capacity: int = statistics().capacity
        return capacity

    assert run(main, capacity=7) == 7
    assert run(main) == run(main) >= 64


@pytest.mark.parametrize("text", ["-1", "1001", "soon", "1.5"])
def test_a_bad_spin_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_LIO_SPIN", text)
    with pytest.raises(ValueError, match=f"TRIO_LIO_SPIN='{text}' is not a whole number"):
        trio_lio.run(trio.sleep, 0)


@pytest.mark.parametrize("text", ["", "0", "1", "1000"])
def test_a_good_spin_is_taken(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_LIO_SPIN", text)
    trio_lio.run(trio.sleep, 0)
