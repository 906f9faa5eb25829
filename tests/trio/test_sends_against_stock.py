"""Every send of trio.socket objects: as on stock Trio. See `stock_cases`."""

from __future__ import annotations

import array
import socket as stdlib_socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

from ..common import fill, take_now
from .stock_cases import (
    DATA,
    FLAGS,
    Compare,
    Odd,
    simple,
)
from .support import DATAGRAM_KINDS, KINDS, Pair, attempt

pytestmark = pytest.mark.filterwarnings("ignore:received malformed:RuntimeWarning")

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
    SENDS[f"send {_flag}"] = simple("send", DATA, FLAGS[_flag])
    SENDS[f"sendmsg {_flag}"] = simple("sendmsg", [DATA], [], FLAGS[_flag])
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


def test_what_a_generator_raises_is_raised(run: Callable[..., Any]) -> None:
    """And nothing is sent. (From Python 3.14 on the socket module says of whatever it raises,
    an interrupt too, that the argument is no iterable.)"""

    def fails() -> Iterator[Any]:
        yield b"a"
        raise TypeError("of the caller's own making")

    async def main() -> None:
        a, b = trio.socket.socketpair()
        with a, b:
            for call in (lambda: a.sendmsg(fails()), lambda: a.sendmsg([DATA], fails())):
                with pytest.raises(TypeError, match="of the caller's own making"):
                    await call()
            assert take_now(b._sock) is None

    run(main)


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
            simple("sendto", memoryview(DATA), FLAGS["NOSIGNAL"], to),
            simple("sendto", b"", to),
            simple("sendto", DATA, FLAGS["DONTWAIT"], to),
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
            simple("send", DATA, FLAGS["NOSIGNAL"]),
            simple("sendmsg", [DATA]),
            simple("send", DATA, FLAGS["DONTWAIT"]),
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
