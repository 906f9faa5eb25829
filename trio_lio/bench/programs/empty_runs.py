"""Empty runs on stock Trio and on trio-lio, in turn; microseconds of a run, by round."""

from __future__ import annotations

import argparse
import functools
import json
import time
from typing import TYPE_CHECKING

import trio

import trio_lio

if TYPE_CHECKING:
    from collections.abc import Callable

_RUNS = 100


async def noop() -> None:
    pass


def microseconds(run: Callable[[], object]) -> float:
    before = time.perf_counter()
    for _ in range(_RUNS):
        run()
    return (time.perf_counter() - before) / _RUNS * 1e6


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("backends", nargs="*")
    options = parser.parse_args()
    runs: dict[str, Callable[[], object]] = {"trio": functools.partial(trio.run, noop)}
    for backend in options.backends:
        runs[backend] = functools.partial(trio_lio.run, noop, backend=backend)
    for run in runs.values():
        microseconds(run)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            times[name].append(microseconds(run))
    print(json.dumps(times))
