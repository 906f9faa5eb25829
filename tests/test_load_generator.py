"""The C load generator against servers of a few lines."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from trio_lio._measure import Load
from trio_lio._native import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


@contextlib.contextmanager
def serving(
    serve: Callable[[socket.socket], None] = echo, path: str | None = None
) -> Iterator[tuple[str, int] | str]:
    """A thread for each connection; all of them end with the block."""
    family = socket.AF_INET if path is None else socket.AF_UNIX
    listener = socket.socket(family)
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def handle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            serve(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                thread = threading.Thread(target=handle, args=(connection,))
                threads.append(thread)
                thread.start()

    with listener:
        listener.bind(("127.0.0.1", 0) if path is None else path)
        listener.listen(20)
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield listener.getsockname()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def run(load: Load, timeout: float = 30) -> None:
    with load:
        assert load.join(timeout)


@pytest.mark.parametrize("size", [1, 1000, 300_000, 3_000_000])
def test_requests_are_counted(size: int) -> None:
    with serving() as address:
        load = Load(address, connections=3, message_bytes=size, requests=30)
        run(load)
    found = load.result()
    assert found.requests == load.requests == 30
    assert found.bytes == 30 * size
    assert found.errors == found.corrupt == found.first_error == 0
    assert 0 < found.p50 <= found.p99 <= found.slowest
    assert 0 < found.mean <= found.slowest
    assert found.elapsed > 0


def test_time_ends_it_and_warming_up_is_not_counted() -> None:
    with serving() as address:
        load = Load(address, connections=10, message_bytes=100, seconds=0.3, warm_up=0.5)
        started = time.monotonic()
        with load:
            while not load.measuring:
                assert load.requests == 0
                time.sleep(0.01)
            assert time.monotonic() - started >= 0.5
            assert load.connected == 10
            assert load.join(30)
        assert time.monotonic() - started >= 0.8
    found = load.result()
    assert 0.3 <= found.elapsed < 0.8
    assert found.rate == pytest.approx(found.requests / found.elapsed)


def test_more_connections_than_the_backlog_holds() -> None:
    with serving() as address:
        load = Load(address, connections=200, message_bytes=10, requests=2000)
        run(load)
    assert load.result().requests == 2000
    assert load.result().errors == 0


def test_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with serving(path=path):
        load = Load(path, connections=20, message_bytes=10, requests=200)
        run(load)
    assert load.result().requests == 200


def test_ipv6() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as exc:
        pytest.skip(f"no IPv6 here: {exc}")
    with listener:
        load = Load(
            ("::1", listener.getsockname()[1]), connections=1, message_bytes=9, requests=5
        )
        with load:
            connection, _ = listener.accept()
            with connection:
                echo(connection)
    assert load.result().requests == 5


def test_stop_ends_it_early() -> None:
    with serving() as address:
        load = Load(address, connections=4, message_bytes=100)
        started = time.monotonic()
        with load:
            while load.requests < 10:
                time.sleep(0.01)
            load.stop()
            assert load.join(10)
        assert time.monotonic() - started < 10
    found = load.result()
    assert found.requests >= 10
    assert found.errors == 0


def test_stop_while_a_server_is_silent() -> None:
    with serving(lambda _: time.sleep(0.5)) as address:
        load = Load(address, connections=2, message_bytes=100)
        with load:
            time.sleep(0.1)
            load.stop()
            assert load.join(10)
    assert load.result().requests == 0


def test_a_corrupt_echo_is_found() -> None:
    def corrupt(connection: socket.socket) -> None:
        count = 0
        while data := bytearray(connection.recv(65536)):
            count += 1
            if count > 20:
                data[-1] ^= 1
            connection.sendall(data)

    with serving(corrupt) as address:
        load = Load(address, connections=3, message_bytes=500, seconds=20)
        run(load)
    found = load.result()
    assert found.corrupt == found.errors == 3
    assert found.first_error == errno.EBADMSG


def test_the_answer_to_an_older_request_is_corrupt() -> None:
    def repeat(connection: socket.socket) -> None:
        first = b""
        while data := connection.recv(65536):
            first = first or data
            connection.sendall(first)

    with serving(repeat) as address:
        load = Load(address, connections=1, message_bytes=64, seconds=20)
        run(load)
    assert load.result().corrupt == 1


def test_a_closed_connection_is_counted_and_the_others_go_on() -> None:
    lock = threading.Lock()
    first: list[socket.socket] = []

    def one_ends(connection: socket.socket) -> None:
        with lock:
            ends = not first
            first.append(connection)
        for _ in range(10 if ends else 1_000_000):
            data = connection.recv(65536)
            if not data:
                break
            connection.sendall(data)

    with serving(one_ends) as address:
        load = Load(address, connections=3, message_bytes=50, seconds=0.5)
        run(load)
    found = load.result()
    assert found.errors == 1
    assert found.corrupt == 0
    assert found.first_error in (errno.EPIPE, errno.ECONNRESET)
    assert found.requests > 10


def test_a_refused_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    load = Load(address, connections=2, message_bytes=10, requests=1)
    run(load)
    with pytest.raises(ConnectionRefusedError):
        load.result()


def test_a_silent_server_exhausts_patience() -> None:
    with serving(lambda _: time.sleep(2)) as address:
        load = Load(address, connections=2, message_bytes=10, requests=1, patience=0.3)
        run(load)
        with pytest.raises(TimeoutError):
            load.result()


@pytest.mark.parametrize(
    "changes",
    [{"connections": 0}, {"message_bytes": 0}, {"address": ("localhost", 1)}],
    ids=str,
)
def test_bad_options(changes: dict[str, object]) -> None:
    options = {"address": ("127.0.0.1", 1), "connections": 1, "message_bytes": 1, **changes}
    load = Load(options.pop("address"), **options)  # type: ignore[arg-type]
    run(load)
    with pytest.raises(OSError, match="load generator") as caught:
        load.result()
    assert caught.value.errno == errno.EINVAL


def test_bad_paths() -> None:
    for path, number in (("x" * 200, errno.ENAMETOOLONG), ("/no/such/socket", errno.ENOENT)):
        load = Load(path, connections=1, message_bytes=1)
        run(load)
        with pytest.raises(OSError, match="load generator") as caught:
            load.result()
        assert caught.value.errno == number


def test_no_descriptor_is_left() -> None:
    with serving() as address:
        run(Load(address, connections=5, message_bytes=10, requests=20))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with serving() as address:
            run(Load(address, connections=5, message_bytes=10, requests=20))
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_servers_cpu_time_is_read() -> None:
    with serving() as address:
        load = Load(
            address, connections=2, message_bytes=10, seconds=0.5, server_pid=os.getpid()
        )
        run(load)
        assert 0.05 < load.result().server_cpu < 5
        load = Load(address, connections=1, message_bytes=1, requests=1, server_pid=2**22 + 1)
        run(load)
        with pytest.raises(ProcessLookupError):
            load.result()


def test_buckets_follow_on_each_other() -> None:
    starts = [lib.lio_load_bucket_start(n) for n in range(lib.LIO_LOAD_BUCKETS + 1)]
    assert starts[0] == 0
    assert starts[-1] > 60e9
    for low, high in itertools.pairwise(starts):
        assert 1 <= high - low <= max(1, low / 32)


def test_percentiles() -> None:
    result = ffi.new("lio_load_result *")
    assert lib.lio_load_percentile(result, 50.0) == 0
    result.requests = 100
    result.latencies[10] = 50
    result.latencies[20] = 49
    result.latencies[40] = 1
    result.latency_max_ns = 40
    assert 10 <= lib.lio_load_percentile(result, 50.0) <= 11
    assert 20 <= lib.lio_load_percentile(result, 99.0) <= 21
    assert lib.lio_load_percentile(result, 100.0) == 40
