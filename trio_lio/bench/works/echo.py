"""Echo of 1 KiB on 50 connections: everybody."""

from __future__ import annotations

from .._lab import CPU, Lab, Measurement, Result
from .._servers import ALL, EPOLL, FLOOR, STOCK, URING, UVLOOP

TITLE = "echo of 1 KiB on 50 connections"
ROWS = ("1", "2", "3", "5")
STEPS = 2
SETTING = "echo of 1 KiB, 50 connections"


def _checkpoint_cost(lab: Lab) -> float:
    """Microseconds of CPU for one bare checkpoint among 50 tasks, as cheap as it gets."""
    lab.progress.show("bare checkpoints")
    costs = [
        lab.run_program("checkpoints", backend, "--tasks", "50", "--rounds", "2000")["cpu_us"]
        for backend in (None, "uring")
        if backend is None or lab.able([URING])
    ]
    lab.progress.step(f"bare checkpoint: {min(costs):.2f} us")
    return float(min(costs))


def measure(lab: Lab) -> Result:
    result = Result()
    with lab.servers(ALL) as servers:
        result.measurements += lab.loads(SETTING, servers, connections=50, message_bytes=1024)
    checkpoint = _checkpoint_cost(lab)
    result.measurements.append(Measurement("one bare checkpoint", STOCK, {CPU: [checkpoint]}))
    result.compare("1", SETTING, URING, STOCK, CPU, 0.45)
    result.compare("2", SETTING, EPOLL, STOCK, CPU, 0.55)
    result.compare("3", SETTING, URING, UVLOOP, CPU, 0.95)
    result.compare("5", SETTING, URING, FLOOR, CPU, 1.25, plus=2 * checkpoint)
    return result
