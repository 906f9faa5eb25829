"""Losses on purpose, for ``tools/soak.py --self-test``: what the soak would have to find if
trio-lio had such a mistake. Each is made where completions come in, below all that is checked.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from trio_lio._kinds import KIND_RECEIVE
from trio_lio._manager import LioIOManager
from trio_lio._native import ffi, lib

# Not each time: a run should have come some way.
EVERY = 50
# Far more than MEMORY_ALLOWED in the second that the shortest run takes.
LEAKED, LEAKED_EVERY = b"x" * (1 << 19), 0.01
RECORD_SIZE = ffi.sizeof("lio_completion")

Record = memoryview  # number, result, offset of the data in the pool, detail
Spoil = Callable[[LioIOManager, Record], None]


def _lost_byte(manager: LioIOManager, record: Record) -> None:
    record[1] -= 1


def _swapped_bytes(manager: LioIOManager, record: Record) -> None:
    first, second = record[2], record[2] + record[1] - 1
    pool = manager.pool
    pool[first], pool[second] = pool[second], pool[first]


def _lost_completion(manager: LioIOManager, record: Record) -> None:
    record[0] = -1  # a mere wake-up: its task sleeps for ever


def _leaked_descriptor(manager: LioIOManager, record: Record) -> None:
    os.dup(0)


_kept: list[bytearray] = []


def _leaked_memory(manager: LioIOManager, record: Record) -> None:
    if time.monotonic() > LEAKED_EVERY * len(_kept) + _began:
        _kept.append(bytearray(LEAKED))


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

    def process_events(self: Any, events: object) -> None:
        nonlocal seen
        memory = ffi.buffer(lib.lio_records(self.handle), self.unprocessed * RECORD_SIZE)
        records = memoryview(memory).cast("B").cast("q")
        for at in range(0, len(records), 4):
            record = records[at : at + 4]
            number, result, data, _ = record
            if number >= 0 and data >= 0 and result > 1:
                seen += self.operations[number].kind == KIND_RECEIVE
                if seen >= every:
                    seen = 0
                    spoil(self, record)
        original(self, events)

    with mock.patch.object(LioIOManager, "process_events", process_events):
        yield
