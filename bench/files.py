"""Files, pipes and sendfile against stock Trio: ``python bench/files.py [WORD ...]``.

Every row runs on stock Trio and on each backend in turn, round by round in one process, and
shows medians. Words choose rows by their names. Everything read is in the page cache.
"""

from __future__ import annotations

import os
import platform
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

import trio_lio

MIB = 1024 * 1024
ROUNDS = 3
TASKS = 64


@attrs.frozen
class Row:
    """One kind of work. ``work(place)`` returns how many units it did."""

    name: str
    unit: str
    work: Callable[[Path], Awaitable[float]]
    target: dict[str, float]
    """The least ratio to stock Trio, by backend."""
    stock_work: Callable[[Path], Awaitable[float]] | None = None
    """What stock Trio does instead, where it has no such thing."""


def make_files(place: Path) -> None:
    rest = random.Random(1)
    (place / "large").write_bytes(rest.randbytes(MIB) * 256)
    line = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich, € 12.\n"
    (place / "text").write_text(line * (100_000_000 // len(line.encode())), "utf-8")
    (place / "small").mkdir()
    for number in range(5000):
        (place / "small" / f"{number}").write_bytes(rest.randbytes(200 + number % 4000))


async def in_tasks(count: int, async_fn: Callable[[int], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(async_fn, number)


async def random_reads(place: Path, *, each: int) -> float:
    async def reader(number: int) -> None:
        where = random.Random(number)
        async with await trio.open_file(place / "large", "rb", buffering=0) as file:
            for _ in range(each):
                await file.seek(where.randrange(256 * 256) * 4096)
                assert len(await file.read(4096)) == 4096

    await in_tasks(TASKS, reader)
    return each * TASKS


async def sequential(place: Path, *, size: int) -> float:
    total = 0
    for _ in range(4):
        async with await trio.open_file(place / "large", "rb") as file:
            while data := await file.read(size):
                total += len(data)
    return total / MIB


async def small_files(place: Path) -> float:
    names = iter(sorted((place / "small").iterdir()))

    async def reader(_: int) -> None:
        for name in names:
            async with await trio.open_file(name, "rb") as file:
                assert await file.read()

    await in_tasks(TASKS, reader)
    return 5000


async def append_lines(place: Path, *, each: int) -> float:
    line = "x" * 99 + "\n"

    async def writer(number: int) -> None:
        async with await trio.open_file(place / f"log{number}", "a") as file:
            for _ in range(each):
                await file.write(line)
                await file.flush()

    await in_tasks(16, writer)
    return each * 16


async def lines(place: Path, *, most: int) -> float:
    count = 0
    async with await trio.open_file(place / "text", encoding="utf-8") as file:
        async for _ in file:
            count += 1
            if count == most:
                break
    return count


async def through_process(place: Path) -> float:
    data = bytes(MIB) * 64
    done = await trio.run_process(["cat"], stdin=data, capture_stdout=True)
    assert len(done.stdout) == len(data)
    return 64


async def send_to_sink(work: Callable[[trio.SocketStream], Awaitable[int]]) -> float:
    """One connection over loopback to a thread that counts; MiB sent."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    received = 0

    def sink(address: Any) -> None:
        nonlocal received
        buffer = bytearray(MIB)
        with socket.create_connection(address) as sock:
            while count := sock.recv_into(buffer):
                received += count

    thread = threading.Thread(target=sink, args=[listener.socket.getsockname()])
    thread.start()
    async with listener, await listener.accept() as stream:
        sent = await work(stream)
    await trio.to_thread.run_sync(thread.join)
    assert received == sent
    return sent / MIB


async def by_sendfile(place: Path) -> float:
    async def work(stream: trio.SocketStream) -> int:
        async with await trio.open_file(place / "large", "rb") as file:
            return sum([await trio_lio.sendfile(stream, file) for _ in range(4)])

    return await send_to_sink(work)


async def by_read_and_send(place: Path) -> float:
    async def work(stream: trio.SocketStream) -> int:
        sent = 0
        for _ in range(4):
            async with await trio.open_file(place / "large", "rb") as file:
                while data := await file.read(65536):
                    await stream.send_all(data)
                    sent += len(data)
        return sent

    return await send_to_sink(work)


ROWS = [
    Row(
        "64 tasks, random cached 4 KiB reads, seek + read",
        "reads/s",
        partial(random_reads, each=300),
        {"uring": 15, "epoll": 8},
        partial(random_reads, each=30),
    ),
    Row(
        "one task, sequential read of 1 GiB cached, 64 KiB calls",
        "MiB/s",
        partial(sequential, size=64 * 1024),
        {"uring": 2, "epoll": 2},
    ),
    Row(
        "one task, sequential read of 1 GiB cached, 1 MiB calls",
        "MiB/s",
        partial(sequential, size=MIB),
        {"uring": 1, "epoll": 1},
    ),
    Row(
        "open, read, close of 5,000 small files, 64 tasks",
        "files/s",
        small_files,
        {"uring": 5, "epoll": 3},
    ),
    Row(
        "append 100-byte lines, flushed, 16 files",
        "lines/s",
        partial(append_lines, each=300),
        {"uring": 3, "epoll": 3},
    ),
    Row(
        "lines of a 100 MB UTF-8 text file, async for",
        "lines/s",
        partial(lines, most=-1),
        {"uring": 20, "epoll": 20},
        partial(lines, most=10_000),
    ),
    Row(
        "64 MiB through a process by run_process",
        "MiB/s",
        through_process,
        {"uring": 1.3, "epoll": 1.3},
    ),
    Row(
        "sendfile of 1 GiB over loopback, against read + send_all",
        "MiB/s",
        by_sendfile,
        {"uring": 2, "epoll": 2},
        by_read_and_send,
    ),
]


@attrs.frozen
class Figures:
    rate: float
    """Units a second."""
    cpu: float
    """Seconds of CPU time of this process for a unit."""


def measure(row: Row, place: Path, backends: list[str]) -> dict[str, Figures]:
    """By backend and for stock Trio: medians of interleaved rounds."""
    rounds: dict[str, list[Figures]] = {name: [] for name in ["stock", *backends]}

    async def timed(work: Callable[[Path], Awaitable[float]]) -> Figures:
        start, cpu = time.perf_counter(), time.process_time()
        units = await work(place)
        took, cpu = time.perf_counter() - start, time.process_time() - cpu
        return Figures(units / took, cpu / units)

    for _ in range(ROUNDS):
        for name, found in rounds.items():
            if name == "stock":
                found.append(trio.run(timed, row.stock_work or row.work))
            else:
                found.append(trio_lio.run(timed, row.work, backend=name))
    return {
        name: Figures(
            statistics.median([figures.rate for figures in found]),
            statistics.median([figures.cpu for figures in found]),
        )
        for name, found in rounds.items()
    }


def main() -> None:
    words = sys.argv[1:]
    rows = [row for row in ROWS if all(word in row.name for word in words)]
    backends = [info.name for info in trio_lio.available_backends() if info.available]
    print(
        f"Linux {platform.release()}, {os.cpu_count()} CPUs, Python "
        f"{platform.python_version()}, Trio {trio.__version__}, "
        f"trio-lio {trio_lio.__version__}; medians of {ROUNDS} rounds"
    )
    with tempfile.TemporaryDirectory() as directory:
        make_files(Path(directory))
        for row in rows:
            found = measure(row, Path(directory), backends)
            stock = found["stock"]
            print(f"\n{row.name}")
            for name, figures in found.items():
                line = (
                    f"    {name} {figures.rate:>12,.0f} {row.unit}, "
                    f"{figures.cpu * 1e6:,.1f} us of CPU each"
                )
                if name != "stock":
                    ratio = figures.rate / stock.rate
                    verdict = "reached" if ratio >= row.target[name] else "NOT reached"
                    line += (
                        f"; {ratio:.1f} x the rate ({stock.cpu / figures.cpu:.1f} x less CPU), "
                        f"target {row.target[name]:g} x: {verdict}"
                    )
                print(line, flush=True)


if __name__ == "__main__":
    main()
