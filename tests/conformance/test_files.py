"""Files, directories and pipes: each operation against what os does, and its errors."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from trio_lio.backends import IoBackend, Op

from ..common import pattern
from .support import closed_fd, collect, complete, errno_of, is_idle, run, submit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FD_OPERATIONS = {
    "read": lambda fd: Op.read(fd, 10),
    "read into": lambda fd: Op.read(fd, bytearray(10)),
    "read_at": lambda fd: Op.read_at(fd, 10, 0),
    "readv_at": lambda fd: Op.readv_at(fd, [bytearray(10)], 0),
    "write": lambda fd: Op.write(fd, b"x"),
    "write_at": lambda fd: Op.write_at(fd, b"x", 0),
    "writev_at": lambda fd: Op.writev_at(fd, [b"x"], 0),
    "fsync": lambda fd: Op.fsync(fd),
    "fdatasync": lambda fd: Op.fdatasync(fd),
    "truncate": lambda fd: Op.truncate(fd, 0),
    "close": lambda fd: Op.close(fd),
    "splice": lambda fd: Op.splice(fd, fd, 10),
    "tee": lambda fd: Op.tee(fd, fd, 10),
}


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("name", FD_OPERATIONS)
def test_closed_descriptor_is_ebadf(backend: IoBackend, name: str) -> None:
    assert errno_of(backend, FD_OPERATIONS[name](closed_fd())) == "EBADF"
    assert is_idle(backend)


def test_reading_and_writing_move_the_position(backend: IoBackend, file: int) -> None:
    assert run(backend, Op.read(file, 3)) == b"012"
    buffer = bytearray(4)
    assert run(backend, Op.read(file, buffer)) == 4
    assert buffer == b"3456"
    assert run(backend, Op.write(file, b"AB")) == 2
    assert os.lseek(file, 0, os.SEEK_CUR) == 9
    assert run(backend, Op.read(file, 100)) == b"9"
    assert run(backend, Op.read(file, 100)) == b""
    assert run(backend, Op.read(file, 0)) == b""
    assert os.pread(file, 100, 0) == b"0123456AB9"


def test_reading_and_writing_at_an_offset_leave_it(backend: IoBackend, file: int) -> None:
    assert run(backend, Op.read_at(file, 3, 4)) == b"456"
    assert run(backend, Op.write_at(file, b"__", 4)) == 2
    assert run(backend, Op.read_at(file, 100, 8)) == b"89"
    assert run(backend, Op.read_at(file, 100, 10)) == b""
    assert run(backend, Op.read_at(file, 100, 2**62)) == b""
    assert run(backend, Op.write_at(file, b"far", 20)) == 3
    assert os.lseek(file, 0, os.SEEK_CUR) == 0
    assert os.pread(file, 100, 0) == b"0123__6789" + bytes(10) + b"far"


def test_vectors(backend: IoBackend, file: int) -> None:
    assert run(backend, Op.writev_at(file, [b"ab", b"", bytearray(b"cde")], 2)) == 5
    first, second = bytearray(3), bytearray(10)
    assert run(backend, Op.readv_at(file, [first, bytearray(), second], 1)) == 9
    assert (first, second[:6]) == (b"1ab", b"cde789")
    assert run(backend, Op.readv_at(file, [], 0)) == 0
    many = [bytearray(1) for _ in range(1024)]
    assert run(backend, Op.readv_at(file, many, 0)) == 10


def test_large_transfers(backend: IoBackend, file: int) -> None:
    data = pattern(3_000_000)
    assert run(backend, Op.write_at(file, data, 0)) == len(data)
    assert run(backend, Op.read_at(file, len(data) + 1, 0)) == data
    assert run(backend, Op.read_at(file, 1_000_000, 1)) == data[1:1_000_001]


def test_many_reads_at_once(backend: IoBackend, file: int) -> None:
    data = pattern(50 * 4096)
    os.pwrite(file, data, 0)
    for at in range(50):
        backend.push(at, Op.read_at(file, 4096, at * 4096))
    done = collect(backend, range(50))
    assert b"".join(done[at].unwrap() for at in range(50)) == data


def test_wrong_direction(backend: IoBackend, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for flags, op in (
        (os.O_RDONLY, FD_OPERATIONS["write"]),
        (os.O_RDONLY, FD_OPERATIONS["write_at"]),
        (os.O_WRONLY, FD_OPERATIONS["read"]),
        (os.O_WRONLY, FD_OPERATIONS["readv_at"]),
    ):
        fd = os.open(tmp_path / "file", flags)
        try:
            assert errno_of(backend, op(fd)) == "EBADF"
        finally:
            os.close(fd)


def test_directory_is_no_file(backend: IoBackend, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert errno_of(backend, Op.read(fd, 10)) == "EISDIR"
        assert errno_of(backend, Op.read_at(fd, 10, 0)) == "EISDIR"
    finally:
        os.close(fd)


def test_truncate_and_sync(backend: IoBackend, file: int) -> None:
    for size in (3, 0, 5_000_000_000, 7):
        assert run(backend, Op.truncate(file, size)) == 0
        assert os.fstat(file).st_size == size
    assert run(backend, Op.fsync(file)) == 0
    assert run(backend, Op.fdatasync(file)) == 0
    read_end, write_end = os.pipe()
    try:
        assert errno_of(backend, Op.fsync(read_end)) == "EINVAL"
        assert errno_of(backend, Op.truncate(write_end, 0)) == "EINVAL"
    finally:
        os.close(read_end)
        os.close(write_end)


# -- pipes -----------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError as exc:
            assert exc.errno == errno.EBADF  # the test closed it


def test_pipe_read_waits(backend: IoBackend, pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    op_id = submit(backend, Op.read(read_end, 100))
    assert run_beside(backend, Op.write(write_end, b"through"), op_id) == (7, b"through")
    op_id = submit(backend, Op.read(read_end, 100))
    os.close(write_end)
    assert collect(backend, [op_id])[op_id].result == b""


def run_beside(backend: IoBackend, op: Op, other: int) -> tuple[object, object]:
    backend.push(1, op)
    done = collect(backend, [1, other])
    return done[1].unwrap(), done[other].unwrap()


def test_pipe_write_waits_for_room(backend: IoBackend, pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    os.set_blocking(write_end, False)
    filled = 0
    try:
        while True:
            filled += os.write(write_end, bytes(4096))
    except BlockingIOError:
        pass
    op_id = submit(backend, Op.write(write_end, b"at last"))
    got = b""
    while len(got) < filled:
        got += os.read(read_end, 65536)
    assert collect(backend, [op_id])[op_id].result == 7
    assert os.read(read_end, 100) == b"at last"


def test_write_to_a_pipe_without_reader(backend: IoBackend, pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    os.close(read_end)
    assert errno_of(backend, Op.write(write_end, b"x")) == "EPIPE"


def test_tee_and_splice(backend: IoBackend, file: int, pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    copy_read, copy_write = os.pipe()
    try:
        assert run(backend, Op.splice(file, write_end, 6, offset_in=2)) == 6
        assert os.lseek(file, 0, os.SEEK_CUR) == 0
        assert run(backend, Op.tee(read_end, copy_write, 100)) == 6
        assert os.read(copy_read, 100) == b"234567"
        assert run(backend, Op.splice(read_end, file, 3, offset_out=0)) == 3
        assert os.read(read_end, 100) == b"567"
        assert os.pread(file, 10, 0) == b"2343456789"
        assert run(backend, Op.splice(file, write_end, 2)) == 2
        assert os.lseek(file, 0, os.SEEK_CUR) == 2
        assert run(backend, Op.splice(file, write_end, 10, offset_in=10)) == 0
        assert errno_of(backend, Op.splice(file, file, 10)) == "EINVAL"
        assert errno_of(backend, Op.tee(file, write_end, 10)) == "EINVAL"
    finally:
        os.close(copy_read)
        os.close(copy_write)


def test_splice_waits_for_data(backend: IoBackend, pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    copy_read, copy_write = os.pipe()
    op_id = submit(backend, Op.splice(read_end, copy_write, 100))
    try:
        os.write(write_end, b"late")
        assert collect(backend, [op_id])[op_id].result == 4
        assert os.read(copy_read, 10) == b"late"
    finally:
        os.close(copy_read)
        os.close(copy_write)


# -- names -----------------------------------------------------------------------------


def test_openat(backend: IoBackend, tmp_path: Path) -> None:
    path = tmp_path / "new"
    before = os.umask(0o022)
    try:
        fd = run(backend, Op.openat(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    finally:
        os.umask(before)
    assert not os.get_inheritable(fd)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert run(backend, Op.close(fd)) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    directory = os.open(tmp_path, os.O_RDONLY)
    for name in ("new", b"new"):
        os.close(run(backend, Op.openat(name, os.O_RDONLY, dir_fd=directory)))
    os.close(directory)


def test_openat_errors_name_the_file(backend: IoBackend, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    missing = str(tmp_path / "missing")
    done = complete(backend, Op.openat(missing, os.O_RDONLY))
    assert isinstance(done.error, FileNotFoundError)
    assert done.error.filename == missing
    for path, flags, expected in (
        (tmp_path / "file", os.O_CREAT | os.O_EXCL, "EEXIST"),
        (tmp_path / "file" / "below", os.O_RDONLY, "ENOTDIR"),
        (tmp_path, os.O_WRONLY, "EISDIR"),
        ("x" * 300, os.O_RDONLY, "ENAMETOOLONG"),
        ("", os.O_RDONLY, "ENOENT"),
    ):
        assert errno_of(backend, Op.openat(path, flags)) == expected
    assert errno_of(backend, Op.openat("x", os.O_RDONLY, dir_fd=closed_fd())) == "EBADF"


def test_statx_is_os_stat(backend: IoBackend, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 12345)
    os.utime(path, ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    link = tmp_path / "link"
    link.symlink_to(path)
    nofollow, empty_path = 0x100, 0x1000
    fields = [name for name in dir(os.stat_result) if name.startswith("st_")]

    def shown(result: os.stat_result) -> dict[str, object]:
        return {name: getattr(result, name) for name in fields}

    for name, flags, look in (
        (path, 0, os.stat),
        (link, 0, os.stat),
        (link, nofollow, os.lstat),
        (tmp_path, 0, os.stat),
        ("/dev/null", 0, os.stat),
    ):
        result = run(backend, Op.statx(name, flags))
        expected = look(name)
        assert isinstance(result, os.stat_result)
        assert shown(result) == shown(expected)
        assert tuple(result) == tuple(expected)
    with path.open() as file:
        result = run(backend, Op.statx("", empty_path, dir_fd=file.fileno()))
        assert shown(result) == shown(os.fstat(file.fileno()))
    assert errno_of(backend, Op.statx(tmp_path / "missing")) == "ENOENT"


def test_names_come_and_go(backend: IoBackend, tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    assert run(backend, Op.mkdirat(directory, 0o700)) == 0
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    one, two, three = (directory / name for name in ("one", "two", "three"))
    one.write_text("content")
    assert run(backend, Op.linkat(one, two)) == 0
    assert two.stat().st_ino == one.stat().st_ino
    assert run(backend, Op.renameat(two, three)) == 0
    assert not two.exists()
    assert three.read_text() == "content"
    assert run(backend, Op.symlinkat("one", two)) == 0
    assert os.readlink(two) == "one"
    assert errno_of(backend, Op.unlinkat(directory, 0x200)) == "ENOTEMPTY"
    for path in (one, two, three):
        assert run(backend, Op.unlinkat(path)) == 0
    assert errno_of(backend, Op.unlinkat(directory)) == "EISDIR"
    assert run(backend, Op.unlinkat(directory, 0x200)) == 0
    assert not directory.exists()


def test_errors_of_names(backend: IoBackend, tmp_path: Path) -> None:
    taken, missing = tmp_path / "taken", tmp_path / "missing"
    taken.touch()
    for op, expected in (
        (Op.mkdirat(taken), "EEXIST"),
        (Op.mkdirat(missing / "below"), "ENOENT"),
        (Op.linkat(missing, tmp_path / "new"), "ENOENT"),
        (Op.linkat(taken, taken), "EEXIST"),
        (Op.symlinkat("anything", taken), "EEXIST"),
        (Op.renameat(missing, taken), "ENOENT"),
        (Op.renameat(taken, missing / "below"), "ENOENT"),
        (Op.renameat(taken, taken, 1), "EEXIST"),
        (Op.unlinkat(missing), "ENOENT"),
        (Op.unlinkat(taken, 0x200), "ENOTDIR"),
    ):
        assert errno_of(backend, op) == expected, op
    done = complete(backend, Op.renameat(missing, taken))
    assert done.error is not None
    assert (done.error.filename, done.error.filename2) == (str(missing), str(taken))


def test_names_relative_to_directories(backend: IoBackend, tmp_path: Path) -> None:
    left, right = tmp_path / "left", tmp_path / "right"
    left.mkdir()
    right.mkdir()
    (left / "file").touch()
    here, there = (os.open(path, os.O_RDONLY) for path in (left, right))
    try:
        both = {"source_dir_fd": here, "target_dir_fd": there}
        assert run(backend, Op.linkat("file", "linked", **both)) == 0
        assert run(backend, Op.renameat("file", "moved", **both)) == 0
        assert run(backend, Op.mkdirat("made", dir_fd=there)) == 0
        assert run(backend, Op.symlinkat("x", "symbolic", dir_fd=there)) == 0
        assert sorted(os.listdir(right)) == ["linked", "made", "moved", "symbolic"]
        assert run(backend, Op.unlinkat("made", 0x200, dir_fd=there)) == 0
        assert run(backend, Op.unlinkat("moved", dir_fd=there)) == 0
        assert sorted(os.listdir(right)) == ["linked", "symbolic"]
        assert os.listdir(left) == []
    finally:
        os.close(here)
        os.close(there)


def test_odd_names(backend: IoBackend, tmp_path: Path) -> None:
    for name in (b"\xff\xfe", "\u00e9\u4e2d".encode(), b"with space\n", b"x" * 255):
        path = os.path.join(os.fsencode(tmp_path), name)
        os.close(run(backend, Op.openat(path, os.O_CREAT | os.O_WRONLY)))
        assert name in os.listdir(os.fsencode(tmp_path))
        assert run(backend, Op.unlinkat(os.fsdecode(path))) == 0


def test_a_file_operation_does_not_hold_up_a_socket(
    backend: IoBackend, pipe: tuple[int, int]
) -> None:
    """A FIFO that nobody has opened for writing: opening it waits, the others do not."""
    read_end, write_end = pipe
    op_id = submit(backend, Op.read(read_end, 10))
    backend.push(1, Op.write(write_end, b"x"))
    done = collect(backend, [1, op_id])
    assert done[op_id].result == b"x"


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 64 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    if os.getuid() != 0:
        pytest.skip("needs root, to mount a tmpfs")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("flags", [0, os.O_APPEND], ids=["plain", "append"])
def test_a_short_write_moves_the_position(backend: IoBackend, tiny: Path, flags: int) -> None:
    """io_uring forgets to, when an error ended the write; the next would go over it again."""
    fd = os.open(tiny / "file", os.O_RDWR | os.O_CREAT | flags)
    try:
        written = 0
        for _ in range(13):
            written += run(backend, Op.write(fd, bytes(5000)))
        assert written == 65000
        assert run(backend, Op.write(fd, b"x" * 5000)) == 536
        assert os.lseek(fd, 0, os.SEEK_CUR) == 65536
        assert errno_of(backend, Op.write(fd, b"y")) == "ENOSPC"
        assert os.pread(fd, 600, 65000) == b"x" * 536
    finally:
        os.close(fd)
