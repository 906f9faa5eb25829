"""LioIOManager: what Trio's run loop calls.

The way of an operation: a task takes an `Operation`, pushes it (one native call, no system
call) and parks on it. The run loop calls `get_events`, which hands everything over and
waits, one native call a tick; `process_events` wakes each task with its result.

What a task is woken with: ``bytes`` or a non-negative ``int`` for what went well, a tuple for
messages and accepted sockets, and an ``outcome.Error`` for everything else. Whoever parks
looks at the type first and unwraps the rare rest.
"""

from __future__ import annotations

import errno
import math
import os
import socket as stdlib_socket
import struct
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

import outcome
import trio

from . import _address, _control
from ._dormant import LONG, Dormant, recall, remember
from ._faults import FaultCounts, Injected
from ._flight import value_of
from ._inner import ManagerBase, OperationBase, family_of, type_of
from ._kevents import Kevents
from ._kinds import (
    KIND_ACCEPT,
    KIND_ANY,
    KIND_KEVENTS,
    KIND_OTHER,
    KIND_POLL_READ,
    KIND_POLL_WRITE,
    KIND_RECEIVE,
    KIND_RECEIVE_FROM_INTO,
    KIND_RECEIVE_FROM_OWN,
    KIND_RECEIVE_INTO,
    KIND_RECEIVE_MESSAGE,
    KIND_RECEIVE_MESSAGE_INTO,
    KIND_RECEIVE_OWN,
    KIND_SEND_ALL,
    KIND_WRITE,
)
from ._native import (
    ETIME,
    RESOURCE_ERRORS,
    check,
    create,
    ffi,
    in_use,
    lib,
    os_error,
    unavailable,
)
from ._overlapped import PACKET, Overlapped, check_network
from ._statistics import LioStatistics, close_listeners
from ._trio_compat import WaitTaskRescheduled, current_reschedule, run_context

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_CAPACITY = 256

# Two tasks that wait to read, or to write, on one descriptor are a mistake in Trio.
EXCLUSIVE = lib.LIO_OP_EXCLUSIVE

# A receive of so many bytes is large: the next ones of that socket wait for data, and then
# receive into their own bytes. Until then they come by way of the backend's pool, which is a
# copy more, and a system call less.
_LARGE = {"uring": 32768, "epoll": 16384, "kqueue": 16384}
_NEVER_LARGE = 1 << 62
LARGE_MIN = min(_LARGE.values())

_MSG_HEAD = struct.Struct("=IIII")  # lio_msg: addr_len, control_len, flags, reserved

# A kernel with a full queue takes an operation later, and one under load cancels later.
_TURNS_FOR_OTHERS = 8

# What get_events answers, besides a number of records.
_NOTHING = 0
_LOOK = ("another thread has waited: the owner has to look for itself",)
_EARLY = ("the wake-up socket is readable, in a run without a backend",)


def _parked() -> Generator[None, None, None]:
    """What a task that waits for an operation seems to stand in."""
    yield


_PARKED: Any = _parked()


class Operation(OperationBase):
    """One operation's Python side, used again and again: ``await`` parks the task on it."""

    __slots__ = ()

    # For who follows a task down to what it waits for, by way of an awaitable that is no
    # generator (`trio.lowlevel.Task.iter_await_frames`).
    gi_frame = property(lambda _: _PARKED.gi_frame)
    gi_yieldfrom = None

    def __init__(self, manager: LioIOManager, number: int) -> None:
        self.manager = manager
        self.id = number
        self.task: Any = None
        self.kind = KIND_OTHER
        self.want = 0
        self.keep: Any = None  # what the kernel may read or write, until the completion
        self.control: Any = None
        self.raise_cancel: Any = None
        self.message = WaitTaskRescheduled(self.abort)

    def abort(self, raise_cancel: Any) -> trio.lowlevel.Abort:
        manager = self.manager
        if manager.handle is None:  # the run crashed, and its tasks are being collected
            return trio.lowlevel.Abort.SUCCEEDED
        early = manager.early is self
        if early or lib.lio_cancel(manager.handle, self.id) == 1:
            # It was still queued: it never happened.
            if early:
                manager.early = None
            manager.give_back(self)
            return trio.lowlevel.Abort.SUCCEEDED
        # It is with the kernel. The completion decides: its result, or our cancel.
        self.raise_cancel = raise_cancel
        return trio.lowlevel.Abort.FAILED


class Refused:
    """Stands in for an operation that could not be pushed: fails when it is awaited.

    A failing call is a checkpoint too; and the frames that an exception keeps alive must not
    keep the caller's buffer exported.
    """

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._fail().__await__()

    async def _fail(self) -> None:
        await trio.lowlevel.checkpoint()
        raise self.error


class Adopted(weakref.ref[stdlib_socket.socket]):
    """A socket whose descriptor the backend knows, as long as it lives."""

    __slots__ = ("__weakref__", "fd", "manager")
    fd: int
    manager: weakref.ref[LioIOManager]

    def __new__(cls, sock: stdlib_socket.socket, manager: LioIOManager) -> Self:
        self = super().__new__(cls, sock, _collected)
        self.fd = sock.fileno()
        self.manager = weakref.ref(manager)
        return self

    def __init__(self, sock: stdlib_socket.socket, manager: LioIOManager) -> None:
        super().__init__(sock, _collected)  # type: ignore[call-arg]


@trio.lowlevel.enable_ki_protection
def _collected(adopted: Any) -> None:
    manager = adopted.manager()
    if manager is not None:
        manager.let_go(adopted)


# A stdlib socket that is closed has to be settled in whichever run knows it.
# Every close asks, so this is no WeakSet: going through one costs more than the close.
living_managers: dict[int, weakref.ref[LioIOManager]] = {}


def _forget_in_child() -> None:
    """A forked child closes its copies of the parent's sockets: that settles nothing."""
    for reference in tuple(living_managers.values()):
        manager = reference()
        if manager is not None:
            manager.adopted.clear()
    living_managers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


class LioIOManager(Dormant, Overlapped, ManagerBase):
    """Trio's I/O manager on a completion backend. One per run.

    Trio makes its manager by ``TheIOManager()``, and while trio-lio is in use that name is
    this class. Without arguments it is `for_new_run` that decides, and it may well answer
    with Trio's own manager.
    """

    for_new_run: Callable[[], Any]
    """Makes the manager for a run that is just starting; set by `_install`."""
    before_adoption: Callable[[], None] = staticmethod(lambda: None)
    """Called before a run can adopt a socket; set by `_install`."""
    receive_max = 0
    """The most bytes that a receive from the pool brings."""

    def __new__(cls, name: str | None = None, *args: Any, **kwargs: Any) -> Any:
        return cls.for_new_run() if name is None else super().__new__(cls)

    def __init__(
        self,
        name: str | None = None,
        capacity: int = DEFAULT_CAPACITY,
        reason: str = "",
        injected: Injected | None = None,
        files: bool = True,
        may_be_dormant: bool = False,
        otherwise: Callable[[], tuple[str, str]] | None = None,
    ) -> None:
        """``otherwise`` names another backend, and why, where the kernel refuses this one."""
        if name is None:
            return  # for_new_run made it
        check_network()
        if injected is None:
            self.handle: Any = create(name)
        else:
            self.handle = create(name, injected.settings, injected.seed)
        self.capacity = capacity
        self.files = files
        self.thread = threading.get_ident()
        self._otherwise = otherwise
        self.adopted: dict[int, Adopted] = {}
        self._released_elsewhere: deque[Adopted] = deque()
        self._kevents: Kevents | None = None
        self._injected = injected
        made = recall(name) if may_be_dormant and injected is None else None
        error = None
        if made is None:
            error = self._make(name, reason)
        elif (code := lib.lio_reserve(self.handle)) < 0:
            error = unavailable(name, code)
        else:
            self.dormant = True
            self._describe(name, reason, *made)
        if error is not None:
            try:
                raise error
            finally:
                del error  # a cycle would keep the handle, and what it has open
        if injected is not None:
            injected.begin_run(self._count_faults)

    def _describe(self, name: str, reason: str, capabilities: int, receive_max: int) -> None:
        self.name = name
        self.statistics_name = f"lio-{name}"
        self.info = in_use(name, reason, capabilities)
        self.receive_max = receive_max
        # Faults are laid over operations only.
        self.large = _NEVER_LARGE if self._injected else _LARGE.get(name, _NEVER_LARGE)

    def _make(self, name: str, reason: str) -> Exception | None:
        """Makes the backend. Where that fails nothing has changed, and it returns why."""
        self.before_adoption()
        handle = self.handle
        code = lib.lio_init(handle, self.capacity)
        if code < 0 and self._otherwise is not None and -code not in RESOURCE_ERRORS:
            # It ran when it was tried: something (a seccomp filter, a sysctl) has come since.
            try:
                name, reason = self._otherwise()
            except (OSError, RuntimeError) as exc:
                return exc
            check(lib.lio_replace(handle, name.encode()))
            code = lib.lio_init(handle, self.capacity)
        if code < 0:
            return unavailable(name, code)
        made = lib.lio_capabilities(handle), lib.lio_pool_receive_max(handle)
        remember(name, *made)
        self._describe(name, reason, *made)
        self._map_memory()
        self.open_overlapped(handle)
        key = id(self)
        living_managers[key] = weakref.ref(self, lambda _: living_managers.pop(key, None))
        return None

    @trio.lowlevel.enable_ki_protection
    def begin(self) -> Exception | None:
        """Makes the backend of a run that is dormant; where that fails it stays so."""
        error = self._make(self.name, self.info.reason)
        if error is None:
            self.dormant = False
            op, self.early = self.early, None
            if op is not None:
                fd = self._wakeup.wakeup_sock.fileno()
                arguments = (self.handle, op.id, lib.LIO_POLL, fd, ffi.NULL, 0)
                if lib.lio_py_push(*arguments, lib.LIO_POLL_READ, EXCLUSIVE) < 0:
                    # For nothing, which is allowed; its next wait has the error.
                    task = op.task
                    self.give_back(op)
                    current_reschedule()(task, 0)
        return error

    def _get_early_events(self, timeout: float) -> Any:
        """`get_events` of a run that is dormant."""
        if threading.get_ident() != self.thread:  # it waits for a guest run, and may not touch
            return _LOOK if self.look(timeout) else _NOTHING
        ready = self.look(0)
        if not ready:
            if timeout <= 0 and self.looks < self.enough:
                return _NOTHING
            # Time to make the backend: the run is about to sleep, or has gone on for long.
            self.enough = self.looks + LONG
            op = self.early
            error = self.begin()
            if error is None:  # somebody may have been woken by that
                idle = op is None or op.task is not None
                return self.get_events(timeout) if idle else _LOOK
            if op is None and timeout > 0:
                raise error
            ready = self.look(timeout)
        if not ready:
            return _NOTHING
        self.early_done, self.early = self.early, None
        return _EARLY

    def _map_memory(self) -> None:
        stats = ffi.new("lio_stats *")
        check(lib.lio_get_stats(self.handle, stats))
        self.capacity = stats.capacity
        base = ffi.new("void **")
        size = ffi.new("size_t *")
        check(lib.lio_pool(self.handle, base, size))
        self.pool_start = ffi.cast("char *", base[0])
        self.pool = memoryview(ffi.buffer(base[0], size[0])).cast("B")
        count = self.capacity + lib.LIO_RECORDS_BEYOND
        backend, records, pool = [
            int(ffi.cast("uintptr_t", each))
            for each in (self.handle, lib.lio_records(self.handle), base[0])
        ]
        self.use(self.handle, backend, records, count, pool, self.receive_max)

    # -- what Trio calls ---------------------------------------------------------------

    # get_events and process_events are `ManagerBase`'s; here is what these call.

    def get_other_events(self, timeout: float, code: int) -> Any:
        """As `get_events`, where there is no backend, or it cannot wait."""
        if self.handle is None:
            raise RuntimeError("this run is over")
        if self.dormant:
            idle = self.early is None and timeout <= 0
            return _NOTHING if idle else self._get_early_events(timeout)
        if threading.get_ident() == self.thread:
            check(code, " while waiting for completions")
        # A guest run waits in a thread of Trio's. It may look, but not touch.
        return _LOOK if lib.lio_py_wait_ready(self.handle, timeout) != 0 else _NOTHING

    def process_other_events(self, events: object) -> None:
        """As `process_events`, for what `get_other_events` returned."""
        if events is _LOOK:
            self.process_events(self.get_events(0))
        elif events is _EARLY:
            op, self.early_done = self.early_done, None
            assert op is not None
            task = op.task
            self.give_back(op)
            current_reschedule()(task, lib.LIO_POLL_READ)

    def process_note(self, number: int, result: int, data: int, detail: int) -> None:
        """A wake-up, a signal (being back here is all they want), or a packet."""
        if self._released_elsewhere:
            self._release_now()
        if number == PACKET:
            self.process_packet(result, data, detail)

    def enter_run(self) -> None:
        """Trio has begun the run."""
        self.belong_to(current_reschedule(), run_context.__dict__, run_context.runner)

    def force_wakeup(self) -> None:
        """Ends a wait, now or the next one. Any thread, any signal handler."""
        handle = self.handle
        if handle is None:
            return
        if self.dormant:  # or was, just now: what that writes to ends a wait of any kind
            self.wake_early()
        else:
            lib.lio_wake(handle)

    def statistics(self) -> LioStatistics:
        reading = writing = 0
        for op in self.operations:
            if op.task is not None:
                reading += op.kind < KIND_WRITE
                writing += KIND_WRITE <= op.kind < KIND_OTHER
        stats = ffi.new("lio_stats *")
        if not self.dormant:
            check(lib.lio_get_stats(self.handle, stats))
        kevent_tasks, monitors = self._kevents.statistics() if self._kevents else (0, 0)
        return LioStatistics(
            **self.overlapped_statistics(),
            backend=self.statistics_name,
            tasks_waiting_read=reading,
            tasks_waiting_write=writing,
            operations_in_flight=stats.in_flight + (self.early is not None),
            operations_pushed=stats.pushed,
            operations_completed=stats.completed,
            operations_cancelled=stats.cancelled,
            batches=stats.waits,
            largest_batch=stats.largest_batch,
            syscalls=stats.syscalls + self.looks,
            overflows=stats.overflow,
            wakeups=stats.wakeups,
            spins=stats.spins,
            spin_hits=stats.spin_hits,
            capacity=self.capacity,
            faults=None if self._injected is None else FaultCounts.of(stats),
            tasks_waiting_kevent=kevent_tasks,
            monitors=monitors,
        )

    def _count_faults(self) -> FaultCounts:
        stats = ffi.new("lio_stats *")
        check(lib.lio_get_stats(self.handle, stats))
        return FaultCounts.of(stats)

    def close(self) -> None:
        """Ends what is in flight; what completed and nobody can take any more is closed."""
        handle, last = self.handle, None
        if handle is None:
            return
        if close_listeners:
            last = self.statistics()
        if self._injected is not None:
            self._injected.end_run(self._count_faults)
        if not self.dormant:
            self.pool.release()
            # From another thread (an abandoned guest run that is collected there) this is
            # refused, and the handle leaks rather than being pulled from under the kernel. One
            # that was never initialised may be gone already, in whatever order garbage goes.
            lib.lio_close(handle)
        self.handle = None
        if self._kevents is not None:
            self._kevents.close()
            self._kevents = None
        living_managers.pop(id(self), None)
        self.close_overlapped()
        self.adopted.clear()
        for op in self.operations:
            op.task = op.keep = op.control = op.raise_cancel = None
        self.operations.clear()
        self.free.clear()
        self.leave()
        if last is not None:
            for listener in list(close_listeners):
                listener(last)

    # -- operations --------------------------------------------------------------------

    def take(self, kind: int) -> Operation:
        """An operation that is not in use. Its owner pushes it, or gives it back."""
        if self.free:
            op: Operation = self.free.pop()
        else:
            op = Operation(self, len(self.operations))
            self.operations.append(op)
        op.kind = kind
        return op

    def give_back(self, op: Operation) -> None:
        op.task = op.keep = op.control = op.raise_cancel = None
        self.free.append(op)

    def grow(self) -> int:
        """Doubles what may be in flight: any number of tasks may wait. 0 or an error."""
        code: int = lib.lio_grow(self.handle, self.capacity)
        self._map_memory()  # also after an error: the records may have moved
        return code

    def push_again(self, op: Operation, code: int, push: Callable[[], int]) -> Any:
        """After a push that answered ``code`` < 0: makes room and tries again."""
        if self.dormant:
            error = self.begin()
            if error is not None:
                self.give_back(op)
                return Refused(error)
            code = push()
        while code == -errno.ENOBUFS:
            code = self.grow() or push()
        turns = 0
        while code == -errno.EBUSY and turns < _TURNS_FOR_OTHERS:
            # Another task's operation is in the way. If it only has not been handed over, or
            # is being cancelled, it gets out of the way now; if it waits, this is a conflict.
            self.process_events(self.get_events(0))
            code = push()
            turns += 1
        if code >= 0:
            op.task = run_context.task
            return op
        self.give_back(op)
        if code == -errno.EBUSY:
            return Refused(
                trio.BusyResourceError("another task is already reading / writing this fd")
            )
        return Refused(OSError(-code, os.strerror(-code)))

    def push(
        self,
        op: Operation,
        opcode: int,
        fd: int,
        buffer: Any = ffi.NULL,
        length: int = 0,
        flags: int = 0,
        op_flags: int = EXCLUSIVE,
    ) -> Any:
        """Queues an operation of the current task's: ``await`` what this returns."""
        arguments = (self.handle, op.id, opcode, fd, buffer, length, flags, op_flags)
        code = lib.lio_py_push(*arguments)
        if code == 0:
            op.task = run_context.task
            return op
        return self.push_again(op, code, partial(lib.lio_py_push, *arguments))

    def push_address(
        self,
        op: Operation,
        opcode: int,
        fd: int,
        address: bytes,
        buffer: Any = ffi.NULL,
        length: int = 0,
        flags: int = 0,
    ) -> Any:
        """As `push`, for operations that name a socket address."""
        size = len(address)
        arguments = (self.handle, op.id, opcode, fd, buffer, length, flags, address, size)
        code = lib.lio_py_push_address(*arguments)
        if code == 0:
            op.task = run_context.task
            return op
        return self.push_again(op, code, partial(lib.lio_py_push_address, *arguments))

    def push_struct(self, op: Operation, native: Any) -> Any:
        """As `push`, for operations that need a whole ``lio_op``."""
        code = lib.lio_push(self.handle, op.id, native)
        if code == 0:
            op.task = run_context.task
            return op
        return self.push_again(op, code, partial(lib.lio_push, self.handle, op.id, native))

    def _failure(self, op: Operation, result: int, detail: int = 0) -> outcome.Error:
        if result != -errno.ECANCELED:
            return outcome.Error(os_error(-result, detail))
        if op.raise_cancel is None:
            # Nobody cancelled it but the close of its descriptor.
            return outcome.Error(trio.ClosedResourceError("another task closed this fd"))
        raised = outcome.capture(op.raise_cancel)
        assert isinstance(raised, outcome.Error)
        return raised

    def _value(self, op: Operation, result: int, data: int, detail: int) -> Any:
        """What the task is woken with, when it is not the usual; None: there is no task."""
        kind = op.kind
        if kind == KIND_KEVENTS:
            assert self._kevents is not None
            self._kevents.process(result)
            return None
        if result < 0:
            if result == -ETIME and kind == KIND_ANY:
                return 0  # a timeout that ran out did what it was asked to
            return self._failure(op, result, detail)
        if kind == KIND_ANY:
            return value_of(op.keep, self.pool_start, result, data, detail)
        if kind == KIND_SEND_ALL:  # not all of it: it was cancelled on the way
            return self._failure(op, -errno.ECANCELED)
        if kind >= KIND_POLL_READ or kind == KIND_RECEIVE_INTO:
            return result
        if kind == KIND_RECEIVE:
            return b""  # the end of the stream
        if kind == KIND_RECEIVE_OWN:
            return ffi.buffer(op.keep, result)[:]
        pool = self.pool
        address_size, control_size, flags, _ = _MSG_HEAD.unpack_from(pool, detail)
        raw = pool[detail + 16 : detail + 16 + address_size]
        if kind == KIND_ACCEPT:
            listener = op.keep
            # An object at once: should nobody take it any more, it closes itself.
            accepted = stdlib_socket.socket(
                family_of(listener), type_of(listener), listener.proto, fileno=result
            )
            return accepted, _address.decode(raw)
        received: bytes | int
        if kind in (KIND_RECEIVE_FROM_INTO, KIND_RECEIVE_MESSAGE_INTO):
            received = result
        elif data >= 0:
            received = pool[data : data + result].tobytes()
        elif result == 0:
            received = b""
        elif kind == KIND_RECEIVE_FROM_OWN:
            received = ffi.buffer(op.keep, result)[:]
        else:
            received = ffi.buffer(op.keep[0], result)[:]
        if kind < KIND_RECEIVE_MESSAGE:
            return received, _address.decode(raw)
        control = b""
        if op.control is not None:
            control = ffi.buffer(op.control, min(control_size, len(op.control)))[:]
        return received, _control.decode_control(control), flags, _address.decode(raw)

    def name_file(self, fd: int) -> None:
        """After a push on a descriptor: the kernel must know the file now, if nobody promised
        to keep it open. Somebody may close it and use its number again at any time."""
        if fd not in self.adopted:
            self.hand_over()

    def hand_over(self) -> None:
        """Flushes what is queued, the operation included that the current task has just pushed.

        Not in a cancelled scope, where nothing must happen: it is about to be taken back."""
        if trio.current_effective_deadline() != -math.inf:
            lib.lio_flush(self.handle)

    # -- readiness ---------------------------------------------------------------------

    async def _wait(self, fd: int | Any, kind: int, mask: int) -> None:
        if not isinstance(fd, int):
            fd = fd.fileno()
        if fd < 0:
            raise ValueError(f"file descriptor cannot be a negative integer ({fd})")
        op = self.push(self.take(kind), lib.LIO_POLL, fd, flags=mask)
        self.name_file(fd)
        result = await op
        if type(result) is not int:
            result.unwrap()

    @trio.lowlevel.enable_ki_protection
    async def wait_readable(self, fd: int | Any) -> None:
        if self.dormant and self.is_own_wakeup(fd):
            result = await self.wait_early(self.take(KIND_POLL_READ))
            if type(result) is not int:
                result.unwrap()
            return
        await self._wait(fd, KIND_POLL_READ, lib.LIO_POLL_READ)

    @trio.lowlevel.enable_ki_protection
    async def wait_writable(self, fd: int | Any) -> None:
        await self._wait(fd, KIND_POLL_WRITE, lib.LIO_POLL_WRITE)

    @trio.lowlevel.enable_ki_protection
    def notify_closing(self, fd: int | Any) -> None:
        if not isinstance(fd, int):
            fd = fd.fileno()
        if fd < 0 or self.handle is None or self.dormant:
            return
        if self._kevents is not None:
            self._kevents.notify_closing(fd)
        self.adopted.pop(fd, None)
        settled = lib.lio_release_fd(self.handle, fd)
        if settled == -errno.ECHILD:
            return  # a forked child closes its copy: nothing of the parent's ends by that
        check(settled)
        # The tasks become runnable here and now, as with Trio's own managers; unless what
        # the last wait brought was not even looked at yet.
        if settled and not self.unprocessed and threading.get_ident() == self.thread:
            self.process_events(self.get_events(0))

    # -- kqueue: what Trio offers on macOS and the BSDs ----------------------------------

    def _use_kevents(self) -> Kevents:
        if self._kevents is None:
            op = self.take(KIND_KEVENTS)
            try:
                self._kevents = Kevents(self, op)
            except BaseException:
                self.give_back(op)
                raise
        return self._kevents

    def current_kqueue(self) -> Any:
        """The kqueue of this run: a `select.kqueue`."""
        return self._use_kevents().kqueue

    def monitor_kevent(self, ident: int, filter: int) -> Any:  # noqa: A002
        """As `trio.lowlevel.monitor_kevent`."""
        return self._use_kevents().monitor(ident, filter)

    async def wait_kevent(
        self,
        ident: int,
        filter: int,  # noqa: A002
        abort_func: Callable[[Any], trio.lowlevel.Abort],
    ) -> Any:
        """As `trio.lowlevel.wait_kevent`."""
        return await self._use_kevents().wait(ident, filter, abort_func)

    # -- sockets -----------------------------------------------------------------------

    def adopt(self, sock: stdlib_socket.socket) -> bool:
        """Makes a socket's operations safe to queue. False: closed, or not a real socket."""
        if type(sock) is not stdlib_socket.socket:
            return False  # somebody's stand-in: only its own methods are right
        fd = sock.fileno()
        if fd < 0 or (self.dormant and self.begin() is not None):
            return False
        if lib.lio_adopt(self.handle, fd) < 0:
            return False
        self.adopted[fd] = Adopted(sock, self)
        return True

    @trio.lowlevel.enable_ki_protection
    def let_go(self, adopted: Adopted) -> None:
        """The socket is closed, detached or collected. Any thread."""
        if self.handle is None or self.adopted.get(adopted.fd) is not adopted:
            return
        if threading.get_ident() == self.thread:
            self.notify_closing(adopted.fd)
        else:
            self._released_elsewhere.append(adopted)
            self.force_wakeup()

    @trio.lowlevel.enable_ki_protection
    def _release_now(self) -> None:
        while self._released_elsewhere:
            adopted = self._released_elsewhere.popleft()
            if self.adopted.get(adopted.fd) is adopted:
                self.adopted.pop(adopted.fd)
                check(lib.lio_release_fd(self.handle, adopted.fd))


def current_manager() -> Any:
    """The manager of the lio run that this thread is in, or None."""
    try:
        manager = run_context.runner.io_manager
    except AttributeError:
        return None
    return manager if type(manager) is LioIOManager else None
