"""20,000 ticks that have runnable tasks and no I/O."""

from __future__ import annotations

from .._lab import CHECKPOINTS, SYSCALLS_TOTAL, Lab, Result
from .._servers import EPOLL, KINDS, STOCK, URING

TITLE = "20,000 ticks without I/O"
ROWS = ("7",)
STEPS = 1
SETTING = "20,000 ticks"


def measure(lab: Lab) -> Result:
    result = Result()

    def one(name: str, title: str) -> dict[str, float]:
        lab.progress.show(f"{title}  {KINDS[name].label}")
        found = lab.run_program("ticks", KINDS[name].backend, "--ticks", "20000")
        # The program prints between the two counts, and waits for the count to begin.
        calls = lab.count_of_program("ticks", KINDS[name].backend, "--ticks", "20000")
        metrics = {CHECKPOINTS: float(found["checkpoints_per_second"])}
        if calls is not None:
            metrics[SYSCALLS_TOTAL] = float(calls)
        return metrics

    names = lab.able([URING, EPOLL, STOCK])
    result.measurements += lab.in_turn(SETTING, names, one)
    result.state("7", SETTING, URING, SYSCALLS_TOTAL, 50)
    result.state("7", SETTING, EPOLL, SYSCALLS_TOTAL)
    result.state("7", SETTING, STOCK, SYSCALLS_TOTAL)
    result.compare("7", SETTING, URING, STOCK, CHECKPOINTS, 1.0)
    result.compare("7", SETTING, EPOLL, STOCK, CHECKPOINTS)
    return result
