"""trio.SocketStream, SocketListener, TLS over them, and what stands in for sockets."""

from __future__ import annotations

import contextlib
import socket as stdlib_socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import trio_lio
from trio_lio import _socket

from ..common import pattern, take_now
from .support import HAS_IPV6, PATIENCE, statistics, stdlib_tcp_pair, tcp_pair

Run = Callable[..., Any]

trustme = pytest.importorskip("trustme")

Pair = tuple[trio.SocketStream, trio.SocketStream]


async def tcp_streams() -> Pair:
    a, b = tcp_pair()
    return trio.SocketStream(a), trio.SocketStream(b)


async def tcp6_streams() -> Pair:
    a, b = stdlib_tcp_pair(stdlib_socket.AF_INET6)
    return tuple(trio.SocketStream(trio.socket.from_stdlib_socket(s)) for s in (a, b))  # type: ignore[return-value]


async def unix_streams() -> Pair:
    a, b = trio.socket.socketpair()
    return trio.SocketStream(a), trio.SocketStream(b)


async def clogged(make: Callable[[], Any]) -> Pair:
    a, b = await make()
    for stream in a, b:
        with contextlib.suppress(BlockingIOError):
            while True:
                stream.socket._sock.send(bytes(65536))
    return a, b


MAKERS = {"tcp": tcp_streams, "unix": unix_streams}
if HAS_IPV6:
    MAKERS["tcp6"] = tcp6_streams


# -- Trio's own suites -----------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
def test_check_two_way_stream(kind: str, run: Run) -> None:
    make = MAKERS[kind]
    run(trio.testing.check_two_way_stream, make, lambda: clogged(make))


@pytest.mark.parametrize("kind", MAKERS)
def test_check_half_closeable_stream(kind: str, run: Run) -> None:
    make = MAKERS[kind]
    run(trio.testing.check_half_closeable_stream, make, lambda: clogged(make))


def test_check_stream_over_real_listeners(run: Run) -> None:
    async def make() -> Any:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            host, port = listener.socket.getsockname()
            client = await trio.open_tcp_stream(host, port)
            return client, await listener.accept()

    run(trio.testing.check_half_closeable_stream, make, lambda: clogged(make))


# -- TLS -------------------------------------------------------------------------------

_authority = trustme.CA()
SERVER = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
_authority.issue_cert("trio.test").configure_cert(SERVER)
CLIENT = ssl.create_default_context()
_authority.configure_trust(CLIENT)


def tls_pair(a: Any, b: Any) -> tuple[Any, Any]:
    return (
        trio.SSLStream(a, CLIENT, server_hostname="trio.test", https_compatible=True),
        trio.SSLStream(b, SERVER, server_side=True, https_compatible=True),
    )


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_check_two_way_stream_over_tls(kind: str, run: Run) -> None:
    async def make() -> Any:
        return tls_pair(*await MAKERS[kind]())

    run(trio.testing.check_two_way_stream, make, None)


def test_tls_carries_much_both_ways(run: Run) -> None:
    async def main() -> None:
        there, back = pattern(1_000_000, 1), pattern(1_500_000, 2)
        a, b = tls_pair(*await tcp_streams())
        async with a, b, trio.open_nursery() as nursery:

            async def receive(stream: Any, expected: bytes) -> None:
                got = bytearray()
                while len(got) < len(expected):
                    got += await stream.receive_some(70_000)
                assert got == expected

            nursery.start_soon(a.send_all, there)
            nursery.start_soon(b.send_all, back)
            nursery.start_soon(receive, a, back)
            nursery.start_soon(receive, b, there)

    run(main)


def test_tls_server_and_client(run: Run) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:

            async def echo(stream: Any) -> None:
                async with stream:
                    async for data in stream:
                        await stream.send_all(data)

            [listener] = await nursery.start(
                lambda task_status: trio.serve_ssl_over_tcp(
                    echo,
                    0,
                    SERVER,
                    host="127.0.0.1",
                    task_status=task_status,
                    https_compatible=True,
                )  # fmt: skip
            )
            port = listener.transport_listener.socket.getsockname()[1]
            plain = await trio.open_tcp_stream("127.0.0.1", port)
            stream = trio.SSLStream(
                plain, CLIENT, server_hostname="trio.test", https_compatible=True
            )
            async with stream:
                await stream.send_all(b"hello")
                assert await stream.receive_some(10) == b"hello"
            nursery.cancel_scope.cancel()

    run(main)


def test_dtls(run: Run) -> None:
    SSL = pytest.importorskip("OpenSSL.SSL")

    async def main() -> None:
        context = SSL.Context(SSL.DTLS_METHOD)
        _authority.issue_cert("trio.test").configure_cert(context)
        client_context = SSL.Context(SSL.DTLS_METHOD)
        client_context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        server_sock = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        client_sock = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        with server_sock, client_sock:
            await server_sock.bind(("127.0.0.1", 0))
            server, client = trio.DTLSEndpoint(server_sock), trio.DTLSEndpoint(client_sock)
            async with trio.open_nursery() as nursery:

                async def echo(channel: Any) -> None:
                    with contextlib.suppress(trio.BrokenResourceError):
                        async for packet in channel:
                            await channel.send(packet)

                await nursery.start(server.serve, context, echo)
                channel = client.connect(server_sock.getsockname(), client_context)
                with trio.fail_after(PATIENCE):
                    await channel.do_handshake()
                    await channel.send(b"datagram")
                    assert await channel.receive() == b"datagram"
                    await channel.aclose()
                nursery.cancel_scope.cancel()
            server.close()
            client.close()

    run(main)


# -- streams ---------------------------------------------------------------------------


def test_streams_are_those_of_trio(run: Run) -> None:
    async def main() -> None:
        a, b = await tcp_streams()
        async with a, b:
            for stream in a, b:
                assert type(stream) is trio.SocketStream
                assert isinstance(stream, trio.abc.HalfCloseableStream)
                assert isinstance(stream.socket, trio.socket.SocketType)
                assert type(stream.socket._sock) is stdlib_socket.socket
                assert stream.socket.getsockopt(
                    trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY
                )
        with pytest.raises(TypeError):
            trio.SocketStream(5)  # type: ignore[arg-type]

    run(main)


def test_receive_some_without_a_size_and_with_a_wrong_one(
    same_as_stock: Callable[..., Any],
) -> None:
    if _socket.LARGE_AT_FIRST:
        pytest.skip("without a size, more than Trio's then: see test_large_receives.py")

    async def main() -> Any:
        a, b = await unix_streams()
        found: list[Any] = []
        async with a, b:
            await b.send_all(bytes(100_000))
            found.append(len(await a.receive_some()))
            for size in (0, -1, "x", 1.5, True, 1 << 70, None):
                try:
                    found.append(len(await a.receive_some(size)))  # type: ignore[arg-type]
                except Exception as exc:
                    found.append((type(exc).__name__, str(exc)))
        return found

    same_as_stock(main)


def test_send_all_takes_what_trio_takes(same_as_stock: Callable[..., Any]) -> None:
    async def main() -> Any:
        found: list[Any] = []
        for data in (
            b"bytes", bytearray(b"array"), memoryview(b"view"), b"", bytearray(),
            memoryview(b"strided")[::2], "text", 5, None, [b"x"], memoryview(b""),
        ):  # fmt: skip
            a, b = await unix_streams()
            async with a, b:
                try:
                    found.append(await a.send_all(data))  # type: ignore[arg-type]
                except Exception as exc:
                    found.append((type(exc).__name__, str(exc)))
                found.append(take_now(b.socket._sock))
        return found

    same_as_stock(main)


def test_buffer_is_held_while_send_all_runs_and_no_longer(run: Run) -> None:
    async def main() -> None:
        a, b = await unix_streams()
        async with a, b:
            data = bytearray(pattern(3_000_000))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.send_all, data)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(BufferError):
                    data.clear()
                got = 0
                while got < 3_000_000:
                    got += len(await b.receive_some(1 << 20))
            data.clear()
            target = bytearray(100)
            with trio.move_on_after(0.01):
                await a.socket.recv_into(target)
            target.clear()
            with pytest.raises(BufferError), memoryview(data):
                data += b"x"

    run(main)


def test_many_send_alls_arrive_in_order(run: Run) -> None:
    async def main() -> None:
        a, b = await tcp_streams()
        async with a, b, trio.open_nursery() as nursery:
            parts = [pattern(1 + number * 37 % 50_000, number) for number in range(300)]

            async def send() -> None:
                for part in parts:
                    await a.send_all(part)
                await a.send_eof()

            nursery.start_soon(send)
            got = bytearray()
            async for data in b:
                got += data
            assert got == b"".join(parts)

    run(main)


def test_second_send_all_is_busy(run: Run) -> None:
    async def main() -> None:
        a, b = await clogged(unix_streams)
        async with a, b, trio.open_nursery() as nursery:
            nursery.start_soon(a.send_all, b"x")
            await trio.testing.wait_all_tasks_blocked()
            text = "another task is currently sending data on this SocketStream"
            for call in (
                lambda: a.send_all(b"y"),
                lambda: a.send_all(b""),
                a.wait_send_all_might_not_block,
                a.send_eof,
            ):
                with pytest.raises(trio.BusyResourceError, match=text):
                    await call()
            nursery.cancel_scope.cancel()

    run(main)


def test_errors_of_streams(same_as_stock: Callable[..., Any]) -> None:
    async def outcome(call: Any) -> Any:
        try:
            return await call()
        except Exception as exc:
            cause = exc.__cause__
            return type(exc).__name__, str(exc), type(cause).__name__, str(cause)

    async def main() -> Any:
        found: list[Any] = []
        a, b = await unix_streams()
        await b.aclose()
        found.append(await outcome(lambda: a.send_all(b"x")))
        found.append(await outcome(lambda: a.receive_some(10)))
        await a.aclose()
        for call in (
            lambda: a.send_all(b"x"), lambda: a.send_all(b""), lambda: a.receive_some(10),
            a.receive_some, a.send_eof, a.wait_send_all_might_not_block,
        ):  # fmt: skip
            found.append(await outcome(call))
        a, b = await unix_streams()
        async with a, b:
            await a.send_eof()
            await a.send_eof()
            found.append(await outcome(lambda: a.send_all(b"x")))
            found.append(await outcome(lambda: b.receive_some(10)))
            found.append(await outcome(lambda: b.send_all(b"other way")))
            found.append(await outcome(lambda: a.receive_some(100)))
        a, b = await tcp_streams()
        async with a:
            b.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await b.aclose()
            found.append(await outcome(lambda: a.receive_some(10)))
            found.append(await outcome(lambda: a.send_all(b"x")))
        return found

    same_as_stock(main)


# -- listeners and clients -------------------------------------------------------------


async def echo(stream: Any) -> None:
    async for data in stream:
        await stream.send_all(data)


def test_serve_tcp_and_open_tcp_stream(run: Run) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, echo, 0)
            port = listeners[0].socket.getsockname()[1]
            assert all(type(listener) is trio.SocketListener for listener in listeners)

            async def client(number: int) -> None:
                data = pattern(5_000, number)
                async with await trio.open_tcp_stream("localhost", port) as stream:
                    assert type(stream) is trio.SocketStream
                    await stream.send_all(data)
                    await stream.send_eof()
                    assert b"".join([part async for part in stream]) == data

            async with trio.open_nursery() as clients:
                for number in range(100):
                    clients.start_soon(client, number)
            nursery.cancel_scope.cancel()

    run(main)


def test_open_tcp_stream_reports_all_its_failures(same_as_stock: Callable[..., Any]) -> None:
    with stdlib_socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]

    async def main() -> Any:
        with pytest.raises(OSError) as caught:
            await trio.open_tcp_stream("localhost", port)
        causes = getattr(caught.value.__cause__, "exceptions", [caught.value.__cause__])
        return str(caught.value), sorted(str(cause) for cause in causes)

    found = same_as_stock(main)
    assert "Error connecting to" in found[1][0]


def test_happy_eyeballs_closes_the_losers(run: Run) -> None:
    """Attempts that are cancelled in the midst of a connect."""

    async def main() -> None:
        with stdlib_socket.create_server(("127.0.0.1", 0), backlog=0) as slow:
            port = slow.getsockname()[1]
            fillers = []
            for _ in range(6):  # fills the backlog: further connects hang
                sock = stdlib_socket.socket()
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))
                fillers.append(sock)
            with stdlib_socket.create_server(("127.0.0.2", port)) as quick:

                class Resolver(trio.abc.HostnameResolver):
                    async def getaddrinfo(self, *_: Any) -> Any:
                        family, kind = stdlib_socket.AF_INET, stdlib_socket.SOCK_STREAM
                        hosts = ["127.0.0.1", "127.0.0.1", "127.0.0.2"]
                        return [(family, kind, 6, "", (host, port)) for host in hosts]

                    async def getnameinfo(self, *_: Any) -> Any:
                        raise NotImplementedError

                trio.socket.set_custom_hostname_resolver(Resolver())
                with trio.fail_after(PATIENCE):
                    stream = await trio.open_tcp_stream(
                        "example.test", port, happy_eyeballs_delay=0.02
                    )
                assert stream.socket.getpeername() == ("127.0.0.2", port)
                quick.accept()[0].close()
                await stream.aclose()
                await trio.testing.wait_all_tasks_blocked()
                assert statistics().operations_in_flight <= 1
            for sock in fillers:
                sock.close()

    run(main)


def test_unix_listener(run: Run, tmp_path: Any) -> None:
    async def main() -> None:
        path = str(tmp_path / "socket")
        with trio.socket.socket(stdlib_socket.AF_UNIX) as sock:
            await sock.bind(path)
            sock.listen()
            listener = trio.SocketListener(sock)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, echo, [listener])
                async with await trio.open_unix_socket(path) as stream:
                    await stream.send_all(b"hello")
                    assert await stream.receive_some(10) == b"hello"
                nursery.cancel_scope.cancel()

    run(main)


def test_listener_errors(same_as_stock: Callable[..., Any]) -> None:
    async def main() -> Any:
        found = []
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                try:
                    await listener.accept()
                except Exception as exc:
                    found.append((type(exc).__name__, str(exc)))

            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            await listener.aclose()
        await accept()
        return found

    assert same_as_stock(main)[0][0] == "BusyResourceError"


def test_accept_without_free_descriptors_is_tried_again(run: Run) -> None:
    """EMFILE: serve_listeners waits and goes on, as on stock Trio, and nothing is lost."""
    import resource

    async def main() -> None:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        to = listener.socket.getsockname()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with stdlib_socket.socket() as probe:
            lowest = probe.fileno()
        async with trio.open_nursery() as nursery:
            client = stdlib_socket.socket()
            client.setblocking(False)
            nursery.start_soon(trio.serve_listeners, echo, [listener])
            await trio.testing.wait_all_tasks_blocked()
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
            try:
                client.connect_ex(to)
                await trio.sleep(0.05)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            with client, trio.fail_after(PATIENCE):
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
                await stream.send_all(b"hello")
                assert await stream.receive_some(10) == b"hello"
            nursery.cancel_scope.cancel()

    run(main)


# -- stand-ins -------------------------------------------------------------------------


def test_custom_socket_factory_is_honoured(run: Run) -> None:
    async def main() -> None:
        made = []

        class Socket(trio.socket.SocketType):
            def __init__(self, *args: Any) -> None:
                made.append(args)

            async def recv(self, buflen: int, flags: int = 0, /) -> bytes:
                return b"from nowhere"

            async def send(self, data: Any, flags: int = 0, /) -> int:
                return min(3, len(data))

            type = stdlib_socket.SOCK_STREAM
            did_shutdown_SHUT_WR = False

            def fileno(self) -> int:
                return 12345

            def setsockopt(self, *args: Any) -> None:
                raise OSError

        class Factory(trio.abc.SocketFactory):
            def socket(self, *args: Any) -> Any:
                return Socket(*args)

        trio.socket.set_custom_socket_factory(Factory())
        sock = trio.socket.socket()
        assert type(sock) is Socket
        assert made
        stream = trio.SocketStream(sock)
        assert await stream.receive_some(10) == b"from nowhere"
        await stream.send_all(b"in parts of three")

    run(main)
    a = run(make_one)
    assert type(a).__name__ == "_SocketType"


async def make_one() -> Any:
    with trio.socket.socket() as sock:
        return sock


def test_subclass_of_trios_socket_keeps_its_own_methods(run: Run) -> None:
    """Trio's class is final in name only: streams must not go behind a subclass's back."""

    async def main() -> None:
        class Socket(trio._socket._SocketType):  # type: ignore[misc]
            async def recv(self, *args: Any) -> bytes:
                return b"upper: " + (await super().recv(*args)).upper()

            async def send(self, data: Any, *args: Any) -> int:
                return await super().send(bytes(data)[:1].upper(), *args)

        a, b = stdlib_socket.socketpair()
        with b:
            stream = trio.SocketStream(Socket(a))
            async with stream:
                b.send(b"data")
                assert await stream.receive_some(10) == b"upper: DATA"
                await stream.send_all(b"abc")
                assert take_now(b) == b"ABC"

    run(main)


def test_stand_in_for_the_stdlib_socket(run: Run) -> None:
    """Tests put something else into ``._sock``: its methods are the right ones."""

    async def main() -> None:
        asked = []

        class Recorder(stdlib_socket.socket):
            def connect(self, address: Any) -> None:
                asked.append(address)
                super().connect(address)

        with stdlib_socket.create_server(("127.0.0.1", 0)) as server:
            with trio.socket.socket() as sock:
                sock._sock.close()
                sock._sock = Recorder()
                sock._sock.setblocking(False)
                await sock.connect(server.getsockname())
                assert asked == [server.getsockname()]
                peer, _ = server.accept()
                with peer:
                    await sock.send(b"data")
                    assert peer.recv(10) == b"data"
                    async with trio.open_nursery() as nursery:

                        async def receive() -> None:
                            assert await sock.recv(10) == b"back"

                        nursery.start_soon(receive)
                        await trio.testing.wait_all_tasks_blocked()
                        peer.send(b"back")

    run(main)


def test_stapled_and_memory_streams_are_left_alone(run: Run) -> None:
    async def main() -> None:
        a, b = trio.testing.memory_stream_pair()
        await a.send_all(b"x")
        assert await b.receive_some(10) == b"x"
        left, right = await unix_streams()
        stapled: Any = trio.StapledStream(left, right)
        await stapled.send_all(b"round")
        assert await stapled.receive_some(10) == b"round"
        await stapled.aclose()

    run(main)


def test_pipes_and_processes(run: Run) -> None:
    async def main() -> None:
        process = await trio.run_process(["cat"], stdin=pattern(200_000), capture_stdout=True)
        assert process.stdout == pattern(200_000)

    run(main)


class Recorder(trio.abc.AsyncResource):
    """Says in which circumstances it was closed."""

    def __init__(self) -> None:
        self.deadline = 0.0

    async def aclose(self) -> None:
        self.deadline = trio.current_effective_deadline()
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("closed", [False, True])
def test_aclose_forcefully(cancelled: bool, closed: bool, same_as_stock: Run) -> None:
    async def main() -> list[Any]:
        ours, peer = await unix_streams()
        if closed:
            await ours.aclose()
        with trio.CancelScope() as scope, trio.testing.assert_checkpoints():
            if cancelled:
                scope.cancel()
            await trio.aclose_forcefully(ours)
        async with peer:
            ended = await peer.receive_some()
        return [scope.cancelled_caught, ours.socket.fileno(), ended]

    assert same_as_stock(main) == [cancelled, -1, b""]


def test_aclose_forcefully_with_a_task_that_receives(same_as_stock: Run) -> None:
    async def main() -> str:
        ours, peer = await unix_streams()
        found = ""

        async def receive() -> None:
            nonlocal found
            try:
                await ours.receive_some()
            except trio.ClosedResourceError as exc:
                found = type(exc).__name__

        async with peer, trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await trio.aclose_forcefully(ours)
        return found

    assert same_as_stock(main) == "ClosedResourceError"


def test_aclose_forcefully_of_another_resource_is_cancelled(same_as_stock: Run) -> None:
    async def main() -> float:
        recorder = Recorder()
        await trio.aclose_forcefully(recorder)
        return recorder.deadline

    assert same_as_stock(main) == float("-inf")


@pytest.mark.usefixtures("run")
def test_aclose_forcefully_is_trios_own_again() -> None:
    with trio_lio.installed():
        ours = trio.aclose_forcefully
    assert trio.aclose_forcefully is not ours
    assert trio.aclose_forcefully.__module__ == "trio"
