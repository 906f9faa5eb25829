"""pytest plugin that runs Trio's own tests on trio-lio::

    TRIO_SUITE_BACKEND=epoll pytest --pyargs trio -p trio._tests.pytest_plugin \\
        -p trio_suite_plugin

``TRIO_SUITE_BACKEND=stock`` runs the same selection on Trio's own manager, to compare. What
fails there is noted in the file that ``TRIO_SUITE_FAILED`` names, and expected to fail in the
runs that follow: some of Trio's tests do not know the newest Python or pytest yet.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

import trio_lio

BACKEND = os.environ["TRIO_SUITE_BACKEND"]
FAILED = Path(os.environ.get("TRIO_SUITE_FAILED", os.devnull))


def _listed(file: str) -> tuple[str, ...]:
    text = Path(__file__).with_name(file).read_text()
    lines = [line for line in text.splitlines() if line.strip()]
    return tuple(re.split(r" {2,}", line)[0] for line in lines if line[0] != "#")


LEFT_OUT = _listed("left_out.txt")
WITHOUT_FILES = _listed("without_files.txt")


def _name(item: pytest.Item) -> str:
    return f"{item.path.as_posix()}::{item.name.split('[')[0]}"


def pytest_configure() -> None:
    # A job that a shell runs in the background begins with SIGINT ignored, and a test that waits
    # for KeyboardInterrupt would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if BACKEND != "stock":
        trio_lio.install(backend=BACKEND)


def pytest_unconfigure() -> None:
    if BACKEND != "stock":
        trio_lio.uninstall()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if BACKEND == "stock" or not _name(item).endswith(WITHOUT_FILES):
        return (yield)
    with trio_lio.installed(backend=BACKEND, files=False):
        return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if BACKEND == "stock" and report.failed:
        with FAILED.open("a") as file:
            print(report.nodeid, file=file)


def pytest_report_header() -> str:
    return f"trio-lio: {trio_lio.__version__}, backend: {BACKEND}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if _name(item).endswith(LEFT_OUT)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    if BACKEND != "stock" and FAILED.exists():
        on_stock = set(FAILED.read_text().splitlines())
        for item in items:
            if item.nodeid in on_stock:
                item.add_marker(pytest.mark.xfail(reason="fails on stock Trio too"))
