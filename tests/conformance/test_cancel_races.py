"""Cancelling each kind of operation at each moment, many times over."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from trio_lio.backends import Op

from ..common import fill, handle_of, pattern
from .support import (
    PATIENCE,
    Sockets,
    close_socket,
    collect,
    complete,
    is_idle,
    new_id,
    read_all,
    run,
    submit,
)

if TYPE_CHECKING:
    from pathlib import Path

    from trio_lio.backends import IoBackend

    from .conftest import Factory


def in_flight_operations(sockets: Sockets) -> dict[str, Op]:
    full = [sockets.pair()[0] for _ in range(4)]
    for sock in full:
        fill(sock)
    read_end, write_end = sockets.pair()
    server = sockets.listener()
    udp = sockets.new(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    return {
        "timeout": Op.timeout(3600),
        "recv": Op.recv(read_end.fileno(), 10),
        "large recv": Op.recv(read_end.fileno(), 1_000_000),
        "recv_into": Op.recv_into(write_end.fileno(), bytearray(10)),
        "recvfrom": Op.recvfrom(udp.fileno(), 10),
        "recvmsg": Op.recvmsg(udp.fileno(), 10, 100),
        "send": Op.send(full[0].fileno(), b"x"),
        "send all": Op.send(full[1].fileno(), b"x", all=True),
        "sendmsg": Op.sendmsg(full[2].fileno(), [b"x"]),
        "accept": Op.accept(server.fileno()),
        "poll read": Op.poll(udp.fileno(), readable=True),
        "poll write": Op.poll(full[3].fileno(), writable=True),
    }


def test_in_flight_ends_with_ecanceled(sockets: Sockets) -> None:
    ops = in_flight_operations(sockets)
    ids = {name: submit(sockets.backend, op) for name, op in ops.items()}
    for op_id in ids.values():
        assert sockets.backend.cancel(op_id) is False
    done = collect(sockets.backend, ids.values())
    assert {name for name, op_id in ids.items() if not done[op_id].cancelled} == set()
    assert is_idle(sockets.backend)


def test_cancelled_nop_and_file_read(backend: IoBackend, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    fd = os.open(path, os.O_RDONLY)
    for op, expected in ((Op.nop(), 0), (Op.read_at(handle_of(fd), 10, 0), b"content")):
        op_id = new_id()
        backend.push(op_id, op)
        backend.flush()
        assert backend.cancel(op_id) is False
        done = collect(backend, [op_id])[op_id]
        assert done.cancelled or done.result == expected
    os.close(fd)


def test_cancel_empty_pipe_read(backend: IoBackend) -> None:
    read_end, write_end = os.pipe()
    buffer = bytearray(10)
    ids = [submit(backend, Op.read(read_end, 10)), submit(backend, Op.read(read_end, buffer))]
    for op_id in ids:
        assert backend.cancel(op_id) is False
    assert all(done.cancelled for done in collect(backend, ids).values())
    os.write(write_end, b"later")
    assert os.read(read_end, 10) == b"later"
    buffer.append(0)
    os.close(read_end)
    os.close(write_end)


def test_cancelled_send_left_nothing(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    before = fill(ours)
    op_id = submit(sockets.backend, Op.send(ours.fileno(), b"never"))
    assert sockets.backend.cancel(op_id) is False
    assert collect(sockets.backend, [op_id])[op_id].cancelled
    read_all(theirs, before)
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


def test_cancel_of_what_is_done_keeps_its_result(sockets: Sockets) -> None:
    """Done with the kernel, not collected: the result comes, or nothing happened."""
    ours, theirs = sockets.pair()
    for turn in range(20):
        op_id = submit(sockets.backend, Op.recv(ours.fileno(), 10))
        theirs.send(b"%d" % turn)
        assert sockets.backend.cancel(op_id) is False
        done = collect(sockets.backend, [op_id])[op_id]
        if done.cancelled:
            assert run(sockets.backend, Op.recv(ours.fileno(), 10)) == b"%d" % turn
        else:
            assert done.result == b"%d" % turn


def test_an_accept_that_was_done_survives_its_cancellation(sockets: Sockets) -> None:
    """Somebody waits at the flush already: the connection is taken, and not lost."""
    server = sockets.listener()
    for _ in range(20):
        with socket.create_connection(server.getsockname()) as client:
            op_id = new_id()
            sockets.backend.push(op_id, Op.accept(server.fileno()))
            sockets.backend.flush()
            assert sockets.backend.cancel(op_id) is False
            done = collect(sockets.backend, [op_id])[op_id]
            if done.cancelled and sockets.backend.stats().queue_fulls:
                done = complete(sockets.backend, Op.accept(server.fileno()))
            fd, address = done.unwrap()
            close_socket(fd)
            assert address == client.getsockname()


def test_late_completion_does_not_reach_the_next_operation(sockets: Sockets) -> None:
    """Ids and slots are used again at once; each completion is its own operation's."""
    pairs = [sockets.pair() for _ in range(4)]
    rng = random.Random(3)
    for turn in range(150):
        for number, (ours, theirs) in enumerate(pairs):
            op_id = number
            tag = b"%d/%d" % (turn, number)
            sockets.backend.push(op_id, Op.recv(ours.fileno(), 100))
            if rng.random() < 0.5:
                sockets.backend.flush()
            if rng.random() < 0.5:
                theirs.send(tag)
                sent = True
            else:
                sent = False
            taken_back = sockets.backend.cancel(op_id)
            if not taken_back:
                done = collect(sockets.backend, [op_id])[op_id]
                if not done.cancelled:
                    assert sent
                    assert done.result == tag
                    continue
            if sent:
                assert ours.recv(100) == tag
    assert is_idle(sockets.backend)


def test_receive_into_a_buffer_loses_no_byte_on_cancel(
    sockets: Sockets, stream_kind: str
) -> None:
    """A writer in another thread against receives that are cancelled at any moment."""
    ours, theirs = sockets.stream_pair(stream_kind)
    data = pattern(120_000)
    theirs.settimeout(PATIENCE)
    rng = random.Random(7)

    def write() -> None:
        at = 0
        while at < len(data):
            at += theirs.send(data[at : at + rng.randrange(1, 400)])

    writer = threading.Thread(target=write)
    writer.start()
    got = bytearray()
    choose = random.Random(8)
    cancelled = completed = 0
    while len(got) < len(data):
        op_id = new_id()
        buffer = bytearray(300)
        into = choose.random() < 0.5
        sockets.backend.push(
            op_id,
            Op.recv_into(ours.fileno(), buffer) if into else Op.recv(ours.fileno(), 300),
        )
        sockets.backend.flush()
        found = []
        for _ in range(choose.randrange(3)):
            found = found or sockets.backend.wait_timeout(0)
        if not found:
            if choose.random() < 0.8:
                assert sockets.backend.cancel(op_id) is False
            found = list(collect(sockets.backend, [op_id]).values())
        [done] = found
        assert done.op_id == op_id
        if done.cancelled:
            cancelled += 1
            assert buffer == bytes(300)
            continue
        completed += 1
        result = done.unwrap()
        got += buffer[:result] if into else result
    writer.join()
    assert got == data
    assert completed
    assert is_idle(sockets.backend)


def test_thousands_of_cancellations_at_once(make_backend: Factory) -> None:
    """More cancellations at once than any queue has entries, with the store full."""
    backend = make_backend(3000)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    ids = [new_id() for _ in range(3000)]
    for op_id in ids:
        backend.push(op_id, Op.recv(ours.fileno(), 10))
    backend.flush()
    assert backend.wait_timeout(0) == []
    for op_id in ids:
        assert backend.cancel(op_id) is False
    assert all(done.cancelled for done in collect(backend, ids).values())
    ours.close()
    theirs.close()


def test_cancelled_tcp_connect_is_settled(sockets: Sockets) -> None:
    """To a listener with little room. What is connected can be told from what is not: it is
    accepted, with what it sends, and nothing else is."""
    server = socket.create_server(("127.0.0.1", 0), backlog=2)
    sockets.keep(server)
    clients = [sockets.new() for _ in range(12)]
    ids = [new_id() for _ in clients]
    for op_id, client in zip(ids, clients, strict=True):
        sockets.backend.push(op_id, Op.connect(client.fileno(), server.getsockname()))
    sockets.backend.flush()
    found = {done.op_id: done for done in sockets.backend.wait_timeout(0)}
    for op_id in set(ids) - found.keys():
        assert sockets.backend.cancel(op_id) is False
    found |= collect(sockets.backend, set(ids) - found.keys())
    connected = set()
    for number, (op_id, client) in enumerate(zip(ids, clients, strict=True)):
        if found[op_id].error is None:
            client.send(bytes([number]))
            connected.add(number)
        else:
            assert found[op_id].cancelled
            sockets.close(only=client)
    assert connected
    accepted = set()
    while len(accepted) < len(connected):
        peer = run(sockets.backend, Op.accept(server.fileno()))[0]
        with socket.socket(fileno=peer) as taken, contextlib.suppress(ConnectionResetError):
            taken.settimeout(PATIENCE)
            accepted.update(taken.recv(10))
    assert accepted == connected
    assert is_idle(sockets.backend)


def test_cancelled_connect_is_settled(sockets: Sockets, tmp_path: Path) -> None:
    """To a listener with no room. Connected, refused or cancelled: each exactly once."""
    name = str(tmp_path / "server")
    server = socket.socket(socket.AF_UNIX)
    server.bind(name)
    server.listen(0)
    sockets.keep(server)
    clients = [sockets.new(socket.AF_UNIX) for _ in range(4)]
    ids = [new_id() for _ in clients]
    for op_id, client in zip(ids, clients, strict=True):
        sockets.backend.push(op_id, Op.connect(client.fileno(), name))
    sockets.backend.flush()
    found = {done.op_id: done for done in sockets.backend.wait_timeout(0)}
    for op_id in set(ids) - found.keys():
        assert sockets.backend.cancel(op_id) is False
    found |= collect(sockets.backend, set(ids) - found.keys())
    connected = 0
    for op_id in ids:
        error = found[op_id].error
        assert error is None or found[op_id].cancelled or isinstance(error, BlockingIOError)
        connected += error is None
    for _ in range(connected):
        server.accept()[0].close()
    with pytest.raises(BlockingIOError):
        server.accept()
    assert is_idle(sockets.backend)
