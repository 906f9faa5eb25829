"""One kind of work on files, pipes or by sendfile; what it did a second, and its CPU time.

The files that it reads stand in ``place``, made by `works.files`, and are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

import trio_lio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MIB = 1 << 20
_TASKS = 64
_LOGS = 16
_LINE = "x" * 99 + "\n"


async def in_tasks(count: int, async_fn: Callable[[int], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(async_fn, number)


# Each takes the place, how many units to do, and of what size, and returns how many it did.


async def random_reads(place: Path, count: int, size: int) -> int:
    pages = (place / "large").stat().st_size // size
    numbers = iter(range(count))

    async def reader(number: int) -> None:
        where = random.Random(number)
        async with await trio.open_file(place / "large", "rb", buffering=0) as file:
            for _ in numbers:
                await file.seek(where.randrange(pages) * size)
                assert len(await file.read(size)) == size

    await in_tasks(_TASKS, reader)
    return count


async def sequential(place: Path, count: int, size: int) -> int:
    left = count * MIB
    while left:
        async with await trio.open_file(place / "large", "rb") as file:
            while left and (data := await file.read(min(size, left))):
                left -= len(data)
    return count


async def small_files(place: Path, count: int, size: int) -> int:
    names = iter([place / "small" / str(number) for number in range(count)])

    async def reader(_: int) -> None:
        for name in names:
            async with await trio.open_file(name, "rb") as file:
                assert await file.read()

    await in_tasks(_TASKS, reader)
    return count


async def append_lines(place: Path, count: int, size: int) -> int:
    each = -(-count // _LOGS)

    async def writer(number: int) -> None:
        async with await trio.open_file(place / f"log{number}", "a") as file:
            for _ in range(each):
                await file.write(_LINE)
                await file.flush()

    await in_tasks(_LOGS, writer)
    return each * _LOGS


async def lines(place: Path, count: int, size: int) -> int:
    found = 0
    async with await trio.open_file(place / "text", encoding="utf-8") as file:
        async for _ in file:
            found += 1
            if found == count:
                break
    assert found == count
    return found


async def process(place: Path, count: int, size: int) -> int:
    data = bytes(MIB * count)
    done = await trio.run_process(["cat"], stdin=data, capture_stdout=True)
    assert len(done.stdout) == len(data)
    return count


async def to_sink(total: int, work: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
    """One connection over loopback to a thread that receives it all."""
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
        await work(stream)
    await trio.to_thread.run_sync(thread.join)
    assert received == total


async def sendfile(place: Path, count: int, size: int) -> int:
    async def work(stream: trio.SocketStream) -> None:
        left = count * MIB
        async with await trio.open_file(place / "large", "rb") as file:
            while left:
                left -= await trio_lio.sendfile(stream, file, count=left)

    await to_sink(count * MIB, work)
    return count


async def read_and_send(place: Path, count: int, size: int) -> int:
    """What `sendfile` saves."""

    async def work(stream: trio.SocketStream) -> None:
        left = count * MIB
        while left:
            async with await trio.open_file(place / "large", "rb") as file:
                while left and (data := await file.read(min(size, left))):
                    await stream.send_all(data)
                    left -= len(data)

    await to_sink(count * MIB, work)
    return count


WORKS = [
    random_reads,
    sequential,
    small_files,
    append_lines,
    lines,
    process,
    sendfile,
    read_and_send,
]


async def main(options: argparse.Namespace) -> None:
    [work] = [work for work in WORKS if work.__name__ == options.work]
    start, cpu = time.perf_counter(), time.process_time()
    units = await work(options.place, options.count, options.size)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(json.dumps({"per_second": units / seconds, "cpu_us": cpu / units * 1e6}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=[work.__name__ for work in WORKS])
    parser.add_argument("place", type=Path)
    parser.add_argument("--count", type=int, required=True, help="reads, files, lines or MiB")
    parser.add_argument("--size", type=int, default=1 << 16, help="bytes of a read")
    trio.run(main, parser.parse_args())
