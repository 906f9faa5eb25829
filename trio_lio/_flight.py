"""What an operation holds while it is in flight, and what it brought in the end.

Exported buffers, memory for a receive, arrays of ``iovec``, paths, control data: taken at
push, given back at the completion, not earlier (the kernel owns it until then) and not later.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from . import _address
from ._control import decode_control
from ._native import ffi, lib
from ._op import Op, Ready, export

__all__ = ["Flight", "new_unset", "prepare", "stat_result", "unset_bytes", "value_of"]

_MSG_TRUNC = int(socket.MSG_TRUNC)

# Memory that the kernel fills: malloc, not calloc, so that pages nobody wrote to are none.
new_unset = ffi.new_allocator(should_clear_after_alloc=False)


def _unset_bytes() -> Callable[[int], bytes]:
    """What makes a ``bytes`` object of which nothing is written yet, as C code does: to clear
    1 MiB first takes an eighth of the time that it takes to read it from the page cache."""
    prototype = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)
    try:
        return partial(prototype(("PyBytes_FromStringAndSize", ctypes.pythonapi)), None)
    except AttributeError:  # not CPython
        return bytes


unset_bytes = _unset_bytes()
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
        made = (ffi.new if clear else new_unset)(declaration, *args)
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


# -- results ---------------------------------------------------------------------------

# struct statx of Linux: what it says of the file, its four times (of access, birth, change of
# the inode, change of the content), its devices.
_statx_file = struct.Struct("=IIQIIIHxxQQQQ")
_statx_times = struct.Struct("=" + "qIxxxx" * 4)
_statx_devices = struct.Struct("=IIII")


def stat_result(raw: Any) -> os.stat_result:
    """What a ``struct statx`` says, as `os.stat` says it."""
    file = _statx_file.unpack_from(raw)
    _mask, block_size, _attributes, links, uid, gid, mode, inode, size, blocks, _ = file
    times = _statx_times.unpack_from(raw, _statx_file.size)
    a_s, a_ns, _b_s, _b_ns, c_s, c_ns, m_s, m_ns = times
    devices = _statx_devices.unpack_from(raw, _statx_file.size + _statx_times.size)
    special, device = os.makedev(*devices[:2]), os.makedev(*devices[2:])
    return os.stat_result(
        (mode, inode, device, links, uid, gid, size, a_s, m_s, c_s),
        {
            "st_atime": a_s + a_ns * 1e-9,
            "st_mtime": m_s + m_ns * 1e-9,
            "st_ctime": c_s + c_ns * 1e-9,
            "st_atime_ns": a_s * 10**9 + a_ns,
            "st_mtime_ns": m_s * 10**9 + m_ns,
            "st_ctime_ns": c_s * 10**9 + c_ns,
            "st_blksize": block_size,
            "st_blocks": blocks,
            "st_rdev": special,
        },
    )


def _received(flight: Flight, pool: Any, result: int, data: int, detail: int) -> Any:
    """What a receive or a read brought: its bytes, or how many went into a buffer."""
    if not flight.op.receives:
        return result
    count = min(result, flight.op.length)  # MSG_TRUNC tells of more than there is
    if flight.target is not None:
        return ffi.buffer(flight.target, count)[:]
    return ffi.buffer(pool + data, count)[:] if count else b""


def _sender(pool: Any, detail: int) -> tuple[Any, Any]:
    message = ffi.cast("lio_msg *", pool + detail)
    return message, _address.decode(ffi.buffer(message.addr, message.addr_len))


def _received_from(flight: Flight, pool: Any, result: int, data: int, detail: int) -> Any:
    _, address = _sender(pool, detail)
    return _received(flight, pool, result, data, detail), address


def _received_message(flight: Flight, pool: Any, result: int, data: int, detail: int) -> Any:
    message, address = _sender(pool, detail)
    raw = b""
    if flight.control is not None:
        size = min(int(message.control_len), flight.op.control_size)
        raw = ffi.buffer(flight.control, size)[:]
    received = _received(flight, pool, result, data, detail)
    return received, decode_control(raw), int(message.flags), address


def _accepted(flight: Flight, pool: Any, result: int, data: int, detail: int) -> Any:
    return result, _sender(pool, detail)[1]


def _polled(flight: Flight, pool: Any, result: int, data: int, detail: int) -> Any:
    return Ready(result)


def _stat(flight: Flight, pool: Any, result: int, data: int, detail: int) -> Any:
    return stat_result(ffi.buffer(flight.target))


_CONVERTERS: dict[int, Callable[[Flight, Any, int, int, int], Any]] = {
    lib.LIO_READ: _received,
    lib.LIO_READ_AT: _received,
    lib.LIO_RECV: _received,
    lib.LIO_RECVFROM: _received_from,
    lib.LIO_RECVMSG: _received_message,
    lib.LIO_ACCEPT: _accepted,
    lib.LIO_POLL: _polled,
    lib.LIO_STATX: _stat,
}


def value_of(flight: Flight, pool: Any, result: int, data: int, detail: int) -> Any:
    """What an operation that did not fail brought, as the functions of `Op` say.

    ``data`` and ``detail`` are offsets into ``pool``, valid until the next wait.
    """
    convert = _CONVERTERS.get(flight.op.opcode)
    return result if convert is None else convert(flight, pool, result, data, detail)
