"""What holds for all tests."""

from __future__ import annotations

import fnmatch
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
DIFFERENCES = HERE / "windows_differences.txt"


def pytest_configure() -> None:
    # A job that a shell runs in the background begins with SIGINT ignored, and hands that
    # down to its children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def differences() -> dict[str, str]:
    """The tests that cannot be on Windows, by patterns of their ids, and why."""
    lines = [line for line in DIFFERENCES.read_text().splitlines() if line.strip()]
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in lines if line[0] != "#")


if sys.platform == "win32":
    from trio._core import _io_windows

    _underlying = _io_windows._get_underlying_socket

    # Without this stock Trio, with which ours is compared, does not start under Wine.
    def _base_for_select(
        sock: Any, *, which: Any = _io_windows.WSAIoctls.SIO_BASE_HANDLE
    ) -> Any:
        try:
            return _underlying(sock, which=which)
        except OSError:
            if which != _io_windows.WSAIoctls.SIO_BSP_HANDLE_SELECT:
                raise
            return _underlying(sock)

    _io_windows._get_underlying_socket = _base_for_select

    def _why_not(path: Path) -> str | None:
        """Of a whole file: it may not even be importable."""
        name = f"{path.parent.name}/{path.name}::"
        found = (
            why
            for pattern, why in differences().items()
            if pattern.endswith("::") and fnmatch.fnmatch(name, pattern)
        )
        return next(found, None)

    def pytest_ignore_collect(collection_path: Path) -> bool | None:
        return True if collection_path.is_file() and _why_not(collection_path) else None

    def pytest_report_header() -> list[str]:
        files = (why for why in differences().items() if why[0].endswith("::"))
        return [f"not on Windows: {pattern} {why}" for pattern, why in files]

    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        patterns = {
            re.compile(fnmatch.translate(pattern.replace("[", "[[]") + "*")): reason
            for pattern, reason in differences().items()
        }
        for item in items:
            name = f"{item.path.parent.name}/{item.path.name}::{item.name}"
            for pattern, reason in patterns.items():
                if pattern.match(name):
                    item.add_marker(pytest.mark.skip(reason=reason))
