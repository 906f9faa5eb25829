"""One awaitable per operation, for tasks of a lio run.

Descriptors are plain numbers here, and nothing is looked after: who closes one while an
operation is in flight uses `close_fd`, or `trio.lowlevel.notify_closing` first. ::

    data = await trio_lio.lowlevel.recv(fd, 4096)

Each is a checkpoint, and is cancelled like every wait of Trio's: a call that raises
``Cancelled`` had no effect; one that completed returns, and the cancellation shows at the
next checkpoint. Errors are the `OSError` of their errno; what the platform cannot do raises
one with ``ENOTSUP``.

Arguments and results are those of the `trio_lio.backends.Op` function of the same name.
Descriptors that `accept`, `socket` and `openat` bring are the caller's to close.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec

import outcome
import trio

from ._flight import Flight, prepare
from ._kinds import KIND_ANY
from ._manager import LioIOManager
from ._native import check, ffi, lib
from ._op import Op
from ._trio_compat import run_context

P = ParamSpec("P")


def _manager() -> LioIOManager:
    try:
        manager = run_context.runner.io_manager
    except AttributeError:
        raise RuntimeError("must be called from async context") from None
    if type(manager) is not LioIOManager:
        raise RuntimeError("this run is not a lio run: start it with trio_lio.run")
    return manager


@trio.lowlevel.enable_ki_protection
async def perform(op: Op) -> Any:
    """Runs one operation; returns what the function of `Op` that made it says.

    Raises:
      OSError: it failed.
      RuntimeError: not inside a lio run.
      trio.ClosedResourceError: its descriptor was closed by `close_fd` meanwhile.
    """
    manager = _manager()
    flight = Flight(op)
    try:
        record = ffi.new("lio_op *")
        prepare(record, op, flight, manager.receive_max)
        parked = manager.take(KIND_ANY)
        parked.keep = flight
        awaitable = manager.push_struct(parked, record)
        manager.name_file(op.fd)
        result = await awaitable
    finally:
        # By now the kernel is done with it, or never saw it.
        flight.release()
    return result.unwrap() if type(result) is outcome.Error else result


def close_fd(fd: int) -> None:
    """Settles every operation on a descriptor, then closes it: the peer sees the end now.

    The tasks that wait on it get `trio.ClosedResourceError`.

    Raises:
      OSError: it was closed before (EBADF).
    """
    manager = _manager()
    if manager.dormant:  # nothing to settle
        os.close(fd)
        return
    manager.notify_closing(fd)
    check(lib.lio_close_fd(manager.handle, fd), f": descriptor {fd}")


def _awaitable(make: Callable[P, Op]) -> Callable[P, Awaitable[Any]]:
    @functools.wraps(make)
    async def operation(*args: P.args, **kwargs: P.kwargs) -> Any:
        return await perform(make(*args, **kwargs))

    return operation


nop = _awaitable(Op.nop)
timeout = _awaitable(Op.timeout)
read = _awaitable(Op.read)
write = _awaitable(Op.write)
read_at = _awaitable(Op.read_at)
write_at = _awaitable(Op.write_at)
readv_at = _awaitable(Op.readv_at)
writev_at = _awaitable(Op.writev_at)
recv = _awaitable(Op.recv)
recv_into = _awaitable(Op.recv_into)
recvfrom = _awaitable(Op.recvfrom)
recvfrom_into = _awaitable(Op.recvfrom_into)
recvmsg = _awaitable(Op.recvmsg)
recvmsg_into = _awaitable(Op.recvmsg_into)
send = _awaitable(Op.send)
sendto = _awaitable(Op.sendto)
sendmsg = _awaitable(Op.sendmsg)
socket = _awaitable(Op.socket)
bind = _awaitable(Op.bind)
listen = _awaitable(Op.listen)
accept = _awaitable(Op.accept)
connect = _awaitable(Op.connect)
shutdown = _awaitable(Op.shutdown)
poll = _awaitable(Op.poll)
openat = _awaitable(Op.openat)
close = _awaitable(Op.close)
fsync = _awaitable(Op.fsync)
fdatasync = _awaitable(Op.fdatasync)
truncate = _awaitable(Op.truncate)
statx = _awaitable(Op.statx)
linkat = _awaitable(Op.linkat)
symlinkat = _awaitable(Op.symlinkat)
renameat = _awaitable(Op.renameat)
unlinkat = _awaitable(Op.unlinkat)
mkdirat = _awaitable(Op.mkdirat)
tee = _awaitable(Op.tee)
splice = _awaitable(Op.splice)
