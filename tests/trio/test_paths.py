"""trio.Path on operations, against pathlib."""

from __future__ import annotations

import os
import pathlib
import socket
import stat
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import trio_lio

from .support import case_id

Run = Callable[..., Any]


def make_tree(place: pathlib.Path) -> None:
    (place / "directory").mkdir(mode=0o750)
    (place / "directory" / "inner").write_text("inner")
    (place / "file").write_bytes(b"content\r\n\xc3\xa9")
    (place / "empty").touch(mode=0o600)
    (place / "link").symlink_to("file")
    (place / "dangling").symlink_to("nowhere")
    (place / "loop").symlink_to("loop")
    (place / "linked directory").symlink_to("directory")
    os.mkfifo(place / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place / "socket"))


NAMES = [
    *("directory", "file", "empty", "link", "dangling", "loop", "linked directory"),
    *("fifo", "socket", "missing", "file/below", "missing/below", "x" * 300, ""),
    *("directory/inner", "a\0b", "a\ud800b", "/dev/null", "/proc/self/stat"),
]
CALLS: list[tuple[Any, ...]] = [
    *[
        (name,)
        for name in (
            *("exists", "is_dir", "is_file", "is_symlink", "is_socket", "is_fifo"),
            *("is_block_device", "is_char_device", "stat", "lstat", "unlink", "rmdir"),
            *("mkdir", "touch", "read_bytes", "read_text", "readlink", "resolve"),
        )
    ],
    ("mkdir", 0o700),
    ("mkdir", 0o777, True, True),
    ("mkdir", 0o777, False, True),
    ("mkdir", "wrong"),
    ("touch", 0o640, False),
    ("unlink", True),
    ("rename", "renamed"),
    ("rename", "directory"),
    ("rename", "missing/below"),
    ("rename", 3),
    ("replace", "empty"),
    ("replace", "a\0b"),
    ("symlink_to", "target"),
    ("symlink_to", "target", True),
    ("hardlink_to", "file"),
    ("hardlink_to", "missing"),
    ("samefile", "file"),
    ("samefile", "missing"),
    ("samefile", 3.5),
    ("write_bytes", b"written"),
    ("write_bytes", memoryview(b"written")),
    ("write_bytes", "wrong"),
    ("write_text", "w\u00f6rds\n"),
    ("write_text", "w\u00f6rds", "latin-1"),
    ("write_text", "\u20ac", "ascii"),
    ("write_text", "\u20ac", "ascii", "ignore"),
    ("write_text", b"wrong"),
    ("read_text", "ascii"),
    ("read_text", "utf-8", "replace"),
    ("read_text", "no such encoding"),
    ("stat", 1, 2, 3),
    ("exists", "wrong"),
    ("chmod", 0o700),
    ("iterdir",),
    ("glob", "*"),
]


def plain(value: Any) -> Any:
    if isinstance(value, os.stat_result):
        names = [n for n in dir(value) if n.startswith("st_") and "time" not in n]
        return [getattr(value, n) for n in names if n not in ("st_ino", "st_ctime")]
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if hasattr(value, "__next__"):
        return sorted(map(str, value))
    return value


def told(exc: Exception) -> Any:
    return type(exc), getattr(exc, "errno", None), str(exc)


def tree(place: pathlib.Path) -> list[Any]:
    """What is there, without what differs between two of them."""
    found: list[Any] = []
    for path in sorted(place.rglob("*")):
        status = path.lstat()
        content: Any = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        found.append((str(path.relative_to(place)), status.st_mode, status.st_nlink, content))
    return found


@pytest.mark.parametrize("call", CALLS, ids=case_id)
def test_as_pathlib(
    run: Run, call: tuple[Any, ...], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, *arguments = call

    async def ours(name: str) -> Any:
        path = trio_lio.Path(name)
        with trio.testing.assert_checkpoints():
            try:
                return plain(await getattr(path, method)(*arguments))
            except Exception as exc:
                return told(exc)

    def theirs(name: str) -> Any:
        try:
            return plain(getattr(pathlib.Path(name), method)(*arguments))
        except Exception as exc:
            return told(exc)

    for number, name in enumerate(NAMES):
        if name.startswith("/") and method not in ("stat", "exists", "is_char_device"):
            continue
        if name == "fifo" and method.startswith(("read_", "write_")):
            continue  # both wait for the other end
        found = []
        for way in (theirs, ours):
            place = tmp_path / way.__name__[:4] / str(number)  # of one length
            place.mkdir(parents=True)
            monkeypatch.chdir(place)
            make_tree(place)
            answer = theirs(name) if way is theirs else run(ours, name)
            found.append((repr(answer).replace(str(place), ""), tree(place)))
        assert found[1] == found[0], name


def test_times_are_those_of_os_stat(run: Run, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.utime(path, ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))

    async def main() -> None:
        assert await trio.Path(path).stat() == os.stat(path)
        for name in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_mtime", "st_ino"):
            assert getattr(await trio.Path(path).stat(), name) == getattr(os.stat(path), name)
        assert (await trio.Path("/dev/null").stat()).st_rdev == os.stat("/dev/null").st_rdev

    run(main)


def test_they_are_paths_of_trio(run: Run) -> None:
    path = trio_lio.Path("a") / "b"
    assert repr(path) == "trio_lio.Path('a/b')"
    assert isinstance(path, trio_lio.Path)
    assert isinstance(path, trio.Path)
    assert path == trio.Path("a/b")
    assert hash(path) == hash(pathlib.Path("a/b"))
    assert type(path.parent) is trio_lio.Path

    async def main() -> None:
        assert type(await trio_lio.Path.cwd()) is trio_lio.Path
        assert await trio.Path("/").is_dir()

    run(main)
    trio.run(main)


def test_files_false_leaves_trio_path_to_trio(run: Run, tmp_path: pathlib.Path) -> None:
    async def operations() -> list[int]:
        found = []
        await trio_lio.lowlevel.nop()  # with the first one Trio's own wait is pushed, too
        for path in trio.Path(tmp_path), trio_lio.Path(tmp_path):
            before = trio.lowlevel.current_statistics().io_statistics.operations_pushed
            await path.exists()
            after = trio.lowlevel.current_statistics().io_statistics.operations_pushed
            found.append(after - before)
        return found

    with_files = run(operations)
    assert with_files[0] >= 1
    assert run(operations, files=False)[1] == with_files[1]


def test_a_write_that_began_is_completed(run: Run, tmp_path: pathlib.Path) -> None:
    """Opening has emptied the file; cancelled there, the old content and the new were lost."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    async def main() -> None:
        outcomes = set()
        for _ in range(30):
            path.write_bytes(b"old")
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def cancel(scope: trio.CancelScope = scope) -> None:
                        await trio.lowlevel.checkpoint()
                        scope.cancel()

                    await trio.Path(path).write_bytes(b"new content")
            outcomes.add(path.read_bytes())
        assert outcomes <= {b"old", b"", b"new content"}
        assert b"" not in outcomes

    run(main)
