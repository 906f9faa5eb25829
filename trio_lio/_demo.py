"""``python -m trio_lio demo``: one Trio program, on trio-lio and on stock Trio, under load.

Every server is a process of its own and all share one CPU, where only one of them has work
at any time; the load generator has another CPU, if there is one. The servers take turns in
rounds, so that whatever else the machine does hits all of them. System calls are counted
apart: tracing slows a server down and would spoil the timings. A slow server finds more
requests waiting each time it looks, so calls that it makes once a tick weigh a little less
there.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import sys
from typing import TYPE_CHECKING, Any

import attrs
import trio

from . import __version__
from ._console import Progress, print_table
from ._measure import LoadResult
from ._native import available_backends, backend_names
from ._under_load import NotUp, ServerProcess, two_cpus

if TYPE_CHECKING or sys.platform.startswith("linux"):
    from ._measure import Load, count_syscalls
else:
    from ._measure_threads import Load, count_syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STOCK = "stock"
_WARM_UP_SECONDS = 0.2
_COUNTING_SECONDS = 0.4


@attrs.frozen
class Plan:
    """What the demo is asked to do."""

    connections: int
    message_bytes: int
    seconds: float
    rounds: int


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


class Server(ServerProcess):
    """The echo server, on one backend or on stock Trio, and what was measured of it."""

    def __init__(self, name: str, cpu: int | None) -> None:
        self.name = name
        self.results: list[LoadResult] = []
        self.syscalls: float | None = None
        self.no_syscalls = ""
        """Why they could not be counted."""
        program = ["-m", "trio_lio._demo_server"]
        if name != STOCK:
            program = ["-m", "trio_lio", "run", "--backend", name, *program]
        super().__init__(program, cpu)

    @property
    def label(self) -> str:
        return "stock Trio" if self.name == STOCK else str(self.hello["backend"])


@contextlib.contextmanager
def _servers(names: Sequence[str], cpu: int | None, notes: list[str]) -> Iterator[list[Server]]:
    with contextlib.ExitStack() as stack:
        servers = []
        for name in names:
            server = Server(name, cpu)
            stack.callback(server.stop)
            servers.append(server)
        up = []
        for server in servers:
            try:
                server.wait_until_up()
                up.append(server)
            except NotUp:
                if server.name != STOCK:
                    raise DemoError(f"the {server.name} server did not start") from None
                notes.append("stock Trio did not start here, so there is nothing to compare.")
        yield up


def _measure(server: Server, plan: Plan, title: str, progress: Progress) -> None:
    load = Load(
        server.address,
        connections=plan.connections,
        message_bytes=plan.message_bytes,
        seconds=plan.seconds,
        warm_up=min(_WARM_UP_SECONDS, plan.seconds),
        server_pid=server.pid,
    )
    text = f"{title}  {server.label:<10}"
    with load:
        before, waited = 0, 0
        while not load.join(0.1):
            now = load.requests
            waited += load.measuring
            progress.show(
                f"{text} {(now - before) * 10:>9,} requests/s",
                waited * 0.1 / plan.seconds,
            )
            before = now
    result = load.result()
    if not result.requests:
        raise DemoError(f"the {server.name} server answered nothing")
    server.results.append(result)
    progress.step(f"{text} {result.rate:>9,.0f} requests/s")


def _count_syscalls(server: Server, plan: Plan, progress: Progress) -> None:
    load = Load(server.address, connections=plan.connections, message_bytes=plan.message_bytes)
    text = f"counting system calls  {server.label:<10}"
    progress.show(text)
    with load:
        while not load.measuring and not load.join(0.01):
            pass
        try:
            counts = count_syscalls(server.pid, _COUNTING_SECONDS, work=load.requests_counter)
        except OSError as exc:
            server.no_syscalls = str(exc.strerror)
            progress.step(f"{text} not possible")
            return
    load.result()
    if not counts.work:
        server.no_syscalls = "no request was answered while they were counted"
    else:
        server.syscalls = counts.total / counts.work
    progress.step(f"{text} {counts.total:>9,} in {counts.work:,} requests")


def _choose(asked: Sequence[str]) -> tuple[list[str], list[str]]:
    """The servers that can run, and what to say of the others."""
    known = [*backend_names(), STOCK]
    names = [name.strip() for name in asked] or known
    for name in names:
        if name not in known:
            raise DemoError(f"there is no backend {name!r} here; known: {', '.join(known)}")
    infos = {info.name: info for info in available_backends()}
    missing = [name for name in names if name in infos and not infos[name].available]
    notes = [f"{name} cannot run here: {infos[name].reason}" for name in missing]
    able = [name for name in dict.fromkeys(names) if name not in missing]
    if not able:
        raise DemoError("; ".join(notes))
    return able, notes


@attrs.frozen
class Row:
    """One server's figures: medians over the rounds, times in microseconds."""

    server: str
    requests_per_second: float
    cpu_per_request: float
    syscalls_per_request: float | None
    p50: float
    p99: float
    lost_connections: int


def _row(server: Server) -> Row:
    results = server.results

    def median(values: list[float]) -> float:
        return statistics.median(values)

    return Row(
        server=server.label,
        requests_per_second=median([r.rate for r in results]),
        cpu_per_request=median([r.server_cpu / r.requests * 1e6 for r in results]),
        syscalls_per_request=server.syscalls,
        p50=median([r.p50 * 1e6 for r in results]),
        p99=median([r.p99 * 1e6 for r in results]),
        lost_connections=sum(r.errors for r in results),
    )


_COLUMNS = {
    "requests/s": ("requests_per_second", ",.0f"),
    "CPU us/req": ("cpu_per_request", ",.1f"),
    "syscalls/req": ("syscalls_per_request", ".2f"),
    "p50 us": ("p50", ",.0f"),
}


def _cell(row: Row, stock: Row | None, field: str, form: str) -> str:
    value = getattr(row, field)
    if value is None:
        return "n/a"
    base = None if stock is None else getattr(stock, field)
    ratio = f" (x{value / base:.2f})" if base and row is not stock else ""
    return format(value, form) + ratio


def _print_rows(rows: Sequence[Row], stock: Row | None) -> None:
    cells = [
        [row.server, *(_cell(row, stock, *how) for how in _COLUMNS.values())] for row in rows
    ]
    print_table(["server", *_COLUMNS], cells, numbers=True)
    if stock is not None and len(rows) > 1:
        print("\nIn brackets: times stock Trio's.")


def _title(plan: Plan) -> str:
    rounds = "1 round" if plan.rounds == 1 else f"{plan.rounds} rounds"
    return (
        f"Echo of {plan.message_bytes:,} bytes on {plan.connections} connections, "
        f"medians of {rounds} of {plan.seconds:g} s.\n"
        f"trio-lio {__version__}, Trio {trio.__version__}, Python "
        f"{platform.python_version()}, {platform.system()} {platform.release()}."
    )


def _show(servers: Sequence[Server], plan: Plan, notes: list[str], as_json: bool) -> None:
    rows = [_row(server) for server in servers]
    reasons = dict.fromkeys(s.no_syscalls for s in servers if s.no_syscalls)
    notes += [f"system calls: n/a: {reason}" for reason in reasons]
    notes += [
        f"{row.server}: {row.lost_connections} connections were lost"
        for row in rows
        if row.lost_connections
    ]
    if as_json:
        found: dict[str, Any] = {"plan": attrs.asdict(plan), "notes": notes}
        found["rows"] = [attrs.asdict(row) for row in rows]
        print(json.dumps(found, indent=2))
        return
    stock = [row for server, row in zip(servers, rows, strict=True) if server.name == STOCK]
    print(f"\n{_title(plan)}\n")
    _print_rows(rows, stock[0] if stock else None)
    if notes:
        print("\n".join(notes))


def _run(plan: Plan, names: Sequence[str], notes: list[str], as_json: bool) -> None:
    with two_cpus() as cpu:
        if cpu is None:
            one = "There is one CPU: the servers share it with the load generator."
            shared = "The servers share the CPUs with the load, which is of threads in Python."
            notes.append(one if hasattr(os, "sched_getaffinity") else shared)
        with (
            _servers(names, cpu, notes) as servers,
            Progress(len(names) * (plan.rounds + 1)) as p,
        ):
            for number in range(plan.rounds):
                # Nobody is always first, or always after the same other one.
                turn = number % len(servers)
                for server in servers[turn:] + servers[:turn]:
                    _measure(server, plan, f"round {number + 1}/{plan.rounds}", p)
            for server in servers:
                _count_syscalls(server, plan, p)
    _show(servers, plan, notes, as_json)


def demo(plan: Plan, backends: Sequence[str], *, as_json: bool) -> int:
    try:
        names, notes = _choose(backends)
        for note in notes:
            print(note, file=sys.stderr)
        _run(plan, names, notes, as_json)
    except (DemoError, OSError) as exc:
        print(f"python -m trio_lio demo: error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("python -m trio_lio demo: interrupted", file=sys.stderr)
        return 130
    return 0
