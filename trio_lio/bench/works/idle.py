"""Busy connections beside 10,000 idle ones."""

from __future__ import annotations

import resource

from .._lab import CPU, MEMORY, BenchError, Lab, Result, Server, metrics_of
from .._servers import EPOLL, STOCK, URING

TITLE = "20 busy connections beside 10,000 idle receives"
ROWS = ("11",)
STEPS = 1
_BUSY, _IDLE = 20, 10_000
SETTING = "20 busy, 10,000 idle"
_BESIDE = f"{CPU} beside the idle"


def measure(lab: Lab) -> Result:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _IDLE + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        lab.notes.append(f"row 11 was not measured: only {hard} descriptors are allowed")
        return Result()
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

    def one(name: str, title: str) -> dict[str, float]:
        # A fresh one each time: memory that was used once is not given back.
        with lab.servers([name]) as [server]:
            before = _load(lab, server, title, idle=0)
            resident = server.resident()
            after = _load(lab, server, title, idle=_IDLE)
            if server.peak() <= resident:
                raise BenchError("10,000 idle connections took no memory")
            return {
                CPU: before[CPU],
                _BESIDE: after[CPU],
                MEMORY: (server.peak() - resident) / _IDLE / 1024,
            }

    result = Result()
    result.measurements += lab.in_turn(SETTING, lab.able([URING, EPOLL, STOCK]), one)
    for name in (URING, EPOLL, STOCK):
        result.relate("11", SETTING, name, _BESIDE, CPU, 1.1 if name != STOCK else None)
    for name in (URING, EPOLL):
        result.compare("11", SETTING, name, STOCK, MEMORY, 1.0)
    return result


def _load(lab: Lab, server: Server, title: str, *, idle: int) -> dict[str, float]:
    how = {"connections": _BUSY, "message_bytes": 1024, "idle": idle}
    return metrics_of(lab.load(server, title, **how))
