"""The same servers on asyncio, by streams or by protocols, with or without uvloop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import threading
from typing import Any, cast


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self.transport.sendto(data, addr)


async def main(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chunk = bytes(options.chunk)
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(chunk)
                await writer.drain()

    if options.work == "udp":
        transport, _ = await loop.create_datagram_endpoint(
            EchoDatagrams, local_addr=("127.0.0.1", 0)
        )
        port = transport.get_extra_info("sockname")[1]
    else:
        server: asyncio.base_events.Server | asyncio.Server
        if options.style == "protocol" and not options.chunk:
            server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1024)
        else:
            handler = pour if options.chunk else echo
            server = await asyncio.start_server(handler, "127.0.0.1", 0, backlog=1024)
        port = server.sockets[0].getsockname()[1]
    print(json.dumps({"port": port, "backend": type(loop).__module__}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    os._exit(0)  # what is still open ends with the process


def burn() -> None:
    while True:
        sum(range(1000))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", choices=("tcp", "udp"), default="tcp")
    parser.add_argument("--style", choices=("streams", "protocol"), default="streams")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--chunk", type=int, default=0)
    parser.add_argument("--burners", type=int, default=0)
    chosen = parser.parse_args()
    for _ in range(chosen.burners):
        threading.Thread(target=burn, daemon=True).start()
    if chosen.uvloop:
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main(chosen))
