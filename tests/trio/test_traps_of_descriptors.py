"""What names a file by a number can mean another file a moment later.

Each of these closes, detaches, reuses or drops descriptors at a bad time.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket as stdlib_socket
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import trio_lio
import trio_lio.lowlevel
from trio_lio import _manager
from trio_lio._kinds import KIND_RECEIVE_INTO
from trio_lio.backends import backend_names

from ..common import fill, sees_end, take_now
from .support import (
    PATIENCE,
    all_in_flight,
    half_foreign_pair,
    statistics,
    tcp_listener,
    tcp_pair,
    until,
    waiting,
)

if sys.platform != "win32":
    import resource

Run = Callable[..., Any]


def socketpair_at(fd: int) -> tuple[stdlib_socket.socket, stdlib_socket.socket]:
    """A new pair whose first socket has just this number."""
    if sys.platform == "win32":
        return _tcp_pair_at(fd)
    a, b = stdlib_socket.socketpair()
    if a.fileno() != fd:
        if b.fileno() == fd:
            return b, a
        number = a.detach()
        os.dup2(number, fd)
        os.close(number)
        a = stdlib_socket.socket(fileno=fd)
    return a, b


def _tcp_pair_at(fd: int) -> tuple[stdlib_socket.socket, stdlib_socket.socket]:
    """The same where dup2 knows no sockets: what is free is given out again, by and by."""
    with contextlib.ExitStack() as others:
        for _ in range(200):
            a = stdlib_socket.socket()
            if a.fileno() == fd:
                break
            others.enter_context(a)
        assert a.fileno() == fd, "the number is not given out again"
        server = others.enter_context(stdlib_socket.create_server(("127.0.0.1", 0)))
        a.connect(server.getsockname())
        b, _ = server.accept()
    return a, b


# -- the number is reused behind our back ----------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["known", "first operation"])
@pytest.mark.parametrize("kind", ["send", "send_all", "sendmsg", "recv", "lowlevel"])
def test_fd_reused_before_flush(kind: str, known: bool, run: Run) -> None:
    """A close by number, and a new socket of the same number, in the tick of the call."""
    if kind == "sendmsg" and sys.platform == "win32":
        pytest.skip("Python's sockets have no sendmsg there")

    async def once() -> bool:
        a, b = half_foreign_pair()
        new: list[stdlib_socket.socket] = []
        order = []
        got: list[bytes] = []

        async def call() -> None:
            order.append("call")
            with contextlib.suppress(
                OSError, trio.BrokenResourceError, trio.ClosedResourceError
            ):
                if kind == "send_all":
                    await trio.SocketStream(a).send_all(b"secret")
                elif kind == "sendmsg":
                    await a.sendmsg([b"secret"])
                elif kind == "recv":
                    got.append(await a.recv(100))
                elif kind == "lowlevel":
                    await trio_lio.lowlevel.write(a.fileno(), b"secret")
                else:
                    await a.send(b"secret")

        async def steal() -> None:
            order.append("steal")
            fd = a.fileno()
            stdlib_socket.close(fd)
            new.extend(socketpair_at(fd))
            new[1].send(b"for the new one")

        with b:
            if known:
                b.send(b"x")
                await a.recv(10)
            b.send(b"ours")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                nursery.start_soon(steal)
                await trio.testing.wait_all_tasks_blocked(0.001)
                nursery.cancel_scope.cancel()
            a._sock.detach()
            try:
                # The other order is the caller's own mistake, on stock Trio too.
                if order == ["call", "steal"]:
                    assert got in ([], [b""], [b"ours"])
                    assert take_now(new[1]) is None
                    assert take_now(new[0]) == b"for the new one"
                    with contextlib.suppress(ConnectionResetError):
                        assert take_now(b) in (b"secret", b"", None)
            finally:
                for sock in new:
                    sock.close()
        return order == ["call", "steal"]

    async def main() -> None:
        checked = [await once() for _ in range(40)]
        assert sum(checked) > 3

    run(main)


def test_fd_reused_while_a_receive_waits(run: Run) -> None:
    """The task that waits must not get what is sent to the new file."""

    async def main() -> None:
        a, b = half_foreign_pair()
        got: list[Any] = []

        async def receive() -> None:
            try:
                got.append(await a.recv(100))
            except (OSError, trio.ClosedResourceError) as exc:
                got.append(type(exc))

        with b:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                fd = a.fileno()
                stdlib_socket.close(fd)
                new, peer = socketpair_at(fd)
                peer.send(b"not for the old task")
                await trio.sleep(0.02)
                assert b"not for the old task" not in got
                new.setblocking(False)
                assert take_now(new) == b"not for the old task"
                nursery.cancel_scope.cancel()
            a._sock.detach()
            new.close()
            peer.close()

    run(main)


def test_new_socket_of_a_number_that_was_closed_behind_our_back(run: Run) -> None:
    """A new trio socket, of the same number: its operations reach its own file."""

    async def main() -> None:
        a, b = half_foreign_pair()
        outcome: list[Any] = []

        async def receive() -> None:
            try:
                outcome.append(await a.recv(100))
            except (OSError, trio.ClosedResourceError) as exc:
                outcome.append(type(exc).__name__)

        with b:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                fd = a.fileno()
                stdlib_socket.close(fd)
                stdlib, peer = socketpair_at(fd)
                new = trio.socket.from_stdlib_socket(stdlib)
                assert new.fileno() == fd
                with trio.fail_after(PATIENCE):
                    peer.send(b"hello")
                    assert await new.recv(100) == b"hello"
                    await new.send(b"there")
                    assert peer.recv(100) == b"there"
                nursery.cancel_scope.cancel()
            assert outcome in ([], ["ClosedResourceError"], ["OSError"])
            a._sock.detach()
            new.close()
            peer.close()

    run(main)


def test_numbers_are_reused_at_once_and_often(run: Run) -> None:
    """Honest closes: the next socket has the number of the last one."""

    async def main() -> None:
        for number in range(500):
            a, b = half_foreign_pair()
            data = number.to_bytes(4, "big")
            with a, b, trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:

                    async def receive(a: Any = a, data: bytes = data) -> None:
                        assert await a.recv(10) == data

                    nursery.start_soon(receive)
                    if number % 2:
                        await trio.sleep(0)
                    b.send(data)
                if number % 3 == 0:
                    await a.send(data)
                    a.close()
                    assert take_now(b) == data

    run(main)


def test_dup2_over_a_socket_in_use(run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            async with waiting(a.recv, 10) as outcome:
                with open(os.devnull) as null:
                    os.dup2(null.fileno(), a.fileno())
                with contextlib.suppress(BrokenPipeError):
                    b.send(b"data")
                await trio.sleep(0.02)
                # Either the connection lives on in the kernel, or its end is told.
                if not outcome:
                    a.close()
            assert outcome[0][0] in ("returned", "raised")

    run(main)


# -- detach ----------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["trio", "stdlib"])
def test_detach_with_operations_in_flight(whose: str, run: Run) -> None:
    """What is detached is somebody else's: nothing of ours may take its data any more."""

    async def main() -> None:
        for waits in (True, False):
            a, b = half_foreign_pair()
            with b:
                async with trio.open_nursery() as nursery:
                    outcome: list[Any] = []

                    async def receive(a: Any = a, outcome: Any = outcome) -> None:
                        try:
                            outcome.append(await a.recv(10))
                        except (trio.ClosedResourceError, OSError) as exc:
                            outcome.append(type(exc).__name__)

                    nursery.start_soon(receive)
                    if waits:
                        await trio.testing.wait_all_tasks_blocked()
                    fd = a.detach() if whose == "trio" else a._sock.detach()
                    assert a.fileno() == -1
                    with trio.socket.fromfd(fd, a.family, a.type) as copy:
                        b.send(b"data")
                        assert await copy.recv(10) == b"data"
                    with stdlib_socket.socket(fileno=fd) as mine:
                        await trio.testing.wait_all_tasks_blocked()
                        b.send(b"more")
                        assert take_now(mine) == b"more"
                assert outcome in (["ClosedResourceError"], ["OSError"])

    run(main)


def test_detached_descriptor_is_used_again(run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with b:
            for number in range(20):
                b.send(b"%d" % number)
                assert await a.recv(10) == b"%d" % number
                a = trio.socket.from_stdlib_socket(stdlib_socket.socket(fileno=a.detach()))
            a.close()
            assert sees_end(b)

    run(main)


# -- closed without Trio's knowledge ---------------------------------------------------


@pytest.mark.parametrize("name", ["recv", "recvfrom", "recvmsg"])
def test_stdlib_close_behind_trios_back(name: str, run: Run) -> None:
    if name == "recvmsg" and sys.platform == "win32":
        pytest.skip("Python's sockets have no recvmsg there")

    async def main() -> None:
        a, b = half_foreign_pair()
        with b:
            async with waiting(getattr(a, name), 10) as outcome:
                a._sock.close()
                assert sees_end(b)
            assert outcome[0][1] in ("ClosedResourceError", "OSError")

    run(main)


def test_stdlib_close_while_a_send_waits(run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with b:
            size = fill(a._sock)
            async with waiting(a.send, b"x") as outcome:
                a._sock.close()
                while size:
                    size -= len(take_now(b) or b"")
                assert sees_end(b)
            assert outcome[0][1] in ("ClosedResourceError", "OSError")

    run(main)


def test_stdlib_close_of_a_listener(run: Run) -> None:
    async def main() -> None:
        listener = await tcp_listener()
        to = listener.getsockname()
        async with waiting(listener.accept) as outcome:
            listener._sock.close()
            with pytest.raises(ConnectionRefusedError):
                stdlib_socket.create_connection(to)
        assert outcome[0][1] in ("ClosedResourceError", "OSError")

    run(main)


def test_os_close_behind_our_back(run: Run) -> None:
    """The peer may see the end late, but a cancel must come through, and a close of ours."""

    async def main() -> None:
        for ends_by in ("cancel", "close"):
            a, b = half_foreign_pair()
            with b:
                async with trio.open_nursery() as nursery:

                    async def receive(a: Any = a) -> None:
                        with contextlib.suppress(trio.ClosedResourceError, OSError):
                            await a.recv(10)

                    nursery.start_soon(receive)
                    await trio.testing.wait_all_tasks_blocked()
                    stdlib_socket.close(a.fileno())
                    with trio.fail_after(PATIENCE):
                        if ends_by == "cancel":
                            nursery.cancel_scope.cancel()
                        else:
                            trio.lowlevel.notify_closing(a)
                a._sock.detach()
                await until(lambda b=b: sees_end(b), "the end is never seen")

    run(main)


def test_collected_without_a_close(run: Run) -> None:
    """The peer sees the end of a socket that was dropped, as on stock Trio."""

    async def main() -> None:
        for cyclic in (False, True):
            a, b = half_foreign_pair()
            with b:
                b.send(b"x")
                await a.recv(10)
                if cyclic:
                    a.itself = a
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ResourceWarning)
                    del a
                    gc.collect()
                assert sees_end(b)

    run(main)


def test_collected_while_a_task_waits_for_it_by_number(run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with b:
            b.send(b"x")
            await a.recv(10)
            async with trio.open_nursery() as nursery:

                async def wait(fd: int) -> None:
                    with contextlib.suppress(trio.ClosedResourceError, OSError):
                        await trio.lowlevel.wait_readable(fd)

                nursery.start_soon(wait, a.fileno())
                await trio.testing.wait_all_tasks_blocked()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ResourceWarning)
                    del a
                    gc.collect()
                assert sees_end(b)
                nursery.cancel_scope.cancel()

    run(main)


def test_closing_from_another_thread(run: Run) -> None:
    """The thread's close returns; the task's wait ends; the peer sees the end."""

    async def main() -> None:
        for close in (lambda sock: sock._sock.close(), lambda sock: sock._sock.detach()):
            a, b = half_foreign_pair()
            fd = a.fileno()
            with b:
                async with waiting(a.recv, 10) as outcome:
                    await trio.to_thread.run_sync(close, a)
                    assert a.fileno() == -1
                    await until(lambda outcome=outcome: bool(outcome), "the wait does not end")
                assert outcome[0][1] in ("ClosedResourceError", "OSError")
                with contextlib.suppress(OSError):
                    stdlib_socket.close(fd)
                await until(lambda b=b: sees_end(b), "the end is never seen")

    run(main)


def test_closing_from_a_thread_while_the_run_sleeps(run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with b:
            async with waiting(a.recv, 10) as outcome:
                timer = threading.Timer(0.05, a._sock.close)
                timer.start()
            timer.join()
            assert outcome[0][1] in ("ClosedResourceError", "OSError")
            await until(lambda: sees_end(b), "the end is never seen")

    run(main)


def test_collected_in_another_thread(run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with b:
            b.send(b"x")
            await a.recv(10)
            box = [a]
            del a
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                await trio.to_thread.run_sync(box.clear)
                gc.collect()
            await until(lambda: sees_end(b), "the end is never seen")

    run(main)


# -- foreign descriptors ---------------------------------------------------------------


def test_wait_on_a_foreign_fd_closed_behind_our_back(run: Run) -> None:
    """As Trio's own test_can_survive_unnotified_close: no hang that cannot be cancelled, no
    crash of the run."""

    async def quietly(call: Any, *args: Any) -> None:
        with contextlib.suppress(OSError):
            await call(*args)

    async def main() -> None:
        wait_readable, wait_writable = trio.lowlevel.wait_readable, trio.lowlevel.wait_writable
        with stdlib_socket.socket() as s:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(quietly, wait_readable, s)
                await trio.testing.wait_all_tasks_blocked()
                s.close()
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        a, b = stdlib_socket.socketpair()
        with a, b, a.dup():
            fill(a)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(quietly, wait_readable, a)
                nursery.start_soon(quietly, wait_writable, a)
                await trio.testing.wait_all_tasks_blocked()
                a.close()
                nursery.cancel_scope.cancel()
        a, b = stdlib_socket.socketpair()
        with a, b, a.dup() as copy:
            fill(a)
            event = trio.Event()

            async def wait_readable_then_set() -> None:
                await wait_readable(a)
                event.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(quietly, wait_readable_then_set)
                nursery.start_soon(quietly, wait_writable, a)
                await trio.testing.wait_all_tasks_blocked()
                a.close()
                b.send(b"x")
                # On some systems it is not heard of any more: that is allowed.
                with trio.move_on_after(0.1):
                    await event.wait()
                assert copy.recv(1) == b"x"
                nursery.cancel_scope.cancel()

    run(main)


def test_foreign_fd_reused_before_flush(run: Run) -> None:
    """A wait for a descriptor that is not ours, and that is closed in the same tick."""

    async def once() -> bool:
        a, b = stdlib_socket.socketpair()
        new: list[stdlib_socket.socket] = []
        order: list[str] = []

        async def wait() -> None:
            order.append("wait")
            with contextlib.suppress(OSError, trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(a.fileno())
            order.append("over")

        async def steal() -> None:
            order.append("steal")
            fd = a.fileno()
            stdlib_socket.close(fd)
            new.extend(socketpair_at(fd))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(steal)
            await trio.testing.wait_all_tasks_blocked()
            before = list(order)
            new[1].send(b"an event of the new file")
            await trio.testing.wait_all_tasks_blocked(0.002)
            after = list(order)
            nursery.cancel_scope.cancel()
        a.detach()
        for sock in (b, *new):
            sock.close()
        # The other order is the caller's own mistake.
        if before != ["wait", "steal"]:
            return before[0] == "wait"
        assert after == before, "woken by an event of another file"
        return True

    async def main() -> None:
        checked = [await once() for _ in range(40)]
        assert sum(checked) > 3

    run(main)


def test_wait_on_a_number_that_was_reused(run: Run) -> None:
    """A wait for the old file must not end a wait for the new one, nor hang it."""

    async def main() -> None:
        a, b = stdlib_socket.socketpair()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def wait_for_the_old_one() -> None:
                    with contextlib.suppress(OSError, trio.ClosedResourceError):
                        await trio.lowlevel.wait_readable(a.fileno())

                nursery.start_soon(wait_for_the_old_one)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                fd = a.fileno()
                stdlib_socket.close(fd)
                a.detach()
        b.close()
        new, peer = socketpair_at(fd)
        with new, peer, trio.fail_after(PATIENCE):
            async with waiting(trio.lowlevel.wait_readable, new) as outcome:
                await trio.sleep(0.01)
                assert not outcome
                peer.send(b"x")
            assert outcome == [("returned", None)]

    run(main)


def test_notify_closing_ends_waits(run: Run) -> None:
    async def main() -> None:
        a, b = stdlib_socket.socketpair()
        with a, b:
            fill(a)
            for wait in (trio.lowlevel.wait_readable, trio.lowlevel.wait_writable):
                for given in (a, a.fileno()):
                    async with waiting(wait, given) as outcome:
                        trio.lowlevel.notify_closing(given)
                    assert outcome[0][1:] == (
                        "ClosedResourceError",
                        "another task closed this fd",
                    )
            trio.lowlevel.notify_closing(a)
            b.send(b"x")
            await trio.lowlevel.wait_readable(a)

    run(main)


def test_wait_for_both_directions_of_one_fd(run: Run) -> None:
    async def main() -> None:
        a, b = stdlib_socket.socketpair()
        with a, b:
            size = fill(a)
            async with waiting(trio.lowlevel.wait_readable, a) as readable:
                async with waiting(trio.lowlevel.wait_writable, a) as writable:
                    b.send(b"x")
                    await until(lambda: bool(readable), "not readable")
                    assert not writable
                    b.setblocking(False)
                    while size:
                        size -= len(take_now(b) or b"")
                assert writable == [("returned", None)]

    run(main)


def test_wait_for_pipes_timers_and_files(run: Run) -> None:
    """Anything that can be polled: pipes, eventfds, and what epoll refuses."""

    async def main() -> None:
        r, w = os.pipe()
        async with waiting(trio.lowlevel.wait_readable, r) as outcome:
            os.write(w, b"x")
        assert outcome == [("returned", None)]
        await trio.lowlevel.wait_writable(w)
        os.read(r, 1)
        async with waiting(trio.lowlevel.wait_readable, r) as outcome:
            os.close(w)
        assert outcome == [("returned", None)]
        os.close(r)
        for bad in (-1, 99_999):
            with pytest.raises((OSError, ValueError)):
                await trio.lowlevel.wait_readable(bad)

    run(main)


# -- from run to run -------------------------------------------------------------------


def test_socket_goes_from_run_to_run(backend: str, run: Run) -> None:
    """lio, another lio run, the other backend, stock Trio, and back."""
    a, b = half_foreign_pair()

    async def use() -> None:
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                assert await a.recv(10) == b"ping"

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            b.send(b"ping")
        await a.send(b"pong")
        assert take_now(b) == b"pong"
        await trio.SocketStream(a).send_all(b"stream")
        assert take_now(b) == b"stream"

    for _ in range(2):
        run(use)
        run(use)
        trio_lio.run(use, backend=backend_names()[-1])
        trio.run(use)
        with trio_lio.installed(backend):
            trio.run(use)
    b.close()
    a._sock.close()


def test_socket_made_before_install(backend: str) -> None:
    a, b = trio.socket.socketpair()
    sock = trio.socket.from_stdlib_socket(stdlib_socket.socket())

    async def use() -> None:
        before = statistics().operations_pushed
        await a.send(b"x")
        assert await b.recv(10) == b"x"
        await sock.bind(("127.0.0.1", 0))
        sock.listen()
        client, peer = None, None
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                nonlocal peer
                peer, _ = await sock.accept()

            nursery.start_soon(accept)
            client = await trio.open_tcp_stream(*sock.getsockname())
        await client.aclose()
        assert peer is not None
        peer.close()
        assert statistics().operations_pushed >= before + 4
        a.close()
        b.close()
        sock.close()

    with trio_lio.installed(backend):
        trio.run(use)


def test_socket_is_used_in_two_runs_at_once(run: Run) -> None:
    """Not sensible, and not fatal: one thread receives, the other sends."""
    a, b = tcp_pair()
    total = 200_000

    def send() -> None:
        async def main() -> None:
            sent = 0
            while sent < total:
                sent += await a.send(bytes(min(5000, total - sent)))

        run(main)

    async def receive() -> None:
        got = 0
        while got < total:
            got += len(await b.recv(5000))

    thread = threading.Thread(target=send)
    thread.start()
    run(receive)
    thread.join()
    a._sock.close()
    b._sock.close()


def test_socket_closed_in_another_run(run: Run) -> None:
    """A run in another thread closes what a task of this run waits for."""

    async def main() -> None:
        a, b = half_foreign_pair()
        with b:
            async with waiting(a.recv, 10) as outcome:

                async def close() -> None:
                    a.close()

                await trio.to_thread.run_sync(run, close)
                await until(lambda: bool(outcome), "the wait does not end")
            assert outcome[0][1] in ("ClosedResourceError", "OSError")
            await until(lambda: sees_end(b), "the end is never seen")

    run(main)


def test_limit_of_descriptors_raised_in_a_run(run: Run) -> None:
    """Tables that were made for fewer descriptors must not be needed for the others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            b.send(b"x")
            await a.recv(10)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        c, d = stdlib_socket.socketpair()
        high = soft - 5
        os.dup2(c.fileno(), high)
        c.close()
        with d, trio.socket.from_stdlib_socket(stdlib_socket.socket(fileno=high)) as sock:
            assert sock.fileno() == high
            async with waiting(sock.recv, 10) as outcome:
                d.send(b"data")
            assert outcome == [("returned", b"data")]
            await sock.send(b"back")
            assert take_now(d) == b"back"
            async with waiting(sock.recv, 10) as outcome:
                sock.close()
                assert sees_end(d)

    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        run(main)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_close_in_the_middle_of_a_batch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """By garbage collection, say, while the completions of one wait are processed: those that
    are left must not be overtaken by a wait for what the close settles."""
    real = _manager.LioIOManager._value
    due: list[Callable[[], None]] = []

    def interrupted(self: Any, op: Any, *record: int) -> Any:
        if due and op.kind == KIND_RECEIVE_INTO:
            due.pop()()
        return real(self, op, *record)

    monkeypatch.setattr(_manager.LioIOManager, "_value", interrupted)

    async def main() -> None:
        pairs = [half_foreign_pair() for _ in range(24)]
        first, now, later = pairs[0], pairs[1:12], pairs[12:]
        victim, peer = half_foreign_pair()
        got: dict[Any, bytes] = {}

        async def receive(sock: Any) -> None:
            got[sock] = await sock.recv(1000)

        async def receive_into() -> None:
            assert await first[0].recv_into(bytearray(10)) == 1

        async def wait_in_vain() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await victim.recv(10)

        def what(index: int) -> bytes:
            return bytes([index]) * 900

        def in_the_middle() -> None:
            for index, (_, foreign) in enumerate(later, 100):
                foreign.send(what(index))
            victim.close()

        with contextlib.ExitStack() as stack:
            for sock in (peer, victim, *(each for pair in pairs for each in pair)):
                stack.enter_context(sock)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive_into)
                nursery.start_soon(wait_in_vain)
                for ours, _ in (*now, *later):
                    nursery.start_soon(receive, ours)
                await all_in_flight(len(pairs) + 1)
                due.append(in_the_middle)
                first[1].send(b"x")
                for index, (_, foreign) in enumerate(now):
                    foreign.send(what(index))
            assert not due
            assert got == {
                **{ours: what(index) for index, (ours, _) in enumerate(now)},
                **{ours: what(index) for index, (ours, _) in enumerate(later, 100)},
            }

    run(main)
