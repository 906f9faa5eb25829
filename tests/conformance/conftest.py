from __future__ import annotations

import faulthandler
import functools
import gc
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from trio_lio._native import known_backends
from trio_lio.backends import (
    SIGNAL,
    Faults,
    IoBackend,
    Iocp,
    IoUring,
    Kqueue,
    OpCompleted,
    Poller,
    Sim,
    backend_names,
    probe,
)

from ..common import OLD_KERNEL, open_fds
from .support import Sockets

VARIANTS = {
    "uring": (IoUring, ""),
    "epoll": (Poller, ""),
    "sim": (Sim, ""),
    "sim-slow": (Sim, ""),
    "epoll-slow": (Poller, ""),
    "uring-slow": (IoUring, ""),
    "kqueue": (Kqueue, ""),
    "kqueue-without-user_event": (Kqueue, "user_event"),
    "uring-without-defer_taskrun": (IoUring, "defer_taskrun"),
    "uring-without-buf_ring": (IoUring, "buf_ring"),
    "uring-without-fixed_files": (IoUring, "fixed_files"),
    "uring-without-taskrun_flag": (IoUring, "taskrun_flag"),
    "uring-without-ext_arg": (IoUring, "ext_arg"),
    "uring-old-kernel": (IoUring, OLD_KERNEL),
    "iocp": (Iocp, ""),
    "iocp-slow": (Iocp, ""),
}
# Those of this platform: there are no tests of the others to skip.
VARIANTS = {
    name: variant
    for name, variant in VARIANTS.items()
    if variant[0].backend_name in known_backends()
}

# What no test may notice: completions come late, out of order and one by one, cancels come
# late, waits end by signals that were none. (Short transfers and resets many tests would
# notice: those are for the tests of streams, and for test_faults.)
SLOW = Faults(
    seed=7,
    short_io=0,
    reset=0,
    delay=0.3,
    overflow=0.3,
    queue_full=0.3,
    cancel_race=0,
    interrupt=0.1,
)
# kqueue on Linux: only in builds with TRIO_LIO_KQUEUE. And where there is kqueue, nothing else.
BUILT = ("sim", *backend_names())
VARIANTS = {name: v for name, v in VARIANTS.items() if v[0].backend_name in BUILT}

Maker = Callable[[], IoBackend]
Factory = Callable[..., IoBackend]

HANGS_AFTER = 120.0


# What a kernel may lack makes no difference to these.
SAME_ON_ALL = ("test_contract_errors", "test_files")


def wants(item: pytest.Item) -> bool:
    """Foreign descriptors on the backends as they are, adopted ones on all variants."""
    callspec = getattr(item, "callspec", None)
    params = {} if callspec is None else callspec.params
    variant = params.get("new_backend")
    if variant in (None, "uring", "epoll", "kqueue", "sim", "iocp"):
        return True
    if variant != "uring-old-kernel" and item.path.stem in SAME_ON_ALL:
        return False
    return params.get("sockets", True) is not False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = {item for item in items if item.path.parent.name == "conformance"}
    dropped = [item for item in items if item in ours and not wants(item)]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in ours or wants(item)]


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """A test that hangs says where, and ends the run."""
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    before = open_fds()
    yield
    if leaked_since(before):
        gc.collect()
    assert not leaked_since(before)


def leaked_since(before: dict[int, str]) -> dict[int, str]:
    leaked = {fd: name for fd, name in open_fds().items() if fd not in before}
    # What wake() writes to outlives close(): a late wake must not write to another's file.
    return {fd: name for fd, name in leaked.items() if name != "anon_inode:[eventfd]"}


@pytest.fixture(autouse=True)
def signals_of_nobody(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a ring (asynchronous: the kernel works it off in the thread that had it), a
    debugger or a freezer end an epoll_wait with EINTR, without any signal of the test's.
    Tests about signals see them all."""
    if "signal" in request.node.name or "handler" in request.node.name:
        return
    wait = IoBackend.wait_timeout

    def wait_timeout(self: IoBackend, timeout: float | None) -> list[OpCompleted]:
        begun = time.monotonic()
        found = wait(self, timeout)
        while found:
            kept = [done for done in found if done.op_id != SIGNAL]
            if kept:
                return kept
            left = max(0.0, begun + timeout - time.monotonic()) if timeout else timeout
            found = wait(self, left)
        return found

    monkeypatch.setattr(IoBackend, "wait_timeout", wait_timeout)


@pytest.fixture(params=list(VARIANTS))
def new_backend(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    no_descriptor_leaks: None,
) -> Maker:
    """Makes backends of one variant, not initialised; the test closes them."""
    kind, without = VARIANTS[request.param]
    monkeypatch.setenv("TRIO_LIO_URING_WITHOUT", without)
    assert kind.backend_name is not None
    info = probe(kind.backend_name)
    if not info.available:
        pytest.skip(f"{kind.backend_name}: {info.reason}")
    if request.param.endswith("-slow"):
        return functools.partial(kind, faults=SLOW)
    return kind


@pytest.fixture
def make_backend(new_backend: Maker) -> Iterator[Factory]:
    """Makes initialised backends of one variant, and closes them at the end."""
    made: list[IoBackend] = []

    def make(capacity: int = 64) -> IoBackend:
        backend = new_backend()
        made.append(backend)
        backend.init(capacity)
        return backend

    yield make
    for backend in made:
        backend.close()
        backend._handle = None  # pytest keeps the backend; what wake() uses goes with this


@pytest.fixture
def backend(make_backend: Factory) -> IoBackend:
    return make_backend()


@pytest.fixture(params=[False, True], ids=["foreign", "adopted"])
def sockets(request: pytest.FixtureRequest, backend: IoBackend) -> Iterator[Sockets]:
    """Sockets that the backend knows only by number, and such that it has adopted."""
    made = Sockets(backend, request.param)
    yield made
    made.close()


@pytest.fixture
def foreign(backend: IoBackend) -> Iterator[Sockets]:
    made = Sockets(backend, adopts=False)
    yield made
    made.close()


@pytest.fixture
def adopted(backend: IoBackend) -> Iterator[Sockets]:
    made = Sockets(backend, adopts=True)
    yield made
    made.close()


@pytest.fixture(params=["tcp", "unix"])
def stream_kind(request: pytest.FixtureRequest) -> str:
    if request.param == "unix" and not hasattr(socket, "AF_UNIX"):
        pytest.skip("no sockets of the local family here")
    return str(request.param)


@pytest.fixture
def has_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError as exc:
        pytest.skip(f"no IPv6 here: {exc}")
