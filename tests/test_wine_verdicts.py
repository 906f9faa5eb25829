"""What tools/wine.py makes of the output of other projects' suites."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

if sys.platform == "win32":
    pytest.skip("the tool is for Linux", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
KNOWN = {"TestA::test_known[trio]": "a reason"}


@pytest.fixture(scope="module")
def wine() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lio_wine", ROOT / "tools" / "wine.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("said", "code", "passed"),
    [
        ("5 passed in 0.50s", 0, 5),
        ("=== 5 passed, 7 skipped in 70.50s (0:01:10) ===", 0, 5),
        ("7 skipped in 0.50s", 5, 0),
        ("FAILED x.py::TestA::test_known[trio] - no\r\n1 failed, 5 passed in 0.50s", 1, 5),
        ("ERROR x.py::TestA::test_known[trio]\r\n5 passed, 1 error in 0.50s", 1, 5),
    ],
)
def test_what_passes(wine: ModuleType, said: str, code: int, passed: int) -> None:
    report = wine.judge("step", "name", f"...\r\n{said}\r\n", code, KNOWN)
    assert (report.failed, report.passed) == (0, passed)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("FAILED x.py::test_new - no\r\n1 failed, 5 passed in 0.50s", 1),
        ("ERROR x.py::TestA::test_known[asyncio]\r\n5 passed, 1 error in 0.50s", 1),
        ("5 passed, 1 error in 0.50s", 1),  # one that has no name
        ("5 passed in 0.50s", 124),
        ("a test said: 5 passed", 0),  # then its Wine server died
        ("", 0),
    ],
)
def test_what_does_not(wine: ModuleType, said: str, code: int) -> None:
    report = wine.judge("step", "name", f"...\r\n{said}\r\n", code, KNOWN)
    assert report.failed == 1


@pytest.mark.parametrize("suite", ["anyio_suite", "trio_suite"])
def test_each_known_failure_has_a_reason(wine: ModuleType, suite: str) -> None:
    known = wine.known_failures(suite)
    assert known
    assert all(len(reason) > 10 for reason in known.values())


def test_a_network_that_cannot_be_made_is_told_with_its_remedy() -> None:
    program = ROOT / "tests" / "anyio_suite" / "private_network.py"
    command = [sys.executable, str(program), "true"]
    done = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.strip() == "unshare is missing: apt-get install util-linux"
