"""Programs on Trio and anyio with libraries on top: WebSockets, TLS, processes."""

from __future__ import annotations

import hashlib
import os
import ssl
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from .conftest import Certificates, Programs

UP = r"^port (\d+)$"


def test_chat(
    programs: Programs, on_lio: Callable[..., Any], certificates: Certificates
) -> None:
    """trio-websocket, both ends, over TLS."""
    from trio_websocket import open_websocket

    server = programs.serve("chat.py", str(certificates.server), up=UP)

    async def main() -> None:
        count, present = 8, []
        everybody = anyio.Event()

        async def member(number: int) -> None:
            async with open_websocket(
                "localhost", server.port, "/", use_ssl=certificates.client
            ) as websocket:
                await websocket.ping()
                present.append(number)
                if len(present) == count:
                    everybody.set()
                await everybody.wait()
                await websocket.send_message(f"{number}: hello")
                heard = {await websocket.get_message() for _ in range(count)}
                assert heard == {f"{other}: hello" for other in range(count)}

        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(member, number)

    on_lio(main)


@pytest.mark.parametrize("name", ["trio", "trio_lio"])
def test_tls_both_ways(
    programs: Programs, on_lio: Callable[..., Any], certificates: Certificates, name: str
) -> None:
    """anyio's TLS, both ends; the server wants to know who comes."""
    files = str(certificates.authority), str(certificates.server)
    refusal = "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    server = programs.serve("vault.py", name, *files, up=UP, complaint=refusal)

    async def exchange(size: int) -> None:
        data = os.urandom(size)
        async with await anyio.connect_tcp(
            "localhost", server.port, ssl_context=certificates.client
        ) as stream:
            assert await stream.receive() == b"client@example.org\n"
            received = b""

            async def receive() -> None:
                nonlocal received
                while len(received) < size:
                    received += await stream.receive()

            async with anyio.create_task_group() as group:
                group.start_soon(receive)
                await stream.send(data)
            assert received == data

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for size in (1, 10_000, 100_000, 2_000_000):
                group.start_soon(exchange, size)

    async def nobody() -> None:
        with pytest.raises((ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream)):
            async with await anyio.connect_tcp(
                "localhost", server.port, ssl_context=certificates.nobody
            ) as stream:
                await stream.receive()

    on_lio(main)
    on_lio(nobody)
    on_lio(main)


def test_checksums(programs: Programs, tmp_path: Path) -> None:
    """trio-parallel's processes, and processes with pipes to both ends."""
    files, expected = [], ""
    for size in (0, 1, 70_000, 1_000_000):
        file = tmp_path / f"{size} bytes"
        data = (b"%d, " % size * (size // 4 + 1))[:size]
        file.write_bytes(data)
        files.append(file)
        found = hashlib.sha256(data).hexdigest()
        expected += f"{found} {len(zlib.compress(data))} {file}\n"
    assert programs.run("checksums.py", given="".join(f"{f}\n" for f in files)) == expected
