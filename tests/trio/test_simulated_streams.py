"""Streams in the simulated kernel's memory."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import trio
import trio._core._run
import trio.testing

import trio_lio
from trio_lio import testing
from trio_lio._native import ffi, lib
from trio_lio.testing import SimulatedStream, simulated_stream_pair

from ..common import ROUGH, pattern

on_sim = functools.partial(trio_lio.run, backend="sim")


async def make() -> tuple[SimulatedStream, SimulatedStream]:
    return simulated_stream_pair()


async def make_full() -> tuple[SimulatedStream, SimulatedStream]:
    """A pair in which nothing more can be sent, either way."""
    left, right = simulated_stream_pair()
    async with trio.open_nursery() as nursery:
        for stream in left, right:
            nursery.start_soon(stream.send_all, bytes(10_000))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return left, right


def test_streams_keep_their_rules() -> None:
    on_sim(trio.testing.check_half_closeable_stream, make, make_full)


@pytest.mark.parametrize("seed", range(3))
def test_streams_keep_their_rules_under_faults(seed: int) -> None:
    with testing.faults(seed, backend="sim", **ROUGH) as injected:
        trio.run(trio.testing.check_half_closeable_stream, make, make_full)
    assert injected.counts.total > 20


def test_no_byte_is_lost_to_a_cancel() -> None:
    async def main() -> None:
        left, right = simulated_stream_pair()
        data = pattern(50_000)
        received = bytearray()
        async with left, right, trio.open_nursery() as nursery:
            nursery.start_soon(left.send_all, data)
            while len(received) < len(data):
                with trio.CancelScope() as scope:
                    nursery.start_soon(cancel_soon, scope)
                    received += await right.receive_some(900)
        assert bytes(received) == data

    async def cancel_soon(scope: trio.CancelScope) -> None:
        await trio.lowlevel.checkpoint()
        scope.cancel()

    with testing.faults(3, backend="sim", **ROUGH):
        trio.run(main)


def test_resets() -> None:
    async def main() -> None:
        left, right = simulated_stream_pair()
        async with left, right:
            with pytest.raises(trio.BrokenResourceError):
                await left.send_all(b"x")
            with pytest.raises(trio.BrokenResourceError):
                await right.receive_some()

    with testing.faults(3, backend="sim", reset=1) as injected:
        trio.run(main)
    assert injected.counts.resets == 1


def program(seed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[Any]]:
    """A Trio program in which nothing depends on the machine, its clock included."""
    log: list[Any] = []

    async def echo(stream: SimulatedStream) -> None:
        async with stream:
            async for part in stream:
                await stream.send_all(part)

    async def client(stream: SimulatedStream, at: int) -> None:
        async with stream:
            for size in (10, 3000, 700):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send_all, pattern(size, at))
                    left = size
                    while left:
                        part = await stream.receive_some(left)
                        left -= len(part)
                        log.append((at, len(part), trio.current_time()))
                with trio.move_on_after(0.5 + 0.137 * at):  # no two at once
                    await stream.receive_some()

    async def main() -> int:
        async with trio.open_nursery() as nursery:
            for at in range(4):
                ours, theirs = simulated_stream_pair()
                nursery.start_soon(echo, theirs)
                nursery.start_soon(client, ours, at)
        stats = ffi.new("lio_stats *")
        lib.lio_get_stats(trio_lio.lowlevel._manager().handle, stats)
        return int(stats.trace)

    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    trio._core._run._r.seed(seed)
    clock = trio.testing.MockClock(autojump_threshold=0)
    with testing.faults(seed, backend="sim", **ROUGH):
        trace = trio.run(main, clock=clock)
    return trace, [(at, size, round(when - log[0][2], 6)) for at, size, when in log]


def test_same_seed_same_trio_run(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [program(seed, monkeypatch) for seed in range(5)]
    assert [program(seed, monkeypatch) for seed in range(5)] == runs
    assert len({trace for trace, _ in runs}) == 5


def test_only_on_sim() -> None:
    with pytest.raises(RuntimeError, match="of the backend 'sim', and this run is on 'epoll'"):
        trio_lio.run(make, backend="epoll")
    with pytest.raises(RuntimeError, match="not a lio run"):
        trio.run(make)
