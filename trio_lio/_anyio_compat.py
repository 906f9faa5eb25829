"""Every private name of anyio that trio-lio touches, checked against the anyio at hand.

What is used, and why no public name would do:

``anyio._core._eventloop.loaded_backends``, ``BACKENDS``
    where anyio looks a backend up by its name, and what ``anyio.get_all_backends`` answers.
``anyio._backends._trio.TrioBackend``
    what the backend is a subclass of: ``run`` and ``create_test_runner`` differ, nothing else.
``anyio._backends._trio.TestRunner``, its ``_call_in_runner_task`` and ``_send_stream``
    the runner of anyio's pytest plugin, and where it starts its guest run.
``anyio._backends._trio.SocketStream``, its ``receive``, ``send``, ``_trio_socket``,
``_receive_guard``, ``_send_guard``; ``_TrioSocketMixin._convert_socket_error``;
``ResourceGuard._guarded``
    the two methods that carry the traffic, and what anyio's own methods use.
``anyio._core._fileio.to_thread``, ``AsyncFile._fp``
    where anyio's files and paths hand their calls to, and where a file object has the standard
    library's.
"""

from __future__ import annotations

import functools
import inspect
from importlib.metadata import PackageNotFoundError, version
from typing import Any

SUPPORTED = "4.7 to 4.16"
_REMEDY = "pip install 'anyio>=4.7,<4.17'"


class AnyioIncompatible(ImportError):
    """The anyio at hand lacks a name that trio-lio needs, or there is none."""


def _version() -> str:
    try:
        return version("anyio")
    except PackageNotFoundError:
        return "(of unknown version)"


def _refuse(what: str) -> AnyioIncompatible:
    return AnyioIncompatible(
        f"trio-lio does not work with anyio {_version()}: {what}. "
        f"It is known to work with anyio {SUPPORTED}: {_REMEDY}"
    )


try:
    import anyio
except ImportError as exc:
    raise AnyioIncompatible(
        f"the anyio backend of trio-lio needs anyio {SUPPORTED}: {_REMEDY}"
    ) from exc
try:
    import anyio._backends._trio
    import anyio._core._eventloop
    import anyio._core._fileio
    from anyio import to_thread
    from anyio._core._synchronization import ResourceGuard

    # What type checkers know of these is what anyio does with them, not what we do.
    eventloop: Any = anyio._core._eventloop
    trio_backend: Any = anyio._backends._trio
    TrioBackend: Any = trio_backend.TrioBackend
    TestRunner: Any = trio_backend.TestRunner
    SocketStream: Any = trio_backend.SocketStream
    SocketMixin: Any = trio_backend._TrioSocketMixin
    files_module: Any = anyio._core._fileio
    AnyioFile: Any = files_module.AsyncFile
    EndOfStream = anyio.EndOfStream
except (ImportError, AttributeError) as exc:
    raise _refuse(str(exc)) from exc

__all__ = [
    "SUPPORTED",
    "AnyioFile",
    "AnyioIncompatible",
    "EndOfStream",
    "SocketStream",
    "TestRunner",
    "TrioBackend",
    "check",
    "eventloop",
    "files_module",
    "to_thread",
]

_PARAMETERS = {
    (TrioBackend, "run"): ("func", "args", "kwargs", "options"),
    (TrioBackend, "create_test_runner"): ("options",),
    (TestRunner, "__init__"): ("self", "options"),
    (TestRunner, "__exit__"): ("self", "exc_type", "exc_val", "exc_tb"),
    (TestRunner, "_call_in_runner_task"): ("self", "func", "args", "kwargs"),
    (SocketStream, "__init__"): ("self", "trio_socket"),
    (SocketStream, "receive"): ("self", "max_bytes"),
    (SocketStream, "send"): ("self", "item"),
    (AnyioFile, "aclose"): ("self",),
    (AnyioFile, "read"): ("self", "size"),
    (AnyioFile, "read1"): ("self", "size"),
    (AnyioFile, "readline"): ("self",),
    (AnyioFile, "readlines"): ("self",),
    (AnyioFile, "readinto"): ("self", "b"),
    (AnyioFile, "readinto1"): ("self", "b"),
    (AnyioFile, "write"): ("self", "b"),
    (AnyioFile, "writelines"): ("self", "lines"),
    (AnyioFile, "truncate"): ("self", "size"),
    (AnyioFile, "seek"): ("self", "offset", "whence"),
    (AnyioFile, "tell"): ("self",),
    (AnyioFile, "flush"): ("self",),
    (SocketMixin, "_convert_socket_error"): ("self", "exc"),
}


@functools.cache
def check() -> None:
    """Raises `AnyioIncompatible` unless all that is used is there, in the shape expected."""
    for (owner, name), parameters in _PARAMETERS.items():
        if name not in vars(owner):
            raise _refuse(f"{owner.__qualname__}.{name} is gone")
        method = getattr(owner, name)
        if tuple(inspect.signature(method, follow_wrapped=False).parameters) != parameters:
            raise _refuse(f"{owner.__qualname__}.{name} takes other arguments")
    if not isinstance(getattr(eventloop, "loaded_backends", None), dict):
        raise _refuse("loaded_backends is gone")
    if not isinstance(getattr(eventloop, "BACKENDS", None), tuple):
        raise _refuse("BACKENDS is gone")
    if not hasattr(TestRunner(), "_send_stream"):
        raise _refuse("TestRunner has another shape")
    if getattr(ResourceGuard("probing"), "_guarded", None) is not False:
        raise _refuse("ResourceGuard has another shape")
    names = set(vars(SocketStream(None)))
    if not {"_trio_socket", "_receive_guard", "_send_guard"} <= names:
        raise _refuse("SocketStream has another shape")
    if getattr(files_module, "to_thread", None) is not to_thread:
        raise _refuse("its files no longer use to_thread")
    file = AnyioFile(None)
    if vars(file).get("_fp", file) is not None:
        raise _refuse("AsyncFile has another shape")
