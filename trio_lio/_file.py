"""open_file: what `open` does with its arguments, on operations.

Everything out of the ordinary (wrong arguments, odd modes, descriptors in non-blocking mode)
is left to `trio.open_file`, whose errors are then the right ones.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import sys
import types
from typing import TYPE_CHECKING, Any

import trio

from ._descriptor import Descriptor, perform_path
from ._fifo import open_fifo, opens_as_fifo
from ._file_buffered import (
    BufferedRandomFile,
    BufferedReaderFile,
    BufferedWriterFile,
    FileBuffer,
    default_buffer_size,
)
from ._file_raw import AsyncFile, RawFile
from ._file_text import TextFile
from ._manager import current_manager
from ._native import lib
from ._trio_compat import file_module, let_others_run, must_not_begin

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AsyncFile", "open_file"]

_AT_FDCWD = int(lib.LIO_PY_AT_FDCWD)
_NEWLINES = (None, "", "\n", "\r", "\r\n")
_FLAGS = {
    "r": 0,
    "w": os.O_CREAT | os.O_TRUNC,
    "x": os.O_CREAT | os.O_EXCL,
    "a": os.O_CREAT | os.O_APPEND,
}
_CLASSES: dict[tuple[bool, bool], type[Any]] = {
    (True, False): BufferedReaderFile,
    (False, True): BufferedWriterFile,
    (True, True): BufferedRandomFile,
}


def _is_ordinary(
    mode: Any, buffering: Any, encoding: Any, errors: Any, newline: Any, closefd: Any
) -> bool:
    """Whether there is nothing about the arguments that `open` has to say something about."""
    if type(mode) is not str or type(buffering) is not int or type(closefd) is not bool:
        return False
    letters = sorted(mode.replace("t", "", 1).replace("b", "", 1).replace("+", "", 1))
    if len(letters) != 1 or letters[0] not in _FLAGS or ("b" in mode and "t" in mode):
        return False
    if "b" in mode:
        return encoding is errors is newline is None and buffering != 1
    return (
        buffering != 0
        and newline in _NEWLINES
        and (encoding is None or (type(encoding) is str and "\0" not in encoding))
        and (errors is None or (type(errors) is str and "\0" not in errors))
    )


def _raw_path(file: Any) -> bytes | None:
    """The path as the kernel has it; None if it is none."""
    if not isinstance(file, (str, bytes)):
        return None
    try:
        raw = os.fsencode(file)
    except UnicodeError:
        return None
    return None if b"\0" in raw else raw


async def _open(name: Any, raw: bytes | None, mode: str, opener: Any) -> int:
    """A new descriptor for a path."""
    access = os.O_RDWR if "+" in mode else os.O_RDONLY if "r" in mode else os.O_WRONLY
    [letter] = [letter for letter in mode if letter in _FLAGS]
    flags = access | _FLAGS[letter] | os.O_CLOEXEC
    sys.audit("open", name, mode, flags)
    if opener is None:
        assert raw is not None
        try:
            if opens_as_fifo(raw, flags):
                return await open_fifo(raw, flags, 0o666)
            return await perform_path(lib.LIO_OPENAT, _AT_FDCWD, raw, flags, 0o666)
        except OSError as exc:
            exc.filename = name
            raise
    fd = await trio.to_thread.run_sync(opener, name, flags)
    if not isinstance(fd, int):
        raise TypeError("expected integer from opener")
    if fd < 0:
        raise ValueError(f"opener returned {fd}")
    os.set_inheritable(fd, False)
    return fd


def _is_nonblocking(fd: int) -> bool:
    """There `open`'s files answer None instead of waiting. A bad number is not."""
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK)
    except OSError:
        return False


def _file_object(
    descriptor: Descriptor,
    buffering: int,
    template: io.TextIOWrapper | None,
    mode: str,
    newline: Any,
) -> AsyncFile:
    """The layers that `open` puts on a file."""
    if buffering == 0:
        return RawFile(descriptor)
    size = buffering if buffering > 1 else default_buffer_size(descriptor)
    if descriptor.readable and descriptor.writable and not descriptor.is_seekable():
        raise io.UnsupportedOperation("File or stream is not seekable.")
    buffer = FileBuffer(descriptor, size)
    if template is not None:
        return TextFile(buffer, mode, template, newline)
    made: AsyncFile = _CLASSES[descriptor.readable, descriptor.writable](buffer)
    return made


def _template(
    descriptor: Descriptor, buffering: int, encoding: Any, errors: Any, newline: Any
) -> io.TextIOWrapper:
    """Says what is wrong with the arguments, and what they mean otherwise."""
    text_encoding: Any = io.text_encoding  # type: ignore[attr-defined]
    by_lines = buffering == 1 or (buffering < 0 and descriptor.is_terminal())
    return io.TextIOWrapper(io.BytesIO(), text_encoding(encoding, 3), errors, newline, by_lines)


@trio.lowlevel.enable_ki_protection
async def open_file(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> Any:
    """``open`` by operations: arguments, modes and errors are those of the built-in.

    Returns:
      An asynchronous file object, as `trio.open_file` does: see `AsyncFile`. Outside a lio
      run, and for descriptors in non-blocking mode, it is one of Trio's own.

    Cancelled, either no file was opened (but one may have been made), or the file is returned.
    """
    arguments = file, mode, buffering, encoding, errors, newline, closefd, opener
    manager = current_manager()
    name = os.fspath(file) if isinstance(file, os.PathLike) else file
    raw = _raw_path(name)
    given = type(name) is int and name >= 0 and opener is None and not _is_nonblocking(name)
    ordinary = _is_ordinary(mode, buffering, encoding, errors, newline, closefd)
    if manager is None or not ordinary or not (given or (raw is not None and closefd)):
        return await trio_open_file(*arguments)
    if must_not_begin():
        await trio.lowlevel.checkpoint()
    if given:
        await let_others_run()
        fd = name
    else:
        try:
            fd = await _open(name, raw, mode, opener)
        except OSError as exc:
            if exc.errno != errno.ENOTSUP:
                raise
            # The simulated kernel would have to wait in place.
            return await trio_open_file(*arguments)
    try:
        descriptor = Descriptor(fd, name, mode, closefd)
        if opener is not None and _is_nonblocking(fd):
            return file_module.wrap_file(
                open(fd, mode, buffering, encoding, errors, newline)  # noqa: ASYNC230
            )
        text = None
        if "b" not in mode:
            text = _template(descriptor, buffering, encoding, errors, newline)
        return _file_object(descriptor, buffering, text, mode, newline)
    except BaseException:
        if closefd:
            os.close(fd)
        raise


# -- behind trio.open_file ---------------------------------------------------------------

# Programs that said ``from trio import open_file`` hold the function itself: its code is what
# has to change. `trio_open_file` is the function with Trio's own code.
_trios_code = file_module.open_file.__code__
trio_open_file: Any = types.FunctionType(
    _trios_code,
    file_module.open_file.__globals__,
    "open_file",
    file_module.open_file.__defaults__,
)


async def _instead(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    from trio_lio._file import open_file_here

    return await open_file_here(
        file, mode, buffering, encoding, errors, newline, closefd, opener
    )


async def open_file_here(*args: Any) -> Any:
    """`trio.open_file` while trio-lio is in use: ours in the runs that have files."""
    manager = current_manager()
    ours = manager is not None and manager.files
    return await (open_file if ours else trio_open_file)(*args)


def put_in_place() -> None:
    file_module.open_file.__code__ = _instead.__code__


def take_away() -> None:
    file_module.open_file.__code__ = _trios_code
