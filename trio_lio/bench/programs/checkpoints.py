"""What a bare checkpoint costs: tasks that do nothing else."""

from __future__ import annotations

import argparse
import json
import time

import trio


async def main(options: argparse.Namespace) -> None:
    checkpoint = trio.lowlevel.cancel_shielded_checkpoint

    async def task() -> None:
        for _ in range(options.rounds):
            await checkpoint()

    before = time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(options.tasks):
            nursery.start_soon(task)
    cpu = time.process_time() - before
    print(json.dumps({"cpu_us": cpu / options.tasks / options.rounds * 1e6}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    trio.run(main, parser.parse_args())
