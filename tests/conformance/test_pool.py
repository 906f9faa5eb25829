"""Memory for receives: enough, each its own, and none for those that wait."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import pytest

from trio_lio.backends import Op

from ..common import pattern
from .support import POOL_MAX, Sockets, collect, is_idle, new_id, run, submit

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from .conftest import Factory


def resident() -> int:
    """Bytes of memory that this process uses."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("receive", ["recv", "recvfrom", "recvmsg"])
def test_idle_receives_hold_no_memory(make_backend: Factory, receive: str) -> None:
    """Ten thousand receives of 64 KiB that wait: 640 MB if each had its buffer."""
    count = 10_000
    backend = make_backend(count)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        make = {"recv": Op.recv, "recvfrom": Op.recvfrom, "recvmsg": Op.recvmsg}[receive]
        op = make(ours.fileno(), POOL_MAX)
        before = resident()
        for op_id in range(count):
            backend.push(op_id, op)
        assert backend.wait_timeout(0) == []
        used = resident() - before
        assert used < count * 4096, f"{used // count} bytes for each"
        theirs.send(b"x" * 100)
        [done] = backend.wait_timeout(10)
        assert done.error is None
        backend.close()


def test_an_idle_large_receive_touches_no_pages(make_backend: Factory) -> None:
    """Larger than a buffer of the pool: its own memory, which is none until data comes."""
    backend = make_backend(200)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        before = resident()
        for op_id in range(200):
            backend.push(op_id, Op.recv(ours.fileno(), 2_000_000))
        assert backend.wait_timeout(0) == []
        assert resident() - before < 40_000_000
        backend.close()


def test_more_receives_than_pool_buffers(make_backend: Factory) -> None:
    count = 400
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * count + 200:
        pytest.skip(f"no more than {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * count + 200), hard))
    backend = make_backend(count)
    sockets = Sockets(backend, adopts=True)
    try:
        pairs = [sockets.pair() for _ in range(count)]
        for turn in range(3):
            size = (POOL_MAX, 1000, 50_000)[turn]
            ids = [new_id() for _ in pairs]
            for op_id, (ours, _) in zip(ids, pairs, strict=True):
                backend.push(op_id, Op.recv(ours.fileno(), POOL_MAX))
            backend.flush()
            for at, (_, theirs) in enumerate(pairs):
                assert theirs.send(pattern(size, at)) == size
            done = collect(backend, ids)
            for at, op_id in enumerate(ids):
                assert done[op_id].result == pattern(size, at)
        assert is_idle(backend)
    finally:
        sockets.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_messages_than_places_for_addresses(make_backend: Factory) -> None:
    """Accepts and datagrams bring addresses, more at once than there is room for."""
    backend = make_backend(1500)
    sockets = Sockets(backend, adopts=True)
    try:
        receiver = sockets.new(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        receiver.bind(("127.0.0.1", 0))
        sender = sockets.new(socket.AF_INET, socket.SOCK_DGRAM)
        sender.bind(("127.0.0.1", 0))
        got: list[bytes] = []
        sent = 0
        while sent < 1500:
            # As many as the socket's buffer is certain to hold; all receives wait before.
            count = 150
            ids = [new_id() for _ in range(count)]
            for op_id in ids:
                backend.push(op_id, Op.recvfrom(receiver.fileno(), 100))
            backend.flush()
            for number in range(sent, sent + count):
                sender.sendto(b"%d" % number, receiver.getsockname())
            sent += count
            for done in collect(backend, ids).values():
                data, address = done.unwrap()
                assert address == sender.getsockname()
                got.append(data)
        assert sorted(map(int, got)) == list(range(1500))
    finally:
        sockets.close()


def test_records_of_one_wait_do_not_share_memory(make_backend: Factory) -> None:
    backend = make_backend(64)
    sockets = Sockets(backend, adopts=False)
    try:
        pairs = [sockets.pair() for _ in range(60)]
        for at, (ours, theirs) in enumerate(pairs):
            theirs.send(pattern(10_000, at))
            backend.push(at, Op.recvmsg(ours.fileno(), 10_000, 100))
        done = collect(backend, range(60))
        assert [done[at].result[0] for at in range(60)] == [
            pattern(10_000, at) for at in range(60)
        ]
    finally:
        sockets.close()


def test_a_record_outlives_the_next_wait(sockets: Sockets) -> None:
    """In Python a result is the caller's for good."""
    ours, theirs = sockets.pair()
    theirs.send(b"a" * 1000)
    first = run(sockets.backend, Op.recv(ours.fileno(), 1000))
    for _ in range(100):
        theirs.send(b"b" * 1000)
        run(sockets.backend, Op.recv(ours.fileno(), 1000))
    assert first == b"a" * 1000


def test_stale_memory_does_not_show(sockets: Sockets) -> None:
    """MSG_TRUNC on a stream throws data away: the result must not be somebody else's."""
    ours, theirs = sockets.tcp_pair()
    other, peer = sockets.pair()
    for _ in range(100):
        peer.send(b"secret" * 100)
        run(sockets.backend, Op.recv(other.fileno(), 1000))
    theirs.send(b"x" * 600)
    op_id = submit(sockets.backend, Op.timeout(0.01))
    collect(sockets.backend, [op_id])
    discarded = run(sockets.backend, Op.recv(ours.fileno(), 1000, socket.MSG_TRUNC))
    assert b"secret" not in discarded


def test_cancelled_receives_give_their_buffers_back(sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    for turn in range(1000):
        op_id = new_id()
        sockets.backend.push(op_id, Op.recv(ours.fileno(), 1000))
        sockets.backend.flush()
        if turn % 3 == 0:
            theirs.send(b"x")
        sockets.backend.cancel(op_id)
        done = collect(sockets.backend, [op_id])[op_id]
        if turn % 3 == 0 and done.cancelled:
            assert run(sockets.backend, Op.recv(ours.fileno(), 10)) == b"x"
    assert is_idle(sockets.backend)
