"""The echo server on anyio, over whichever event loop."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread


async def echo(stream: anyio.abc.SocketStream) -> None:
    async with stream:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await stream.send(await stream.receive())


async def main(loop: str) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", backlog=1024)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, echo)
        print(json.dumps({"port": port, "backend": loop}), flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
        os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=("trio", "asyncio", "uvloop"), required=True)
    chosen = parser.parse_args()
    options: dict[str, Any] = {"use_uvloop": True} if chosen.loop == "uvloop" else {}
    backend = "trio" if chosen.loop == "trio" else "asyncio"
    anyio.run(main, chosen.loop, backend=backend, backend_options=options)
