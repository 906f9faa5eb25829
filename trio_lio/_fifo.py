"""Opening a FIFO: it waits for the other end, perhaps for ever.

As an operation it would keep one of the few workers busy that all others need, the kernel's or
those of the file pool. So it has a thread to itself, out of Trio's cache, which a cancellation
interrupts.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import outcome
import trio

from ._native import ffi, lib

_THREADS_MAX = 256
"""Of those that wait at the same time; more take turns."""
_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("lio_fifos")

if sys.platform == "linux":

    def opens_as_fifo(path: bytes, flags: int) -> bool:
        """Whether this open would wait for somebody at the other end."""
        access = flags & os.O_ACCMODE
        return access != os.O_RDWR and lib.lio_is_fifo(path) != 0

else:

    def opens_as_fifo(path: bytes, flags: int) -> bool:
        """Not known here: it is an operation as any other."""
        return False


async def open_fifo(path: bytes, flags: int, mode: int) -> int:
    """Opens it. Cancelled, no file is open; or it is returned."""
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_THREADS_MAX)
        _limiter.set(limiter)
    opening = ffi.new("lio_fifo_open *")
    await limiter.acquire_on_behalf_of(opening)
    try:
        open_it = partial(lib.lio_open_fifo, opening, path, flags, mode)
        result = await _in_thread(opening, open_it)
    finally:
        limiter.release_on_behalf_of(opening)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


async def _in_thread(opening: Any, open_it: Callable[[], int]) -> int:
    task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
    cancelled: Any = None

    def deliver(result: outcome.Outcome[int]) -> None:
        try:
            token.run_sync_soon(trio.lowlevel.reschedule, task, result)
        except trio.RunFinishedError:  # the run crashed: nobody is there to take it
            if isinstance(result, outcome.Value) and result.value >= 0:
                os.close(result.value)

    def abort(raise_cancel: Any) -> trio.lowlevel.Abort:
        nonlocal cancelled
        cancelled = raise_cancel
        trio.lowlevel.start_thread_soon(partial(lib.lio_give_up_fifo, opening), lambda _: None)
        return trio.lowlevel.Abort.FAILED

    trio.lowlevel.start_thread_soon(open_it, deliver)
    result: int = await trio.lowlevel.wait_task_rescheduled(abort)
    if result == -errno.ECANCELED and cancelled is not None:
        cancelled()
    return result
