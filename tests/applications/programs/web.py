"""An ASGI application: JSON, streams both ways, a file, a thread, a WebSocket."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import sniffio
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


async def about(request: Request) -> JSONResponse:
    backend = trio.lowlevel.current_statistics().io_statistics.backend
    return JSONResponse(
        {
            "http": request.scope["http_version"],
            "library": sniffio.current_async_library(),
            "backend": backend,
        }
    )


async def digest(request: Request) -> JSONResponse:
    found, length = hashlib.sha256(), 0
    async for chunk in request.stream():
        found.update(chunk)
        length += len(chunk)
    return JSONResponse({"sha256": found.hexdigest(), "length": length})


async def numbers(request: Request) -> StreamingResponse:
    async def lines() -> AsyncIterator[bytes]:
        for number in range(int(request.path_params["count"])):
            yield b"%d\n" % number
            if number % 100 == 0:
                await trio.sleep(0)

    return StreamingResponse(lines(), media_type="text/plain")


async def file(request: Request) -> FileResponse:
    return FileResponse(__file__)


def thread(request: Request) -> PlainTextResponse:
    return PlainTextResponse("from a thread")


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_bytes(await websocket.receive_bytes())
    except WebSocketDisconnect:
        pass


app = Starlette(
    routes=[
        Route("/", about),
        Route("/digest", digest, methods=["POST"]),
        Route("/numbers/{count}", numbers),
        Route("/file", file),
        Route("/thread", thread),
        WebSocketRoute("/echo", echo),
    ]
)
