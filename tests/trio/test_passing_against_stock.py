"""Descriptors and credentials in messages: as on stock Trio. See `stock_cases`."""

from __future__ import annotations

import array
import os
import socket as stdlib_socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from .stock_cases import (
    DATA,
    FLAGS,
    PEEK,
    Compare,
    simple,
)
from .support import (
    Pair,
    attempt,
)

pytestmark = pytest.mark.filterwarnings("ignore:received malformed:RuntimeWarning")

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
    "recvmsg CLOEXEC": simple("recvmsg", 10, SPACE, FLAGS["CMSG_CLOEXEC"]),
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
