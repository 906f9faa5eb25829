"""trio_lio.lowlevel: one awaitable per operation."""

from __future__ import annotations

import errno
import os
import pathlib
import socket as stdlib_socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from trio_lio import lowlevel
from trio_lio.backends import Op

from ..common import take_now

Run = Callable[..., Any]


@pytest.fixture
def pair() -> Any:
    left, right = stdlib_socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


def test_a_message_goes_and_comes(run: Run, pair: Any) -> None:
    left, right = pair

    async def main() -> None:
        assert await lowlevel.send(left.fileno(), b"over") == 4
        assert await lowlevel.recv(right.fileno(), 100) == b"over"
        target = bytearray(3)
        await lowlevel.sendmsg(left.fileno(), [b"un", b"der"])
        assert await lowlevel.recv_into(right.fileno(), target) == 3
        assert (bytes(target), await lowlevel.recv(right.fileno(), 100)) == (b"und", b"er")

    run(main)


def test_every_call_is_a_checkpoint_failing_ones_too(run: Run, pair: Any) -> None:
    left, _ = pair

    async def main() -> None:
        with trio.testing.assert_checkpoints():
            await lowlevel.nop()
        with trio.testing.assert_checkpoints():
            await lowlevel.send(left.fileno(), b"x")
        with trio.testing.assert_checkpoints(), pytest.raises(OSError) as caught:
            await lowlevel.listen(left.fileno())
        assert caught.value.errno in (errno.EOPNOTSUPP, errno.EINVAL)

    run(main)


def test_a_cancelled_receive_takes_nothing(run: Run, pair: Any) -> None:
    left, right = pair

    async def main() -> None:
        with trio.move_on_after(0.02) as scope:
            await lowlevel.recv(right.fileno(), 100)
        assert scope.cancelled_caught
        left.send(b"kept")
        assert await lowlevel.recv(right.fileno(), 100) == b"kept"

    run(main)


def test_a_call_in_a_cancelled_scope_does_nothing(run: Run, pair: Any) -> None:
    left, right = pair

    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await lowlevel.send(left.fileno(), b"never")
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert take_now(right) is None

    run(main)


def test_a_timeout_that_ran_out_is_no_error(run: Run) -> None:
    async def main() -> None:
        before = trio.current_time()
        assert await lowlevel.timeout(0.02) == 0
        assert trio.current_time() - before >= 0.02

    run(main)


def test_close_fd_tells_those_who_wait(run: Run, pair: Any) -> None:
    left, right = pair

    async def main() -> None:
        async def waits() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await lowlevel.recv(fd, 1)

        fd = left.detach()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits)
            await trio.testing.wait_all_tasks_blocked()
            lowlevel.close_fd(fd)
            assert take_now(right) == b""
        with pytest.raises(OSError) as caught:
            lowlevel.close_fd(fd)
        assert caught.value.errno == errno.EBADF

    run(main)


def test_a_connection_from_plain_descriptors(run: Run) -> None:
    async def main() -> None:
        kind = stdlib_socket.AF_INET, stdlib_socket.SOCK_STREAM
        listener = await lowlevel.socket(*kind)
        client = await lowlevel.socket(*kind)
        try:
            await lowlevel.bind(listener, ("127.0.0.1", 0))
            await lowlevel.listen(listener, 1)
            with stdlib_socket.socket(fileno=os.dup(listener)) as named:
                address = named.getsockname()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lowlevel.connect, client, address)
                server, peer = await lowlevel.accept(listener)
            with stdlib_socket.socket(fileno=os.dup(client)) as named:
                assert peer == named.getsockname()
            await lowlevel.send(server, b"welcome")
            await lowlevel.shutdown(server, stdlib_socket.SHUT_WR)
            assert await lowlevel.recv(client, 100) == b"welcome"
            assert await lowlevel.recv(client, 100) == b""
            lowlevel.close_fd(server)
        finally:
            lowlevel.close_fd(listener)
            lowlevel.close_fd(client)

    run(main)


def test_files(run: Run, tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        path = tmp_path / "file"
        fd = await lowlevel.openat(path, os.O_RDWR | os.O_CREAT, 0o600)
        assert await lowlevel.write_at(fd, b"abcdef", 0) == 6
        assert await lowlevel.read_at(fd, 3, 2) == b"cde"
        await lowlevel.fsync(fd)
        found = await lowlevel.statx(path)
        assert (found.st_size, found.st_mode & 0o777) == (6, 0o600)
        await lowlevel.close(fd)
        with pytest.raises(FileNotFoundError) as caught:
            await lowlevel.openat(tmp_path / "missing", os.O_RDONLY)
        assert caught.value.errno == errno.ENOENT

    run(main)


def test_perform_takes_any_operation(run: Run, pair: Any) -> None:
    left, right = pair

    async def main() -> None:
        op = Op.poll(right.fileno(), readable=True)
        left.send(b"x")
        assert (await lowlevel.perform(op)) & 1
        assert (await lowlevel.perform(op)) & 1  # and again

    run(main)


def test_bad_arguments_are_told_at_once(run: Run, pair: Any) -> None:
    left, _ = pair

    async def main() -> None:
        with pytest.raises(ValueError, match="n must be"):
            await lowlevel.recv(left.fileno(), -1)
        with pytest.raises(TypeError, match="bytes-like"):
            await lowlevel.send(left.fileno(), "text")  # type: ignore[arg-type]
        released = memoryview(b"abc")
        op = Op.send(left.fileno(), released)
        released.release()
        with pytest.raises(ValueError, match="released"):
            await lowlevel.perform(op)
        assert trio.lowlevel.current_statistics().io_statistics.operations_in_flight <= 2

    run(main)


def test_outside_a_lio_run_it_says_so() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"trio_lio\.run"):
            await lowlevel.nop()

    trio.run(main)
