"""Soak: mixed traffic under cancels and faults for as long as asked for; at the end nothing
may be missing::

    python3 tools/soak.py --minutes 30

Every backend runs in a process of its own, all at the same time, one run of Trio after the
other. Each run moves data whose every byte is known through sockets, datagrams, pipes, files
and processes, while calls are cancelled at random, signals come in, connections are delayed,
cut into small pieces and reset; every second run with `trio_lio.testing.faults` laid over the
backend. Checked: each byte that was read against the one written, that
no call waits for ever, after every run the open descriptors, at the end the resident memory.
Exit code 0: nothing was lost.

``--self-test`` shows that the soak would see it: short soaks in which something is spoiled on
purpose (`soak_losses`), each of which has to fail and to say why, and one that has to pass.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import trio
from soak_jobs import JOBS, Book
from soak_losses import LOSSES, losing

import trio_lio
import trio_lio.testing

RUN_SECONDS = 6.0
# No job takes a second of its own; the machine may be busy. Seconds.
JOB_PATIENCE = 120.0
WORKERS = 24
# What an allocator keeps for itself varies; a leak in some million operations is far above it.
MEMORY_ALLOWED = 24 << 20
# From then on memory should not grow: each kind of job has been run many times.
WARM_AFTER = 0.3


def open_fds() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
    return found


def resident() -> int:
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class Signals:
    """Interrupts the system calls of this process: SIGUSR1 from time to time."""

    def __init__(self, dice: random.Random) -> None:
        self.sent = 0
        self._over = threading.Event()
        self._dice = dice
        self._thread = threading.Thread(target=self._shoot)

    def _shoot(self) -> None:
        while not self._over.wait(self._dice.uniform(0.0005, 0.02)):
            os.kill(os.getpid(), signal.SIGUSR1)
            self.sent += 1

    def __enter__(self) -> Signals:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


async def one_run(book: Book, dice: random.Random, until: float, patience: float) -> None:
    async def work(dice: random.Random) -> None:
        while time.monotonic() < until:
            job = dice.choice(JOBS)
            try:
                with trio.fail_after(patience):
                    await job(book, dice)
            except trio.TooSlowError:
                raise AssertionError(f"{job.__name__} waits for ever") from None
            book.jobs[job.__name__] += 1

    async with trio.open_nursery() as nursery:
        await book.start(nursery)
        async with trio.open_nursery() as workers:
            for _ in range(WORKERS):
                workers.start_soon(work, random.Random(dice.random()))
        nursery.cancel_scope.cancel()
    book.stop()
    statistics: Any = trio.lowlevel.current_statistics().io_statistics
    book.operations += statistics.operations_completed
    book.cancelled += statistics.operations_cancelled
    book.overflows += statistics.overflows


@contextlib.contextmanager
def _faults(book: Book, backend: str, dice: random.Random | None) -> Iterator[None]:
    """With dice: faults laid over the backend, of every kind but resets, which the jobs bring
    themselves where they can bear them."""
    if dice is None:
        yield
        return
    with trio_lio.testing.faults(dice.randrange(2**32), backend=backend) as injected:
        yield
    for name, count in attrs.asdict(injected.counts).items():
        book.faults[f"injected {name.replace('_', ' ')}"] += count


def soak(backend: str, minutes: float, seed: int, patience: float) -> dict[str, Any]:
    """Soaks one backend in this process; returns what there is to tell."""
    faulthandler.enable()
    dice = random.Random(f"{backend} {seed}")
    book = Book()
    started = time.monotonic()
    end = started + minutes * 60
    runs = leaked = 0
    warm = 0
    error = ""
    with Signals(random.Random(seed)) as signals:
        before = open_fds()
        while not error and (time.monotonic() < end or runs < 2):
            faulthandler.dump_traceback_later(RUN_SECONDS + 2 * patience, exit=True)
            try:
                until = min(time.monotonic() + RUN_SECONDS, max(end, time.monotonic() + 1))
                with _faults(book, backend, dice if runs % 2 else None):
                    trio_lio.run(one_run, book, dice, until, patience, backend=backend)
            except BaseException as exc:
                import traceback

                error = "".join(traceback.format_exception(exc))
            runs += 1
            gc.collect()
            left = {fd: what for fd, what in open_fds().items() if fd not in before}
            if left and not error:
                leaked = len(left)
                error = f"descriptors left open: {left}"
            if not warm and time.monotonic() - started > WARM_AFTER * minutes * 60:
                warm = resident()
        faulthandler.cancel_dump_traceback_later()
    book.faults["signals"] += signals.sent
    growth = resident() - (warm or resident())
    if growth > MEMORY_ALLOWED and not error:
        error = f"resident memory grew by {growth >> 20} MiB"
    found = {"runs": runs, "fds_leaked": leaked, "memory_growth": growth, "error": error}
    return result(backend, seed, time.monotonic() - started, book, **found)


def result(backend: str, seed: int, seconds: float, book: Book, **found: Any) -> dict[str, Any]:
    return {
        "backend": backend,
        "seed": seed,
        "seconds": seconds,
        "jobs": dict(book.jobs),
        "operations": book.operations,
        "cancelled": book.cancelled,
        "overflows": book.overflows,
        "bytes": book.bytes,
        "faults": dict(book.faults),
        "bytes_lost": book.lost,
        **found,
    }


def show(result: dict[str, Any]) -> None:
    faults = Counter(result["faults"])
    print(f"\n{result['backend']}, seed {result['seed']}:")
    print(f"  runs {result['runs']}, jobs {sum(result['jobs'].values()):,}")
    print(f"  operations {result['operations']:,}, of them cancelled {result['cancelled']:,}")
    print(f"  bytes read and compared {result['bytes']:,}")
    print("  faults", ", ".join(f"{kind} {count:,}" for kind, count in sorted(faults.items())))
    print(f"  bytes lost {result['bytes_lost']}, descriptors leaked {result['fds_leaked']}")
    print(f"  resident memory grew by {result['memory_growth'] / 1e6:.1f} MB")
    if result["error"]:
        print(result["error"])
    failed = bool(result["error"])
    print(
        f"=== soak, {result['backend']}: {failed:d} failed, {not failed:d} passed "
        f"in {result['seconds']:.2f}s ===",
        flush=True,
    )


def self_test(backend: str, seed: int) -> int:
    """How many losses the soak did not see."""
    command = [sys.executable, __file__, "--minutes", "0.05", "--patience", "5"]
    command += ["--backend", backend, "--seed", str(seed)]
    soaks = {
        kind: subprocess.Popen(
            [*command, *(["--lose", kind] if kind else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for kind in (None, *LOSSES)
    }
    missed = 0
    for kind, child in soaks.items():
        said, _ = child.communicate()
        failed = child.returncode != 0
        as_wanted = failed and LOSSES[kind][2] in said if kind else not failed
        missed += not as_wanted
        title = f"lost on purpose: {kind}" if kind else "nothing lost"
        good, bad = ("seen", "NOT SEEN") if kind else ("passed", "FAILED")
        print(f"{title:30} {good if as_wanted else bad}")
        if not as_wanted:
            print(said)
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("::")[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="default 2")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--backend", action="append", help="default: all that run here")
    parser.add_argument("--json", type=Path, help="a file for the results")
    parser.add_argument(
        "--patience",
        type=float,
        default=JOB_PATIENCE,
        help="seconds after which a job is said to wait for ever; default 120",
    )
    parser.add_argument(
        "--self-test", action="store_true", help="only shows that losses are seen"
    )
    parser.add_argument("--lose", choices=LOSSES, help="spoils something on purpose")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with losing(options.lose):
            one = soak(options.backend[0], options.minutes, options.seed, options.patience)
        json.dump(one, sys.stdout)
        return
    backends = options.backend or [
        info.name
        for info in trio_lio.available_backends()
        if info.available and info.name != "sim"  # it has no network
    ]
    if options.self_test:
        sys.exit(self_test(backends[0], options.seed) != 0)
    print(f"soaking {', '.join(backends)} for {options.minutes:g} min, seed {options.seed}")
    command = [sys.executable, __file__, "--one", "--minutes", str(options.minutes)]
    command += ["--seed", str(options.seed), "--patience", str(options.patience)]
    command += ["--lose", options.lose] if options.lose else []
    children = [
        subprocess.Popen([*command, "--backend", name], stdout=subprocess.PIPE, text=True)
        for name in backends
    ]
    results = []
    for name, child in zip(backends, children, strict=True):
        said, _ = child.communicate()
        if child.returncode == 0:
            results.append(json.loads(said))
        else:
            error = f"the soak hung or crashed, with exit code {child.returncode}: see above"
            nothing = {"runs": 0, "fds_leaked": 0, "memory_growth": 0, "error": error}
            results.append(result(name, options.seed, 0.0, Book(), **nothing))
        show(results[-1])
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))
    sys.exit(any(result["error"] for result in results))


if __name__ == "__main__":
    main()
