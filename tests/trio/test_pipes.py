"""trio.lowlevel.FdStream and the pipes of processes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import trio_lio

from ..common import pattern
from .support import PATIENCE, statistics

Run = Callable[..., Any]


def pipe() -> tuple[trio.lowlevel.FdStream, trio.lowlevel.FdStream]:
    reader, writer = os.pipe()
    return trio.lowlevel.FdStream(writer), trio.lowlevel.FdStream(reader)


def fill(fd: int) -> int:
    total = 0
    try:
        while True:
            total += os.write(fd, bytes(65536))
    except BlockingIOError:
        return total


def test_trios_own_tests_of_a_stream(run: Run) -> None:
    async def made() -> Any:
        return pipe()

    async def clogged() -> Any:
        sender, receiver = pipe()
        fill(sender.fileno())
        return sender, receiver

    run(trio.testing.check_one_way_stream, made, clogged)


def test_they_are_operations_in_runs_with_files(run: Run) -> None:
    async def main() -> int:
        sender, receiver = pipe()
        async with sender, receiver:
            before = statistics().operations_pushed
            await sender.send_all(b"x")
            assert await receiver.receive_some() == b"x"
            pushed: int = statistics().operations_pushed - before
        return pushed

    assert run(main) >= 2
    assert run(main, files=False) <= 1  # nothing had to wait but Trio's own wake-up


@pytest.mark.parametrize("max_bytes", [1, 1000, None, 2**30])
def test_sizes(run: Run, max_bytes: int | None) -> None:
    data = pattern(300_001)

    async def main() -> None:
        sender, receiver = pipe()
        received = bytearray()

        async def receive() -> None:
            while part := await receiver.receive_some(max_bytes):
                assert len(part) <= (max_bytes or 65536)
                received.extend(part)

        kind = data[:2000] if max_bytes == 1 else memoryview(data)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await sender.send_all(kind)
            await sender.aclose()
        assert received == bytes(kind)
        await receiver.aclose()

    run(main)


def test_wrong_arguments_and_conflicts_are_trios(run: Run) -> None:
    async def main() -> None:
        sender, receiver = pipe()
        async with sender, receiver:
            for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
                with pytest.raises(error):
                    await receiver.receive_some(wrong)  # type: ignore[arg-type]
            for nothing in ("text", 5, memoryview(b"abcd")[::2]):
                with pytest.raises((TypeError, BufferError)):
                    await sender.send_all(nothing)  # type: ignore[arg-type]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receiver.receive_some)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await receiver.receive_some()
                await sender.send_all(b"x")
        for call in receiver.receive_some, lambda: sender.send_all(b"x"):
            with pytest.raises(trio.ClosedResourceError), trio.testing.assert_checkpoints():
                await call()

    run(main)


def test_closing_ends_both_directions(run: Run) -> None:
    async def main() -> None:
        for side in (0, 1):
            sender, receiver = pipe()
            fill(sender.fileno())
            if side == 1:
                os.read(receiver.fileno(), 1 << 20)

            async def use(stream: Any) -> None:
                call = stream.receive_some() if side else stream.send_all(b"x")
                with pytest.raises(trio.ClosedResourceError):
                    await call

            stream = (sender, receiver)[side]
            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(use, stream)
                    await trio.testing.wait_all_tasks_blocked()
                    await stream.aclose()
            await sender.aclose()
            await receiver.aclose()

    run(main)


@pytest.mark.parametrize("side", ["receives", "sends"])
def test_closed_between_its_wake_up_and_its_turn(run: Run, side: str) -> None:
    """What Trio's own tests try by the manager's waits: the call succeeds or says that the
    stream is closed, and whoever gets the number next is left alone."""

    async def use(stream: trio.lowlevel.FdStream, found: list[Any]) -> None:
        try:
            if side == "receives":
                found.append(await stream.receive_some(10))
            else:
                found.append(await stream.send_all(bytes(100)))
        except trio.ClosedResourceError:
            found.append("closed")

    async def main() -> None:
        for _ in range(10):
            sender, receiver = pipe()
            found: list[Any] = []
            if side == "sends":
                fill(sender.fileno())
            used, other = (receiver, sender) if side == "receives" else (sender, receiver)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(use, used, found)
                await trio.testing.wait_all_tasks_blocked()
                number = used.fileno()
                if side == "receives":
                    os.write(sender.fileno(), b"x")
                else:
                    os.read(receiver.fileno(), 1 << 20)
                used.close()
                theirs, ours = os.pipe()
                os.set_blocking(theirs, False)
                assert number in (theirs, ours)
            assert found in ([b"x" if side == "receives" else None], ["closed"])
            with pytest.raises(BlockingIOError):
                os.read(theirs, 1)
            os.close(theirs)
            os.close(ours)
            await other.aclose()

    run(main)


def test_a_broken_pipe_is_told_and_kills_nobody(run: Run) -> None:
    async def main() -> None:
        sender, receiver = pipe()
        await receiver.aclose()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await sender.send_all(b"x")
        assert isinstance(caught.value.__cause__, BrokenPipeError)
        assert caught.value.__cause__.errno == errno.EPIPE
        await sender.aclose()

    run(main)


def test_cancelled_receives_lose_nothing(run: Run) -> None:
    data = pattern(20_000)

    async def main() -> None:
        sender, receiver = pipe()
        received = bytearray()
        with trio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(trio.Cancelled):
                await sender.send_all(b"never")

        async def receive() -> None:
            while True:
                with trio.move_on_after(0.0005):
                    part = await receiver.receive_some(100)
                    received.extend(part)
                    if not part:
                        return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for at in range(0, len(data), 100):
                await sender.send_all(data[at : at + 100])
                await trio.sleep(0.0003)
            await sender.aclose()
        assert received == data
        await receiver.aclose()

    run(main)


def test_processes(run: Run) -> None:
    data = pattern(3_000_000)

    async def main() -> None:
        done = await trio.run_process(["cat"], stdin=data, capture_stdout=True)
        assert done.stdout == data
        done = await trio.run_process(
            [sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"],
            capture_stdout=True,
            capture_stderr=True,
        )
        assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
        process = await trio.lowlevel.open_process(["sleep", "60"], stdin=-1)
        with trio.move_on_after(0.05):
            await process.wait()
        process.kill()
        assert await process.wait() == -9
        assert process.stdin is not None
        await process.stdin.aclose()
        with trio.fail_after(PATIENCE):
            with trio.move_on_after(0.1):
                await trio.run_process(["sleep", "60"])

    run(main)


def test_standard_input_of_a_program(run: Run) -> None:
    """A terminal's or a pipe's, whichever it is: here, a pipe to a new process."""
    backend = run.keywords["backend"]  # type: ignore[attr-defined]
    program = (
        "import os, sys, trio, trio_lio\n"
        "async def main():\n"
        "    stdin = await trio_lio.open_file(0, closefd=False)\n"
        "    stdout = await trio_lio.open_file(1, 'w', closefd=False)\n"
        "    async for line in stdin:\n"
        "        await stdout.write(line.upper())\n"
        "        await stdout.flush()\n"
        f"trio_lio.run(main, backend={backend!r})\n"
    )

    async def main() -> None:
        done = await trio.run_process(
            [sys.executable, "-c", program], stdin=b"one\ntwo", capture_stdout=True
        )
        assert done.stdout == b"ONE\nTWO"

    run(main)


def test_a_regular_file_in_a_stream(run: Run, tmp_path: Any) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        async with trio.lowlevel.FdStream(os.open(path, os.O_CREAT | os.O_RDWR)) as stream:
            await stream.send_all(b"some content")
            os.lseek(stream.fileno(), 5, os.SEEK_SET)
            assert await stream.receive_some() == b"content"
            assert await stream.receive_some() == b""

    run(main)


def test_outside_a_lio_run_it_is_trios(run: Run) -> None:
    async def main() -> None:
        sender, receiver = pipe()
        async with sender, receiver:
            await sender.send_all(b"x")
            assert await receiver.receive_some() == b"x"

    with trio_lio.installed(files=False):
        trio.run(main)
    trio.run(main)
    run(main)


def test_a_descriptor_closed_behind_a_streams_back(run: Run) -> None:
    async def main() -> None:
        sender, receiver = pipe()
        for fd in sender.fileno(), receiver.fileno():
            os.close(fd)
        with pytest.raises(trio.ClosedResourceError):
            await receiver.receive_some(1)
        with pytest.raises(trio.ClosedResourceError):
            await sender.send_all(b"x")
        for stream in sender, receiver:
            stream._fd_holder.fd = -1  # nothing is left to close

    run(main)
