"""Where the measuring is done: servers in turn, round by round."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import attrs

from .._measure import Load, LoadResult, StopCounting, SyscallCounts, count_syscalls
from .._under_load import NotUp, ServerProcess
from ._servers import HERE, KINDS, STOCK, program, under, why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .._console import Progress

_WARM_UP_SECONDS = 0.2
_PROGRAM_SECONDS = 120.0

# Metrics: their names, and whether less is better.
RATE = "requests/s"
CPU = "CPU us/request"
P50 = "p50 us"
P99 = "p99 us"
SYSCALLS = "system calls/request"
SYSCALLS_TOTAL = "system calls"
CPU_PER_MIB = "CPU us/MiB"
CHECKPOINTS = "checkpoints/s"
THROUGHPUT = "MiB/s"
MEMORY = "KiB resident/idle receive"
RUN_TIME = "us/run"
READS = "reads/s"
FILES = "files/s"
LINES = "lines/s"
MORE_IS_BETTER = {RATE, CHECKPOINTS, THROUGHPUT, READS, FILES, LINES}


class BenchError(Exception):
    """It cannot go on; the message says why."""


Metrics = dict[str, list[float]]
"""One server's measurements: for every metric a value of each round."""


@attrs.frozen
class Measurement:
    """One server at one setting, as it was measured."""

    setting: str
    server: str
    metrics: Metrics

    def median(self, metric: str) -> float:
        return statistics.median(self.metrics[metric])


@attrs.frozen
class Figure:
    """One line of the table of targets."""

    row: str
    what: str
    subject: str
    base: str
    """What it is compared with; empty: the value itself is the figure."""
    metric: str
    value: float
    base_value: float | None
    figure: float
    """The median over the rounds of the ratios, or the value."""
    rounds: list[float]
    target: float | None
    at_most: bool

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.figure <= self.target if self.at_most else self.figure >= self.target


@attrs.define
class Result:
    """What one kind of work found."""

    measurements: list[Measurement] = attrs.Factory(list)
    figures: list[Figure] = attrs.Factory(list)

    def find(self, setting: str, server: str) -> Measurement | None:
        for found in self.measurements:
            if found.setting == setting and found.server == server:
                return found
        return None

    def compare(
        self,
        row: str,
        setting: str,
        subject: str,
        base: str,
        metric: str,
        target: float | None = None,
        *,
        base_setting: str | None = None,
        plus: float = 0.0,
    ) -> None:
        """Adds the figure ``subject / (base + plus)``, if both were measured."""
        one = self.find(setting, subject)
        other = self.find(base_setting or setting, base)
        if one is None or other is None or metric not in one.metrics:
            return
        pairs = zip(one.metrics[metric], other.metrics[metric], strict=True)
        ratios = [mine / (theirs + plus) for mine, theirs in pairs]
        label = KINDS[base].label + (f" + {plus:.1f}" if plus else "")
        self.figures.append(
            Figure(
                row=row,
                what=setting,
                subject=KINDS[subject].label,
                base=label if base_setting is None else f"{label}, {base_setting}",
                metric=metric,
                value=one.median(metric),
                base_value=other.median(metric) + plus,
                figure=statistics.median(ratios),
                rounds=ratios,
                target=target,
                at_most=metric not in MORE_IS_BETTER,
            )
        )

    def relate(
        self,
        row: str,
        setting: str,
        subject: str,
        metric: str,
        other: str,
        target: float | None = None,
    ) -> None:
        """Adds the figure ``metric / other``, both of one server."""
        one = self.find(setting, subject)
        if one is None:
            return
        pairs = zip(one.metrics[metric], one.metrics[other], strict=True)
        ratios = [mine / theirs for mine, theirs in pairs]
        self.figures.append(
            Figure(
                row=row,
                what=setting,
                subject=KINDS[subject].label,
                base=f"{other} alone",
                metric=metric,
                value=one.median(metric),
                base_value=one.median(other),
                figure=statistics.median(ratios),
                rounds=ratios,
                target=target,
                at_most=True,
            )
        )

    def state(
        self,
        row: str,
        setting: str,
        subject: str,
        metric: str,
        target: float | None = None,
    ) -> None:
        """Adds a figure that is no ratio."""
        one = self.find(setting, subject)
        if one is None or metric not in one.metrics:
            return
        self.figures.append(
            Figure(
                row=row,
                what=setting,
                subject=KINDS[subject].label,
                base="",
                metric=metric,
                value=one.median(metric),
                base_value=None,
                figure=one.median(metric),
                rounds=one.metrics[metric],
                target=target,
                at_most=metric not in MORE_IS_BETTER,
            )
        )


class Server(ServerProcess):
    def __init__(self, name: str, cpu: int | None, *arguments: str) -> None:
        self.name = name
        super().__init__(program(name, *arguments), cpu)

    def resident(self) -> int:
        """Its memory now, in bytes."""
        return self._status("VmRSS:")

    def peak(self) -> int:
        """The most that it had."""
        return self._status("VmHWM:")

    def _status(self, field: str) -> int:
        with open(f"/proc/{self.pid}/status", encoding="ascii") as file:
            for line in file:
                if line.startswith(field):
                    return int(line.split()[1]) * 1024
        raise BenchError(f"the {self.name} server ended")


def metrics_of(found: LoadResult) -> dict[str, float]:
    return {
        RATE: found.rate,
        CPU: found.server_cpu / found.requests * 1e6,
        P50: found.p50 * 1e6,
        P99: found.p99 * 1e6,
    }


@attrs.define
class Lab:
    """What all kinds of work need: how long, where, and somebody to tell."""

    rounds: int
    seconds: float
    cpu: int | None
    """Of the servers."""
    progress: Progress
    notes: list[str] = attrs.Factory(list)
    failed: list[str] = attrs.Factory(list)

    def able(self, names: Sequence[str]) -> list[str]:
        """Those that can run here; of the others it is noted why not."""
        able = []
        for name in names:
            reason = why_not(name)
            if not reason:
                able.append(name)
                continue
            self._note(f"{KINDS[name].label} was not measured: {reason}")
        return able

    @contextlib.contextmanager
    def servers(self, names: Sequence[str], *arguments: str) -> Iterator[list[Server]]:
        with contextlib.ExitStack() as stack:
            servers = []
            for name in self.able(names):
                server = Server(name, self.cpu, *arguments)
                stack.callback(server.stop)
                servers.append(server)
            for server in servers:
                try:
                    server.wait_until_up()
                except NotUp:
                    raise BenchError(f"the {server.name} server did not start") from None
            yield servers

    def load(self, server: Server, title: str, **how: Any) -> LoadResult:
        """Loads a server once."""
        how = {"seconds": self.seconds, "warm_up": _WARM_UP_SECONDS, **how}
        self.progress.show(f"{title}  {KINDS[server.name].label}")
        load = Load(server.address, server_pid=server.pid, **how)
        with load:
            load.join()
        found = load.result()
        if not found.requests:
            raise BenchError(f"the {server.name} server answered nothing")
        if found.errors:
            # A datagram or a connection lost changes the work: say it, and publish.
            self.notes.append(f"{title}, {server.name}: {found.errors} connections were lost")
        return found

    def in_turn(
        self,
        setting: str,
        names: Sequence[str],
        measure: Callable[[str, str], dict[str, float]],
    ) -> list[Measurement]:
        """Calls ``measure(name, title)`` for everyone in every round."""
        found: dict[str, Metrics] = {name: {} for name in names}
        for number in range(self.rounds):
            # Nobody is always first, or always after the same other one.
            turn = number % max(len(names), 1)
            for name in [*names[turn:], *names[:turn]]:
                title = f"{setting}, round {number + 1}/{self.rounds}"
                for metric, value in measure(name, title).items():
                    found[name].setdefault(metric, []).append(value)
        summary = ", ".join(
            f"{KINDS[name].label} {statistics.median(next(iter(metrics.values()))):,.4g}"
            for name, metrics in found.items()
        )
        self.progress.step(f"{setting}: {summary}")
        return [Measurement(setting, name, metrics) for name, metrics in found.items()]

    def loads(self, setting: str, servers: Sequence[Server], **how: Any) -> list[Measurement]:
        """Loads every server in every round."""
        by_name = {server.name: server for server in servers}

        def measure(name: str, title: str) -> dict[str, float]:
            return metrics_of(self.load(by_name[name], title, **how))

        return self.in_turn(setting, list(by_name), measure)

    def run_program(
        self, script: str, backend: str | None, *arguments: str, alone: bool = True
    ) -> Any:
        """Runs one of the `programs` to its end; the JSON that it prints. If it is not
        ``alone``, but has threads or processes beside it, it has our CPU too."""
        path = str(HERE / "programs" / f"{script}.py")
        process = subprocess.Popen(
            [sys.executable, *under(backend), path, *arguments], stdout=subprocess.PIPE
        )
        if self.cpu is not None:
            cpus = {self.cpu} if alone else {self.cpu, *os.sched_getaffinity(0)}
            os.sched_setaffinity(process.pid, cpus)
        try:
            out, _ = process.communicate(timeout=_PROGRAM_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchError(
                f"{script} on {backend or STOCK} took longer than {_PROGRAM_SECONDS:g} s"
            ) from None
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            raise BenchError(f"{script} failed on {backend or STOCK}")
        return json.loads(out)

    def count_of_program(self, script: str, backend: str | None, *arguments: str) -> int | None:
        """The system calls that a program makes between its ``ready`` and its result, by
        ptrace, those of reading and printing a line included; None: not possible."""
        path = str(HERE / "programs" / f"{script}.py")
        process = subprocess.Popen(
            [sys.executable, *under(backend), path, *arguments, "--wait"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdout.readline()
            stop = StopCounting()
            thread, results = watch(lambda: count_syscalls(process.pid, 30, stop=stop))
            time.sleep(0.1)
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            stop.now()
            thread.join()
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
        if isinstance(results[0], OSError):
            self._note(f"system calls were not counted from outside: {results[0].strerror}")
            return None
        return int(results[0].total)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def count(
        self, server: Server, seconds: float, load: Mapping[str, Any]
    ) -> SyscallCounts | None:
        """The system calls that a server makes under a load, by ptrace; None: not possible."""
        running = Load(server.address, **load)
        with running:
            while not running.measuring and not running.join(0.01):
                pass
            try:
                return count_syscalls(server.pid, seconds, work=running.requests_counter)
            except OSError as exc:
                self._note(f"system calls were not counted from outside: {exc.strerror}")
                return None


def watch(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Runs ``call`` in a thread; its result, or its OSError, will be in the list."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(call())
        except OSError as exc:
            results.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results
