"""An echo server and one client of it, both on Trio; knows nothing of trio-lio."""

import sys

import trio
import trio.testing


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def main(text: str) -> None:
    async with trio.open_nursery() as nursery:
        [listener, *_] = await nursery.start(trio.serve_tcp, echo, 0)
        client = await trio.testing.open_stream_to_socket_listener(listener)
        await client.send_all(text.encode())
        print((await client.receive_some()).decode())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, " ".join(sys.argv[1:]) or "hello")
