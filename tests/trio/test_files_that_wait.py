"""Files that wait (pipes, terminals and the like), and what is lost in none: nothing."""

from __future__ import annotations

import errno
import gc
import io
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import trio_lio

from ..common import pattern
from .support import PATIENCE, open_ours, statistics

Run = Callable[..., Any]
MODES = ["rb", "wb", "ab", "r+b", "r", "w", "a", "r+"]


# -- what is no regular file -------------------------------------------------------------


def test_files_of_dev_and_proc(run: Run) -> None:
    async def main() -> None:
        async with await open_ours("/dev/zero", "rb", 0) as file:
            for size in (100_000, 1_000_000):
                many = await file.read(size)  # a device may give fewer
                assert 0 < len(many) <= size
                assert many == bytes(len(many))
        async with await open_ours("/dev/null", "r+b") as file:
            assert await file.write(bytes(100_000)) == 100_000
            assert await file.read() == b""
        async with await open_ours("/dev/full", "wb", 0) as file:
            with pytest.raises(OSError) as caught:
                await file.write(b"x")
            assert caught.value.errno == errno.ENOSPC
        async with await open_ours("/proc/self/status") as file:
            assert "Name:" in await file.read()
        async with await open_ours("/proc/self/maps", "rb") as file:
            lines = [line async for line in file]
        assert len(lines) > 10
        assert all(line.endswith(b"\n") for line in lines)

    run(main)


def test_terminal(run: Run) -> None:
    master, slave = os.openpty()

    async def main() -> None:
        async with await open_ours(slave, "w", closefd=False) as out:
            assert out.isatty()
            assert out.line_buffering
            await out.write("a line\n")
            assert os.read(master, 100) == b"a line\r\n"
        async with await open_ours(slave, "r", closefd=False) as lines:
            with trio.move_on_after(0.05):
                await lines.readline()
            os.write(master, b"typed\n")
            assert await lines.readline() == "typed\n"

    run(main)
    os.close(master)
    os.close(slave)


def test_fifo_waits_for_its_other_end_and_for_data(run: Run, fifo: Path) -> None:
    async def main() -> None:
        opened = []

        async def read() -> None:
            async with await open_ours(fifo, "rb") as file:
                opened.append(file)
                assert await file.readline() == b"one\n"
                assert await file.read() == b"two"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            assert not opened
            async with await open_ours(fifo, "wb", buffering=0) as file:
                await file.write(b"one\n")
                await trio.testing.wait_all_tasks_blocked()
                await file.write(b"two")

    run(main)


# A pipe that is not written to would keep a thread of Trio's for ever.


@pytest.mark.parametrize(
    ("mode", "method"),
    [
        *(("rb", name) for name in ("read", "readline", "read1", "peek", "readlines")),
        *(("r", name) for name in ("read", "readline", "readlines")),
    ],
)
def test_a_cancelled_read_of_a_pipe_loses_nothing(
    run: Run, both_ends: tuple[Path, int], mode: str, method: str
) -> None:
    fifo, fd = both_ends

    async def main() -> None:
        async with await open_ours(fifo, mode) as file:
            size = [] if method in ("read", "readline", "readlines", "peek") else [10]
            for part in (b"", b"be", b"gun"):
                os.write(fd, part)
                if part and method in ("read1", "peek"):
                    break
                with trio.move_on_after(0.05) as scope:
                    await getattr(file, method)(*size)
                assert scope.cancelled_caught
            os.write(fd, b" and ended\n")
            expected = (
                b"begun and ended\n" if method not in ("read1", "peek") else (b"be and ended\n")
            )
            line = await file.readline()
            assert line == (expected if "b" in mode else expected.decode())

    run(main)


@pytest.mark.parametrize("buffering", [0, 100])
def test_a_cancelled_readinto_of_a_pipe_loses_nothing(
    run: Run, both_ends: tuple[Path, int], buffering: int
) -> None:
    fifo, fd = both_ends

    async def main() -> None:
        buffer = bytearray(1000)
        async with await open_ours(fifo, "rb", buffering) as file:
            with trio.move_on_after(0.05) as scope:
                await file.readinto(buffer)
            assert scope.cancelled_caught
            os.write(fd, b"x" * 150)
            with trio.move_on_after(0.05) as scope:
                count = await file.readinto(buffer)
            if buffering:
                assert scope.cancelled_caught
                count = await file.readinto1(memoryview(buffer)[:150])
            assert buffer[:count] == b"x" * 150

    run(main)


def test_a_cancelled_read_to_the_end_of_an_unbuffered_pipe_loses_nothing(
    run: Run, both_ends: tuple[Path, int]
) -> None:
    fifo, fd = both_ends

    async def main() -> None:
        async with await open_ours(fifo, "rb", 0) as file:
            os.write(fd, b"kept")
            with trio.move_on_after(0.05) as scope:
                await file.readall()
            assert scope.cancelled_caught
            with trio.move_on_after(0.05) as scope:
                await file.readline()
            assert scope.cancelled_caught
            buffer = bytearray(3)
            assert await file.readinto(buffer) == 3
            assert bytes(buffer) + await file.read(10) == b"kept"

    run(main)


@pytest.mark.parametrize("buffering", [0, 100, 10_000])
def test_a_cancelled_write_to_a_pipe_tells_what_it_did(
    run: Run, both_ends: tuple[Path, int], buffering: int
) -> None:
    fifo, fd = both_ends
    data = pattern(300_000)

    async def main() -> None:
        taken = 0
        received = []
        async with await open_ours(fifo, "wb", buffering) as file:
            for _ in range(3):
                try:
                    with trio.fail_after(0.05):
                        taken += await file.write(data[taken:])
                except trio.TooSlowError:
                    pass
                if taken == len(data):
                    break

            async def drain() -> None:
                while sum(map(len, received)) < taken:
                    received.append(await trio.to_thread.run_sync(os.read, fd, 65536))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain)
                await file.flush()
        assert b"".join(received) == data[:taken]
        assert taken

    run(main)


def test_closing_ends_what_waits_on_a_pipe(run: Run, both_ends: tuple[Path, int]) -> None:
    fifo, _ = both_ends

    async def main() -> None:
        for buffering in (0, -1):
            file = await open_ours(fifo, "rb", buffering)

            async def read(file: Any = file) -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await file.read(10)

            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(read)
                    await trio.testing.wait_all_tasks_blocked()
                    await file.aclose()
            assert file.closed

    run(main)


def test_closing_ends_a_wait_for_the_descriptor(run: Run, both_ends: tuple[Path, int]) -> None:
    fifo, _ = both_ends

    async def main() -> None:
        file = await open_ours(fifo, "rb")

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(file.fileno())

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                await file.aclose()

    run(main)


@pytest.mark.parametrize(("mode", "buffering"), [("rb", 0), ("rb", -1), ("r", -1)])
def test_readlines_is_done_once_it_has_a_line(
    run: Run, fifo: Path, mode: str, buffering: int
) -> None:
    fd = os.open(fifo, os.O_RDWR)

    async def main() -> None:
        lines: list[Any] = []
        async with (
            await open_ours(fifo, mode, buffering) as file,
            trio.open_nursery() as nursery,
        ):

            async def read() -> None:
                lines.extend(await file.readlines())

            os.write(fd, b"one\n")
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            os.write(fd, b"two\n")
            os.close(fd)
        assert lines == ([b"one\n", b"two\n"] if "b" in mode else ["one\n", "two\n"])

    run(main)


@pytest.mark.parametrize(("mode", "buffering"), [("wb", 0), ("wb", 16)])
def test_writelines_is_done_once_it_wrote_a_line(
    run: Run, both_ends: tuple[Path, int], mode: str, buffering: int
) -> None:
    fifo, fd = both_ends
    os.set_blocking(fd, False)
    lines = [bytes([number]) * 50_000 for number in range(4)]

    async def main() -> None:
        async with (
            await open_ours(fifo, mode, buffering) as file,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(file.writelines, lines)
            await trio.testing.wait_all_tasks_blocked()  # the second is more than there is room
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                seen: set[int] = set()
                with trio.fail_after(PATIENCE):
                    while 3 not in seen:
                        seen.update(os.read(fd, 10_000))
                        await trio.testing.wait_all_tasks_blocked()
        assert seen == {0, 1, 2, 3}

    run(main)


def test_opens_of_fifos_give_back_their_places(run: Run, both_ends: tuple[Path, int]) -> None:
    async def main() -> None:
        with trio.fail_after(PATIENCE):
            for _ in range(300):
                async with await open_ours(both_ends[0], "rb"):
                    pass

    run(main)


def test_a_text_that_could_not_be_written_is_not_kept(run: Run) -> None:
    async def main() -> None:
        file = await open_ours("/dev/full", "w")
        with pytest.raises(OSError) as caught:
            await file.write("x" * (2 * io.DEFAULT_BUFFER_SIZE + 20_000))
        assert caught.value.errno == errno.ENOSPC
        await file.aclose()  # has nothing to write

    run(main)


@pytest.mark.parametrize("mode", ["rb", "wb", "a"])
def test_a_cancelled_open_of_a_fifo_ends(run: Run, fifo: Path, mode: str) -> None:
    async def main() -> None:
        for _ in range(5):
            with trio.fail_after(PATIENCE), trio.move_on_after(0.01) as scope:
                await trio_lio.open_file(fifo, mode)
            assert scope.cancelled_caught
        # Nobody waits there any more: a writer that comes finds no reader.
        with pytest.raises(OSError) as caught:
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        assert caught.value.errno == errno.ENXIO

    descriptors = len(os.listdir("/proc/self/fd"))
    run(main)
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def receive(fifo: Path, size: int, received: list[bytes]) -> None:
    """As soon as somebody has opened the other end."""
    async with await trio_lio.open_file(fifo, "rb", 0) as file:
        received.append(await file.read(size))


def test_a_cancelled_open_of_a_fifo_lets_nobody_else_in(run: Run, fifo: Path) -> None:
    """Another one who waits for the same goes on waiting."""

    async def main() -> None:
        received: list[bytes] = []
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, fifo, 3, received)
                with trio.move_on_after(0.05):
                    await trio_lio.open_file(fifo, "rb")
                await trio.sleep(0.01)
                assert not received
                async with await trio_lio.open_file(fifo, "wb") as file:
                    await file.write(b"for")
        assert received == [b"for"]

    run(main)


def test_waiting_for_fifos_holds_up_no_other_work(run: Run, fifo: Path, tmp_path: Path) -> None:
    async def main() -> None:
        received: list[bytes] = []
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(64):
                    nursery.start_soon(receive, fifo, 1, received)
                await trio.testing.wait_all_tasks_blocked()
                path = trio_lio.Path(tmp_path / "file")
                for number in range(20):
                    await path.write_text(str(number))
                    async with await trio_lio.open_file(path, "r+") as file:
                        assert await file.read() == str(number)
                        await file.fsync()
                assert not received
                async with await trio_lio.open_file(fifo, "wb", 0) as file:
                    while len(received) < 64:
                        await file.write(b"x")
                        await trio.sleep(0.001)

    run(main)


def test_a_fifo_is_opened_with_the_errors_of_open(run: Run, fifo: Path) -> None:
    async def main() -> None:
        with pytest.raises(FileExistsError) as caught:
            await trio_lio.open_file(fifo, "x")
        assert caught.value.filename == str(fifo)

    run(main)


# -- loss --------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 64 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    if os.getuid() != 0:
        pytest.skip("needs root, to mount a tmpfs")
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk_unbuffered(run: Run, tiny: Path) -> None:
    async def main() -> None:
        written = 0
        async with await open_ours(tiny / "file", "wb", 0) as file:
            with pytest.raises(OSError) as caught:
                while True:
                    written += await file.write(bytes(5000))
            assert caught.value.errno == errno.ENOSPC
        assert (tiny / "file").stat().st_size == written == 65536

    run(main)


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_full_disk_loses_nothing_that_was_taken(run: Run, tiny: Path, mode: str) -> None:
    """What a buffer holds when the disk is full is written once there is room."""

    async def main() -> None:
        filler = tiny / "filler"
        filler.write_bytes(bytes(40_000))
        taken = []
        async with await open_ours(tiny / "file", mode, buffering=5000) as file:
            for number in range(10_000):
                piece = f"{number:08}\n" * 100
                try:
                    await file.write(piece if mode == "w" else piece.encode())
                except OSError as exc:
                    assert exc.errno == errno.ENOSPC
                    break
                taken.append(piece)
            with pytest.raises(OSError) as caught:
                await file.flush()
            assert caught.value.errno == errno.ENOSPC
            filler.unlink()
        assert (tiny / "file").read_text() == "".join(taken)

    run(main)


def test_full_disk_when_closing(run: Run, tiny: Path) -> None:
    async def main() -> None:
        (tiny / "filler").write_bytes(bytes(65536))
        file = await open_ours(tiny / "file", "w")
        await file.write("x" * 5000)
        with pytest.raises(OSError) as caught:
            await file.aclose()
        assert caught.value.errno == errno.ENOSPC
        assert file.closed

    run(main)


def test_aclose_writes_and_closes_when_cancelled(run: Run, path: Path) -> None:
    async def main() -> None:
        file = await open_ours(path, "w")
        await file.write("kept")
        fd = file.fileno()
        with trio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(trio.Cancelled):
                await file.aclose()
        assert file.closed
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

    run(main)
    assert path.read_text() == "kept"


def test_a_closed_number_does_not_reach_another_file(
    run: Run, path: Path, tmp_path: Path
) -> None:
    """The number names another file before the loop has turned once."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")

    class Thief(trio.abc.Instrument):
        fd = -1

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            if self.fd >= 0:
                other = os.open(victim, os.O_RDWR)
                os.dup2(other, self.fd)
                os.close(other)
                self.fd = -1

    async def main() -> None:
        file = await open_ours(path, "wb", 0)
        thief = Thief()
        trio.lowlevel.add_instrument(thief)
        thief.fd = file.fileno()
        written = b"mine"
        try:
            await file.write(written)
        except OSError as exc:  # a thread that came too late found another file
            assert exc.errno == errno.EBADF
            written = b""
        trio.lowlevel.remove_instrument(thief)
        await file.aclose()
        assert path.read_bytes() == written

    run(main)
    assert victim.read_bytes() == b"untouched"


def test_fsync_reaches_the_kernel(run: Run, path: Path) -> None:
    async def main() -> None:
        async with await open_ours(path, "w") as file:
            await file.write("synced")
            before = statistics().operations_completed
            await file.fsync()
            assert statistics().operations_completed - before >= 2
            assert path.read_text() == "synced"
        async with await open_ours("/proc/self/status") as file:
            with pytest.raises(OSError) as caught:
                await file.fsync()
            assert caught.value.errno == errno.EINVAL

    run(main)


def test_no_thread_takes_part(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"in a thread: {args}")

    async def main() -> None:
        monkeypatch.setattr(trio.to_thread, "run_sync", forbidden)
        async with await trio.open_file(path, "r+") as file:
            assert len([line async for line in file]) == 3
            await file.seek(0, os.SEEK_END)
            await file.write("fourth\n")
            await file.flush()
            await file.seek(0)
            await file.truncate(5)
            assert await file.read() == "first"
        place = trio.Path(path.parent)
        await (place / "a" / "b").mkdir(parents=True)
        await (place / "a" / "new").touch()
        await (place / "a" / "new").write_text("x")
        assert await (place / "a" / "new").read_bytes() == b"x"
        await (place / "a" / "new").rename(place / "moved")
        await (place / "linked").symlink_to("moved")
        await (place / "hard").hardlink_to(place / "moved")
        assert await (place / "linked").is_symlink()
        assert (await (place / "hard").stat()).st_nlink == 2
        await (place / "moved").unlink()
        assert not await (place / "linked").exists()
        await (place / "a" / "b").rmdir()

    run(main, restrict_keyboard_interrupt_to_checkpoints=False)


def test_the_file_object_is_collected_at_the_end(run: Run, path: Path) -> None:
    async def main() -> None:
        async with await open_ours(path) as file:
            await file.read(1)
        del file

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main)
        gc.collect()
