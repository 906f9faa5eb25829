"""Capacity: what does not fit is refused, and nothing in flight is touched by it."""

from __future__ import annotations

import pytest

from trio_lio.backends import ContractError, Full, IoBackend, Op

from ..common import pattern
from .conftest import Factory
from .support import Sockets, collect, is_idle, submit


@pytest.mark.parametrize("capacity", [1, 2, 300])
def test_full(make_backend: Factory, capacity: int) -> None:
    backend = make_backend(capacity)
    for op_id in range(capacity):
        backend.push(op_id, Op.timeout(1000))
    with pytest.raises(Full):
        backend.push(capacity, Op.nop())
    backend.flush()
    with pytest.raises(Full):
        backend.push(capacity, Op.nop())
    assert backend.stats().in_flight == capacity


def test_room_comes_with_a_completion_and_with_a_cancel(make_backend: Factory) -> None:
    backend = make_backend(1)
    for op_id in range(100):
        backend.push(op_id, Op.nop())
        collect(backend, [op_id])
        backend.push(op_id, Op.nop())
        assert backend.cancel(op_id) is True


def test_grow_with_operations_in_flight(make_backend: Factory) -> None:
    backend = make_backend(2)
    sockets = Sockets(backend, adopts=True)
    try:
        pairs = [sockets.pair() for _ in range(40)]
        ids = [submit(backend, Op.recv(ours.fileno(), 100)) for ours, _ in pairs[:2]]
        with pytest.raises(Full):
            backend.push(5, Op.nop())
        backend.grow(38)
        assert backend.stats().capacity == 40
        ids += [submit(backend, Op.recv(ours.fileno(), 100)) for ours, _ in pairs[2:]]
        for at, (_, theirs) in enumerate(pairs):
            theirs.send(pattern(50, at))
        found = collect(backend, ids)
        assert [found[op_id].result for op_id in ids] == [pattern(50, at) for at in range(40)]
    finally:
        sockets.close()


def test_an_id_in_flight_is_refused(backend: IoBackend) -> None:
    op_id = submit(backend, Op.timeout(1000))
    with pytest.raises(ContractError, match="id is in flight"):
        backend.push(op_id, Op.nop())
    assert backend.cancel(op_id) is False
    assert collect(backend, [op_id])[op_id].cancelled


def test_an_id_that_is_done_and_not_handed_out_is_refused(backend: IoBackend) -> None:
    backend.push(1, Op.nop())
    backend.flush()
    with pytest.raises(ContractError, match="id is in flight"):
        backend.push(1, Op.nop())
    collect(backend, [1])


def test_submission_queue_smaller_than_operations(make_backend: Factory) -> None:
    backend = make_backend(5000)
    for op_id in range(5000):
        backend.push(op_id, Op.nop())
    assert backend.flush() == 5000
    assert len(collect(backend, range(5000))) == 5000
    assert backend.stats().largest_batch == 5000


def test_completion_queue_overflow_loses_nothing(make_backend: Factory) -> None:
    backend = make_backend(20_000)
    for op_id in range(20_000):
        backend.push(op_id, Op.nop())
        if op_id % 1000 == 999:
            backend.flush()
    assert len(collect(backend, range(20_000))) == 20_000
    assert is_idle(backend)


def test_ids_may_be_anything_below_two_to_the_63(backend: IoBackend) -> None:
    ids = [0, 1, 2**31, 2**32, 2**32 + 1, 2**63 - 1, 64, 128, 192, 256]
    for op_id in ids:
        backend.push(op_id, Op.nop())
    assert sorted(collect(backend, ids)) == sorted(ids)
