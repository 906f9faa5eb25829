"""Ping-pong of 1 KiB on one connection: the server sleeps between requests, or does not."""

from __future__ import annotations

from .._lab import CPU, P50, RATE, Lab, Result
from .._servers import EPOLL, FLOOR, STOCK, URING, UVLOOP

TITLE = "ping-pong of 1 KiB on one connection"
ROWS = ("4b",)
STEPS = 1
SETTING = "1 connection, 1 KiB"


def measure(lab: Lab) -> Result:
    result = Result()
    names = [URING, EPOLL, STOCK, UVLOOP, "uvloop-protocol", FLOOR]
    with lab.servers(names) as servers:
        result.measurements += lab.loads(
            SETTING, servers, connections=1, message_bytes=1024, awake=True
        )
    for subject in (URING, EPOLL):
        result.compare("4b", SETTING, subject, STOCK, RATE, 2.0)
        result.compare("4b", SETTING, subject, STOCK, CPU, 0.7)
        result.compare("4b", SETTING, subject, STOCK, P50, 0.6)
    return result
