"""run, install, uninstall, installed, start_guest_run, current_backend.

Trio makes its I/O manager by calling ``TheIOManager()`` at the start of every run. While
anything of trio-lio is in use, that name is `LioIOManager`, which asks `_make_manager`: it
makes a lio manager for the runs that are meant, and Trio's own for all others.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket as stdlib_socket
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import attrs
import trio

from . import _faults, _socket, _stream, _trio_compat
from ._manager import DEFAULT_CAPACITY, LioIOManager, living_managers
from ._native import (
    RESOURCE_ERRORS,
    BackendInfo,
    BackendUnavailable,
    backend_names,
    known_backends,
    probe,
    raise_unavailable,
)
from ._replaced import Replaced
from ._trio_compat import run_context, run_module

if TYPE_CHECKING or sys.platform != "win32":
    from . import _file, _path, _pipe

    _FILE_LAYERS: list[Any] = [_file, _path.METHODS, _pipe.METHODS]
else:
    _FILE_LAYERS = []  # files and pipes are Trio's own there

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = [
    "current_backend",
    "install",
    "installed",
    "run",
    "start_guest_run",
    "uninstall",
]


@attrs.frozen
class Settings:
    """What a run is asked to use."""

    backend: str | None
    capacity: int
    files: bool


@attrs.define(eq=False)
class User:
    """Somebody who needs trio-lio in place: an install, or a run of its own."""

    settings: Settings | None
    """What its run is asked to use; None: it starts none."""


_lock = threading.RLock()
# Weak: a KeyboardInterrupt can come before somebody is taken off.
_users: weakref.WeakSet[User] = weakref.WeakSet()
_stack: list[User] = []
_trio_manager: Any = None


class _NextRun(threading.local):
    user: User | None = None


_next_run = _NextRun()


# -- choosing a backend ----------------------------------------------------------------


_known_backends = functools.cache(known_backends)  # of this build


def _check_name(name: str, source: str) -> None:
    if name not in _known_backends():
        raise ValueError(
            f"{source} asks for the backend {name!r}; this build of trio-lio has: "
            f"{', '.join(known_backends())}"
        )


def settings(
    backend: str | None = None, capacity: int | None = None, files: bool = True
) -> Settings:
    """What a run is asked to use. What it leaves open, the last `install` says."""
    last = _stack[-1].settings if _stack else None
    if last is not None:
        backend = last.backend if backend is None else backend
        capacity = last.capacity if capacity is None else capacity
    return _checked(backend, capacity, files)


def _checked(backend: str | None, capacity: int | None, files: bool) -> Settings:
    if backend is None:
        backend = os.environ.get("TRIO_LIO_BACKEND") or None
        if backend is not None:
            _check_name(backend, "TRIO_LIO_BACKEND")
    elif not isinstance(backend, str):
        raise TypeError(f"backend must be a str or None, not {type(backend).__name__}")
    else:
        _check_name(backend, "backend=")
    if capacity is None:
        capacity = DEFAULT_CAPACITY
    elif not isinstance(capacity, int) or isinstance(capacity, bool):
        raise TypeError(f"capacity must be an int or None, not {type(capacity).__name__}")
    elif not 1 <= capacity <= 1 << 20:
        raise ValueError(f"capacity must be from 1 to {1 << 20}, not {capacity}")
    return _settings_of(backend, capacity, bool(files))


# The same for each run of most programs.
_settings_of = functools.lru_cache(maxsize=16)(Settings)


@functools.lru_cache(maxsize=8)
def _preferred(without: str) -> tuple[str, str]:
    """The first backend that runs here, and why those before it do not."""
    reasons: list[str] = []
    for name in backend_names():
        info = probe(name)
        if info.available:
            return name, "; ".join(reasons)
        if info.errno in RESOURCE_ERRORS:
            raise OSError(info.errno, f"cannot make the {name!r} backend: {info.reason}")
        reasons.append(f"{name}: {info.reason}")
    raise BackendUnavailable("no backend of trio-lio runs here: " + "; ".join(reasons))


def choose(backend: str | None) -> tuple[str, str]:
    """The backend for a run and the reason. One that was asked for is used or refused."""
    if backend is not None:
        return backend, "asked for"
    name, reason = _preferred(os.environ.get("TRIO_LIO_URING_WITHOUT", ""))
    return name, f"fallback: {reason}" if reason else "first in order of preference"


def _choose_anew() -> tuple[str, str]:
    _preferred.cache_clear()
    return choose(None)


def _make_lio_manager(wanted: Settings) -> LioIOManager:
    name, reason = choose(wanted.backend)
    return LioIOManager(
        name,
        wanted.capacity,
        reason,
        _faults.current(),
        wanted.files,
        may_be_dormant=True,
        otherwise=None if wanted.backend is not None else _choose_anew,
    )


def _make_manager() -> Any:
    """What ``TheIOManager()`` answers to a run that is just starting."""
    _look_for_anyio()
    user = _next_run.user
    _next_run.user = None
    if user is None and _stack:
        user = _stack[-1]
    if user is None or user.settings is None:
        return _trio_manager()
    return _make_lio_manager(user.settings)


# -- putting in place ------------------------------------------------------------------


def _settle(sock: stdlib_socket.socket) -> None:
    """Before a stdlib socket lets its descriptor go: the operations on it end, in whichever
    run they are."""
    fd = sock.fileno()
    if fd < 0:
        return
    for reference in tuple(living_managers.values()):
        manager = reference()
        if manager is None:
            continue
        adopted = manager.adopted.get(fd)
        if adopted is not None and adopted() is sock:
            manager.let_go(adopted)


def _real_close(self: Any, *args: Any) -> None:
    _settle(self)
    _STDLIB.original["_real_close"](self, *args)


def _detach(self: Any) -> int:
    _settle(self)
    return _STDLIB.original["detach"](self)  # type: ignore[no-any-return]


_STDLIB = Replaced(stdlib_socket.socket, {"_real_close": _real_close, "detach": _detach})


def _watch_stdlib() -> None:
    """A run is about to adopt sockets: from now on their ends have to be known."""
    with _lock:
        if run_module.TheIOManager is LioIOManager:
            _STDLIB.put_in_place()


# What has ours in its place, in this order. `_anyio_stream` and `_anyio_files`
# add themselves.
_layers: list[Any] = [
    *(_socket, _stream.METHODS, _stream.FUNCTIONS),
    *_FILE_LAYERS,
]


LioIOManager.for_new_run = staticmethod(_make_manager)
LioIOManager.before_adoption = staticmethod(_watch_stdlib)


# As with `Replaced`, each step of both looks at what is there.


def _put_in_place() -> None:
    global _trio_manager
    for layer in _layers:
        layer.put_in_place()
    if run_module.TheIOManager is not LioIOManager:
        _trio_manager = run_module.TheIOManager
        run_module.TheIOManager = LioIOManager


def _take_away() -> None:
    if run_module.TheIOManager is LioIOManager:
        run_module.TheIOManager = _trio_manager
    _STDLIB.take_away()
    for layer in reversed(_layers):
        layer.take_away()


_anyio_seen = False


def _look_for_anyio() -> None:
    """A program that uses anyio on Trio without naming our backend gets fast streams and
    files too. In an anyio that we do not know they are as they are."""
    global _anyio_seen
    if not _anyio_seen and "anyio" in sys.modules:
        _anyio_seen = True
        with contextlib.suppress(ImportError):
            from . import _anyio_stream  # noqa: F401

            if sys.platform != "win32":
                from . import _anyio_files  # noqa: F401


def add_layer(layer: Any) -> None:
    """From now on ``layer.put_in_place()`` and ``layer.take_away()`` belong to it."""
    with _lock:
        _layers.append(layer)
        if run_module.TheIOManager is LioIOManager:
            layer.put_in_place()


def _enter(user: User) -> None:
    with _lock:
        if run_module.TheIOManager is not LioIOManager:  # put in place last, taken away first
            _trio_compat.check()
            try:
                _put_in_place()
            except BaseException:
                _take_away()
                raise
        _users.add(user)


def _leave(user: User) -> None:
    with _lock:
        _users.discard(user)
        if not _users:
            _take_away()


def install(
    backend: str | None = None, capacity: int | None = None, files: bool = True
) -> None:
    """Makes every later ``trio.run`` of this process a lio run.

    Args:
      backend: ``"uring"``, ``"epoll"``, or for tests ``"sim"``: used or refused. ``None``:
        what the environment variable ``TRIO_LIO_BACKEND`` names, or the best that this kernel
        offers.
      capacity: operations in flight that memory is set aside for (default 256). More are
        no error: the backend grows.
      files: put operations behind `trio.open_file`, `trio.Path` and
        `trio.lowlevel.FdStream` (so also the pipes of `trio.run_process`). ``False`` leaves
        them to Trio.

    Raises:
      ValueError, TypeError: bad arguments, or ``TRIO_LIO_BACKEND`` names no backend.
      BackendUnavailable: the backend asked for cannot run here; the message says why.
      TrioIncompatible: the Trio at hand is not one that trio-lio knows.
    """
    wanted = _checked(backend, capacity, files)
    if wanted.backend is not None:
        info = probe(wanted.backend)
        if not info.available:
            raise_unavailable(wanted.backend, -info.errno)
    user = User(wanted)
    _enter(user)
    with _lock:
        _stack.append(user)


def uninstall() -> None:
    """Takes the last `install` back. Runs that are under way stay as they are.

    Raises:
      RuntimeError: nothing is installed.
    """
    with _lock:
        if not _stack:
            raise RuntimeError("trio_lio is not installed")
        _leave(_stack.pop())


@contextlib.contextmanager
def installed(
    backend: str | None = None, capacity: int | None = None, files: bool = True
) -> Iterator[None]:
    """`install` and `uninstall` as a context manager."""
    install(backend, capacity, files)
    try:
        yield
    finally:
        uninstall()


@contextlib.contextmanager
def in_use() -> Iterator[None]:
    """Keeps everything in place, whichever runs there are."""
    user = User(None)
    try:
        _enter(user)
        yield
    finally:
        _leave(user)


@contextlib.contextmanager
def for_next_run(wanted: Settings) -> Iterator[None]:
    """The run that this thread starts next is a lio run."""
    user = User(wanted)
    try:
        _enter(user)
        _next_run.user = user
        yield
    finally:
        _next_run.user = None
        _leave(user)


def run(
    async_fn: Callable[..., Awaitable[Any]],
    *args: Any,
    backend: str | None = None,
    capacity: int | None = None,
    files: bool = True,
    **trio_run_kwargs: Any,
) -> Any:
    """`trio.run` on operations: same arguments, results, exceptions, strictness.

    For ``backend``, ``capacity`` and ``files`` see `install`, whose last call says what is
    not given here; all other keyword arguments are those of `trio.run`.
    """
    __tracebackhide__ = True
    user = User(settings(backend, capacity, files))
    try:
        _enter(user)
        _next_run.user = user
        return trio.run(async_fn, *args, **trio_run_kwargs)
    finally:
        _next_run.user = None
        _leave(user)


def start_guest_run(
    async_fn: Callable[..., Awaitable[Any]],
    *args: Any,
    done_callback: Callable[[Any], object],
    backend: str | None = None,
    capacity: int | None = None,
    files: bool = True,
    **trio_kwargs: Any,
) -> None:
    """`trio.lowlevel.start_guest_run` on operations.

    For ``backend``, ``capacity`` and ``files`` see `install`; all other arguments are those
    of Trio's function.
    """
    user = User(settings(backend, capacity, files))

    def done(result: Any) -> object:
        _leave(user)
        return done_callback(result)

    try:
        _enter(user)
        _next_run.user = user
        trio.lowlevel.start_guest_run(async_fn, *args, done_callback=done, **trio_kwargs)
    except BaseException:
        _leave(user)
        raise
    finally:
        _next_run.user = None


def current_backend() -> BackendInfo:
    """The backend of the run that this task is in.

    Raises:
      RuntimeError: not inside a run, or the run is Trio's own.
    """
    try:
        manager = run_context.runner.io_manager
    except AttributeError:
        raise RuntimeError("must be called from inside a run") from None
    if type(manager) is not LioIOManager:
        raise RuntimeError("this run is not a lio run: start it with trio_lio.run")
    return manager.info
