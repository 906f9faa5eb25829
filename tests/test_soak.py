"""The soak sees what is lost: tools/soak.py --self-test loses something on purpose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent.parent / "tools" / "soak.py"

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the soak counts descriptors in /proc"
)


def test_each_loss_fails_the_soak() -> None:
    """A lost byte, swapped bytes, a lost completion, a leaked descriptor, leaked memory."""
    done = subprocess.run(
        [sys.executable, str(SOAK), "--self-test", "--backend", "epoll"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("lost on purpose") == done.stdout.count(" seen") == 5


def test_the_exit_code_tells() -> None:
    command = [sys.executable, str(SOAK), "--minutes", "0.02", "--backend", "epoll"]
    for loss, code in (["--lose", "byte"], 1), ([], 0):
        done = subprocess.run([*command, *loss], capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stdout + done.stderr
        assert f"{code} failed" in done.stdout
