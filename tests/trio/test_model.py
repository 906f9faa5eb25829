"""Random programs over sockets, files and cancel scopes against a plain model.

What was read is what was written, at every cut and however cancels fall; no descriptor is left
open; no task sleeps for ever. The run lives in a thread of its own, and every rule runs in it.
"""

from __future__ import annotations

import contextlib
import functools
import socket as stdlib_socket
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

import trio_lio
from trio_lio import lowlevel

from ..common import handle_of, open_fds, pattern
from .support import PATIENCE, statistics, tcp_pair

KINDS = ["pair", "tcp", "small"]
STREAM = st.integers(0, len(KINDS) - 1)
SIZES = st.sampled_from([1, 3, 4096, 30_000, 65_536, 200_000, 1_000_000])
SENDS = ["send", "sendmsg", "send_all", "lowlevel"]
RECEIVES = ["recv", "recv_into", "recvmsg", "receive_some", "lowlevel", "lowlevel into"]
if sys.platform == "win32":  # where Python's sockets have no messages
    SENDS.remove("sendmsg")
    RECEIVES.remove("recvmsg")
REGIONS = 4
REGION = 9000
# When a call is cancelled: never, at a later rule, at its start, in the tick that starts it,
# after so many seconds.
ENDS = st.sampled_from(["", "", "", "before", "same tick", 0.0, 0.0005])


@attrs.define(eq=False)
class Call:
    """A task that is in a call; its scope is the only thing that cancels it."""

    scope: trio.CancelScope
    over: bool = False


@attrs.define(eq=False)
class Stream:
    source: Any
    sink: Any
    sent: bytearray = attrs.Factory(bytearray)
    """What calls said that they sent."""
    perhaps: bytes = b""
    """What a cancelled send_all may have sent the beginning of. Nothing is sent after that."""
    ended: bool = False
    got: bytearray = attrs.Factory(bytearray)
    sending: Call | None = None
    receiving: Call | None = None


def make_stream(kind: str) -> Stream:
    source, sink = tcp_pair() if kind == "tcp" else trio.socket.socketpair()
    if kind == "small":
        source.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, 4608)
    return Stream(source, sink)


class World:
    """All that lives in the run."""

    def __init__(self) -> None:
        self.streams = [make_stream(kind) for kind in KINDS]
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        self.file.truncate(REGIONS * REGION)
        self.fd = handle_of(self.file.fileno())
        self.regions = [bytearray(REGION) for _ in range(REGIONS)]
        self.busy: list[Call | None] = [None] * REGIONS
        self.listener: Any = None
        self.clients: list[Any] = []
        self.accepted: list[Any] = []
        self.accepting: Call | None = None
        self.calls: list[Call] = []
        self.nursery: trio.Nursery
        self.seed = 0

    def data(self, size: int) -> bytes:
        self.seed += 1
        return pattern(size, self.seed)

    async def start(
        self,
        ends: Any,
        call: Callable[[], Awaitable[Any]],
        done: Callable[[Any], object],
        cancelled: Callable[[], object] = lambda: None,
    ) -> Call:
        """Starts a task that makes the call, tells what came of it, and is cancelled so."""
        started = Call(trio.CancelScope())
        self.calls.append(started)

        async def work() -> None:
            with started.scope:
                if ends == "before":
                    started.scope.cancel()
                elif isinstance(ends, float):
                    started.scope.deadline = trio.current_time() + ends
                try:
                    result = await call()
                except trio.Cancelled:
                    cancelled()
                    raise
                else:
                    assert ends != "before", "no cancel point"
                    done(result)
                finally:
                    started.over = True
                    self.calls.remove(started)

        self.nursery.start_soon(work)
        if ends == "same tick":
            started.scope.cancel()
        return started

    # -- streams -----------------------------------------------------------------------

    async def send(self, stream: Stream, size: int, how: str, ends: Any) -> None:
        if stream.ended or (stream.sending is not None and not stream.sending.over):
            return
        data = self.data(size)

        def done(count: Any) -> None:
            stream.sent += data if how == "send_all" else data[:count]

        def cancelled() -> None:
            if how == "send_all":
                stream.perhaps, stream.ended = data, True

        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "send": lambda: stream.source.send(data),
            "sendmsg": lambda: stream.source.sendmsg([data[:5], data[5:]]),
            "lowlevel": lambda: lowlevel.send(stream.source.fileno(), data),
            "send_all": lambda: trio.SocketStream(stream.source).send_all(data),
        }
        stream.sending = await self.start(ends, calls[how], done, cancelled)

    async def receive(self, stream: Stream, size: int, how: str, ends: Any) -> None:
        if stream.receiving is not None and not stream.receiving.over:
            return
        buffer = bytearray(size)

        def done(result: Any) -> None:
            data = buffer[:result] if how in ("recv_into", "lowlevel into") else result
            stream.got += data[0] if how == "recvmsg" else data

        fd = stream.sink.fileno()
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "recv": lambda: stream.sink.recv(size),
            "recv_into": lambda: stream.sink.recv_into(buffer),
            "recvmsg": lambda: stream.sink.recvmsg(size),
            "receive_some": lambda: trio.SocketStream(stream.sink).receive_some(size),
            "lowlevel": lambda: lowlevel.recv(fd, size),
            "lowlevel into": lambda: lowlevel.recv_into(fd, buffer),
        }
        stream.receiving = await self.start(ends, calls[how], done)

    async def settle_stream(self, stream: Stream) -> None:
        """All that was sent arrives, and then the end."""
        if stream.receiving is not None:
            stream.receiving.scope.cancel()
            while not stream.receiving.over:
                await trio.sleep(0)
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                while stream.sending is not None and not stream.sending.over:
                    await trio.sleep(0.001)
                stream.source.shutdown(stdlib_socket.SHUT_WR)

            nursery.start_soon(end)
            while data := await stream.sink.recv(100_000):
                stream.got += data
        sent = bytes(stream.sent)
        assert stream.got[: len(sent)] == sent
        assert stream.perhaps.startswith(bytes(stream.got[len(sent) :]))
        stream.source.close()
        stream.sink.close()

    # -- files -------------------------------------------------------------------------

    async def write(self, at: int, start: int, size: int, ends: Any) -> None:
        busy = self.busy[at]
        if busy is not None and not busy.over:
            return
        data = self.data(size)[: REGION - start]

        def done(count: int) -> None:
            self.regions[at][start : start + count] = data[:count]

        call = functools.partial(lowlevel.write_at, self.fd, data, at * REGION + start)
        self.busy[at] = await self.start(ends, call, done)

    async def read(self, at: int, start: int, ends: Any) -> None:
        busy = self.busy[at]
        if busy is not None and not busy.over:
            return

        def done(data: bytes) -> None:
            assert data == self.regions[at][start:]

        call = functools.partial(lowlevel.read_at, self.fd, REGION - start, at * REGION + start)
        self.busy[at] = await self.start(ends, call, done)

    # -- connections -------------------------------------------------------------------

    async def connect(self) -> None:
        client = stdlib_socket.create_connection(self.listener.getsockname())
        client.settimeout(PATIENCE)
        self.clients.append(client)

    async def accept(self, ends: Any) -> None:
        if self.accepting is None or self.accepting.over:

            def done(result: Any) -> None:
                self.accepted.append(result[0])

            self.accepting = await self.start(ends, self.listener.accept, done)

    async def settle_connections(self) -> None:
        """Each client was accepted once, or is still to be."""
        if self.accepting is not None and not self.accepting.over:
            self.accepting.scope.cancel()
            while not self.accepting.over:
                await trio.sleep(0)
        while len(self.accepted) < len(self.clients):
            self.accepted.append((await self.listener.accept())[0])
        clients = {client.getsockname() for client in self.clients}
        assert {sock.getpeername() for sock in self.accepted} == clients
        self.listener.close()
        for sock in *self.accepted, *self.clients:
            sock.close()

    # -- life --------------------------------------------------------------------------

    async def live(self, ready: Callable[[], object], over: trio.Event) -> None:
        self.listener = trio.socket.socket()
        await self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(100)
        async with trio.open_nursery() as self.nursery:
            ready()
            await over.wait()
            with trio.fail_after(PATIENCE):
                for stream in self.streams:
                    await self.settle_stream(stream)
                await self.settle_connections()
                while any(call is not None and not call.over for call in self.busy):
                    await trio.sleep(0.001)
        assert not self.calls
        await trio.testing.wait_all_tasks_blocked()
        assert statistics().operations_in_flight <= 1  # the run's own wake-up
        assert self.file.read() == b"".join(self.regions)

    def close(self) -> None:
        """After a run that failed: nothing of it must be blamed on the next."""
        self.file.close()
        with contextlib.suppress(AttributeError):
            self.listener.close()
        for stream in self.streams:
            stream.source.close()
            stream.sink.close()
        for sock in *self.accepted, *self.clients:
            sock.close()


class Program(RuleBasedStateMachine):
    backend: str

    def __init__(self) -> None:
        super().__init__()
        self.before = open_fds()
        self.world = World()
        self.over: trio.Event
        self.token: Any
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self.run)
        self.started = threading.Event()
        self.thread.start()
        assert self.started.wait(PATIENCE)

    def run(self) -> None:
        async def main() -> None:
            self.over = trio.Event()
            self.token = trio.lowlevel.current_trio_token()
            await self.world.live(self.started.set, self.over)

        try:
            trio_lio.run(main, backend=self.backend)
        except BaseException as exc:
            self.error = exc
            self.started.set()

    def inside(self, async_fn: Callable[..., Awaitable[Any]], *args: Any) -> None:
        with contextlib.suppress(trio.RunFinishedError, trio.Cancelled):
            trio.from_thread.run(async_fn, *args, trio_token=self.token)

    @rule(
        at=STREAM,
        size=SIZES,
        how=st.sampled_from(SENDS),
        ends=ENDS,
    )
    def send(self, at: int, size: int, how: str, ends: Any) -> None:
        self.inside(self.world.send, self.world.streams[at], size, how, ends)

    @rule(
        at=STREAM,
        size=SIZES,
        how=st.sampled_from(RECEIVES),
        ends=ENDS,
    )
    def receive(self, at: int, size: int, how: str, ends: Any) -> None:
        self.inside(self.world.receive, self.world.streams[at], size, how, ends)

    @rule(
        at=st.integers(0, REGIONS - 1),
        start=st.integers(0, REGION - 1),
        size=SIZES,
        ends=ENDS,
    )
    def write(self, at: int, start: int, size: int, ends: Any) -> None:
        self.inside(self.world.write, at, start, size, ends)

    @rule(at=st.integers(0, REGIONS - 1), start=st.integers(0, REGION - 1), ends=ENDS)
    def read(self, at: int, start: int, ends: Any) -> None:
        self.inside(self.world.read, at, start, ends)

    @rule()
    def connect(self) -> None:
        self.inside(self.world.connect)

    @rule(ends=ENDS)
    def accept(self, ends: Any) -> None:
        self.inside(self.world.accept, ends)

    @rule(which=st.integers(0, 7))
    def cancel(self, which: int) -> None:
        async def cancel() -> None:
            if self.world.calls:
                self.world.calls[which % len(self.world.calls)].scope.cancel()

        self.inside(cancel)

    @rule(settled=st.booleans())
    def let_go_on(self, settled: bool) -> None:
        self.inside(
            trio.testing.wait_all_tasks_blocked if settled else trio.lowlevel.checkpoint
        )

    @invariant()
    def still_runs(self) -> None:
        if self.error is not None:
            raise self.error

    def teardown(self) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self.token.run_sync_soon(self.over.set)
        self.thread.join(2 * PATIENCE)
        assert not self.thread.is_alive(), "sleeps for ever"
        self.world.close()
        if self.error is not None:
            raise self.error
        left = {fd: what for fd, what in open_fds().items() if fd not in self.before}
        assert not left


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_random_programs(backend: str) -> None:
    class ProgramHere(Program):
        pass

    ProgramHere.backend = backend
    run_state_machine_as_test(
        ProgramHere,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
