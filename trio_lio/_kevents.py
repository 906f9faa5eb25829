"""The part of Trio's ``KqueueIOManager`` that programs call: ``current_kqueue``,
``wait_kevent``, ``monitor_kevent``.

A program's kevents have a kqueue of their own, made when it is first asked for. It is a
descriptor, readable while it holds events; the backend watches that like any other. So what a
program registers never meets the backend's own registrations.
"""

from __future__ import annotations

import contextlib
import errno
import select
from typing import TYPE_CHECKING, Any

import outcome
import trio

from ._native import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._manager import LioIOManager, Operation

_BATCH = 256

# What mypy knows of `select` depends on the platform that it runs on.
_select: Any = select


class Kevents:
    """The kqueue of one run, and who waits for its events."""

    def __init__(self, manager: LioIOManager, op: Operation) -> None:
        if not hasattr(_select, "kqueue"):
            raise RuntimeError("there is no kqueue on this platform")
        self.kqueue: Any = _select.kqueue()
        self.registered: dict[tuple[int, int], Any] = {}
        self.manager = manager
        self.op = op
        self.watch()

    def watch(self) -> None:
        """Has the backend tell when the kqueue holds events."""
        manager, fd = self.manager, self.kqueue.fileno()
        arguments = (self.op.id, lib.LIO_POLL, fd, ffi.NULL, 0, lib.LIO_POLL_READ, 0)
        while (code := lib.lio_py_push(manager.handle, *arguments)) == -errno.ENOBUFS:
            manager.grow()
        if code < 0:
            raise OSError(-code, "cannot wait for the run's kqueue")

    def close(self) -> None:
        self.kqueue.close()

    def statistics(self) -> tuple[int, int]:
        """How many tasks wait for kevents, and how many monitors there are."""
        tasks = sum(
            type(receiver) is trio.lowlevel.Task for receiver in self.registered.values()
        )
        return tasks, len(self.registered) - tasks

    def process(self, result: int) -> None:
        """The kqueue is readable: hands out what it holds."""
        if result < 0:
            return  # the backend is being closed
        while True:
            events = self.kqueue.control([], _BATCH, 0)
            for event in events:
                self._hand_out(event)
            if len(events) < _BATCH:
                break
        self.watch()

    def _hand_out(self, event: Any) -> None:
        key = (event.ident, event.filter)
        try:
            receiver = self.registered[key]
        except KeyError:
            raise RuntimeError(
                f"a kevent for ident {event.ident} and filter {event.filter}, which nobody "
                "waits for: call wait_kevent or monitor_kevent before the next checkpoint"
            ) from None
        if type(receiver) is trio.lowlevel.Task:
            del self.registered[key]
            trio.lowlevel.reschedule(receiver, outcome.Value(event))
            return
        if event.flags & _select.KQ_EV_ONESHOT:
            del self.registered[key]
        receiver.put_nowait(event)

    def _register(self, ident: int, filter: int, receiver: Any) -> tuple[int, int]:  # noqa: A002
        key = (ident, filter)
        if key in self.registered:
            raise trio.BusyResourceError(
                "attempt to register multiple listeners for same ident/filter pair"
            )
        self.registered[key] = receiver
        return key

    @contextlib.contextmanager
    def monitor(self, ident: int, filter: int) -> Iterator[Any]:  # noqa: A002
        queue: Any = trio.lowlevel.UnboundedQueue()
        key = self._register(ident, filter, queue)
        try:
            yield queue
        finally:
            self.registered.pop(key, None)

    async def wait(self, ident: int, filter: int, abort_func: Callable[[Any], Any]) -> Any:  # noqa: A002
        key = self._register(ident, filter, trio.lowlevel.current_task())

        def abort(raise_cancel: Any) -> trio.lowlevel.Abort:
            answer: trio.lowlevel.Abort = abort_func(raise_cancel)
            if answer is trio.lowlevel.Abort.SUCCEEDED:
                self.registered.pop(key, None)
            return answer

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def notify_closing(self, fd: int) -> None:
        """Ends the waits for a descriptor's readiness, as Trio does."""
        for filter_ in (_select.KQ_FILTER_READ, _select.KQ_FILTER_WRITE):
            receiver = self.registered.get((fd, filter_))
            if receiver is None:
                continue
            if type(receiver) is not trio.lowlevel.Task:
                raise NotImplementedError("can't close an fd that monitor_kevent is using")
            try:
                self.kqueue.control([_select.kevent(fd, filter_, _select.KQ_EV_DELETE)], 0)
            except OSError as exc:
                # Not registered (any more), or closed behind our back.
                if exc.errno not in (errno.ENOENT, errno.EBADF):
                    raise
            del self.registered[fd, filter_]
            closed = trio.ClosedResourceError("another task closed this fd")
            trio.lowlevel.reschedule(receiver, outcome.Error(closed))
