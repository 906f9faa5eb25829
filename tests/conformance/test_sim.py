"""The simulated kernel: what is simulated, what is the same again, what time is."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from trio_lio.backends import (
    Faults,
    IoBackend,
    Op,
    OpCompleted,
    Poller,
    Sim,
    available_backends,
    default_backend,
)

from .. import common
from ..common import open_fds, pattern
from .support import collect, errno_of, new_id, run, submit

SEEDS = range(6)
ROUGH = Faults(seed=3, **common.ROUGH)


@contextmanager
def opened(seed: int = 0, *, capacity: int = 64, **kwargs: object) -> Iterator[Sim]:
    before = open_fds()
    with Sim(seed, **kwargs) as backend:  # type: ignore[arg-type]
        backend.init(capacity)
        yield backend
    for fd in open_fds().keys() - before.keys():  # placeholders are the caller's to close
        if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
            os.close(fd)


@pytest.fixture(params=SEEDS)
def sim(request: pytest.FixtureRequest) -> Iterator[Sim]:
    with opened(request.param) as backend:
        yield backend


def receive_exactly(backend: IoBackend, fd: int, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = run(backend, Op.recv(fd, size - len(parts)))
        assert part, "the stream ended early"
        parts += part
    return parts


# -- by name only ----------------------------------------------------------------------


def test_nobody_gets_it_who_did_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIO_LIO_BACKEND", raising=False)
    assert "sim" not in [info.name for info in available_backends()]
    assert default_backend().name != "sim"
    monkeypatch.setenv("TRIO_LIO_BACKEND", "sim")
    assert isinstance(default_backend(), Sim)


def test_seed_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_LIO_SIM_SEED", "12")
    assert program(None) == program(12) != program(13)
    monkeypatch.setenv("TRIO_LIO_SIM_SEED", "x")
    with pytest.raises(ValueError, match="TRIO_LIO_SIM_SEED"):
        Sim()


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "7", True])
def test_bad_seeds(seed: object) -> None:
    with pytest.raises((ValueError, TypeError), match="seed"):
        Sim(seed)  # type: ignore[arg-type]


# -- sockets ---------------------------------------------------------------------------


def test_stream_in_pieces(sim: Sim) -> None:
    left, right = sim.socketpair()
    data = pattern(50_000)
    sending, receiving = new_id(), new_id()
    sim.push(sending, Op.send(left, data, all=True))
    sim.push(receiving, Op.recv(right, len(data)))
    received = b""
    sizes = set()
    while len(received) < len(data):
        for done in sim.wait_timeout(5):
            if done.op_id == sending:
                assert done.result == len(data)
                continue
            received += done.result
            sizes.add(len(done.result))
            if len(received) < len(data):
                sim.push(receiving, Op.recv(right, len(data)))
    assert received == data
    assert len(sizes) > 3


def test_end_of_a_stream(sim: Sim) -> None:
    left, right = sim.socketpair()
    run(sim, Op.send(left, b"last"))
    sim.close_fd(left)
    assert receive_exactly(sim, right, 4) == b"last"
    assert run(sim, Op.recv(right, 10)) == b""
    assert errno_of(sim, Op.send(right, b"x")) == "EPIPE"


@pytest.mark.parametrize("how", ["close_fd", "operation", "os.close"])
def test_whoever_closes_the_peer_sees_the_end(sim: Sim, how: str) -> None:
    left, right = sim.socketpair()
    op_id = submit(sim, Op.recv(right, 10))
    if how == "close_fd":
        sim.close_fd(left)
    elif how == "operation":
        run_beside(sim, Op.close(left), op_id)
        return
    else:
        os.close(left)
    assert collect(sim, [op_id])[op_id].result == b""


def run_beside(sim: Sim, op: Op, waiting: int) -> None:
    op_id = new_id()
    sim.push(op_id, op)
    done = collect(sim, [op_id, waiting])
    assert done[op_id].result == 0
    assert done[waiting].result == b""


def test_the_last_copy_counts(sim: Sim) -> None:
    left, right = sim.socketpair()
    copy = os.dup(left)
    os.close(left)
    assert errno_of(sim, Op.send(left, b"x")) == "EBADF"
    run(sim, Op.send(copy, b"x"))
    assert run(sim, Op.recv(right, 10)) == b"x"
    os.close(copy)
    assert run(sim, Op.recv(right, 10)) == b""


def test_unread_bytes_at_a_close_are_a_reset(sim: Sim) -> None:
    left, right = sim.socketpair()
    run(sim, Op.send(left, b"unread"))
    sim.close_fd(right)
    assert errno_of(sim, Op.recv(left, 10)) == "ECONNRESET"
    assert run(sim, Op.recv(left, 10)) == b""
    assert errno_of(sim, Op.send(left, b"x")) == "EPIPE"


def test_shutdown(sim: Sim) -> None:
    left, right = sim.socketpair()
    run(sim, Op.shutdown(left, socket.SHUT_WR))
    assert run(sim, Op.recv(right, 10)) == b""
    run(sim, Op.send(right, b"still"))
    assert receive_exactly(sim, left, 5) == b"still"
    assert errno_of(sim, Op.send(left, b"x")) == "EPIPE"


@pytest.mark.parametrize("address", [("127.0.0.1", 80), b"\0name"], ids=["inet", "unix"])
def test_connections(sim: Sim, address: object) -> None:
    listener, client = sim.socket(), sim.socket()
    assert errno_of(sim, Op.connect(client, address)) == "ECONNREFUSED"
    run(sim, Op.bind(listener, address))
    run(sim, Op.listen(listener, 5))
    accepting = submit(sim, Op.accept(listener))
    connecting = new_id()
    sim.push(connecting, Op.connect(client, address))
    done = collect(sim, [accepting, connecting])
    assert done[connecting].error is None
    accepted, peer = done[accepting].result
    assert peer.startswith(b"\0sim:")
    run(sim, Op.send(client, b"hello"))
    assert receive_exactly(sim, accepted, 5) == b"hello"
    assert errno_of(sim, Op.connect(client, address)) == "EISCONN"
    other = sim.socket()
    assert errno_of(sim, Op.bind(other, address)) == "EADDRINUSE"
    for fd in listener, client, accepted, other:
        sim.close_fd(fd)


def test_full_backlog_and_a_listener_that_goes(sim: Sim) -> None:
    listener = sim.socket()
    run(sim, Op.bind(listener, b"\0name"))
    run(sim, Op.listen(listener, 1))
    first, second = sim.socket(), sim.socket()
    run(sim, Op.connect(first, b"\0name"))
    op_id = submit(sim, Op.connect(second, b"\0name"))
    sim.close_fd(listener)
    assert collect(sim, [op_id])[op_id].error.errno == errno.ECONNREFUSED  # type: ignore[union-attr]
    assert errno_of(sim, Op.recv(first, 1)) == "ECONNRESET"


def test_datagrams_stay_whole(sim: Sim) -> None:
    one, other = sim.socketpair(socket.SOCK_DGRAM)
    messages = [pattern(size, size) for size in (1, 2000, 30_000)]
    for message in messages:
        assert run(sim, Op.send(one, message)) == len(message)
    assert [run(sim, Op.recv(other, 40_000)) for _ in messages] == messages
    run(sim, Op.send(one, b"longer"))
    data, _, flags, _ = run(sim, Op.recvmsg(other, 3))
    assert (data, flags & socket.MSG_TRUNC) == (b"lon", socket.MSG_TRUNC)


def test_datagrams_by_address(sim: Sim) -> None:
    server, client = sim.socket(socket.SOCK_DGRAM), sim.socket(socket.SOCK_DGRAM)
    here, there = ("127.0.0.1", 53), ("127.0.0.1", 5353)
    run(sim, Op.bind(server, here))
    run(sim, Op.bind(client, there))
    run(sim, Op.sendto(client, b"question", here))
    assert run(sim, Op.recvfrom(server, 100)) == (b"question", there)
    unknown = Op.sendto(client, b"x", ("127.0.0.1", 1))
    assert errno_of(sim, unknown) == "ECONNREFUSED"


def test_pipe(sim: Sim) -> None:
    reader, writer = sim.pipe()
    data = pattern(3000)
    written = 0
    read = b""
    while written < len(data):
        written += run(sim, Op.write(writer, data[written:]))
        read += run(sim, Op.read(reader, 100))
    sim.close_fd(writer)
    while part := run(sim, Op.read(reader, 1000)):
        read += part
    assert read == data
    assert errno_of(sim, Op.write(reader, b"x")) == "EBADF"


def test_polls(sim: Sim) -> None:
    left, right = sim.socketpair()
    assert run(sim, Op.poll(left, writable=True)) == 2
    op_id = submit(sim, Op.poll(right, readable=True))
    run_id = new_id()
    sim.push(run_id, Op.send(left, b"x"))
    assert collect(sim, [op_id, run_id])[op_id].result == 1


def test_a_system_call_on_it_never_seems_to_work(sim: Sim) -> None:
    left, _right = sim.socketpair()
    with socket.socket(fileno=os.dup(left)) as stand_in:
        with pytest.raises(BrokenPipeError):
            stand_in.send(b"x")
        with pytest.raises(BlockingIOError):
            stand_in.recv(1)


def test_descriptors_cannot_be_passed(sim: Sim) -> None:
    left, _right = sim.socketpair()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, left.to_bytes(4, sys.byteorder))]
    assert errno_of(sim, Op.sendmsg(left, [b"x"], rights)) == "ENOTSUP"


def test_objects_are_of_sim_alone() -> None:
    with opened() as backend:
        ours, _ = backend.socketpair()
        with Poller() as other:
            other.init(4)
            assert errno_of(other, Op.send(ours, b"x")) == "EPIPE"


# -- files -----------------------------------------------------------------------------


def test_files_in_memory(sim: Sim) -> None:
    fd = sim.open("notes")
    assert run(sim, Op.write_at(fd, b"hello, disk", 0)) == 11
    assert run(sim, Op.read_at(fd, 4, 7)) == b"disk"
    assert run(sim, Op.write(fd, b"J")) == 1
    assert run(sim, Op.read(fd, 4)) == b"ello"
    run(sim, Op.truncate(fd, 3))
    run(sim, Op.write_at(fd, b"!", 5))
    run(sim, Op.fsync(fd))
    again = sim.open("notes", os.O_RDONLY)
    assert run(sim, Op.read(again, 100)) == b"Jel\0\0!"
    assert errno_of(sim, Op.write(again, b"x")) == "EBADF"
    more = sim.open("notes", os.O_WRONLY | os.O_APPEND)
    assert run(sim, Op.writev_at(more, [b"a", b"bc"], 0)) == 3
    into = [bytearray(4), bytearray(9)]
    assert run(sim, Op.readv_at(again, into, 4)) == 5
    assert bytes(into[0]) == b"\0!ab"
    assert into[1].startswith(b"c")
    with pytest.raises(FileNotFoundError):
        sim.open("else", os.O_RDONLY)
    with pytest.raises(FileExistsError):
        sim.open("notes", os.O_CREAT | os.O_EXCL)
    assert errno_of(sim, Op.write_at(fd, b"x", 2**40)) == "EFBIG"


# -- the same again --------------------------------------------------------------------


def program(
    seed: int | None, faults: Faults | None = None, *, rounds: int = 40
) -> tuple[object, ...]:
    """Clients, a server and timers, and what came of them in which order."""
    log: list[object] = []
    with Sim(seed, virtual_time=True, faults=faults) as sim:
        sim.init(128)
        pairs = [sim.socketpair() for _ in range(5)]
        op_id = 0
        for at in range(rounds):
            left, right = pairs[at % len(pairs)]
            for op in (
                Op.send(left, pattern(1000, at), all=at % 2 == 0),
                Op.recv(right, 700),
                Op.timeout(0.001 * (at % 7)),
                Op.recv(left, 10),
            ):
                sim.push(op_id, op)
                op_id += 1
            sim.flush()
            sim.cancel(op_id - 1)
            log += [repr(done) for done in sim.wait_timeout(0.002)]
        for pair in pairs:
            for fd in pair:
                sim.close_fd(fd)
        stats = sim.stats()
        return stats.trace, stats.completed, tuple(log)


def test_the_order_is_the_seeds() -> None:
    def order(seed: int) -> tuple[int, ...]:
        with Sim(seed) as sim:
            sim.init(16)
            for op_id in range(12):
                sim.push(op_id, Op.nop())
            return tuple(done.op_id for done in sim.wait_timeout(1))

    orders = [order(seed) for seed in SEEDS]
    assert all(sorted(one) == list(range(12)) for one in orders)
    assert len(set(orders)) == len(SEEDS)
    assert [order(seed) for seed in SEEDS] == orders


def test_receives_of_one_descriptor_take_turns(sim: Sim) -> None:
    left, right = sim.socketpair()
    ids = range(20)
    for op_id in ids:
        sim.push(op_id, Op.recv(right, 1))
    sim.flush()
    sim.push(20, Op.send(left, bytes(ids), all=True))
    done = collect(sim, [*ids, 20])
    assert b"".join(done[op_id].result for op_id in ids) == bytes(ids)


@pytest.mark.parametrize("faults", [None, ROUGH], ids=["sim", "sim with faults"])
def test_same_seed_same_run(faults: Faults | None) -> None:
    runs = [program(seed, faults) for seed in SEEDS]
    assert [program(seed, faults) for seed in SEEDS] == runs
    assert len({trace for trace, *_ in runs}) == len(SEEDS)


def test_same_seed_same_run_in_another_process(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    # Last: the package that is installed goes before the sources beside these tests.
    code = (
        f"import sys; sys.path.append({root!r}); from tests.conformance import test_sim;"
        "print(test_sim.program(4, test_sim.ROUGH)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert int(done.stdout) == program(4, ROUGH)[0]


def test_other_faults_other_run() -> None:
    other = attrs.evolve(ROUGH, seed=4)
    assert program(1, ROUGH)[0] != program(1, other)[0]


# -- virtual time ----------------------------------------------------------------------


def test_virtual_time_jumps() -> None:
    begun = time.monotonic()
    with opened(virtual_time=True) as sim:
        sim.push(1, Op.timeout(86_400))
        sim.push(2, Op.timeout(3_600))
        assert [done.op_id for done in sim.wait_timeout(None)] == [2]
        assert sim.wait_timeout(80_000) == []
        assert [done.op_id for done in sim.wait_timeout(2_800)] == [1]
    assert time.monotonic() - begun < 3_600


def test_virtual_time_waits_for_what_is_real() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, opened(virtual_time=True) as sim:
        ours.setblocking(False)
        sim.push(1, Op.recv(ours.fileno(), 10))
        sim.push(2, Op.timeout(0.02))
        assert [done.op_id for done in sim.wait_timeout(5)] == [2]
        theirs.send(b"x")
        assert [done.op_id for done in sim.wait_timeout(5)] == [1]


# -- a state machine over simulated streams --------------------------------------------


class Streams(RuleBasedStateMachine):
    """Whatever is pushed and cancelled: what is read is what was written, and a seed tells
    all of it."""

    make: Callable[[], Sim]

    def __init__(self) -> None:
        super().__init__()
        self.sim = self.make()
        self.sim.init(24)
        self.pairs = [self.sim.socketpair() for _ in range(3)]
        self.sends: list[list[int]] = [[] for _ in self.pairs]
        self.data: dict[int, bytes] = {}
        self.sent: dict[int, int] = {}
        self.received = [bytearray() for _ in self.pairs]
        self.in_flight: dict[int, int] = {}
        self.next_id = 0

    def push(self, at: int, op: Op) -> int:
        op_id, self.next_id = self.next_id, self.next_id + 1
        self.sim.push(op_id, op)
        self.in_flight[op_id] = at
        return op_id

    @rule(at=st.integers(0, 2), size=st.sampled_from([1, 80, 3000, 9000]), whole=st.booleans())
    def send(self, at: int, size: int, whole: bool) -> None:
        if len(self.in_flight) < 24:
            data = pattern(size, self.next_id)
            op_id = self.push(at, Op.send(self.pairs[at][0], data, all=whole))
            self.sends[at].append(op_id)
            self.data[op_id] = data

    @rule(at=st.integers(0, 2), size=st.sampled_from([1, 100, 5000]))
    def receive(self, at: int, size: int) -> None:
        if len(self.in_flight) < 24 and not self.is_receiving(at):
            self.push(at, Op.recv(self.pairs[at][1], size))

    def is_receiving(self, at: int) -> bool:
        return any(
            op_id not in self.data and where == at for op_id, where in self.in_flight.items()
        )

    @rule(which=st.integers(0, 23))
    def cancel(self, which: int) -> None:
        if self.in_flight:
            op_id = sorted(self.in_flight)[which % len(self.in_flight)]
            if self.sim.cancel(op_id):
                del self.in_flight[op_id]

    @rule()
    def flush(self) -> None:
        self.sim.flush()

    @rule(seconds=st.sampled_from([0, 1, 1000]))
    def wait(self, seconds: float) -> None:
        for done in self.sim.wait_timeout(seconds):
            self.end(done)

    def end(self, done: OpCompleted) -> None:
        if done.op_id < 0:
            return
        at = self.in_flight.pop(done.op_id)
        assert done.error is None or done.cancelled, done
        if done.op_id in self.data:
            self.sent[done.op_id] = done.result or 0
        elif not done.cancelled:
            self.received[at] += done.result

    def teardown(self) -> None:
        with self.sim:
            for op_id in sorted(self.in_flight):
                if self.sim.cancel(op_id):
                    del self.in_flight[op_id]
            while self.in_flight:
                for done in self.sim.wait_timeout(1):
                    self.end(done)
            for at, (left, right) in enumerate(self.pairs):
                self.sim.close_fd(left)
                while not (done := complete_quietly(self.sim, Op.recv(right, 5000))).error:
                    if not done.result:
                        break
                    self.received[at] += done.result
                sends = self.sends[at]
                expected = b"".join(self.data[s][: self.sent.get(s, 0)] for s in sends)
                assert bytes(self.received[at]) == expected
                self.sim.close_fd(right)


def complete_quietly(sim: Sim, op: Op) -> OpCompleted:
    op_id = new_id()
    sim.push(op_id, op)
    while True:
        for done in sim.wait_timeout(1):
            if done.op_id == op_id:
                return done


@pytest.mark.parametrize("faults", [None, ROUGH], ids=["sim", "sim with faults"])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_programs_on_simulated_streams(seed: int, faults: Faults | None) -> None:
    def make() -> Sim:
        return Sim(seed, virtual_time=True, faults=faults)

    kind = type("Seeded", (Streams,), {"make": staticmethod(make)})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=int(os.environ.get("TRIO_LIO_FUZZ", "12")),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
