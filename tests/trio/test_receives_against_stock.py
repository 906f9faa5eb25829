"""Every receive of trio.socket objects: as on stock Trio. See `stock_cases`."""

from __future__ import annotations

import array
import socket as stdlib_socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from ..common import pattern, take_now
from .stock_cases import (
    DATA,
    FLAGS,
    OOB,
    PEEK,
    TRUNC,
    Compare,
    Odd,
    all_return,
    filled,
    filled_many,
    simple,
    view,
)
from .support import DATAGRAM_KINDS, KINDS, STREAM_KINDS, Pair, attempt

pytestmark = pytest.mark.filterwarnings("ignore:received malformed:RuntimeWarning")

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
                _method, _size, *_more, FLAGS[_flag]
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
        RECEIVES[f"{_method} {_flag}"] = filled(_method, lambda: bytearray(5), 5, FLAGS[_flag])
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
        "recv WAITALL": simple("recv", 10, FLAGS["WAITALL"]),
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
