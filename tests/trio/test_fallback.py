"""What happens where io_uring is not to be had: announced, never silent, never by accident."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import trio

import trio_lio

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Denies io_uring_setup, as container runtimes do, to this process and its children.
FILTER = """
import ctypes, struct

def deny_io_uring(number, architecture):
    libc = ctypes.CDLL(None, use_errno=True)
    LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
    def step(code, true, false, value):
        return struct.pack("=HBBI", code, true, false, value)
    program = b"".join([
        step(LOAD, 0, 0, 4),                            # the architecture
        step(EQUAL, 0, 3, architecture),
        step(LOAD, 0, 0, 0),                            # the system call's number
        step(EQUAL, 0, 1, 425),                         # io_uring_setup
        step(RETURN, 0, 0, 0x00050000 | number),        # fails with this error
        step(RETURN, 0, 0, 0x7FFF0000),                 # goes on
    ])
    memory = ctypes.create_string_buffer(program, len(program))
    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    whole = Program(len(program) // 8, ctypes.addressof(memory))
    PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(whole), 0, 0) != 0:
        print("no seccomp here:", ctypes.get_errno())
        raise SystemExit(77)
"""

USE = """
import trio, trio_lio

async def use():
    a, b = trio.socket.socketpair()
    with a, b:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.SocketStream(a).send_all, bytes(1_000_000))
            got = 0
            while got < 1_000_000:
                got += len(await b.recv(65536))
    return trio_lio.current_backend()
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TRIO_LIO_") or name == "TRIO_LIO_CFLAGS"
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    return done


@pytest.fixture(params=["EPERM", "ENOSYS"])
def denied(request: pytest.FixtureRequest) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a process to which io_uring_setup is denied."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        pytest.skip(f"no filter for {machine}")
    number = getattr(errno, request.param)

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        deny = f"deny_io_uring({number}, {ARCHITECTURES[machine]})\n"
        return python(FILTER + deny + USE + textwrap.dedent(code), *arguments)

    run.error = request.param  # type: ignore[attr-defined]
    return run


def test_run_falls_back_to_epoll_and_says_why(denied: Any) -> None:
    done = denied("""
        info = trio_lio.run(use)
        print(info.name)
        print(info.reason)
        with trio_lio.installed():
            print(trio.run(use).name)
    """)
    assert done.returncode == 0, done.stderr
    name, reason, installed = done.stdout.splitlines()
    assert (name, installed) == ("epoll", "epoll")
    assert "fallback" in reason
    assert denied.error in reason
    assert "uring" in reason


def test_backend_asked_for_by_name_is_refused(denied: Any) -> None:
    done = denied("""
        import os
        for call in (
            lambda: trio_lio.run(use, backend="uring"),
            lambda: trio_lio.install("uring"),
        ):
            try:
                call()
            except trio_lio.BackendUnavailable as exc:
                print(exc)
        os.environ["TRIO_LIO_BACKEND"] = "uring"
        try:
            trio_lio.run(use)
        except trio_lio.BackendUnavailable as exc:
            print(exc)
        del os.environ["TRIO_LIO_BACKEND"]
        print(trio_lio.run(use).name)
    """)
    assert done.returncode == 0, done.stderr
    *texts, after = done.stdout.splitlines()
    assert after == "epoll"
    assert len(texts) == 3
    for text in texts:
        assert "'uring' cannot run here" in text
        assert denied.error in text
        assert "epoll" in text, "what could be used instead"


def test_available_backends_say_why(denied: Any) -> None:
    done = denied("""
        for info in trio_lio.available_backends():
            print(info.name, info.available, info.errno, info.reason)
    """)
    assert done.returncode == 0, done.stderr
    uring, epoll = done.stdout.splitlines()
    assert uring.startswith(f"uring False {getattr(errno, denied.error)} ")
    assert len(uring.split(" ", 3)[3]) > 20
    assert epoll.startswith("epoll True 0")


def test_filter_that_comes_between_two_runs(denied: Any) -> None:
    """The first run found io_uring; the next one must find that it is gone."""
    machine = platform.machine()
    number = getattr(errno, denied.error)
    done = python(
        FILTER
        + USE
        + textwrap.dedent(f"""
        print(trio_lio.run(use).name)
        deny_io_uring({number}, {ARCHITECTURES[machine]})
        info = trio_lio.run(use)
        print(info.name, "fallback" in info.reason)
        """)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "epoll True"


def test_doctor_says_why(denied: Any) -> None:
    done = denied("""
        import runpy, sys
        sys.argv = ["trio_lio", "doctor", *sys.argv[1:]]
        runpy.run_module("trio_lio", run_name="__main__")
    """)
    assert done.returncode == 0, done.stderr
    assert denied.error in done.stdout
    assert "epoll" in done.stdout
    done = denied(
        """
        import runpy, sys
        sys.argv = ["trio_lio", "doctor", *sys.argv[1:]]
        runpy.run_module("trio_lio", run_name="__main__")
        """,
        "--json",
    )
    report = json.loads(done.stdout)
    assert report["chosen"] == "epoll"
    assert denied.error in report["why"]
    assert [info["available"] for info in report["backends"]] == [False, True]


def test_want_of_descriptors_is_an_error_and_no_fallback() -> None:
    """At each number of free descriptors: an OSError, or a run on the first backend."""
    first = next(info.name for info in trio_lio.available_backends() if info.available)
    done = python(
        USE
        + textwrap.dedent("""
        import errno, os, resource, sys
        backend = sys.argv[1] or None
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        for free in range(40):
            before = sorted(os.listdir("/proc/self/fd"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, limits[1]))
            try:
                info = trio_lio.run(use, backend=backend)
            except OSError as exc:
                assert exc.errno == errno.EMFILE, exc
                name = "EMFILE"
            else:
                name = info.name
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert sorted(os.listdir("/proc/self/fd")) == before
            print(name)
        """),
        "",
    )
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert names[0] == "EMFILE"
    assert names[-1] == first
    assert set(names) == {"EMFILE", first}
    assert names == sorted(names, key=lambda name: name != "EMFILE")


def test_want_of_descriptors_with_a_backend_by_name(backend: str) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    before = sorted(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            trio_lio.run(trio.sleep, 0, backend=backend)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.errno == errno.EMFILE
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert trio_lio.run(trio.sleep, 0, backend=backend) is None


def test_reason_of_the_first_choice() -> None:
    async def main() -> trio_lio.BackendInfo:
        return trio_lio.current_backend()

    info = trio_lio.run(main)
    if info.name == "uring":
        assert info.reason == "first in order of preference"
    else:
        assert "fallback" in info.reason
