"""What the conformance tests share: sockets in the state that a test wants, and waiting."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from trio_lio._native import lib
from trio_lio.backends import (
    SIGNAL,
    WAKE,
    IoBackend,
    Iocp,
    IoUring,
    Op,
    OpCompleted,
    Poller,
    Sim,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PATIENCE = 10.0
"""Seconds after which a test has failed. No test is about speed."""

POOL_MAX = 65536
"""No backend's pool brings more in one receive."""

UNDER_FAULTS: list[type[IoBackend]] = (
    [Iocp] if sys.platform == "win32" else [IoUring, Poller, Sim]
)
"""Backends that faults are laid over: one of each kind."""

now = time.perf_counter
"""A clock that does not tick slower than what it measures: that of `time.monotonic` on Windows
does, before Python 3.13."""

_ids = iter(range(1_000_000_000, 2_000_000_000))


def new_id() -> int:
    return next(_ids)


def collect(backend: IoBackend, ids: Iterable[int]) -> dict[int, OpCompleted]:
    """Waits until all these operations are complete, and for nothing else."""
    wanted = set(ids)
    found: dict[int, OpCompleted] = {}
    deadline = time.monotonic() + PATIENCE
    while wanted - found.keys():
        left = deadline - time.monotonic()
        assert left > 0, f"no completion for {sorted(wanted - found.keys())[:10]}"
        for done in backend.wait_timeout(left):
            if done.op_id == SIGNAL:
                continue  # somebody stopped the process and let it go on
            assert done.op_id != WAKE
            assert done.op_id in wanted, f"{done} was not expected"
            assert done.op_id not in found, f"a second completion: {done}"
            found[done.op_id] = done
    return found


def complete(backend: IoBackend, op: Op) -> OpCompleted:
    """Runs one operation to its end."""
    op_id = new_id()
    backend.push(op_id, op)
    return collect(backend, [op_id])[op_id]


def run(backend: IoBackend, op: Op) -> Any:
    """The result of one operation, which must not fail."""
    return complete(backend, op).unwrap()


def errno_of(backend: IoBackend, op: Op) -> str:
    """The name of the error that one operation must end with."""
    done = complete(backend, op)
    assert done.error is not None, f"{op} gave {done.result!r}, and should have failed"
    assert done.result is None
    assert done.error.errno is not None
    # Python on Windows knows Winsock's numbers by Winsock's names.
    return errno.errorcode[done.error.errno].removeprefix("WSA")


def submit(backend: IoBackend, op: Op) -> int:
    """Starts an operation that is not over at once; returns its id."""
    op_id = new_id()
    backend.push(op_id, op)
    backend.flush()
    assert backend.wait_timeout(0) == []
    return op_id


def is_idle(backend: IoBackend) -> bool:
    return backend.wait_timeout(0) == [] and backend.stats().in_flight == 0


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


def read_all(sock: socket.socket, size: int) -> bytes:
    """Reads exactly so much, with plain calls."""
    sock.settimeout(PATIENCE)
    parts: list[bytes] = []
    while size:
        parts.append(sock.recv(min(size, 65536)))
        assert parts[-1], "the stream ended early"
        size -= len(parts[-1])
    return b"".join(parts)


def close_socket(fd: int) -> None:
    """Closes what an operation brought. On Windows, os.close is for C's own numbers."""
    lib.lio_py_close(fd)


def is_private(fd: int) -> bool:
    """Whether a socket that an operation brought is closed at an exec and does not block (which
    Windows does not tell)."""
    if sys.platform == "win32":
        return not os.get_handle_inheritable(fd)
    return not os.get_inheritable(fd) and not os.get_blocking(fd)


def closed_fd() -> int:
    """A number that names no open file, and is not the next to be given out."""
    if sys.platform == "win32":
        return 0x7FFC  # handles are given out from below
    import fcntl

    with open(os.devnull) as file:
        fd = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 1000)
    os.close(fd)
    return fd


@attrs.define
class Sockets:
    """Makes sockets, adopts them if the test runs with adopted ones, and closes them."""

    backend: IoBackend
    adopts: bool
    made: list[socket.socket] = attrs.Factory(list)

    def keep(self, *socks: socket.socket) -> None:
        for sock in socks:
            self.made.append(sock)
            sock.setblocking(False)
            if self.adopts:
                self.backend.adopt(sock.fileno())

    def take(self, fd: int) -> socket.socket:
        """A socket that an operation brought."""
        sock = socket.socket(fileno=fd)
        self.keep(sock)
        return sock

    def new(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM
    ) -> socket.socket:
        sock = socket.socket(family, kind)
        self.keep(sock)
        return sock

    def pair(self, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
        if sys.platform == "win32":
            if kind != socket.SOCK_STREAM:
                pytest.skip("Windows has no pairs of datagram sockets")
            ours, theirs = socket.socketpair()  # of TCP
        else:
            ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        self.keep(ours, theirs)
        return ours, theirs

    def listener(self, family: int = socket.AF_INET, address: Any = None) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        if address is None:
            address = ("127.0.0.1", 0) if family == socket.AF_INET else ("::1", 0)
        sock.bind(address)
        sock.listen(64)
        self.keep(sock)
        return sock

    def tcp_pair(self) -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
        for sock in ours, theirs:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.keep(ours, theirs)
        return ours, theirs

    def stream_pair(self, kind: str) -> tuple[socket.socket, socket.socket]:
        return self.tcp_pair() if kind == "tcp" else self.pair()

    def close(self, *, only: socket.socket | None = None) -> None:
        for sock in [only] if only else self.made:
            if sock.fileno() < 0:
                continue
            if self.adopts:
                self.backend.release_fd(sock.fileno())
            sock.close()
