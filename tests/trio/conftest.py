"""A fixture for the backend, three that watch over every test, and files."""

from __future__ import annotations

import faulthandler
import functools
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio._core._run
import trio.testing

import trio_lio
from trio_lio import _manager, _socket
from trio_lio._native import known_backends
from trio_lio.backends import probe

from ..common import OLD_KERNEL, open_fds
from .support import PATIENCE, Notes, Pair, connected, notes

VARIANTS = {
    "uring": ("uring", ""),
    "epoll": ("epoll", ""),
    "sim": ("sim", ""),
    "kqueue": ("kqueue", ""),
    "uring-without-buf_ring-fixed_files": ("uring", "buf_ring,fixed_files"),
    "uring-old-kernel": ("uring", OLD_KERNEL),
    "iocp": ("iocp", ""),
    # Every receive of a stream as if the ones before it had been large.
    "uring-large": ("uring", ""),
    "epoll-large": ("epoll", ""),
}
# kqueue on Linux: only in builds with TRIO_LIO_KQUEUE. And where there is kqueue, nothing else.
# Those of this platform: there are no tests of the others to skip.
VARIANTS = {label: each for label, each in VARIANTS.items() if each[0] in known_backends()}

HANGS_AFTER = 90.0
DEAD_AFTER = 150.0


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """A test that hangs fails; one that cannot even fail ends the run and says where."""

    def hangs(*_: object) -> None:
        faulthandler.dump_traceback()
        pytest.fail(f"hangs: not over after {HANGS_AFTER} s")

    faulthandler.dump_traceback_later(DEAD_AFTER, exit=True)
    if sys.platform == "win32":  # has no such signal
        yield
        faulthandler.cancel_dump_traceback_later()
        return
    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, HANGS_AFTER, 25)
    yield
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def no_descriptor_leaks(watchdog: None) -> Iterator[None]:
    before = open_fds()
    yield
    if open_fds().keys() - before.keys():
        gc.collect()
    leaked = {fd: what for fd, what in open_fds().items() if fd not in before}
    assert not leaked


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    """Neither trio-lio nor a run that crashed, for which all tests to come would be nested."""
    manager = trio._core._run.TheIOManager
    recv = vars(trio._socket._SocketType)["recv"]
    yield
    assert trio._core._run.TheIOManager is manager
    assert vars(trio._socket._SocketType)["recv"] is recv
    left = vars(trio._core._run.GLOBAL_RUN_CONTEXT).copy()
    vars(trio._core._run.GLOBAL_RUN_CONTEXT).clear()
    assert "runner" not in left


@pytest.fixture(params=list(VARIANTS))
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backend; more than once for some: see `VARIANTS`."""
    name, without = VARIANTS[request.param]
    monkeypatch.setenv("TRIO_LIO_URING_WITHOUT", without)
    monkeypatch.delenv("TRIO_LIO_BACKEND", raising=False)
    if request.param.endswith("-large"):
        monkeypatch.setitem(_manager._LARGE, name, 0)
        monkeypatch.setattr(_socket, "LARGE_AT_FIRST", 1)
    info = probe(name)
    if not info.available:
        pytest.skip(f"{name}: {info.reason}")
    return name


@pytest.fixture
def run(backend: str) -> Callable[..., Any]:
    """`trio_lio.run` on the backend."""
    return functools.partial(trio_lio.run, backend=backend)


# What stock Trio comes to does not depend on the backend.
_of_stock: dict[tuple[str, ...], Any] = {}


@pytest.fixture
def same_as_stock(run: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a function on stock Trio and on lio: both must come to the same."""

    def compare(async_fn: Callable[..., Any], *args: Any) -> Any:
        stock = trio.run(async_fn, *args)
        ours = run(async_fn, *args)
        assert ours == stock
        return ours

    return compare


@pytest.fixture
def same_on_each(run: Callable[..., Any], request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a case on stock Trio and on lio, on each kind of socket."""
    parameters = {k: v for k, v in request.node.callspec.params.items() if k != "backend"}
    key = (request.node.originalname, *map(str, parameters.items()))

    async def on_each_kind(
        case: Callable[[Pair], Any], taken: dict[str, Notes]
    ) -> dict[str, Any]:
        found = {}

        async def on_one(kind: str) -> None:
            notes.set(taken[kind])
            with connected(kind) as pair:
                found[kind] = pair.plain(await case(pair))

        async with trio.open_nursery() as nursery:
            for kind in taken:
                nursery.start_soon(on_one, kind)
        return found

    def on_lio(case: Callable[[Pair], Any]) -> dict[str, Any]:
        _, taken = _of_stock[key]
        taken = {kind: Notes(of_kind.waited, complete=True) for kind, of_kind in taken.items()}
        found: dict[str, Any] = run(on_each_kind, case, taken)
        return found

    def compare(case: Callable[[Pair], Any], kinds: list[str]) -> dict[str, Any]:
        if key not in _of_stock:
            taken = {kind: Notes() for kind in kinds}
            _of_stock[key] = trio.run(on_each_kind, case, taken), taken
        ours, stock = on_lio(case), _of_stock[key][0]
        if ours != stock:  # was that a slow machine? then stock Trio had too little time
            taken = {kind: Notes(patience_now=PATIENCE / 4) for kind in kinds}
            _of_stock[key] = trio.run(on_each_kind, case, taken), taken
            ours, stock = on_lio(case), _of_stock[key][0]
        assert ours == stock
        return ours

    return compare


# -- files -----------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"first\nsecond\nthird\n")
    return path


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
def both_ends(fifo: Path) -> Iterator[tuple[Path, int]]:
    """A FIFO that can be opened for reading and writing, and a descriptor that does both."""
    fd = os.open(fifo, os.O_RDWR)
    yield fifo, fd
    os.close(fd)
