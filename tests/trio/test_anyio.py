"""The anyio backend: how it is found, its options, what it says it is, anyio's streams."""

from __future__ import annotations

import array
import contextlib
import functools
import os
import socket as stdlib_socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import pytest
import sniffio
import trio
import trio.testing
from anyio._backends._trio import SocketStream, UNIXSocketStream
from anyio._core._eventloop import get_async_backend

import trio_lio
import trio_lio.anyio

from ..common import fill, pattern, sees_end, take_now
from .support import SHORTLY, case_id, statistics

# Older ones ignore what they are given for trio.run.
PASSES_OPTIONS = tuple(map(int, version("anyio").split(".")[:2])) >= (4, 12)


@pytest.fixture
def anyio_run(backend: str) -> Callable[..., Any]:
    return functools.partial(
        anyio.run, backend="trio_lio", backend_options={"backend": backend}
    )


@pytest.fixture(autouse=True)
def streams_are_as_they_were() -> Any:
    before = SocketStream.__dict__["receive"], SocketStream.__dict__["send"]
    yield
    assert (SocketStream.__dict__["receive"], SocketStream.__dict__["send"]) == before


# -- how it is found -------------------------------------------------------------------


def python(code: str, *arguments: str, cwd: Path | None = None, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments, *(["-c", textwrap.dedent(code)] if code else [])],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


_MAIN = """
    import anyio

    async def main():
        import trio
        return trio.lowlevel.current_statistics().io_statistics.backend

    def run(**options):
        return anyio.run(main, backend="trio_lio", backend_options=options)
"""


def test_any_import_of_trio_lio_makes_it_known() -> None:
    python(
        f"""
        import sys, trio_lio
        assert not any(name.partition(".")[0] == "anyio" for name in sys.modules)
        {textwrap.indent(_MAIN, "    ").strip()}
        assert anyio.get_all_backends() == ("asyncio", "trio")
        assert run(backend="epoll") == "lio-epoll"
        assert anyio.get_all_backends() == ("asyncio", "trio")
        """
    )


def test_import_lists_it() -> None:
    python(
        f"""
        {textwrap.indent(_MAIN, "    ").strip()}
        import importlib, sys, trio_lio.anyio
        sys.meta_path[:] = [f for f in sys.meta_path if "trio_lio" not in type(f).__module__]
        expected = ("asyncio", "trio", "trio_lio")
        assert anyio.get_all_backends() == expected
        if hasattr(anyio, "get_available_backends"):
            assert anyio.get_available_backends() == expected
        importlib.reload(trio_lio.anyio)
        assert anyio.get_all_backends() == expected
        assert run(backend="epoll") == "lio-epoll"
        """
    )


def test_unknown_without_any_import() -> None:
    python(
        f"""
        {textwrap.indent(_MAIN, "    ").strip()}
        try:
            run()
        except LookupError as exc:
            assert "No such backend: trio_lio" in str(exc)
        else:
            raise SystemExit("found?")
        import trio_lio
        run()
        """
    )


def test_without_anyio() -> None:
    python(
        """
        import sys
        sys.modules["anyio"] = None
        import trio_lio
        try:
            import trio_lio.anyio
        except ImportError as exc:
            assert "needs anyio" in str(exc) and "pip install 'anyio>=4.7" in str(exc), exc
        else:
            raise SystemExit("imported?")
        """
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("del t.SocketStream.receive", "SocketStream.receive is gone"),
        ("t.SocketStream.send = lambda self, a, b: 0", "SocketStream.send takes other"),
        ("del t.TestRunner", "no attribute 'TestRunner'"),
        ("del e.loaded_backends", "loaded_backends is gone"),
        ("e.BACKENDS = None", "BACKENDS is gone"),
        ("s.ResourceGuard.__init__ = lambda self, a: None", "ResourceGuard has another"),
        ("t.SocketStream.__init__ = lambda self, trio_socket: None", "SocketStream has"),
        ("t.TestRunner.__init__ = lambda self, **options: None", "TestRunner has another"),
        ("f.AsyncFile.read = lambda self: b''", "AsyncFile.read takes other"),
        ("f.AsyncFile.__init__ = lambda self, fp: None", "AsyncFile has another shape"),
        ("del f.to_thread", "no longer use to_thread"),
    ],
)
def test_other_anyio_is_refused(change: str, complaint: str) -> None:
    python(
        f"""
        import anyio._backends._trio as t, anyio._core._eventloop as e
        import anyio._core._synchronization as s, anyio._core._fileio as f
        {change}
        try:
            import trio_lio.anyio
        except ImportError as exc:
            assert type(exc).__name__ == "AnyioIncompatible", exc
            assert {complaint!r} in str(exc), exc
            assert "known to work with anyio 4.7 to" in str(exc), exc
        else:
            raise SystemExit("imported?")
        """
    )


_TESTS = """
    import pytest, sniffio, trio

    @pytest.fixture(params=["trio_lio", ("trio_lio", {"backend": "epoll", "capacity": 8})])
    def anyio_backend(request):
        return request.param

    @pytest.fixture
    async def value(anyio_backend):
        await trio.sleep(0)
        yield trio.lowlevel.current_statistics().io_statistics.backend

    @pytest.mark.anyio
    async def test_value(value, anyio_backend):
        assert value.startswith("lio-")
        assert value == trio.lowlevel.current_statistics().io_statistics.backend
        if anyio_backend != "trio_lio":
            assert value == "lio-epoll"
        assert sniffio.current_async_library() == "trio"

    @pytest.fixture
    def says(value):
        return sniffio.current_async_library()

    @pytest.mark.anyio
    async def test_host_says_trio_too(says):
        assert says == "trio"

    @pytest.mark.anyio
    async def test_fails():
        raise LookupError("as it should")
"""


def test_plugin_of_anyio_without_import(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(textwrap.dedent(_TESTS))
    report = tmp_path / "report.txt"
    code = """
        import sys, pytest
        assert "trio_lio" not in sys.modules
        sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "test_it.py"]) != 1)
    """
    report.write_text(python(code, cwd=tmp_path))
    assert "4 passed" in report.read_text()
    assert "2 failed" in report.read_text()
    assert "LookupError: as it should" in report.read_text()


# -- options ---------------------------------------------------------------------------


def test_options_of_both(backend: str) -> None:
    async def main(argument: str) -> tuple[str, str, float, int]:
        before = anyio.current_time()
        await anyio.sleep(1000 if PASSES_OPTIONS else 0)
        slept = anyio.current_time() - before
        name = trio_lio.current_backend().name
        return argument, name, slept, statistics().capacity

    options = {
        "backend": backend,
        "capacity": 17,
        "files": False,
        "clock": trio.testing.MockClock(autojump_threshold=0),
        "strict_exception_groups": True,
    }
    kept = dict(options)
    found = anyio.run(main, "a", backend="trio_lio", backend_options=options)
    assert found[:2] == ("a", backend)
    assert found[3] == 17
    assert found[2] == 1000 or not PASSES_OPTIONS
    assert options == kept


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"backend": "nonesuch"}, ValueError),
        ({"backend": 5}, TypeError),
        ({"capacity": 0}, ValueError),
        ({"capacity": "many"}, TypeError),
        ({"nonesuch": 1}, TypeError),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception]) -> None:
    async def main() -> None:
        raise AssertionError("not reached")

    if PASSES_OPTIONS or "nonesuch" not in options:
        with pytest.raises(error):
            anyio.run(main, backend="trio_lio", backend_options=options)
        with pytest.raises(error):
            with anyio.from_thread.start_blocking_portal("trio_lio", options):
                pass
    with pytest.raises(error):
        with get_async_backend("trio_lio").create_test_runner(options) as runner:
            runner.run_test(main, {})
    # and nothing of it lasts
    assert trio.run(_name) == "epoll"
    with trio_lio.installed("epoll", capacity=33):
        assert trio.run(_capacity) == 33
    assert sniffio.current_async_library_cvar.get() is None


async def _capacity() -> int:
    return int(statistics().capacity)


async def _name() -> str:
    name: str = statistics().backend
    return name


def test_environment_names_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_LIO_BACKEND", "epoll")
    assert anyio.run(_name, backend="trio_lio") == "lio-epoll"
    monkeypatch.setenv("TRIO_LIO_BACKEND", "nonesuch")
    with pytest.raises(ValueError, match="TRIO_LIO_BACKEND"):
        anyio.run(_name, backend="trio_lio")


# -- what it says it is ----------------------------------------------------------------


def test_it_is_trio_inside(anyio_run: Callable[..., Any]) -> None:
    async def main() -> None:
        assert sniffio.current_async_library() == "trio"
        assert await anyio.to_thread.run_sync(in_thread) == "trio"
        task = trio.lowlevel.current_task()
        assert anyio.get_current_task().id == id(task)
        assert anyio.get_cancelled_exc_class() is trio.Cancelled
        async with trio.open_nursery() as nursery:  # of Trio's own: no anyio around it
            nursery.start_soon(anyio.sleep, 0)
            nursery.start_soon(child)

    async def child() -> None:
        assert sniffio.current_async_library() == "trio"
        assert sniffio.current_async_library_cvar.get() == "trio"

    def in_thread() -> str:
        return str(anyio.from_thread.run_sync(sniffio.current_async_library))

    anyio_run(main)
    assert sniffio.current_async_library_cvar.get() is None
    with pytest.raises(sniffio.AsyncLibraryNotFoundError):
        sniffio.current_async_library()


def test_no_run_in_a_run(anyio_run: Callable[..., Any]) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="Already running trio"):
            anyio.run(anyio.sleep, 0, backend="trio_lio")

    anyio_run(main)


def test_what_main_raises(anyio_run: Callable[..., Any]) -> None:
    async def main() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        anyio_run(main)
    assert anyio_run(_name).startswith("lio-")


def test_portals(backend: str) -> None:
    options = {"backend": backend}
    with anyio.from_thread.start_blocking_portal("trio_lio", options) as one:
        with anyio.from_thread.start_blocking_portal("trio_lio", {"backend": "epoll"}) as two:
            with anyio.from_thread.start_blocking_portal("trio") as stock:
                assert one.call(_name) == f"lio-{backend}"
                assert two.call(_name) == "lio-epoll"
                assert stock.call(_name) == "epoll"
        assert one.call(sniffio.current_async_library) == "trio"
        assert one.start_task_soon(_name).result(20) == f"lio-{backend}"


def test_runners_one_after_another(backend: str) -> None:
    seen = []

    async def test(value: int) -> None:
        await anyio.sleep(0)
        ours = SocketStream.receive is trio_lio._anyio_stream.receive
        seen.append((value, await _name(), sniffio.current_async_library(), ours))

    async def fixture() -> Any:
        yield await _name()

    for number in range(3):
        with get_async_backend("trio_lio").create_test_runner({"backend": backend}) as runner:
            [*found] = runner.run_asyncgen_fixture(fixture, {})
            assert found == [f"lio-{backend}"]
            runner.run_test(test, {"value": number})
            with pytest.raises(ZeroDivisionError):
                runner.run_test(_divide, {})
    with get_async_backend("trio_lio").create_test_runner({"backend": backend}):
        pass  # one that never ran anything
    with get_async_backend("trio").create_test_runner({}) as runner:
        runner.run_test(test, {"value": 3})
    lio = [(n, f"lio-{backend}", "trio", True) for n in range(3)]
    assert seen == [*lio, (3, "epoll", "trio", False)]


async def _divide() -> None:
    raise ZeroDivisionError


# -- streams ---------------------------------------------------------------------------


@contextlib.contextmanager
def streams(kind: int = stdlib_socket.SOCK_STREAM) -> Any:
    """Two connected anyio streams."""
    ends = stdlib_socket.socketpair(type=kind)
    with ends[0], ends[1]:
        yield tuple(UNIXSocketStream(trio.socket.from_stdlib_socket(end)) for end in ends)


async def outcome(async_fn: Callable[..., Any], *args: Any) -> Any:
    """What a call leads to, as something that can be compared."""
    with trio.move_on_after(SHORTLY):
        try:
            return "returned", await async_fn(*args)
        except Exception as exc:
            return "raised", type(exc), str(exc), type(exc.__cause__)
    return "waits"


@pytest.fixture
def same_as_stock(anyio_run: Callable[..., Any]) -> Callable[..., Any]:
    def compare(async_fn: Callable[..., Any], *args: Any) -> Any:
        ours = anyio_run(async_fn, *args)
        assert ours == anyio.run(async_fn, *args, backend="trio")
        return ours

    return compare


@pytest.mark.parametrize(
    "item",
    [
        b"",
        b"some",
        bytearray(b"some"),
        bytearray(),
        memoryview(b"some"),
        memoryview(b"s-o-m-e")[::2],
        array.array("H", [1, 2, 3]),
        "some",
        5,
        None,
    ],
    ids=case_id,
)
def test_what_is_sent(item: Any, same_as_stock: Callable[..., Any]) -> None:
    async def main() -> Any:
        with streams() as (a, b):
            return await outcome(a.send, item), take_now(b._raw_socket)

    same_as_stock(main)


@pytest.mark.parametrize("size", [1, 3, 65536, 65537, 1 << 31, 0, -1, True, None, "3", 2.0])
@pytest.mark.parametrize("kind", ["stream", "seqpacket"])
def test_how_much_is_received(size: Any, kind: str, same_as_stock: Callable[..., Any]) -> None:
    async def main() -> Any:
        types = {
            "stream": stdlib_socket.SOCK_STREAM,
            "seqpacket": stdlib_socket.SOCK_SEQPACKET,
        }
        with streams(types[kind]) as (a, b):
            sent = pattern(100_000)
            # More than one receive from the pool brings.
            a._raw_socket.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, 1 << 20)
            a._raw_socket.send(sent)
            if size == 1 << 31 and kind == "seqpacket":
                return None  # so much memory is nobody's to ask for
            found = await outcome(b.receive, size)
            if kind == "stream" and found[0] == "returned":
                # How many bytes one receive brings may differ; which ones may not.
                assert 0 < len(found[1]) <= size
                assert sent.startswith(found[1])
                return found[0]
            return found

    same_as_stock(main)


def test_end_and_errors(same_as_stock: Callable[..., Any]) -> None:
    async def main() -> Any:
        found = []
        with streams() as (a, b):
            await a.send(b"last")
            await a.send_eof()
            found += [await outcome(b.receive), await outcome(b.receive)]
            found += [await outcome(a.send, b"more")]
        with streams() as (a, b):
            await b.aclose()
            found += [await outcome(a.send, b"x"), await outcome(a.receive)]
            found += [await outcome(b.send, b"x"), await outcome(b.receive)]
            found += [await outcome(b.send, b""), await outcome(b.send, "x")]
        with streams() as (a, b):
            a._raw_socket.close()  # behind anyio's back
            found += [await outcome(a.send, b"x"), await outcome(a.receive)]
        with streams() as (a, b):
            await a.send(b"never read")
            await b.send(b"nor this")
            await a.aclose()  # a reset: it had something to read
            found += [await outcome(b.receive), await outcome(b.send, b"x")]
        return found

    same_as_stock(main)


def test_busy_and_closed_meanwhile(same_as_stock: Callable[..., Any]) -> None:
    async def main() -> Any:
        found: dict[str, Any] = {}

        async def note(name: str, async_fn: Any, *args: Any) -> None:
            try:
                found[name] = await async_fn(*args)
            except Exception as exc:
                found[name] = type(exc), str(exc)

        with streams() as (a, _):
            fill(a._raw_socket)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(note, "receive", a.receive)
                nursery.start_soon(note, "send", a.send, b"x")
                await trio.testing.wait_all_tasks_blocked()
                assert not found
                await note("receive too", a.receive)
                await note("send too", a.send, b"x")
                await a.aclose()
            await note("receive later", a.receive)
        return found

    found = same_as_stock(main)
    assert found["receive too"][0] is anyio.BusyResourceError
    assert found["send too"][0] is anyio.BusyResourceError
    assert found["receive"][0] is found["send"][0] is anyio.ClosedResourceError


def test_cancelled_receive_loses_nothing(anyio_run: Callable[..., Any]) -> None:
    async def main() -> None:
        with streams() as (a, b):
            for number in range(200):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await b.receive()
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as group:
                        got: list[bytes] = []

                        async def receive(got: list[bytes] = got) -> None:
                            got.append(await b.receive())

                        group.start_soon(receive)
                        await trio.testing.wait_all_tasks_blocked()
                        sent = pattern(8, number)
                        a._raw_socket.send(sent)
                        if number % 2:
                            await anyio.lowlevel.checkpoint()
                        group.cancel_scope.cancel()
                assert (got[0] if got else await b.receive()) == sent

    anyio_run(main)


def test_cancelled_send(anyio_run: Callable[..., Any]) -> None:
    """What a cancelled send has sent is a beginning of what it was to send."""

    async def main() -> None:
        with streams() as (a, b):
            data = pattern(1 << 22)
            with anyio.move_on_after(0.05) as scope:
                await a.send(data)
            assert scope.cancelled_caught
            await a.aclose()
            received = b""
            with contextlib.suppress(anyio.EndOfStream):
                while True:
                    received += await b.receive()
            assert 0 < len(received) < len(data)
            assert data.startswith(received)

    anyio_run(main)


def test_every_call_is_a_checkpoint(anyio_run: Callable[..., Any]) -> None:
    async def main() -> None:
        with streams() as (a, b):
            for call in (functools.partial(a.send, b"x"), b.receive):
                with trio.testing.assert_checkpoints():
                    await call()
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await call()
                assert scope.cancelled_caught
            assert take_now(b._raw_socket) is None

    anyio_run(main)


def test_sending_nothing_is_no_checkpoint(same_as_stock: Callable[..., Any]) -> None:
    async def main() -> Any:
        with streams() as (a, _), anyio.CancelScope() as scope:
            scope.cancel()
            with trio.testing.assert_no_checkpoints():
                await a.send(b"")
            return True

    same_as_stock(main)


def test_large_transfer_both_ways(anyio_run: Callable[..., Any]) -> None:
    async def main() -> None:
        data = pattern(3_000_000)

        async def echo(stream: Any) -> None:
            async with stream:
                async for chunk in stream:
                    await stream.send(chunk)

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:

                async def send() -> None:
                    await stream.send(bytearray(data))
                    await stream.send_eof()

                group.start_soon(send)
                assert b"".join([chunk async for chunk in stream]) == data
            group.cancel_scope.cancel()

    anyio_run(main)


def test_close_is_seen_by_the_peer_at_once(anyio_run: Callable[..., Any]) -> None:
    async def main() -> None:
        with streams() as (a, b):
            async with anyio.create_task_group() as group:

                async def receive() -> None:
                    with pytest.raises(anyio.ClosedResourceError):
                        await a.receive()

                group.start_soon(receive)
                await anyio.wait_all_tasks_blocked()
                await a.aclose()
                assert sees_end(b._raw_socket)

    anyio_run(main)


def test_operations_are_used(anyio_run: Callable[..., Any], tmp_path: Path) -> None:
    """UDP, UNIX, descriptors, readiness, processes: each of them adds operations."""

    async def counted(async_fn: Callable[..., Any]) -> int:
        before = statistics().operations_pushed
        await async_fn()
        return int(statistics().operations_pushed - before)

    async def udp() -> None:
        async with await anyio.create_udp_socket(local_host="127.0.0.1") as receiver:
            port = receiver.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.create_connected_udp_socket("127.0.0.1", port) as sender:
                await sender.send(b"datagram")
                data, (host, _) = await receiver.receive()
                assert (data, host) == (b"datagram", "127.0.0.1")

    async def unix() -> None:
        path = tmp_path / "server"
        async with await anyio.create_unix_listener(path) as listener:
            async with await anyio.connect_unix(path) as client:
                async with await listener.accept() as server:
                    with open(os.devnull) as file:
                        await client.send_fds(b"here", [file])
                    data, [fd] = await server.receive_fds(10, 1)
                    os.close(fd)
                    assert data == b"here"
        path.unlink()

    async def readiness() -> None:
        with streams() as (a, b):
            await anyio.wait_writable(a._raw_socket)
            await a.send(b"x")
            await anyio.wait_readable(b._raw_socket)

    async def process() -> None:
        done = await anyio.run_process([sys.executable, "-c", "print(input())"], input=b"x\n")
        assert done.stdout == b"x\n"

    async def main() -> None:
        for async_fn, least in ((udp, 2), (unix, 4), (readiness, 3), (process, 1)):
            assert await counted(async_fn) >= least, async_fn

    anyio_run(main)


def test_streams_on_an_installed_trio(backend: str) -> None:
    """The fast path is there for anyio's own backend too, where Trio is on lio."""

    async def main() -> None:
        assert SocketStream.receive is trio_lio._anyio_stream.receive
        assert SocketStream.send is trio_lio._anyio_stream.send
        with streams() as (a, b):
            before = statistics().operations_pushed
            await a.send(b"x" * 10)
            assert await b.receive() == b"x" * 10
            assert statistics().operations_pushed - before >= 2

    with trio_lio.installed(backend=backend):
        anyio.run(main, backend="trio")


_UNCHANGED = """
    import anyio, trio_lio

    async def main():
        from anyio._backends._trio import SocketStream
        assert not hasattr(trio_lio, "anyio")
        return SocketStream.receive.__module__

    trio_lio.install("epoll")
"""


def test_a_program_that_does_not_know_us_has_fast_streams() -> None:
    python(
        f"""
        {textwrap.indent(_UNCHANGED, "    ").strip()}
        assert anyio.run(main, backend="trio") == "trio_lio._anyio_stream"
        trio_lio.uninstall()
        assert anyio.run(main, backend="trio") == "anyio._backends._trio"
        """
    )


def test_an_anyio_that_we_do_not_know_stays_as_it_is() -> None:
    python(
        f"""
        {textwrap.indent(_UNCHANGED, "    ").strip()}
        import anyio._backends._trio as t
        t.TestRunner.__init__ = lambda self, **options: None
        assert anyio.run(main, backend="trio") == "anyio._backends._trio"
        """
    )
