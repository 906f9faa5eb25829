"""pytest plugin that runs Trio's own tests on trio-lio::

    TRIO_SUITE_BACKEND=epoll pytest --pyargs trio -p trio._tests.pytest_plugin \\
        -p trio_suite_plugin

``TRIO_SUITE_BACKEND=stock`` runs the same selection on Trio's own manager, to compare. What
fails there is noted in the file that ``TRIO_SUITE_FAILED`` names, and expected to fail in the
runs that follow: some of Trio's tests do not know the newest Python or pytest yet.
"""

from __future__ import annotations

import os
import platform
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import trio_lio

LEFT_OUT = Path(__file__).with_name("left_out.txt")
BACKEND = os.environ["TRIO_SUITE_BACKEND"]
FAILED = Path(os.environ.get("TRIO_SUITE_FAILED", os.devnull))


def _left_out() -> dict[str, str]:
    lines = [line for line in LEFT_OUT.read_text().splitlines() if line.strip()]
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in lines if line[0] != "#")


def _name(item: pytest.Item) -> str:
    return f"{item.path.as_posix()}::{item.name.split('[')[0]}"


def pytest_configure() -> None:
    # A job that a shell runs in the background begins with SIGINT ignored, and a test that waits
    # for KeyboardInterrupt would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if BACKEND != "stock":
        trio_lio.install(backend=BACKEND)


@pytest.fixture(scope="session", autouse=True)
def _versions(record_testsuite_property: Callable[[str, object], None]) -> None:
    """Into the results, for tools/reliability.py."""
    record_testsuite_property("python", platform.python_version())
    record_testsuite_property("trio", trio.__version__)


def pytest_unconfigure() -> None:
    if BACKEND != "stock":
        trio_lio.uninstall()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if BACKEND == "stock" and report.failed:
        with FAILED.open("a") as file:
            print(report.nodeid, file=file)


def pytest_report_header() -> str:
    return f"trio-lio: {trio_lio.__version__}, backend: {BACKEND}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    names = tuple(_left_out())
    left_out = [item for item in items if _name(item).endswith(names)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    if BACKEND != "stock" and FAILED.exists():
        on_stock = set(FAILED.read_text().splitlines())
        for item in items:
            if item.nodeid in on_stock:
                item.add_marker(pytest.mark.xfail(reason="fails on stock Trio too"))
