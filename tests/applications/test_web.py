"""hypercorn's Trio worker with a Starlette application; httpx and trio-websocket as clients."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from .conftest import PROGRAMS, Certificates, Programs, Served

UP = r"Running on https?://127\.0\.0\.1:(\d+)"
HYPERCORN = "-m hypercorn --worker-class trio --workers 0 --bind 127.0.0.1:0".split()


@pytest.fixture
def plain(programs: Programs) -> Served:
    return programs.serve(*HYPERCORN, "web:app", up=UP)


@pytest.fixture
def tls(programs: Programs, certificates: Certificates) -> Served:
    """Wants a certificate of its clients too."""
    files = str(certificates.authority), str(certificates.server)
    return programs.serve("serve.py", *files, up=UP)


async def all_of_it(client: Any, http: str, backend: str) -> None:
    """Every kind of request, all at the same time."""

    async def about() -> None:
        found = (await client.get("/")).json()
        assert found == {"http": http, "library": "trio", "backend": f"lio-{backend}"}

    async def upload(size: int) -> None:
        data = os.urandom(size)

        async def chunks() -> AsyncIterator[bytes]:
            for at in range(0, size, 50_000):
                yield data[at : at + 50_000]

        found = (await client.post("/digest", content=chunks())).json()
        assert found == {"sha256": hashlib.sha256(data).hexdigest(), "length": size}

    async def download(count: int) -> None:
        async with client.stream("GET", f"/numbers/{count}") as response:
            lines = [line async for line in response.aiter_lines()]
        assert lines == [str(number) for number in range(count)]

    async def leave_early() -> None:
        async with client.stream("GET", "/numbers/10000000") as response:
            async for line in response.aiter_lines():
                if line == "1000":
                    break

    async def file() -> None:
        assert (await client.get("/file")).content == (PROGRAMS / "web.py").read_bytes()

    async def thread() -> None:
        assert (await client.get("/thread")).text == "from a thread"

    async with anyio.create_task_group() as group:
        for _ in range(5):
            for async_fn in (about, file, thread):
                group.start_soon(async_fn)
            group.start_soon(upload, 300_000)
            group.start_soon(download, 3000)
        group.start_soon(upload, 3_000_000)
        group.start_soon(leave_early)
    await about()


def test_http_1(plain: Served, on_lio: Callable[..., Any], backend: str) -> None:
    import httpx

    async def main() -> None:
        address = f"http://127.0.0.1:{plain.port}"
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            await all_of_it(client, "1.1", backend)

    on_lio(main)


def test_http_2_and_tls_both_ways(
    tls: Served, on_lio: Callable[..., Any], backend: str, certificates: Certificates
) -> None:
    import httpx

    address = f"https://127.0.0.1:{tls.port}"

    async def main() -> None:
        async with httpx.AsyncClient(
            base_url=address, http2=True, verify=certificates.client, timeout=30
        ) as client:
            await all_of_it(client, "2", backend)

    async def nobody() -> None:
        async with httpx.AsyncClient(verify=certificates.nobody, timeout=30) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(address)

    on_lio(main)
    on_lio(nobody)
    on_lio(main)


def test_websocket(plain: Served, on_lio: Callable[..., Any]) -> None:
    from trio_websocket import open_websocket_url

    async def main() -> None:
        async def talk(number: int) -> None:
            address = f"ws://127.0.0.1:{plain.port}/echo"
            async with open_websocket_url(address) as websocket:
                for size in (1, 1000, 200_000):
                    message = bytes([number]) * size
                    await websocket.send_message(message)
                    assert await websocket.get_message() == message

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(talk, number)

    on_lio(main)
