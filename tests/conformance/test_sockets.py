"""Streams: connecting, accepting, sending, receiving, ending, and what goes wrong."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from trio_lio.backends import IoBackend, Op, OpCompleted, Ready

from ..common import fill, pattern, sees_end
from .support import (
    PATIENCE,
    POOL_MAX,
    Sockets,
    close_socket,
    closed_fd,
    collect,
    complete,
    errno_of,
    is_idle,
    is_private,
    new_id,
    read_all,
    run,
    submit,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path

SOCKET_OPERATIONS = {
    "recv": lambda fd: Op.recv(fd, 10),
    "recv_into": lambda fd: Op.recv_into(fd, bytearray(10)),
    "recvfrom": lambda fd: Op.recvfrom(fd, 10),
    "recvfrom_into": lambda fd: Op.recvfrom_into(fd, bytearray(10)),
    "recvmsg": lambda fd: Op.recvmsg(fd, 10, 100),
    "recvmsg_into": lambda fd: Op.recvmsg_into(fd, [bytearray(10)], 100),
    "send": lambda fd: Op.send(fd, b"x"),
    "send all": lambda fd: Op.send(fd, b"x", all=True),
    "sendto": lambda fd: Op.sendto(fd, b"x", ("127.0.0.1", 9)),
    "sendmsg": lambda fd: Op.sendmsg(fd, [b"x"]),
    "bind": lambda fd: Op.bind(fd, ("127.0.0.1", 0)),
    "listen": lambda fd: Op.listen(fd, 5),
    "accept": lambda fd: Op.accept(fd),
    "connect": lambda fd: Op.connect(fd, ("127.0.0.1", 9)),
    "shutdown": lambda fd: Op.shutdown(fd, socket.SHUT_WR),
}


@pytest.mark.parametrize("name", SOCKET_OPERATIONS)
def test_closed_descriptor_is_ebadf(backend: IoBackend, name: str) -> None:
    assert errno_of(backend, SOCKET_OPERATIONS[name](closed_fd())) == "EBADF"
    assert is_idle(backend)


@pytest.mark.parametrize("name", SOCKET_OPERATIONS)
def test_pipe_is_enotsock(backend: IoBackend, name: str) -> None:
    for end in os.pipe():
        try:
            assert errno_of(backend, SOCKET_OPERATIONS[name](end)) == "ENOTSOCK"
        finally:
            os.close(end)
    assert is_idle(backend)


@pytest.mark.parametrize(
    "name", ["recv", "recv_into", "recvmsg", "send", "send all", "sendmsg"]
)
def test_unconnected_stream(sockets: Sockets, name: str) -> None:
    expected = "ENOTCONN" if name.startswith("recv") else "EPIPE"
    sock = sockets.new()
    assert errno_of(sockets.backend, SOCKET_OPERATIONS[name](sock.fileno())) == expected


def test_shutdown_of_an_unconnected_stream(sockets: Sockets) -> None:
    sock = sockets.new()
    assert errno_of(sockets.backend, Op.shutdown(sock.fileno(), socket.SHUT_RDWR)) == "ENOTCONN"


# -- data ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100, 4096, POOL_MAX - 1, POOL_MAX])
def test_recv_what_is_there(sockets: Sockets, stream_kind: str, size: int) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    data = pattern(size)
    theirs.sendall(data)
    got = b""
    while len(got) < size:
        part = run(sockets.backend, Op.recv(ours.fileno(), size))
        assert type(part) is bytes
        got += part
    assert got == data


def test_recv_waits_for_data(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    op_id = submit(sockets.backend, Op.recv(ours.fileno(), 100))
    theirs.send(b"late")
    assert collect(sockets.backend, [op_id])[op_id].result == b"late"
    assert is_idle(sockets.backend)


def test_recv_takes_no_more_than_asked_for(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    theirs.send(b"abcdefgh")
    assert [run(sockets.backend, Op.recv(ours.fileno(), n)) for n in (3, 1, 100)] == [
        b"abc",
        b"d",
        b"efgh",
    ]


@pytest.mark.parametrize("n", [POOL_MAX + 1, 1_000_000])
def test_recv_more_than_a_pool_buffer(sockets: Sockets, n: int) -> None:
    ours, theirs = sockets.tcp_pair()
    op_id = submit(sockets.backend, Op.recv(ours.fileno(), n))
    theirs.send(b"little")
    assert collect(sockets.backend, [op_id])[op_id].result == b"little"


def test_recv_of_nothing_returns_nothing(sockets: Sockets) -> None:
    ours, theirs = sockets.tcp_pair()
    theirs.send(b"stays")
    assert run(sockets.backend, Op.recv(ours.fileno(), 0)) == b""
    assert run(sockets.backend, Op.recv_into(ours.fileno(), bytearray())) == 0
    assert run(sockets.backend, Op.recv(ours.fileno(), 10)) == b"stays"


def test_recv_into_writes_only_what_came(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    buffer = bytearray(b"." * 10)
    op_id = submit(sockets.backend, Op.recv_into(ours.fileno(), memoryview(buffer)[2:8]))
    theirs.send(b"abc")
    assert collect(sockets.backend, [op_id])[op_id].result == 3
    assert buffer == b"..abc....."


def test_recv_ends_with_nothing_at_the_end_of_the_stream(
    sockets: Sockets, stream_kind: str
) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    op_id = submit(sockets.backend, Op.recv(ours.fileno(), 10))
    theirs.shutdown(socket.SHUT_WR)
    assert collect(sockets.backend, [op_id])[op_id].result == b""
    assert run(sockets.backend, Op.recv(ours.fileno(), 10)) == b""
    assert run(sockets.backend, Op.recv_into(ours.fileno(), bytearray(10))) == 0
    # The other direction is as it was.
    assert run(sockets.backend, Op.send(ours.fileno(), b"still")) == 5
    assert read_all(theirs, 5) == b"still"


def test_data_before_the_end_comes_first(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    theirs.send(b"last words")
    theirs.shutdown(socket.SHUT_WR)
    assert run(sockets.backend, Op.recv(ours.fileno(), 5)) == b"last "
    assert run(sockets.backend, Op.recv(ours.fileno(), 50)) == b"words"
    assert run(sockets.backend, Op.recv(ours.fileno(), 50)) == b""


def test_send_reports_what_went(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    assert run(sockets.backend, Op.send(ours.fileno(), b"")) == 0
    assert run(sockets.backend, Op.send(ours.fileno(), bytearray(b"abc"))) == 3
    assert run(sockets.backend, Op.send(ours.fileno(), memoryview(b"..def.")[2:5])) == 3
    assert read_all(theirs, 6) == b"abcdef"


def test_send_waits_for_room(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    before = fill(ours)
    op_id = submit(sockets.backend, Op.send(ours.fileno(), b"at last"))
    read_all(theirs, before)
    assert collect(sockets.backend, [op_id])[op_id].result == 7
    assert read_all(theirs, 7) == b"at last"


@pytest.mark.parametrize("size", [0, 1, 1_000_000, 2_000_000])
def test_send_all_sends_all(sockets: Sockets, stream_kind: str, size: int) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    data = pattern(size)
    op_id = new_id()
    sockets.backend.push(op_id, Op.send(ours.fileno(), data, all=True))
    sockets.backend.flush()
    got = bytearray()
    done = []
    while not done or len(got) < size:
        done += sockets.backend.wait_timeout(0)
        try:
            got += theirs.recv(100_000)
        except BlockingIOError:
            continue
    assert got == data
    assert [completion.result for completion in done] == [size]


def test_send_all_keeps_what_went_when_the_peer_goes(sockets: Sockets) -> None:
    ours, theirs = sockets.tcp_pair()
    op_id = submit(sockets.backend, Op.send(ours.fileno(), bytes(8_000_000), all=True))
    read_all(theirs, 1000)
    # Data that nobody read: the close resets the connection.
    sockets.close(only=theirs)
    done = collect(sockets.backend, [op_id])[op_id]
    if done.error is None:
        assert 1000 <= done.result < 8_000_000
    else:
        assert isinstance(done.error, (ConnectionResetError, BrokenPipeError))


def test_cancelled_send_all_tells_how_much_went(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    data = pattern(8_000_000)
    op_id = submit(sockets.backend, Op.send(ours.fileno(), data, all=True))
    first = read_all(theirs, 10_000)
    assert sockets.backend.cancel(op_id) is False
    sent = collect(sockets.backend, [op_id])[op_id].unwrap()
    assert 10_000 <= sent < len(data)
    assert first + read_all(theirs, sent - 10_000) == data[:sent]
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


def test_both_directions_at_once(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    before = fill(ours)
    receiving = submit(sockets.backend, Op.recv(ours.fileno(), 10))
    sending = submit(sockets.backend, Op.send(ours.fileno(), b"out"))
    theirs.send(b"in")
    assert collect(sockets.backend, [receiving])[receiving].result == b"in"
    read_all(theirs, before)
    assert collect(sockets.backend, [sending])[sending].result == 3


def test_many_turns_of_an_echo(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    for turn in range(200):
        data = pattern(turn * 7 % 3000 + 1, seed=turn)
        ids = new_id(), new_id()
        sockets.backend.push(ids[0], Op.recv(theirs.fileno(), 4096))
        sockets.backend.push(ids[1], Op.send(ours.fileno(), data))
        done = collect(sockets.backend, ids)
        assert done[ids[1]].result == len(data)
        got = done[ids[0]].result
        while len(got) < len(data):
            got += run(sockets.backend, Op.recv(theirs.fileno(), 4096))
        assert got == data


def test_wait_turns_of_hungry_and_idle_sockets(sockets: Sockets) -> None:
    """An edge that came before the operation, and one that comes after, are both seen."""
    ours, theirs = sockets.pair()
    for _ in range(50):
        theirs.send(b"ab")
        assert run(sockets.backend, Op.recv(ours.fileno(), 1)) == b"a"
        assert run(sockets.backend, Op.recv(ours.fileno(), 1)) == b"b"
        op_id = submit(sockets.backend, Op.recv(ours.fileno(), 1))
        theirs.send(b"c")
        assert collect(sockets.backend, [op_id])[op_id].result == b"c"


# -- messages --------------------------------------------------------------------------


def test_sendmsg_gathers_and_recvmsg_scatters(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    parts = [b"ab", bytearray(b"cde"), b"", memoryview(b"f")]
    assert run(sockets.backend, Op.sendmsg(ours.fileno(), parts)) == 6
    first, second, third = bytearray(1), bytearray(), bytearray(b"." * 10)
    got = run(sockets.backend, Op.recvmsg_into(theirs.fileno(), [first, second, third]))
    assert got[:3] == (6, [], 0)
    assert (first, second, third) == (b"a", b"", b"bcdef.....")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_recvmsg_gives_what_the_socket_module_gives(sockets: Sockets, kind: int) -> None:
    ours, theirs = sockets.pair(kind)
    results = []
    for receive in (
        lambda: theirs.recvmsg(100, 100),
        lambda: run(sockets.backend, Op.recvmsg(theirs.fileno(), 100, 100)),
    ):
        ours.sendmsg([b"one message"])
        results.append(receive())
    assert results[0] == results[1]


def test_empty_sendmsg(sockets: Sockets) -> None:
    ours, theirs = sockets.pair(socket.SOCK_DGRAM)
    assert run(sockets.backend, Op.sendmsg(ours.fileno(), [])) == 0
    assert theirs.recv(10) == b""


@pytest.mark.parametrize("waits", [False, True])
def test_descriptors_are_passed(sockets: Sockets, waits: bool) -> None:
    ours, theirs = sockets.pair()
    read_end, write_end = os.pipe()
    receive = Op.recvmsg(theirs.fileno(), 10, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    op_id = submit(sockets.backend, receive) if waits else new_id()
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", write_end))
    try:
        assert run_beside(sockets, Op.sendmsg(ours.fileno(), [b"x"], [rights]), op_id) == 1
    finally:
        os.close(write_end)
    if not waits:
        sockets.backend.push(op_id, receive)
    data, ancdata, _flags, _address = finish(sockets, op_id)
    assert data == b"x"
    [(level, kind, raw)] = ancdata
    assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
    (passed,) = struct.unpack("i", raw)
    assert not os.get_inheritable(passed)
    os.write(passed, b"through")
    os.close(passed)
    assert os.read(read_end, 10) == b"through"
    os.close(read_end)


_early: dict[int, object] = {}


def run_beside(sockets: Sockets, op: Op, other: int) -> object:
    """Runs an operation while another is in flight, whose completion is kept."""
    op_id = new_id()
    sockets.backend.push(op_id, op)
    while True:
        for done in sockets.backend.wait_timeout(10):
            if done.op_id == op_id:
                _early[op_id] = done.unwrap()
            else:
                assert done.op_id == other
                _early[other] = done.unwrap()
        if op_id in _early:
            return _early.pop(op_id)


def finish(
    sockets: Sockets, op_id: int
) -> tuple[bytes, list[tuple[int, int, bytes]], int, None]:
    found = _early.pop(op_id, None)
    if found is None:
        found = collect(sockets.backend, [op_id])[op_id].unwrap()
    return found  # type: ignore[return-value]


def test_too_little_room_for_control_data_shows(sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    for receive in (
        lambda: theirs.recvmsg(10, 4),
        lambda: run(sockets.backend, Op.recvmsg(theirs.fileno(), 10, 4)),
        lambda: run(sockets.backend, Op.recvmsg(theirs.fileno(), 10, 0)),
    ):
        socket.send_fds(ours, [b"x"], [0])
        data, ancdata, flags, _address = receive()
        assert (data, ancdata) == (b"x", [])
        assert flags & socket.MSG_CTRUNC


# -- life ------------------------------------------------------------------------------


def test_socket_bind_listen_connect_accept(backend: IoBackend) -> None:
    listening = run(backend, Op.socket(socket.AF_INET, socket.SOCK_STREAM))
    assert is_private(listening)
    assert run(backend, Op.bind(listening, ("127.0.0.1", 0))) == 0
    assert run(backend, Op.listen(listening, 5)) == 0
    with socket.fromfd(listening, socket.AF_INET, socket.SOCK_STREAM) as view:
        address = view.getsockname()
    accepting = submit(backend, Op.accept(listening))
    connecting = new_id()
    client = run_one(backend, Op.socket(socket.AF_INET, socket.SOCK_STREAM))
    backend.push(connecting, Op.connect(client, address))
    done = collect(backend, [accepting, connecting])
    assert done[connecting].result == 0
    accepted, peer = done[accepting].unwrap()
    with socket.socket(fileno=client) as ours, socket.socket(fileno=accepted):
        assert peer == ours.getsockname()
        assert is_private(accepted)
        ours.sendall(b"hello")
        assert run(backend, Op.recv(accepted, 10)) == b"hello"
    assert run(backend, Op.close(listening)) == 0
    assert errno_of(backend, Op.close(listening)) == "EBADF"


def run_one(backend: IoBackend, op: Op) -> int:
    """Runs an operation beside others that stay in flight."""
    op_id = new_id()
    backend.push(op_id, op)
    [done] = backend.wait_timeout(10)
    assert done.op_id == op_id
    return int(done.unwrap())


def test_socket_that_does_not_exist(backend: IoBackend) -> None:
    assert errno_of(backend, Op.socket(12345, socket.SOCK_STREAM)) == "EAFNOSUPPORT"
    assert errno_of(backend, Op.socket(socket.AF_INET, 55)) == "EINVAL"
    assert errno_of(backend, Op.socket(socket.AF_INET, socket.SOCK_STREAM, 17)) in (
        "EPROTONOSUPPORT",
        "ESOCKTNOSUPPORT",
    )


def test_bind_and_listen_errors(sockets: Sockets) -> None:
    taken = sockets.listener()
    sock = sockets.new()
    address = taken.getsockname()
    assert errno_of(sockets.backend, Op.bind(sock.fileno(), address)) == "EADDRINUSE"
    assert (
        errno_of(sockets.backend, Op.bind(sock.fileno(), ("192.0.2.1", 0))) == "EADDRNOTAVAIL"
    )
    udp = sockets.new(kind=socket.SOCK_DGRAM)
    assert errno_of(sockets.backend, Op.listen(udp.fileno())) == "ENOTSUP"


@pytest.mark.parametrize("first", ["accept", "connect"])
def test_accept_and_connect_in_either_order(sockets: Sockets, first: str) -> None:
    server = sockets.listener()
    client = sockets.new()
    ops = {
        "accept": Op.accept(server.fileno()),
        "connect": Op.connect(client.fileno(), server.getsockname()),
    }
    ids = {name: new_id() for name in ops}
    for name in sorted(ops, key=lambda name: name != first):
        sockets.backend.push(ids[name], ops[name])
    done = collect(sockets.backend, ids.values())
    assert done[ids["connect"]].unwrap() == 0
    fd, address = done[ids["accept"]].unwrap()
    assert address == client.getsockname()
    accepted = sockets.take(fd)
    client.send(b"hi")
    assert run(sockets.backend, Op.recv(accepted.fileno(), 10)) == b"hi"


@pytest.mark.usefixtures("has_ipv6")
def test_ipv6_addresses(sockets: Sockets) -> None:
    server = sockets.listener(socket.AF_INET6)
    client = sockets.new(socket.AF_INET6)
    assert run(sockets.backend, Op.connect(client.fileno(), server.getsockname())) == 0
    fd, address = run(sockets.backend, Op.accept(server.fileno()))
    sockets.take(fd)
    assert address == client.getsockname()
    assert len(address) == 4


def test_unix_addresses(sockets: Sockets, tmp_path: Path) -> None:
    name = str(tmp_path / "server")
    server = sockets.listener(socket.AF_UNIX, name)
    for bound in (str(tmp_path / "client"), f"\0lio-conformance-{os.getpid()}".encode(), None):
        client = sockets.new(socket.AF_UNIX)
        if bound is not None:
            run(sockets.backend, Op.bind(client.fileno(), bound))
        assert run(sockets.backend, Op.connect(client.fileno(), name)) == 0
        fd, address = run(sockets.backend, Op.accept(server.fileno()))
        accepted = sockets.take(fd)
        assert address == ("" if bound is None else bound)
        assert address == accepted.getpeername()


def test_many_accepts_get_one_connection_each(sockets: Sockets) -> None:
    server = sockets.listener()
    ids = [new_id() for _ in range(20)]
    for op_id in ids:
        sockets.backend.push(op_id, Op.accept(server.fileno()))
    sockets.backend.flush()
    clients = [socket.create_connection(server.getsockname()) for _ in ids]
    done = collect(sockets.backend, ids)
    peers = set()
    for completion in done.values():
        fd, address = completion.unwrap()
        close_socket(fd)
        peers.add(address)
    assert peers == {client.getsockname() for client in clients}
    for client in clients:
        client.close()


def test_accept_on_what_does_not_listen(sockets: Sockets) -> None:
    assert errno_of(sockets.backend, Op.accept(sockets.new().fileno())) == "EINVAL"
    udp = sockets.new(kind=socket.SOCK_DGRAM)
    assert errno_of(sockets.backend, Op.accept(udp.fileno())) == "ENOTSUP"


def test_connection_refused(sockets: Sockets, tmp_path: Path) -> None:
    gone = socket.create_server(("127.0.0.1", 0))
    address = gone.getsockname()
    gone.close()
    sock = sockets.new()
    done = complete(sockets.backend, Op.connect(sock.fileno(), address))
    assert isinstance(done.error, ConnectionRefusedError)
    unix = sockets.new(socket.AF_UNIX)
    missing = str(tmp_path / "missing")
    assert errno_of(sockets.backend, Op.connect(unix.fileno(), missing)) == "ENOENT"


def test_connect_errors_of_the_moment(sockets: Sockets) -> None:
    ours, _theirs = sockets.tcp_pair()
    assert errno_of(sockets.backend, Op.connect(ours.fileno(), ("127.0.0.1", 9))) == "EISCONN"
    v4 = sockets.new()
    connect = Op.connect(v4.fileno(), ("::1", 9), family=socket.AF_INET6)
    assert errno_of(sockets.backend, connect) == "EAFNOSUPPORT"


def test_connect_to_a_full_unix_listener(sockets: Sockets, tmp_path: Path) -> None:
    """It connects once there is room or says EAGAIN at once, as connect(2) does."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "server"))
    server.listen(0)
    sockets.keep(server)
    clients = [sockets.new(socket.AF_UNIX) for _ in range(4)]
    ids = [new_id() for _ in clients]
    for op_id, client in zip(ids, clients, strict=True):
        sockets.backend.push(op_id, Op.connect(client.fileno(), str(tmp_path / "server")))
    done: dict[int, OpCompleted] = {}
    accepted = 0
    deadline = time.monotonic() + PATIENCE
    while len(done) < len(ids) or accepted < sum(c.error is None for c in done.values()):
        assert time.monotonic() < deadline, f"{accepted} accepted, {done}"
        done |= {c.op_id: c for c in sockets.backend.wait_timeout(0.01) if c.op_id >= 0}
        try:
            sockets.take(server.accept()[0].detach())
            accepted += 1
        except BlockingIOError:
            continue
    assert accepted >= 1
    for completion in done.values():
        assert completion.error is None or completion.error.errno == errno.EAGAIN
    assert accepted == sum(completion.error is None for completion in done.values())


def test_shutdown_ends_both_sides(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    receiving = submit(sockets.backend, Op.recv(ours.fileno(), 10))
    assert run_one(sockets.backend, Op.shutdown(ours.fileno(), socket.SHUT_WR)) == 0
    until(lambda: sees_end(theirs), "the peer saw no end")
    theirs.shutdown(socket.SHUT_WR)
    assert collect(sockets.backend, [receiving])[receiving].result == b""
    assert errno_of(sockets.backend, Op.send(ours.fileno(), b"x")) == "EPIPE"
    assert errno_of(sockets.backend, Op.shutdown(theirs.fileno(), 77)) == "EINVAL"


def test_own_shutdown_ends_a_waiting_receive(sockets: Sockets, stream_kind: str) -> None:
    ours, _theirs = sockets.stream_pair(stream_kind)
    receiving = submit(sockets.backend, Op.recv(ours.fileno(), 10))
    ours.shutdown(socket.SHUT_RD)
    assert collect(sockets.backend, [receiving])[receiving].result == b""


def test_peer_gone_is_epipe(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    sockets.close(only=theirs)
    for op in (
        Op.send(ours.fileno(), b"x"),  # TCP hears of it by the answer to this one
        Op.send(ours.fileno(), b"x"),
        Op.send(ours.fileno(), b"x", all=True),
        Op.sendmsg(ours.fileno(), [b"x"]),
    ):
        done = complete(sockets.backend, op)
        if done.error is not None:
            assert isinstance(done.error, (BrokenPipeError, ConnectionResetError))
    assert errno_of(sockets.backend, Op.send(ours.fileno(), b"x")) == "EPIPE"


def test_peer_gone_ends_a_waiting_send(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    fill(ours)
    op_id = submit(sockets.backend, Op.send(ours.fileno(), b"x"))
    sockets.close(only=theirs)
    done = collect(sockets.backend, [op_id])[op_id]
    assert isinstance(done.error, (BrokenPipeError, ConnectionResetError))


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("waits", [False, True])
def test_reset_by_the_peer(sockets: Sockets, waits: bool) -> None:
    ours, theirs = sockets.tcp_pair()
    reset(theirs)
    op = Op.recv(ours.fileno(), 10)
    op_id = submit(sockets.backend, op) if waits else new_id()
    sockets.close(only=theirs)
    if not waits:
        sockets.backend.push(op_id, op)
    done = collect(sockets.backend, [op_id])[op_id]
    assert isinstance(done.error, ConnectionResetError)
    # The error is told once; after that the stream is at its end.
    assert run(sockets.backend, op) == b""


def test_poll_then_receive(sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    op_id = submit(sockets.backend, Op.poll(ours.fileno(), readable=True))
    theirs.send(b"x")
    assert collect(sockets.backend, [op_id])[op_id].result == Ready.READ
    assert run(sockets.backend, Op.recv(ours.fileno(), 1)) == b"x"


def test_blocking_mode_descriptor_does_not_block_the_loop(sockets: Sockets) -> None:
    ours, theirs = sockets.tcp_pair()
    server = sockets.listener()
    read_end, write_end = os.pipe()
    full = sockets.pair()
    fill(full[0])
    for sock in ours, theirs, server, full[0]:
        sock.setblocking(True)
    ops = [
        Op.recv(ours.fileno(), 10),
        Op.recv_into(theirs.fileno(), bytearray(10)),
        Op.accept(server.fileno()),
        Op.read(read_end, 10),
        Op.send(full[0].fileno(), b"x", all=True),
    ]
    ids = [new_id() for _ in ops]
    for op_id, op in zip(ids, ops, strict=True):
        sockets.backend.push(op_id, op)
    timer = new_id()
    sockets.backend.push(timer, Op.timeout(0.01))
    # Whatever blocks here blocks until the watchdog comes.
    assert collect(sockets.backend, [timer])[timer].result == 0
    os.write(write_end, b"pipe")
    assert collect(sockets.backend, [ids[3]])[ids[3]].result == b"pipe"
    for op_id in (ids[0], ids[1], ids[2], ids[4]):
        assert sockets.backend.cancel(op_id) is False
    done = collect(sockets.backend, [ids[0], ids[1], ids[2], ids[4]])
    assert all(completion.cancelled for completion in done.values())
    for sock in ours, theirs, server, full[0]:
        assert sock.getblocking()
        assert os.get_blocking(sock.fileno())
    os.close(read_end)
    os.close(write_end)


# -- order -----------------------------------------------------------------------------


def test_two_sends_leave_in_order(sockets: Sockets, stream_kind: str) -> None:
    """The first is blocked, the others are pushed behind it: different sizes, some of which
    would fit where the first does not."""
    ours, theirs = sockets.stream_pair(stream_kind)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    blocked = fill(ours)
    sizes = [50_000, 1, 300, 20_000, 7, 100_000, 2, 4096, 60_000, 13]
    datas = [pattern(size, seed=size) for size in sizes]
    ids = [new_id() for _ in sizes]
    for number, (op_id, data) in enumerate(zip(ids, datas, strict=True)):
        if number % 3 == 2:
            op = Op.sendmsg(ours.fileno(), [data[:1], data[1:]])
        else:
            op = Op.send(ours.fileno(), data, all=number % 3 == 0)
        sockets.backend.push(op_id, op)
        if number % 4 == 1:
            sockets.backend.flush()
    done: dict[int, int] = {}
    got = bytearray()
    while len(done) < len(ids) or len(got) < blocked + sum(done.values()):
        for completion in sockets.backend.wait_timeout(0):
            done[completion.op_id] = completion.unwrap()
        try:
            got += theirs.recv(3000)
        except BlockingIOError:
            continue
    expected = b"".join(data[: done[op_id]] for op_id, data in zip(ids, datas, strict=True))
    assert got[blocked:] == expected
    assert done[ids[0]] == sizes[0]


def test_send_behind_a_cancelled_one_still_leaves(sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    before = fill(ours)
    first = submit(sockets.backend, Op.send(ours.fileno(), b"first"))
    second = submit(sockets.backend, Op.send(ours.fileno(), b"second"))
    third = submit(sockets.backend, Op.send(ours.fileno(), b"third"))
    results = {}
    # The second has not been with the kernel, the first has.
    for op_id in (second, first):
        if not sockets.backend.cancel(op_id):
            results |= collect(sockets.backend, [op_id])
    assert all(done.cancelled for done in results.values())
    read_all(theirs, before)
    assert collect(sockets.backend, [third])[third].result == 5
    assert read_all(theirs, 5) == b"third"


# -- flags -----------------------------------------------------------------------------


def test_send_and_recv_flags(sockets: Sockets, stream_kind: str) -> None:
    ours, theirs = sockets.stream_pair(stream_kind)
    fd = ours.fileno()
    theirs.send(b"abcdef")
    assert run(sockets.backend, Op.recv(fd, 3, socket.MSG_PEEK)) == b"abc"
    assert run(sockets.backend, Op.recvfrom(fd, 4, socket.MSG_PEEK))[0] == b"abcd"
    assert run(sockets.backend, Op.recvmsg(fd, 5, 0, socket.MSG_PEEK))[0] == b"abcde"
    buffer = bytearray(2)
    assert run(sockets.backend, Op.recv_into(fd, buffer, socket.MSG_PEEK)) == 2
    assert buffer == b"ab"
    # On a non-blocking socket MSG_WAITALL gives what is there.
    assert run(sockets.backend, Op.recv(fd, 100, socket.MSG_WAITALL)) == b"abcdef"


def test_dontwait_does_not_wait(sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    fd = ours.fileno()
    assert errno_of(sockets.backend, Op.recv(fd, 10, socket.MSG_DONTWAIT)) == "EAGAIN"
    buffer = bytearray(10)
    assert errno_of(sockets.backend, Op.recv_into(fd, buffer, socket.MSG_DONTWAIT)) == "EAGAIN"
    assert errno_of(sockets.backend, Op.recvmsg(fd, 10, 0, socket.MSG_DONTWAIT)) == "EAGAIN"
    theirs.send(b"x")
    assert run(sockets.backend, Op.recv(fd, 10, socket.MSG_DONTWAIT)) == b"x"
    fill(ours)
    assert errno_of(sockets.backend, Op.send(fd, b"x", socket.MSG_DONTWAIT)) == "EAGAIN"


def test_peek_waits_and_takes_nothing(sockets: Sockets) -> None:
    ours, theirs = sockets.tcp_pair()
    op_id = submit(sockets.backend, Op.recv(ours.fileno(), 10, socket.MSG_PEEK))
    theirs.send(b"seen")
    assert collect(sockets.backend, [op_id])[op_id].result == b"seen"
    assert run(sockets.backend, Op.recv(ours.fileno(), 10)) == b"seen"


def test_urgent_data(sockets: Sockets) -> None:
    ours, theirs = sockets.tcp_pair()
    assert run(sockets.backend, Op.send(theirs.fileno(), b"!", socket.MSG_OOB)) == 1
    op = Op.recv(ours.fileno(), 1, socket.MSG_OOB)
    deadline = time.monotonic() + PATIENCE
    while (done := complete(sockets.backend, op)).error is not None:
        assert done.error.errno == errno.EINVAL  # none yet: a receive of it does not wait
        assert time.monotonic() < deadline
    assert done.result == b"!"


def test_errors_are_the_right_subclass(backend: IoBackend) -> None:
    done = complete(backend, Op.recv(closed_fd(), 1))
    assert type(done.error) is OSError
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        done.unwrap()
