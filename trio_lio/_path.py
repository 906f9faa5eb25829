"""trio.Path on operations, where the kernel has them.

What it has none for (listing a directory, changing modes and times, reading a link, resolving)
is Trio's own method, in a thread, and so is whatever is out of the ordinary: wrong arguments,
names that are none, errors that pathlib has its own opinion of.
"""

from __future__ import annotations

import errno
import os
import pathlib
import stat as stat_bits
import sys
from collections.abc import Callable
from typing import Any

import trio

from ._descriptor import exported, perform_path
from ._file import open_file
from ._flight import stat_result
from ._manager import current_manager
from ._native import ffi, lib
from ._replaced import Replaced
from ._trio_compat import TrioPath, must_not_begin

__all__ = ["Path"]

_AT_FDCWD = int(lib.LIO_PY_AT_FDCWD)
_AT_SYMLINK_NOFOLLOW = int(lib.LIO_PY_AT_SYMLINK_NOFOLLOW)
_AT_REMOVEDIR = int(lib.LIO_PY_AT_REMOVEDIR)
_AT_NO_AUTOMOUNT = int(lib.LIO_PY_AT_NO_AUTOMOUNT)
_STATX_BASIC_STATS = 0x7FF

# What the questions of pathlib (exists, is_dir, ...) answer with False.
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP}


def _raw(path: Any) -> bytes | None:
    """A name as the kernel has it; None if it is none."""
    try:
        raw = os.fsencode(path)
    except (TypeError, UnicodeError):
        return None
    return None if b"\0" in raw else raw


async def _perform(
    opcode: int,
    path: Any,
    flags: int = 0,
    mode: int = 0,
    buffer: Any = ffi.NULL,
    *,
    path2: Any = None,
    names: tuple[Any, ...] = (),
) -> int:
    """``names``: what an error tells of, if not of ``path`` and ``path2``."""
    raw, raw2 = os.fsencode(path), None if path2 is None else os.fsencode(path2)
    if must_not_begin():
        await trio.lowlevel.checkpoint()
    try:
        return await perform_path(
            opcode, _AT_FDCWD, raw, flags, mode, buffer, fd2=_AT_FDCWD, path2=raw2
        )
    except OSError as exc:
        told = [os.fspath(name) for name in names or (path, path2) if name is not None]
        raise OSError(exc.errno, exc.strerror, told[0], None, *told[1:]) from None


async def _stat(path: Any, follow: bool = True) -> os.stat_result:
    memory = ffi.new("char[256]")
    flags = _AT_NO_AUTOMOUNT | (0 if follow else _AT_SYMLINK_NOFOLLOW)
    await _perform(lib.LIO_STATX, path, flags, _STATX_BASIC_STATS, memory)
    return stat_result(ffi.buffer(memory))


class NotOurs(Exception):
    """This call is for Trio's own method, in a thread."""


def _plain(*paths: Any) -> None:
    for path in paths:
        if _raw(path) is None:
            raise NotOurs


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 0o7777:
        raise NotOurs
    return value


# -- the methods -------------------------------------------------------------------------


async def stat(self: Any, *, follow_symlinks: bool = True) -> os.stat_result:
    return await _stat(self, bool(follow_symlinks))


async def lstat(self: Any) -> os.stat_result:
    return await _stat(self, follow=False)


async def _mode(path: Any, follow: bool = True) -> int:
    """The mode, or 0 if there is nothing."""
    try:
        return (await _stat(path, follow)).st_mode
    except OSError as exc:
        if exc.errno in _NOT_THERE:
            return 0
        raise NotOurs from None


async def exists(self: Any) -> bool:
    return await _mode(self) != 0


async def is_symlink(self: Any) -> bool:
    return stat_bits.S_ISLNK(await _mode(self, follow=False))


def _asks(name: str, is_that: Callable[[int], bool]) -> Callable[..., Any]:
    async def question(self: Any) -> bool:
        return is_that(await _mode(self))

    question.__name__ = name
    return question


async def samefile(self: Any, other_path: Any) -> bool:
    _plain(other_path)
    return os.path.samestat(await _stat(self), await _stat(other_path))


async def mkdir(
    self: Any, mode: int = 0o777, parents: bool = False, exist_ok: bool = False
) -> None:
    mode = _number(mode)
    try:
        await _perform(lib.LIO_MKDIRAT, self, mode=mode)
    except FileNotFoundError:
        if not parents or self.parent == self:
            raise
        await mkdir(self.parent, parents=True, exist_ok=True)
        await mkdir(self, mode, parents=False, exist_ok=exist_ok)
    except OSError:
        if not exist_ok or not stat_bits.S_ISDIR(await _mode(self)):
            raise


async def rename(self: Any, target: Any) -> Any:
    _plain(target)
    await _perform(lib.LIO_RENAMEAT, self, path2=target)
    return self.__class__(target)


async def unlink(self: Any, missing_ok: bool = False) -> None:
    try:
        await _perform(lib.LIO_UNLINKAT, self)
    except FileNotFoundError:
        if not missing_ok:
            raise


async def rmdir(self: Any) -> None:
    await _perform(lib.LIO_UNLINKAT, self, _AT_REMOVEDIR)


async def symlink_to(self: Any, target: Any, target_is_directory: bool = False) -> None:
    _plain(target)
    await _perform(lib.LIO_SYMLINKAT, target, path2=self, names=(target, self))


async def hardlink_to(self: Any, target: Any) -> None:
    _plain(target)
    await _perform(lib.LIO_LINKAT, target, path2=self)


async def touch(self: Any, mode: int = 0o666, exist_ok: bool = True) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    try:
        fd = await _perform(lib.LIO_OPENAT, self, flags, _number(mode))
    except FileExistsError:
        if not exist_ok:
            raise
        raise NotOurs from None  # sets the times, for which there is no operation
    os.close(fd)  # empty, and nobody else's: nothing to wait for


async def open_(
    self: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> Any:
    return await open_file(self, mode, buffering, encoding, errors, newline)


async def _read(file: Any) -> Any:
    try:
        return await file.read()
    finally:
        await file.aclose()


async def _write(file: Any, data: Any) -> int:
    """The file is there already, and empty: from here on it is done, cancelled or not."""
    with trio.CancelScope(shield=True):
        try:
            count: int = await file.write(data)
        finally:
            await file.aclose()
    return count


async def read_bytes(self: Any) -> bytes:
    return await _read(await open_file(self, "rb", buffering=0))  # type: ignore[no-any-return]


async def write_bytes(self: Any, data: Any) -> int:
    try:
        exported(data, writable=False)
    except (TypeError, BufferError):
        raise NotOurs from None
    return await _write(await open_file(self, "wb"), data)


async def read_text(
    self: Any, encoding: str | None = None, errors: str | None = None, **newline: Any
) -> str:
    return await _read(  # type: ignore[no-any-return]
        await open_file(self, "r", encoding=encoding, errors=errors, **_newline(newline, 13))
    )


async def write_text(
    self: Any,
    data: str,
    encoding: str | None = None,
    errors: str | None = None,
    **newline: Any,
) -> int:
    if not isinstance(data, str):
        raise NotOurs
    return await _write(
        await open_file(self, "w", encoding=encoding, errors=errors, **_newline(newline, 10)),
        data,
    )


def _newline(given: dict[str, Any], since: int) -> dict[str, Any]:
    if given and (set(given) != {"newline"} or sys.version_info < (3, since)):
        raise NotOurs
    return given


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "stat": stat,
    "lstat": lstat,
    "exists": exists,
    "is_symlink": is_symlink,
    "is_dir": _asks("is_dir", stat_bits.S_ISDIR),
    "is_file": _asks("is_file", stat_bits.S_ISREG),
    "is_socket": _asks("is_socket", stat_bits.S_ISSOCK),
    "is_fifo": _asks("is_fifo", stat_bits.S_ISFIFO),
    "is_block_device": _asks("is_block_device", stat_bits.S_ISBLK),
    "is_char_device": _asks("is_char_device", stat_bits.S_ISCHR),
    "samefile": samefile,
    "mkdir": mkdir,
    "rename": rename,
    "replace": rename,
    "unlink": unlink,
    "rmdir": rmdir,
    "symlink_to": symlink_to,
    "hardlink_to": hardlink_to,
    "touch": touch,
    "open": open_,
    "read_bytes": read_bytes,
    "write_bytes": write_bytes,
    "read_text": read_text,
    "write_text": write_text,
}


async def perform(method: Callable[..., Any], path: Any, *args: Any, **kwargs: Any) -> Any:
    """One of these, where it knows what to do.

    Raises:
      NotOurs: it does not, and nothing was done.
    """
    if not _raw(path):
        raise NotOurs
    try:
        coroutine = method(path, *args, **kwargs)
    except TypeError:  # other arguments than ours
        raise NotOurs from None
    try:
        return await coroutine
    except OSError as exc:
        if exc.errno != errno.ENOTSUP:
            raise
        # What this kernel's io_uring does not have yet.
        raise NotOurs from None


# -- behind trio.Path --------------------------------------------------------------------


def _dispatched(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Our method in the runs that have files, and where it knows what to do; else Trio's."""
    original = TrioPath.__dict__[name]

    @trio.lowlevel.enable_ki_protection
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        manager = current_manager()
        if manager is not None and (manager.files or isinstance(self, Path)):
            try:
                return await perform(method, self, *args, **kwargs)
            except NotOurs:
                pass
        return await original(self, *args, **kwargs)

    call.__name__, call.__qualname__ = name, original.__qualname__
    call.__doc__, call.__module__ = original.__doc__, original.__module__
    call.__wrapped__ = original  # type: ignore[attr-defined]  # for its signature
    return call


_DISPATCHED = {name: _dispatched(name, method) for name, method in FUNCTIONS.items()}


class Path(TrioPath, pathlib.PurePosixPath):  # type: ignore[misc]
    """`trio.Path` whose methods are operations in every lio run, ``files=False`` or not.

    Listing a directory, modes and times, reading and resolving links have no operation: they
    are Trio's own methods, in threads.
    """

    __slots__ = ()

    _wrapped_cls = pathlib.PosixPath

    def __repr__(self) -> str:
        return f"trio_lio.Path({str(self)!r})"


for _name, _call in _DISPATCHED.items():
    setattr(Path, _name, _call)


METHODS = Replaced(TrioPath, _DISPATCHED)
