"""What the tests at Trio's level share."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket as stdlib_socket
import sys
import tempfile
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import attrs
import trio

import trio_lio

from ..common import open_fds

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

PATIENCE = 20.0
"""Seconds after which something has failed. No test here is about speed."""

SHORTLY = 0.2
"""Seconds in which what can happen at once has happened."""


def rss() -> int:
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def cpu() -> float:
    """Seconds of CPU time that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def drop_what_is_not_here(calls: dict[str, Any]) -> None:
    """Of calls by name, those that sockets do not have on Windows."""
    if sys.platform == "win32":
        for name in [name for name in calls if "msg" in name or "DONTWAIT" in name]:
            del calls[name]


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        await trio.sleep(0.002)


def statistics() -> Any:
    return trio.lowlevel.current_statistics().io_statistics


async def all_in_flight(count: int) -> None:
    """Waits until so many operations are with the backend."""
    await trio.testing.wait_all_tasks_blocked()
    await until(lambda: statistics().operations_in_flight >= count, "operations in flight")


async def receive_exactly(sock: Any, size: int) -> bytes:
    parts = []
    while size:
        data = await sock.recv(min(size, 1 << 20))
        assert data, "the stream ended early"
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


async def send_through(a: Any, b: Any, data: bytes) -> None:
    """Sends by one of two connected sockets what the other must receive."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.SocketStream(a).send_all, data)
        assert await receive_exactly(b, len(data)) == data


@contextlib.contextmanager
def signals_every(
    seconds: float, number: int, thread_id: int | None = None
) -> Iterator[list[int]]:
    """Sends signals, to the process or to one of its threads; gives a list of those handled."""
    hits: list[int] = []
    over = threading.Event()

    def shoot() -> None:
        while not over.wait(seconds):
            if thread_id is None:
                os.kill(os.getpid(), number)
            else:
                signal.pthread_kill(thread_id, number)

    before = signal.signal(number, lambda got, _: hits.append(got))
    thread = threading.Thread(target=shoot)
    thread.start()
    try:
        yield hits
    finally:
        over.set()
        thread.join()
        signal.signal(number, before)


async def receive_signals() -> None:
    """While nothing else happens, and while something does."""
    with trio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
        timer = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGUSR1])
        timer.start()
        assert await signals.__anext__() == signal.SIGUSR1
        signal.raise_signal(signal.SIGUSR2)
        assert await signals.__anext__() == signal.SIGUSR2
        timer.join()


# -- sockets ---------------------------------------------------------------------------


def stdlib_tcp_pair(
    family: int = stdlib_socket.AF_INET,
) -> tuple[stdlib_socket.socket, stdlib_socket.socket]:
    host = "127.0.0.1" if family == stdlib_socket.AF_INET else "::1"
    with stdlib_socket.create_server((host, 0), family=family) as server:
        ours = stdlib_socket.socket(family)
        ours.connect(server.getsockname())
        theirs, _ = server.accept()
    for sock in ours, theirs:
        sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
    return ours, theirs


def tcp_pair() -> tuple[Any, Any]:
    a, b = stdlib_tcp_pair()
    return trio.socket.from_stdlib_socket(a), trio.socket.from_stdlib_socket(b)


def half_foreign_pair() -> tuple[Any, stdlib_socket.socket]:
    """A trio socket and a stdlib socket that is its peer."""
    a, b = stdlib_socket.socketpair()
    if sys.platform == "win32":  # it is of TCP there
        b.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
    b.setblocking(False)
    return trio.socket.from_stdlib_socket(a), b


async def tcp_listener() -> Any:
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


@attrs.frozen
class Pair:
    """Two connected sockets, and names for their addresses."""

    kind: str
    a: Any
    b: Any
    names: dict[Any, str]

    def plain(self, value: Any) -> Any:
        """``value`` with addresses replaced by their names: comparable between runs."""
        if isinstance(value, (tuple, list, str, bytes)) and value:
            with contextlib.suppress(TypeError):
                if value in self.names:
                    return self.names[value]
        if isinstance(value, (tuple, list)):
            return tuple(self.plain(item) for item in value)
        if isinstance(value, str):
            for address, name in self.names.items():
                value = value.replace(repr(address), name)
        return value


HAS_IPV6 = False
with contextlib.suppress(OSError), stdlib_socket.socket(stdlib_socket.AF_INET6) as _sock:
    _sock.bind(("::1", 0))
    HAS_IPV6 = True

STREAM_KINDS = ["tcp4", "tcp6", "unix_stream", "socketpair"]
DATAGRAM_KINDS = ["udp4", "udp6", "unix_dgram"]
KINDS = [*STREAM_KINDS, *DATAGRAM_KINDS, "unix_seqpacket"]
if not hasattr(stdlib_socket, "AF_UNIX"):
    for _kinds in STREAM_KINDS, DATAGRAM_KINDS, KINDS:
        _kinds[:] = [kind for kind in _kinds if not kind.startswith("unix")]
if not HAS_IPV6:
    for _kinds in STREAM_KINDS, DATAGRAM_KINDS, KINDS:
        _kinds[:] = [kind for kind in _kinds if not kind.endswith("6")]


def _stdlib_pair(
    kind: str, directory: str
) -> tuple[stdlib_socket.socket, stdlib_socket.socket]:
    family = stdlib_socket.AF_INET6 if kind.endswith("6") else stdlib_socket.AF_INET
    if kind.startswith("tcp"):
        return stdlib_tcp_pair(family)
    if kind == "socketpair":
        return stdlib_socket.socketpair()
    if kind == "unix_seqpacket":
        return stdlib_socket.socketpair(type=stdlib_socket.SOCK_SEQPACKET)
    if kind == "unix_stream":
        with stdlib_socket.socket(stdlib_socket.AF_UNIX) as server:
            server.bind(f"{directory}/server")
            server.listen()
            a = stdlib_socket.socket(stdlib_socket.AF_UNIX)
            a.connect(f"{directory}/server")
            return a, server.accept()[0]
    if kind == "unix_dgram":
        a, b = (
            stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM)
            for _ in range(2)
        )
        a.bind(f"{directory}/a")
        b.bind(f"{directory}/b")
    else:
        a, b = (stdlib_socket.socket(family, stdlib_socket.SOCK_DGRAM) for _ in range(2))
        for sock in a, b:
            sock.bind(("::1" if kind.endswith("6") else "127.0.0.1", 0))
    a.connect(b.getsockname())
    b.connect(a.getsockname())
    return a, b


@contextlib.contextmanager
def connected(kind: str) -> Iterator[Pair]:
    """Two connected trio sockets of one kind."""
    with tempfile.TemporaryDirectory() as directory:
        stdlib_a, stdlib_b = _stdlib_pair(kind, directory)
        a = trio.socket.from_stdlib_socket(stdlib_a)
        b = trio.socket.from_stdlib_socket(stdlib_b)
        names = {}
        for name, sock in ("<address of a>", a), ("<address of b>", b):
            if sock.getsockname():
                names[sock.getsockname()] = name
        names[directory] = "<directory>"
        with a, b:
            yield Pair(kind, a, b, names)


# -- the same on stock Trio ------------------------------------------------------------


@attrs.define
class Notes:
    """Which calls waited on stock Trio, in order.

    On lio only those are given a short time, and all others more than they can need: so a
    slow machine makes no difference.
    """

    waited: list[bool] = attrs.Factory(list)
    calls: int = 0
    complete: bool = False
    patience_now: float = SHORTLY

    def patience(self) -> float:
        self.calls += 1
        if not self.complete:
            return self.patience_now
        return SHORTLY / 4 if self.waited[self.calls - 1] else PATIENCE


notes: ContextVar[Notes] = ContextVar("notes")


async def attempt(async_fn: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
    """What a call leads to, as something that can be compared."""
    taken = notes.get(None)
    outcome: tuple[Any, ...] = ("waits",)
    with trio.move_on_after(SHORTLY if taken is None else taken.patience()):
        try:
            value = await async_fn(*args, **kwargs)
        except Exception as exc:
            outcome = ("raised", type(exc).__name__, str(exc), getattr(exc, "errno", None))
        else:
            outcome = ("returned", value)
    if taken is not None and not taken.complete:
        taken.waited.append(outcome == ("waits",))
    return outcome


@contextlib.asynccontextmanager
async def waiting(
    async_fn: Callable[..., Awaitable[Any]], *args: Any
) -> AsyncIterator[list[Any]]:
    """A task that is parked in a call while the body runs; the list gets what came of it."""
    outcome: list[Any] = []

    async def wait() -> None:
        try:
            outcome.append(("returned", await async_fn(*args)))
        except Exception as exc:
            outcome.append(("raised", type(exc).__name__, str(exc)))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not outcome, f"did not wait: {outcome}"
            yield outcome


def allow_descriptors(count: int) -> int:
    """Raises the limit if that is allowed; returns how many descriptors there can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(hard, count)))
        except (ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(open_fds()) - 64


def case_id(value: object) -> str:
    """The `repr` of a parameter, without addresses: side by side, every process that runs
    tests has to call them the same."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


async def open_ours(*args: Any, **kwargs: Any) -> Any:
    file = await trio_lio.open_file(*args, **kwargs)
    assert isinstance(file, trio_lio.AsyncFile)
    return file
