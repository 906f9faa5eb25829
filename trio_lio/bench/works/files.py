"""Files, pipes and sendfile. Everything that is read is in the page cache."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import attrs

from .._lab import CPU_PER_MIB, FILES, LINES, READS, THROUGHPUT, Lab, Result
from .._servers import EPOLL, KINDS, STOCK, URING

TITLE = "files, pipes of processes, sendfile"
_FULL_SECONDS = 0.5
"""Of a measurement; with less there is less to do, in proportion."""
_LARGE_MIB = 256
_TEXT_BYTES = 100_000_000
_LINE = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich, € 12.\n".encode()
_SMALL_FILES = 5000


@attrs.frozen
class _Work:
    row: str
    setting: str
    program: str
    """Its name in `programs.files`."""
    count: int
    rate: str
    targets: tuple[float, float]
    """The least ratios to stock Trio: io_uring's, epoll's."""
    cpu: str = ""
    """Empty: a process or a thread beside it has its share of the work."""
    size: int = 1 << 16
    stock_program: str = ""
    """What stock Trio does instead, where it has no such thing."""
    stock_count: int = 0
    """How much, where as much would take too long: it is rates that are compared."""


_WORKS = [
    _Work(
        "F1",
        "random reads of 4 KiB, 64 tasks",
        "random_reads",
        19_200,
        READS,
        (15, 8),
        "CPU us/read",
        size=4096,
        stock_count=1920,
    ),
    _Work(
        "F2", "sequential reads of 64 KiB", "sequential", 1024, THROUGHPUT, (2, 2), CPU_PER_MIB
    ),
    _Work(
        "F2",
        "sequential reads of 1 MiB",
        "sequential",
        1024,
        THROUGHPUT,
        (1, 1),
        CPU_PER_MIB,
        size=1 << 20,
    ),
    _Work(
        "F3",
        "open, read, close of small files, 64 tasks",
        "small_files",
        _SMALL_FILES,
        FILES,
        (5, 3),
        "CPU us/file",
    ),
    _Work(
        "F4",
        "append lines of 100 B, flushed, 16 files",
        "append_lines",
        4800,
        LINES,
        (3, 3),
        "CPU us/line",
    ),
    _Work(
        "F5",
        "async for over lines of UTF-8",
        "lines",
        _TEXT_BYTES // len(_LINE),
        LINES,
        (20, 20),
        "CPU us/line",
        stock_count=10_000,
    ),
    _Work("F6", "through cat, by run_process", "process", 64, THROUGHPUT, (1.3, 1.3)),
    _Work(
        "F7",
        "sendfile; stock Trio: read, send_all",
        "sendfile",
        1024,
        THROUGHPUT,
        (2, 2),
        stock_program="read_and_send",
    ),
]
ROWS = tuple(dict.fromkeys(work.row for work in _WORKS))
STEPS = len(_WORKS)


def _share(lab: Lab, amount: int) -> int:
    return max(1, round(amount * min(1.0, lab.seconds / _FULL_SECONDS)))


def _make_files(lab: Lab, place: Path) -> None:
    lab.progress.show("making files")
    rest = random.Random(1)
    for name, piece, count in (
        ("large", rest.randbytes(1 << 20), _share(lab, _LARGE_MIB)),
        ("text", _LINE, _share(lab, _TEXT_BYTES // len(_LINE))),
    ):
        with open(place / name, "wb") as file:
            for _ in range(count):
                file.write(piece)
            # The disk must not be busy with it while others are measured.
            file.flush()
            os.fsync(file.fileno())
    (place / "small").mkdir()
    for number in range(_share(lab, _SMALL_FILES)):
        (place / "small" / str(number)).write_bytes(rest.randbytes(200 + number % 4000))


def _measure(lab: Lab, result: Result, work: _Work, place: Path) -> None:
    def one(name: str, title: str) -> dict[str, float]:
        lab.progress.show(f"{title}  {KINDS[name].label}")
        program, count = work.program, work.count
        if name == STOCK:
            program, count = work.stock_program or program, work.stock_count or count
        amount = ["--count", str(_share(lab, count)), "--size", str(work.size)]
        found = lab.run_program(
            "files", KINDS[name].backend, program, str(place), *amount, alone=False
        )
        metrics = {work.rate: float(found["per_second"])}
        if work.cpu:
            metrics[work.cpu] = float(found["cpu_us"])
        return metrics

    names = lab.able([URING, EPOLL, STOCK])
    result.measurements += lab.in_turn(work.setting, names, one)
    for name, target in zip((URING, EPOLL), work.targets, strict=True):
        result.compare(work.row, work.setting, name, STOCK, work.rate, target)
        if work.cpu:
            result.compare(work.row, work.setting, name, STOCK, work.cpu)


def measure(lab: Lab) -> Result:
    result = Result()
    with tempfile.TemporaryDirectory() as place:
        _make_files(lab, Path(place))
        for work in _WORKS:
            _measure(lab, result, work, Path(place))
    return result
