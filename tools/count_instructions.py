"""Counts the instructions of fixed work, which no noise can change, and compares them with
stored figures.

The work is that of fixed_work.py, under valgrind's callgrind, on each backend and on stock
Trio. A figure is the ratio to stock Trio's count in the same Python: what the compiler and
the version of Python do to both sides cancels out for the most part. Exit code 1: a count
has grown by more than the tolerance.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import trio

import trio_lio

HERE = Path(__file__).resolve().parent
STORED = HERE / "instructions.json"
TOLERANCE = 0.03
PATIENCE = 900

sys.path.insert(0, str(HERE))
from fixed_work import COUNT, MARK, WORKS  # noqa: E402


def count(backend: str, folder: Path) -> dict[str, int]:
    """Instructions of each kind of work, one by one."""
    out = folder / backend
    command = [
        *("valgrind", "--tool=callgrind", f"--dump-before={MARK}"),
        *(f"--callgrind-out-file={out}", sys.executable, str(HERE / "fixed_work.py"), backend),
    ]
    # Waits that watch the clock, and sets in another order, would count otherwise.
    env = {**os.environ, "PYTHONHASHSEED": "0", "TRIO_LIO_SPIN": "0"}
    env.pop("TRIO_LIO_BACKEND", None)
    done = subprocess.run(
        command,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=PATIENCE,
    )
    if done.returncode != 0:
        sys.exit(f"count_instructions: {backend} failed under valgrind:\n{done.stdout}")
    counts = {}
    for number, work in enumerate(WORKS):
        # Dumps before and after each kind of work, numbered from 1.
        text = Path(f"{out}.{2 * number + 2}").read_text()
        total = re.search(r"^totals: (\d+)", text, re.MULTILINE)
        assert total is not None
        counts[work] = int(total[1]) // COUNT
    return counts


def count_all(backends: list[str]) -> dict[str, dict[str, int]]:
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda backend: count(backend, Path(scratch)), backends)
        return dict(zip(backends, found, strict=True))


def load() -> dict[str, dict[str, dict[str, float]]]:
    stored: dict[str, dict[str, dict[str, float]]] = {}
    if STORED.exists():
        stored = json.loads(STORED.read_text())
    return stored


def judge(figure: float, stored: float | None) -> tuple[bool, str]:
    """Whether it is all right, and what to say of it."""
    if stored is None:
        return True, "no stored figure"
    change = f"{figure / stored - 1:+.1%} of the stored {stored:.3f}"
    if figure > stored * (1 + TOLERANCE):
        return False, f"{change}: GROWN by more than {TOLERANCE:.0%}"
    if figure < stored * (1 - TOLERANCE):
        return True, f"{change}: less; --store it, lest it grows again unseen"
    return True, change


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--store", action="store_true", help="keep these figures")
    parser.add_argument("backends", nargs="*", help="default: all that run here")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("count_instructions: there is no valgrind: apt-get install valgrind libc6-dbg")
    able = [info.name for info in trio_lio.available_backends() if info.available]
    backends = options.backends or able
    counts = count_all(["stock", *backends])
    python = f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}"
    key = f"{python} trio-{trio.__version__}"
    stored = load()
    known = stored.get(key, {})
    failed = False
    print(f"Instructions of one {', '.join(WORKS)}; {key}")
    for backend in backends:
        for work in WORKS:
            mine, stock = counts[backend][work], counts["stock"][work]
            figure = mine / stock
            good, words = judge(figure, known.get(backend, {}).get(work))
            failed = failed or not good
            print(f"  {backend:<6} {work:<11}{mine:>9,} / {stock:>7,} = {figure:.3f}  {words}")
            if options.store:
                known.setdefault(backend, {})[work] = round(figure, 4)
    if options.store:
        stored[key] = known
        STORED.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n")
        print(f"stored in {STORED.name}")
    elif key not in stored:
        print(
            f"There are no figures for {key}: nothing was compared. Known: {', '.join(stored)}"
        )
    sys.exit(failed and not options.store)


if __name__ == "__main__":
    main()
