"""Echo at few and many connections, of small and large messages."""

from __future__ import annotations

from .._lab import CPU, Lab, Result
from .._servers import EPOLL, STOCK, URING

TITLE = "echo at 10 to 2,000 connections, 64 B to 100 KiB"
ROWS = ("4",)
_CONNECTIONS = (10, 500, 2000)
_SIZES = {"64 B": 64, "16 KiB": 16 << 10, "100 KiB": 100 << 10}
_SECONDS = 0.5
"""At least: 2,000 answers of 100 KiB take their time."""
STEPS = len(_CONNECTIONS) * len(_SIZES)


def measure(lab: Lab) -> Result:
    result = Result()
    with lab.servers([URING, EPOLL, STOCK]) as servers:
        for connections in _CONNECTIONS:
            for label, size in _SIZES.items():
                setting = f"echo of {label}, {connections:,} connections"
                result.measurements += lab.loads(
                    setting,
                    servers,
                    connections=connections,
                    message_bytes=size,
                    seconds=max(lab.seconds, _SECONDS),
                )
                result.compare("4", setting, URING, STOCK, CPU, 0.65)
                result.compare("4", setting, EPOLL, STOCK, CPU)
    return result
