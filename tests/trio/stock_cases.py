"""What the tests that compare socket methods with stock Trio's share.

A case is a function that is run twice, once on stock Trio and once on lio, on each kind of
socket. It returns what happened: results, exceptions with their texts, what is left to be
received. Nothing here says what is right: stock Trio does.
"""

from __future__ import annotations

import socket as stdlib_socket
from collections.abc import Awaitable, Callable
from typing import Any

from .support import Pair

Case = Callable[[Pair], Awaitable[Any]]
Compare = Callable[..., Any]

FLAGS = {
    name: getattr(stdlib_socket, f"MSG_{name}")
    for name in (
        "CMSG_CLOEXEC",
        "DONTWAIT",
        "ERRQUEUE",
        "MORE",
        "NOSIGNAL",
        "OOB",
        "PEEK",
        "TRUNC",
        "WAITALL",
    )
}
PEEK, TRUNC, OOB = FLAGS["PEEK"], FLAGS["TRUNC"], FLAGS["OOB"]

DATA = b"0123456789"


def all_return(found: dict[str, Any]) -> bool:
    return all(result[0][0] == "returned" for result in found.values())


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
