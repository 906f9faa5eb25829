"""Waiting in one thread for what another collects, as Trio's guest mode does."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from trio_lio.backends import WAKE, IoBackend, Op, OpCompleted

from .support import PATIENCE, Sockets, close_socket, new_id


def start(backend: IoBackend, op: Op) -> int:
    """Starts an operation; what told a waiting thread of the last one is no news."""
    op_id = new_id()
    backend.push(op_id, op)
    backend.flush()
    assert all(done.op_id == WAKE for done in backend.wait_timeout(0))
    return op_id


def finish(backend: IoBackend, op_id: int) -> OpCompleted:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for done in backend.wait_timeout(PATIENCE):
            if done.op_id != WAKE:
                assert done.op_id == op_id
                return done
    raise AssertionError("no completion")


class Watcher:
    """Another thread that waits as guest mode does: readiness only, the owner collects."""

    def __init__(self, backend: IoBackend, timeout: float = PATIENCE) -> None:
        self.result: bool | None = None
        self.took = 0.0
        self._backend, self._timeout = backend, timeout
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        before = time.monotonic()
        self.result = self._backend.wait_ready(self._timeout)
        self.took = time.monotonic() - before

    def join(self) -> bool:
        self._thread.join()
        assert self.result is not None
        # Found, and not at the end of its time by chance.
        return self.result and self.took < self._timeout * 0.9


@pytest.mark.parametrize(
    "what", ["recv", "accept", "poll", "timer", "wake", "shutdown", "read"]
)
def test_wait_ready_in_another_thread(sockets: Sockets, what: str) -> None:
    backend = sockets.backend
    server = sockets.listener()
    for turn in range(8):
        ours, theirs = sockets.pair()
        read_end, write_end = os.pipe()
        op = {
            "recv": Op.recv(ours.fileno(), 10),
            "accept": Op.accept(server.fileno()),
            "poll": Op.poll(ours.fileno(), readable=True),
            "timer": Op.timeout(0.01),
            "wake": Op.timeout(None),
            "shutdown": Op.shutdown(ours.fileno(), socket.SHUT_WR),
            "read": Op.read(read_end, 10),
        }[what]
        op_id = new_id()
        backend.push(op_id, op)
        # A full queue takes it the second time.
        handed_over = backend.flush() or backend.flush()
        early = [] if handed_over and what == "shutdown" else backend.wait_timeout(0)
        watcher = Watcher(backend, 2)
        time.sleep(0.002 * (turn % 3))  # before the thread waits, and after
        client = None
        if what in ("recv", "poll"):
            theirs.send(b"x")
        elif what == "accept":
            client = socket.create_connection(server.getsockname())
        elif what == "read":
            os.write(write_end, b"x")
        elif what == "wake":
            backend.wake()
        assert early or watcher.join(), f"turn {turn}: nobody told the waiting thread"
        deadline = time.monotonic() + PATIENCE
        found = early
        while not found:
            assert time.monotonic() < deadline
            found = backend.wait_timeout(0)
        if what == "wake":
            assert found == [OpCompleted(WAKE, 0)]
            backend.cancel(op_id)
            finish(backend, op_id)
        else:
            assert [done.op_id for done in found] == [op_id]
            if what == "accept":
                close_socket(found[0].result[0])
        if client is not None:
            client.close()
        os.close(read_end)
        os.close(write_end)


def test_push_while_another_thread_waits(backend: IoBackend) -> None:
    """What the owner starts itself ends the other thread's wait, at the latest by a wake."""
    watcher = Watcher(backend)
    time.sleep(0.01)
    op_id = new_id()
    backend.push(op_id, Op.nop())
    backend.flush()
    backend.wake()
    assert watcher.join()
    while op_id not in {done.op_id for done in backend.wait_timeout(PATIENCE)}:
        pass


def test_cancel_while_another_thread_waits(backend: IoBackend) -> None:
    """An abort in guest mode: the cancellation must reach the kernel and come back."""
    for turn in range(5):
        op_id = start(backend, Op.timeout(None))
        watcher = Watcher(backend, 2)
        time.sleep(0.002 * turn)
        assert backend.cancel(op_id) is False
        assert watcher.join(), "the cancelled operation ended and nobody was told"
        assert finish(backend, op_id).cancelled


def test_close_fd_while_another_thread_waits(sockets: Sockets) -> None:
    for turn in range(5):
        ours, _theirs = sockets.pair()
        op_id = start(sockets.backend, Op.recv(ours.fileno(), 10))
        watcher = Watcher(sockets.backend, 2)
        time.sleep(0.002 * turn)
        sockets.backend.close_fd(ours.detach())
        assert watcher.join(), "the settled operation ended and nobody was told"
        assert finish(sockets.backend, op_id).cancelled


def test_wake_ends_wait_ready(backend: IoBackend) -> None:
    watcher = Watcher(backend)
    time.sleep(0.01)
    backend.wake()
    assert watcher.join()
    assert backend.wait_timeout(0) == [OpCompleted(WAKE, 0)]
