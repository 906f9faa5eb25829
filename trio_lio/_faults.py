"""Faults on purpose: what they are, which runs get them, what was injected.

Knows neither Trio nor the native core: `_native` hands them down, `testing` is for users.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import attrs

__all__ = ["FaultCounts", "Faults", "Injected", "current", "enter", "leave"]


def _chance(instance: object, field: attrs.Attribute[float], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{field.name} must be a number, not {type(value).__name__}")
    if not 0 <= value <= 1:
        raise ValueError(f"{field.name} is a chance, from 0 to 1, not {value}")


def _rare(instance: object, field: attrs.Attribute[float], value: float) -> None:
    _chance(instance, field, value)
    if value == 1:
        raise ValueError(
            f"{field.name} must be below 1: a wait that always ends by a signal is none"
        )


def _seed(instance: object, field: attrs.Attribute[int], value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"seed must be an int, not {type(value).__name__}")
    if not 0 <= value < 2**64:
        raise ValueError(f"seed must be 0 to 2**64 - 1, not {value}")


def _seconds(instance: object, field: attrs.Attribute[float], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{field.name} must be a number, not {type(value).__name__}")
    if not (math.isfinite(value) and 0 <= value <= 3600):
        raise ValueError(f"{field.name} must be 0 to 3600 seconds, not {value}")


@attrs.frozen(kw_only=True)
class Faults:
    """What goes wrong on purpose, and how often. All but two are chances, from 0 to 1.

    Whatever goes wrong stays within what a kernel may do: no byte is lost, doubled or moved,
    no datagram cut, and every operation completes once.
    """

    seed: int = attrs.field(default=0, validator=_seed)
    """0 to 2**64 - 1: the same seed decides alike for the same operations."""
    short_io: float = attrs.field(default=0.2, validator=_chance)
    """Of a receive, send, read or write on a stream, pipe or file: it moves less than it
    could, often only a few bytes. Of a ``send_all``: it goes out in parts."""
    reset: float = attrs.field(default=0.0, validator=_chance)
    """Of a receive or send on a connection: the connection is reset before it. What had
    arrived is still read, then there is one ECONNRESET (on Windows nothing more is read, and
    every operation has it)."""
    delay: float = attrs.field(default=0.2, validator=_chance)
    """Of a completion: it comes later, after others."""
    cancel_race: float = attrs.field(default=0.3, validator=_chance)
    """Of a cancel: it comes late, so that the operation may complete before it. And of an
    operation: it begins late, so that a cancel may come before, and then it has no effect
    though it could have had its result at once."""
    interrupt: float = attrs.field(default=0.05, validator=_rare)
    """Of a wait: it ends as if by a signal. Below 1."""
    overflow: float = attrs.field(default=0.1, validator=_chance)
    """Of a wait that brings several completions: it brings one, the others come next time."""
    queue_full: float = attrs.field(default=0.1, validator=_chance)
    """Of a hand-over of operations: the kernel's queue takes only the first of them or none,
    the others go with the next."""
    latency: float = attrs.field(default=0.0, validator=_seconds)
    """Seconds of real time, at most, that a delay lasts. 0: only until others had their turn,
    which takes no time."""

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in attrs.asdict(self).items())


@attrs.frozen
class FaultCounts:
    """Faults that were injected, by kind."""

    short_ios: int = 0
    resets: int = 0
    delays: int = 0
    cancel_races: int = 0
    interrupts: int = 0
    overflows: int = 0
    queue_fulls: int = 0

    @property
    def total(self) -> int:
        return sum(attrs.astuple(self))

    @classmethod
    def of(cls, stats: Any) -> FaultCounts:
        """What a ``lio_stats`` says of them."""
        return cls(*(int(getattr(stats, field.name)) for field in attrs.fields(cls)))

    def __add__(self, other: FaultCounts) -> FaultCounts:
        pairs = zip(attrs.astuple(self), attrs.astuple(other), strict=True)
        return FaultCounts(*(one + another for one, another in pairs))

    def __str__(self) -> str:
        parts = [f"{n} {name.replace('_', ' ')}" for name, n in attrs.asdict(self).items() if n]
        return ", ".join(parts) or "none"


@attrs.define(eq=False)
class Injected:
    """The faults of a block, and what came of them: see `trio_lio.testing.faults`."""

    settings: Faults
    runs: int = 0
    """Runs that began in the block."""
    _counts: FaultCounts = attrs.Factory(FaultCounts)
    _under_way: set[Callable[[], FaultCounts]] = attrs.Factory(set)
    _lock: Any = attrs.Factory(threading.Lock)

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def counts(self) -> FaultCounts:
        """What was injected so far, in all runs of the block."""
        with self._lock:
            return sum((count() for count in self._under_way), self._counts)

    def begin_run(self, count: Callable[[], FaultCounts]) -> None:
        """``count`` tells what this run has had so far."""
        with self._lock:
            self.runs += 1
            self._under_way.add(count)

    def end_run(self, count: Callable[[], FaultCounts]) -> None:
        with self._lock:
            self._under_way.discard(count)
            self._counts += count()


# No lock: each of these is one step of a list's, and an interrupt leaves nothing behind.
_blocks: list[Injected] = []


def enter(injected: Injected) -> None:
    """From now on runs that begin, in whichever thread, have these faults."""
    _blocks.append(injected)


def leave(injected: Injected) -> None:
    _blocks.remove(injected)


def current() -> Injected | None:
    """The faults that a run which begins now is to have."""
    last = _blocks[-1:]
    return last[0] if last else None
