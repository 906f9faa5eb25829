"""What a server does under load: the C load generator and the counter of system calls::

with Load(("127.0.0.1", port), connections=50, message_bytes=1024, seconds=2) as load:
    load.join()
print(load.result().requests)
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Any

import attrs

from ._native import ffi, lib

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Load", "LoadResult", "StopCounting", "SyscallCounts", "count_syscalls"]


# Only builds for Linux have the load generator.
_KINDS = {
    "echo": getattr(lib, "LIO_LOAD_ECHO", None),
    "reconnect": getattr(lib, "LIO_LOAD_RECONNECT", None),
    "datagrams": getattr(lib, "LIO_LOAD_DATAGRAMS", None),
    "sink": getattr(lib, "LIO_LOAD_SINK", None),
}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _raise(code: int, what: str) -> None:
    if code < 0:
        raise OSError(-code, f"{what}: {os.strerror(-code)}")


@attrs.frozen
class LoadResult:
    """What one load found. All times are in seconds."""

    requests: int
    bytes: int
    """That came back in those requests."""
    elapsed: float
    server_cpu: float
    """CPU time, user and system, of ``server_pid`` meanwhile."""
    errors: int
    """Connections lost, corrupt ones among them."""
    corrupt: int
    first_error: int
    """The errno of the first lost connection: EBADMSG for a corrupt one, EPIPE for one that
    the server closed, 0 for none."""
    mean: float
    p50: float
    p99: float
    slowest: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.elapsed if self.elapsed else 0.0


class Load:
    """Connections that load a server, in a thread of C.

    Args:
      address: ``(host, port)`` with a numeric host, or the path of a UNIX stream socket.
      connections: how many; each has one request under way at any time.
      message_bytes: of each request; the answer has to be the same bytes.
      requests, seconds: ends after so many, or so long a measurement, whichever comes first.
        Neither: `stop` ends it.
      warm_up: seconds that are not counted.
      patience: seconds without any answer or connection after which it gives up.
      server_pid: the process whose CPU time to read.
      kind: "echo"; "reconnect": a new connection for each request; "datagrams"; "sink": the
        server sends unasked, and every ``message_bytes`` count as a request.
      idle: connections besides, which are answered once and silent from then on.
      rate: requests a second at even intervals, of all connections together; latencies count
        from when a request was due. 0: each request follows an answer.
      awake: never sleep, so that latencies have none of the load's own waking up in them.
    """

    def __init__(
        self,
        address: tuple[str, int] | str,
        *,
        connections: int,
        message_bytes: int,
        requests: int = 0,
        seconds: float = 0.0,
        warm_up: float = 0.0,
        patience: float = 10.0,
        server_pid: int = 0,
        kind: str = "echo",
        idle: int = 0,
        rate: int = 0,
        awake: bool = False,
    ) -> None:
        self._options = ffi.new("lio_load_options *")
        self._progress = ffi.new("lio_load_progress *")
        self._result = ffi.new("lio_load_result *")
        self._code = 0
        options = self._options
        # The struct does not keep what it points to.
        if isinstance(address, str):
            options.path = self._text = ffi.new("char[]", os.fsencode(address))
        else:
            options.host = self._text = ffi.new("char[]", address[0].encode("ascii"))
            options.port = address[1]
        options.connections = connections
        options.message_bytes = message_bytes
        options.requests = requests
        options.duration_ns = _nanoseconds(seconds)
        options.warm_up_ns = _nanoseconds(warm_up)
        options.patience_ns = _nanoseconds(patience)
        options.server_pid = server_pid
        options.kind = _KINDS[kind]
        options.idle = idle
        options.rate = rate
        options.awake = awake
        self._thread = threading.Thread(target=self._run, name="load generator", daemon=True)

    def _run(self) -> None:
        self._code = lib.lio_load_run(self._options, self._progress, self._result)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends it early; what was measured until then counts."""
        self._progress.stop = 1

    def join(self, timeout: float | None = None) -> bool:
        """Waits for the end; whether it has come."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self.join()

    @property
    def measuring(self) -> bool:
        return bool(self._progress.phase == lib.LIO_LOAD_MEASURING)

    @property
    def connected(self) -> int:
        return int(self._progress.connected)

    @property
    def requests(self) -> int:
        """Measured so far."""
        return int(self._progress.requests)

    @property
    def errors(self) -> int:
        return int(self._progress.errors)

    @property
    def requests_counter(self) -> Any:
        """The counter behind `requests`, for `count_syscalls`; lives as long as the load."""
        return ffi.addressof(self._progress, "requests")

    def result(self) -> LoadResult:
        """What was found, after the end.

        Raises:
          OSError: not all could connect, or the server fell silent (ETIMEDOUT), or bad
            arguments (EINVAL).
        """
        if not self.join(0):
            raise RuntimeError("the load still runs: join() it first")
        _raise(self._code, "load generator")
        found = self._result
        return LoadResult(
            requests=found.requests,
            bytes=found.bytes,
            elapsed=found.elapsed_ns / 1e9,
            server_cpu=found.server_cpu_ns / 1e9,
            errors=found.errors,
            corrupt=found.corrupt,
            first_error=-found.first_error,
            mean=found.latency_sum_ns / 1e9 / max(found.requests, 1),
            p50=lib.lio_load_percentile(found, 50.0) / 1e9,
            p99=lib.lio_load_percentile(found, 99.0) / 1e9,
            slowest=found.latency_max_ns / 1e9,
        )


@attrs.frozen
class SyscallCounts:
    """The system calls of a process during some time."""

    total: int
    by_number: dict[int, int]
    """Only numbers that occurred; those from 512 on are in ``total`` alone."""
    work: int
    """By how much the counter of work grew meanwhile."""
    elapsed: float
    threads: int
    exited: bool
    """The process ended before its time."""


class StopCounting:
    """Ends a `count_syscalls` early, from another thread."""

    def __init__(self) -> None:
        self.flag = ffi.new("uint32_t *")

    def now(self) -> None:
        self.flag[0] = 1


def count_syscalls(
    pid: int, seconds: float, *, work: Any = None, stop: StopCounting | None = None
) -> SyscallCounts:
    """Counts the system calls of all threads of another process, by ptrace.

    Blocks for ``seconds``, until ``stop``, or until the process ends. It is slow meanwhile,
    and must not be waited for (``Popen.poll`` and the like): ptrace uses the same channel.

    Raises:
      PermissionError: ptrace is not allowed here, or somebody else traces the process.
      ProcessLookupError: there is no such process.
      OSError: ENOTSUP: the kernel is older than Linux 5.3.
    """
    options = ffi.new("lio_syscall_options *")
    counts = ffi.new("lio_syscall_counts *")
    options.pid = pid
    options.duration_ns = max(_nanoseconds(seconds), 1)
    options.work = ffi.NULL if work is None else work
    options.stop = ffi.NULL if stop is None else stop.flag
    code = lib.lio_count_syscalls(options, counts)
    if code == -errno.EPERM:
        raise PermissionError(
            errno.EPERM,
            "ptrace is not allowed here (seccomp, kernel.yama.ptrace_scope, or another tracer)",
        )
    _raise(code, "ptrace")
    numbers = enumerate(counts.by_number)
    return SyscallCounts(
        total=counts.total,
        by_number={number: count for number, count in numbers if count},
        work=counts.work,
        elapsed=counts.elapsed_ns / 1e9,
        threads=counts.threads,
        exited=bool(counts.exited),
    )
