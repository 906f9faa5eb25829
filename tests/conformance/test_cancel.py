"""Cancelling: what was queued never happened, what was submitted ends exactly once."""

from __future__ import annotations

import random
import socket

import pytest

from trio_lio.backends import ContractError, IoBackend, Op

from ..common import fill, pattern
from .support import Sockets, collect, is_idle, new_id, read_all, submit


def test_a_queued_operation_never_happened(backend: IoBackend, sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    backend.push(1, Op.send(ours.fileno(), b"never"))
    assert backend.cancel(1) is True
    assert is_idle(backend)
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(10)


def test_an_id_is_free_after_it_was_taken_back(backend: IoBackend) -> None:
    for _ in range(1000):
        backend.push(1, Op.nop())
        assert backend.cancel(1) is True
    backend.push(1, Op.nop())
    assert collect(backend, [1])[1].result == 0


def test_cancelling_one_of_many_leaves_the_others(backend: IoBackend) -> None:
    for op_id in range(30):
        backend.push(op_id, Op.nop())
    for op_id in range(0, 30, 3):
        assert backend.cancel(op_id) is True
    assert sorted(collect(backend, [i for i in range(30) if i % 3])) == [
        i for i in range(30) if i % 3
    ]


@pytest.mark.parametrize("kind", ["recv", "recvfrom", "recvmsg", "poll", "accept", "timeout"])
def test_an_operation_in_flight_ends_once(
    backend: IoBackend, sockets: Sockets, kind: str
) -> None:
    ours, _theirs = sockets.pair()
    listener = sockets.listener()
    op = {
        "recv": lambda: Op.recv(ours.fileno(), 10),
        "recvfrom": lambda: Op.recvfrom(ours.fileno(), 10),
        "recvmsg": lambda: Op.recvmsg(ours.fileno(), 10, 100),
        "poll": lambda: Op.poll(ours.fileno(), readable=True),
        "accept": lambda: Op.accept(listener.fileno()),
        "timeout": lambda: Op.timeout(1000),
    }[kind]()
    op_id = submit(backend, op)
    assert backend.cancel(op_id) is False
    assert backend.cancel(op_id) is False  # asking twice changes nothing
    assert collect(backend, [op_id])[op_id].cancelled
    assert is_idle(backend)


def test_cancel_after_the_completion_is_told(backend: IoBackend) -> None:
    backend.push(1, Op.nop())
    collect(backend, [1])
    with pytest.raises(ContractError, match="no operation"):
        backend.cancel(1)


def test_cancel_of_what_completed_and_was_not_handed_out(
    backend: IoBackend, sockets: Sockets
) -> None:
    """It has its result already, and the result counts."""
    ours, theirs = sockets.pair()
    op_id = submit(backend, Op.recv(ours.fileno(), 10))
    theirs.send(b"won")
    backend.cancel(op_id)
    done = collect(backend, [op_id])[op_id]
    if done.cancelled:  # then it took nothing
        ours.setblocking(False)
        assert ours.recv(10) == b"won"
    else:
        assert done.result == b"won"


def test_receive_loses_no_byte_on_cancel(backend: IoBackend, adopted: Sockets) -> None:
    ours, theirs = adopted.tcp_pair()
    chooses = random.Random(5)
    sent, received = bytearray(), bytearray()
    pending: int | None = None
    for turn in range(3000):
        if pending is None:
            pending = new_id()
            backend.push(pending, Op.recv(ours.fileno(), 7))
        step = chooses.randrange(4)
        if step == 0:
            theirs.send(turn.to_bytes(4, "big"))
            sent += turn.to_bytes(4, "big")
        elif step == 1:
            backend.flush()
        elif step == 2:
            if backend.cancel(pending):
                pending = None
        else:
            for done in backend.wait_timeout(0):
                assert done.op_id == pending
                pending = None
                if not done.cancelled:
                    received += done.unwrap()
    if pending is not None and not backend.cancel(pending):
        done = collect(backend, [pending])[pending]
        if not done.cancelled:
            received += done.unwrap()
    rest = len(sent) - len(received)
    received += read_all(ours, rest)
    assert received == sent


def test_cancelled_accept_that_won_hands_over_its_socket(
    backend: IoBackend, sockets: Sockets
) -> None:
    listener = sockets.listener()
    for turn in range(300):
        op_id = submit(backend, Op.accept(listener.fileno()))
        with socket.create_connection(listener.getsockname()) as client:
            if turn % 2:
                backend.wait_ready(5)
            backend.cancel(op_id)
            done = collect(backend, [op_id])[op_id]
            if done.cancelled:
                accepted, _ = listener.accept() if listener.getblocking() else _take(listener)
            else:
                accepted = socket.socket(fileno=done.result[0])
            client.send(b"hi")
            with accepted:
                assert read_all(accepted, 2) == b"hi"


def _take(listener: socket.socket) -> tuple[socket.socket, object]:
    listener.settimeout(20)
    try:
        return listener.accept()
    finally:
        listener.setblocking(False)


def test_a_send_of_all_that_is_cancelled_tells_how_much_went(
    backend: IoBackend, adopted: Sockets
) -> None:
    ours, theirs = adopted.tcp_pair()
    data = pattern(32 << 20)
    op_id = submit(backend, Op.send(ours.fileno(), data, all=True))
    assert backend.cancel(op_id) is False
    done = collect(backend, [op_id])[op_id]
    went = 0 if done.cancelled else done.unwrap()
    assert 0 < went < len(data)
    ours.shutdown(socket.SHUT_WR)
    assert read_all(theirs, went) == data[:went]
    assert theirs.recv(1) == b""


def test_cancel_never_fails_for_want_of_room(backend: IoBackend, adopted: Sockets) -> None:
    """More cancels than the submission queue has entries, and a flush between."""
    backend.grow(2000)
    ours, _theirs = adopted.pair()
    ids = [new_id() for _ in range(1500)]
    for op_id in ids:
        backend.push(op_id, Op.poll(ours.fileno(), readable=True))
    backend.flush()
    for op_id in ids:
        assert backend.cancel(op_id) is False
    found = collect(backend, ids)
    assert all(done.cancelled for done in found.values())
    assert is_idle(backend)


def test_a_send_at_the_gate_is_taken_back(backend: IoBackend, adopted: Sockets) -> None:
    ours, theirs = adopted.pair()
    filled = fill(ours)
    first = submit(backend, Op.send(ours.fileno(), b"first"))
    backend.push(2, Op.send(ours.fileno(), b"second"))
    backend.push(3, Op.send(ours.fileno(), b"third"))
    backend.flush()
    if backend.cancel(2) is False:
        assert collect(backend, [2])[2].cancelled
    read_all(theirs, filled)
    collect(backend, [first, 3])
    assert read_all(theirs, 10) == b"firstthird"
