"""Ticks that have a runnable task and no I/O. With ``--wait`` it says a line when it is about
to begin, waits for one, and says another when it is done."""

from __future__ import annotations

import argparse
import json
import sys
import time

import trio


async def main(options: argparse.Namespace) -> None:
    checkpoint = trio.lowlevel.checkpoint
    for _ in range(1000):
        await checkpoint()
    if options.wait:
        print("ready", flush=True)
        sys.stdin.readline()
    before = time.perf_counter()
    for _ in range(options.ticks):
        await checkpoint()
    seconds = time.perf_counter() - before
    print(json.dumps({"checkpoints_per_second": options.ticks / seconds}), flush=True)
    if options.wait:
        sys.stdin.readline()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ticks", type=int, required=True)
    parser.add_argument("--wait", action="store_true")
    trio.run(main, parser.parse_args())
