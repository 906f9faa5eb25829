"""The end of a backend with operations in flight: nothing is written later, nothing leaks."""

from __future__ import annotations

import gc
import os
import socket
from typing import TYPE_CHECKING

import pytest

from trio_lio.backends import IoBackend, Op

from ..common import fill, open_fds, sees_end
from .support import Sockets, new_id, until

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Factory, Maker


def test_memory_is_not_written_after_close(backend: IoBackend, foreign: Sockets) -> None:
    buffers, peers = [], []
    for op in (
        lambda fd, buffer: Op.recv_into(fd, buffer),
        lambda fd, buffer: Op.recvmsg_into(fd, [buffer], 100),
        lambda fd, buffer: Op.recvfrom_into(fd, buffer),
        lambda fd, buffer: Op.read(fd, buffer),
    ):
        ours, theirs = foreign.pair()
        buffer = bytearray(1000)
        backend.push(new_id(), op(ours.fileno(), buffer))
        buffers.append(buffer)
        peers.append((ours, theirs))
    assert backend.wait_timeout(0) == []
    backend.close()
    for ours, theirs in peers:
        theirs.send(b"x" * 1000)
        assert ours.recv(2000) == b"x" * 1000  # nobody took it
    for buffer in buffers:
        buffer.append(0)  # no longer exported
        assert buffer == bytes(1001)


def test_what_is_queued_at_the_close_never_happens(
    backend: IoBackend, foreign: Sockets, tmp_path: Path
) -> None:
    ours, theirs = foreign.pair()
    backend.push(1, Op.send(ours.fileno(), b"never"))
    backend.push(2, Op.openat(tmp_path / "never", os.O_CREAT | os.O_WRONLY))
    backend.close()
    assert not (tmp_path / "never").exists()
    with pytest.raises(BlockingIOError):
        theirs.recv(10)


@pytest.mark.parametrize("collected", [False, True])
def test_a_connection_that_nobody_took_is_closed(
    backend: IoBackend, foreign: Sockets, collected: bool
) -> None:
    server = foreign.listener()
    backend.push(1, Op.accept(server.fileno()))
    backend.flush()
    with socket.create_connection(server.getsockname()) as client:
        if collected:  # the kernel is done with it, the caller has not asked
            until(lambda: backend.wait_ready(0), "nobody came")
        before = open_fds()
        backend.close()
        if collected:
            # Accepted, or left in the queue of the listener: nobody has it here.
            assert not open_fds().keys() - before.keys()
        foreign.close(only=server)
        until(lambda: sees_end(client), "the connection stayed open")


def test_files_and_sockets_that_nobody_took_are_closed(
    backend: IoBackend, tmp_path: Path
) -> None:
    before = open_fds()
    backend.push(1, Op.socket(socket.AF_INET, socket.SOCK_STREAM))
    backend.push(2, Op.openat(tmp_path / "file", os.O_CREAT | os.O_WRONLY))
    backend.flush()
    until(lambda: (tmp_path / "file").exists(), "not opened")
    backend.close()
    until(lambda: not open_fds().keys() - before.keys(), "a descriptor stayed open")


def test_passed_descriptors_that_nobody_took_are_closed(
    backend: IoBackend, foreign: Sockets
) -> None:
    ours, theirs = foreign.pair()
    read_end, write_end = os.pipe()
    backend.push(1, Op.recvmsg(ours.fileno(), 10, 100))
    backend.flush()
    socket.send_fds(theirs, [b"x"], [write_end])
    os.close(write_end)
    until(lambda: backend.wait_ready(0), "no message")
    backend.close()
    foreign.close()  # and with the socket a message that nobody received
    assert os.read(read_end, 1) == b""  # no writer is left
    os.close(read_end)


def test_close_with_everything_in_flight(make_backend: Factory) -> None:
    backend = make_backend(1000)
    sockets = Sockets(backend, adopts=True)
    ours, theirs = sockets.pair()
    full, _reader = sockets.pair()
    fill(full)
    server = sockets.listener()
    read_end, write_end = os.pipe()
    for number in range(100):
        for op in (
            Op.recv(ours.fileno(), 100),
            Op.recv(ours.fileno(), 100_000),
            Op.send(full.fileno(), b"x", all=number % 2 == 0),
            Op.accept(server.fileno()),
            Op.poll(theirs.fileno(), readable=True),
            Op.timeout(None),
            Op.timeout(3600),
            Op.read(read_end, 10),
        ):
            backend.push(new_id(), op)
    backend.flush()
    assert backend.wait_timeout(0) == []
    for _ in range(50):
        backend.push(new_id(), Op.recv(ours.fileno(), 100))
    backend.close()
    # Nobody holds the files: the peer sees the end as soon as we close.
    ours.close()
    assert sees_end(theirs)
    for sock in sockets.made:
        sock.close()
    os.close(read_end)
    os.close(write_end)


def test_many_backends_one_after_the_other(new_backend: Maker) -> None:
    before = open_fds()
    for turn in range(30):
        backend = new_backend()
        backend.init(8)
        backend.push(turn, Op.timeout(None))
        backend.flush()
        backend.close()
        del backend
    gc.collect()
    # Not even what wake() writes to.
    until(lambda: not open_fds().keys() - before.keys(), "a descriptor stayed open")


def test_close_settles_quickly_after_cancel(backend: IoBackend, foreign: Sockets) -> None:
    ours, _theirs = foreign.pair()
    for number in range(20):
        backend.push(number, Op.recv(ours.fileno(), 10))
    backend.flush()
    for number in range(20):
        backend.cancel(number)
    backend.close()
    assert backend.stats().in_flight == 0
