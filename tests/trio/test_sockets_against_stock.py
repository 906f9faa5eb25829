"""Every method of trio.socket objects comes to the same on lio as on stock Trio.

A case is a function that is run twice, once on stock Trio and once on lio, on each kind of
socket. It returns what happened: results, exceptions with their texts, what is left to be
received. Nothing here says what is right: stock Trio does.
"""

from __future__ import annotations

import array
import errno
import os
import socket as stdlib_socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from .support import (
    DATAGRAM_KINDS,
    KINDS,
    STREAM_KINDS,
    Pair,
    attempt,
    fill,
    pattern,
    take_now,
)

pytestmark = pytest.mark.filterwarnings("ignore:received malformed:RuntimeWarning")

Case = Callable[[Pair], Awaitable[Any]]
Compare = Callable[..., Any]

PEEK, WAITALL = stdlib_socket.MSG_PEEK, stdlib_socket.MSG_WAITALL
TRUNC, DONTWAIT = stdlib_socket.MSG_TRUNC, stdlib_socket.MSG_DONTWAIT
OOB, NOSIGNAL = stdlib_socket.MSG_OOB, stdlib_socket.MSG_NOSIGNAL
ERRQUEUE, MORE = stdlib_socket.MSG_ERRQUEUE, stdlib_socket.MSG_MORE
CMSG_CLOEXEC = stdlib_socket.MSG_CMSG_CLOEXEC

DATA = b"0123456789"


def all_return(found: dict[str, Any]) -> bool:
    return all(result[0][0] == "returned" for result in found.values())


# -- receiving -------------------------------------------------------------------------


class Odd:
    """No buffer at all, and no number."""

    def __repr__(self) -> str:
        return "<odd>"


def filled(method: str, buffer: Any, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """A call that receives into a buffer and shows what is in it then."""

    async def call(sock: Any) -> Any:
        result = await getattr(sock, method)(buffer(), *args, **kwargs)
        return result

    async def show(sock: Any) -> Any:
        made = buffer()
        result = await getattr(sock, method)(made, *args, **kwargs)
        return result, bytes(memoryview(made).cast("B"))

    return call if buffer is Odd else show


def filled_many(sizes: list[int], *args: Any) -> Callable[[Any], Any]:
    async def call(sock: Any) -> Any:
        buffers = [bytearray(size) for size in sizes]
        return await sock.recvmsg_into(buffers, *args), [bytes(buffer) for buffer in buffers]

    return call


def simple(method: str, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    def call(sock: Any) -> Any:
        return getattr(sock, method)(*args, **kwargs)

    return call


def view(size: int) -> memoryview:
    return memoryview(bytearray(size))


RECEIVES: dict[str, Callable[[Any], Any]] = {}
for _method, _more in (("recv", ()), ("recvfrom", ()), ("recvmsg", (0,))):
    for _size in (1, 10, 11, 4096, 70_000, 1 << 20):
        RECEIVES[f"{_method} {_size}"] = simple(_method, _size)
    for _flag in (
        "PEEK",
        "WAITALL",
        "TRUNC",
        "DONTWAIT",
        "OOB",
        "NOSIGNAL",
        "ERRQUEUE",
        "CMSG_CLOEXEC",
    ):
        for _size in (4, 10, 100):
            if _flag == "WAITALL" and _size == 100:
                continue
            RECEIVES[f"{_method} {_size} {_flag}"] = simple(
                _method, _size, *_more, globals()[_flag]
            )
    RECEIVES[f"{_method} PEEK|TRUNC"] = simple(_method, 3, *_more, PEEK | TRUNC)
    for _bad in (0, -1, 1 << 62, 1 << 70, 1.5, "x", None, True, Odd()):
        RECEIVES[f"{_method} {_bad!r}"] = simple(_method, _bad)
    RECEIVES[f"{_method} bad flags"] = simple(_method, 10, *_more, "x")
    RECEIVES[f"{_method} huge flags"] = simple(_method, 10, *_more, 1 << 40)
    RECEIVES[f"{_method} negative flags"] = simple(_method, 10, *_more, -1)

for _method in ("recv_into", "recvfrom_into"):
    for _name, _buffer in {
        "bytearray 10": lambda: bytearray(10),
        "bytearray 4": lambda: bytearray(4),
        "bytearray 100000": lambda: bytearray(100_000),
        "empty bytearray": lambda: bytearray(),
        "view": lambda: view(100),
        "part of a view": lambda: view(100)[5:9],
        "strided view": lambda: view(100)[::2],
        "bytes": lambda: bytes(10),
        "readonly view": lambda: memoryview(bytes(10)),
        "array": lambda: array.array("i", [0] * 8),
        "2-dimensional view": lambda: view(100).cast("B", (10, 10)),
        "odd": Odd,
        "str": lambda: "x" * 10,
        "None": lambda: None,
    }.items():
        _call = filled if _name not in ("odd", "str", "None", "strided view") else None
        RECEIVES[f"{_method} {_name}"] = (
            filled(_method, _buffer)
            if _call
            else lambda s, m=_method, b=_buffer: getattr(s, m)(b())
        )
    for _n in (0, 1, 10, 11, -1, 1 << 70, "x", None):
        RECEIVES[f"{_method} nbytes {_n!r}"] = filled(_method, lambda: bytearray(10), _n)
    RECEIVES[f"{_method} keywords"] = filled(
        _method, lambda: bytearray(10), nbytes=3, flags=PEEK
    )
    for _flag in ("PEEK", "WAITALL", "TRUNC", "DONTWAIT", "OOB", "ERRQUEUE"):
        RECEIVES[f"{_method} {_flag}"] = filled(
            _method, lambda: bytearray(5), 5, globals()[_flag]
        )
    RECEIVES[f"{_method} bad flags"] = filled(_method, lambda: bytearray(5), 5, None)

RECEIVES |= {
    "recvmsg ancillary": simple("recvmsg", 100, 100),
    "recvmsg ancillary -1": simple("recvmsg", 100, -1),
    "recvmsg ancillary huge": simple("recvmsg", 100, 1 << 33),
    "recvmsg ancillary x": simple("recvmsg", 100, "x"),
    "recvmsg TRUNC short": simple("recvmsg", 3, 10, TRUNC),
    "recvmsg_into one": filled_many([10]),
    "recvmsg_into three": filled_many([3, 3, 100]),
    "recvmsg_into too short": filled_many([1, 2]),
    "recvmsg_into with an empty one": filled_many([0, 4, 0, 100]),
    "recvmsg_into empty ones": filled_many([0, 0]),
    "recvmsg_into none": filled_many([]),
    "recvmsg_into 1024": filled_many([1] * 1024),
    "recvmsg_into 1025": filled_many([1] * 1025),
    "recvmsg_into PEEK": filled_many([4, 3], 0, PEEK),
    "recvmsg_into TRUNC": filled_many([4, 3], 0, TRUNC),
    "recvmsg_into ancillary": filled_many([4, 30], 100),
    "recvmsg_into bytes": simple("recvmsg_into", [bytes(4)]),
    "recvmsg_into odd": simple("recvmsg_into", [Odd()]),
    "recvmsg_into number": simple("recvmsg_into", 5),
    "recvmsg_into a bytearray": simple("recvmsg_into", bytearray(4)),
    "recvmsg_into ancillary x": simple("recvmsg_into", [bytearray(4)], "x"),
    "recvmsg_into flags x": simple("recvmsg_into", [bytearray(4)], 0, "x"),
}


@pytest.mark.parametrize("name", RECEIVES)
def test_receive(name: str, same_on_each: Compare) -> None:
    """One message and a second one are there; the call; what is left then."""

    async def case(pair: Pair) -> Any:
        await pair.b.send(DATA)
        await pair.b.send(b"abc")
        outcome = await attempt(RECEIVES[name], pair.a)
        if outcome[0] == "returned" and "TRUNC" in name:
            # The kernel counts what it did not write, and CPython shows what was there before.
            outcome = ("returned", "what was there before")
        return outcome, take_now(pair.a._sock), take_now(pair.a._sock)

    found = same_on_each(case, KINDS)
    assert found


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in RECEIVES
        if not any(word in name for word in ("WAITALL", "TRUNC"))
        and (name.endswith((" 10", " 1", "bytearray 10", "three", "ancillary", "keywords")))
    ],
)
def test_receive_the_end(name: str, same_on_each: Compare) -> None:
    """The peer is gone."""

    async def case(pair: Pair) -> Any:
        pair.b.close()
        return await attempt(RECEIVES[name], pair.a), await attempt(RECEIVES[name], pair.a)

    found = same_on_each(case, STREAM_KINDS)
    assert all_return(found)


def test_receive_waits_for_data(same_on_each: Compare) -> None:
    calls = {
        "recv": simple("recv", 100),
        "recv own buffer": simple("recv", 100_000),
        "recvfrom": simple("recvfrom", 100),
        "recvfrom own buffer": simple("recvfrom", 100_000),
        "recvmsg": simple("recvmsg", 100, 100),
        "recvmsg own buffer": simple("recvmsg", 100_000),
        "recv_into": filled("recv_into", lambda: bytearray(20)),
        "recvfrom_into": filled("recvfrom_into", lambda: bytearray(20)),
        "recvmsg_into": filled_many([5, 20]),
        "recv WAITALL": simple("recv", 10, WAITALL),
        "recv PEEK": simple("recv", 100, PEEK),
    }

    async def case(pair: Pair) -> Any:
        found = {}
        for name, call in calls.items():
            async with trio.open_nursery() as nursery:

                async def receive(name: str = name, call: Any = call) -> None:
                    found[name] = pair.plain(await attempt(call, pair.a))

                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                await pair.b.send(DATA)
            while take_now(pair.a._sock):
                pass
        return found

    found = same_on_each(case, KINDS)
    for kind, results in found.items():
        assert {result[0] for result in results.values()} == {"returned"}, kind


@pytest.mark.parametrize("size", [0, 1, 4096, 65_507, 100_000, 150_000])
def test_datagram_is_never_cut(size: int, same_on_each: Compare) -> None:
    data = pattern(size)

    async def case(pair: Pair) -> Any:
        found = []
        for call in (
            simple("recv", 200_000),
            simple("recvfrom", 200_000),
            simple("recvmsg", 200_000),
            filled("recv_into", lambda: bytearray(200_000)),
            filled("recvfrom_into", lambda: bytearray(200_000)),
            filled_many([70_000, 70_000, 70_000]),
        ):
            sent = await attempt(pair.b.send, data)
            found.append((sent, await attempt(call, pair.a) if sent[0] == "returned" else None))
        return found

    found = same_on_each(case, [*DATAGRAM_KINDS, "unix_seqpacket"])
    for kind in ("unix_dgram", "unix_seqpacket"):
        if size or kind != "unix_seqpacket":
            assert found[kind][0] == (("returned", size), ("returned", data))


def test_out_of_band_data(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        found = [await attempt(pair.b.send, b"ab!", OOB)]
        found.append(await attempt(pair.a.recv, 1, OOB))
        found.append(await attempt(pair.a.recv, 10))
        found.append(await attempt(pair.b.send, b"cd?", OOB))
        pair.a.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_OOBINLINE, 1)
        found.append(await attempt(pair.a.recv, 10))
        return found

    found = same_on_each(case, ["tcp4"])
    assert found["tcp4"][1] == ("returned", b"!")


def test_wrong_number_of_arguments(same_on_each: Compare) -> None:
    """The texts are those of Python's own argument check, which names another function."""

    async def case(pair: Pair) -> Any:
        found = []
        for method in (
            "recv recv_into recvfrom recvfrom_into recvmsg recvmsg_into send sendto sendmsg "
            "connect"
        ).split():
            for args in (), (1, 2, 3, 4, 5, 6):
                outcome = await attempt(lambda m=method, a=args: getattr(pair.a, m)(*a))
                found.append((method, len(args), outcome[:2]))
        for method in ("recv", "recvfrom", "recvmsg", "send"):
            outcome = await attempt(lambda m=method: getattr(pair.a, m)(bufsize=10))
            found.append((method, "keyword", outcome[:2]))
        return found

    same_on_each(case, ["socketpair"])


# -- sending ---------------------------------------------------------------------------

BUFFERS: dict[str, Any] = {
    "bytes": DATA,
    "one byte": b"x",
    "nothing": b"",
    "bytearray": bytearray(DATA),
    "empty bytearray": bytearray(),
    "view": memoryview(DATA)[2:7],
    "strided view": memoryview(DATA)[::2],
    "array": array.array("i", [1, 2, 3]),
    "2-dimensional view": memoryview(DATA).cast("B", (2, 5)),
    "str": "text",
    "number": 5,
    "None": None,
    "list": [b"a"],
    "odd": Odd(),
}

SENDS: dict[str, Callable[[Any], Any]] = {}
for _name, _data in BUFFERS.items():
    SENDS[f"send {_name}"] = simple("send", _data)
    SENDS[f"sendmsg {_name}"] = simple("sendmsg", [_data])
    SENDS[f"sendmsg not in a list {_name}"] = simple("sendmsg", _data)
for _flag in ("NOSIGNAL", "MORE", "DONTWAIT", "OOB", "PEEK", "TRUNC"):
    SENDS[f"send {_flag}"] = simple("send", DATA, globals()[_flag])
    SENDS[f"sendmsg {_flag}"] = simple("sendmsg", [DATA], [], globals()[_flag])
for _bad in ("x", None, 1 << 40, 1.5):
    SENDS[f"send flags {_bad!r}"] = simple("send", DATA, _bad)
    SENDS[f"sendmsg flags {_bad!r}"] = simple("sendmsg", [DATA], [], _bad)
SENDS |= {
    "sendmsg several": simple("sendmsg", [b"a", b"", bytearray(b"bc"), memoryview(b"d")]),
    "sendmsg a generator": lambda sock: sock.sendmsg(part for part in (b"a", b"bc")),
    "sendmsg no buffers": simple("sendmsg", []),
    "sendmsg 1024": simple("sendmsg", [b"x"] * 1024),
    "sendmsg 1025": simple("sendmsg", [b"x"] * 1025),
    "sendmsg ancillary number": simple("sendmsg", [DATA], 5),
    "sendmsg ancillary short": simple("sendmsg", [DATA], [(1, 2)]),
    "sendmsg ancillary str": simple("sendmsg", [DATA], [(1, 2, "x")]),
    "sendmsg ancillary odd level": simple("sendmsg", [DATA], [("x", 2, b"x")]),
    "sendmsg ancillary huge level": simple("sendmsg", [DATA], [(1 << 40, 2, b"x")]),
    "sendmsg ancillary unknown": simple("sendmsg", [DATA], [(77, 99, b"x")]),
    "sendmsg ancillary list item": simple("sendmsg", [DATA], [[77, 99, b"x"]]),
    "sendmsg ancillary bad descriptor": simple(
        "sendmsg", [DATA], [(1, stdlib_socket.SCM_RIGHTS, array.array("i", [99999]))]
    ),
    "sendmsg ancillary too short descriptor": simple(
        "sendmsg", [DATA], [(1, stdlib_socket.SCM_RIGHTS, b"x")]
    ),
    "sendmsg address None": simple("sendmsg", [DATA], [], 0, None),
    "sendto no address": simple("sendto", DATA),
    "sendto number": simple("sendto", DATA, 5),
    "sendto str data": simple("sendto", "text", ("127.0.0.1", 9)),
    "sendto port x": simple("sendto", DATA, ("127.0.0.1", "nonsense-service")),
    "sendto port too large": simple("sendto", DATA, ("127.0.0.1", 70_000)),
    "sendto port negative": simple("sendto", DATA, ("127.0.0.1", -1)),
    "sendto one element": simple("sendto", DATA, ("127.0.0.1",)),
    "sendto three elements": simple("sendto", DATA, ("127.0.0.1", 9, 0)),
    "sendto list": simple("sendto", DATA, ["127.0.0.1", 9]),
    "sendto flags x": simple("sendto", DATA, "x", ("127.0.0.1", 9)),
    "sendto a path": simple("sendto", DATA, "/nonexistent/path"),
    "sendto a long path": simple("sendto", DATA, "/" + "x" * 200),
}


@pytest.mark.parametrize("name", SENDS)
def test_send(name: str, same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        outcome = await attempt(SENDS[name], pair.b)
        if "MORE" in name:
            await pair.b.send(b".")
        return outcome, take_now(pair.a._sock), take_now(pair.a._sock)

    same_on_each(case, KINDS)


def test_send_to_an_address(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        to = pair.a.getsockname()
        found = []
        for call in (
            simple("sendto", DATA, to),
            simple("sendto", DATA, 0, to),
            simple("sendto", memoryview(DATA), NOSIGNAL, to),
            simple("sendto", b"", to),
            simple("sendto", DATA, DONTWAIT, to),
            simple("sendmsg", [DATA, b"more"], [], 0, to),
            simple("sendmsg", [], [], 0, to),
        ):
            found.append((await attempt(call, pair.b), take_now(pair.a._sock)))
        return found

    same_on_each(case, KINDS)


def test_send_to_an_address_from_an_unconnected_socket(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        found = []
        to = pair.a.getsockname()
        # A connected socket takes datagrams from its peer alone.
        with (
            trio.socket.socket(pair.a.family, pair.a.type) as receiver,
            trio.socket.socket(pair.a.family, pair.a.type) as sender,
        ):
            if pair.kind.startswith("udp"):
                await receiver.bind((to[0], 0))
                to = receiver.getsockname()
                if pair.kind == "udp6":
                    found.append(await attempt(sender.sendto, b"1", to[:2]))
                    found.append(await attempt(sender.sendto, b"1", ("localhost", to[1])))
                else:
                    found.append(await attempt(sender.sendto, b"1", ("localhost", to[1])))
                    found.append(await attempt(sender.sendto, b"1", ("127.1", to[1])))
                    found.append(await attempt(sender.sendto, b"1", ("", to[1])))
                    found.append(await attempt(sender.sendto, b"1", ("<broadcast>", to[1])))
            else:
                receiver.close()
                receiver = pair.a
                to = "@nobody-is-here"
            found.append(await attempt(sender.sendto, DATA, to))
            found.append(await attempt(sender.sendmsg, [DATA], [], 0, to))
            found.append(await attempt(sender.send, DATA))
            while (data := take_now(receiver._sock)) is not None:
                found.append(data)
        return found

    found = same_on_each(case, DATAGRAM_KINDS)
    assert ("returned", 10) in found["udp4"]


def test_datagrams_too_large_to_send(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        found = [await attempt(pair.b.send, bytes(size)) for size in (65_508, 70_000, 8 << 20)]
        found.append(await attempt(pair.b.sendmsg, [bytes(40_000)] * 2))
        return found, take_now(pair.a._sock) is None

    same_on_each(case, [*DATAGRAM_KINDS, "unix_seqpacket"])


def test_full_socket_makes_sends_wait(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        fill(pair.b._sock)
        found = []
        for call in (
            simple("send", DATA),
            simple("send", DATA, NOSIGNAL),
            simple("sendmsg", [DATA]),
            simple("send", DATA, DONTWAIT),
        ):
            found.append(await attempt(call, pair.b))
        return found

    found = same_on_each(case, ["socketpair", "unix_stream", "unix_seqpacket"])
    assert found["socketpair"][0] == ("waits",)


def test_send_waits_for_room(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        size = fill(pair.b._sock) + len(DATA)
        found = []
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                found.append(await attempt(pair.b.send, DATA))

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            data = b""
            while len(data) < size:
                data += await pair.a.recv(1 << 20)
        return found, data.lstrip(b"\0")

    found = same_on_each(case, ["socketpair", "unix_stream"])
    assert found["socketpair"] == ((("returned", 10),), DATA)


# -- sockets in a state that is wrong --------------------------------------------------

ANY_CALL: dict[str, Callable[[Any], Any]] = {
    "recv": simple("recv", 10),
    "recv 0": simple("recv", 0),
    "recv own buffer": simple("recv", 100_000),
    "recv_into": filled("recv_into", lambda: bytearray(10)),
    "recvfrom": simple("recvfrom", 10),
    "recvfrom_into": filled("recvfrom_into", lambda: bytearray(10)),
    "recvmsg": simple("recvmsg", 10, 10),
    "recvmsg_into": filled_many([10]),
    "send": simple("send", DATA),
    "send nothing": simple("send", b""),
    "sendto": simple("sendto", DATA, ("127.0.0.1", 9)),
    "sendto path": simple("sendto", DATA, "@nowhere"),
    "sendmsg": simple("sendmsg", [DATA]),
    "sendmsg to": simple("sendmsg", [DATA], [], 0, ("127.0.0.1", 9)),
    "accept": simple("accept"),
    "connect": simple("connect", ("127.0.0.1", 9)),
    "connect 6": simple("connect", ("::1", 9)),
    "connect path": simple("connect", "/nonexistent/path"),
    "wait_writable": simple("wait_writable"),
}


@pytest.mark.parametrize("name", ANY_CALL)
def test_closed_socket(name: str, same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        pair.a.close()
        return await attempt(ANY_CALL[name], pair.a), repr(pair.a), pair.a.fileno()

    # On stock Trio, only the first wait for a descriptor of -1 says what is wrong.
    kinds = KINDS[:1] if name == "wait_writable" else KINDS
    found = same_on_each(case, kinds)
    if name != "recv 0":
        assert {result[0][0] for result in found.values()} == {"raised"}


@pytest.mark.parametrize("name", ANY_CALL)
def test_new_socket(name: str, backend: str, same_on_each: Compare) -> None:
    """Neither bound, connected nor listening."""
    if (name, backend) == ("wait_writable", "kqueue"):
        pytest.skip("an unconnected stream is hung up to Linux, and not writable to kqueue")

    async def case(pair: Pair) -> Any:
        with trio.socket.socket(pair.a.family, pair.a.type) as sock:
            return await attempt(ANY_CALL[name], sock)

    same_on_each(case, KINDS)


@pytest.mark.parametrize("name", ANY_CALL)
def test_connected_socket_with_its_peer_gone(name: str, same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        pair.b.close()
        return await attempt(ANY_CALL[name], pair.a), await attempt(ANY_CALL[name], pair.a)

    same_on_each(case, KINDS)


@pytest.mark.parametrize("name", ANY_CALL)
@pytest.mark.parametrize("how", ["SHUT_RD", "SHUT_WR", "SHUT_RDWR"])
def test_socket_that_is_shut_down(how: str, name: str, same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        pair.a.shutdown(getattr(stdlib_socket, how))
        return await attempt(ANY_CALL[name], pair.a)

    same_on_each(case, [*STREAM_KINDS, "unix_seqpacket"])


@pytest.mark.parametrize(
    "name", ["recv", "recv_into", "recvfrom", "recvmsg", "send", "sendmsg"]
)
def test_connection_that_was_reset(name: str, same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        linger = struct.pack("ii", 1, 0)
        pair.b.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, linger)
        pair.b.close()
        return await attempt(ANY_CALL[name], pair.a), await attempt(ANY_CALL[name], pair.a)

    found = same_on_each(case, ["tcp4"])
    assert found["tcp4"][0][1] in ("ConnectionResetError", "BrokenPipeError")


def test_reset_while_waiting(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        found = []
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                found.append(await attempt(pair.a.recv, 10))

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            linger = struct.pack("ii", 1, 0)
            pair.b.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, linger)
            pair.b.close()
        return found

    found = same_on_each(case, ["tcp4"])
    assert found["tcp4"][0][1] == "ConnectionResetError"


def test_refused_datagram(same_on_each: Compare) -> None:
    """The ICMP error of an earlier datagram, at the next call."""

    async def case(pair: Pair) -> Any:
        pair.b.close()
        found = [await attempt(pair.a.send, DATA)]
        await trio.sleep(0.05)
        found.append(await attempt(pair.a.recv, 10))
        found.append(await attempt(pair.a.send, DATA))
        return found

    found = same_on_each(case, ["udp4", "udp6"] if "udp6" in KINDS else ["udp4"])
    assert found["udp4"][1][1] == "ConnectionRefusedError"


# -- passing descriptors ---------------------------------------------------------------

RIGHTS = stdlib_socket.SCM_RIGHTS
SPACE = stdlib_socket.CMSG_SPACE(4 * 4)


def take_descriptors(ancillary: Any) -> list[Any]:
    found = []
    for level, kind, data in ancillary:
        assert (level, kind) == (stdlib_socket.SOL_SOCKET, RIGHTS)
        fds = array.array("i")
        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        for fd in fds:
            found.append((os.readlink(f"/proc/self/fd/{fd}"), os.get_inheritable(fd)))
            os.close(fd)
    return found


PASSING: dict[str, Callable[[Any], Any]] = {
    "recvmsg": simple("recvmsg", 10, SPACE),
    "recvmsg own buffer": simple("recvmsg", 100_000, SPACE),
    "recvmsg CLOEXEC": simple("recvmsg", 10, SPACE, CMSG_CLOEXEC),
    "recvmsg PEEK": simple("recvmsg", 10, SPACE, PEEK),
    "recvmsg no room": simple("recvmsg", 10, 0),
    "recvmsg room for one": simple("recvmsg", 10, stdlib_socket.CMSG_SPACE(4)),
    "recvmsg short data": simple("recvmsg", 1, SPACE),
    "recvmsg_into": lambda sock: sock.recvmsg_into([bytearray(10)], SPACE),
    "recv": simple("recv", 10),
}


@pytest.mark.parametrize("ready", [True, False], ids=["ready", "waiting"])
@pytest.mark.parametrize("name", PASSING)
def test_passed_descriptors(name: str, ready: bool, same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        fds = array.array(
            "i", [os.open(path, os.O_RDONLY) for path in ("/dev/null", "/dev/zero")]
        )
        found = []

        async def receive() -> None:
            outcome = await attempt(PASSING[name], pair.a)
            assert outcome[0] == "returned"
            if isinstance(outcome[1], tuple):
                data, ancillary, flags, address = outcome[1]
                found.append((data, take_descriptors(ancillary), flags, address))
            else:
                found.append(outcome[1])

        try:
            async with trio.open_nursery() as nursery:
                if not ready:
                    nursery.start_soon(receive)
                    await trio.testing.wait_all_tasks_blocked()
                ancillary = [(stdlib_socket.SOL_SOCKET, RIGHTS, fds)]
                assert await pair.b.sendmsg([b"take", b"these"], ancillary) == 9
                if ready:
                    nursery.start_soon(receive)
        finally:
            for fd in fds:
                os.close(fd)
        return found

    found = same_on_each(case, ["socketpair", "unix_stream", "unix_dgram", "unix_seqpacket"])
    if name == "recvmsg":
        assert found["socketpair"][0][1] == (("/dev/null", True), ("/dev/zero", True))


def test_credentials(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        pair.a.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_PASSCRED, 1)
        ours = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
        ancillary = [(stdlib_socket.SOL_SOCKET, stdlib_socket.SCM_CREDENTIALS, ours)]
        found = [await attempt(pair.b.sendmsg, [DATA], ancillary)]
        found.append(await attempt(pair.a.recvmsg, 100, 200))
        await pair.b.send(DATA)
        found.append(await attempt(pair.a.recvmsg, 100, 200))
        return found

    found = same_on_each(case, ["socketpair", "unix_dgram"])
    assert found["socketpair"][1][1][1][0][:2] == (1, stdlib_socket.SCM_CREDENTIALS)


# -- accept and connect ----------------------------------------------------------------


async def listen(family: int, address: Any) -> Any:
    listener = trio.socket.socket(family)
    await listener.bind(address)
    listener.listen()
    return listener


def shape(sock: Any) -> tuple[Any, ...]:
    """What an accepted socket is."""
    return (
        type(sock).__name__,
        type(sock._sock).__name__,
        sock.family,
        sock.type,
        sock.proto,
        sock._sock.getblocking(),
        sock._sock.gettimeout(),
        sock.get_inheritable(),
        sock.did_shutdown_SHUT_WR,
    )


@pytest.mark.parametrize("ready", [True, False], ids=["ready", "waiting"])
def test_accepted_sockets(ready: bool, same_as_stock: Compare, tmp_path: Any) -> None:
    async def main() -> Any:
        found = []
        for number, (family, address) in enumerate(
            [
                (stdlib_socket.AF_INET, ("127.0.0.1", 0)),
                *([(stdlib_socket.AF_INET6, ("::1", 0))] if "tcp6" in KINDS else []),
                (stdlib_socket.AF_UNIX, None),
                (stdlib_socket.AF_UNIX, b"\0trio-lio-test-abstract"),
            ]
        ):
            if address is None:
                address = str(tmp_path / f"{os.urandom(4).hex()}")
            listener = await listen(family, address)
            client = trio.socket.socket(family)
            with listener, client:
                async with trio.open_nursery() as nursery:

                    async def accept(number: int = number, listener: Any = listener) -> None:
                        sock, address = await listener.accept()
                        with sock:
                            assert address == client.getsockname()
                            peer = sock.getpeername() == client.getsockname()
                            found.append((number, shape(sock), peer, len(address)))

                    if not ready:
                        nursery.start_soon(accept)
                        await trio.testing.wait_all_tasks_blocked()
                    await client.connect(listener.getsockname())
                    assert client.getpeername() == listener.getsockname()
                    if ready:
                        nursery.start_soon(accept)
        return found

    assert len(same_as_stock(main)) >= 3


def test_accept_on_what_does_not_listen(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        return await attempt(pair.a.accept)

    found = same_on_each(case, KINDS)
    assert {result[0] for result in found.values()} == {"raised"}


def free_port(kind: int = stdlib_socket.SOCK_STREAM) -> int:
    with stdlib_socket.socket(stdlib_socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_connect_that_fails(same_as_stock: Compare, tmp_path: Any) -> None:
    port = free_port()
    (tmp_path / "file").touch()
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "not-listening"))
        inet, inet6, unix = stdlib_socket.AF_INET, stdlib_socket.AF_INET6, stdlib_socket.AF_UNIX
        stream, dgram = stdlib_socket.SOCK_STREAM, stdlib_socket.SOCK_DGRAM
        attempts = [
            (inet, stream, ("127.0.0.1", port)),
            (inet, stream, ("localhost", port)),
            (inet, stream, ("127.1", port)),
            (inet, stream, ("127.0.0.1", 0)),
            (inet, stream, ("127.0.0.1", 70_000)),
            (inet, stream, ("127.0.0.1", -1)),
            (inet, stream, ("127.0.0.1", "no-such-service")),
            (inet, stream, ("127.0.0.1", None)),
            (inet, stream, ("127.0.0.1", 1.5)),
            (inet, stream, (None, port)),
            (inet, stream, (5, port)),
            (inet, stream, ("255.255.255.255", port)),
            (inet, stream, ("<broadcast>", port)),
            (inet, stream, ("224.0.0.1", port)),
            (inet, stream, ("::1", port)),
            (inet, stream, ("127.0.0.1",)),
            (inet, stream, ("127.0.0.1", port, 0)),
            (inet, stream, ["127.0.0.1", port]),
            (inet, stream, "127.0.0.1"),
            (inet, stream, None),
            (inet, dgram, ("255.255.255.255", port)),
            (inet, dgram, ("127.0.0.1", port)),
            (inet6, stream, ("::1", port)),
            (inet6, stream, ("::1", port, 0, 0)),
            (inet6, stream, ("::1", port, 1 << 30, 0)),
            (inet6, stream, ("::1", port, 0, 12345)),
            (inet6, stream, ("fe80::1", port, 0, 12345)),
            (inet6, stream, ("127.0.0.1", port)),
            (unix, stream, str(tmp_path / "missing")),
            (unix, stream, str(tmp_path / "not-listening")),
            (unix, stream, tmp_path / "not-listening"),
            (unix, stream, str(tmp_path / "not-listening").encode()),
            (unix, stream, str(tmp_path / "file")),
            (unix, stream, str(tmp_path)),
            (unix, stream, "/" + "x" * 200),
            (unix, stream, ""),
            (unix, stream, b"\0nobody-listens-here"),
            (unix, dgram, str(tmp_path / "not-listening")),
            (unix, stream, "with\0nul"),
            (unix, stream, 5),
            (unix, stream, ("127.0.0.1", port)),
        ]

        async def main() -> list[Any]:
            found = []
            for family, kind, address in attempts:
                if family == inet6 and "tcp6" not in KINDS:
                    continue
                with trio.socket.socket(family, kind) as sock:
                    outcome = await attempt(sock.connect, address)
                    # A failed connect leaves the socket open, on stock Trio too.
                    found.append((address, outcome, sock.fileno() >= 0))
            return found

        found = same_as_stock(main)
    assert found[0][1][1] == "ConnectionRefusedError"
    assert found[0][1][2].endswith(
        f"Error connecting to ('127.0.0.1', {port}): Connection refused"
    )


def test_connect_twice(run: Callable[..., Any]) -> None:
    """The second call tells the truth: on stock Trio it once says that it has connected."""

    async def main() -> None:
        with await listen(stdlib_socket.AF_INET, ("127.0.0.1", 0)) as listener:
            to = listener.getsockname()
            with trio.socket.socket() as sock:
                assert await attempt(sock.connect, to) == ("returned", None)
                second = await attempt(sock.connect, to)
                assert second == ("returned", None) or second[3] == errno.EISCONN
                third = await attempt(sock.connect, to)
                assert third[3] == errno.EISCONN

    run(main)


def test_connect_of_sockets_in_other_states(same_as_stock: Compare) -> None:
    async def main() -> list[Any]:
        with await listen(stdlib_socket.AF_INET, ("127.0.0.1", 0)) as listener:
            to = listener.getsockname()
            found = []
            with trio.socket.socket() as sock:
                await sock.connect(to)
                found.append(await attempt(sock.accept))
            found.append(await attempt(listener.connect, to))
            return [(*outcome[:2], *outcome[3:]) for outcome in found]

    found = same_as_stock(main)
    assert found[0][0] == found[1][0] == "raised"


def test_connect_again_after_a_refusal(run: Callable[..., Any]) -> None:
    """Stock Trio's next call says ECONNABORTED, and the one after that connects."""

    async def main() -> None:
        port = free_port()
        with trio.socket.socket() as sock:
            refused = await attempt(sock.connect, ("127.0.0.1", port))
            assert refused[1] == "ConnectionRefusedError"
            with await listen(stdlib_socket.AF_INET, ("127.0.0.1", port)) as listener:
                if (await attempt(sock.connect, ("127.0.0.1", port)))[0] == "raised":
                    await sock.connect(("127.0.0.1", port))
                with (await listener.accept())[0] as peer:
                    await sock.send(b"x")
                    assert await peer.recv(10) == b"x"

    run(main)


def test_datagram_sockets_change_their_peer(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        with trio.socket.socket(pair.a.family, pair.a.type) as sock:
            found = []
            for peer in pair.a, pair.b, pair.a:
                found.append(await attempt(sock.connect, peer.getsockname()))
                if found[-1][0] == "returned":
                    found.append(sock.getpeername())
            return found

    same_on_each(case, DATAGRAM_KINDS)


def test_unix_connect_to_a_full_backlog(run: Callable[..., Any]) -> None:
    """A UNIX socket has no connect in progress. Stock Trio returns as if it were connected."""

    async def main() -> list[Any]:
        with stdlib_socket.socket(stdlib_socket.AF_UNIX) as server:
            server.bind(b"\0trio-lio-full-backlog")
            server.listen(0)
            socks = [trio.socket.socket(stdlib_socket.AF_UNIX) for _ in range(3)]
            found = []
            for sock in socks:
                found.append(await attempt(sock.connect, server.getsockname()))
                connected = found[-1] == ("returned", None)
                assert connected == (await attempt(sock.send, b"x") == ("returned", 1))
                sock.close()
            return found

    found = run(main)
    assert found[0] == ("returned", None)
    assert found[-1][1] == "BlockingIOError"


# -- what does not go through operations -----------------------------------------------


def test_everything_else_of_a_socket(same_on_each: Compare) -> None:
    async def case(pair: Pair) -> Any:
        a = pair.a
        found: list[Any] = [
            a.family, a.type, a.proto, a.getsockname(), a.getpeername(),
            a.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_ERROR),
            a.get_inheritable(), a.did_shutdown_SHUT_WR, a.is_readable(),
            isinstance(a, trio.socket.SocketType), type(a._sock) is stdlib_socket.socket,
        ]  # fmt: skip
        await pair.b.send(DATA)
        found.append(a.is_readable())
        with a.dup() as copy:
            found.append(await copy.recv(4))
            found.append(copy.fileno() != a.fileno())
        a.set_inheritable(True)
        found.append(a.get_inheritable())
        found.append(await attempt(a.wait_writable))
        found.append(repr(a).startswith(f"<trio.socket.socket fd={a.fileno()}, family="))
        if pair.kind in STREAM_KINDS:
            a.shutdown(stdlib_socket.SHUT_WR)
            found.append((a.did_shutdown_SHUT_WR, await attempt(a.send, b"x")))
        fd = a.detach()
        found.append((a.fileno(), await attempt(a.recv, 1)))
        os.close(fd)
        a.close()
        return found

    same_on_each(case, KINDS)
