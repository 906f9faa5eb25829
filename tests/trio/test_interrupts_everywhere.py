"""A KeyboardInterrupt before every line of trio-lio's own code, one after the other."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import trio_lio
import trio_lio._install
import trio_lio.lowlevel

from ..common import take_now
from .support import half_foreign_pair, tcp_listener

Run = Callable[..., Any]

PARTS = 5
PACKAGE = os.path.dirname(trio_lio.__file__)


@pytest.fixture(autouse=True)
def python_handles_sigint() -> Any:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupter:
    """Sends SIGINT before the n-th line that runs in the package."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.seen = 0
        self.where = ""

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and self.step:
            self.seen += 1
            if self.seen == self.step:
                self.step = 0
                name = os.path.basename(frame.f_code.co_filename)
                self.where = f"{name}:{frame.f_lineno} {frame.f_code.co_name}"
                signal.raise_signal(signal.SIGINT)
        return self


class Traffic:
    """Some of everything; what came of it is noted by tasks that are protected themselves."""

    def __init__(self) -> None:
        self.pairs = [half_foreign_pair() for _ in range(4)]
        self.sent = [0] * 4
        self.got = [bytearray() for _ in range(4)]

    async def main(self) -> None:
        @trio.lowlevel.enable_ki_protection
        async def receive(at: int) -> None:
            a, _ = self.pairs[at]
            calls: list[Callable[[], Any]] = [
                lambda: trio.SocketStream(a).receive_some(100),
                lambda: a.recv(100),
                lambda: trio_lio.lowlevel.recv(a.fileno(), 100),
                lambda: a.recvmsg(100),
            ]
            while len(self.got[at]) < 6:
                data = await calls[at]()
                self.got[at] += data[0] if at == 3 else data

        @trio.lowlevel.enable_ki_protection
        async def send(at: int) -> None:
            a, b = self.pairs[at]
            for number in range(3):
                self.sent[at] += await a.send(b"%02d" % number)
                b.send(b"%02d" % number)
                await trio.lowlevel.checkpoint()

        async def accept() -> None:
            with await tcp_listener() as listener, trio.socket.socket() as client:
                await client.connect(listener.getsockname())
                accepted, _ = await listener.accept()
                accepted.close()

        async with trio.open_nursery() as nursery:
            for at in range(4):
                nursery.start_soon(receive, at)
                nursery.start_soon(send, at)
            nursery.start_soon(accept)
            with trio.move_on_after(0.001):
                await trio.lowlevel.wait_readable(self.pairs[0][1])

    def check(self) -> None:
        """What calls said that they did is what was done: nothing more, nothing less."""
        for at, (a, b) in enumerate(self.pairs):
            b.setblocking(False)
            through = take_now(b) or b""
            assert len(through) == self.sent[at]
            assert b"000102".startswith(through)
            rest = take_now(a._sock) or b""
            assert b"000102".startswith(bytes(self.got[at]) + rest)

    def close(self) -> None:
        for a, b in self.pairs:
            a._sock.close()
            b.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(
    sys.gettrace() is not None, reason="something else traces: a debugger, coverage"
)
@pytest.mark.parametrize("part", range(PARTS))
def test_keyboard_interrupt_before_every_line(part: int, run: Run, backend: str) -> None:
    """The run ends by it, wherever it comes; no byte is lost, and the next run works."""
    places: set[str] = set()
    tries = interrupted = 0
    step, stride = part - PARTS + 1, PARTS
    if os.environ["TRIO_LIO_URING_WITHOUT"]:
        # On the older kernels' rings the same lines run: fewer of them will do.
        stride *= 11
    while True:
        step += stride
        tries += 1
        interrupter = Interrupter(step)
        traffic = Traffic()
        trace = sys.gettrace()
        sys.settrace(interrupter)
        try:
            run(traffic.main)
        except KeyboardInterrupt:
            interrupted += 1
        except BaseException as exc:
            group = exc
            while hasattr(group, "exceptions"):
                [group] = group.exceptions
            assert isinstance(group, KeyboardInterrupt), (interrupter.where, exc)
            interrupted += 1
        finally:
            sys.settrace(trace)
            # A tracer can interrupt a `with` just before it leaves, and then it never does.
            # Signals do not come there.
            while trio_lio._install._lock._is_owned():
                trio_lio._install._lock.release()
            try:
                traffic.check()
            except AssertionError as exc:
                raise AssertionError(f"interrupted at {interrupter.where}") from exc
            finally:
                traffic.close()
        if not interrupter.where:
            break
        places.add(interrupter.where)
        if tries % 50 == 0:
            gc.collect()
            assert run(trio.sleep, 0) is None
    del interrupter, traffic
    gc.collect()
    assert run(trio.sleep, 0) is None  # and leaves nothing in place
    # It must have been everywhere, and have been an interrupt most times: one that comes when
    # all is over is raised by nobody, as in Trio.
    assert len(places) > 100 / stride
    assert interrupted > tries / 2
