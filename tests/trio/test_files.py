"""Files: what is particular to ours. What they share with `open` is compared elsewhere."""

from __future__ import annotations

import io
import mmap
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import trio_lio

from ..common import pattern
from .support import case_id, open_ours

Run = Callable[..., Any]
MODES = ["rb", "wb", "ab", "r+b", "r", "w", "a", "r+"]


# -- whose file it is --------------------------------------------------------------------


def test_trios_own_open_file_is_ours_in_a_lio_run(run: Run, path: Path) -> None:
    from trio import open_file  # what a program may have imported long ago

    async def kinds() -> list[type]:
        found = []
        for opening in (
            trio.open_file(path),
            open_file(path),
            trio.Path(path).open(),
            trio_lio.open_file(path),
            trio_lio.Path(path).open(),
        ):
            async with await opening as file:
                assert isinstance(file, trio._file_io.AsyncIOWrapper)
                found.append(isinstance(file, trio_lio.AsyncFile))
        return found

    assert run(kinds) == [True] * 5
    assert run(kinds, files=False) == [False, False, False, True, True]
    assert trio.run(kinds) == [False] * 5
    with trio_lio.installed(files=False):
        assert trio.run(kinds) == [False, False, False, True, True]
    with trio_lio.installed():
        assert trio.run(kinds) == [True] * 5
    assert trio.run(kinds) == [False] * 5


@pytest.mark.parametrize("mode", MODES)
def test_a_file_has_the_attributes_of_opens(run: Run, path: Path, mode: str) -> None:
    names = trio._file_io._FILE_SYNC_ATTRS | trio._file_io._FILE_ASYNC_METHODS

    async def main() -> None:
        with open(path, mode) as stock:
            async with await open_ours(path, mode) as ours:
                assert {n for n in names if hasattr(stock, n)} == {
                    n for n in names if n in dir(ours)
                }
                for name in ("name", "mode", "encoding", "errors", "newlines"):
                    assert getattr(ours, name, None) == getattr(stock, name, None), name
                for name in ("readable", "writable", "seekable", "isatty"):
                    assert getattr(ours, name)() == getattr(stock, name)()
                assert stat.S_ISREG(os.fstat(ours.fileno()).st_mode)
                with pytest.raises(AttributeError):
                    _ = ours.no_such_thing
        assert ours.closed
        for name in ("fileno", "seekable", "isatty"):
            with pytest.raises(ValueError, match="closed file"):
                getattr(ours, name)()

    run(main)


def test_what_an_opener_opens_is_not_inherited(run: Run, path: Path) -> None:
    def opener(name: str, flags: int) -> int:
        fd = os.open(name, flags)
        os.set_inheritable(fd, True)
        return fd

    async def main() -> None:
        async with await open_ours(path, "rb", opener=opener) as file:
            assert not os.get_inheritable(file.fileno())

    run(main)


@pytest.mark.parametrize(("mode", "buffering"), [("rb", 0), ("rb", -1), ("r", -1)])
def test_readlines_ends_where_the_builtin_does(
    run: Run, path: Path, mode: str, buffering: int
) -> None:
    """Once the lines have more than the hint together: as many are not enough."""
    path.write_bytes(b"a\nbc\n\nd\n")

    async def main() -> None:
        for hint in range(-1, 12):
            with open(path, mode, buffering) as stock:
                wanted = stock.readlines(hint)
            async with await open_ours(path, mode, buffering) as ours:
                assert await ours.readlines(hint) == wanted, hint

    run(main)


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 8192])
def test_lines_are_those_of_open(run: Run, path: Path, newline: Any, chunk: int) -> None:
    content = "ä\nb\r\nc\rd\r\r\ne\n\r\n\nend"
    path.write_bytes(content.encode())

    async def main() -> None:
        with open(path, encoding="utf-8", newline=newline) as stock:
            stock._CHUNK_SIZE = chunk  # type: ignore[attr-defined]
            wanted = list(stock)
            end = stock.tell()
        async with await open_ours(path, encoding="utf-8", newline=newline) as ours:
            ours._CHUNK_SIZE = chunk
            assert [line async for line in ours] == wanted
            assert await ours.tell() == end

    run(main)


def test_pending_text_goes_when_that_of_the_builtin_does(run: Run, tmp_path: Path) -> None:
    """What is pending and what comes are too much together: from Python 3.14 on both go."""
    stock_path, path = tmp_path / "stock", tmp_path / "ours"

    async def main() -> None:
        for size in (1, 4096, 5000, 8191, 8192, 9000):
            with open(stock_path, "w", 5) as stock:
                async with await open_ours(path, "w", 5) as ours:
                    for text in ("a" * 5000, "b" * size, "c"):
                        stock.write(text)
                        await ours.write(text)
                        assert path.stat().st_size == stock_path.stat().st_size, size

    run(main)


@pytest.mark.parametrize("mode", MODES)
def test_a_closed_file_says_so(run: Run, path: Path, mode: str) -> None:
    async def main() -> None:
        file = await open_ours(path, mode)
        await file.aclose()
        await file.aclose()
        for name, *args in (
            ("read",),
            ("readline",),
            ("write", b"x" if "b" in mode else "x"),
            ("seek", 0),
            ("tell",),
            ("flush",),
            ("truncate",),
            ("fsync",),
            ("pread", 1, 0),
        ):
            with pytest.raises((ValueError, io.UnsupportedOperation)):
                await getattr(file, name)(*args)
        with pytest.raises(ValueError, match="closed file"):
            file.wrapped.tell()

    run(main)


@pytest.mark.parametrize("name", ["wrapped", "buffer", "detach"])
def test_the_standard_librarys_file_goes_on_where_ours_is(
    run: Run, path: Path, name: str
) -> None:
    async def main() -> None:
        file = await open_ours(path, encoding="utf-8")
        held = file.readline
        assert await file.readline() == "first\n"
        if name == "wrapped":
            assert file.wrapped.readline() == "second\n"
            assert await file.readline() == "third\n"
            assert await held() == ""
        elif name == "buffer":
            assert isinstance(file.buffer, io.BufferedReader)
            assert await file.readline() == "second\n"
        else:
            binary = await file.detach()
            assert isinstance(binary.wrapped, io.BufferedReader)
            assert await binary.read() == b"second\nthird\n"
            file = binary
        assert type(file) is trio._file_io.AsyncIOWrapper
        await file.aclose()

    run(main)


def test_what_is_not_written_yet_goes_with_the_file(run: Run, path: Path) -> None:
    async def main() -> None:
        async with await open_ours(path, "w") as file:
            await file.write("ours ")
            file.wrapped.write("theirs")
        assert path.read_text() == "ours theirs"
        async with await open_ours(path, "r+b") as file:
            assert await file.read(2) == b"ou"
            await file.write(b"t")
            assert file.wrapped.read(2) == b"s "
        assert path.read_text() == "outs theirs"

    run(main)


def test_no_standard_librarys_file_during_a_call(run: Run, both_ends: tuple[Path, int]) -> None:
    fifo, fd = both_ends

    async def main() -> None:
        async with await open_ours(fifo, "rb") as file, trio.open_nursery() as nursery:
            nursery.start_soon(file.read, 1)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError, match="while a call is under way"):
                _ = file.wrapped
            os.write(fd, b"x")

    run(main)


def test_text_read_ahead_from_a_pipe_stays_ours(run: Run, both_ends: tuple[Path, int]) -> None:
    fifo, fd = both_ends

    async def main() -> None:
        async with await open_ours(fifo) as file:
            os.write(fd, b"a\nb\n")
            assert await file.readline() == "a\n"
            with pytest.raises(io.UnsupportedOperation, match=r"before reading"):
                _ = file.wrapped
            assert await file.readline() == "b\n"
            assert file.wrapped.fileno() >= 0
        async with await open_ours(fifo, "rb") as file:
            os.write(fd, b"a\nb\nc")
            assert await file.readline() == b"a\n"
            assert file.wrapped.read(3) == b"b\nc"

    run(main)


def test_a_file_that_leaves_its_run_becomes_trios(run: Run, path: Path) -> None:
    async def begin() -> Any:
        file = await open_ours(path, "r+")
        assert await file.readline() == "first\n"
        return file

    async def finish(file: Any) -> None:
        assert await file.readline() == "second\n"
        with pytest.raises(RuntimeError, match="needs a lio run"):
            await trio_lio.AsyncFile.pread(file, 1, 0)
        await file.aclose()

    trio.run(finish, run(begin))

    async def middle(file: Any) -> Any:
        assert await file.readline() == "second\n"
        return file

    file = run(middle, run(begin))
    trio.run(file.aclose)
    assert file.closed


def test_a_forgotten_file_is_written_and_closed(run: Run, path: Path) -> None:
    async def main() -> None:
        file = await open_ours(path, "w")
        await file.write("all of it")
        fd = file.fileno()
        forgotten = [file]
        del file
        with pytest.warns(ResourceWarning, match="unclosed file"):
            forgotten.clear()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

    run(main)
    assert path.read_text() == "all of it"


# -- arguments of open -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("missing",), {}),
        ((".",), {}),
        (("file/below",), {}),
        (("x" * 300,), {}),
        (("a\0b",), {}),
        ((b"a\0b",), {}),
        (("a\ud800b",), {}),
        (("file", "x"), {}),
        (("file", "rw"), {}),
        (("file", ""), {}),
        (("file", "rbt"), {}),
        (("file", "r++"), {}),
        (("file", 3), {}),
        ((3.5,), {}),
        ((-1,), {}),
        ((987654,), {}),
        (("file", "r", 0), {}),
        (("file", "r", "x"), {}),
        (("file", "rb"), {"encoding": "utf-8"}),
        (("file", "rb"), {"errors": "strict"}),
        (("file", "rb"), {"newline": ""}),
        (("file",), {"encoding": "no such encoding"}),
        (("file",), {"encoding": "hex"}),
        (("file",), {"encoding": "a\0b"}),
        (("file",), {"encoding": 5}),
        (("file",), {"errors": 5}),
        (("file",), {"newline": "x"}),
        (("file",), {"closefd": False}),
        (("file",), {"opener": lambda *_: -1}),
        (("file",), {"opener": lambda *_: "no number"}),
        (("file",), {"opener": lambda *_: 1 / 0}),
        (("file",), {"opener": 3}),
        (("fifo", "r+"), {"opener": lambda name, _: os.open(name, os.O_RDWR)}),
    ],
    ids=case_id,
)
def test_open_refuses_what_open_refuses(
    run: Run,
    path: Path,
    fifo: Path,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(path.parent)
    with pytest.raises(Exception) as stock:
        open(*args, **kwargs)  # noqa: SIM115

    async def main() -> None:
        with pytest.raises(stock.type) as ours:
            await trio_lio.open_file(*args, **kwargs)
        assert str(ours.value) == str(stock.value)
        for name in ("errno", "filename"):
            assert getattr(ours.value, name, None) == getattr(stock.value, name, None)

    run(main)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become somebody else")
def test_permissions(run: Run, path: Path) -> None:
    path.chmod(0o600)
    path.parent.chmod(0o755)
    code = (
        "import os, sys, trio_lio\n"
        "async def main():\n"
        "    for opening in (open, trio_lio.open_file):\n"
        "        try:\n"
        "            await opening(sys.argv[1])\n"
        "        except PermissionError as exc:\n"
        "            print(exc.errno, exc.filename)\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "trio_lio.run(main, backend=sys.argv[2])\n"
    )
    here = Path("/") / "tmp"
    target = here / f"trio_lio_permissions_{os.getpid()}"
    target.write_bytes(b"")
    target.chmod(0o600)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, target, run.keywords["backend"]],  # type: ignore[attr-defined]
            capture_output=True,
            text=True,
        )
    finally:
        target.unlink()
    if "ModuleNotFoundError" in done.stderr or "PermissionError" in done.stderr:
        pytest.skip("this Python cannot be run by anybody else")
    assert done.stdout.splitlines() == [f"13 {target}"] * 2, done.stderr


def test_opener_and_descriptors(run: Run, path: Path) -> None:
    calls = []

    def opener(name: str, flags: int) -> int:
        calls.append((name, threading.current_thread() is threading.main_thread()))
        return os.open(name, flags)

    async def main() -> None:
        async with await open_ours(path, "rb", opener=opener) as file:
            assert not os.get_inheritable(file.fileno())
            assert file.name == str(path)
            assert await file.readline() == b"first\n"
            async with await open_ours(file.fileno(), "rb", 0, closefd=False) as same:
                assert same.name == file.fileno()
                assert not same.closefd
                await same.seek(0)
                assert await same.read(3) == b"fir"
            assert os.fstat(file.fileno())
        assert calls == [(str(path), False)]

    run(main)


def test_nonblocking_descriptors_are_trios(run: Run) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)

    async def main() -> None:
        async with await trio_lio.open_file(reader, "rb", buffering=0) as file:
            assert not isinstance(file, trio_lio.AsyncFile)
            assert await file.read(1) is None

    run(main)
    os.close(writer)


def test_open_is_a_checkpoint_and_so_is_every_call(run: Run, path: Path) -> None:
    async def main() -> None:
        with trio.testing.assert_checkpoints():
            file = await open_ours(path, "r+")
        for name, *args in (
            ("read", 1),
            ("readline",),
            ("tell",),
            ("seek", 0),
            ("write", "x"),
            ("flush",),
            ("flush",),
            ("read", 0),
            ("__anext__",),
            ("truncate",),
            ("readlines",),
            ("writelines", []),
            ("fsync",),
            ("pread", 0, 0),
            ("aclose",),
            ("aclose",),
        ):
            with trio.testing.assert_checkpoints():
                await getattr(file, name)(*args)
        with trio.testing.assert_checkpoints(), pytest.raises(ValueError, match="closed"):
            await file.read()
        with trio.testing.assert_checkpoints(), pytest.raises(FileNotFoundError):
            await trio_lio.open_file(path.parent / "missing")

    run(main)


def test_cancelled_calls_begin_nothing(run: Run, path: Path) -> None:
    async def main() -> None:
        async with await open_ours(path, "r+") as file, await open_ours(path, "wb", 0) as raw:
            with trio.CancelScope() as scope:
                scope.cancel()
                for call in (
                    lambda: file.readline(),
                    lambda: file.write("never"),
                    lambda: file.__anext__(),
                    lambda: file.seek(3),
                    lambda: raw.write(b"never"),
                    lambda: raw.pwrite(b"never", 0),
                    lambda: trio_lio.open_file(path.parent / "new", "w"),
                    lambda: trio_lio.Path(path.parent / "newer").mkdir(),
                ):
                    with pytest.raises(trio.Cancelled):
                        await call()
            assert await file.tell() == 0
        assert path.read_bytes() == b""
        assert sorted(os.listdir(path.parent)) == ["file"]

    run(main)


# -- positions, offsets ------------------------------------------------------------------


def test_the_position_is_the_kernels(run: Run, path: Path) -> None:
    async def main() -> None:
        async with await open_ours(path, "rb", buffering=0) as file:
            other = os.dup(file.fileno())
            assert await file.read(5) == b"first"
            assert os.lseek(other, 0, os.SEEK_CUR) == 5
            os.lseek(other, 6, os.SEEK_SET)
            assert await file.tell() == 6
            assert await file.read(6) == b"second"
            assert await file.seek(-6, os.SEEK_END) == 13
            assert os.read(other, 5) == b"third"
            assert await file.seek(0, os.SEEK_DATA) == 0
            assert await file.seek(0, os.SEEK_HOLE) == 19
            os.close(other)

    run(main)


def test_appending_goes_to_the_end_whoever_else_appends(run: Run, path: Path) -> None:
    async def main() -> None:
        async with await open_ours(path, "ab", 0) as one, await open_ours(path, "ab", 0) as two:
            assert await one.tell() == 19
            await two.write(b"two\n")
            await one.seek(0)
            await one.write(b"one\n")
            assert await one.tell() == 27
        assert path.read_bytes().endswith(b"third\ntwo\none\n")

    run(main)


def test_tasks_take_turns_on_one_file(run: Run, tmp_path: Path) -> None:
    data = pattern(400 * 100)
    (tmp_path / "data").write_bytes(data)
    found: list[bytes] = []

    async def main(buffering: int) -> None:
        async with (
            await open_ours(tmp_path / "data", "rb", buffering) as source,
            await open_ours(tmp_path / "copy", "wb", buffering) as target,
        ):

            async def copy() -> None:
                while part := await source.read(100):
                    found.append(part)
                    await target.write(part)

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(copy)
        parts = [data[at : at + 100] for at in range(0, len(data), 100)]
        assert sorted(found) == sorted(parts)
        copied = (tmp_path / "copy").read_bytes()
        assert sorted(copied[at : at + 100] for at in range(0, len(data), 100)) == sorted(parts)
        found.clear()

    run(main, 0)
    run(main, 1000)


def test_at_offsets(run: Run, path: Path) -> None:
    async def main() -> None:
        for mode, buffering in (("r+b", 0), ("r+b", -1), ("r+", -1)):
            path.write_bytes(b"0123456789")
            async with await open_ours(path, mode, buffering) as file:
                await file.read(1)
                assert await file.pread(3, 4) == b"456"
                assert await file.pread(100, 8) == b"89"
                assert await file.pread(5, 100) == b""
                assert await file.pwrite(b"ab", 1) == 2
                first, second = bytearray(2), bytearray(3)
                assert await file.preadv([first, second], 0) == 5
                assert (first, second) == (b"0a", b"b34")
                assert await file.pwritev([b"X", b"", b"YZ"], 7) == 3
                assert await file.pwritev([], 7) == 0
                assert await file.pread(300_000, 0) == b"0ab3456XYZ"
                await file.seek(0)
                await file.write(b"w" if "b" in mode else "w")
                assert await file.pread(2, 0) == b"wa"  # flushed first
                await file.fdatasync()
                for bad in (-1, 0), (1, -1):
                    with pytest.raises((ValueError, OSError)):
                        await file.pread(*bad)
                with pytest.raises(TypeError):
                    await file.preadv([b"read-only"], 0)
            assert path.read_bytes() == b"wab3456XYZ"

    run(main)


def test_direct_io_with_aligned_buffers(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "direct"
    data = pattern(3 * 4096)
    path.write_bytes(data)

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_DIRECT)

    try:
        os.close(opener(str(path), os.O_RDONLY))
    except OSError as exc:
        pytest.skip(f"no O_DIRECT on this file system: {exc}")

    async def main() -> None:
        with mmap.mmap(-1, 8192) as buffer:
            async with await open_ours(path, "r+b", buffering=0, opener=opener) as file:
                assert await file.preadv([buffer], 4096) == 8192
                assert buffer[:] == data[4096:]
                assert await file.readinto(buffer) == 8192
                assert buffer[:] == data[:8192]
                buffer[:] = bytes(8192)
                assert await file.pwrite(buffer, 0) == 8192
        assert path.read_bytes() == bytes(8192) + data[8192:]

    run(main)


def test_large_transfers_let_others_run(run: Run, tmp_path: Path) -> None:
    data = pattern(20_000_003)
    (tmp_path / "data").write_bytes(data)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            for buffering in (0, -1):
                async with await open_ours(tmp_path / "data", "rb", buffering) as file:
                    before = turns
                    assert await file.read() == data
                    assert turns - before >= 5
                    await file.seek(1)
                    assert await file.read(15_000_000) == data[1:15_000_001]
                async with await open_ours(tmp_path / "copy", "wb", buffering) as file:
                    assert await file.write(data) == len(data)
                assert (tmp_path / "copy").read_bytes() == data
            nursery.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize("method", ["readline", "readlines"])
def test_a_read_of_what_is_open_to_write_sends_the_text_on(
    run: Run, path: Path, method: str
) -> None:
    """As the built-in open: the buffer has it, and more than fits is in the file."""
    found = []

    async def ours() -> None:
        async with await open_ours(path, "w", buffering=5) as file:
            await file.write("aaaaaaa")
            with pytest.raises(io.UnsupportedOperation):
                await getattr(file, method)()
            found.append(path.read_bytes())

    run(ours)
    with open(path, "w", buffering=5) as file:
        file.write("aaaaaaa")
        with pytest.raises(io.UnsupportedOperation):
            getattr(file, method)()
        found.append(path.read_bytes())
    assert found[0] == found[1] == b"aaaaaaa"
