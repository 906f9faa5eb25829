"""Datagrams: whole or marked as cut, with the address of who sent them."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from trio_lio.backends import Op

from ..common import fill, pattern
from .support import POOL_MAX, Sockets, collect, errno_of, is_idle, new_id, run, submit

if TYPE_CHECKING:
    from pathlib import Path


def udp_pair(sockets: Sockets, host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ours = sockets.new(family, socket.SOCK_DGRAM)
    theirs = sockets.new(family, socket.SOCK_DGRAM)
    for sock in ours, theirs:
        sock.bind((host, 0))
    return ours, theirs


def exchange(
    sockets: Sockets, ours: socket.socket, theirs: socket.socket, size: int = 100
) -> tuple[bytes, Any]:
    data = pattern(size)
    sent = Op.sendto(theirs.fileno(), data, ours.getsockname())
    assert run(sockets.backend, sent) == size
    got, address = run(sockets.backend, Op.recvfrom(ours.fileno(), size + 1))
    assert got == data
    return got, address


def test_udp_ipv4(sockets: Sockets) -> None:
    ours, theirs = udp_pair(sockets)
    assert exchange(sockets, ours, theirs)[1] == theirs.getsockname()


@pytest.mark.usefixtures("has_ipv6")
def test_udp_ipv6(sockets: Sockets) -> None:
    ours, theirs = udp_pair(sockets, "::1")
    assert exchange(sockets, ours, theirs)[1] == theirs.getsockname()


def test_unix_named_abstract_and_unnamed(sockets: Sockets, tmp_path: Path) -> None:
    ours = sockets.new(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.bind(str(tmp_path / "ours"))
    for name in (str(tmp_path / "theirs"), f"\0lio-datagram-{os.getpid()}".encode(), None):
        theirs = sockets.new(socket.AF_UNIX, socket.SOCK_DGRAM)
        if name is not None:
            theirs.bind(name)
        assert exchange(sockets, ours, theirs)[1] == name


def test_recvfrom_waits(sockets: Sockets) -> None:
    ours, theirs = udp_pair(sockets)
    op_id = submit(sockets.backend, Op.recvfrom(ours.fileno(), 100))
    theirs.sendto(b"late", ours.getsockname())
    assert collect(sockets.backend, [op_id])[op_id].result == (b"late", theirs.getsockname())


def test_recvfrom_into_and_recvmsg_tell_the_address(sockets: Sockets) -> None:
    ours, theirs = udp_pair(sockets)
    sender = theirs.getsockname()
    for _ in range(3):
        theirs.sendto(b"hello", ours.getsockname())
    buffer = bytearray(10)
    assert run(sockets.backend, Op.recvfrom_into(ours.fileno(), buffer)) == (5, sender)
    assert buffer[:5] == b"hello"
    assert run(sockets.backend, Op.recvmsg(ours.fileno(), 10)) == (b"hello", [], 0, sender)
    into = Op.recvmsg_into(ours.fileno(), [buffer])
    assert run(sockets.backend, into) == (5, [], 0, sender)


def test_recvfrom_on_a_stream_has_no_address(sockets: Sockets) -> None:
    ours, theirs = sockets.tcp_pair()
    theirs.send(b"abc")
    assert run(sockets.backend, Op.recvfrom(ours.fileno(), 10)) == (b"abc", None)


@pytest.mark.parametrize("receive", ["recv", "recvfrom", "recvmsg"])
def test_empty_datagram_is_a_datagram(sockets: Sockets, receive: str) -> None:
    ours, theirs = udp_pair(sockets)
    assert run(sockets.backend, Op.sendto(theirs.fileno(), b"", ours.getsockname())) == 0
    theirs.sendto(b"next", ours.getsockname())
    make = {"recv": Op.recv, "recvfrom": Op.recvfrom, "recvmsg": Op.recvmsg}[receive]
    empty = run(sockets.backend, make(ours.fileno(), 10))
    assert (empty if receive == "recv" else empty[0]) == b""
    assert run(sockets.backend, Op.recv(ours.fileno(), 10)) == b"next"


def test_datagrams_stay_apart_and_in_order(sockets: Sockets) -> None:
    ours, theirs = udp_pair(sockets)
    for number in range(20):
        theirs.sendto(b"%d" % number, ours.getsockname())
    got = [run(sockets.backend, Op.recv(ours.fileno(), 100)) for _ in range(20)]
    assert got == [b"%d" % number for number in range(20)]


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("receive", ["recv", "recvfrom", "recvmsg", "recv_into"])
@pytest.mark.parametrize("kind", ["DGRAM", "SEQPACKET"])
def test_datagram_is_never_cut(sockets: Sockets, receive: str, kind: str, waits: bool) -> None:
    """A datagram larger than a buffer of the pool, received with room for all of it."""
    ours, theirs = sockets.pair(getattr(socket, f"SOCK_{kind}"))
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
    data = pattern(POOL_MAX + 30_000)
    buffer = bytearray(len(data))
    op = {
        "recv": Op.recv(ours.fileno(), len(data)),
        "recvfrom": Op.recvfrom(ours.fileno(), len(data)),
        "recvmsg": Op.recvmsg(ours.fileno(), len(data), 100),
        "recv_into": Op.recv_into(ours.fileno(), buffer),
    }[receive]
    op_id = submit(sockets.backend, op) if waits else new_id()
    assert theirs.send(data) == len(data)
    if not waits:
        sockets.backend.push(op_id, op)
    result = collect(sockets.backend, [op_id])[op_id].unwrap()
    if receive == "recv_into":
        assert result == len(data)
        result = bytes(buffer)
    elif receive != "recv":
        assert receive != "recvmsg" or result[2] & socket.MSG_TRUNC == 0
        result = result[0]
    assert result == data


def test_cut_datagram_says_so(sockets: Sockets) -> None:
    ours, theirs = udp_pair(sockets)
    address = ours.getsockname()
    for _ in range(5):
        theirs.sendto(b"0123456789", address)
    fd = ours.fileno()
    data, _, flags, _ = run(sockets.backend, Op.recvmsg(fd, 4))
    assert (data, flags & socket.MSG_TRUNC) == (b"0123", socket.MSG_TRUNC)
    assert run(sockets.backend, Op.recv(fd, 4)) == b"0123"
    buffer = bytearray(4)
    # With MSG_TRUNC the count is the datagram's own, as in the socket module.
    assert run(sockets.backend, Op.recv_into(fd, buffer, socket.MSG_TRUNC)) == 10
    assert run(sockets.backend, Op.recv(fd, 4, socket.MSG_TRUNC)) == b"0123"
    assert run(sockets.backend, Op.recv(fd, 10)) == b"0123456789"


def test_recv_of_nothing_takes_a_datagram(sockets: Sockets) -> None:
    ours, theirs = udp_pair(sockets)
    for data in (b"first", b"second", b"third"):
        theirs.sendto(data, ours.getsockname())
    assert run(sockets.backend, Op.recv(ours.fileno(), 0)) == b""
    assert run(sockets.backend, Op.recvmsg(ours.fileno(), 0))[0] == b""
    assert run(sockets.backend, Op.recv(ours.fileno(), 10)) == b"third"


def test_errors_of_datagrams(sockets: Sockets) -> None:
    ours, theirs = udp_pair(sockets)
    fd = ours.fileno()
    too_large = Op.sendto(fd, bytes(70_000), theirs.getsockname())
    assert errno_of(sockets.backend, too_large) == "EMSGSIZE"
    assert errno_of(sockets.backend, Op.send(fd, b"x")) == "EDESTADDRREQ"
    assert errno_of(sockets.backend, Op.sendto(fd, b"x", ("255.255.255.255", 9))) in (
        "EACCES",
        "EPERM",
        "ENETUNREACH",
    )
    assert is_idle(sockets.backend)


@pytest.mark.parametrize("waits", [False, True])
def test_refused_datagram_shows_at_the_next_receive(sockets: Sockets, waits: bool) -> None:
    ours, theirs = udp_pair(sockets)
    ours.connect(theirs.getsockname())
    sockets.close(only=theirs)
    op = Op.recv(ours.fileno(), 10)
    op_id = submit(sockets.backend, op) if waits else new_id()
    ours.send(b"to nobody")
    if not waits:
        sockets.backend.push(op_id, op)
    done = collect(sockets.backend, [op_id])[op_id]
    assert isinstance(done.error, ConnectionRefusedError)


def test_sendto_a_missing_unix_socket(sockets: Sockets, tmp_path: Path) -> None:
    sock = sockets.new(socket.AF_UNIX, socket.SOCK_DGRAM)
    gone = Op.sendto(sock.fileno(), b"x", str(tmp_path / "missing"))
    assert errno_of(sockets.backend, gone) == "ENOENT"


def test_unix_datagram_send_waits_for_the_receiver(sockets: Sockets) -> None:
    ours, theirs = sockets.pair(socket.SOCK_DGRAM)
    count = 0
    try:
        while True:
            ours.send(b"x")
            count += 1
    except BlockingIOError:
        pass
    op_id = submit(sockets.backend, Op.send(ours.fileno(), b"patient"))
    for _ in range(count):
        assert theirs.recv(10) == b"x"
    assert collect(sockets.backend, [op_id])[op_id].result == 7
    assert theirs.recv(10) == b"patient"


def test_connected_udp_sends_without_address(sockets: Sockets) -> None:
    ours, theirs = udp_pair(sockets)
    assert run(sockets.backend, Op.connect(ours.fileno(), theirs.getsockname())) == 0
    assert run(sockets.backend, Op.send(ours.fileno(), b"one")) == 3
    assert run(sockets.backend, Op.sendmsg(ours.fileno(), [b"t", b"wo"])) == 3
    assert theirs.recv(10) == b"one"
    assert theirs.recv(10) == b"two"


def test_sendmsg_to_an_address(sockets: Sockets) -> None:
    ours, theirs = udp_pair(sockets)
    op = Op.sendmsg(ours.fileno(), [b"a", b"b"], address=theirs.getsockname())
    assert run(sockets.backend, op) == 2
    assert theirs.recvfrom(10) == (b"ab", ours.getsockname())


def test_error_queue(sockets: Sockets) -> None:
    ours, theirs = udp_pair(sockets)
    ip_recverr = 11
    ours.setsockopt(socket.IPPROTO_IP, ip_recverr, 1)
    ours.connect(theirs.getsockname())
    sockets.close(only=theirs)
    ours.send(b"to nobody")
    op = Op.recvmsg(ours.fileno(), 100, 500, socket.MSG_ERRQUEUE)
    data, ancdata, flags, _address = run(sockets.backend, op)
    assert data == b"to nobody"
    assert flags & socket.MSG_ERRQUEUE
    assert ancdata[0][:2] == (socket.IPPROTO_IP, ip_recverr)


def test_a_send_to_one_receiver_does_not_hold_up_streams(sockets: Sockets) -> None:
    """Order is per socket: a blocked one is no gate for another."""
    blocked, _reader = sockets.pair()
    fill(blocked)
    waiting = submit(sockets.backend, Op.send(blocked.fileno(), b"x"))
    ours, theirs = sockets.pair()
    op_id = new_id()
    sockets.backend.push(op_id, Op.send(ours.fileno(), b"free"))
    assert collect(sockets.backend, [op_id])[op_id].result == 4
    assert theirs.recv(10) == b"free"
    assert sockets.backend.cancel(waiting) is False
    assert collect(sockets.backend, [waiting])[waiting].cancelled
