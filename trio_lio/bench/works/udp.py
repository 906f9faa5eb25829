"""Echo of datagrams."""

from __future__ import annotations

from .._lab import CPU, Lab, Result
from .._servers import EPOLL, STOCK, URING

TITLE = "UDP echo of 64 B from 50 sources"
ROWS = ("12",)
STEPS = 1
SETTING = "UDP echo of 64 B, 50 sources"


def measure(lab: Lab) -> Result:
    result = Result()
    names = [URING, EPOLL, STOCK, "asyncio-protocol", "uvloop-protocol"]
    with lab.servers(names, "--work=udp") as servers:
        result.measurements += lab.loads(
            SETTING, servers, connections=50, message_bytes=64, kind="datagrams"
        )
    result.compare("12", SETTING, URING, STOCK, CPU, 0.5)
    result.compare("12", SETTING, EPOLL, STOCK, CPU)
    return result
