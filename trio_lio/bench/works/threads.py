"""Echo with two threads of Python beside the loop that compute all the time."""

from __future__ import annotations

from .._lab import RATE, Lab, Result, metrics_of
from .._servers import EPOLL, STOCK, URING, UVLOOP

TITLE = "echo of 1 KiB on 50 connections beside two computing threads"
ROWS = ("14",)
STEPS = 1
SETTING = "echo of 1 KiB, 50 connections, 2 busy threads"
_SECONDS = 1.0
"""At least: each time the loop gives Python's lock away, it may wait 5 ms to have it back."""


def measure(lab: Lab) -> Result:
    def one(name: str, title: str) -> dict[str, float]:
        # One at a time: the threads of the others would go on computing.
        with lab.servers([name], "--burners=2") as [server]:
            found = metrics_of(
                lab.load(
                    server,
                    title,
                    connections=50,
                    message_bytes=1024,
                    seconds=max(lab.seconds, _SECONDS),
                )
            )
        return {RATE: found[RATE]}

    result = Result()
    names = lab.able([URING, EPOLL, STOCK, UVLOOP])
    result.measurements += lab.in_turn(SETTING, names, one)
    result.compare("14", SETTING, URING, STOCK, RATE, 2.0)
    result.compare("14", SETTING, EPOLL, STOCK, RATE)
    return result
