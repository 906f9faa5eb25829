"""Time-outs, timers, wake-ups and signals."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from trio_lio.backends import SIGNAL, WAKE, IoBackend, Op, OpCompleted

from .support import Sockets, collect, is_idle, new_id, now, run, submit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def test_zero_polls(backend: IoBackend) -> None:
    assert backend.wait_timeout(0) == []


@pytest.mark.parametrize("seconds", [0.001, 0.03])
def test_a_wait_lasts_as_long_as_asked(backend: IoBackend, seconds: float) -> None:
    before = now()
    assert backend.wait_timeout(seconds) == []
    assert now() - before >= seconds


def test_a_wait_without_an_end_ends_with_a_completion(backend: IoBackend) -> None:
    backend.push(1, Op.timeout(0.02))
    assert backend.wait_timeout(None) == [OpCompleted(1, 0)]


def test_a_long_wait_ends_with_a_completion(backend: IoBackend) -> None:
    backend.push(1, Op.timeout(0.02))
    before = now()
    assert backend.wait_timeout(100_000) == [OpCompleted(1, 0)]
    assert now() - before >= 0.02


def test_timers_end_in_the_order_of_their_times(backend: IoBackend) -> None:
    for op_id, seconds in ((3, 0.06), (1, 0.0), (2, 0.03)):
        backend.push(op_id, Op.timeout(seconds))
    order: list[int] = []
    while len(order) < 3:
        order += [done.op_id for done in backend.wait_timeout(None)]
    assert order == [1, 2, 3]


def test_a_timer_for_ever_is_only_cancelled(backend: IoBackend) -> None:
    op_id = submit(backend, Op.timeout(None))
    assert backend.wait_timeout(0.01) == []
    assert backend.cancel(op_id) is False
    assert collect(backend, [op_id])[op_id].cancelled


def test_a_wait_flushes_first(backend: IoBackend) -> None:
    backend.push(1, Op.nop())
    assert backend.wait_timeout(None) == [OpCompleted(1, 0)]


def test_flush_says_how_many(backend: IoBackend) -> None:
    assert backend.flush() == 0
    for op_id in range(5):
        backend.push(op_id, Op.nop())
    assert backend.flush() == 5
    assert backend.flush() == 0
    collect(backend, range(5))


def test_wake_before_a_wait(backend: IoBackend) -> None:
    backend.wake()
    assert backend.wait_timeout(None) == [OpCompleted(WAKE, 0)]
    assert backend.wait_timeout(0.001) == []


def test_wakes_coalesce(backend: IoBackend) -> None:
    for _ in range(1000):
        backend.wake()
    assert backend.wait_timeout(None) == [OpCompleted(WAKE, 0)]
    assert backend.wait_timeout(0.001) == []


def test_wake_during_a_wait(backend: IoBackend) -> None:
    for _ in range(50):
        timer = threading.Timer(0.002, backend.wake)
        timer.start()
        assert backend.wait_timeout(None) == [OpCompleted(WAKE, 0)]
        timer.join()


def test_no_wake_is_lost(backend: IoBackend) -> None:
    """Each wake is answered before the next: two of them must never become none."""
    rounds = 2000
    answered = threading.Semaphore(0)

    def wakes() -> None:
        for _ in range(rounds):
            backend.wake()
            answered.acquire()

    thread = threading.Thread(target=wakes)
    thread.start()
    for _ in range(rounds):
        assert backend.wait_timeout(20) == [OpCompleted(WAKE, 0)]
        answered.release()
    thread.join()


def test_a_wake_comes_beside_completions(backend: IoBackend) -> None:
    backend.wake()
    backend.push(1, Op.nop())
    seen: set[int] = set()
    while seen != {WAKE, 1}:
        seen |= {done.op_id for done in backend.wait_timeout(5)}
    assert is_idle(backend)


@contextlib.contextmanager
def signal_soon(handler: Callable[[], object]) -> Iterator[None]:
    """A signal in this thread in a moment. Its handler stays until it has come."""
    before = signal.signal(signal.SIGUSR1, lambda *_: handler())
    timer = threading.Timer(0.02, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_ends_a_wait_and_says_so(backend: IoBackend) -> None:
    hits: list[str] = []
    found: list[OpCompleted] = []
    with signal_soon(lambda: hits.append("handler")):
        while not hits:
            found += backend.wait_timeout(5)
    assert {done.op_id for done in found} == {SIGNAL}
    assert isinstance(found[-1].error, InterruptedError)
    assert hits == ["handler"]


def test_a_signal_ends_a_wait_that_had_something_to_submit(
    backend: IoBackend, adopted: Sockets
) -> None:
    """The kernel reports what it submitted rather than the signal that came."""
    ours, theirs = adopted.pair()
    hits: list[str] = []
    found: list[OpCompleted] = []
    with signal_soon(lambda: hits.append("handler")):
        backend.push(1, Op.recv(ours.fileno(), 10))
        while not hits:
            found += backend.wait_timeout(5)
    assert {done.op_id for done in found} == {SIGNAL}
    theirs.send(b"x")
    assert collect(backend, [1])[1].result == b"x"


class Interrupted(Exception):
    pass


class Raiser:
    """A handler that raises, but only where the test is ready for it."""

    def __init__(self) -> None:
        self.hits = 0
        self.armed = False

    def __call__(self, *_: object) -> None:
        self.hits += 1
        if self.armed:
            self.armed = False
            raise Interrupted

    def wait(self, backend: IoBackend) -> list[OpCompleted]:
        """Completions; none when the handler raised out of the wait."""
        try:
            self.armed = True
            return backend.wait_timeout(5)
        except Interrupted:
            return []
        finally:
            self.armed = False


def test_what_a_handler_raises_loses_nothing(backend: IoBackend, adopted: Sockets) -> None:
    ours, theirs = adopted.pair()
    backend.push(1, Op.recv(ours.fileno(), 10))
    raiser = Raiser()
    with signal_soon(raiser):
        while not raiser.hits:
            assert all(done.op_id == SIGNAL for done in raiser.wait(backend))
    theirs.send(b"kept")
    assert collect(backend, [1])[1].result == b"kept"


def test_a_handler_that_raises_at_a_completion_loses_nothing(
    backend: IoBackend, foreign: Sockets
) -> None:
    """The handler runs when the wait is about to return with data."""
    ours, theirs = foreign.pair()

    def interrupt_then_send() -> None:
        # Python notes the signal in this thread; the handler runs in the main thread, when
        # the wait there has returned.
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        theirs.send(b"kept")

    raiser = Raiser()
    before = signal.signal(signal.SIGUSR1, raiser)
    try:
        for turn in range(10):
            buffer = bytearray(10)
            backend.push(1, Op.recv_into(ours.fileno(), buffer))
            timer = threading.Timer(0.005, interrupt_then_send)
            timer.start()
            found: list[OpCompleted] = []
            for _ in range(5):
                found += raiser.wait(backend)
                if OpCompleted(1, 4) in found:
                    break
            timer.join()
            assert raiser.hits == turn + 1
            assert [done for done in found if done.op_id != SIGNAL] == [OpCompleted(1, 4)]
            assert buffer.startswith(b"kept")
            buffer.append(0)  # no longer exported
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert is_idle(backend)


def test_a_wake_from_a_signal_handler(backend: IoBackend) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: backend.wake())
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        seen = {done.op_id for done in backend.wait_timeout(5)}
        while WAKE not in seen:
            seen |= {done.op_id for done in backend.wait_timeout(5)}
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_wait_ready_takes_nothing(backend: IoBackend, adopted: Sockets) -> None:
    ours, theirs = adopted.pair()
    op_id = submit(backend, Op.recv(ours.fileno(), 10))
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(backend.wait_ready(20)))
    thread.start()
    theirs.send(b"here")
    thread.join()
    assert answers == [True]
    assert collect(backend, [op_id])[op_id].result == b"here"


def test_wait_ready_ends_with_a_timer_and_with_its_time(backend: IoBackend) -> None:
    op_id = submit(backend, Op.timeout(0.02))
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(backend.wait_ready(20)))
    thread.start()
    thread.join()
    assert answers == [True]
    collect(backend, [op_id])
    deadline = time.monotonic() + 5
    while backend.wait_ready(0.01):  # something internal may be due, but not for ever
        backend.wait_timeout(0)
        assert time.monotonic() < deadline


def test_nop_brings_zero(backend: IoBackend) -> None:
    assert run(backend, Op.nop()) == 0
    assert new_id() != new_id()
