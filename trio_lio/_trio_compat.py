"""Every private name of Trio that trio-lio touches, checked against the Trio at hand.

What is used, and why no public name would do:

``trio._core._run.TheIOManager``
    the class of the I/O manager, looked up by name at the start of every run.
``trio._core._run.GLOBAL_RUN_CONTEXT``
    ``.runner.io_manager`` and ``.task``: whose turn it is, without the cost of the public
    functions. ``runner.reschedule`` as in `trio.lowlevel.reschedule`, bound once a run.
    ``runner.entry_queue.wakeup`` with its ``wakeup_sock`` and
    ``wakeup_thread_and_signal_safe``: what Trio waits for in every run.
``trio._core._traps.WaitTaskRescheduled``
    the message by which a task parks; one is kept per operation and used again.
``trio._socket._SocketType``, ``trio.SocketStream``
    whose methods start operations while trio-lio is in use.
``trio._core._traps.CancelShieldedCheckpoint``, ``Task._cancel_status``,
``Task._cancel_points``, ``runner.main_task`` and ``runner.ki_pending``
    a checkpoint in two halves, for calls that find what they need in memory.
``trio._file_io.AsyncIOWrapper``, ``trio._file_io.open_file``, ``trio.Path``, ``FdStream`` and
its ``_fd_holder`` and conflict detectors
    whose place files and pipes take.
``SocketStream._send_conflict_detector`` and its ``_held``, ``_SocketType._sock``,
``_SocketType._did_shutdown_SHUT_WR``, ``_SocketType._resolve_address_nocp``,
``trio._highlevel_socket._translate_socket_errors_to_stream_errors``
    as Trio's own code uses them.
``trio._core._io_windows`` (Windows)
    ``WindowsIOManager``, whose functions for overlapped operations are used on our own port;
    ``_get_base_socket``, ``_get_underlying_socket``, ``CKeys``, ``WSAIoctls``; and the ``ffi``
    of ``trio._core._windows_cffi``, for its types.
"""

from __future__ import annotations

import functools
import inspect
import socket as stdlib_socket
import sys
import types
from collections.abc import Generator, Mapping
from typing import Any

import trio

SUPPORTED = "0.27 to 0.35"


class TrioIncompatible(ImportError):
    """The Trio at hand lacks a name that trio-lio needs."""


def _refuse(what: str) -> TrioIncompatible:
    return TrioIncompatible(
        f"trio-lio does not work with Trio {trio.__version__}: {what}. "
        f"It is known to work with Trio {SUPPORTED}: pip install 'trio>=0.27,<0.36'"
    )


try:
    import trio._core._run
    import trio._file_io
    import trio._highlevel_socket
    import trio._socket
    from trio._core._entry_queue import EntryQueue
    from trio._core._run import GLOBAL_RUN_CONTEXT
    from trio._core._traps import CancelShieldedCheckpoint, WaitTaskRescheduled
    from trio._core._wakeup_socketpair import WakeupSocketpair
    from trio._file_io import AsyncIOWrapper as _AsyncIOWrapper
    from trio._highlevel_socket import DEFAULT_RECEIVE_SIZE
    from trio._socket import _SocketType
    from trio._util import ConflictDetector
except ImportError as exc:  # pragma: no cover
    raise _refuse(str(exc)) from exc

io_windows: Any = None
windows_ffi: Any = None
if sys.platform == "win32":  # pragma: no cover
    try:
        from trio._core import _io_windows as io_windows
        from trio._core._windows_cffi import ffi as windows_ffi
    except ImportError as exc:
        raise _refuse(str(exc)) from exc

# What type checkers know of these is what Trio does with them, not what we do.
run_module: Any = trio._core._run
highlevel_socket: Any = trio._highlevel_socket
socket_module: Any = trio._socket
run_context: Any = GLOBAL_RUN_CONTEXT
SocketType: Any = _SocketType
SocketStream: Any = trio.SocketStream
AsyncIOWrapper: Any = _AsyncIOWrapper
file_module: Any = trio._file_io
TrioPath: Any = trio.Path
FdStream: Any = getattr(trio.lowlevel, "FdStream", None)  # not on Windows

__all__ = [
    "DEFAULT_RECEIVE_SIZE",
    "SCHEDULE_POINT",
    "SUPPORTED",
    "AsyncIOWrapper",
    "FdStream",
    "SocketStream",
    "SocketType",
    "TrioIncompatible",
    "TrioPath",
    "WaitTaskRescheduled",
    "check",
    "current_reschedule",
    "file_module",
    "highlevel_socket",
    "in_run",
    "io_windows",
    "let_others_run",
    "must_not_begin",
    "own_wakeup",
    "run_context",
    "run_module",
    "socket_module",
    "windows_ffi",
]

# Methods that are replaced while trio-lio is in use, with the parameters that our own have.
_SOCKET_METHODS = {
    "accept": ("self",),
    "connect": ("self", "address"),
    "detach": ("self",),
    "__exit__": ("self", "exc_type", "exc_value", "traceback"),
    "sendto": ("self", "args"),
    "_resolve_address_nocp": ("self", "address", "local"),
}
_STREAM_METHODS = {
    "receive_some": ("self", "max_bytes"),
    "send_all": ("self", "data"),
}
_FD_STREAM_METHODS = _STREAM_METHODS
_OPEN_FILE = tuple("file mode buffering encoding errors newline closefd opener".split())
_SOCKET_NAMES = (
    "recv recv_into recvfrom recvfrom_into recvmsg recvmsg_into send sendmsg close dup".split()
)


def _check_methods(owner: Any, methods: Mapping[str, tuple[str, ...]]) -> None:
    for name, parameters in methods.items():
        method = owner.__dict__.get(name)
        if method is None:
            raise _refuse(f"{owner.__qualname__}.{name} is gone")
        if tuple(inspect.signature(method, follow_wrapped=False).parameters) != parameters:
            raise _refuse(f"{owner.__qualname__}.{name} takes other arguments")


def _check_files() -> None:
    for name in "_cancel_points", "_cancel_status":
        if not hasattr(trio.lowlevel.Task, name):
            raise _refuse(f"Task.{name} is gone")
    code = file_module.open_file.__code__
    if code.co_freevars or code.co_varnames[: code.co_argcount] != _OPEN_FILE:
        raise _refuse("open_file takes other arguments")
    if "_wrapped" not in AsyncIOWrapper.__init__.__code__.co_names:
        raise _refuse("AsyncIOWrapper._wrapped is gone")
    if "_fd_holder" not in FdStream.__init__.__code__.co_names:
        raise _refuse("FdStream._fd_holder is gone")
    _check_methods(FdStream, _FD_STREAM_METHODS)


def _check_wakeup() -> None:
    for owner, name in (run_module.Runner, "entry_queue"), (EntryQueue, "wakeup"):
        if name not in inspect.signature(owner).parameters:
            raise _refuse(f"{owner.__name__}.{name} is gone")
    if "wakeup_sock" not in WakeupSocketpair.wait_woken.__code__.co_names:
        raise _refuse("WakeupSocketpair.wakeup_sock is gone")
    if not hasattr(WakeupSocketpair, "wakeup_thread_and_signal_safe"):
        raise _refuse("WakeupSocketpair.wakeup_thread_and_signal_safe is gone")


@functools.cache
def check() -> None:
    """Raises `TrioIncompatible` unless all that is used is there, in the shape expected."""
    manager = getattr(run_module, "TheIOManager", None)
    if manager is None:
        raise _refuse("trio._core._run.TheIOManager is gone")
    if not {"clock", "io_manager", "tasks"} <= set(
        inspect.signature(run_module.Runner).parameters
    ) | {"tasks"}:
        raise _refuse("Runner no longer takes an io_manager")
    _check_wakeup()
    if list(inspect.signature(run_module.Runner.reschedule).parameters)[:3] != [
        "self",
        "task",
        "next_send",
    ]:
        raise _refuse("Runner.reschedule takes other arguments")
    if list(inspect.signature(WaitTaskRescheduled).parameters) != ["abort_func"]:
        raise _refuse("WaitTaskRescheduled has another shape")
    if getattr(socket_module, "_SocketType", None) is not SocketType:
        raise _refuse("trio._socket._SocketType was replaced by somebody else")
    if getattr(ConflictDetector("probe"), "_held", None) is not False:
        raise _refuse("ConflictDetector has another shape")
    if not hasattr(highlevel_socket, "_translate_socket_errors_to_stream_errors"):
        raise _refuse("_translate_socket_errors_to_stream_errors is gone")
    _check_methods(SocketType, _SOCKET_METHODS)
    _check_methods(SocketStream, _STREAM_METHODS)
    if FdStream is not None:  # on Windows files and pipes are left alone
        _check_files()
    for name in _SOCKET_NAMES:
        # Without messages in the standard library there are none in Trio.
        if hasattr(stdlib_socket.socket, name) and name not in SocketType.__dict__:
            raise _refuse(f"_SocketType.{name} is gone")


def in_run() -> bool:
    """Whether this thread is in a Trio run. (``trio.lowlevel.in_trio_run`` is new in 0.28.)"""
    return hasattr(run_context, "runner")


def own_wakeup() -> Any:
    """What Trio waits for in the run that this thread is in: its ``WakeupSocketpair``."""
    return run_context.runner.entry_queue.wakeup


def current_reschedule() -> Any:
    """The reschedule method of the run that this thread is in."""
    return run_context.runner.reschedule


# -- a checkpoint in two halves ----------------------------------------------------------


def must_not_begin() -> bool:
    """Whether the current task is cancelled, or a KeyboardInterrupt waits for it: the half of
    a checkpoint that comes before a call has any effect. Counts as a cancel point."""
    task = run_context.task
    task._cancel_points += 1
    if task._cancel_status.effectively_cancelled:
        return True
    runner = run_context.runner
    return task is runner.main_task and bool(runner.ki_pending)


SCHEDULE_POINT = CancelShieldedCheckpoint
"""What a generator-based coroutine yields for the other half."""


@types.coroutine
def let_others_run() -> Generator[Any, Any, None]:
    """The other half: a schedule point that cannot be cancelled."""
    (yield CancelShieldedCheckpoint).unwrap()
