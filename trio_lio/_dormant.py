"""A run whose backend is not made yet.

To make a ring or an epoll instance, with what belongs to it, costs a good part of a run that
does nothing, and such a run has no use for one. So a run may begin *dormant*, with a handle
that was never initialised: every call of the core answers ENXIO, and whoever would start an
operation makes the backend first (`LioIOManager.begin`). The way of an operation pays nothing
for that.

The first run of a process makes its backend at once: that it cannot be made is said there, with
the reason. Only where that has worked may a run begin dormant, for the same process and user.

Trio itself has one wait in every run, for its own wake-up socket, by which threads, signal
handlers and the host of a guest run reach it. That one alone is done here, by poll(2).
"""

from __future__ import annotations

import math
import os
import select
import sys
from typing import TYPE_CHECKING, Any

from ._trio_compat import own_wakeup, run_context

if TYPE_CHECKING:
    from ._manager import Operation

__all__ = ["LONG", "Dormant", "recall", "remember"]

LONG = 32
"""Looks at the wake-up socket, one a tick, after which a run has proved not to be empty: with a
backend a look costs less."""

# By whom a backend was made, and what it offered: capability bits, `receive_max`.
_made: dict[tuple[Any, ...], tuple[int, int]] = {}


def _key(name: str) -> tuple[Any, ...]:
    """What a kernel decides by, as far as that is quickly told."""
    assert sys.platform != "win32"
    without = os.environ.get("TRIO_LIO_URING_WITHOUT")
    return name, without, os.getpid(), os.geteuid(), os.getegid()


def remember(name: str, capabilities: int, receive_max: int) -> None:
    """A backend was made here."""
    if name in ("uring", "epoll"):
        if len(_made) >= 16:
            _made.clear()
        _made[_key(name)] = capabilities, receive_max


def recall(name: str) -> tuple[int, int] | None:
    """What `remember` was told, if a run may begin without this backend."""
    return _made.get(_key(name)) if name in ("uring", "epoll") else None


class Dormant:
    """The part of a manager that is in use while there is no backend."""

    dormant = False
    pool: Any = None  # nothing can have been received
    early: Operation | None = None
    """Waits for Trio's wake-up socket."""
    early_done: Operation | None = None
    """Has waited for it, and `process_events` was not called yet."""
    looks = 0
    """Calls of poll(2)."""
    _wakeup: Any = None
    _poll: Any = None
    enough = LONG
    """So many looks are."""

    def is_own_wakeup(self, fd: Any) -> bool:
        """Whether somebody is about to wait for Trio's wake-up socket, the first to do so."""
        return self.early is None and fd is own_wakeup().wakeup_sock

    def wait_early(self, op: Operation) -> Operation:
        """The wait for Trio's wake-up socket: ``await`` what this returns."""
        if self._poll is None:
            self._wakeup = own_wakeup()
            self._poll = poll = select.poll()
            poll.register(self._wakeup.wakeup_sock, select.POLLIN)
        op.task = run_context.task
        self.early = op
        return op

    def wake_early(self) -> None:
        """As `LioIOManager.force_wakeup`."""
        if self._wakeup is not None:  # else nobody has waited yet, and Trio has work to do
            self._wakeup.wakeup_thread_and_signal_safe()

    def look(self, timeout: float) -> bool:
        """Waits for Trio's wake-up socket, ``timeout`` seconds at most, in whichever thread."""
        if self.early is None:
            return False
        self.looks += 1
        return bool(self._poll.poll(None if timeout == math.inf else timeout * 1000))
