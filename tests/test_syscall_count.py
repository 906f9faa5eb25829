"""The counter of system calls against processes that make a known number of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from trio_lio._measure import SyscallCounts, count_syscalls
from trio_lio._native import ffi

if TYPE_CHECKING:
    from collections.abc import Iterator

# A call that nothing else in the child makes, and its number.
PREAMBLE = """
import os, sys, threading, time
def go():
    for _ in range(1000):
        os.getppid()
def line():
    print("ready", flush=True)
    sys.stdin.readline()
"""
GETPPID = {"x86_64": 110, "aarch64": 173, "riscv64": 173}.get(os.uname().machine)


@contextlib.contextmanager
def child(source: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def count(process: subprocess.Popen[str], seconds: float) -> SyscallCounts:
    try:
        return count_syscalls(process.pid, seconds)
    except PermissionError as exc:
        pytest.skip(str(exc))


def count_from_a_line_on(process: subprocess.Popen[str], seconds: float = 2.0) -> SyscallCounts:
    """Wakes the child once counting is under way, and counts until it waits again or ends."""
    assert process.stdin is not None
    wake = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(0.5); print()"], stdout=process.stdin
    )
    try:
        return count(process, seconds)
    finally:
        wake.wait()


def tracer_of(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        [line] = [line for line in file if line.startswith("TracerPid:")]
    return int(line.split()[1])


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_a_known_number_of_calls() -> None:
    with child("line(); go(); line()") as process:
        found = count_from_a_line_on(process)
        assert found.total >= 1000
        assert found.total == sum(found.by_number.values())
        if GETPPID is not None:
            assert found.by_number[GETPPID] == 1000
            assert found.total < 1100
        assert not found.exited
        assert tracer_of(process.pid) == 0
        assert process.poll() is None


def test_the_process_goes_on_unharmed() -> None:
    with child("line(); go(); line(); print('done')") as process:
        count_from_a_line_on(process)
        stdout, _ = process.communicate("\n", timeout=30)
        assert stdout == "ready\ndone\n"
        assert process.returncode == 0


def test_threads_that_are_there_and_threads_that_start() -> None:
    source = """
gate = threading.Event()
def waits():
    gate.wait(); go()
there = [threading.Thread(target=waits) for _ in range(3)]
for thread in there: thread.start()
line(); gate.set()
more = [threading.Thread(target=go) for _ in range(4)]
for thread in more: thread.start()
for thread in there + more: thread.join()
line()
"""
    with child(source) as process:
        found = count_from_a_line_on(process, 10)  # each call stops, on a machine that is busy
        assert found.total >= 7000
        if GETPPID is not None:
            assert found.by_number[GETPPID] == 7000
        assert found.threads == 8


def test_a_process_that_ends_meanwhile() -> None:
    with child("line(); sys.exit(3)") as process:
        found = count_from_a_line_on(process)
        assert found.exited
        assert found.elapsed < 1.9
        # Its parent still learns how it ended.
        assert process.wait(10) == 3


def test_signals_reach_the_process() -> None:
    source = """
import signal
signal.signal(signal.SIGUSR1, lambda *_: print("signal", flush=True))
line(); line()
"""
    with child(source) as process:
        killer = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import os, time; time.sleep(0.3); os.kill({process.pid}, {signal.SIGUSR1})",
            ]
        )
        count(process, 1.0)
        killer.wait()
        assert process.stdout is not None
        assert process.stdout.readline() == "signal\n"


def test_a_stopped_process_stays_stopped() -> None:
    with child("line(); line()") as process:
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        count(process, 0.3)
        deadline = time.monotonic() + 10
        while state_of(process.pid) != "T":  # let go, it takes a moment to stop anew
            assert time.monotonic() < deadline
        time.sleep(0.1)
        assert state_of(process.pid) == "T"
        process.send_signal(signal.SIGCONT)
        stdout, _ = process.communicate("\n\n", timeout=30)
        assert stdout == "ready\n"


def test_an_idle_process_makes_no_calls() -> None:
    with child("line()") as process:
        started = time.monotonic()
        found = count(process, 0.3)
        assert 0.3 <= time.monotonic() - started < 3
        assert found.elapsed >= 0.3
        assert found.total <= 2  # the one that it was in, taken up again


def test_the_work_is_read_beside() -> None:
    with child("line()") as process:
        work = ffi.new("uint64_t *", 17)
        try:
            assert count_syscalls(process.pid, 0.05, work=work).work == 0
        except PermissionError as exc:
            pytest.skip(str(exc))


def test_no_such_process() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises((ProcessLookupError, PermissionError)):
        count_syscalls(process.pid, 0.1)


def test_oneself() -> None:
    with pytest.raises(OSError, match="ptrace"):
        count_syscalls(os.getpid(), 0.1)


def test_somebody_else_traces_it() -> None:
    with child("line()") as process:
        count(process, 0.01)
        other = threading.Thread(target=count_syscalls, args=(process.pid, 1.0))
        other.start()
        while not tracer_of(process.pid):
            time.sleep(0.01)
        with pytest.raises(PermissionError, match="ptrace"):
            count_syscalls(process.pid, 0.1)
        other.join()
        assert tracer_of(process.pid) == 0


def test_not_allowed() -> None:
    """A process may forbid it: it is not dumpable, and we have no privilege over it."""
    source = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); line()"  # PR_SET_DUMPABLE
    if os.geteuid() == 0:
        pytest.skip("root may trace everything")
    with child(source) as process, pytest.raises(PermissionError, match="ptrace"):
        count_syscalls(process.pid, 0.1)
