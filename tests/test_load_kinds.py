"""The load generator's other kinds of load, and the floor server, with servers of a few lines."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

import trio_lio
from trio_lio._measure import Load
from trio_lio._native import ffi, lib

from .test_load_generator import echo, run, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_reconnect_opens_a_connection_for_each_request() -> None:
    accepted = []

    def serve(connection: socket.socket) -> None:
        accepted.append(None)
        echo(connection)

    with serving(serve) as address:
        load = Load(address, connections=3, message_bytes=100, requests=50, kind="reconnect")
        run(load)
    assert load.result().requests == 50
    assert load.result().errors == 0
    # The first three answer twice; up to three were open when the last request was answered.
    assert 50 <= len(accepted) <= 56


@contextlib.contextmanager
def datagram_server(cut: int = 0) -> Iterator[tuple[str, int]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)

        def serve() -> None:
            while True:
                data, address = sock.recvfrom(65536)
                if not data:
                    return
                sock.sendto(data[cut:], address)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield sock.getsockname()
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(b"", sock.getsockname())
            thread.join()


@pytest.mark.parametrize("size", [1, 64, 60_000])
def test_datagrams(size: int) -> None:
    with datagram_server() as address:
        load = Load(address, connections=2, message_bytes=size, requests=100, kind="datagrams")
        run(load)
    found = load.result()
    assert found.requests == 100
    assert found.bytes == 100 * size
    assert found.errors == 0


def test_a_cut_datagram_is_corrupt() -> None:
    with datagram_server(cut=1) as address:
        load = Load(address, connections=1, message_bytes=64, requests=5, kind="datagrams")
        with load:
            assert load.join(30)
    with pytest.raises(OSError, match="Bad message"):
        load.result()


def test_datagrams_have_a_greatest_size() -> None:
    load = Load(("127.0.0.1", 1), connections=1, message_bytes=65508, kind="datagrams")
    run(load)
    with pytest.raises(OSError, match="too long"):
        load.result()


def test_sink_counts_what_the_server_sends_unasked() -> None:
    def pour(connection: socket.socket) -> None:
        while True:
            connection.sendall(bytes(100_000))

    with serving(pour) as address:
        load = Load(address, connections=2, message_bytes=1 << 16, requests=200, kind="sink")
        run(load)
    found = load.result()
    assert found.requests >= 200
    assert found.requests == found.bytes >> 16
    assert found.errors == 0


def test_sink_of_a_server_that_ends() -> None:
    with serving(lambda connection: connection.sendall(b"x")) as address:
        load = Load(address, connections=1, message_bytes=10, seconds=20, kind="sink")
        run(load)
    assert load.result().errors == 1


def test_a_rate_is_kept_and_lateness_counts() -> None:
    def serve(connection: socket.socket) -> None:
        data = connection.recv(65536)
        connection.sendall(data)
        echo(connection)

    with serving(serve) as address:
        load = Load(address, connections=4, message_bytes=10, seconds=0.5, rate=400)
        run(load)
    found = load.result()
    assert found.rate == pytest.approx(400, rel=0.2)
    assert found.errors == 0
    assert found.requests < 300  # a closed loop makes thousands


def test_a_server_that_does_not_keep_up_is_late_by_more_and_more() -> None:
    pause = threading.Event()

    def serve(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            pause.wait(0.02)
            connection.sendall(data)

    with serving(serve) as address:
        # One connection, twenty times as many requests as can be answered.
        load = Load(address, connections=1, message_bytes=10, seconds=0.6, rate=1000)
        run(load)
        pause.set()
    found = load.result()
    assert found.requests < 60
    assert found.slowest > 0.3  # each took 0.02 s, and was due long before


def test_idle_connections_are_answered_once() -> None:
    heard: list[int] = []

    def serve(connection: socket.socket) -> None:
        total = 0
        while data := connection.recv(65536):
            total += len(data)
            connection.sendall(data)
        heard.append(total)

    with serving(serve) as address:
        load = Load(address, connections=2, message_bytes=10, requests=100, idle=5)
        with load:
            assert load.join(30)
        assert load.connected == 7
    assert load.result().requests == 100
    assert load.result().errors == 0
    assert sorted(heard)[:5] == [10] * 5
    assert sum(heard) >= 1000 + 70


def test_floor_server() -> None:
    infos = {info.name: info for info in trio_lio.available_backends()}
    if not infos["uring"].available:
        pytest.skip(infos["uring"].reason)
    stop = ffi.new("uint32_t *")
    results = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            results.append(lib.lio_floor_serve(listener.fileno(), 65536, stop))

        thread = threading.Thread(target=serve)
        thread.start()
        address = listener.getsockname()
        for size in (1, 1000, 500_000):
            load = Load(address, connections=20, message_bytes=size, requests=200)
            run(load)
            assert load.result().requests == 200
            assert load.result().errors == 0
        stop[0] = 1
        socket.create_connection(address).close()  # it looks at stop once a batch
        thread.join(10)
    assert results == [0]


def test_floor_server_refuses_nonsense() -> None:
    assert lib.lio_floor_serve(0, 0, ffi.new("uint32_t *")) < 0
    assert lib.lio_floor_serve(0, 100, ffi.NULL) < 0


def test_the_bench_server_is_plain_trio() -> None:
    """What is loaded must not know of trio-lio, or it is no comparison."""
    from trio_lio.bench._servers import HERE

    for name in ("trio_server", "asyncio_server", "anyio_server"):
        assert "trio_lio" not in (HERE / "servers" / f"{name}.py").read_text()
