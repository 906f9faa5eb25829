"""What tools/soak.py lets its tasks do. A job is one small story whose end is known: each byte
that arrives is compared with the one that was sent."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket as stdlib_socket
import struct
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from trio_lio import lowlevel

# Bytes in which a lost, doubled or moved part shows.
BLOB = random.Random("trio-lio").randbytes(4 << 20)
LARGEST = 300_000

# A connection that is reset shows as one of these.
RESET = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)
BROKEN = (trio.BrokenResourceError, *RESET)

_LINGER = struct.pack("ii", 1, 0)


class Lost(AssertionError):
    """Bytes that were read are not those that were written."""


class Book:
    """What happened, and what all jobs of a run share."""

    def __init__(self) -> None:
        self.jobs: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.operations = self.cancelled = self.overflows = 0
        self.bytes = 0
        self.lost = 0
        self.scopes: set[trio.CancelScope] = set()
        self.received: dict[int, bytearray] = {}
        self.numbers = 0
        self.echo_address: Any = None
        self.proxy_address: Any = None

    def same(self, got: bytes, sent: bytes, *, prefix: bool = False) -> None:
        """``got`` must be ``sent``, or, where a connection was cut, begin it."""
        wanted = sent[: len(got)] if prefix else sent
        if bytes(got) != bytes(wanted):
            at = next(
                (i for i, (a, b) in enumerate(zip(got, sent, strict=False)) if a != b), -1
            )
            self.lost += max(1, abs(len(sent) - len(got)))
            raise Lost(f"{len(got)} bytes read, {len(sent)} written, first difference at {at}")
        self.bytes += len(got)

    async def start(self, nursery: trio.Nursery) -> None:
        dice = random.Random(self.numbers)
        self.echo_address = await nursery.start(_echo_server, self)
        self.proxy_address = await nursery.start(_chaos_proxy, self, dice)
        nursery.start_soon(_cancel_at_random, self, dice)

    def stop(self) -> None:
        self.scopes.clear()
        self.received.clear()


def _piece(dice: random.Random, largest: int = LARGEST) -> bytes:
    size = min(largest, int(dice.expovariate(1 / 30_000)) + 1)
    start = dice.randrange(len(BLOB) - size)
    return BLOB[start : start + size]


# -- faults ----------------------------------------------------------------------------


async def _cancel_at_random(book: Book, dice: random.Random) -> None:
    """Ends calls at a moment that has nothing to do with them."""
    while True:
        await trio.sleep(dice.choice([0, 0, 0, 0.0005, 0.003]))
        for scope in dice.sample(list(book.scopes), k=min(3, len(book.scopes))):
            scope.cancel()


async def _insist(
    book: Book, dice: random.Random, call: Callable[..., Awaitable[Any]], *args: Any
) -> Any:
    """What a call comes to in the end, however often it is cancelled before."""
    while True:
        how = dice.random()
        with trio.CancelScope() as scope:
            if how < 0.3:
                scope.deadline = trio.current_time() + dice.choice([0, 0.0001, 0.002])
            elif how < 0.6:
                book.scopes.add(scope)
            try:
                return await call(*args)
            finally:
                book.scopes.discard(scope)
        book.faults["cancels"] += 1


async def _chaos_proxy(
    book: Book, dice: random.Random, task_status: trio.TaskStatus[Any]
) -> None:
    """Passes connections on to the echo server: in small pieces, late, or not at all."""

    async def pump(source: Any, target: Any, budget: list[int], both: list[Any]) -> None:
        with contextlib.suppress(*BROKEN, trio.ClosedResourceError, OSError):
            while data := await source.recv(dice.choice([1, 7, 100, 4096, 65536])):
                if dice.random() < 0.05:
                    book.faults["delays"] += 1
                    await trio.sleep(dice.uniform(0, 0.02))
                budget[0] -= len(data)
                if budget[0] < 0:
                    book.faults["resets"] += 1
                    for sock in both:
                        sock.setsockopt(
                            stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, _LINGER
                        )
                        sock.close()
                    return
                while data:
                    sent = await target.send(data[: dice.choice([3, 1000, 65536])])
                    book.faults["pieces"] += sent < len(data)
                    data = data[sent:]
            target.shutdown(stdlib_socket.SHUT_WR)

    async def serve(client: Any) -> None:
        with client:
            server = trio.socket.socket()
            with server:
                await server.connect(book.echo_address)
                budget = [dice.choice([10, 5_000, 60_000, 10**9, 10**9])]
                both = [client, server]
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pump, client, server, budget, both)
                    nursery.start_soon(pump, server, client, budget, both)

    await _serve(serve, task_status)


async def _serve(handler: Any, task_status: trio.TaskStatus[Any]) -> None:
    listener = trio.socket.socket()
    with listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(200)
        task_status.started(listener.getsockname())
        async with trio.open_nursery() as nursery:
            while True:
                sock, _ = await listener.accept()
                nursery.start_soon(handler, sock)


async def _echo_server(book: Book, task_status: trio.TaskStatus[Any]) -> None:
    """Notes what comes under the number that comes first, and sends it back."""

    async def echo(sock: Any) -> None:
        with sock, contextlib.suppress(*BROKEN):
            stream = trio.SocketStream(sock)
            head = b""
            while len(head) < 8:
                more = await stream.receive_some(8 - len(head))
                if not more:
                    return
                head += more
            notes = book.received[int.from_bytes(head, "big")] = bytearray()
            while data := await stream.receive_some(20_000):
                notes += data
                await stream.send_all(data)
            await stream.send_eof()

    await _serve(echo, task_status)


# -- jobs ------------------------------------------------------------------------------


async def _send(book: Book, dice: random.Random, sock: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[
            await _insist(book, dice, sock.send, view[: dice.choice([5, 4000, 10**6])]) :
        ]


async def _receive(book: Book, dice: random.Random, sock: Any, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        how = dice.randrange(4)
        room = min(size - len(got), dice.choice([1, 900, 70_000]))
        if how == 0:
            buffer = bytearray(room)
            data: Any = buffer[: await _insist(book, dice, sock.recv_into, buffer)]
        elif how == 1:
            data = (await _insist(book, dice, sock.recvmsg, room))[0]
        elif how == 2:
            data = await _insist(book, dice, trio.SocketStream(sock).receive_some, room)
        else:
            data = await _insist(book, dice, sock.recv, room)
        if not data:
            break
        got += data
    return bytes(got)


async def _both_ways(book: Book, dice: random.Random, a: Any, b: Any) -> None:
    """Random data in both directions at once, each call cancelled now and then."""
    pieces = {a: _piece(dice), b: _piece(dice)}

    async def receive(sock: Any, wanted: bytes) -> None:
        book.same(await _receive(book, dice, sock, len(wanted)), wanted)

    with a, b:
        async with trio.open_nursery() as nursery:
            for here, there in ((a, b), (b, a)):
                nursery.start_soon(_send, book, dice, here, pieces[here])
                nursery.start_soon(receive, there, pieces[here])


async def pairs(book: Book, dice: random.Random) -> None:
    await _both_ways(book, dice, *trio.socket.socketpair())


async def connections(book: Book, dice: random.Random) -> None:
    """A connect, and an accept that is cancelled until it succeeds."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        client = trio.socket.socket()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.connect, listener.getsockname())
            server, address = await _insist(book, dice, listener.accept)
        assert address == client.getsockname()
    await _both_ways(book, dice, client, server)


async def through_chaos(book: Book, dice: random.Random) -> None:
    """What comes through a bad network begins what was sent; all of it if nothing was reset."""
    data = _piece(dice)
    book.numbers += 1
    number = book.numbers
    got = bytearray()
    whole = True
    client = trio.socket.socket()
    with client:
        await client.connect(book.proxy_address)
        stream = trio.SocketStream(client)

        async def send() -> None:
            nonlocal whole
            try:
                await stream.send_all(number.to_bytes(8, "big") + data)
                await stream.send_eof()
            except (*BROKEN, OSError):
                whole = False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            try:
                while more := await _insist(book, dice, client.recv, 30_000):
                    got += more
            except RESET:
                whole = False
    book.same(bytes(got), data, prefix=not whole)
    book.same(bytes(book.received.pop(number, b"")), data, prefix=not whole)


async def cancelled_send_all(book: Book, dice: random.Random) -> None:
    """However far it came: what the peer has is the beginning of what was sent."""
    a, b = trio.socket.socketpair()
    data = BLOB[: dice.choice([100, 500_000, 2_000_000])]
    with a, b:
        with trio.move_on_after(dice.choice([0, 0.0005, 0.005])):
            await trio.SocketStream(a).send_all(data)
        book.faults["cancels"] += 1
        a.close()
        got = bytearray()
        while more := await _insist(book, dice, b.recv, 200_000):
            got += more
    book.same(bytes(got), data, prefix=True)


async def datagrams(book: Book, dice: random.Random) -> None:
    a, b = trio.socket.socketpair(type=stdlib_socket.SOCK_DGRAM)
    packets = [_piece(dice, 60_000) for _ in range(dice.randrange(1, 12))]

    async def send() -> None:
        for packet in packets:
            await _insist(book, dice, a.send, packet)

    with a, b:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for packet in packets:
                if dice.random() < 0.5:
                    got = await _insist(book, dice, b.recv, 65536)
                else:
                    got, _ = await _insist(book, dice, b.recvfrom, 65536)
                book.same(got, packet)


async def pipes(book: Book, dice: random.Random) -> None:
    source, target = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    data = _piece(dice)

    async def send() -> None:
        view = memoryview(data)
        while view:
            view = view[await _insist(book, dice, lowlevel.write, target, view[:9000]) :]
        lowlevel.close_fd(target)

    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while more := await _insist(book, dice, lowlevel.read, source, 7000):
            got += more
    lowlevel.close_fd(source)
    book.same(bytes(got), data)


async def files(book: Book, dice: random.Random) -> None:
    """Writes at random places, each cancelled or not: the file holds what they said."""
    model = bytearray(60_000)
    with tempfile.TemporaryFile() as file:
        fd = file.fileno()
        os.ftruncate(fd, len(model))
        for _ in range(dice.randrange(1, 10)):
            data = _piece(dice, 20_000)
            at = dice.randrange(len(model) - len(data))
            count = await _insist(book, dice, lowlevel.write_at, fd, data, at)
            model[at : at + count] = data[:count]
            if dice.random() < 0.3:
                await _insist(book, dice, lowlevel.fsync, fd)
        at = dice.randrange(len(model))
        got = bytearray()
        while more := await _insist(
            book, dice, lowlevel.read_at, fd, len(model), at + len(got)
        ):
            got += more
        book.same(bytes(got), model[at:])
        book.same(os.pread(fd, len(model), 0), model)


async def readiness(book: Book, dice: random.Random) -> None:
    """wait_readable and plain calls on a descriptor that is not ours."""
    a, b = stdlib_socket.socketpair()
    with a, b:
        a.setblocking(False)
        for _ in range(5):
            data = _piece(dice, 1000)
            b.send(data)
            await _insist(book, dice, trio.lowlevel.wait_readable, a)
            await _insist(book, dice, trio.lowlevel.wait_writable, b)
            book.same(a.recv(2000), data)
        trio.lowlevel.notify_closing(a)


async def closed_while_waiting(book: Book, dice: random.Random) -> None:
    """A close ends the calls of others, and the peer sees the end."""
    a, b = trio.socket.socketpair()

    async def wait() -> None:
        try:
            await a.recv(100)
        except trio.ClosedResourceError:
            return
        except OSError as exc:
            if exc.errno == errno.EBADF:  # closed before the call began
                return
            raise
        raise Lost("a receive on a closed socket returned")

    with b:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(dice.choice([0, 0, 0.001]))
            a.close()
        book.faults["closes under a call"] += 1
        assert await b.recv(10) == b""


async def replaced(book: Book, dice: random.Random) -> None:
    """Somebody puts another file in the place of a descriptor, behind our back, while a call
    waits on it: the bytes of that file are not for the call."""
    a, b = trio.socket.socketpair()
    c, d = stdlib_socket.socketpair()
    begins = trio.Event()

    async def wait() -> None:
        begins.set()
        try:
            await a.recv(100)
        except OSError as exc:
            if exc.errno == errno.EBADF:  # found out: the file that it waited for is gone
                return
            raise
        raise Lost("a receive got what was another file's")

    with a, b, c, d:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await begins.wait()
            os.dup2(c.fileno(), a.fileno())
            book.faults["files replaced under a call"] += 1
            data = _piece(dice, 1000)
            d.send(data)
            await trio.sleep(dice.choice([0, 0.001]))
            book.same(c.recv(2000), data)
            nursery.cancel_scope.cancel()


async def processes(book: Book, dice: random.Random) -> None:
    if dice.random() < 0.9:
        return  # they are dear
    data = _piece(dice)
    done = await trio.run_process(["cat"], stdin=data, capture_stdout=True)
    book.same(done.stdout, data)


async def threads(book: Book, dice: random.Random) -> None:
    for number in range(3):
        assert await trio.to_thread.run_sync(lambda number=number: number) == number
        await trio.to_thread.run_sync(trio.from_thread.run_sync, trio.current_time)


JOBS = [
    cancelled_send_all,
    closed_while_waiting,
    connections,
    datagrams,
    files,
    pairs,
    pipes,
    processes,
    readiness,
    replaced,
    threads,
    through_chaos,
]
