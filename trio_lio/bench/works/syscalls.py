"""System calls per echo: by trio-lio's own counter at full speed, and by ptrace.

Under ptrace a server is slow, finds more requests waiting each time it looks, and makes fewer
calls per request; its own counter knows nothing of what Python does besides. The figure is
the larger one.
"""

from __future__ import annotations

from .._lab import SYSCALLS, Lab, Measurement, Result, Server
from .._servers import EPOLL, FLOOR, KINDS, STOCK, URING, UVLOOP

TITLE = "system calls per echo of 1 KiB"
ROWS = ("6",)
_TARGETS = {50: 0.15, 1: 2.1}
STEPS = len(_TARGETS)
_COUNTING_SECONDS = 0.5


def _own_count(lab: Lab, server: Server, connections: int) -> float | None:
    """By the server's own counter, without anybody looking on."""
    if server.name not in (URING, EPOLL):
        return None
    before = server.ask()["syscalls"]
    # All requests count here, not only those of the measurement: there is no warm-up.
    found = lab.load(
        server, "counting", connections=connections, message_bytes=1024, warm_up=0.0
    )
    return float(server.ask()["syscalls"] - before) / found.requests


def measure(lab: Lab) -> Result:
    result = Result()
    with lab.servers([URING, EPOLL, STOCK, UVLOOP, FLOOR]) as servers:
        for connections, target in _TARGETS.items():
            setting = f"echo of 1 KiB, {connections} connection{'s' * (connections > 1)}"
            for server in servers:
                lab.progress.show(f"counting system calls  {KINDS[server.name].label}")
                counts = [_own_count(lab, server, connections)]
                seen = lab.count(
                    server,
                    _COUNTING_SECONDS,
                    {"connections": connections, "message_bytes": 1024},
                )
                if seen is not None and seen.work:
                    counts.append(seen.total / seen.work)
                known = [count for count in counts if count is not None]
                if known:
                    metrics = {SYSCALLS: [max(known)]}
                    result.measurements.append(Measurement(setting, server.name, metrics))
            lab.progress.step(f"system calls, {setting}")
            result.state("6", setting, URING, SYSCALLS, target)
            result.state("6", setting, EPOLL, SYSCALLS, None)
            result.state("6", setting, STOCK, SYSCALLS, None)
    return result
