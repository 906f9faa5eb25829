"""A tool: the SHA-256 and the packed size of each file that standard input names.

The digests are made by processes of trio-parallel, the packing by a program of its own.
"""

from __future__ import annotations

import hashlib
import sys
from functools import partial
from pathlib import Path

import trio
import trio_parallel

PACK = "import sys, zlib; sys.stdout.buffer.write(zlib.compress(sys.stdin.buffer.read()))"


def digest(name: str) -> str:
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()


async def one(name: str, found: dict[str, str]) -> None:
    data = await trio.Path(name).read_bytes()
    pack = partial(trio.run_process, [sys.executable, "-c", PACK], stdin=data)
    packed = await pack(capture_stdout=True)
    found[name] = f"{await trio_parallel.run_sync(digest, name)} {len(packed.stdout)}"


async def main() -> None:
    found: dict[str, str] = {}
    names = []
    async with trio.open_nursery() as nursery:
        async with trio.lowlevel.FdStream(0) as stdin:
            text = b"".join([chunk async for chunk in stdin])
        names = text.decode().splitlines()
        for name in names:
            nursery.start_soon(one, name, found)
    for name in names:
        print(found[name], name)


if __name__ == "__main__":
    trio.run(main)
