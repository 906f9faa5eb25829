"""What holds for all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    # A job that a shell runs in the background begins with SIGINT ignored, and hands that
    # down to its children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
