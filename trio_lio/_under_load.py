"""Servers in processes of their own, on one CPU, with the load on another."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_START_SECONDS = 20.0
_STOP_SECONDS = 5.0


class NotUp(Exception):
    """A server did not start, or ended; it has said on stderr why."""


class ServerProcess:
    """A Python program that serves until its standard input ends, so it cannot outlive us.

    Its first line of output is JSON: where it listens (``port``) and whatever it has to say.
    """

    def __init__(self, program: Sequence[str], cpu: int | None) -> None:
        # A session of its own: Ctrl-C is for us, and we stop the servers in order.
        self._process = subprocess.Popen(
            [sys.executable, *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.hello: dict[str, Any] = {}
        if cpu is not None:
            os.sched_setaffinity(self.pid, {cpu})

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.hello["port"])

    def wait_until_up(self) -> None:
        self.hello = self._listen()

    def _listen(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if sys.platform == "win32":  # whose selectors know sockets only
            line = _line_in_time(self._process.stdout)
            if not line:
                raise NotUp
            return json.loads(line)  # type: ignore[no-any-return]
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = selector.select(_START_SECONDS) and self._process.stdout.readline()
        if not line:
            raise NotUp
        return json.loads(line)  # type: ignore[no-any-return]

    def ask(self) -> dict[str, Any]:
        """Sends a line to its standard input; its answer, of one line too."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return self._listen()

    def stop(self) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _line_in_time(stream: IO[bytes]) -> bytes:
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(stream.readline()), daemon=True)
    reader.start()
    reader.join(_START_SECONDS)
    return found[0] if found else b""


def _siblings(cpu: int) -> set[int]:
    """The CPUs that share a core with this one."""
    path = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    found = {cpu}
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        for part in file.read().split(","):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return found


@contextlib.contextmanager
def two_cpus() -> Iterator[int | None]:
    """Keeps us, and so the load generator, on one CPU; gives another for the servers, one
    that shares no core with it if possible. None if there is just one."""
    if not hasattr(os, "sched_getaffinity"):
        yield None  # the system places them
        return
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        yield None
        return
    servers, *others = sorted(before, reverse=True)
    apart = [cpu for cpu in others if cpu not in _siblings(servers)]
    os.sched_setaffinity(0, {(apart or others)[0]})
    try:
        yield servers
    finally:
        os.sched_setaffinity(0, before)
