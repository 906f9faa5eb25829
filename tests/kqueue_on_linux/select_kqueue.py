"""``select.kqueue`` and ``select.kevent`` over the kqueue that is built into ``trio_lio._lio``,
with the names that Python's select module has where there is a kqueue."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import Any

import trio_lio._lio

CONSTANTS = {
    "KQ_FILTER_READ": -1,
    "KQ_FILTER_WRITE": -2,
    "KQ_FILTER_PROC": -5,
    "KQ_FILTER_TIMER": -7,
    "KQ_EV_ADD": 0x1,
    "KQ_EV_DELETE": 0x2,
    "KQ_EV_ENABLE": 0x4,
    "KQ_EV_DISABLE": 0x8,
    "KQ_EV_ONESHOT": 0x10,
    "KQ_EV_CLEAR": 0x20,
    "KQ_EV_ERROR": 0x4000,
    "KQ_EV_EOF": 0x8000,
    "KQ_NOTE_EXIT": 0x80000000,
}

_core = ctypes.CDLL(trio_lio._lio.__file__, use_errno=True)


class _Record(ctypes.Structure):
    _fields_ = (
        ("ident", ctypes.c_size_t),
        ("filter", ctypes.c_short),
        ("flags", ctypes.c_ushort),
        ("fflags", ctypes.c_uint),
        ("data", ctypes.c_int64),
        ("udata", ctypes.c_void_p),
    )


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class kevent:
    def __init__(
        self,
        ident: Any,
        filter: int = CONSTANTS["KQ_FILTER_READ"],  # noqa: A002
        flags: int = CONSTANTS["KQ_EV_ADD"],
        fflags: int = 0,
        data: int = 0,
        udata: int = 0,
    ) -> None:
        self.ident = ident if isinstance(ident, int) else ident.fileno()
        self.filter, self.flags, self.fflags = filter, flags, fflags
        self.data, self.udata = data, udata

    def __repr__(self) -> str:
        return f"kevent({vars(self)})"


class kqueue:
    def __init__(self) -> None:
        self._fd = _core.kqueue()
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def fileno(self) -> int:
        if self._fd < 0:
            raise ValueError("I/O operation on closed kqueue object")
        return int(self._fd)

    @property
    def closed(self) -> bool:
        return bool(self._fd < 0)

    def close(self) -> None:
        if self._fd >= 0:
            _core.kqueue_on_linux_close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()

    def control(
        self, changes: Sequence[kevent] | None, max_events: int, timeout: float | None = None
    ) -> list[kevent]:
        given = list(changes or ())
        down = (_Record * len(given))(
            *((c.ident, c.filter, c.flags, c.fflags, c.data, c.udata) for c in given)
        )
        up = (_Record * max_events)()
        spec = None
        if timeout is not None:
            spec = ctypes.byref(_Timespec(int(timeout), int(timeout % 1 * 1e9)))
        count = _core.kevent(self.fileno(), down, len(given), up, max_events, spec)
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{os.strerror(number)} ({errno.errorcode.get(number)})")
        return [
            kevent(r.ident, r.filter, r.flags, r.fflags, r.data, r.udata or 0)
            for r in up[:count]
        ]
