"""pytest plugin for pytest-trio's own tests: one of them imports a test of Trio's by the name
that its package has no more."""

from __future__ import annotations

import importlib.util
import sys

import trio._tests


def pytest_configure() -> None:
    if importlib.util.find_spec("trio.tests") is None:
        sys.modules["trio.tests"] = trio._tests
