"""Descriptors: adopting, closing, and what happens behind our back."""

from __future__ import annotations

import errno
import os
import socket
import threading

import pytest

from trio_lio.backends import IoBackend, Op

from ..common import fill, sees_end
from .support import Sockets, closed_fd, collect, errno_of, is_idle, read_all, run, submit


def test_close_with_receive_in_flight_shows_eof_at_once(
    backend: IoBackend, sockets: Sockets, stream_kind: str
) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    op_id = submit(backend, Op.recv(ours.fileno(), 10))
    backend.close_fd(ours.detach())
    assert sees_end(theirs)
    assert collect(backend, [op_id])[op_id].cancelled
    assert is_idle(backend)


def test_close_takes_back_what_is_queued(backend: IoBackend, sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    backend.push(1, Op.send(ours.fileno(), b"never"))
    backend.push(2, Op.recv(ours.fileno(), 10))
    backend.close_fd(ours.detach())
    assert sees_end(theirs)
    assert all(done.cancelled for done in collect(backend, [1, 2]).values())


def test_close_ends_everything_on_the_descriptor(backend: IoBackend, sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    fill(ours)
    fd = ours.fileno()
    ids = [
        submit(backend, op)
        for op in (
            Op.recv(fd, 10),
            Op.poll(fd, readable=True),
            Op.send(fd, b"first"),
            Op.send(fd, b"second"),
            Op.poll(fd, writable=True),
        )
    ]
    backend.close_fd(ours.detach())
    assert all(done.cancelled for done in collect(backend, ids).values())
    assert is_idle(backend)
    theirs.close()


def test_release_leaves_the_descriptor_open(backend: IoBackend, sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    op_id = submit(backend, Op.recv(ours.fileno(), 10))
    backend.release_fd(ours.fileno())
    assert collect(backend, [op_id])[op_id].cancelled
    theirs.send(b"still")
    assert run(backend, Op.recv(ours.fileno(), 10)) == b"still"


def test_adopting_again_changes_nothing(backend: IoBackend, adopted: Sockets) -> None:
    ours, theirs = adopted.pair()
    op_id = submit(backend, Op.recv(ours.fileno(), 10))
    assert backend.adopt(ours.fileno()) is True
    theirs.send(b"kept")
    assert collect(backend, [op_id])[op_id].result == b"kept"


def test_adopting_a_number_used_again_ends_what_waited(
    backend: IoBackend, adopted: Sockets
) -> None:
    ours, theirs = adopted.pair()
    fd = ours.fileno()
    op_id = submit(backend, Op.recv(fd, 10))
    fresh, peer = socket.socketpair()
    os.dup2(fresh.fileno(), fd)  # closes ours behind our back
    fresh.close()
    assert backend.adopt(fd) is True
    done = collect(backend, [op_id])[op_id]
    assert done.error is not None
    peer.send(b"mine")
    assert run(backend, Op.recv(fd, 10)) == b"mine"
    peer.close()
    theirs.close()


def test_fd_reused_while_the_old_file_lives_elsewhere(
    backend: IoBackend, adopted: Sockets
) -> None:
    ours, theirs = adopted.pair()
    fd = ours.fileno()
    elsewhere = os.dup(fd)
    op_id = submit(backend, Op.recv(fd, 100))
    stranger, peer = socket.socketpair()
    os.dup2(stranger.fileno(), fd)
    stranger.close()
    peer.send(b"not yours")
    theirs.send(b"yours")
    if backend.name == "kqueue":
        # It forgets a number that is closed, and tells nobody: the next use finds out.
        assert backend.wait_timeout(0.1) == []
        backend.release_fd(fd)
    done = collect(backend, [op_id])[op_id]
    if done.error is None:
        assert done.result == b"yours"
    with socket.socket(fileno=os.dup(fd)) as new:
        new.setblocking(False)
        assert new.recv(100) == b"not yours"
    peer.close()
    os.close(elsewhere)
    backend.release_fd(fd)


def test_closing_a_number_that_is_another_s_now_is_refused(
    backend: IoBackend, adopted: Sockets
) -> None:
    ours, theirs = adopted.pair()
    fd = ours.fileno()
    stranger, peer = socket.socketpair()
    os.dup2(stranger.fileno(), fd)
    stranger.close()
    with pytest.raises(OSError) as caught:
        backend.close_fd(fd)
    assert caught.value.errno == errno.EBADF
    with socket.socket(fileno=os.dup(fd)) as alive:
        alive.send(b"x")
    assert read_all(peer, 1) == b"x"
    peer.close()
    theirs.close()


def test_descriptors_that_are_not_open(backend: IoBackend) -> None:
    fd = closed_fd()
    assert errno_of(backend, Op.recv(fd, 10)) == "EBADF"
    for call in (backend.adopt, backend.close_fd):
        with pytest.raises(OSError) as caught:
            call(fd)
        assert caught.value.errno == errno.EBADF
    backend.release_fd(fd)


def test_many_lives_of_one_number(backend: IoBackend, adopted: Sockets) -> None:
    for turn in range(300):
        ours, theirs = adopted.pair()
        op_id = submit(backend, Op.recv(ours.fileno(), 10))
        if turn % 2:
            theirs.send(b"%d" % turn)
            assert collect(backend, [op_id])[op_id].result == b"%d" % turn
        backend.close_fd(ours.detach())
        if not turn % 2:
            assert collect(backend, [op_id])[op_id].cancelled
        assert sees_end(theirs)
        adopted.close()


def test_two_sends_leave_in_order(backend: IoBackend, sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    filled = fill(ours)
    backend.push(1, Op.send(ours.fileno(), b"1" * 100_000, all=True))
    backend.flush()
    backend.push(2, Op.send(ours.fileno(), b"2" * 100_000, all=True))
    backend.push(3, Op.send(ours.fileno(), b"3"))
    backend.flush()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(read_all(theirs, filled + 200_001)))
    reader.start()
    collect(backend, [1, 2, 3])
    reader.join()
    assert got[0][filled:] == b"1" * 100_000 + b"2" * 100_000 + b"3"


def test_a_half_closed_peer_is_sent_to_without_spinning(
    backend: IoBackend, adopted: Sockets
) -> None:
    """io_uring adds POLLRDHUP to every poll: a half-closed peer looks writable for ever."""
    ours, theirs = adopted.pair()
    theirs.shutdown(socket.SHUT_WR)
    filled = fill(ours)
    send = submit(backend, Op.send(ours.fileno(), b"at last"))
    poll = submit(backend, Op.poll(ours.fileno(), writable=True))
    before = backend.stats().syscalls
    assert backend.wait_timeout(0.2) == []
    assert backend.stats().syscalls - before < 50
    received = bytearray()
    theirs.settimeout(20)
    while len(received) < filled:
        received += theirs.recv(65536)
    found = collect(backend, [send, poll])
    assert found[send].result == len(b"at last")
    assert read_all(theirs, 7) == b"at last"


def test_cancel_and_close_of_a_send_to_a_half_closed_peer(
    backend: IoBackend, adopted: Sockets
) -> None:
    ours, theirs = adopted.pair()
    theirs.shutdown(socket.SHUT_WR)
    fill(ours)
    first = submit(backend, Op.send(ours.fileno(), b"x"))
    backend.cancel(first)
    assert collect(backend, [first])[first].cancelled
    second = submit(backend, Op.send(ours.fileno(), b"x"))
    third = submit(backend, Op.poll(ours.fileno(), writable=True))
    backend.close_fd(ours.detach())
    assert all(done.cancelled for done in collect(backend, [second, third]).values())
    assert is_idle(backend)
