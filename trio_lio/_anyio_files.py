"""anyio's files and paths on operations.

anyio's module of files hands every call to ``to_thread.run_sync``. While trio-lio is in use
that name is `_ToThread` there, which knows what there are operations for: `open`, and most
methods of a path. All else goes on to anyio's own: outside a lio run, in one without files,
what no operation does, and calls with a limiter, which says how many threads there may be.

A file that was opened so is an `AsyncFile`, which is anyio's with other methods.
"""

from __future__ import annotations

import functools
import os
import pathlib
import types
from collections.abc import Callable
from typing import Any

import attrs
import trio

from . import _file, _file_raw, _install, _path
from ._anyio_compat import AnyioFile, check, files_module, to_thread
from ._manager import current_manager
from ._replaced import Replaced

# What our files answer without becoming the standard library's.
_ANSWERED = frozenset(
    "closed name mode fileno isatty readable writable seekable closefd encoding errors "
    "newlines line_buffering".split()
)


# -- files -------------------------------------------------------------------------------


class AsyncFile(AnyioFile):  # type: ignore[misc]
    """anyio's file object over one of ours.

    Once something asks for the standard library's file (``wrapped``, or whatever is passed
    through to it), or it is used outside a lio run, it becomes one of anyio's own.
    """

    __slots__ = ()
    _ours: _file_raw.AsyncFile

    @property
    def _fp(self) -> Any:
        real = self._ours.wrapped
        self.__dict__["_fp"] = real
        self.__class__ = AnyioFile
        self.__dict__.pop("_ours", None)
        return real

    def __getattr__(self, name: str) -> Any:
        if name == "_ours":
            raise AttributeError(name)
        ours = self._ours
        if name in _ANSWERED and hasattr(ours, name):
            return getattr(ours, name)
        model = getattr(ours, "_model", None)
        if model is None or hasattr(model, name):
            return getattr(self._fp, name)
        kind = f"{model.__module__}.{model.__qualname__}"
        raise AttributeError(f"'{kind}' object has no attribute '{name}'")

    async def _call(self, name: str, *args: Any) -> Any:
        ours = self._ours
        method = getattr(type(ours), name, None)
        if method is None or current_manager() is None:
            return await getattr(AnyioFile, name)(self, *args)
        return await method(ours, *args)

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await self._call("aclose")

    async def read(self, size: int = -1) -> Any:
        return await self._call("read", size)

    async def read1(self, size: int = -1) -> Any:
        return await self._call("read1", size)

    async def readline(self) -> Any:
        return await self._call("readline")

    async def readlines(self) -> Any:
        return await self._call("readlines")

    async def readinto(self, b: Any) -> Any:
        return await self._call("readinto", b)

    async def readinto1(self, b: Any) -> Any:
        return await self._call("readinto1", b)

    async def write(self, b: Any) -> Any:
        return await self._call("write", b)

    async def writelines(self, lines: Any) -> Any:
        return await self._call("writelines", lines)

    async def truncate(self, size: int | None = None) -> Any:
        return await self._call("truncate", size)

    async def seek(self, offset: int, whence: int | None = os.SEEK_SET) -> Any:
        return await self._call("seek", offset, whence)

    async def tell(self) -> Any:
        return await self._call("tell")

    async def flush(self) -> Any:
        return await self._call("flush")


@attrs.frozen
class _Opened:
    """What anyio makes an `AsyncFile` of."""

    ours: _file_raw.AsyncFile


def _opened(file: Any) -> Any:
    return _Opened(file) if isinstance(file, _file_raw.AsyncFile) else file.wrapped


def _init(self: Any, fp: Any, **options: Any) -> None:
    if type(fp) is not _Opened:
        return FILES.original["__init__"](self, fp, **options)  # type: ignore[no-any-return]
    FILES.original["__init__"](self, None, **options)
    self._ours = fp.ours
    self.__class__ = AsyncFile


# -- paths -------------------------------------------------------------------------------


async def _open_path(path: Any, *args: Any) -> Any:
    return _opened(await _path.open_(path, *args))


async def _read_text(path: Any, encoding: Any = None, errors: Any = None, *more: Any) -> Any:
    return await _path.read_text(path, encoding, errors, **_newline(*more))


async def _write_text(
    path: Any, data: Any, encoding: Any = None, errors: Any = None, *more: Any
) -> Any:
    return await _path.write_text(path, data, encoding, errors, **_newline(*more))


def _newline(newline: Any = None) -> dict[str, Any]:
    return {} if newline is None else {"newline": newline}


# By what anyio would have a thread call.
_METHODS: dict[Any, Callable[..., Any]] = {
    getattr(pathlib.PosixPath, name): method for name, method in _path.FUNCTIONS.items()
} | {
    pathlib.PosixPath.open: _open_path,
    pathlib.PosixPath.read_text: _read_text,
    pathlib.PosixPath.write_text: _write_text,
    os.stat: _path.stat,
}
_open = open
_KINDS = (types.FunctionType, types.BuiltinFunctionType)


async def _perform(func: Any, args: tuple[Any, ...]) -> Any:
    """Raises `NotOurs` for what is to be done in a thread."""
    kwargs: dict[str, Any] = {}
    if type(func) is functools.partial:
        func, args, kwargs = func.func, (*func.args, *args), dict(func.keywords)
        if kwargs.get("follow_symlinks") is True:
            del kwargs["follow_symlinks"]  # what it is without
    if func is _open:
        return _opened(await _file.open_file(*args, **kwargs))
    if func is os.link:
        func, args = pathlib.PosixPath.hardlink_to, args[::-1]
    elif type(func) is types.MethodType:
        func, args = func.__func__, (func.__self__, *args)
    method = _METHODS.get(func) if type(func) in _KINDS else None
    if method is None:
        raise _path.NotOurs
    return await _path.perform(method, *args, **kwargs)


class _ToThread:
    """In the place of `anyio.to_thread`, in anyio's module of files."""

    def put_in_place(self) -> None:
        files_module.to_thread = self

    def take_away(self) -> None:
        if files_module.to_thread is self:
            files_module.to_thread = to_thread

    @trio.lowlevel.enable_ki_protection
    async def run_sync(self, func: Any, *args: Any, limiter: Any = None, **options: Any) -> Any:
        manager = current_manager()
        if manager is not None and manager.files and limiter is None:
            try:
                return await _perform(func, args)
            except _path.NotOurs:
                pass
        return await to_thread.run_sync(func, *args, limiter=limiter, **options)


check()
FILES = Replaced(AnyioFile, {"__init__": _init})
_install.add_layer(FILES)
_install.add_layer(_ToThread())
