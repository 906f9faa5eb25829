"""Losses on purpose, for ``tools/soak.py --self-test``: what the soak would have to find if
trio-lio had such a mistake. Each is made where completions come in, below all that is checked.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

from trio_lio._manager import KIND_RECEIVE, LioIOManager

# Not each time: a run should have come some way.
EVERY = 50
# Far more than MEMORY_ALLOWED in the second that the shortest run takes.
LEAKED, LEAKED_EVERY = b"x" * (1 << 19), 0.01

Record = list[int]  # number, result, offset of the data in the pool, detail
Spoil = Callable[[LioIOManager, Record], Sequence[int]]


def _lost_byte(manager: LioIOManager, record: Record) -> Sequence[int]:
    record[1] -= 1
    return record


def _swapped_bytes(manager: LioIOManager, record: Record) -> Sequence[int]:
    first, second = record[2], record[2] + record[1] - 1
    pool = manager.pool
    pool[first], pool[second] = pool[second], pool[first]
    return record


def _lost_completion(manager: LioIOManager, record: Record) -> Sequence[int]:
    return ()  # its task sleeps for ever


def _leaked_descriptor(manager: LioIOManager, record: Record) -> Sequence[int]:
    os.dup(0)
    return record


_kept: list[bytearray] = []


def _leaked_memory(manager: LioIOManager, record: Record) -> Sequence[int]:
    if time.monotonic() > LEAKED_EVERY * len(_kept) + _began:
        _kept.append(bytearray(LEAKED))
    return record


_began = time.monotonic()

# What the soak has to say of each.
LOSSES: dict[str, tuple[Spoil, int, str]] = {
    "byte": (_lost_byte, EVERY, "written, first difference at"),
    "order": (_swapped_bytes, EVERY, "written, first difference at"),
    "completion": (_lost_completion, EVERY, "hung"),
    "descriptor": (_leaked_descriptor, EVERY, "descriptors left open"),
    "memory": (_leaked_memory, 1, "resident memory grew"),
}


@contextlib.contextmanager
def losing(kind: str | None) -> Iterator[None]:
    """Spoils receives in this process as long as the block lasts."""
    if kind is None:
        yield
        return
    spoil, every, _ = LOSSES[kind]
    original = LioIOManager.process_events
    seen = 0

    def process_events(self: Any, events: Sequence[int]) -> None:
        nonlocal seen
        kept: list[int] = []
        for at in range(0, len(events) - len(events) % 4, 4):
            record = list(events[at : at + 4])
            number, result, data, _ = record
            if number >= 0 and data >= 0 and result > 1:
                seen += self.operations[number].kind == KIND_RECEIVE
                if seen >= every:
                    seen = 0
                    kept += spoil(self, record)
                    continue
            kept += record
        original(self, kept)

    with mock.patch.object(LioIOManager, "process_events", process_events):
        yield
