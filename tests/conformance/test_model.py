"""Random programs against a plain model: no byte lost or doubled, one completion for each
operation, nothing for what was taken back."""

from __future__ import annotations

import functools
import os
import socket
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    rule,
    run_state_machine_as_test,
)

from trio_lio.backends import (
    SIGNAL,
    Faults,
    IoBackend,
    Op,
    OpCompleted,
    probe,
)

from .. import common
from ..common import pattern
from .support import UNDER_FAULTS

if TYPE_CHECKING:
    from .conftest import Maker

STREAMS = 3
CAPACITY = 24
SIZES = st.sampled_from([1, 2, 100, 4095, 4096, 30_000, 65_536, 100_000, 300_000])
STREAM = st.integers(0, STREAMS - 1)


class Stream:
    """A pair of sockets, and what should have gone through it."""

    def __init__(self, small: bool) -> None:
        self.source, self.sink = socket.socketpair()
        for sock in self.source, self.sink:
            sock.setblocking(False)
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        self.sends: list[tuple[int, bytes]] = []  # in order of push: id, data
        self.sent: dict[int, int] = {}  # how much of each went
        self.received = bytearray()
        self.receiving: int | None = None

    def expected(self) -> bytes:
        return b"".join(data[: self.sent.get(op_id, 0)] for op_id, data in self.sends)

    def close(self) -> None:
        self.source.close()
        self.sink.close()


class Program(RuleBasedStateMachine):
    make: Maker
    adopts: bool

    def __init__(self) -> None:
        super().__init__()
        self.backend: IoBackend = self.make()
        self.backend.init(CAPACITY)
        self.streams = [Stream(small=at == 0) for at in range(STREAMS)]
        self.next_id = 0
        self.in_flight: dict[int, tuple[str, int, bytearray | None]] = {}
        self.ended: set[int] = set()
        if self.adopts:
            for stream in self.streams:
                self.backend.adopt(stream.source.fileno())
                self.backend.adopt(stream.sink.fileno())

    def push(self, kind: str, at: int, op: Op, buffer: bytearray | None = None) -> int:
        op_id, self.next_id = self.next_id, self.next_id + 1
        self.backend.push(op_id, op)
        self.in_flight[op_id] = kind, at, buffer
        return op_id

    def has_room(self) -> bool:
        return len(self.in_flight) < CAPACITY

    @rule(at=STREAM, size=SIZES, whole=st.booleans(), scattered=st.booleans())
    def send(self, at: int, size: int, whole: bool, scattered: bool) -> None:
        if not self.has_room():
            return
        stream = self.streams[at]
        data = pattern(size, self.next_id)
        fd = stream.source.fileno()
        if scattered:
            op = Op.sendmsg(fd, [data[: size // 3], data[size // 3 :]])
        else:
            op = Op.send(fd, data, all=whole)
        stream.sends.append((self.push("send", at, op), data))

    @rule(at=STREAM, size=SIZES, into=st.booleans())
    def receive(self, at: int, size: int, into: bool) -> None:
        stream = self.streams[at]
        if stream.receiving is not None or not self.has_room():
            return  # two receives at once take turns in no promised order
        fd = stream.sink.fileno()
        buffer = bytearray(size) if into else None
        op = Op.recv(fd, size) if buffer is None else Op.recv_into(fd, buffer)
        stream.receiving = self.push("receive", at, op, buffer)

    @rule(seconds=st.sampled_from([0, 0.0001, 100, None]))
    def timer(self, seconds: float | None) -> None:
        if self.has_room():
            self.push("timer", 0, Op.timeout(seconds))

    @rule(which=st.integers(0, CAPACITY - 1))
    def cancel(self, which: int) -> None:
        if not self.in_flight:
            return
        # What is in flight depends on the kernel's pace; what is drawn must not.
        op_id = sorted(self.in_flight)[which % len(self.in_flight)]
        if self.backend.cancel(op_id):
            kind, at, _ = self.in_flight.pop(op_id)
            self.ended.add(op_id)
            if kind == "receive":
                self.streams[at].receiving = None

    @rule()
    def flush(self) -> None:
        self.backend.flush()

    @rule(seconds=st.sampled_from([0, 0, 0.0002]))
    def wait(self, seconds: float) -> None:
        for done in self.backend.wait_timeout(seconds):
            self.end(done)

    @rule(at=STREAM, size=SIZES)
    def drain_by_hand(self, at: int, size: int) -> None:
        """Makes room, as another reader would; only when no receive of ours could race."""
        stream = self.streams[at]
        if stream.receiving is None:
            try:
                stream.received += stream.sink.recv(size)
            except BlockingIOError:
                pass

    def end(self, done: OpCompleted) -> None:
        if done.op_id == SIGNAL:
            return  # one that was none: faults
        assert done.op_id not in self.ended, f"a second completion: {done}"
        kind, at, buffer = self.in_flight.pop(done.op_id)
        self.ended.add(done.op_id)
        stream = self.streams[at]
        if kind == "timer":
            assert done.cancelled or done.result == 0
        elif kind == "send":
            assert done.error is None or done.cancelled, done
            stream.sent[done.op_id] = 0 if done.error else done.result
        else:
            stream.receiving = None
            if not done.cancelled:
                result = done.unwrap()
                stream.received += result if buffer is None else buffer[:result]
            elif buffer is not None:
                assert not any(buffer)

    def teardown(self) -> None:
        try:
            for op_id in sorted(self.in_flight):
                if self.backend.cancel(op_id):
                    del self.in_flight[op_id]
            for _ in range(1000):
                if not self.in_flight:
                    break
                for done in self.backend.wait_timeout(1):
                    self.end(done)
            assert not self.in_flight
            assert self.backend.stats().in_flight == 0
            for stream in self.streams:
                stream.source.shutdown(socket.SHUT_WR)
                while part := stream.sink.recv(1_000_000):
                    stream.received += part
                assert bytes(stream.received) == stream.expected()
        finally:
            self.backend.close()
            for stream in self.streams:
                stream.close()


# Whatever of this happens, the bytes are the same.
ROUGH = Faults(seed=3, **common.ROUGH)


def test_random_programs(new_backend: Maker) -> None:
    run_programs(new_backend)


@pytest.mark.parametrize("kind", UNDER_FAULTS, ids=lambda kind: kind.backend_name)
def test_random_programs_under_faults(kind: type[IoBackend]) -> None:
    assert kind.backend_name is not None
    info = probe(kind.backend_name)
    if not info.available:
        pytest.skip(f"{info.name}: {info.reason}")
    run_programs(functools.partial(kind, faults=ROUGH))


def run_programs(make: Maker) -> None:
    for adopts in (False, True):
        kind = type("Variant", (Program,), {"make": staticmethod(make), "adopts": adopts})
        run_state_machine_as_test(
            kind,
            settings=settings(
                max_examples=int(os.environ.get("TRIO_LIO_FUZZ", "12")),
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
