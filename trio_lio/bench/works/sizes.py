"""Echo at few and many connections, of small and large messages."""

from __future__ import annotations

from .._lab import CPU, Lab, Result
from .._servers import EPOLL, STOCK, URING

TITLE = "echo at 10 to 2,000 connections, 64 B to 100 KiB"
ROWS = ("4",)
_CONNECTIONS = (10, 500, 2000)
_SIZES = {"64 B": 64, "16 KiB": 16 << 10, "100 KiB": 100 << 10}
STEPS = len(_CONNECTIONS) * len(_SIZES)


def measure(lab: Lab) -> Result:
    result = Result()
    with lab.servers([URING, EPOLL, STOCK]) as servers:
        for connections in _CONNECTIONS:
            for label, size in _SIZES.items():
                setting = f"{connections:,} connections, {label}"
                result.measurements += lab.loads(
                    setting, servers, connections=connections, message_bytes=size
                )
                result.compare("4", setting, URING, STOCK, CPU, 0.65)
                result.compare("4", setting, EPOLL, STOCK, CPU)
    return result
