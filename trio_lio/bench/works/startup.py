"""A run that does nothing: what it costs to begin and to end one."""

from __future__ import annotations

from .._lab import RUN_TIME, Lab, Measurement, Result
from .._servers import EPOLL, STOCK, URING

TITLE = "an empty run"
ROWS = ("8",)
STEPS = 1
SETTING = "trio_lio.run(noop)"


def measure(lab: Lab) -> Result:
    result = Result()
    names = lab.able([URING, EPOLL])
    lab.progress.show("empty runs")
    # One process makes them all, in turn: a run's time depends on what the process holds.
    found = lab.run_program(
        "empty_runs",
        None,
        "--rounds",
        str(lab.rounds),
        *(name.removeprefix("lio-") for name in names),
    )
    lab.progress.step("empty runs")
    for name in [*names, STOCK]:
        times = found[name.removeprefix("lio-")]
        result.measurements.append(Measurement(SETTING, name, {RUN_TIME: times}))
    result.compare("8", SETTING, URING, STOCK, RUN_TIME, 1.2)
    result.compare("8", SETTING, EPOLL, STOCK, RUN_TIME)
    return result
