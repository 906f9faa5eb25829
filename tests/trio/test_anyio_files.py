"""anyio's files, paths and processes on operations, against anyio on stock Trio."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import anyio
import pytest
import trio
import trio._threads

import trio_lio
import trio_lio.anyio
from trio_lio import _pipe

from ..common import pattern
from .support import PATIENCE, all_in_flight, case_id, statistics
from .test_anyio import python
from .test_paths import CALLS, NAMES, make_tree, plain, told, tree

HAS_LIMITERS = tuple(map(int, version("anyio").split(".")[:2])) >= (4, 14)

Run = Callable[..., Any]


@pytest.fixture
def anyio_run(backend: str) -> Run:
    return functools.partial(
        anyio.run, backend="trio_lio", backend_options={"backend": backend}
    )


stock_run = functools.partial(anyio.run, backend="trio")


@pytest.fixture(autouse=True)
def anyio_is_as_it_was() -> Iterator[None]:
    before = anyio.AsyncFile.__init__
    yield
    assert anyio.AsyncFile.__init__ is before
    assert anyio._core._fileio.to_thread is anyio.to_thread


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was given to Trio's threads."""
    given: list[Any] = []
    start = trio._threads.start_thread_soon

    def counted(fn: Any, *args: Any, **kwargs: Any) -> None:
        given.append(fn)
        start(fn, *args, **kwargs)

    monkeypatch.setattr(trio._threads, "start_thread_soon", counted)
    return given


# -- files -----------------------------------------------------------------------------

CONTENT = b"first\r\nsecond\n\nthe \xc3\xa9nd"
OPENS: list[tuple[Any, ...]] = [
    *[(mode,) for mode in ("r", "w", "a", "x", "r+", "w+", "rb", "wb", "ab", "r+b", "w+b")],
    *[("rb", 0), ("r+b", 0), ("wb", 0), ("rb", 5), ("r", -1, "latin-1", "replace", "")],
    *[("r", -1, "utf-8", None, "\r\n"), ("w", 1), ("r", 0), ("rb", 1), ("q",), ("rw",)],
    *[("r", -1, "no such encoding"), ("rb", -1, "ascii"), ("r", -1, None, None, "x")],
]
STEPS: list[tuple[Any, ...]] = [
    *[("read", 3), ("readline",), ("tell",), ("read1", 4), ("read1",), ("readinto", 4)],
    *[("readinto1", 9), ("readinto", 0), ("seek", 2), ("seek", 0, 2), ("seek", 1, 1)],
    *[("seek", 0, None), ("seek", -1), ("write", b"bytes"), ("write", "te\xe9xt\n")],
    *[("write", 3), ("writelines", [b"a", b"b"]), ("writelines", ["a", "b\n"]), ("flush",)],
    *[("seek", 0), ("truncate", 7), ("truncate",), ("truncate", "x")],
    *[("readlines",), ("readline", 3), ("read", 1, 2), ("seek",), ("seek", 0), ("read",)],
]
ATTRIBUTES = (
    *("closed", "name", "mode", "encoding", "errors", "newlines", "line_buffering"),
    *("closefd", "no_such_thing", "limiter"),
)
QUESTIONS = ("readable", "writable", "seekable", "isatty")


async def attempt(file: Any, step: tuple[Any, ...]) -> Any:
    name, *arguments = step
    buffer = None
    if name.startswith("readinto"):
        arguments = [buffer := bytearray(arguments[0])]
    try:
        return await getattr(file, name)(*arguments), buffer
    except Exception as exc:  # the words are those of our files
        return type(exc), getattr(exc, "errno", None), buffer


def says(file: Any) -> list[Any]:
    found: list[Any] = []
    for name in ATTRIBUTES:
        try:
            found.append(getattr(file, name))
        except AttributeError as exc:
            found.append(str(exc))
    if not file.closed:
        found += [getattr(file, name)() for name in QUESTIONS]
    return found


async def everything(way: str, path: pathlib.Path, arguments: tuple[Any, ...]) -> list[Any]:
    try:
        if way == "open_file":
            file = await anyio.open_file(path, *arguments)
        else:
            file = await anyio.Path(path).open(*arguments)
    except Exception as exc:
        return [told(exc)]
    assert isinstance(file, anyio.AsyncFile)
    found: list[Any] = [says(file)]
    for step in STEPS:
        found.append((step, await attempt(file, step)))
        found.append(path.read_bytes() if step[0] == "flush" else None)
    found.append(says(file))
    await file.aclose()
    await file.aclose()
    found += [says(file), await attempt(file, ("flush",))]
    return found


@pytest.mark.filterwarnings("ignore:line buffering")
@pytest.mark.parametrize("there", [True, False], ids=["there", "missing"])
@pytest.mark.parametrize("way", ["open_file", "Path.open"])
@pytest.mark.parametrize("arguments", OPENS, ids=case_id)
def test_files(
    anyio_run: Run, way: str, arguments: tuple[Any, ...], there: bool, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "file"
    found = []
    for run in stock_run, anyio_run:
        path.unlink(missing_ok=True)
        if there:
            path.write_bytes(CONTENT)
        answers = run(everything, way, path, arguments)
        found.append((answers, path.read_bytes() if path.exists() else None))
    assert found[1] == found[0]


@pytest.mark.parametrize("name", ["", "a\0b", "directory", "missing/file", "f" * 300, -1, 3.5])
def test_names_that_cannot_be_opened(
    anyio_run: Run, name: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory").mkdir()

    async def main() -> Any:
        try:
            await anyio.open_file(name)
        except Exception as exc:
            return told(exc), getattr(exc, "filename", None)

    assert anyio_run(main) == stock_run(main) is not None


@pytest.mark.parametrize("name", ["trio_lio", "trio"])
def test_files_are_operations(
    backend: str, name: str, tmp_path: pathlib.Path, threads: list[Any]
) -> None:
    """With our backend of anyio, and with its own in a lio run."""

    async def main() -> None:
        pushed = statistics().operations_pushed
        async with await anyio.open_file(tmp_path / "file", "w") as file:
            assert isinstance(file, anyio.AsyncFile)
            await file.write("one\ntwo\n")
            assert (file.closed, file.mode, file.readable()) == (False, "w", False)
            assert file.fileno() > 2
        async with await anyio.Path(tmp_path / "file").open() as file:
            assert [line async for line in file] == ["one\n", "two\n"]
            await file.seek(0)
            assert await file.read() == "one\ntwo\n"
        assert statistics().operations_pushed - pushed >= 7  # 2 opens, 2 closes, the rest
        assert not threads

    if name == "trio_lio":
        anyio.run(main, backend=name, backend_options={"backend": backend})
    else:
        with trio_lio.installed(backend=backend):
            anyio.run(main, backend=name)


def test_files_false_leaves_them_to_anyio(
    backend: str, tmp_path: pathlib.Path, threads: list[Any]
) -> None:
    async def main() -> None:
        file = await anyio.open_file(tmp_path / "file", "w")
        assert type(file) is anyio.AsyncFile
        await file.aclose()
        assert await anyio.Path(tmp_path / "file").exists()
        assert len(threads) == 3

    options = {"backend": backend, "files": False}
    anyio.run(main, backend="trio_lio", backend_options=options)


@pytest.mark.skipif(not HAS_LIMITERS, reason="there they take no limiter before anyio 4.14")
def test_limiters_are_for_threads(
    anyio_run: Run, tmp_path: pathlib.Path, threads: list[Any]
) -> None:
    async def main() -> None:
        limiter = anyio.CapacityLimiter(1)
        file = await anyio.open_file(tmp_path / "file", "w", limiter=limiter)
        assert file.limiter is limiter
        await file.write("x")
        await file.aclose()
        assert await anyio.Path(tmp_path / "file", limiter=limiter).read_text() == "x"
        assert len(threads) == 4

    anyio_run(main)


def test_wrapped_is_the_file_of_the_standard_library(
    anyio_run: Run, tmp_path: pathlib.Path
) -> None:
    async def main() -> Any:
        found: list[Any] = []
        for number, mode in enumerate(("r+", "r+b", "rb", "wb")):
            path = tmp_path / f"{number}"
            path.write_bytes(CONTENT)
            file: Any = await anyio.open_file(path, mode)
            if mode != "wb":
                found.append(await file.read(3))
            if mode != "rb":
                found.append(await file.write("new" if mode == "r+" else b"new"))
            wrapped = file.wrapped
            assert wrapped is file.wrapped
            found.append(type(wrapped))
            assert type(file) is anyio.AsyncFile
            if mode != "wb":
                found += [wrapped.readline(), await file.readline()]
            await file.aclose()
            found += [wrapped.closed, path.read_bytes()]
        return found

    found = anyio_run(main)
    assert found == stock_run(main)
    assert io.TextIOWrapper in found


def test_what_is_passed_through(anyio_run: Run, tmp_path: pathlib.Path) -> None:
    """Methods that anyio does not know are the standard library's, and do not wait."""
    (tmp_path / "file").write_bytes(CONTENT)

    async def main() -> Any:
        binary: Any = await anyio.open_file(tmp_path / "file", "rb")
        found = [await binary.read(2), binary.peek(3)[:3], type(binary.raw)]
        binary.close()
        text: Any = await anyio.open_file(tmp_path / "file")
        found += [type(text.buffer), text.write_through, text.wrapped.closed]
        text.close()
        return [*found, binary.closed, text.closed]

    assert anyio_run(main) == stock_run(main)


def test_files_outside_of_the_run(anyio_run: Run, tmp_path: pathlib.Path) -> None:
    """What was read ahead and what is not yet written stay, on asyncio too."""
    (tmp_path / "r").write_bytes(CONTENT)

    async def begin() -> tuple[Any, Any]:
        reader = await anyio.open_file(tmp_path / "r", "rb")
        writer = await anyio.open_file(tmp_path / "w", "w")
        assert await reader.read(3) == CONTENT[:3]
        await writer.write("begun ")
        return reader, writer

    async def end(reader: Any, writer: Any) -> None:
        assert await reader.read() == CONTENT[3:]
        await writer.write("done")
        assert type(writer) is anyio.AsyncFile
        await reader.aclose()
        await writer.aclose()
        assert (tmp_path / "w").read_text() == "begun done"

    for name in "trio", "asyncio":
        reader, writer = anyio_run(begin)
        anyio.run(end, reader, writer, backend=name)


def test_a_cancelled_read_loses_nothing(anyio_run: Run, tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    async def main() -> None:
        other = os.open(tmp_path / "fifo", os.O_RDWR)
        file = await anyio.open_file(tmp_path / "fifo", "rb")
        async with anyio.create_task_group() as group:
            group.start_soon(file.read, 10)
            await all_in_flight(1)
            group.cancel_scope.cancel()
        os.write(other, b"0123456789")
        with anyio.fail_after(PATIENCE):
            assert await file.read(10) == b"0123456789"
        await file.aclose()
        os.close(other)

    anyio_run(main)


def test_cancelled_tasks_begin_nothing_and_close(
    anyio_run: Run, tmp_path: pathlib.Path
) -> None:
    async def main() -> list[Any]:
        path = tmp_path / "file"
        file = await anyio.open_file(path, "w")
        await file.write("x")
        found: list[Any] = []
        with anyio.CancelScope() as scope:
            scope.cancel()
            calls = [
                functools.partial(anyio.open_file, tmp_path / "other", "w"),
                functools.partial(file.write, "y"),
                anyio.Path(path).unlink,
                anyio.Path(path).stat,
            ]
            for call in calls:
                try:
                    await call()
                except trio.Cancelled:
                    found.append("cancelled")
            await file.aclose()  # shielded: it raises nothing
            found.append(file.closed)
        return [*found, path.read_text(), (tmp_path / "other").exists()]

    found = anyio_run(main)
    assert found == [*["cancelled"] * 4, True, "x", False]
    if "CancelScope" in anyio.AsyncFile.aclose.__code__.co_names:  # not so in old ones
        assert found == stock_run(main)


# -- paths -----------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS, ids=case_id)
def test_paths(
    anyio_run: Run,
    call: tuple[Any, ...],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, *arguments = call

    async def ask(name: str) -> Any:
        try:
            answer = getattr(anyio.Path(name), method)(*arguments)
            if hasattr(answer, "__anext__"):
                return sorted([str(path) async for path in answer])
            answer = await answer
        except Exception as exc:
            return told(exc), getattr(exc, "filename", None), getattr(exc, "filename2", None)
        return str(answer) if isinstance(answer, anyio.Path) else plain(answer)

    async def ask_all(names: list[str]) -> Any:
        found = []
        for number, name in enumerate(names):
            place = tmp_path / f"{number}"
            place.mkdir()
            monkeypatch.chdir(place)
            make_tree(place)
            answer = repr(await ask(name)).replace(str(place), "")
            found.append((name, answer, tree(place)))
            monkeypatch.chdir(tmp_path)
            place.rename(tmp_path / f"{number} {len(list(tmp_path.iterdir()))}")
        return found

    names = [
        name
        for name in NAMES
        if not (name.startswith("/") and method not in ("stat", "exists", "is_char_device"))
        and not (name == "fifo" and method.startswith(("read_", "write_")))
    ]
    assert anyio_run(ask_all, names) == stock_run(ask_all, names)


@pytest.mark.parametrize("newline", [None, "", "\r\n"])
def test_line_endings_of_write_text(
    anyio_run: Run, newline: str | None, tmp_path: pathlib.Path
) -> None:
    path = anyio.Path(tmp_path / "file")

    async def main() -> Any:
        written = await path.write_text("a\nb\r\n", "utf-8", None, newline)
        return written, await path.read_text(), await path.read_bytes()

    assert anyio_run(main) == stock_run(main)


def test_paths_are_operations(
    anyio_run: Run, tmp_path: pathlib.Path, threads: list[Any]
) -> None:
    path = anyio.Path(tmp_path / "file")
    calls: list[Callable[[], Any]] = [
        path.touch,
        *(path.exists, path.is_file, path.is_dir, path.is_symlink, path.is_fifo),
        *(path.is_socket, path.is_block_device, path.is_char_device, path.stat, path.lstat),
        functools.partial(path.stat, follow_symlinks=False),
        functools.partial(path.samefile, tmp_path),
        *(functools.partial(path.write_bytes, b"content"), path.read_bytes, path.read_text),
        functools.partial((path.parent / "link").symlink_to, path),
        functools.partial((path.parent / "hard").hardlink_to, path),
        *((path.parent / "directory").mkdir, (path.parent / "directory").rmdir),
        functools.partial((path.parent / "hard").rename, tmp_path / "new"),
        functools.partial((path.parent / "new").replace, path.parent / "newer"),
        path.unlink,
    ]
    if HAS_LIMITERS:  # before, this is a function of anyio's own
        calls.insert(-1, functools.partial(path.write_text, "content"))

    async def main() -> None:
        for call in calls:
            before = statistics().operations_pushed
            await call()
            assert statistics().operations_pushed > before, call
        assert not threads
        assert sorted(os.listdir(tmp_path)) == ["link", "newer"]

    anyio_run(main)


def test_a_program_that_does_not_know_us_has_files_of_ours(backend: str) -> None:
    """Not even anyio's backend is loaded when its run starts."""
    python(
        """
        import sys
        import anyio, trio, trio_lio

        async def main():
            async with await anyio.open_file("/dev/null") as file:
                return type(file).__module__

        assert "anyio._backends._trio" not in sys.modules
        with trio_lio.installed(sys.argv[1]):
            assert trio.run(main) == "trio_lio._anyio_files"
        assert trio.run(main).startswith("anyio")
        """.replace("sys.argv[1]", repr(backend))
    )


# -- processes -------------------------------------------------------------------------


@contextlib.contextmanager
def without_trios_pipes() -> Iterator[None]:
    async def refuse(*_: Any) -> Any:
        raise AssertionError("a pipe's call went to Trio")

    before = dict(_pipe.trio_method)
    _pipe.trio_method.update(dict.fromkeys(before, refuse))
    try:
        yield
    finally:
        _pipe.trio_method.update(before)


def test_run_process_has_its_pipes_on_operations(anyio_run: Run) -> None:
    data = pattern(1 << 20)
    code = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"

    async def main() -> None:
        before = statistics().operations_pushed
        with without_trios_pipes():
            done = await anyio.run_process([sys.executable, "-c", code], input=data)
            assert done.stdout == data
            assert done.stderr == b""
            async with await anyio.open_process(["cat"]) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                await process.stdin.send(b"hello")
                assert await process.stdout.receive() == b"hello"
                await process.stdin.aclose()
                with pytest.raises(anyio.EndOfStream):
                    await process.stdout.receive()
        # A pipe takes and gives 64 KiB at a time.
        assert statistics().operations_pushed - before >= len(data) // 65536

    anyio_run(main)
