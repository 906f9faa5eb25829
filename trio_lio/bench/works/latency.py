"""Latency at half of what stock Trio can do: the same load for everybody."""

from __future__ import annotations

from .._lab import CPU, P50, P99, Lab, Result
from .._servers import EPOLL, STOCK, URING, UVLOOP

TITLE = "latency of 1 KiB on 50 connections at half of stock Trio's capacity"
ROWS = ("13",)
STEPS = 1
SETTING = "50 connections, half load"
_SECONDS = 1.0
"""At least: a 99th percentile wants many requests."""


def measure(lab: Lab) -> Result:
    result = Result()
    with lab.servers([URING, EPOLL, STOCK, UVLOOP]) as servers:
        [stock] = [server for server in servers if server.name == STOCK]
        capacity = lab.load(stock, "capacity", connections=50, message_bytes=1024).rate
        result.measurements += lab.loads(
            SETTING,
            servers,
            connections=50,
            message_bytes=1024,
            rate=round(capacity / 2),
            seconds=max(lab.seconds, _SECONDS),
        )
    for subject in (URING, EPOLL):
        result.compare("13", SETTING, subject, STOCK, P99, 1.0 if subject == URING else None)
        result.compare("13", SETTING, subject, STOCK, P50)
        result.compare("13", SETTING, subject, STOCK, CPU)
    return result
