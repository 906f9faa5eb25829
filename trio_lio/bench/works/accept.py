"""Accept, one exchange, close."""

from __future__ import annotations

from .._lab import CPU, RATE, Lab, Result
from .._servers import EPOLL, STOCK, URING, UVLOOP

TITLE = "accept, one exchange of 64 B, close"
ROWS = ("9",)
STEPS = 1
SETTING = "accept, exchange, close; 50 clients"


def measure(lab: Lab) -> Result:
    result = Result()
    with lab.servers([URING, EPOLL, STOCK, "asyncio", UVLOOP]) as servers:
        result.measurements += lab.loads(
            SETTING, servers, connections=50, message_bytes=64, kind="reconnect"
        )
    result.compare("9", SETTING, URING, STOCK, RATE, 1.5)
    result.compare("9", SETTING, EPOLL, STOCK, RATE)
    result.compare("9", SETTING, URING, STOCK, CPU)
    return result
