"""Whose a backend is: the thread's that made it, and no child's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import traceback
from typing import TYPE_CHECKING

import pytest

from trio_lio.backends import ContractError, IoBackend, Op, WrongThread

from ..common import open_fds, pattern
from .support import PATIENCE, Sockets, collect, is_idle, run, submit

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Maker


def in_thread(function: Callable[[], object]) -> BaseException | None:
    """What a function raises in another thread."""
    raised: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def test_other_threads_are_refused(backend: IoBackend) -> None:
    op_id = submit(backend, Op.timeout(None))
    calls: dict[str, Callable[[], object]] = {
        "push": lambda: backend.push(1, Op.nop()),
        "cancel": lambda: backend.cancel(op_id),
        "flush": backend.flush,
        "wait_timeout": lambda: backend.wait_timeout(0),
        "adopt": lambda: backend.adopt(0),
        "release_fd": lambda: backend.release_fd(0),
        "close_fd": lambda: backend.close_fd(10**6),
        "grow": lambda: backend.grow(1),
        "close": backend.close,
    }
    for name, call in calls.items():
        assert isinstance(in_thread(call), WrongThread), name
    assert backend.stats().in_flight == 1
    assert backend.stats().pushed == 1
    assert backend.cancel(op_id) is False
    assert collect(backend, [op_id])[op_id].cancelled
    assert is_idle(backend)


def test_other_threads_are_refused_while_the_owner_waits(
    backend: IoBackend, foreign: Sockets
) -> None:
    ours, theirs = foreign.pair()
    op_id = submit(backend, Op.recv(ours.fileno(), 10))
    refused: list[BaseException] = []

    def intrude() -> None:
        for call in (
            lambda: backend.push(1, Op.nop()),
            lambda: backend.wait_timeout(0),
            lambda: backend.cancel(op_id),
            backend.close,
        ):
            try:
                call()
            except WrongThread as exc:
                refused.append(exc)
        theirs.send(b"x")

    thread = threading.Thread(target=intrude)
    thread.start()
    assert collect(backend, [op_id])[op_id].result == b"x"
    thread.join()
    assert len(refused) == 4


def test_the_thread_of_init_owns_it(new_backend: Maker) -> None:
    backend = new_backend()
    assert in_thread(lambda: use_and_close(backend)) is None


def use_and_close(backend: IoBackend) -> None:
    backend.init(4)
    assert run(backend, Op.nop()) == 0
    backend.close()


def test_two_backends_in_two_threads(new_backend: Maker) -> None:
    """Each thread has one; they talk to each other, and wake each other."""
    ours, theirs = socket.socketpair()
    errors: list[str] = []

    def talk(sock: socket.socket, first: bool) -> None:
        try:
            with new_backend() as backend:
                backend.init(8)
                fd = sock.fileno()
                sock.setblocking(False)
                for turn in range(100):
                    data = pattern(turn + 1, turn)
                    if first:
                        assert run(backend, Op.send(fd, data)) == len(data)
                    assert run(backend, Op.recv(fd, 1000)) == data
                    if not first:
                        assert run(backend, Op.send(fd, data)) == len(data)
        except BaseException:
            errors.append(traceback.format_exc())
            sock.close()

    threads = [
        threading.Thread(target=talk, args=(sock, first))
        for sock, first in ((ours, True), (theirs, False))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE * 3)
    ours.close()
    theirs.close()
    assert not errors, errors[0]
    assert not any(thread.is_alive() for thread in threads)


def test_two_backends_in_one_thread(new_backend: Maker) -> None:
    ours, theirs = socket.socketpair()
    with new_backend() as left, new_backend() as right, ours, theirs:
        left.init(4)
        right.init(4)
        op_id = submit(left, Op.recv(ours.fileno(), 10))
        assert run(right, Op.send(theirs.fileno(), b"across")) == 6
        assert is_idle(right)
        assert collect(left, [op_id])[op_id].result == b"across"


# -- fork ------------------------------------------------------------------------------


def in_child(function: Callable[[], None]) -> str:
    """Runs a function in a forked child; returns the traceback of what it raised."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(30)
            function()
            code = 0
        except BaseException:
            os.write(write_end, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(code)
    os.close(write_end)
    text = b""
    while part := os.read(read_end, 4096):
        text += part
    os.close(read_end)
    _, status = os.waitpid(pid, 0)
    return text.decode() or ("" if status == 0 else f"the child ended with {status}")


def test_fork_child_cannot_touch_the_ring(backend: IoBackend, foreign: Sockets) -> None:
    ours, theirs = foreign.pair()
    op_id = submit(backend, Op.recv(ours.fileno(), 10))
    backend.push(1, Op.timeout(None))

    def child() -> None:
        for call in (
            lambda: backend.push(2, Op.nop()),
            lambda: backend.cancel(op_id),
            lambda: backend.cancel(1),
            backend.flush,
            lambda: backend.wait_timeout(0),
            lambda: backend.wait_ready(0),
            backend.wake,
            lambda: backend.adopt(ours.fileno()),
            lambda: backend.release_fd(ours.fileno()),
            lambda: backend.close_fd(ours.fileno()),
            lambda: backend.grow(10),
        ):
            with pytest.raises(ContractError, match="forked"):
                call()
        assert os.fstat(ours.fileno())
        backend.close()
        backend.close()

    assert in_child(child) == ""
    # The parent is as it was.
    theirs.send(b"still")
    assert collect(backend, [op_id])[op_id].result == b"still"
    assert backend.cancel(1) is False
    assert collect(backend, [1])[1].cancelled
    assert is_idle(backend)


def test_parent_unharmed_by_fork(backend: IoBackend, sockets: Sockets) -> None:
    """Operations in every state, many children, some of which tidy up and some do not."""
    pairs = [sockets.pair() for _ in range(6)]
    for turn in range(4):
        ids = []
        for number, (ours, _theirs) in enumerate(pairs):
            op_id = 100 * turn + number
            backend.push(op_id, Op.recv(ours.fileno(), 100))
            if number % 2:
                backend.flush()
            ids.append(op_id)

        def child(tidies: bool = turn % 2 == 0) -> None:
            if tidies:
                backend.close()

        assert in_child(child) == ""
        for number, (_ours, theirs) in enumerate(pairs):
            theirs.send(b"%d" % number)
        done = collect(backend, ids)
        assert [done[op_id].result for op_id in ids] == [b"%d" % n for n in range(6)]
    assert is_idle(backend)


def test_a_child_makes_its_own(backend: IoBackend, new_backend: Maker) -> None:
    op_id = submit(backend, Op.timeout(None))

    def child() -> None:
        ours, theirs = socket.socketpair()
        with new_backend() as own:
            own.init(8)
            waiting = submit(own, Op.recv(ours.fileno(), 10))
            theirs.send(b"x")
            assert collect(own, [waiting])[waiting].result == b"x"

    assert in_child(child) == ""
    assert backend.cancel(op_id) is False
    assert collect(backend, [op_id])[op_id].cancelled


def test_nothing_is_inherited_by_exec(new_backend: Maker) -> None:
    before = open_fds()
    with new_backend() as backend:
        backend.init(8)
        backend.push(1, Op.nop())
        collect(backend, [1])
        made = open_fds().keys() - before.keys()
        assert made
        assert not [fd for fd in made if os.get_inheritable(fd)]


# -- SIGPIPE ---------------------------------------------------------------------------


def test_sigpipe_never_kills(backend: IoBackend) -> None:
    """In a process that would die of it."""
    program = textwrap.dedent(
        f"""
        import os, signal, socket, sys
        from trio_lio.backends import {type(backend).__name__} as Backend, Op
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        with Backend() as backend:
            backend.init(16)
            for adopts in False, True:
                ours, theirs = socket.socketpair()
                theirs.close()
                fd = ours.fileno()
                if adopts:
                    backend.adopt(fd)
                for op in (Op.send(fd, b"x"), Op.send(fd, b"x", all=True),
                           Op.sendmsg(fd, [b"x"]), Op.send(fd, b"x", socket.MSG_DONTWAIT)):
                    backend.push(1, op)
                    [done] = backend.wait_timeout(10)
                    assert isinstance(done.error, BrokenPipeError), done
                backend.close_fd(ours.detach())
            full, broken = os.pipe(), os.pipe()
            os.write(full[1], bytes(65536))
            os.close(broken[0])
            for op in (Op.write(broken[1], b"x"), Op.splice(full[0], broken[1], 10)):
                backend.push(1, op)
                [done] = backend.wait_timeout(10)
                assert isinstance(done.error, BrokenPipeError), done
            # Older rings write at the end of whatever system call comes next.
            if backend.name == "epoll" or "defer_taskrun" in backend.capabilities():
                backend.push(1, Op.write(full[1], b"x"))
                assert backend.wait_timeout(0.05) == []
                os.close(full[0])
                [done] = backend.wait_timeout(10)
                assert isinstance(done.error, BrokenPipeError), done
        # One that comes from elsewhere still does what it should.
        assert signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        print("alive")
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
