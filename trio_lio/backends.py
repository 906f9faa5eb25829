"""The contract of a backend, for use without Trio.

::

    from trio_lio.backends import Poller, Op

    backend = Poller()                  # or IoUring(), default_backend()
    backend.init(1024)
    backend.push(1, Op.nop())
    backend.flush()
    [done] = backend.wait_timeout(0)    # OpCompleted(op_id=1, result=0)
    backend.close()

A backend takes operations, hands them to the kernel in batches, and gives every one of them
exactly one completion. It belongs to the thread that called `IoBackend.init`.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import threading
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs

from ._faults import Faults
from ._flight import Flight, prepare, value_of
from ._native import (
    ETIME,
    BackendClosed,
    BackendInfo,
    BackendUnavailable,
    ContractError,
    Full,
    NotInitialised,
    WrongThread,
    available_backends,
    backend_names,
    capability_names,
    create,
    ffi,
    lib,
    os_error,
    probe,
    raise_contract_error,
    raise_unavailable,
)
from ._op import FD_MAX, Op, Ready, checked_seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

__all__ = [
    "SIGNAL",
    "WAKE",
    "BackendClosed",
    "BackendInfo",
    "BackendStats",
    "BackendUnavailable",
    "ContractError",
    "Faults",
    "Full",
    "IoBackend",
    "IoUring",
    "Iocp",
    "Kqueue",
    "NotInitialised",
    "Op",
    "OpCompleted",
    "Poller",
    "Ready",
    "Sim",
    "WrongThread",
    "available_backends",
    "default_backend",
]

WAKE: Final = -1
"""The `OpCompleted.op_id` of what tells that somebody called `IoBackend.wake`."""

SIGNAL: Final = -2
"""The `OpCompleted.op_id` of what tells that a signal ended the wait."""

_ID_MAX = 2**63 - 1
_CAPACITY_MAX = (2**32 - 1) // 8
_EVENT_NAMES = {WAKE: "WAKE", SIGNAL: "SIGNAL"}
_FOR_EVER = float("inf")
_STREAM = socket.SOCK_STREAM
_RECORD_SIZE = ffi.sizeof("lio_op")
_ZEROED = bytes(_RECORD_SIZE)
# What the kernel may still write to, and nobody can end.
_leaked: list[object] = []


def _error_number(error: OSError | None) -> int | None:
    return None if error is None else error.errno


@attrs.frozen(repr=False)
class OpCompleted:
    """The end of one operation."""

    op_id: int
    """As given to `IoBackend.push`; or `WAKE`, or `SIGNAL`."""
    result: Any = None
    """What the operation brought: see each function of `Op`. `None` with an error."""
    error: OSError | None = attrs.field(default=None, eq=_error_number)
    """Why it failed: the subclass of `OSError` for its errno. Compared by errno."""

    def __repr__(self) -> str:
        name = _EVENT_NAMES.get(self.op_id, self.op_id)
        if self.error is not None:
            return f"OpCompleted(op_id={name}, error={self.error!r})"
        return f"OpCompleted(op_id={name}, result={self.result!r})"

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled and had no effect."""
        return self.error is not None and self.error.errno == errno.ECANCELED

    def unwrap(self) -> Any:
        """The result; raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return self.result


@attrs.frozen
class BackendStats:
    """What a backend has done so far."""

    pushed: int
    """Operations accepted."""
    flushed: int
    """Operations handed over; one that had to go twice counts twice."""
    completed: int
    """Completions handed out."""
    cancelled: int
    """Operations taken back, or completed with ECANCELED."""
    syscalls: int
    """System calls made, as far as the backend counts them."""
    overflow: int
    """Times that the kernel had more completions than its queue had room."""
    largest_batch: int
    """The most operations handed over at once."""
    in_flight: int
    """Now: queued, submitted, or done and not handed out."""
    capacity: int
    """Now: how many may be in flight."""
    wakeups: int
    """Waits that a `wake` ended."""
    waits: int
    """Calls of `IoBackend.wait_timeout`."""
    spins: int
    """Waits that began by watching for events for a moment."""
    spin_hits: int
    """Of those, the ones that were ended by what they saw."""
    short_ios: int
    """Faults injected, by kind: see `trio_lio.testing.Faults`."""
    resets: int
    delays: int
    cancel_races: int
    interrupts: int
    overflows: int
    queue_fulls: int
    trace: int
    """`Sim`: a hash of what completed, with what, in which order. 0 elsewhere."""


# -- results ---------------------------------------------------------------------------


def _os_error(number: int, op: Op, detail: int) -> OSError:
    return os_error(number, detail, *(os.fsdecode(path) for path in op.paths))


def _discard(completion: OpCompleted, op: Op | None) -> None:
    """Closes what nobody will take."""
    if op is None or completion.error is not None:
        return
    fds: list[int] = []
    if op.opcode in (lib.LIO_SOCKET, lib.LIO_OPENAT):
        fds.append(completion.result)
    elif op.opcode == lib.LIO_ACCEPT:
        fds.append(completion.result[0])
    elif op.opcode == lib.LIO_RECVMSG:
        for level, kind, data in completion.result[1]:
            if (level, kind) == (socket.SOL_SOCKET, getattr(socket, "SCM_RIGHTS", None)):
                passed = array.array("i")
                passed.frombytes(data[: len(data) - len(data) % passed.itemsize])
                fds.extend(passed)
    for fd in fds:
        lib.lio_py_close(fd)


# -- arguments -------------------------------------------------------------------------


def _count(value: object, name: str, low: int) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not low <= value <= _CAPACITY_MAX:
        raise ValueError(f"{name} must be {low} to {_CAPACITY_MAX}, not {value}")
    return value


def _check_id(op_id: object) -> None:
    if not isinstance(op_id, int):
        raise TypeError(f"op_id must be an int, not {type(op_id).__name__}")
    if not 0 <= op_id <= _ID_MAX:
        raise ValueError(f"op_id must be 0 to 2**63 - 1, not {op_id}")


def _check_fd(fd: object) -> int:
    if not isinstance(fd, int):
        hint = "; give its fileno()" if hasattr(fd, "fileno") else ""
        raise TypeError(f"fd must be an int, not {type(fd).__name__}{hint}")
    if not 0 <= fd <= FD_MAX:
        raise ValueError(f"fd must be a file descriptor, not {fd}")
    return fd


# -- the contract ----------------------------------------------------------------------


class IoBackend:
    """A backend: `IoUring`, `Poller`, `Sim`, or what `default_backend` gives.

    A context manager that closes it at the end.

    Args:
      faults: what is to go wrong on purpose.

    Raises:
      BackendUnavailable: this kernel does not offer it, or a filter forbids it.
      OSError: descriptors or memory ran out.
    """

    backend_name: ClassVar[str | None] = None

    def __init__(self, *, faults: Faults | None = None) -> None:
        if self.backend_name is None:
            raise TypeError("make an IoUring, a Poller, or call default_backend()")
        self._setup(create(self.backend_name, faults), "asked for by name")

    def _setup(self, handle: Any, reason: str) -> None:
        self._handle = handle
        self._why = reason
        self._name: str = ffi.string(lib.lio_name(handle)).decode()
        self._flights: dict[int, Flight] = {}
        self._record = ffi.new("lio_op *")
        self._pool: Any = ffi.NULL
        self._receive_max = 0
        self._open = False
        self._counters = ffi.new("lio_stats *")
        self._owner = 0
        # Completions that were collected from the core and not yet given to the caller: some
        # only while wait_timeout runs, or after a signal handler raised out of it.
        self._ready: dict[int, tuple[OpCompleted, Op | None]] = {}
        self._collecting = False
        self._collected = 0  # completions, as the core counts them
        self._wakeups = 0

    @classmethod
    def _from_handle(cls, handle: Any, reason: str) -> Self:
        backend = cls.__new__(cls)
        backend._setup(handle, reason)
        return backend

    def __repr__(self) -> str:
        stats = self.stats()
        state = f"{stats.in_flight}/{stats.capacity} in flight" if self._open else "not open"
        return f"<{type(self).__name__} {self._name!r} {state}>"

    # -- life

    @property
    def name(self) -> str:
        """``"uring"``, ``"epoll"``, ``"sim"``."""
        return self._name

    def init(self, capacity: int) -> None:
        """Allocates all that ``capacity`` operations in flight need.

        Raises:
          ContractError: was called before.
          BackendClosed: after `close`.
          BackendUnavailable: this kernel does not offer it, or a filter forbids it.
          OSError: descriptors or memory ran out.
        """
        code = lib.lio_init(self._handle, _count(capacity, "capacity", 1))
        if code < 0 and -code not in (errno.EALREADY, errno.ESHUTDOWN):
            raise_unavailable(self._name, code)
        self._check(code)
        base, size = ffi.new("void **"), ffi.new("size_t *")
        self._check(lib.lio_pool(self._handle, base, size))
        self._pool = ffi.cast("char *", base[0])
        self._receive_max = int(lib.lio_pool_receive_max(self._handle))
        self._owner = threading.get_ident()
        self._open = True

    def grow(self, more: int) -> None:
        """Allocates for ``more`` operations on top."""
        if self._collecting:
            self._collect()
        self._check(lib.lio_grow(self._handle, _count(more, "more", 0)))

    def close(self) -> None:
        """Ends everything in flight without a completion, and frees. Idempotent.

        When it returns, the kernel owns no memory of ours. What completed with a descriptor
        that nobody took is closed.

        Raises:
          WrongThread: from another thread than `init`.
        """
        if self._collecting:
            self._collect()
        self._check(lib.lio_close(self._handle))
        self._open = False
        while self._ready:
            _discard(*self._ready.popitem()[1])
        while self._flights:
            self._flights.popitem()[1].release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_open", False):
            return
        warnings.warn(f"unclosed backend {self!r}", ResourceWarning, source=self, stacklevel=2)
        try:
            self.close()
        except ContractError:
            # Not our thread: the kernel may still write into what these keep alive.
            _leaked.append((self._handle, self._flights))

    # -- operations

    def push(self, op_id: int, op: Op) -> None:
        """Queues an operation; no system call.

        Args:
          op_id: the caller's name for it, 0 to 2**63 - 1, unique among those in flight.
          op: what to do. Its buffers stay exported until the completion.

        Raises:
          Full: as many are in flight as the capacity. Nothing was queued.
          ContractError: the id is in flight; or a `Op.close` of a descriptor in use.
          TypeError, ValueError: bad arguments, such as a buffer that was released.
          OSError: the platform cannot do this (ENOTSUP).
        """
        _check_id(op_id)
        if not isinstance(op, Op):
            raise TypeError(f"an Op is required, not {type(op).__name__}")
        if self._collecting:
            self._collect()
        record = self._record
        ffi.memmove(record, _ZEROED, _RECORD_SIZE)
        flight = Flight(op)
        taken = False
        try:
            prepare(record, op, flight, self._receive_max)
            # Before the push: were it to be noted after, a signal handler that raises in
            # between would free what the kernel is about to use.
            known = self._flights.setdefault(op_id, flight)
            code = lib.lio_push(self._handle, op_id, record)
            taken = code == 0
            if taken and known is not flight:
                self._flights[op_id] = flight  # of an id that a handler left behind
        finally:
            if not taken:
                if self._flights.get(op_id) is flight:
                    del self._flights[op_id]
                flight.release()
        if code == -errno.EBUSY:
            raise ContractError(
                f"descriptor {op.fd} has operations in flight or is adopted: close it with "
                "close_fd()"
            )
        self._check(code, f": {op!r} as {op_id}")

    def cancel(self, op_id: int) -> bool:
        """Asks for an operation's end.

        Returns:
          `True`: it was still queued, is taken back, and never happened; no completion
          comes. `False`: its completion comes, with its result or with ECANCELED.

        Raises:
          ContractError: no such operation is in flight.
        """
        _check_id(op_id)
        if self._collecting:
            self._collect()
        if self._check(lib.lio_cancel(self._handle, op_id), f": {op_id}") == 0:
            return False
        flight = self._flights.pop(op_id, None)
        if flight is not None:
            flight.release()
        return True

    def flush(self) -> int:
        """Hands all queued operations over, in the order of their push; returns how many."""
        return self._check(lib.lio_flush(self._handle))

    def wait_timeout(self, timeout: float | None) -> list[OpCompleted]:
        """Flushes, and waits for completions.

        Args:
          timeout: seconds. `None` or infinity waits for at least one, 0 does not wait.

        Returns:
          What completed, in no promised order. Empty if and only if the time ran out. A
          `wake` adds ``OpCompleted(WAKE, 0)``; a signal ends the wait with an `OpCompleted`
          of id `SIGNAL`, whose error is an `InterruptedError`.

        What a Python signal handler raises, this raises; nothing is lost then, the next call
        brings it.
        """
        seconds = _FOR_EVER if (wanted := checked_seconds(timeout)) is None else wanted
        if threading.get_ident() != self._owner:
            self._check(lib.lio_flush(self._handle))  # says what is wrong
        if self._collecting:
            self._collect()
        if not self._ready:
            # Should a signal handler raise from here on, the mark stays: the core's records
            # are still there for the next call.
            self._collecting = True
            count = lib.lio_py_wait(self._handle, seconds)
            if count < 0:
                self._collecting = False
                raise_contract_error(count)
            self._collect()
            if count > len(self._ready):
                self._ready[SIGNAL] = OpCompleted(SIGNAL, None, os_error(errno.EINTR)), None
        ready = [completion for completion, _op in self._ready.values()]
        self._ready = {}
        return ready

    def wait_ready(self, timeout: float | None) -> bool:
        """Waits until `wait_timeout` would find something, and takes nothing.

        May be called from any thread. `False`: the time ran out.
        """
        seconds = _FOR_EVER if (wanted := checked_seconds(timeout)) is None else wanted
        code = lib.lio_py_wait_ready(self._handle, seconds)
        if code == -errno.EINTR:
            return True
        return self._check(code) > 0

    def wake(self) -> None:
        """Ends a wait, the one under way or the next. From any thread and signal handlers.

        Several wakes before a wait are one.
        """
        self._check(lib.lio_wake(self._handle))

    # -- completions

    def _collect(self) -> None:
        """Takes what the core handed out to the last wait. May be interrupted at any point
        by a signal handler that raises, and called again."""
        if threading.get_ident() != self._owner:
            raise_contract_error(-errno.EPERM)
        counters = self._counters
        lib.lio_get_stats(self._handle, counters)
        records = lib.lio_records(self._handle)
        for at in range(counters.completed - self._collected):
            record = records[at]
            flight = self._flights.get(record.id)
            if flight is not None:
                self._ready[record.id] = self._completed(record, flight), flight.op
                del self._flights[record.id]
                flight.release()
        if counters.wakeups != self._wakeups:
            self._ready[WAKE] = OpCompleted(WAKE, 0), None
        self._collected = counters.completed
        self._wakeups = counters.wakeups
        self._collecting = False

    def _completed(self, record: Any, flight: Flight) -> OpCompleted:
        op = flight.op
        result = int(record.result)
        if result < 0:
            if op.opcode == lib.LIO_TIMEOUT and result == -ETIME:
                return OpCompleted(int(record.id), 0)
            return OpCompleted(int(record.id), None, _os_error(-result, op, int(record.detail)))
        value = value_of(flight, self._pool, result, int(record.data), int(record.detail))
        return OpCompleted(int(record.id), value)

    # -- descriptors

    def adopt(self, fd: int) -> bool:
        """Claims a descriptor until `release_fd` or `close_fd`.

        It is registered with the kernel once, and its operations reach this very file, even
        if somebody else closes the number and it is used again.

        Returns:
          `False`: the backend has no use for it; an operation on it should be flushed with
          its push.
        """
        return self._check(lib.lio_adopt(self._handle, _check_fd(fd))) > 0

    def release_fd(self, fd: int) -> None:
        """Settles every operation on a descriptor: each completes, with its result or with
        ECANCELED, and the kernel lets go of the file. It stays open."""
        self._check(lib.lio_release_fd(self._handle, _check_fd(fd)))

    def close_fd(self, fd: int) -> None:
        """`release_fd`, then closes: the peer sees the end now.

        Raises:
          OSError: it was closed before (EBADF), or its last data could not be written.
        """
        code = lib.lio_close_fd(self._handle, _check_fd(fd))
        self._check(code, f": descriptor {fd}")

    # -- looking

    def stats(self) -> BackendStats:
        """The counters. Always possible."""
        stats = ffi.new("lio_stats *")
        lib.lio_get_stats(self._handle, stats)
        return BackendStats(*(int(getattr(stats, f.name)) for f in attrs.fields(BackendStats)))

    def capabilities(self) -> tuple[str, ...]:
        """What this kernel offers, of that which a kernel may lack."""
        return capability_names(lib.lio_capabilities(self._handle))

    @property
    def info(self) -> BackendInfo:
        """Name, capabilities, and why this backend was chosen."""
        return BackendInfo(self._name, True, self._why, self.capabilities())

    def _check(self, code: int, what: str = "") -> int:
        return code if code >= 0 else raise_contract_error(code, what)


class IoUring(IoBackend):
    """The backend ``"uring"``: io_uring, where the kernel completes operations (Linux)."""

    backend_name = "uring"


class Poller(IoBackend):
    """The backend ``"epoll"``: runs each operation when epoll says it can (Linux)."""

    backend_name = "epoll"


class Sim(IoBackend):
    """The backend ``"sim"``: a simulated kernel, for tests. Never chosen by itself.

    It completes operations in an order that its seed decides. Descriptors from elsewhere
    are real: an operation on one is a system call that does not block. `socket`,
    `socketpair`, `pipe` and `open` make simulated ones, on which nothing depends on the
    machine: the same seed and the same calls are the same run, as ``stats().trace`` shows.
    They are descriptors for operations of this backend alone (a system call on one fails with
    EPIPE or finds nothing), and are closed as any other.

    Args:
      seed: 0 to 2**64 - 1. `None`: that of ``TRIO_LIO_SIM_SEED``, or 0.
      virtual_time: time stands still while anything can go on, and jumps to the next timer
        or the end of the wait when nothing can. An operation on a real descriptor keeps it
        from jumping.
      faults: what is to go wrong on purpose.
    """

    backend_name = "sim"

    def __init__(
        self,
        seed: int | None = None,
        *,
        virtual_time: bool = False,
        faults: Faults | None = None,
    ) -> None:
        if seed is not None:
            Faults(seed=seed)  # checks it
        handle = create("sim", faults, seed, virtual_time)
        self._setup(handle, "asked for by name")

    def socket(self, kind: int = _STREAM) -> int:
        """A simulated socket, for `Op.bind`, `Op.listen`, `Op.accept`, `Op.connect`.

        Args:
          kind: ``SOCK_STREAM`` or ``SOCK_DGRAM``.

        Addresses are compared byte by byte; any of the kernel's families will do, and only
        simulated sockets are reached.

        Raises:
          OSError: the process can have no more descriptors (EMFILE).
        """
        return self._check(lib.lio_sim_socket(self._handle, int(kind)))

    def socketpair(self, kind: int = _STREAM) -> tuple[int, int]:
        """Two simulated sockets that are connected with each other."""
        return self._two(lambda fds: lib.lio_sim_pair(self._handle, int(kind), fds))

    def pipe(self) -> tuple[int, int]:
        """A simulated pipe: its end to read from, and its end to write to."""
        return self._two(lambda fds: lib.lio_sim_pipe(self._handle, fds))

    def open(self, name: str, flags: int = os.O_RDWR | os.O_CREAT) -> int:
        """A file in memory. Its name leads to it as long as this backend lives.

        Raises:
          OSError: as ``os.open`` (ENOENT, EEXIST, EMFILE).
        """
        code = lib.lio_sim_open(self._handle, name.encode(), flags)
        if code in (-errno.ENOENT, -errno.EEXIST):  # no matter of the contract here
            raise OSError(-code, os.strerror(-code), name)
        return self._check(code)

    def _two(self, make: Callable[[Any], int]) -> tuple[int, int]:
        fds = ffi.new("int[2]")
        self._check(make(fds))
        return fds[0], fds[1]


class Kqueue(IoBackend):
    """The backend ``"kqueue"``: as `Poller`, with kqueue (macOS, the BSDs; on Linux in builds
    for tests)."""

    backend_name = "kqueue"


class Iocp(IoBackend):
    """The backend ``"iocp"``: overlapped operations on a completion port (Windows).

    Descriptors are handles there: of sockets, named pipes, files."""

    backend_name = "iocp"


_CLASSES: dict[str, type[IoBackend]] = {
    str(kind.backend_name): kind for kind in (IoUring, Poller, Kqueue, Iocp, Sim)
}


def default_backend() -> IoBackend:
    """The first backend in order of preference that this kernel offers, not yet initialised.

    `IoBackend.info` says why it was chosen. ``TRIO_LIO_BACKEND`` names one: it is used or
    refused.

    Raises:
      BackendUnavailable: none can run, or the one asked for cannot.
      ValueError: ``TRIO_LIO_BACKEND`` names none of this build.
      OSError: descriptors or memory ran out.
    """
    asked = os.environ.get("TRIO_LIO_BACKEND", "")
    if asked:
        return _CLASSES.get(asked, IoBackend)._from_handle(
            create(asked), f"TRIO_LIO_BACKEND={asked}"
        )
    refused: list[str] = []
    for name in backend_names():
        info = probe(name)
        if info.available or info.errno in _WANT_OF_RESOURCES:
            reason = f"preferred; {'; '.join(refused)}" if refused else "preferred"
            return _CLASSES[name]._from_handle(create(name), reason)
        refused.append(f"not {name}: {info.reason}")
    raise BackendUnavailable("no backend can run here: " + "; ".join(refused))


# Falling back would only hide these.
_WANT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
