"""The ten lines of the documentation, for each backend, as a program of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trio_lio.backends import BackendUnavailable, Op, OpCompleted, default_backend

PROGRAM = """
from trio_lio.backends import {name}, Op, OpCompleted
backend = {name}()
backend.init(1024)
backend.push(1, Op.nop())
backend.flush()
[done] = backend.wait_timeout(0)
print(done)
assert done == OpCompleted(op_id=1, result=0)
backend.close()
"""


@pytest.mark.parametrize("name", ["IoUring", "Poller", "default_backend"])
def test_ten_lines(name: str) -> None:
    program = PROGRAM.format(name=name)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    if "BackendUnavailable" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "OpCompleted(op_id=1, result=0)\n"


def test_default_backend_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIO_LIO_BACKEND", raising=False)
    with default_backend() as backend:
        assert backend.name in ("uring", "epoll")
        assert backend.info.reason.startswith("preferred")
        assert backend.info.available


def test_default_backend_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_LIO_BACKEND", "epoll")
    with default_backend() as backend:
        assert backend.name == "epoll"
        backend.init(1)
        backend.push(1, Op.nop())
        assert backend.wait_timeout(0) == [OpCompleted(1, 0)]
    monkeypatch.setenv("TRIO_LIO_BACKEND", "abacus")
    with pytest.raises((ValueError, BackendUnavailable), match="abacus"):
        default_backend()
