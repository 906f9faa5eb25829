"""An anyio TLS server that wants a certificate of its clients: echoes, and says who they are."""

from __future__ import annotations

import signal
import ssl
import sys

import anyio
from anyio.abc import SocketAttribute, TaskGroup
from anyio.streams.tls import TLSAttribute, TLSListener, TLSStream


async def client(stream: TLSStream) -> None:
    certificate = stream.extra(TLSAttribute.peer_certificate)
    names = [value for _, value in certificate["subjectAltName"]]
    async with stream:
        await stream.send(f"{names[0]}\n".encode())
        async for data in stream:
            await stream.send(data)


async def stop(group: TaskGroup) -> None:
    with anyio.open_signal_receiver(signal.SIGINT) as signals:
        async for _ in signals:
            group.cancel_scope.cancel()


async def main(authority: str, certificate: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate)
    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with TLSListener(plain, context) as listener, anyio.create_task_group() as group:
        group.start_soon(stop, group)
        print(f"port {plain.extra(SocketAttribute.local_port)}", flush=True)
        await listener.serve(client)


name, *files = sys.argv[1:]
anyio.run(main, *files, backend=name)
