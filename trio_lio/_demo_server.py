"""The server of the demo: plain Trio, and nothing of trio-lio.

Serves on loopback until its standard input ends. Its first line says where, and what does
its I/O.
"""

from __future__ import annotations

import functools
import json
import os
import sys

import trio


async def echo(stream: trio.SocketStream) -> None:
    try:
        while data := await stream.receive_some():
            await stream.send_all(data)
    except trio.BrokenResourceError:
        pass  # the client left without a good-bye


async def main() -> None:
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trio.serve_tcp, echo, 0, host="127.0.0.1")
        [listener] = await nursery.start(serve)
        _, port = listener.socket.getsockname()
        backend = trio.lowlevel.current_statistics().io_statistics.backend
        print(json.dumps({"port": port, "backend": backend}), flush=True)
        if sys.platform == "win32":  # has no streams of file descriptors
            await trio.to_thread.run_sync(sys.stdin.buffer.read)
        else:
            async with trio.lowlevel.FdStream(os.dup(0)) as control:
                while await control.receive_some():
                    pass
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
