"""What `_fast` does, in Python: for PyPy, and CPython without its lock. The two offer the same
names, and `_inner` takes one of them.

There are no functions here that begin an operation: the methods in Python do that themselves.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import trio

from ._kinds import KIND_RECEIVE, KIND_SEND_ALL
from ._native import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Generator

_wait = lib.lio_py_wait
_RECORD = 4  # numbers of 64 bits


class OperationBase:
    """What a task parks on, by ``await``."""

    __slots__ = (
        "control",
        "id",
        "keep",
        "kind",
        "manager",
        "message",
        "raise_cancel",
        "task",
        "want",
    )

    id: int
    want: int
    kind: int
    manager: Any
    task: Any
    keep: Any
    control: Any
    raise_cancel: Any
    message: Any

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self.message)


class ManagerBase:
    """The turn of a manager: Trio calls `get_events`, and with what that returned
    `process_events`.

    What it needs of the manager is ``pool``, a memoryview, and

    * ``get_other_events(timeout, code)``, where the core answered with an error, or there is
      none yet,
    * ``process_other_events(events)``, for what that returned,
    * ``process_note(number, result, data, detail)``, for records that are no operation's,
    * ``_value(op, result, data, detail)``, for what a task is woken with when it is not the
      usual; None, where none is to be woken,
    * ``enter_run()``, which calls `belong_to`.
    """

    operations: list[Any]
    """All there are, by id."""
    free: list[Any]
    """Those that are not in use."""
    unprocessed = 0
    """How many records the last wait brought that `process_events` was not called for."""
    pool: Any
    _reschedule: Any = None
    _backend: Any = None
    _records: Any = None

    def __new__(cls, *_: Any, **__: Any) -> Any:
        self = super().__new__(cls)
        self.operations = []
        self.free = []
        return self

    if TYPE_CHECKING:

        def get_other_events(self, timeout: float, code: int) -> Any: ...
        def process_other_events(self, events: Any) -> None: ...
        def process_note(self, number: int, result: int, data: int, detail: int) -> None: ...
        def _value(self, op: Any, result: int, data: int, detail: int) -> Any: ...
        def enter_run(self) -> None: ...

    def use(
        self, handle: Any, backend: int, records: int, count: int, pool: int, receive_max: int
    ) -> None:
        """The thread of the run tells where things are: the handle of the backend, and its
        address; those of its records, ``count`` at most, and of the pool; and the most bytes
        that a receive from the pool brings."""
        self._backend = handle
        memory = ffi.buffer(ffi.cast("lio_completion *", records), count * _RECORD * 8)
        self._records = memoryview(memory).cast("B").cast("q")

    def belong_to(self, reschedule: Any, context: dict[str, Any], runner: Any) -> None:
        """The run has begun; ``context`` is what Trio keeps for its thread."""
        self._reschedule = reschedule

    def leave(self) -> None:
        """The run is over."""
        self._reschedule = self._records = self._backend = None
        self.unprocessed = 0

    def get_events(self, timeout: float) -> Any:
        """Hands everything over and waits. Falsy if and only if the time ran out."""
        backend = self._backend
        count = -errno.ENXIO if backend is None else _wait(backend, timeout)
        if count < 0:
            return self.get_other_events(timeout, count)
        if count:
            self.unprocessed = count
        return count

    @trio.lowlevel.enable_ki_protection
    def process_events(self, events: Any) -> None:
        """Wakes the tasks whose operations completed."""
        counted = type(events) is int
        if counted and not self.unprocessed:
            return
        reschedule = self._reschedule
        if reschedule is None:
            self.enter_run()
            reschedule = self._reschedule
        if not counted:
            self.process_other_events(events)
            return
        # Until the last one is processed nobody may wait again: their bytes are in the pool.
        record = iter(self._records[: self.unprocessed * _RECORD].tolist())
        operations = self.operations
        free = self.free
        pool = self.pool
        try:
            for number, result, data, detail in zip(
                record, record, record, record, strict=False
            ):
                if number < 0:
                    self.process_note(number, result, data, detail)
                    continue
                op = operations[number]
                kind = op.kind
                value: Any
                if data >= 0 and kind == KIND_RECEIVE:
                    value = pool[data : data + result].tobytes()
                elif kind == KIND_SEND_ALL and result == op.want:
                    value = result
                    op.keep = None
                else:
                    value = self._value(op, result, data, detail)
                    if value is None:
                        continue
                    op.keep = op.control = None
                task = op.task
                op.task = None
                if op.raise_cancel is not None:
                    op.raise_cancel = None
                free.append(op)
                reschedule(task, value)
        finally:
            self.unprocessed = 0
