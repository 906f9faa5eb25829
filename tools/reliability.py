"""Runs all that shows whether trio-lio is true to Trio and loses nothing, and writes what came
of it into the documentation::

    python3 tools/reliability.py                # an hour and more
    python3 tools/reliability.py --minutes 30   # a longer soak
    python3 tools/reliability.py --only soak    # one part anew, the others as they are
    python3 tools/reliability.py --render       # only writes, from results that are there

Needs nox. Results are kept in build/reliability. Exit code 0: nothing failed, nothing was lost,
and Trio's tests pass wherever they pass on Trio's own manager.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability-measured.rst"
SUITE = ROOT / "tests" / "trio_suite"
SESSIONS = [
    "pytest_trio_suite",
    "sanitize",
    "sanitize_python",
    "tests",
    "tests_oldest",
    "tests_plain",
    "trio_suite_matrix",
    "soak",
]
SUITES = {
    "tests": "trio-lio's own tests",
    "tests_oldest": "trio-lio's own tests, oldest Trio",
    "tests_plain": "trio-lio's own tests, the hot path in Python",
    "matrix": "trio-lio's own tests",
    "sanitize_python": "trio-lio's own tests under ASan and UBSan",
    "trio_suite": "Trio's own tests",
    "trio_suite_matrix": "Trio's own tests",
    "pytest_trio_suite": "pytest-trio's own tests",
}


@dataclass
class Result:
    """What one run of pytest came to."""

    session: str
    backend: str = ""
    passed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)
    expected: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.session, self.versions["python"], self.versions["trio"]


def parse_name(name: str) -> Result:
    """The session, and the backend that it ran on, from the name of its file."""
    session = next(
        known for known in sorted(SUITES, key=len, reverse=True) if name.startswith(known)
    )
    result = Result(session)
    if found := re.search(r"-(stock|uring|epoll|sim)$", name):
        result.backend = found[1]
    return result


def read_xml(path: Path) -> Result:
    result = parse_name(path.stem)
    root = ElementTree.parse(path).getroot()
    result.versions = json.loads(path.with_suffix(".versions.json").read_text())
    for case in root.iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            result.failed.add(name)
        elif skipped is None:
            result.passed.add(name)
        elif skipped.get("type") == "pytest.xfail":
            result.expected += 1
        else:
            result.skipped[name] = str(skipped.get("message"))
    return result


def heading(text: str, line: str) -> list[str]:
    return ["", text, line * len(text), ""]


def table(head: list[str], rows: list[list[Any]]) -> list[str]:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [head, *rows]:
        cells = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row]
        lines += [f"   {'*' if at == 0 else ' '} - {cell}" for at, cell in enumerate(cells)]
    return lines


def listed(file: str) -> list[str]:
    """A table of the tests that a list of the suite's names, and why."""
    lines = [line for line in (SUITE / file).read_text().splitlines() if line.strip()]
    pairs = [re.split(r" {2,}", line, maxsplit=1) for line in lines if line[0] != "#"]
    return table(["Test", "Why"], [[f"``{name}``", reason] for name, reason in pairs])


def suites(results: list[Result], problems: list[str]) -> list[str]:
    stock = {result.key: result for result in results if result.backend == "stock"}
    rows: list[list[Any]] = []
    for result in results:
        as_stock = "is stock" if result.backend == "stock" else "stock cannot run it"
        if result.key in stock and result.backend != "stock":
            lacking = stock[result.key].passed - result.passed
            as_stock = "yes" if not lacking else f"{len(lacking)} not"
            problems += [f"{result.backend}: {name} passes on stock" for name in lacking]
        if result.backend != "stock":
            problems += [f"{result.session} {result.backend}: {name}" for name in result.failed]
        rows.append(
            [
                SUITES[result.session],
                result.versions["python"],
                result.versions["trio"],
                result.backend or "all",
                len(result.passed),
                len(result.failed),
                result.expected,
                len(result.skipped),
                as_stock,
            ]
        )
    head = "Suite|Python|Trio|Backend|Passed|Failed|Fails as expected|Skipped".split("|")
    return table([*head, "Passes what stock passes"], sorted(rows, key=lambda row: row[:4]))


def skips(results: list[Result]) -> list[str]:
    """The reasons, each with the most tests that any run of the suite skipped for it."""
    most: dict[str, Counter[str]] = {}
    for result in results:
        reasons = Counter(
            re.sub(r"^Skipped: ", "", reason.splitlines()[0]) if reason else "no reason"
            for reason in result.skipped.values()
        )
        most[SUITES[result.session]] = most.get(SUITES[result.session], Counter()) | reasons
    rows = [
        [suite, f"``{reason}``", count]
        for suite, reasons in most.items()
        for reason, count in sorted(reasons.items())
    ]
    return table(["Suite", "Reason that the test gives", "Tests"], rows)


def core(found: list[dict[str, Any]], problems: list[str]) -> list[str]:
    problems += [f"C tests, {entry['name']}" for entry in found if entry["failed"]]
    rows = [[entry["name"], entry["passed"], entry["failed"]] for entry in found]
    return table(["C tests", "Passed", "Failed"], rows)


def soaked(found: list[dict[str, Any]], problems: list[str]) -> list[str]:
    problems += [f"soak, {one['backend']}: {one['error']}" for one in found if one["error"]]
    head = ["Backend", *(one["backend"] for one in found)]
    rows: list[list[Any]] = [
        ["Minutes", *(f"{one['seconds'] / 60:.1f}" for one in found)],
        ["Runs of Trio", *(one["runs"] for one in found)],
        ["Operations", *(one["operations"] for one in found)],
        ["of these cancelled", *(one["cancelled"] for one in found)],
        ["Bytes read and compared", *(one["bytes"] for one in found)],
    ]
    for kind in sorted({kind for one in found for kind in one["faults"]}):
        rows.append([f"Faults: {kind}", *(one["faults"].get(kind, 0) for one in found)])
    rows += [
        ["**Bytes lost**", *(one["bytes_lost"] for one in found)],
        ["**Descriptors leaked**", *(one["fds_leaked"] for one in found)],
        ["Growth of memory, MB", *(f"{one['memory_growth'] / 1e6:.1f}" for one in found)],
    ]
    return table(head, rows)


def page(folder: Path, problems: list[str]) -> str:
    results = [read_xml(path) for path in sorted(folder.glob("*.xml"))]
    if not results:
        sys.exit(f"no results in {folder}")
    newest = max(path.stat().st_mtime for path in folder.iterdir())
    day = time.strftime("%Y-%m-%d", time.gmtime(newest))
    machine = f"Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs"
    lines = [
        ".. Written by tools/reliability.py. Change nothing here.",
        "",
        f"Measured on {day}: {machine}.",
        *heading("Suites", "-"),
        *suites(results, problems),
        *heading("Left out of Trio's own tests", "-"),
        *listed("left_out.txt"),
        *heading("Run with files=False", "-"),
        *listed("without_files.txt"),
        *heading("Skipped, and why", "-"),
        *skips(results),
    ]
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("ctests-*.json"))]
    lines += [*heading("The core", "-"), *core(found, problems)] if found else []
    if (folder / "soak.json").exists():
        soak = json.loads((folder / "soak.json").read_text())
        lines += [*heading("Soak", "-"), *soaked(soak, problems)]
    return "\n".join(lines) + "\n"


def session_of(path: Path) -> str:
    """Whose result a file is."""
    if path.name.startswith("ctests-"):
        return "sanitize"
    return "soak" if path.name == "soak.json" else parse_name(path.stem).session


def run(folder: Path, sessions: list[str], minutes: float, problems: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.xml"), *folder.glob("*.json")):
        if session_of(old) in sessions:
            old.unlink()
    environment = {**os.environ, "TRIO_LIO_RESULTS": str(folder)}
    nox = [sys.executable, "-m", "nox", "-f", str(ROOT / "noxfile.py"), "-s"]
    for session in sessions:
        more = ["--", "--minutes", str(minutes)] if session == "soak" else []
        done = subprocess.run([*nox, session, *more], env=environment, check=False)
        if done.returncode != 0:
            problems.append(f"nox -s {session}: exit code {done.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("::")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "reliability")
    parser.add_argument("--minutes", type=float, default=10.0, help="of soak; default 10")
    parser.add_argument("--only", nargs="+", choices=SESSIONS, metavar="SESSION")
    parser.add_argument("--render", action="store_true", help="run nothing")
    options = parser.parse_args()
    problems: list[str] = []
    if not options.render:
        sessions = options.only or SESSIONS
        run(options.results.resolve(), sessions, options.minutes, problems)
    PAGE.write_text(page(options.results, problems))
    print(f"written: {PAGE}")
    for problem in problems:
        print(problem)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
