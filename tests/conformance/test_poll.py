"""Readiness of any descriptor."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from trio_lio.backends import IoBackend, Op, Ready

from ..common import fill
from .support import (
    Sockets,
    close_socket,
    closed_fd,
    collect,
    complete,
    errno_of,
    is_idle,
    new_id,
    read_all,
    run,
    submit,
)


def test_readable(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    op_id = submit(sockets.backend, Op.poll(ours.fileno(), readable=True))
    theirs.send(b"x")
    assert collect(sockets.backend, [op_id])[op_id].result == Ready.READ
    # A level, not an edge: still due, and it took nothing.
    assert run(sockets.backend, Op.poll(ours.fileno(), readable=True)) == Ready.READ
    assert run(sockets.backend, Op.recv(ours.fileno(), 10)) == b"x"
    op_id = submit(sockets.backend, Op.poll(ours.fileno(), readable=True))
    assert sockets.backend.cancel(op_id) is False
    assert collect(sockets.backend, [op_id])[op_id].cancelled


def test_writable(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    assert run(sockets.backend, Op.poll(ours.fileno(), writable=True)) == Ready.WRITE
    before = fill(ours)
    op_id = submit(sockets.backend, Op.poll(ours.fileno(), writable=True))
    read_all(theirs, before)
    assert collect(sockets.backend, [op_id])[op_id].result == Ready.WRITE


def test_both(sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    assert run(sockets.backend, Op.poll(ours.fileno(), readable=True, writable=True)) == (
        Ready.WRITE
    )
    theirs.send(b"x")
    due = run(sockets.backend, Op.poll(ours.fileno(), readable=True, writable=True))
    assert due == Ready.READ | Ready.WRITE


def test_several_polls_of_one_descriptor(sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    fill(ours)
    ids = [submit(sockets.backend, Op.poll(ours.fileno(), readable=True)) for _ in range(3)]
    writing = submit(sockets.backend, Op.poll(ours.fileno(), writable=True))
    theirs.send(b"x")
    done = collect(sockets.backend, ids)
    assert [done[op_id].result for op_id in ids] == [Ready.READ] * 3
    assert sockets.backend.cancel(writing) is False
    assert collect(sockets.backend, [writing])[writing].cancelled


@pytest.mark.parametrize("how", ["shutdown", "close"])
def test_the_end_is_readable(sockets: Sockets, stream_kind: str, how: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    op_id = submit(sockets.backend, Op.poll(ours.fileno(), readable=True))
    if how == "shutdown":
        theirs.shutdown(socket.SHUT_WR)
    else:
        sockets.close(only=theirs)
    assert collect(sockets.backend, [op_id])[op_id].result == Ready.READ
    assert run(sockets.backend, Op.recv(ours.fileno(), 10)) == b""


def test_a_reader_that_goes_makes_a_pipe_writable(backend: IoBackend) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    try:
        while True:
            os.write(write_end, bytes(65536))
    except BlockingIOError:
        pass
    op_id = submit(backend, Op.poll(write_end, writable=True))
    os.close(read_end)
    assert collect(backend, [op_id])[op_id].result == Ready.WRITE
    os.close(write_end)


def test_pipes(backend: IoBackend) -> None:
    read_end, write_end = os.pipe()
    assert run(backend, Op.poll(write_end, writable=True)) == Ready.WRITE
    op_id = submit(backend, Op.poll(read_end, readable=True))
    os.write(write_end, b"x")
    assert collect(backend, [op_id])[op_id].result == Ready.READ
    os.read(read_end, 1)
    op_id = submit(backend, Op.poll(read_end, readable=True))
    os.close(write_end)
    assert collect(backend, [op_id])[op_id].result == Ready.READ
    os.close(read_end)


def test_a_listener_is_readable_when_somebody_comes(sockets: Sockets) -> None:
    server = sockets.listener()
    op_id = submit(sockets.backend, Op.poll(server.fileno(), readable=True))
    with socket.create_connection(server.getsockname()):
        assert collect(sockets.backend, [op_id])[op_id].result == Ready.READ
        fd, _address = run(sockets.backend, Op.accept(server.fileno()))
        close_socket(fd)


def test_a_regular_file_is_ready_or_refused(backend: IoBackend) -> None:
    """epoll refuses it with EPERM, kqueue may with EINVAL, and so does Trio on them; nobody
    waits for ever."""
    with open(__file__, "rb") as file:
        done = complete(backend, Op.poll(file.fileno(), readable=True))
    if done.error is None:
        assert done.result == Ready.READ
    else:
        assert done.error.errno in (errno.EPERM, errno.EINVAL)


def test_an_event_counter(backend: IoBackend) -> None:
    if not hasattr(os, "eventfd"):
        pytest.skip("os.eventfd is new in Python 3.10 on Linux")
    fd = os.eventfd(0)
    try:
        op_id = submit(backend, Op.poll(fd, readable=True))
        os.eventfd_write(fd, 1)
        assert collect(backend, [op_id])[op_id].result == Ready.READ
    finally:
        os.close(fd)


def test_closed_descriptor(backend: IoBackend) -> None:
    assert errno_of(backend, Op.poll(closed_fd(), readable=True)) == "EBADF"
    assert is_idle(backend)


def test_one_of_a_thousand_polls(backend: IoBackend, foreign: Sockets) -> None:
    """All wait on one descriptor; each ends exactly once."""
    ours, theirs = foreign.pair()
    backend.grow(1000)
    ids = [new_id() for _ in range(1000)]
    for op_id in ids:
        backend.push(op_id, Op.poll(ours.fileno(), readable=True))
    assert backend.wait_timeout(0) == []
    theirs.send(b"x")
    assert {done.result for done in collect(backend, ids).values()} == {Ready.READ}
    assert is_idle(backend)
