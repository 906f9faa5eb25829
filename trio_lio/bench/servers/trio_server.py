"""Servers of the benchmarks: plain Trio by its public API, and nothing of trio-lio.

Serves on loopback until its standard input ends. Its first line says where, and what does
its I/O.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import threading

import trio


async def echo(stream: trio.SocketStream) -> None:
    try:
        while data := await stream.receive_some():
            await stream.send_all(data)
    except trio.BrokenResourceError:
        pass  # the client left without a good-bye


async def pour(chunk: bytes, stream: trio.SocketStream) -> None:
    try:
        while True:
            await stream.send_all(chunk)
    except trio.BrokenResourceError:
        pass


async def echo_datagrams(sock: trio.socket.SocketType) -> None:
    while True:
        data, address = await sock.recvfrom(65536)
        await sock.sendto(data, address)


async def udp_server(nursery: trio.Nursery) -> int:
    sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await sock.bind(("127.0.0.1", 0))
    nursery.start_soon(echo_datagrams, sock)
    return int(sock.getsockname()[1])


async def tcp_server(nursery: trio.Nursery, chunk: int) -> int:
    handler = functools.partial(pour, bytes(chunk)) if chunk else echo
    serve = functools.partial(trio.serve_tcp, handler, 0, host="127.0.0.1", backlog=1024)
    [listener] = await nursery.start(serve)
    return int(listener.socket.getsockname()[1])


async def main(options: argparse.Namespace) -> None:
    async with trio.open_nursery() as nursery:
        if options.work == "udp":
            port = await udp_server(nursery)
        else:
            port = await tcp_server(nursery, options.chunk)
        statistics = trio.lowlevel.current_statistics
        backend = statistics().io_statistics.backend
        print(json.dumps({"port": port, "backend": backend}), flush=True)
        async with trio.lowlevel.FdStream(os.dup(0)) as control:
            while await control.receive_some():  # somebody asks for the system calls
                calls = getattr(statistics().io_statistics, "syscalls", None)
                print(json.dumps({"syscalls": calls}), flush=True)
        nursery.cancel_scope.cancel()


def burn() -> None:
    while True:
        sum(range(1000))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", choices=("tcp", "udp"), default="tcp")
    parser.add_argument("--chunk", type=int, default=0, help="send this much, over and over")
    parser.add_argument("--burners", type=int, default=0, help="threads that compute")
    chosen = parser.parse_args()
    for _ in range(chosen.burners):
        threading.Thread(target=burn, daemon=True).start()
    trio.run(main, chosen)
