"""For pytest: ``@pytest.mark.lio_faults(seed=7)``, the fixture ``lio_faults``, and
``--lio-faults-seed``.

The marker takes the arguments of `trio_lio.testing.faults`, and puts its block around the
whole test, fixtures included, whoever starts the run: the test itself, pytest-trio, or anyio's
plugin. A test that fails says by which seed, and how to do it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .testing import Injected, faults

if TYPE_CHECKING:
    from collections.abc import Generator

MARKER = "lio_faults"
_injected = pytest.StashKey[Injected]()
_refused = pytest.StashKey[Exception]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("trio-lio").addoption(
        "--lio-faults-seed",
        type=int,
        metavar="SEED",
        help="the seed of all tests that are marked lio_faults, whatever their marker says",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "lio_faults(seed=None, *, backend=None, short_io, reset, delay, cancel_race, "
        "interrupt, overflow, queue_full, latency): the test's Trio runs are on trio-lio and "
        "under faults; "
        "see trio_lio.testing.faults",
    )


def _arguments(item: pytest.Item) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Those of `testing.faults`, if the test is to have faults."""
    marker = item.get_closest_marker(MARKER)
    if marker is None and MARKER not in getattr(item, "fixturenames", ()):
        return None
    args, kwargs = (marker.args, dict(marker.kwargs)) if marker is not None else ((), {})
    seed = item.config.getoption("--lio-faults-seed")
    if seed is not None:
        args, kwargs["seed"] = (), seed
    return args, kwargs


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    arguments = _arguments(item)
    if arguments is None:
        return (yield)
    args, kwargs = arguments
    block = faults(*args, **kwargs)
    try:
        item.stash[_injected] = block.__enter__()
    except Exception as exc:  # the test fails, not the session
        item.stash[_refused] = exc
        return (yield)
    try:
        return (yield)
    finally:
        block.__exit__(None, None, None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    refused = item.stash.get(_refused, None)
    if refused is not None:
        kind = type(refused).__name__
        pytest.fail(f"lio_faults cannot be applied: {kind}: {refused}", pytrace=False)


def _report_of(item: pytest.Item, injected: Injected) -> str:
    runs = f"{injected.runs} run" + ("" if injected.runs == 1 else "s")
    lines = [
        f"faults: {injected.settings}",
        f"injected in {runs}: {injected.counts}",
        f"to repeat: pytest '{item.nodeid}' --lio-faults-seed={injected.seed}",
    ]
    if injected.runs == 0:
        lines[1] = (
            "no run began in this test, so nothing was injected: is its event loop older, from "
            "a fixture of a wider scope?"
        )
    return "\n".join(lines)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    injected = item.stash.get(_injected, None)
    if injected is not None and report.failed:
        report.sections.append(("trio-lio faults", _report_of(item, injected)))
    return report


@pytest.fixture
def lio_faults(request: pytest.FixtureRequest) -> Injected:
    """The faults of this test: ``seed``, ``settings``, ``counts``. Asking for it is as good as
    the marker without arguments."""
    injected: Injected = request.node.stash[_injected]
    return injected
