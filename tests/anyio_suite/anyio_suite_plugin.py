"""pytest plugin that runs anyio's own tests on trio-lio, in the place of anyio's Trio backend::

    PYTEST_PLUGINS=anyio_suite_plugin PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 \\
        ANYIO_SUITE_BACKEND=epoll pytest

in the unpacked source distribution of anyio. The backend goes by the name of "trio" there:
many of those tests compare names. So it does in the pytest processes that they start.
``ANYIO_SUITE_BACKEND=stock`` runs the same tests on stock Trio, to compare. What runs on
asyncio is left away.
"""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio._core._eventloop as eventloop
import pytest
import trio

LEFT_OUT = Path(__file__).with_name("left_out.txt")
BACKEND = os.environ["ANYIO_SUITE_BACKEND"]

runs: list[Any] = []

if BACKEND != "stock":
    import trio_lio
    from trio_lio import _statistics
    from trio_lio._anyio_backend import TrioLioBackend

    eventloop.loaded_backends["trio"] = TrioLioBackend
    trio_lio.install(BACKEND)  # for the tests that call trio.run
    _statistics.add_close_listener(runs.append)


def pytest_report_header() -> str:
    return f"anyio {version('anyio')}, Trio {trio.__version__}, on {BACKEND}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if BACKEND != "stock":
        pushed = sum(statistics.operations_pushed for statistics in runs)
        line = f"{len(runs)} runs on trio-lio ({BACKEND}), with {pushed} operations"
        terminalreporter.write_line(line)


def _left_out() -> tuple[str, ...]:
    lines = [line for line in LEFT_OUT.read_text().splitlines() if line.strip()]
    return tuple(re.split(r" {2,}", line, maxsplit=1)[0] for line in lines if line[0] != "#")


def _backend(item: pytest.Item) -> object:
    """The anyio backend that a test runs on, if it says so."""
    backend = getattr(getattr(item, "callspec", None), "params", {}).get("anyio_backend")
    return backend[0] if isinstance(backend, tuple) else backend


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "ANYIO_SUITE_COLLECTED" in os.environ:
        return  # a test of anyio's plugin: its tests are none of the suite's
    os.environ["ANYIO_SUITE_COLLECTED"] = "1"
    names = _left_out()
    kept = [item for item in items if _backend(item) != "asyncio"]
    kept = [item for item in kept if not item.nodeid.split("[")[0].endswith(names)]
    chosen = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = kept
