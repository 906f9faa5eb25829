"""Trio's rules for every call of a socket: checkpoints, cancelled scopes, busy, closing."""

from __future__ import annotations

import contextlib
import socket as stdlib_socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from ..common import fill, sees_end, take_now
from .support import (
    KINDS,
    PATIENCE,
    STREAM_KINDS,
    connected,
    drop_what_is_not_here,
    half_foreign_pair,
    statistics,
    tcp_listener,
    tcp_pair,
    waiting,
)

Run = Callable[..., Any]

RECEIVES: dict[str, Callable[[Any], Any]] = {
    "recv": lambda sock: sock.recv(100),
    "recv large": lambda sock: sock.recv(200_000),
    "recv PEEK": lambda sock: sock.recv(100, stdlib_socket.MSG_PEEK),
    "recv DONTWAIT": lambda sock: sock.recv(100, stdlib_socket.MSG_DONTWAIT),
    "recv_into": lambda sock: sock.recv_into(bytearray(100)),
    "recvfrom": lambda sock: sock.recvfrom(100),
    "recvfrom large": lambda sock: sock.recvfrom(200_000),
    "recvfrom_into": lambda sock: sock.recvfrom_into(bytearray(100)),
    "recvmsg": lambda sock: sock.recvmsg(100, 100),
    "recvmsg large": lambda sock: sock.recvmsg(200_000),
    "recvmsg_into": lambda sock: sock.recvmsg_into([bytearray(100)]),
}
SENDS: dict[str, Callable[[Any], Any]] = {
    "send": lambda sock: sock.send(b"data"),
    "send bytearray": lambda sock: sock.send(bytearray(b"data")),
    "sendmsg": lambda sock: sock.sendmsg([b"data"]),
    "send DONTWAIT": lambda sock: sock.send(b"data", stdlib_socket.MSG_DONTWAIT),
}
FAILING: dict[str, Callable[[Any], Any]] = {
    "recv of nonsense": lambda sock: sock.recv("x"),
    "recv negative": lambda sock: sock.recv(-1),
    "recv bad flags": lambda sock: sock.recv(10, "x"),
    "recv_into bytes": lambda sock: sock.recv_into(b"x"),
    "recvfrom negative": lambda sock: sock.recvfrom(-1),
    "recvfrom_into nothing": lambda sock: sock.recvfrom_into(None),
    "recvmsg nonsense": lambda sock: sock.recvmsg("x"),
    "recvmsg_into number": lambda sock: sock.recvmsg_into(5),
    "recvmsg_into bytes": lambda sock: sock.recvmsg_into([b"x"]),
    "send str": lambda sock: sock.send("x"),
    "sendto str": lambda sock: sock.sendto("x", ("127.0.0.1", 9)),
    "sendmsg number": lambda sock: sock.sendmsg(5),
    "sendmsg ancillary": lambda sock: sock.sendmsg([b"x"], [5]),
    "accept": lambda sock: sock.accept(),
}
for _calls in RECEIVES, SENDS, FAILING:
    drop_what_is_not_here(_calls)


async def checkpoint_in(call: Callable[[], Any], error: Any = None) -> None:
    """The call is a schedule point and, unless it raises, a cancel point."""
    with trio.testing.assert_checkpoints():
        if error is None:
            await call()
        else:
            with pytest.raises(error):
                await call()


# -- checkpoints -----------------------------------------------------------------------


def test_receives_are_checkpoints(run: Run) -> None:
    async def main() -> None:
        for kind in KINDS:
            with connected(kind) as pair:
                for call in RECEIVES.values():
                    await pair.b.send(b"data")
                    await checkpoint_in(lambda call=call, a=pair.a: call(a))
                if kind in STREAM_KINDS:
                    pair.b.close()
                    for call in RECEIVES.values():
                        await checkpoint_in(lambda call=call, a=pair.a: call(a))

    run(main)


def test_sends_are_checkpoints(run: Run) -> None:
    async def main() -> None:
        for kind in KINDS:
            with connected(kind) as pair:
                for call in SENDS.values():
                    await checkpoint_in(lambda call=call, b=pair.b: call(b))
                    assert take_now(pair.a._sock) == b"data"

    run(main)


def test_accept_and_connect_are_checkpoints(run: Run) -> None:
    async def main() -> None:
        with await tcp_listener() as listener, trio.socket.socket() as sock:
            await checkpoint_in(lambda: sock.connect(listener.getsockname()))
            accepted: list[Any] = []

            async def accept() -> None:
                accepted.append((await listener.accept())[0])

            await checkpoint_in(accept)
            accepted[0].close()
        with trio.socket.socket() as sock:
            await checkpoint_in(lambda: sock.connect(("127.0.0.1", 1)), OSError)
        with trio.socket.socket(stdlib_socket.AF_UNIX) as sock:
            await checkpoint_in(lambda: sock.connect("/nonexistent/path"), OSError)

    run(main)


@pytest.mark.parametrize("name", FAILING)
def test_failing_call_is_a_checkpoint(name: str, run: Run) -> None:
    async def main() -> None:
        with connected("udp4") as pair:
            await checkpoint_in(lambda: FAILING[name](pair.a), Exception)

    run(main)


@pytest.mark.parametrize("name", [*RECEIVES, *SENDS])
def test_call_of_a_closed_socket_is_a_checkpoint(name: str, run: Run) -> None:
    async def main() -> None:
        a, b = tcp_pair()
        b.close()
        a.close()
        await checkpoint_in(lambda: (RECEIVES | SENDS)[name](a), OSError)

    run(main)


@pytest.mark.parametrize("name", SENDS)
def test_broken_pipe_is_a_checkpoint(name: str, run: Run) -> None:
    async def main() -> None:
        a, b = trio.socket.socketpair()
        b.close()
        with a:
            await checkpoint_in(lambda: SENDS[name](a), BrokenPipeError)

    run(main)


# -- cancelled scopes ------------------------------------------------------------------


@contextlib.contextmanager
def cancelled() -> Any:
    with trio.CancelScope() as scope:
        scope.cancel()
        yield
        raise AssertionError("the call is no cancel point")
    assert scope.cancelled_caught


def test_receive_in_a_cancelled_scope_takes_nothing(run: Run) -> None:
    async def main() -> None:
        for kind in KINDS:
            with connected(kind) as pair:
                await pair.b.send(b"data")
                for call in RECEIVES.values():
                    with cancelled():
                        await call(pair.a)
                assert take_now(pair.a._sock) == b"data"

    run(main)


def test_send_in_a_cancelled_scope_sends_nothing(run: Run) -> None:
    async def main() -> None:
        for kind in KINDS:
            with connected(kind) as pair:
                for call in SENDS.values():
                    with cancelled():
                        await call(pair.b)
                if pair.a.getsockname():
                    with cancelled():
                        await pair.b.sendto(b"data", pair.a.getsockname())
                await trio.sleep(0)
                assert take_now(pair.a._sock) is None

    run(main)


def test_wait_in_a_cancelled_scope_is_cancelled(run: Run) -> None:
    """Also for a descriptor that is ready, and that the kernel looks at at once."""

    async def main() -> None:
        a, b = stdlib_socket.socketpair()
        with a, b:
            b.send(b"data")
            for sock in a, trio.socket.from_stdlib_socket(a)._sock, a.fileno():
                for wait in trio.lowlevel.wait_readable, trio.lowlevel.wait_writable:
                    with cancelled():
                        await wait(sock)
                    await wait(sock)

    run(main)


def test_accept_in_a_cancelled_scope_accepts_nothing(run: Run) -> None:
    async def main() -> None:
        with await tcp_listener() as listener, trio.socket.socket() as client:
            await client.connect(listener.getsockname())
            with cancelled():
                await listener.accept()
            with trio.fail_after(PATIENCE):
                (await listener.accept())[0].close()

    run(main)


def test_connect_in_a_cancelled_scope_connects_nothing(run: Run) -> None:
    async def main() -> None:
        with await tcp_listener() as listener:
            sock = trio.socket.socket()
            with cancelled():
                await sock.connect(listener.getsockname())
            assert sock.fileno() == -1
            with trio.move_on_after(0.02):
                await listener.accept()
                raise AssertionError("connected")

    run(main)


def test_stream_calls_in_a_cancelled_scope_do_nothing(run: Run) -> None:
    async def main() -> None:
        a, b = tcp_pair()
        with a, b:
            ours, theirs = trio.SocketStream(a), trio.SocketStream(b)
            await theirs.send_all(b"data")
            with cancelled():
                await ours.receive_some(10)
            with cancelled():
                await ours.receive_some()
            with cancelled():
                await ours.send_all(b"never")
            with cancelled():
                await ours.send_all(b"")
            with cancelled():
                await ours.wait_send_all_might_not_block()
            assert await ours.receive_some(10) == b"data"
            await trio.sleep(0)
            assert take_now(b._sock) is None
            await ours.send_all(b"now")
            assert await theirs.receive_some(10) == b"now"

    run(main)


def test_nothing_is_pushed_to_the_kernel_by_a_cancelled_call(run: Run) -> None:
    async def main() -> None:
        with connected("socketpair") as pair:
            await pair.b.send(b"data")
            before = statistics()
            for _ in range(10):
                with cancelled():
                    await pair.a.recv(10)
            after = statistics()
            assert after.operations_in_flight == before.operations_in_flight
            assert after.operations_pushed - before.operations_pushed in (0, 10)
            taken_back = after.operations_cancelled - before.operations_cancelled
            assert taken_back == after.operations_pushed - before.operations_pushed

    run(main)


# -- busy ------------------------------------------------------------------------------

BUSY = "another task is already reading / writing this fd"
WAITS_TO_READ: dict[str, Callable[[Any], Any]] = {
    **{name: call for name, call in RECEIVES.items()},
    "wait_readable": lambda sock: trio.lowlevel.wait_readable(sock),
}
WAITS_TO_WRITE: dict[str, Callable[[Any], Any]] = {
    **SENDS,
    "wait_writable": lambda sock: sock.wait_writable(),
}


@pytest.mark.parametrize("name", WAITS_TO_READ)
def test_second_reader_is_refused(name: str, run: Run) -> None:
    async def main() -> None:
        a, b = trio.socket.socketpair()
        with a, b:
            async with waiting(WAITS_TO_READ[name], a) as outcome:
                for call in WAITS_TO_READ.values():
                    with pytest.raises(trio.BusyResourceError, match=f"^{BUSY}$"):
                        await call(a)
                await a.send(b"the other direction is free")
                await b.send(b"data")
            assert outcome[0][0] == "returned"

    run(main)


@pytest.mark.parametrize("name", WAITS_TO_WRITE)
def test_second_writer_is_refused(name: str, run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with a, b:
            size = fill(a._sock)
            async with waiting(WAITS_TO_WRITE[name], a) as outcome:
                for call in WAITS_TO_WRITE.values():
                    with pytest.raises(trio.BusyResourceError, match=f"^{BUSY}$"):
                        await call(a)
                b.send(b"the other direction is free")
                assert await a.recv(10) == b"the other "
                assert await a.recv(100)
                while size > 0:
                    size -= len(take_now(b) or b"")
                    await trio.sleep(0)
            assert outcome[0][0] == "returned"

    run(main)


def test_second_accept_is_refused(run: Run) -> None:
    async def main() -> None:
        with await tcp_listener() as listener, trio.socket.socket() as client:

            async def accept() -> None:
                (await listener.accept())[0].close()

            async with waiting(accept):
                with pytest.raises(trio.BusyResourceError, match=f"^{BUSY}$"):
                    await listener.accept()
                with pytest.raises(trio.BusyResourceError, match=f"^{BUSY}$"):
                    await trio.lowlevel.wait_readable(listener)
                await client.connect(listener.getsockname())

    run(main)


def test_calls_that_need_not_wait_are_not_busy(same_as_stock: Callable[..., Any]) -> None:
    """Two tasks in one tick: Trio refuses only those that would have to wait."""

    async def main() -> Any:
        found = []
        a, b = trio.socket.socketpair(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM)
        with a, b:

            async def receive() -> None:
                found.append(await a.recv(10))

            async def send(data: bytes) -> None:
                found.append(await a.send(data))

            await b.send(b"1")
            await b.send(b"2")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                nursery.start_soon(receive)
            async with trio.open_nursery() as nursery:
                for data in (b"1", b"22", b"333"):
                    nursery.start_soon(send, data)
            found.extend([await b.recv(10) for _ in range(3)])
        return sorted(found, key=repr)

    found = same_as_stock(main)
    assert found == [1, 2, 3, b"1", b"1", b"2", b"22", b"333"]


def test_waiting_on_a_dup_is_not_busy(run: Run) -> None:
    async def main() -> None:
        a, b = trio.socket.socketpair()
        with a, b, a.dup() as copy:
            async with waiting(a.recv, 1) as first, waiting(copy.recv, 1) as second:
                await b.send(b"12")
            assert sorted([first[0], second[0]]) == [("returned", b"1"), ("returned", b"2")]

    run(main)


def test_call_after_a_cancelled_one_is_not_busy(run: Run) -> None:
    """The cancelled operation may still be with the kernel when the next one begins."""

    async def main() -> None:
        a, b = trio.socket.socketpair()
        with a, b:
            for _ in range(200):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(a.recv, 10)
                        await trio.sleep(0)
                        await trio.sleep(0)
                        scope.cancel()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(a.recv, 10)
                    await trio.sleep(0)
                    await b.send(b"x")

    run(main)


# -- closing ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "with", "aclose"])
@pytest.mark.parametrize("name", WAITS_TO_READ)
def test_close_while_a_task_waits_to_read(name: str, how: str, run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with b:
            async with waiting(WAITS_TO_READ[name], a) as outcome:
                if how == "close":
                    a.close()
                elif how == "with":
                    with a:
                        pass
                else:
                    await trio.SocketStream(a).aclose()
                assert sees_end(b)
            assert outcome == [("raised", "ClosedResourceError", "another task closed this fd")]

    run(main)


@pytest.mark.parametrize("name", WAITS_TO_WRITE)
def test_close_while_a_task_waits_to_write(name: str, run: Run) -> None:
    async def main() -> None:
        a, b = half_foreign_pair()
        with b:
            fill(a._sock)
            async with waiting(WAITS_TO_WRITE[name], a) as outcome:
                a.close()
            assert outcome == [("raised", "ClosedResourceError", "another task closed this fd")]

    run(main)


def test_close_while_a_task_waits_to_accept(run: Run) -> None:
    async def main() -> None:
        listener = await tcp_listener()
        async with waiting(listener.accept) as outcome:
            listener.close()
        assert outcome == [("raised", "ClosedResourceError", "another task closed this fd")]

    run(main)


def test_close_in_the_tick_of_the_call(run: Run) -> None:
    """The operation is queued and was not handed over yet when its socket is closed."""

    async def main() -> None:
        for call in (RECEIVES | SENDS).values():
            a, b = half_foreign_pair()
            errors: list[str] = []
            with b:
                async with trio.open_nursery() as nursery:

                    async def work(call: Any = call, a: Any = a, errors: Any = errors) -> None:
                        try:
                            await call(a)
                        except (trio.ClosedResourceError, OSError) as exc:
                            errors.append(type(exc).__name__)

                    async def close(a: Any = a, b: Any = b) -> None:
                        a.close()
                        await trio.sleep(0)

                    nursery.start_soon(work)
                    nursery.start_soon(close)
                assert a.fileno() == -1
                data = take_now(b)
                assert data in (b"", b"data")
                assert errors in (["ClosedResourceError"], ["OSError"], [])
                if not errors:
                    assert data == b"data"

    run(main)


def test_close_twice_and_close_a_stream_twice(run: Run) -> None:
    async def main() -> None:
        a, b = trio.socket.socketpair()
        stream = trio.SocketStream(a)
        for _ in range(2):
            await stream.aclose()
            a.close()
            b.close()

    run(main)


def test_peer_sees_the_end_at_the_close(run: Run) -> None:
    """Not a tick later: no operation in flight keeps the connection open."""

    async def main() -> None:
        for kind in ("receiving", "sending", "both", "neither"):
            a, b = half_foreign_pair()
            with b:
                size = 0
                async with trio.open_nursery() as nursery:

                    async def quietly(call: Any) -> None:
                        with contextlib.suppress(trio.ClosedResourceError):
                            await call

                    if kind in ("receiving", "both"):
                        nursery.start_soon(quietly, a.recv(10))
                    if kind in ("sending", "both"):
                        size = fill(a._sock)
                        nursery.start_soon(quietly, a.send(b"x"))
                    await trio.testing.wait_all_tasks_blocked()
                    a.close()
                    while size:
                        size -= len(take_now(b) or b"")
                    assert sees_end(b)

    run(main)


def test_connect_cancelled_closes_the_socket(run: Run) -> None:
    async def main() -> None:
        with stdlib_socket.create_server(("127.0.0.1", 0), backlog=0) as server:
            socks = []
            for _ in range(8):  # more than the backlog: from some point on they wait
                sock = trio.socket.socket()
                socks.append(sock)
                with trio.move_on_after(0.03) as scope:
                    await sock.connect(server.getsockname())
                assert (sock.fileno() == -1) is scope.cancelled_caught
            assert socks[-1].fileno() == -1
            for sock in socks:
                sock.close()

    run(main)


def test_connect_while_the_socket_is_closed(run: Run) -> None:
    async def main() -> None:
        with stdlib_socket.create_server(("127.0.0.1", 0), backlog=0) as server:
            socks = []
            for _ in range(8):
                sock = trio.socket.socket()
                socks.append(sock)
                outcome: list[str] = []
                async with trio.open_nursery() as nursery:

                    async def connect(sock: Any = sock, outcome: Any = outcome) -> None:
                        try:
                            await sock.connect(server.getsockname())
                        except (trio.ClosedResourceError, OSError) as exc:
                            outcome.append(type(exc).__name__)

                    nursery.start_soon(connect)
                    await trio.testing.wait_all_tasks_blocked()
                    if len(socks) == 8:
                        sock.close()
                        await trio.testing.wait_all_tasks_blocked()
                        assert outcome == ["ClosedResourceError"]
                    elif not outcome:
                        nursery.cancel_scope.cancel()
            for sock in socks:
                sock.close()

    run(main)
