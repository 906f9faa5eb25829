"""``python -m trio_lio doctor``: what runs here, what would be chosen, and why."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from typing import Any

import attrs
import trio

from . import __version__, _trio_compat
from ._console import print_table
from ._inner import fast
from ._install import choose
from ._native import BackendInfo, available_backends, capability_names

# What the poller asks of a kernel; everything else is asked of io_uring.
_POLLER = frozenset({"edge_triggered", "file_pool", "pwait2"})
_ALL = capability_names(~0)
_VARIABLES = ("TRIO_LIO_BACKEND", "TRIO_LIO_FAST", "TRIO_LIO_URING_WITHOUT")


@attrs.frozen
class Report:
    """All that doctor has found out."""

    backends: list[BackendInfo]
    chosen: str | None
    why: str
    """Why that backend is chosen, or why none can be."""


def _choose(backends: list[BackendInfo]) -> tuple[str | None, str]:
    asked = os.environ.get("TRIO_LIO_BACKEND")
    if asked:
        by_name = {info.name: info for info in backends}
        if asked not in by_name:
            return None, (
                f"TRIO_LIO_BACKEND asks for the backend {asked!r}; this build of trio-lio "
                f"has: {', '.join(by_name)}"
            )
        if not by_name[asked].available:
            return None, (
                f"TRIO_LIO_BACKEND asks for {asked!r}, which cannot run here: "
                f"{by_name[asked].reason}"
            )
        return asked, "TRIO_LIO_BACKEND asks for it"
    return choose(None)


def examine() -> Report:
    backends: list[BackendInfo] = []
    try:
        backends = available_backends()
        _trio_compat.check()
        chosen, why = _choose(backends)
    except (ImportError, RuntimeError, ValueError, OSError) as exc:
        return Report(backends, None, str(exc))
    return Report(backends, chosen, why)


def _asked_of_kernel(backend: str) -> list[str]:
    return [n for n in _ALL if (n in _POLLER) == (backend != "uring")]


def _versions() -> dict[str, str]:
    return {
        "trio-lio": __version__,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "Trio": trio.__version__,
        "cffi": importlib.metadata.version("cffi"),
        "hot path": "Python" if fast is None else "C",
        "kernel": f"{platform.system()} {platform.release()} ({platform.machine()})",
    }


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "versions": _versions(),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "chosen": report.chosen,
        "why": report.why,
        "backends": [
            {
                **attrs.asdict(info),
                "absent": [
                    name
                    for name in _asked_of_kernel(info.name)
                    if name not in info.capabilities
                ],
            }
            for info in report.backends
        ],
    }


def _print_backends(report: Report) -> None:
    rows = []
    for info in report.backends:
        chosen = info.name == report.chosen
        state = "chosen" if chosen else "available" if info.available else "not available"
        rows.append([info.name, state, report.why if chosen else info.reason])
    print_table(["backend", "state", "why"], rows)


def _print_capabilities(report: Report) -> None:
    rows = []
    for name in _ALL:
        row = [name]
        for info in report.backends:
            if name not in _asked_of_kernel(info.name):
                row.append("")
            elif info.available:
                row.append("present" if name in info.capabilities else "absent")
            else:
                row.append("unknown")
        rows.append(row)
    print_table(["the kernel offers", *(info.name for info in report.backends)], rows)


def doctor(*, as_json: bool) -> int:
    report = examine()
    if as_json:
        print(json.dumps(_as_json(report), indent=2))
    else:
        print_table(["what", "version"], list(_versions().items()))
        if report.backends:
            print()
            _print_backends(report)
            print()
            _print_capabilities(report)
        for name in _VARIABLES:
            if name in os.environ:
                print(f"\n{name}={os.environ[name]}")
    if report.chosen is None:
        print(f"doctor: no run would find a backend: {report.why}", file=sys.stderr)
        return 1
    return 0
