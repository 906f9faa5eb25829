"""What an operation holds while it is in flight.

Exported buffers, memory for a receive, arrays of ``iovec``, paths, control data: taken at
push, given back at the completion, not earlier (the kernel owns it until then) and not later.
"""

from __future__ import annotations

import socket
from typing import Any

import attrs

from ._native import ffi, lib
from ._op import Op, export

__all__ = ["Flight", "prepare"]

_MSG_TRUNC = int(socket.MSG_TRUNC)

# Memory that the kernel fills: malloc, not calloc, so that pages nobody wrote to are none.
_new_unset = ffi.new_allocator(should_clear_after_alloc=False)
# What an empty buffer points to: the core takes NULL for "from the pool".
_NOWHERE = ffi.new("char[1]")


@attrs.define(eq=False)
class Flight:
    """What an operation keeps alive from push to completion."""

    op: Op
    exports: list[Any] = attrs.Factory(list)
    """Exported buffers of the caller."""
    memory: list[Any] = attrs.Factory(list)
    """Memory of our own that the kernel reads or writes."""
    target: Any = None
    """Where a receive goes that is not from the pool."""
    control: Any = None

    def release(self) -> None:
        """Lets go of everything. The kernel must be done with it."""
        for exported in self.exports:
            ffi.release(exported)
        self.exports.clear()
        self.memory.clear()
        self.target = self.control = None

    def own(self, declaration: str, *args: Any, clear: bool = True) -> Any:
        made = (ffi.new if clear else _new_unset)(declaration, *args)
        self.memory.append(made)
        return made

    def export(self, buffer: Any, *, writable: bool) -> Any:
        exported = export(buffer, writable=writable)
        self.exports.append(exported)
        return exported if len(exported) else _NOWHERE


def _prepare_single(record: Any, op: Op, flight: Flight) -> None:
    [buffer] = op.buffers
    exported = flight.export(buffer, writable=op.writable)
    record.buf = exported
    size = 0 if exported is _NOWHERE else len(exported)
    record.len = size


def _prepare_vector(record: Any, op: Op, flight: Flight) -> None:
    array = flight.own("lio_iovec[]", max(1, len(op.buffers)))
    for entry, buffer in zip(array, op.buffers, strict=False):
        exported = flight.export(buffer, writable=op.writable)
        entry.base = exported
        entry.len = 0 if exported is _NOWHERE else len(exported)
    record.buf = array
    record.len = len(op.buffers)


def _prepare_receive(record: Any, op: Op, flight: Flight, pool_max: int) -> None:
    """A receive of ``op.length`` bytes: from the pool, unless it is no case for the pool."""
    # Never cut a datagram: what may be larger than the pool's buffers gets one of its own. And
    # with MSG_TRUNC the result tells of bytes that were never written.
    from_pool = op.pooled and 0 < op.length <= pool_max and not op.flags & _MSG_TRUNC
    vectored = op.opcode == lib.LIO_RECVMSG
    if from_pool:
        record.buf = ffi.NULL
        record.len = 0 if vectored else op.length
        if vectored:
            record.buf_len = op.length
        return
    # Stale memory must not show where the kernel counts what it did not write.
    clear = bool(op.flags & _MSG_TRUNC)
    flight.target = flight.own("char[]", max(1, op.length), clear=clear)
    if vectored:
        array = flight.own("lio_iovec[]", 1)
        array[0].base, array[0].len = flight.target, op.length
        record.buf, record.len = array, 1
    else:
        record.buf, record.len = flight.target, op.length


def prepare(record: Any, op: Op, flight: Flight, pool_max: int) -> None:
    """Fills a ``lio_op`` and takes what it names into ``flight``.

    Raises what exporting a buffer raises, for one that changed since the `Op` was made.
    """
    record.opcode = op.opcode
    record.op_flags = op.op_flags
    record.flags = op.flags
    record.fd = op.fd
    record.fd2 = op.fd2
    record.offset = op.offset
    record.mode = op.mode
    record.len = op.length
    if op.vectored:
        _prepare_vector(record, op, flight)
    elif op.buffers:
        _prepare_single(record, op, flight)
    elif op.receives:
        _prepare_receive(record, op, flight, pool_max)
    elif op.opcode == lib.LIO_STATX:
        flight.target = record.buf = flight.own("char[256]")
    elif op.opcode == lib.LIO_SPLICE:
        record.offset2 = op.offset2
    if op.address:
        record.addr = ffi.cast("void *", flight.export(op.address, writable=False))
        record.addr_len = len(op.address)
    if op.paths:
        record.path = flight.own("char[]", op.paths[0])
        if len(op.paths) > 1:
            record.path2 = flight.own("char[]", op.paths[1])
    _prepare_control(record, op, flight)


def _prepare_control(record: Any, op: Op, flight: Flight) -> None:
    if op.control:
        # Of our own: a bytes object need not be aligned as the kernel wants it.
        record.control = flight.own("char[]", op.control)
        record.control_len = len(op.control)
    elif op.control_size:
        flight.control = record.control = flight.own("char[]", op.control_size)
        record.control_len = op.control_size
