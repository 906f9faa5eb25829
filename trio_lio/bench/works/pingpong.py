"""Ping-pong of 1 KiB on one connection: the server sleeps between requests, or does not.

The load sleeps too until its answer comes, as a client would. A load that never sleeps is
shown beside it: then the server hardly has time to.
"""

from __future__ import annotations

from .._lab import CPU, P50, RATE, Lab, Result
from .._servers import EPOLL, FLOOR, STOCK, URING, UVLOOP

TITLE = "ping-pong of 1 KiB on one connection"
ROWS = ("4b",)
STEPS = 2
SETTING = "ping-pong of 1 KiB"
AWAKE = "ping-pong with a load that never sleeps"


def measure(lab: Lab) -> Result:
    result = Result()
    names = [URING, EPOLL, STOCK, UVLOOP, "uvloop-protocol", FLOOR]
    how = {"connections": 1, "message_bytes": 1024}
    with lab.servers(names) as servers:
        result.measurements += lab.loads(SETTING, servers, **how)
        result.measurements += lab.loads(AWAKE, servers, **how, awake=True)
    for subject in (URING, EPOLL):
        for setting, aimed in ((SETTING, True), (AWAKE, False)):
            for metric, target in ((RATE, 2.0), (CPU, 0.7), (P50, 0.6)):
                wanted = target if aimed else None
                result.compare("4b", setting, subject, STOCK, metric, wanted)
    return result
