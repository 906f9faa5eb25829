"""A WebSocket server: what anybody says goes to all who are there."""

from __future__ import annotations

import signal
import ssl
import sys

import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    serve_websocket,
)

members: set[WebSocketConnection] = set()


async def member(request: WebSocketRequest) -> None:
    websocket = await request.accept()
    members.add(websocket)
    try:
        while True:
            message = await websocket.get_message()
            async with trio.open_nursery() as nursery:
                for other in members:
                    nursery.start_soon(other.send_message, message)
    except ConnectionClosed:
        pass
    finally:
        members.discard(websocket)


async def main(certificate: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_websocket, member, "127.0.0.1", 0, context)
            print(f"port {server.port}", flush=True)
            await signals.__anext__()
            nursery.cancel_scope.cancel()


trio.run(main, sys.argv[1])
