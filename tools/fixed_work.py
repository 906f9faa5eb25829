"""Work that is always the same, for `count_instructions`: echoes, checkpoints, cancels.

Run as ``fixed_work.py NAME`` with NAME a backend of trio-lio, or ``stock``. Between the kinds
of work it calls a function of the C core by which valgrind knows where one ends.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import trio

import trio_lio
from trio_lio._native import lib

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

COUNT = 10_000
WORKS = ("echo", "checkpoint", "cancel")
MARK = "lio_load_bucket_start"


async def echo(count: int) -> None:
    """Echoes of 1 KiB over a socket pair."""
    left, right = map(trio.SocketStream, trio.socket.socketpair())

    async def serve() -> None:
        while data := await right.receive_some():
            await right.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        message = bytes(1024)
        for _ in range(count):
            await left.send_all(message)
            assert len(await left.receive_some()) == len(message)
        await left.aclose()
    await right.aclose()


async def checkpoint(count: int) -> None:
    for _ in range(count):
        await trio.lowlevel.checkpoint()


async def cancel(count: int) -> None:
    """Receives that wait, each cancelled by another task."""
    left, right = map(trio.SocketStream, trio.socket.socketpair())
    scopes: list[trio.CancelScope] = []
    cancelled = 0

    async def wait() -> None:
        nonlocal cancelled
        for _ in range(count):
            with trio.CancelScope() as scope:
                scopes.append(scope)
                await left.receive_some()
            cancelled += scope.cancelled_caught

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        while cancelled < count:
            await trio.lowlevel.checkpoint()
            if scopes:
                scopes.pop().cancel()
    await left.aclose()
    await right.aclose()


async def main() -> None:
    works: dict[str, Callable[[int], Awaitable[None]]] = {
        "echo": echo,
        "checkpoint": checkpoint,
        "cancel": cancel,
    }
    for name in WORKS:
        await works[name](100)  # what is made once, and what Python does the first times
        lib.lio_load_bucket_start(0)
        await works[name](COUNT)
        lib.lio_load_bucket_start(0)


if __name__ == "__main__":
    if sys.argv[1] == "stock":
        trio.run(main)
    else:
        trio_lio.run(main, backend=sys.argv[1])
