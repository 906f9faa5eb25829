"""Runs what is asked for, and shows it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from .._console import Progress
from .._under_load import two_cpus
from . import _report
from ._lab import BenchError, Lab, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKS = (
    "echo",
    "sizes",
    "pingpong",
    "syscalls",
    "ticks",
    "startup",
    "accept",
    "throughput",
    "idle",
    "udp",
    "latency",
    "threads",
    "files",
)


@attrs.frozen
class Plan:
    """What the benchmark is asked to do."""

    rounds: int
    seconds: float
    out: str
    compare: str | None
    """An earlier JSON file."""
    as_json: bool
    """To standard output too, instead of the tables."""


def _module(name: str) -> Any:
    return importlib.import_module(f"{__package__}.works.{name}")


def list_works() -> None:
    for name in WORKS:
        module = _module(name)
        print(f"{name:<12} rows {', '.join(module.ROWS):<12} {module.TITLE}")


def _choose(asked: Sequence[str]) -> list[str]:
    """Works by name or by their rows in the table of targets."""
    if not asked:
        return list(WORKS)
    chosen = []
    for name in asked:
        found = [work for work in WORKS if name == work or name in _module(work).ROWS]
        if not found:
            raise BenchError(
                f"there is no work or row {name!r}; works: {', '.join(WORKS)}; see --list"
            )
        chosen += found
    return list(dict.fromkeys(chosen))


def _measure(
    plan: Plan, works: Sequence[str], notes: list[str]
) -> tuple[dict[str, Result], list[str]]:
    """What was found, and which works failed."""
    results = {}
    with two_cpus() as cpu:
        if cpu is None:
            notes.append("There is one CPU: the servers share it with the load generator.")
        steps = sum(_module(name).STEPS for name in works)
        with Progress(steps) as progress:
            lab = Lab(plan.rounds, plan.seconds, cpu, progress, notes)
            for name in works:
                try:
                    results[name] = _module(name).measure(lab)
                except (BenchError, OSError) as exc:
                    # What the others found must not be lost with it.
                    lab.failed.append(f"{name} failed: {exc}")
            notes += lab.failed
    return results, lab.failed


def _run(plan: Plan, asked: Sequence[str]) -> int:
    works = _choose(asked)
    earlier = None if plan.compare is None else _report.load_earlier(plan.compare)
    notes: list[str] = []
    results, failed = _measure(plan, works, notes)
    titles = {name: str(_module(name).TITLE) for name in works}
    folder = Path(plan.out)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = _report.draw(titles, results, folder, notes)
    stamped = _report.stamp(plan.rounds, plan.seconds)
    found = _report.as_json(results, stamped, notes)
    _report.write(folder / "bench.json", found)
    if plan.as_json:
        _report.print_json(found)
        return bool(failed)
    for name, result in results.items():
        _report.print_measurements(titles[name], result)
    _report.print_figures(results)
    if earlier is not None:
        _report.print_comparison(found, earlier)
    print(f"\n{_report.describe(stamped)}")
    print("\n".join(notes + [""] * bool(notes)), end="")
    print(f"written: {folder / 'bench.json'} and {len(drawn)} plots beside it")
    return bool(failed)


def bench(plan: Plan, asked: Sequence[str]) -> int:
    try:
        return _run(plan, asked)
    except (BenchError, OSError) as exc:
        print(f"python -m trio_lio bench: error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("python -m trio_lio bench: interrupted", file=sys.stderr)
        return 130
