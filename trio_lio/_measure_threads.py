"""A load of threads, for where the load generator in C does not run.

One thread a connection, with blocking calls: it takes more of the machine than the C one does,
and so tells less. Of `trio_lio._measure.Load` it has what the demo uses.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

from ._measure import LoadResult

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Load", "count_syscalls"]

_PATIENCE = 10.0


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    _kernel32 = ctypes.WinDLL("kernel32")
    _kernel32.OpenProcess.restype = wintypes.HANDLE
    _kernel32.GetProcessTimes.argtypes = [wintypes.HANDLE, *[ctypes.c_void_p] * 4]
    _kernel32.CloseHandle.argtypes = [wintypes.HANDLE]
    _PROCESS_QUERY_LIMITED_INFORMATION = 0x1000

    def _cpu_time(pid: int) -> float:
        """Seconds of CPU time of another process, 0 if that is not to be known."""
        handle = _kernel32.OpenProcess(_PROCESS_QUERY_LIMITED_INFORMATION, False, pid)
        if not handle:
            return 0.0
        times = [ctypes.c_uint64() for _ in range(4)]  # made, ended, kernel, user; in 100 ns
        known = _kernel32.GetProcessTimes(handle, *map(ctypes.byref, times))
        _kernel32.CloseHandle(handle)
        return (times[2].value + times[3].value) / 1e7 if known else 0.0

else:

    def _cpu_time(pid: int) -> float:
        return 0.0


class Load:
    """Connections that ping-pong messages with an echo server, one request under way each.

    Args:
      address: ``(host, port)`` with a numeric host.
      connections, message_bytes: how many, and of each request.
      seconds: of the measurement; 0: until `stop`.
      warm_up: seconds that are not counted.
      server_pid: the process whose CPU time to read.
    """

    requests_counter = None

    def __init__(
        self,
        address: tuple[str, int],
        *,
        connections: int,
        message_bytes: int,
        seconds: float = 0.0,
        warm_up: float = 0.0,
        server_pid: int = 0,
    ) -> None:
        self._address, self._size, self._pid = address, message_bytes, server_pid
        self._seconds, self._warm_up = seconds, warm_up
        self._latencies: list[list[float]] = [[] for _ in range(connections)]
        self._errors: list[OSError] = []
        self._corrupt = 0
        self._stopped = threading.Event()
        self._begins = self._ends = self._cpu = 0.0
        self._threads = [
            threading.Thread(target=self._work, args=(taken,), daemon=True)
            for taken in self._latencies
        ]
        self._clock = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._begins = time.perf_counter() + self._warm_up
        self._ends = self._begins + self._seconds if self._seconds else float("inf")
        for thread in (*self._threads, self._clock):
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self.join()

    def _watch(self) -> None:
        self._stopped.wait(max(0.0, self._begins - time.perf_counter()))
        before = _cpu_time(self._pid)
        left = self._ends - time.perf_counter()
        self._stopped.wait(None if left == float("inf") else max(0.0, left))
        self._ends = min(self._ends, time.perf_counter())
        self._cpu = _cpu_time(self._pid) - before
        self._stopped.set()

    def _work(self, taken: list[float]) -> None:
        message = bytes(at % 251 for at in range(self._size))
        try:
            with socket.create_connection(self._address, timeout=_PATIENCE) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while not self._stopped.is_set():
                    begun = time.perf_counter()
                    sock.sendall(message)
                    answer = b""
                    while len(answer) < self._size:
                        if not (part := sock.recv(self._size - len(answer))):
                            raise ConnectionResetError("the server closed a connection")
                        answer += part
                    self._corrupt += answer != message
                    ended = time.perf_counter()
                    if begun >= self._begins and not self._stopped.is_set():
                        taken.append(ended - begun)
        except OSError as exc:
            if not self._stopped.is_set():
                self._errors.append(exc)

    def stop(self) -> None:
        """Ends it early; what was measured until then counts."""
        self._stopped.set()

    def join(self, timeout: float | None = None) -> bool:
        """Waits for the end; whether it has come."""
        deadline = None if timeout is None else time.perf_counter() + timeout
        for thread in (*self._threads, self._clock):
            thread.join(None if deadline is None else max(0.0, deadline - time.perf_counter()))
        return not any(thread.is_alive() for thread in (*self._threads, self._clock))

    @property
    def measuring(self) -> bool:
        return time.perf_counter() >= self._begins and not self._stopped.is_set()

    @property
    def requests(self) -> int:
        """Measured so far."""
        return sum(map(len, self._latencies))

    def result(self) -> LoadResult:
        """What was found, after the end.

        Raises:
          OSError: no connection got an answer.
        """
        latencies = sorted(one for taken in self._latencies for one in taken)
        if not latencies:
            raise self._errors[0] if self._errors else TimeoutError("no answer came in time")
        return LoadResult(
            requests=len(latencies),
            bytes=len(latencies) * self._size,
            elapsed=self._ends - self._begins,
            server_cpu=self._cpu,
            errors=len(self._errors),
            corrupt=self._corrupt,
            first_error=(self._errors[0].errno or 0) if self._errors else 0,
            mean=sum(latencies) / len(latencies),
            p50=latencies[len(latencies) // 2],
            p99=latencies[len(latencies) * 99 // 100],
            slowest=latencies[-1],
        )


def count_syscalls(pid: int, seconds: float, *, work: Any = None) -> NoReturn:
    """Raises OSError: nothing counts them here."""
    raise OSError(0, "they are counted on Linux only")
