"""sendfile: all of it, in order, a truthful count, and nothing else's bytes."""

from __future__ import annotations

import errno
import io
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import trio_lio

from ..common import pattern, take_now
from .support import PATIENCE, half_foreign_pair, tcp_pair

Run = Callable[..., Any]
DATA = pattern(3_000_001)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


async def received_until_end(stream: Any, into: bytearray) -> None:
    receive = getattr(stream, "receive_some", None) or (lambda: stream.recv(65536))
    while part := await receive():
        into += part


async def send_and_receive(send: Any, sender: Any, receiver: Any) -> tuple[Any, bytes]:
    received = bytearray()
    sent = None
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(received_until_end, receiver, received)
            sent = await send(sender)
            if hasattr(sender, "send_all"):
                await sender.aclose()
            else:
                sender.close()
    return sent, bytes(received)


@pytest.mark.parametrize("kind", ["stream", "socket", "socketpair"])
@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, None), (0, 0), (0, 1), (5, 2_000_000), (1_000_000, None), (2_999_999, 100), (9**9, 5)],
)
def test_what_arrives(run: Run, path: Path, kind: str, offset: int, count: int | None) -> None:
    wanted = DATA[offset:] if count is None else DATA[offset : offset + count]

    async def main() -> None:
        ends = trio.socket.socketpair() if kind == "socketpair" else tcp_pair()
        sender, receiver = (trio.SocketStream(e) if kind == "stream" else e for e in ends)
        with open(path, "rb") as file:
            file.read(7)
            position = os.lseek(file.fileno(), 0, os.SEEK_CUR)

            async def send(target: Any) -> int:
                return await trio_lio.sendfile(target, file, offset, count)

            sent, received = await send_and_receive(send, sender, receiver)
            assert sent == len(wanted)
            assert received == wanted
            assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == position
        receiver.socket.close() if kind == "stream" else receiver.close()

    run(main)
    if count is not None and count < 100:
        trio.run(main)


def test_all_kinds_of_files(run: Run, path: Path) -> None:
    async def main() -> None:
        a, b = trio.socket.socketpair()
        with a, b:
            fd = os.open(path, os.O_RDONLY)
            async with (
                await trio_lio.open_file(path, "rb") as ours,
                await trio_lio.open_file(path) as text,
            ):
                for file in fd, ours, text, ours.wrapped:
                    assert await trio_lio.sendfile(a, file, 10, 20) == 20
                    assert await b.recv(100) == DATA[10:30]
            os.close(fd)

    run(main)


def test_bad_arguments(run: Run, path: Path) -> None:
    async def main() -> None:
        a, b = trio.socket.socketpair()
        with a, b, open(path, "rb") as file:
            for arguments, error in (
                ((a, file, -1), ValueError),
                ((a, file, 0, -1), ValueError),
                ((a, file, 1.5), TypeError),
                ((a, file, 0, "x"), TypeError),
                ((a, object()), TypeError),
                ((a, io.BytesIO(b"x")), io.UnsupportedOperation),
                ((object(), file), TypeError),
                ((a, 987654), OSError),
            ):
                with pytest.raises(error):
                    await trio_lio.sendfile(*arguments)
            reader, writer = os.pipe()
            with pytest.raises(OSError, match="regular file") as caught:
                await trio_lio.sendfile(a, reader)
            assert caught.value.errno == errno.EINVAL
            os.close(reader)
            os.close(writer)

    run(main)


def test_a_file_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        a, b = trio.socket.socketpair()
        with a, b:
            (tmp_path / "new").write_bytes(b"x")
            only = os.open(tmp_path / "new", os.O_WRONLY)
            with pytest.raises(OSError) as caught:
                await trio_lio.sendfile(a, only)
            assert caught.value.errno in (errno.EBADF, errno.EACCES)  # that on Windows
            os.close(only)

    run(main)


def test_what_is_not_flushed_is_not_forgotten(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        a, b = trio.socket.socketpair()
        with a, b:
            async with await trio_lio.open_file(tmp_path / "new", "w+b") as unflushed:
                await unflushed.write(b"x")
                with pytest.raises(ValueError, match="flush"):
                    await trio_lio.sendfile(a, unflushed)
                await unflushed.flush()
                assert await trio_lio.sendfile(a, unflushed) == 1

    run(main)


def test_cancelled_it_tells_how_much_went(run: Run, path: Path) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b, open(path, "rb") as file:
            with trio.move_on_after(0.1) as scope:
                sent = await trio_lio.sendfile(a, file)
                await trio.lowlevel.checkpoint()  # the next one is where it shows
            assert scope.cancelled_caught
            arrived = bytearray()
            while part := take_now(b):
                arrived += part
            assert 0 < sent < len(DATA)
            assert arrived == DATA[:sent]
            # It goes on where that ended.
            assert await trio_lio.sendfile(a, file, sent, 1000) == 1000
            assert take_now(b) == DATA[sent : sent + 1000]

    run(main)


def test_cancelled_before_the_first_byte_it_sends_none(run: Run, path: Path) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b, open(path, "rb") as file:
            with trio.CancelScope() as scope:
                scope.cancel()
                await trio_lio.sendfile(a, file)
            assert scope.cancelled_caught
            assert take_now(b) is None

    run(main)


def test_a_peer_that_goes(run: Run, path: Path) -> None:
    async def main() -> None:
        for as_stream in (True, False):
            a, b = half_foreign_pair()
            b.close()
            target = trio.SocketStream(a) if as_stream else a
            error = trio.BrokenResourceError if as_stream else BrokenPipeError
            with open(path, "rb") as file, pytest.raises(error):
                await trio_lio.sendfile(target, file)
            a.close()

    run(main)


def test_one_sender_at_a_time_and_closing(run: Run, path: Path) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        stream = trio.SocketStream(a)

        async def send() -> None:
            with open(path, "rb") as file, pytest.raises(trio.ClosedResourceError):
                await trio_lio.sendfile(stream, file)

        with b, trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                await trio.testing.wait_all_tasks_blocked(0.05)
                with pytest.raises(trio.BusyResourceError):
                    await stream.send_all(b"between")
                await stream.aclose()

    run(main)


def test_over_tls_it_is_read_and_sent(run: Run, path: Path) -> None:
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("here.test").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)

    async def main() -> None:
        a, b = (trio.SocketStream(end) for end in tcp_pair())
        server = trio.SSLStream(a, server_context, server_side=True)
        client = trio.SSLStream(b, client_context, server_hostname="here.test")

        async def send(target: Any) -> int:
            return await trio_lio.sendfile(target, path_file, 10)

        with open(path, "rb") as path_file:
            sent, received = await send_and_receive(send, server, client)
        assert sent == len(DATA) - 10
        assert received == DATA[10:]
        await client.aclose()

    run(main)


def test_a_file_that_grows_shorter_on_the_way(run: Run, path: Path) -> None:
    async def main() -> None:
        a, b = trio.socket.socketpair()
        with a, open(path, "rb") as file:
            received = bytearray()

            async def receive() -> None:
                await trio.testing.wait_all_tasks_blocked(0.05)
                os.truncate(path, 1_500_000)
                await received_until_end(b, received)

            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receive)
                    sent = await trio_lio.sendfile(a, file)
                    a.close()
            assert sent == len(received)
        b.close()

    run(main)
