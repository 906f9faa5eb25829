"""Programs that know nothing of trio-lio, started on it, and certificates for them."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import selectors
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
import trustme

import trio_lio
import trio_lio.anyio

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE = 60.0

_NEEDED = ("h2", "httpx", "hypercorn", "starlette", "trio_parallel", "trio_websocket")
_MISSING = [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _MISSING:
        why = f"needs the extra 'applications' (nox -s applications): no {', '.join(_MISSING)}"
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(params=["uring", "epoll"])
def backend(request: pytest.FixtureRequest) -> str:
    [info] = [info for info in trio_lio.available_backends() if info.name == request.param]
    if not info.available:
        pytest.skip(f"{info.name}: {info.reason}")
    return info.name


@pytest.fixture
def on_lio(backend: str) -> Callable[..., Any]:
    """Runs a client of ours, on lio too."""

    def run(async_fn: Callable[..., Any], *args: Any) -> Any:
        async def in_time() -> Any:
            with anyio.fail_after(PATIENCE):
                return await async_fn(*args)

        return anyio.run(in_time, backend="trio_lio", backend_options={"backend": backend})

    return run


@attrs.frozen
class Certificates:
    """Files, and a client's contexts with and without a certificate of its own."""

    authority: Path
    server: Path
    client: ssl.SSLContext
    nobody: ssl.SSLContext


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    place = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    files = place / "authority.pem", place / "server.pem"
    authority.cert_pem.write_to_path(files[0])
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(files[1])
    contexts = []
    for _ in range(2):
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        authority.configure_trust(context)
        contexts.append(context)
    authority.issue_cert("client@example.org").configure_cert(contexts[0])
    return Certificates(*files, *contexts)


@attrs.frozen
class Served:
    """A program that serves, and what it said when it was up."""

    process: subprocess.Popen[str]
    said: re.Match[str]

    @property
    def port(self) -> int:
        return int(self.said[1])


def _wait_until_idle(pid: int) -> None:
    """Ctrl-C in the middle of something may hit what has no answer to it, on stock Trio too:
    contextlib's own code at the end of a cancel scope of the program's."""

    def used() -> list[str]:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[11:13]

    deadline = time.monotonic() + PATIENCE
    before = None
    while (now := used()) != before and time.monotonic() < deadline:
        before = now
        time.sleep(0.2)


class Programs:
    """Starts programs on lio, and sees to it that it was lio that did their I/O."""

    def __init__(self, backend: str, stack: contextlib.ExitStack) -> None:
        self._backend = backend
        self._stack = stack

    def _start(self, arguments: list[str], **streams: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "trio_lio", "run", "--stats"]
        command += ["--backend", self._backend, *arguments]
        return subprocess.Popen(
            command, cwd=PROGRAMS, text=True, stderr=subprocess.PIPE, **streams
        )

    def _check(self, stderr: str, returncode: int, complaint: str = "") -> None:
        assert returncode == 0, stderr
        assert f" on lio-{self._backend}\n" in stderr
        pushed = re.search(r"operations pushed +([\d,]+)", stderr)
        assert pushed is not None
        assert int(pushed[1].replace(",", "")) > 5
        complaints = stderr.count(complaint) if complaint else 0
        assert stderr.count("Traceback") == complaints, stderr
        assert "Warning" not in stderr, stderr

    def serve(self, *arguments: str, up: str, complaint: str = "") -> Served:
        """A server; ``up`` is a pattern for the line that says where, its group 1 the port.
        Of nothing but ``complaint`` it may print a traceback."""
        process = self._start(list(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self._stack.callback(self._stop, process, complaint)
        said = None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stderr, selectors.EVENT_READ)
            while said is None:
                ready = selector.select(PATIENCE)
                assert ready, "the server did not start"
                line = ready[0][0].fileobj.readline()
                assert line, process.communicate()
                said = re.search(up, line)
        return Served(process, said)

    def _stop(self, process: subprocess.Popen[str], complaint: str) -> None:
        _wait_until_idle(process.pid)
        process.send_signal(signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        self._check(stderr, process.returncode, complaint)

    def run(self, *arguments: str, given: str = "") -> str:
        """A program that ends by itself; what it printed."""
        process = self._start(list(arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            stdout, stderr = process.communicate(given, timeout=PATIENCE)
        finally:
            process.kill()
        self._check(stderr, process.returncode)
        return stdout


@pytest.fixture
def programs(backend: str) -> Iterator[Programs]:
    with contextlib.ExitStack() as stack:
        yield Programs(backend, stack)
