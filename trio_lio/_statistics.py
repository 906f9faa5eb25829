"""What a lio run says of its I/O, and who is told at its end."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from ._faults import FaultCounts


@attrs.frozen(eq=False)
class LioStatistics:
    """What ``trio.lowlevel.current_statistics().io_statistics`` is in a lio run."""

    backend: str
    """"lio-uring", "lio-epoll", "lio-iocp" and so on."""
    tasks_waiting_read: int
    """Tasks that wait for data, a connection, or readability."""
    tasks_waiting_write: int
    """Tasks that wait to send, or for writability."""
    operations_in_flight: int
    operations_pushed: int
    operations_completed: int
    operations_cancelled: int
    batches: int
    """Native calls that handed over and collected operations, one a tick."""
    largest_batch: int
    """The most operations that one call handed over."""
    syscalls: int
    """System calls that the backend made."""
    overflows: int
    """Times that the completion queue was found overflowed; nothing is lost by that."""
    wakeups: int
    spins: int
    """Times that a wait watched for events for a moment before it would sleep."""
    spin_hits: int
    """Of those, the ones that were ended by an event."""
    capacity: int
    """Operations that fit before the backend has to grow."""
    faults: FaultCounts | None = None
    """What `trio_lio.testing.faults` injected so far; `None` in a run without faults."""
    tasks_waiting_kevent: int = 0
    """Tasks in ``trio.lowlevel.wait_kevent``."""
    monitors: int = 0
    """Uses of ``trio.lowlevel.monitor_kevent`` under way."""
    tasks_waiting_overlapped: int = 0
    """Windows: tasks in Trio's own overlapped operations."""
    completion_key_monitors: int = 0
    """Windows: ``monitor_completion_key`` blocks that are open."""


close_listeners: list[Callable[[LioStatistics], object]] = []


def add_close_listener(listener: Callable[[LioStatistics], object]) -> None:
    """Calls ``listener`` with the last statistics of every lio run from now on."""
    close_listeners.append(listener)


def remove_close_listener(listener: Callable[[LioStatistics], object]) -> None:
    close_listeners.remove(listener)
