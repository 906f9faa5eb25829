"""Runs in several threads at once, and in forked children."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

import trio
import trio.testing

import trio_lio

from ..common import pattern
from .support import half_foreign_pair, receive_exactly, tcp_pair

Run = Callable[..., Any]

DATA = pattern(300_000)


async def transfer() -> str | None:
    """Moves some data each way; returns which backend did it."""
    a, b = tcp_pair()
    with a, b:
        async with trio.open_nursery() as nursery:

            async def send(sock: Any) -> None:
                await trio.SocketStream(sock).send_all(DATA)

            async def receive(sock: Any) -> None:
                assert await receive_exactly(sock, len(DATA)) == DATA

            for sock in a, b:
                nursery.start_soon(send, sock)
                nursery.start_soon(receive, sock)
    try:
        return trio_lio.current_backend().name
    except RuntimeError:
        return None


def in_threads(functions: list[Callable[[], Any]]) -> list[Any]:
    results: list[Any] = [None] * len(functions)
    start = threading.Barrier(len(functions))

    def work(at: int) -> None:
        start.wait()
        try:
            results[at] = functions[at]()
        except BaseException as exc:
            results[at] = exc

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_lio_and_stock_runs_side_by_side(backend: str) -> None:
    functions: list[Callable[[], Any]] = []
    for _ in range(4):
        functions.append(lambda: [trio_lio.run(transfer, backend=backend) for _ in range(5)])
        functions.append(lambda: [trio.run(transfer) for _ in range(5)])
    assert in_threads(functions) == [[backend] * 5, [None] * 5] * 4


def test_both_backends_side_by_side() -> None:
    names = [info.name for info in trio_lio.available_backends() if info.available]
    functions = [lambda name=name: trio_lio.run(transfer, backend=name) for name in names * 3]
    assert in_threads(functions) == names * 3


def test_installing_from_many_threads(backend: str) -> None:
    def work() -> None:
        for _ in range(50):
            with trio_lio.installed(backend):
                trio_lio.run(trio.sleep, 0, backend=backend)

    assert in_threads([work] * 4) == [None] * 4


def test_trio_threads_come_back(run: Run) -> None:
    async def main() -> int:
        total = 0
        for number in range(50):
            total += await trio.to_thread.run_sync(lambda number=number: number)
            assert await trio.to_thread.run_sync(trio.from_thread.run, trio.sleep, 0) is None
        return total

    assert run(main) == sum(range(50))


def test_token_wakes_an_idle_run(run: Run) -> None:
    async def main() -> None:
        event = trio.Event()
        token = trio.lowlevel.current_trio_token()
        timer = threading.Timer(0.05, token.run_sync_soon, [event.set])
        timer.start()
        await event.wait()
        timer.join()

    run(main)


def exit_code_of_child(work: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of other tests
        child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_run_in_a_forked_child(run: Run, backend: str) -> None:
    run(transfer)

    def work() -> None:
        assert run(transfer) == backend
        assert trio.run(transfer) is None

    assert exit_code_of_child(work) == 0
    assert run(transfer) == backend


def test_run_in_a_child_forked_in_a_run_leaves_the_parent_unharmed(
    run: Run, backend: str
) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            got: list[bytes] = []

            async def receive() -> None:
                got.append(await a.recv(100))
                got.append(await a.recv(100))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()

                def work() -> None:
                    # As a forked worker would: what is left of the parent's run is dropped.
                    trio._core._run.GLOBAL_RUN_CONTEXT.__dict__.clear()
                    assert run(transfer) == backend

                assert exit_code_of_child(work) == 0
                assert got == []
                b.send(b"first")
                await trio.testing.wait_all_tasks_blocked()
                b.send(b"second")
            assert got == [b"first", b"second"]
            assert await transfer() == backend

    run(main)


def test_child_that_only_exits_leaves_the_parent_unharmed(run: Run) -> None:
    """Its copies of our descriptors are closed; operations in flight are the parent's."""

    async def main() -> None:
        pairs = [half_foreign_pair() for _ in range(20)]
        got: list[bytes] = []

        async def receive(sock: Any) -> None:
            got.append(await sock.recv(100))

        async with trio.open_nursery() as nursery:
            for a, _ in pairs:
                nursery.start_soon(receive, a)
            await trio.testing.wait_all_tasks_blocked()
            assert exit_code_of_child(lambda: None) == 0
            for number, (_, b) in enumerate(pairs):
                b.send(str(number).encode())
        assert sorted(got) == sorted(str(number).encode() for number in range(20))
        for a, b in pairs:
            a.close()
            b.close()

    run(main)


def test_child_that_uses_the_parents_run_is_harmless(run: Run) -> None:
    """Sockets closed in the child settle nothing of the parent's."""

    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            got: list[bytes] = []

            async def receive() -> None:
                got.append(await a.recv(100))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                assert exit_code_of_child(a._sock.close) == 0
                b.send(b"still here")
            assert got == [b"still here"]

    run(main)
