"""Streams whose network is the simulated kernel's memory."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

import trio

from . import lowlevel
from ._native import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterator

_RECEIVE_SIZE = 65536
_BROKEN = (errno.EPIPE, errno.ECONNRESET)


class SimulatedStream(trio.abc.HalfCloseableStream):
    """One end of `simulated_stream_pair`: what any stream of Trio can do."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._busy: set[str] = set()
        self._ended = False

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if self._fd < 0:
                raise trio.ClosedResourceError("this stream is closed") from None
            if exc.errno in _BROKEN:
                raise trio.BrokenResourceError(str(exc)) from exc
            raise

    @contextlib.contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        if what in self._busy:
            raise trio.BusyResourceError(f"another task is already {what} on this stream")
        self._busy.add(what)
        try:
            yield
        finally:
            self._busy.discard(what)

    async def _check_open(self) -> None:
        if self._fd < 0:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("this stream is closed")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._alone("sending"), self._errors():
            await self._check_open()
            if self._ended:
                await trio.lowlevel.checkpoint()
                raise trio.ClosedResourceError("can't send data after sending EOF")
            with memoryview(data) as whole, whole.cast("B") as rest:
                sent = await lowlevel.send(self._fd, rest, all=True)
                while sent < len(rest):  # cancelled when some of it had gone
                    with rest[sent:] as more:
                        sent += await lowlevel.send(self._fd, more, all=True)

    async def wait_send_all_might_not_block(self) -> None:
        with self._alone("sending"), self._errors():
            await self._check_open()
            await lowlevel.poll(self._fd, writable=True)

    async def send_eof(self) -> None:
        with self._alone("sending"), self._errors():
            await self._check_open()
            if self._ended:
                await trio.lowlevel.checkpoint()
                return
            await lowlevel.shutdown(self._fd, socket.SHUT_WR)
            self._ended = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and max_bytes < 1:
            await trio.lowlevel.checkpoint()
            raise ValueError("max_bytes must be >= 1")
        with self._alone("receiving"), self._errors():
            await self._check_open()
            received: bytes = await lowlevel.recv(self._fd, max_bytes or _RECEIVE_SIZE)
            return received

    async def aclose(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            lowlevel.close_fd(fd)
        await trio.lowlevel.checkpoint()


def simulated_stream_pair() -> tuple[SimulatedStream, SimulatedStream]:
    """Two streams that are connected with each other, in a run on the backend ``sim``.

    Sizes of buffers and transfers are those that the seed draws. Nothing of such a connection
    depends on the machine.

    Raises:
      RuntimeError: not inside a lio run, or on another backend.
      OSError: the process can have no more descriptors (EMFILE).
    """
    manager = lowlevel._manager()
    if manager.name != "sim":
        raise RuntimeError(
            f"simulated streams are of the backend 'sim', and this run is on {manager.name!r}: "
            "start it with trio_lio.run(..., backend='sim')"
        )
    fds = ffi.new("int[2]")
    check(lib.lio_sim_pair(manager.handle, socket.SOCK_STREAM, fds))
    return SimulatedStream(fds[0]), SimulatedStream(fds[1])
