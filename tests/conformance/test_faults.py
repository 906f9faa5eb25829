"""Faults laid over a backend: each kind happens, is counted, and breaks no promise."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from trio_lio.backends import SIGNAL, Faults, IoBackend, Op, Sim, probe

from ..common import fill, handle_of, pattern, sees_end, socketpair
from .support import (
    UNDER_FAULTS,
    Sockets,
    close_socket,
    collect,
    complete,
    errno_of,
    new_id,
    read_all,
    run,
    submit,
)

NONE = Faults(
    short_io=0, reset=0, delay=0, cancel_race=0, interrupt=0, overflow=0, queue_full=0
)

Maker = Callable[..., IoBackend]


@pytest.fixture(params=UNDER_FAULTS, ids=lambda kind: kind.backend_name)
def faulty(request: pytest.FixtureRequest) -> Iterator[Maker]:
    info = probe(request.param.backend_name)
    if not info.available:
        pytest.skip(f"{info.name}: {info.reason}")
    made: list[IoBackend] = []

    def make(**chances: float) -> IoBackend:
        faults = attrs.evolve(NONE, **{"seed": 5, **chances})  # type: ignore[arg-type]
        backend = request.param(faults=faults)
        made.append(backend)
        backend.init(64)
        return backend

    yield make
    for backend in made:
        backend.close()


# -- arguments -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"short_io": 1.5}, ValueError),
        ({"reset": -0.1}, ValueError),
        ({"delay": float("nan")}, ValueError),
        ({"interrupt": 1}, ValueError),
        ({"latency": float("inf")}, ValueError),
        ({"latency": -1}, ValueError),
        ({"seed": -1}, ValueError),
        ({"seed": 2**64}, ValueError),
        ({"seed": "7"}, TypeError),
        ({"cancel_race": "often"}, TypeError),
        ({"overflow": True}, TypeError),
        ({"queue_full": 2}, ValueError),
    ],
)
def test_bad_arguments(bad: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(bad))):
        Faults(**bad)  # type: ignore[arg-type]


def test_none_of_them_changes_nothing(faulty: Maker) -> None:
    backend = faulty()
    with_pair(backend)
    stats = backend.stats()
    assert stats.short_ios == stats.resets == stats.delays == stats.interrupts == 0


def with_pair(backend: IoBackend, size: int = 5000) -> None:
    left, right = socketpair()
    with left, right:
        for sock in left, right:
            sock.setblocking(False)
        assert run(backend, Op.send(left.fileno(), pattern(size), all=True)) == size
        received = b""
        while len(received) < size:
            received += run(backend, Op.recv(right.fileno(), size))
        assert received == pattern(size)


# -- short transfers -------------------------------------------------------------------


def test_short_receives_and_sends(faulty: Maker) -> None:
    backend = faulty(short_io=1)
    left, right = socketpair()
    with left, right:
        assert 0 < run(backend, Op.send(left.fileno(), pattern(5000))) < 5000
        right.setblocking(False)
        while select.select([right], [], [], 0)[0]:
            right.recv(5000)
        left.send(pattern(5000))
        received = b""
        while len(received) < 5000:
            asked = 5000 - len(received)
            part = run(backend, Op.recv(right.fileno(), asked))
            assert 0 < len(part) <= max(1, asked - 1)
            received += part
        assert received == pattern(5000)
    assert backend.stats().short_ios > 2


def test_short_messages(faulty: Maker) -> None:
    backend = faulty(short_io=1)
    left, right = socketpair()
    with left, right:
        left.send(bytes(1000))
        assert 0 < len(run(backend, Op.recvmsg(right.fileno(), 1000))[0]) < 1000
        assert 0 < run(backend, Op.sendmsg(left.fileno(), [b"ab", b"cd"])) < 4


def test_short_reads_and_writes(faulty: Maker, tmp_path: Path) -> None:
    backend = faulty(short_io=1)
    (tmp_path / "file").write_bytes(bytes(1000))
    opened = [*os.pipe(), os.open(tmp_path / "file", os.O_RDWR | getattr(os, "O_BINARY", 0))]
    reader, writer, file = map(handle_of, opened)
    assert 0 < (written := run(backend, Op.write(writer, bytes(1000)))) < 1000
    assert 0 < len(run(backend, Op.read(reader, written))) <= max(1, written - 1)
    assert 0 < run(backend, Op.write_at(file, bytes(1000), 0)) < 1000
    assert 0 < len(run(backend, Op.read_at(file, 1000, 0))) < 1000
    assert run(backend, Op.writev_at(file, [b"ab", b"cd"], 0)) == 2
    for fd in opened:
        os.close(fd)


def test_what_asks_for_all_gets_all(faulty: Maker) -> None:
    backend = faulty(short_io=1)
    left, right = socketpair()
    with left, right:
        assert run(backend, Op.send(left.fileno(), bytes(5000), all=True)) == 5000
        waits_for_all = Op.recv(right.fileno(), 5000, socket.MSG_WAITALL)
        assert len(run(backend, waits_for_all)) == 5000


@pytest.mark.parametrize("adopts", [False, True], ids=["foreign", "adopted"])
def test_a_send_of_all_goes_out_in_parts(faulty: Maker, stream_kind: str, adopts: bool) -> None:
    """Nothing comes between the parts, neither the next send nor a byte too many."""
    backend = faulty(short_io=1, delay=0.3)
    sockets = Sockets(backend, adopts)
    ours, theirs = sockets.stream_pair(stream_kind)
    ids = [new_id() for _ in range(4)]
    sent = [pattern(5000, op_id) for op_id in ids]
    for op_id, data in zip(ids, sent, strict=True):
        backend.push(op_id, Op.send(ours.fileno(), data, all=True))
    done = collect(backend, ids)
    assert [done[op_id].result for op_id in ids] == [5000] * 4
    stats = backend.stats()
    assert stats.short_ios >= 4
    assert stats.flushed > stats.pushed or backend.name != "iocp"  # counts its parts
    assert read_all(theirs, 20_000) == b"".join(sent)
    sockets.close()


def test_a_send_in_parts_that_is_cancelled(faulty: Maker) -> None:
    """What it says that it sent is what the peer has."""
    backend = faulty(short_io=1)
    counts = set()
    for _ in range(40):
        left, right = socketpair()
        with left, right:
            op_id = new_id()
            backend.push(op_id, Op.send(left.fileno(), pattern(5000), all=True))
            backend.flush()
            assert backend.cancel(op_id) is False
            done = collect(backend, [op_id])[op_id]
            assert done.cancelled or done.error is None
            counts.add(count := done.result or 0)
            left.shutdown(socket.SHUT_WR)
            assert read_all(right, count) == pattern(5000)[:count]
            assert sees_end(right)
    # A flush of these goes on as long as anything can.
    assert counts - {0, 5000} or backend.name in ("sim", "iocp")


def message_pair(kind: str) -> tuple[socket.socket, socket.socket]:
    if kind != "udp":
        if not hasattr(socket, "AF_UNIX"):
            pytest.skip("no sockets of the local family here")
        return socket.socketpair(socket.AF_UNIX, getattr(socket, f"SOCK_{kind}"))
    pair = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for sock in pair:
        sock.bind(("127.0.0.1", 0))
    pair[0].connect(pair[1].getsockname())
    return pair[0], pair[1]


@pytest.mark.parametrize("kind", ["udp", "DGRAM", "SEQPACKET"])
def test_datagrams_are_never_cut(faulty: Maker, kind: str) -> None:
    left, right = message_pair(kind)
    backend = faulty(short_io=1, reset=0 if kind == "SEQPACKET" else 1)
    with left, right:
        for size in 2, 100, 30_000:
            assert run(backend, Op.send(left.fileno(), pattern(size))) == size
            assert run(backend, Op.recv(right.fileno(), 40_000)) == pattern(size)
    assert backend.stats().short_ios == backend.stats().resets == 0


def test_numbers_of_an_eventfd_are_not_cut(faulty: Maker) -> None:
    if not hasattr(os, "eventfd"):
        pytest.skip("this Python has no os.eventfd (before 3.10, or not on Linux)")
    backend = faulty(short_io=1)
    fd = os.eventfd(3, os.EFD_NONBLOCK)
    assert int.from_bytes(run(backend, Op.read(fd, 8)), "little") == 3
    os.close(fd)


# -- resets ----------------------------------------------------------------------------


@pytest.mark.parametrize("adopts", [False, True], ids=["foreign", "adopted"])
def test_a_reset_connection_is_dead(faulty: Maker, stream_kind: str, adopts: bool) -> None:
    backend = faulty(reset=1)
    sockets = Sockets(backend, adopts)
    ours, theirs = sockets.stream_pair(stream_kind)
    assert errno_of(backend, Op.send(ours.fileno(), b"x")) == "ECONNRESET"
    if sys.platform == "win32":  # Winsock says so every time, and the peer sees the end
        assert errno_of(backend, Op.send(ours.fileno(), b"x")) == "ECONNRESET"
        assert errno_of(backend, Op.recv(ours.fileno(), 10)) == "ECONNRESET"
        assert backend.stats().resets == 1
        assert sees_end(theirs)
        sockets.close()
        return
    assert errno_of(backend, Op.send(ours.fileno(), b"x")) == "EPIPE"
    assert run(backend, Op.recv(ours.fileno(), 10)) == b""
    assert backend.stats().resets == 1
    if stream_kind == "tcp":
        with pytest.raises(ConnectionResetError):
            theirs.recv(10)
    assert theirs.recv(10) == b""
    with pytest.raises(BrokenPipeError):
        theirs.send(b"x")
    sockets.close()


def test_a_waiting_receive_learns_of_the_reset(faulty: Maker, stream_kind: str) -> None:
    backend = faulty(reset=0.5, seed=reset_at_second())
    sockets = Sockets(backend, adopts=True)
    ours, _theirs = sockets.stream_pair(stream_kind)
    receiving = submit(backend, Op.recv(ours.fileno(), 10))
    sending = new_id()
    backend.push(sending, Op.send(ours.fileno(), b"x"))
    done = collect(backend, [receiving, sending])
    assert backend.stats().resets == 1
    codes = [done[sending].error, done[receiving].error]
    told = [error for error in codes if error is not None and error.errno == errno.ECONNRESET]
    assert len(told) == (2 if sys.platform == "win32" else 1)
    assert done[sending].error is not None
    assert done[receiving].error is not None or done[receiving].result == b""
    sockets.close()


@pytest.mark.parametrize("waits_for", ["room", "readiness"])
def test_whoever_waits_otherwise_learns_of_the_reset(faulty: Maker, waits_for: str) -> None:
    backend = faulty(reset=0.5, seed=reset_at_second())
    sockets = Sockets(backend, adopts=True)
    ours, _theirs = sockets.stream_pair("tcp")
    if waits_for == "room":
        fill(ours)
        waiting = submit(backend, Op.send(ours.fileno(), b"y"))
    else:
        complete(backend, Op.send(ours.fileno(), b"x"))
        waiting = submit(backend, Op.poll(ours.fileno(), readable=True))
    breaking = new_id()
    backend.push(breaking, Op.recv(ours.fileno(), 10))
    done = collect(backend, [waiting, breaking])
    assert backend.stats().resets == 1
    assert (done[waiting].error is not None) == (waits_for == "room")
    sockets.close()


def reset_at_second() -> int:
    """A seed by which the first operation of two goes well."""
    for seed in range(100):
        with UNDER_FAULTS[-1](faults=attrs.evolve(NONE, seed=seed, reset=0.5)) as backend:
            backend.init(4)
            left, right = socketpair()
            with left, right:
                complete(backend, Op.send(left.fileno(), b"x"))
                first = backend.stats().resets
                complete(backend, Op.send(left.fileno(), b"x"))
                if (first, backend.stats().resets) == (0, 1):
                    return seed
    raise AssertionError("no such seed")


def test_what_had_arrived_is_still_read(faulty: Maker) -> None:
    backend = faulty(reset=1)
    left, right = socketpair()
    with left, right:
        left.send(b"before")
        assert run(backend, Op.recv(right.fileno(), 10)) == b"before"
        assert errno_of(backend, Op.recv(right.fileno(), 10)) == "ECONNRESET"
        assert run(backend, Op.recv(right.fileno(), 10)) == b""


def test_what_is_not_connected_is_not_reset(faulty: Maker) -> None:
    backend = faulty(reset=1)
    with socket.socket() as sock:
        assert errno_of(backend, Op.recv(sock.fileno(), 1)) == "ENOTCONN"
    assert backend.stats().resets == 0


def test_a_simulated_connection_is_reset() -> None:
    with Sim(faults=attrs.evolve(NONE, reset=1)) as sim:
        sim.init(4)
        ours, theirs = sim.socketpair()
        assert errno_of(sim, Op.send(ours, b"x")) == "ECONNRESET"
        assert errno_of(sim, Op.recv(theirs, 1)) == "ECONNRESET"
        assert sim.stats().resets == 1
        sim.close_fd(ours)
        sim.close_fd(theirs)


# -- order and time --------------------------------------------------------------------


def test_delayed_completions_come_in_another_order(faulty: Maker) -> None:
    backend = faulty(delay=0.5)
    ids = list(range(1, 41))
    for op_id in ids:
        backend.push(op_id, Op.nop())
    order: list[int] = []
    while len(order) < len(ids):
        order += [done.op_id for done in backend.wait_timeout(5)]
    assert sorted(order) == ids
    assert order != ids
    assert backend.stats().delays > 5


def test_data_of_a_delayed_completion_stays(faulty: Maker) -> None:
    """The backend uses its pool again and again meanwhile."""
    backend = faulty(delay=0.6)
    pairs = [socketpair() for _ in range(8)]
    expected: dict[int, bytes] = {}
    in_flight: dict[int, int] = {}
    next_id = 0
    for _ in range(60):
        for at, (left, right) in enumerate(pairs):
            if at in in_flight.values():
                continue
            data = pattern(3000, next_id)
            left.send(data)
            receive = Op.recvmsg if at % 2 else Op.recv
            backend.push(next_id, receive(right.fileno(), 4000))
            expected[next_id] = data
            in_flight[next_id] = at
            next_id += 1
        for done in backend.wait_timeout(0):
            at = in_flight.pop(done.op_id)
            data = done.result[0] if at % 2 else done.result
            assert data == expected.pop(done.op_id)
    assert backend.stats().delays > 30
    for left, right in pairs:
        left.close()
        right.close()


def test_no_wait_says_that_the_time_ran_out_while_something_is_held(faulty: Maker) -> None:
    """A clock that jumps when nothing happens must not jump then."""
    backend = faulty(delay=1)
    backend.push(1, Op.nop())
    original = IoBackend.wait_timeout
    seen = []
    while True:
        found = getattr(original, "__wrapped__", original)(backend, 0)
        assert found
        seen += [done.op_id for done in found]
        if 1 in seen:
            break
    assert backend.wait_timeout(0) == []


def test_errors_that_are_kept_back_are_the_same(faulty: Maker) -> None:
    backend = faulty(delay=1)
    with socket.socket() as sock:
        for _ in range(40):
            assert errno_of(backend, Op.recv(sock.fileno(), 1)) == "ENOTCONN"
    assert backend.stats().delays == 40


def test_latency_takes_time(faulty: Maker) -> None:
    backend = faulty(delay=1, latency=0.01)
    for op_id in range(20):
        backend.push(op_id, Op.nop())
    assert len(collect(backend, range(20))) == 20


def test_one_completion_at_a_time(faulty: Maker) -> None:
    backend = faulty(overflow=1)
    for op_id in range(10):
        backend.push(op_id, Op.nop())
    seen: list[int] = []
    while len(seen) < 10:
        found = backend.wait_timeout(5)
        assert len(found) == 1
        seen.append(found[0].op_id)
    assert sorted(seen) == list(range(10))
    assert backend.stats().overflows > 3


def test_interrupts(faulty: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the fixture that hides them
    backend = faulty(interrupt=0.5)
    seen = []
    backend.push(1, Op.timeout(60))
    for _ in range(20):
        seen += [done.op_id for done in backend.wait_timeout(0.0001)]
    assert set(seen) == {SIGNAL}
    # The end of an earlier test's ring interrupts too.
    assert 3 < backend.stats().interrupts <= len(seen)


# -- full queues -----------------------------------------------------------------------


def test_a_full_queue_takes_the_first_of_them(faulty: Maker) -> None:
    backend = faulty(queue_full=1)
    for op_id in range(40):
        backend.push(op_id, Op.nop())
    taken = backend.flush()
    assert 0 <= taken < 40
    assert backend.stats().queue_fulls == 1
    done = backend.wait_timeout(0)
    assert done
    assert {found.op_id for found in done} >= set(range(taken))
    rest = {*range(40)} - {found.op_id for found in done}
    assert collect(backend, rest).keys() == rest


def test_what_a_full_queue_did_not_take_goes_without_being_asked_for(faulty: Maker) -> None:
    """A wait does not sleep on it."""
    backend = faulty(queue_full=1)
    left, right = socketpair()
    with left, right:
        for number in range(20):
            left.send(b"x")
            op_id = new_id()
            backend.push(op_id, Op.recv(right.fileno(), 10))
            found = backend.wait_timeout(None)
            assert [(done.op_id, done.result) for done in found] == [(op_id, b"x")], number


def test_a_full_queue_keeps_the_order(faulty: Maker) -> None:
    backend = faulty(queue_full=1)
    left, right = socketpair()
    sent = [pattern(300, number) for number in range(60)]
    with left, right:
        for op_id, data in enumerate(sent):
            backend.push(op_id, Op.send(left.fileno(), data, all=True))
            if op_id % 7 == 0:
                backend.flush()
        collect(backend, range(60))
        assert read_all(right, 60 * 300) == b"".join(sent)
    assert backend.stats().queue_fulls > 3


def test_a_full_queue_lets_everything_through_in_the_end(faulty: Maker) -> None:
    """Also what has to go more than once: the rest of a short send, a receive of the pool."""
    backend = faulty(queue_full=1, short_io=1, cancel_race=1)
    size = 3_000_000
    left, right = socketpair()
    with left, right:
        sending, receiving = new_id(), new_id()
        backend.push(sending, Op.send(left.fileno(), pattern(size), all=True))
        backend.push(receiving, Op.recv(right.fileno(), 60_000))
        got = bytearray()
        sent = None
        while len(got) < size or sent is None:
            for done in backend.wait_timeout(10):
                if done.op_id == sending:
                    sent = done.result
                elif done.op_id == receiving:
                    got += done.result
                    receiving = new_id()
                    if len(got) < size:
                        backend.push(receiving, Op.recv(right.fileno(), 60_000))
        assert sent == size
        assert got == pattern(size)


@contextlib.contextmanager
def number_changes_hands(
    backend: IoBackend, *, adopts: bool
) -> Iterator[tuple[socket.socket, socket.socket, int]]:
    """A full queue has left a send behind, and its number is another socket's by then, which
    must get nothing. The sender, its peer, the send's id."""
    ours, theirs = socketpair()
    other, others_peer = socketpair()
    with ours, theirs, other, others_peer:
        ours.setblocking(False)
        if adopts:
            backend.adopt(ours.fileno())
        op_id = new_id()
        backend.push(op_id, Op.send(ours.fileno(), b"secret"))
        assert backend.flush() == 0
        os.dup2(other.fileno(), ours.fileno())
        yield ours, theirs, op_id
        others_peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            others_peer.recv(10)
        backend.release_fd(ours.fileno())


@pytest.mark.parametrize("adopts", [False, True], ids=["foreign", "adopted"])
def test_a_number_that_is_adopted_for_another(faulty: Maker, adopts: bool) -> None:
    """While the queue is full the file is closed, and its number is claimed for another."""
    backend = faulty(queue_full=1)
    with number_changes_hands(backend, adopts=adopts) as (ours, _, op_id):
        backend.adopt(ours.fileno())
        done = collect(backend, [op_id])[op_id]
        assert done.error is not None
        assert done.cancelled or done.error.errno == errno.EBADF


@pytest.mark.parametrize("adopts", [False, True], ids=["foreign", "adopted"])
def test_a_number_that_is_anothers_when_the_queue_has_room(faulty: Maker, adopts: bool) -> None:
    """What was left behind is for the file that it was pushed for, and for no other."""
    backend = faulty(queue_full=1)
    with number_changes_hands(backend, adopts=adopts) as (_, theirs, op_id):
        done = collect(backend, [op_id])[op_id]
        assert done.error is None or done.error.errno == errno.EBADF
        theirs.setblocking(False)
        if done.error is None:
            assert theirs.recv(10) == b"secret"


def test_a_close_settles_what_a_full_queue_did_not_take(faulty: Maker) -> None:
    backend = faulty(queue_full=1)
    left, right = socketpair()
    with left:
        op_id = new_id()
        backend.push(op_id, Op.send(right.fileno(), b"x"))
        assert backend.flush() == 0
        backend.close_fd(right.detach())
        assert left.recv(1) == b""
    assert collect(backend, [op_id])[op_id].cancelled


# -- cancels ---------------------------------------------------------------------------


def test_a_late_cancel_can_lose(faulty: Maker) -> None:
    backend = faulty(cancel_race=1)
    left, right = socketpair()
    with left, right:
        right.setblocking(False)
        outcomes = set()
        for at in range(30):
            op_id = submit(backend, Op.recv(right.fileno(), 1))
            if at % 2:
                left.send(b"x")
            assert backend.cancel(op_id) is False
            done = collect(backend, [op_id])[op_id]
            outcomes.add(done.result)
            if done.cancelled and at % 2:
                assert right.recv(1) == b"x"
    # The port tells that there is something: it is not taken once the cancel is known.
    assert outcomes == ({None} if backend.name == "iocp" else {None, b"x"})
    assert backend.stats().cancel_races == 30


def test_a_late_cancel_of_an_accept_can_lose(faulty: Maker) -> None:
    """Then the connection is its result; if not, it is there for the next one."""
    backend = faulty(cancel_race=1)
    outcomes = set()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        for at in range(20):
            op_id = submit(backend, Op.accept(server.fileno()))
            with contextlib.ExitStack() as stack:
                if at % 2:
                    client = socket.create_connection(server.getsockname())
                    stack.enter_context(client)
                assert backend.cancel(op_id) is False
                done = collect(backend, [op_id])[op_id]
                outcomes.add(done.cancelled)
                if not done.cancelled:
                    close_socket(done.result[0])
                elif at % 2:
                    server.accept()[0].close()
                if at % 2:
                    assert client.recv(1) == b""
    assert outcomes == {False, True}


def test_a_cancel_can_win_although_the_result_was_at_hand(faulty: Maker) -> None:
    """The operation begins late: it is cancelled before, and nothing is taken."""
    backend = faulty(cancel_race=1)
    left, right = socketpair()
    with left, right:
        right.setblocking(False)
        for number in range(20):
            left.send(b"x")
            op_id = new_id()
            backend.push(op_id, Op.recv(right.fileno(), 10))
            backend.flush()
            assert backend.cancel(op_id) is False
            assert collect(backend, [op_id])[op_id].cancelled
            assert right.recv(10) == b"x"
            assert backend.stats().cancel_races == number + 1


def test_a_close_waits_for_late_cancels(faulty: Maker) -> None:
    backend = faulty(cancel_race=1, delay=0.5)
    for _ in range(20):
        left, right = socketpair()
        op_id = submit(backend, Op.recv(right.fileno(), 1))
        assert backend.cancel(op_id) is False
        backend.close_fd(right.detach())
        assert sees_end(left)
        assert collect(backend, [op_id])[op_id].cancelled
        left.close()


def test_closing_with_things_held_back(faulty: Maker) -> None:
    """Sockets that were accepted are closed, and nothing is written after it."""
    backend = faulty(delay=1, cancel_race=1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        clients = [socket.create_connection(server.getsockname()) for _ in range(5)]
        for at in range(6):
            backend.push(at, Op.accept(server.fileno()))
        for done in backend.wait_timeout(0):
            close_socket(done.result[0])
        backend.cancel(5)
        backend.close()
        for client in clients:
            client.close()


def test_a_waiting_thread_hears_of_what_is_held(faulty: Maker) -> None:
    backend = faulty(delay=1)
    backend.push(1, Op.nop())
    backend.flush()
    assert backend.wait_ready(60) is True
    assert collect(backend, [1])[1].result == 0
