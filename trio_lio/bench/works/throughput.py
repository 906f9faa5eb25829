"""1 GiB through one stream, from a server that only sends."""

from __future__ import annotations

from .._lab import CPU_PER_MIB, THROUGHPUT, Lab, Result
from .._servers import EPOLL, STOCK, URING, UVLOOP

TITLE = "1 GiB through one stream"
ROWS = ("10",)
_CHUNKS = {"64 KiB": 64 << 10, "1 MiB": 1 << 20}
STEPS = len(_CHUNKS)
_TOTAL = 1 << 30


def _one_size(lab: Lab, result: Result, label: str, chunk: int) -> None:
    setting = f"1 GiB in sends of {label}"
    with lab.servers([URING, EPOLL, STOCK, UVLOOP], "--chunk", str(chunk)) as servers:
        by_name = {server.name: server for server in servers}

        def one(name: str, title: str) -> dict[str, float]:
            found = lab.load(
                by_name[name],
                title,
                kind="sink",
                connections=1,
                message_bytes=chunk,
                requests=_TOTAL // chunk,
                seconds=0.0,
                warm_up=0.05,
            )
            mebibytes = found.bytes / (1 << 20)
            return {
                THROUGHPUT: mebibytes / found.elapsed,
                CPU_PER_MIB: found.server_cpu / mebibytes * 1e6,
            }

        result.measurements += lab.in_turn(setting, list(by_name), one)
    result.compare("10", setting, URING, STOCK, THROUGHPUT, 1.1)
    result.compare("10", setting, URING, UVLOOP, THROUGHPUT, 1.0)
    result.compare("10", setting, EPOLL, STOCK, THROUGHPUT)


def measure(lab: Lab) -> Result:
    result = Result()
    for label, chunk in _CHUNKS.items():
        _one_size(lab, result, label, chunk)
    return result
