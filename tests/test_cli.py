"""The command line, from outside: processes, their output, their exit codes."""

from __future__ import annotations

import errno
import json
import os
import py_compile
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

import trio_lio
from trio_lio import _inner

ROOT = Path(trio_lio.__file__).resolve().parent.parent
BACKENDS = [info.name for info in trio_lio.available_backends() if info.available]

on_each_backend = pytest.mark.parametrize("backend", BACKENDS)


def environment(**changes: str) -> dict[str, str]:
    ours = ("TRIO_LIO_BACKEND", "TRIO_LIO_URING_WITHOUT", "PYTHONSAFEPATH")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")]))
    return {**kept, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **changes}


def python(
    *arguments: object, cwd: Path, timeout: float = 60, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def lio(*arguments: object, cwd: Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return python("-m", "trio_lio", *arguments, cwd=cwd, **kwargs)


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


# -- doctor ----------------------------------------------------------------------------


def test_doctor_shows_backends_versions_and_capabilities(tmp_path: Path) -> None:
    done = lio("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("uring", "epoll", "chosen", "present", "Trio", "cffi", "Python", "kernel"):
        assert word in done.stdout
    assert done.stderr == ""


def test_doctor_for_a_reader_who_has_enough(tmp_path: Path) -> None:
    """Such as ``head -1``."""
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "trio_lio", "doctor"],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_doctor_as_json(tmp_path: Path) -> None:
    done = lio("doctor", "--json", cwd=tmp_path)
    assert done.returncode == 0
    found = json.loads(done.stdout)
    infos = trio_lio.available_backends()
    assert found["chosen"] == next(info.name for info in infos if info.available)
    assert [b["name"] for b in found["backends"]] == [info.name for info in infos]
    assert found["versions"]["trio-lio"] == trio_lio.__version__
    assert found["versions"]["hot path"] == ("C" if _inner.fast else "Python")
    for backend in found["backends"]:
        assert backend["available"] or backend["reason"]
        assert not set(backend["capabilities"]) & set(backend["absent"])


@on_each_backend
def test_doctor_follows_the_environment(tmp_path: Path, backend: str) -> None:
    done = lio("doctor", "--json", cwd=tmp_path, TRIO_LIO_BACKEND=backend)
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["chosen"] == backend
    assert "TRIO_LIO_BACKEND" in found["why"]


def test_doctor_and_an_unknown_backend_in_the_environment(tmp_path: Path) -> None:
    done = lio("doctor", cwd=tmp_path, TRIO_LIO_BACKEND="nonsense")
    assert done.returncode == 1
    assert "TRIO_LIO_BACKEND" in done.stderr
    assert "'nonsense'" in done.stderr
    assert "epoll" in done.stderr  # what could be asked for
    assert "available" in done.stdout  # the table is there all the same


def test_doctor_and_an_unknown_capability_in_the_environment(tmp_path: Path) -> None:
    done = lio("doctor", cwd=tmp_path, TRIO_LIO_URING_WITHOUT="nonsense")
    assert done.returncode == 1
    assert "'nonsense'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif("uring" not in BACKENDS, reason="io_uring cannot run here")
def test_doctor_shows_a_capability_that_is_switched_off(tmp_path: Path) -> None:
    done = lio("doctor", "--json", cwd=tmp_path, TRIO_LIO_URING_WITHOUT="buf_ring")
    [uring] = [b for b in json.loads(done.stdout)["backends"] if b["name"] == "uring"]
    assert "buf_ring" in uring["absent"]


# Denies io_uring_setup as containers do, then becomes the command that follows.
DENY_IO_URING = """
import ctypes, os, struct, sys
def op(code, k, yes=0, no=0):
    return struct.pack("HBBI", code, yes, no, k)
deny = 0x00050000 | int(sys.argv[1])  # SECCOMP_RET_ERRNO
program = ctypes.create_string_buffer(b"".join([
    op(0x20, 0),               # load the system call's number
    op(0x15, 425, yes=0, no=1),  # io_uring_setup, on every architecture
    op(0x06, deny),
    op(0x06, 0x7FFF0000),      # SECCOMP_RET_ALLOW
]))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(program)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
if prctl(38, 1, 0, 0, 0) or prctl(22, 2, filter, 0, 0):
    sys.exit(77)
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS], ids=["EPERM", "ENOSYS"])
def test_io_uring_denied_by_seccomp(tmp_path: Path, number: int) -> None:
    def denied(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trio_lio", *arguments]
        done = python("-c", DENY_IO_URING, number, *command, cwd=tmp_path)
        if done.returncode == 77:
            pytest.skip("no seccomp filters here")
        return done

    report = json.loads(denied("doctor", "--json").stdout)
    [uring] = [b for b in report["backends"] if b["name"] == "uring"]
    assert not uring["available"]
    assert errno.errorcode[number] in uring["reason"]
    assert report["chosen"] == "epoll"
    assert "seccomp" in report["why"]

    write(tmp_path / "talk.py", TALK)
    assert denied("run", "talk.py").stdout == "lio-epoll\n"
    refused = denied("run", "--backend", "uring", "talk.py")
    assert refused.returncode == 2
    assert "seccomp" in refused.stderr

    shown = denied("demo", *TINY)
    assert shown.returncode == 0, shown.stderr
    assert "uring cannot run here" in shown.stdout
    assert "lio-epoll" in shown.stdout


def test_help_and_usage_errors(tmp_path: Path) -> None:
    shown = lio("--help", cwd=tmp_path)
    assert shown.returncode == 0
    for command in ("doctor", "run", "demo"):
        assert command in shown.stdout
        assert lio(command, "--help", cwd=tmp_path).returncode == 0
    assert lio(cwd=tmp_path).returncode == 2
    assert lio("nonsense", cwd=tmp_path).returncode == 2
    assert trio_lio.__version__ in lio("--version", cwd=tmp_path).stdout


# -- run: as python would --------------------------------------------------------------

LOOK_AROUND = """
    '''Has a docstring.'''
    import os, sys
    print(__doc__, __name__, __package__, os.path.abspath(__file__), sys.argv)
    print(sys.path)
    print(sys.modules["__main__"].__dict__ is globals())
    try:
        import neighbour
    except ImportError as exc:
        print(exc)
    else:
        print(neighbour.__name__)
"""


def assert_as_python(cwd: Path, *program: object, **env: Any) -> None:
    plain = python(*program, cwd=cwd, **env)
    ours = lio("run", *program, cwd=cwd, **env)
    assert ours.stdout == plain.stdout
    # Before the first colon may stand python's own name, as it was called.
    assert ours.stderr.partition(":")[2] == plain.stderr.partition(":")[2]
    assert ours.returncode == plain.returncode


def test_run_a_script(tmp_path: Path) -> None:
    write(tmp_path / "there" / "script.py", LOOK_AROUND)
    write(tmp_path / "there" / "neighbour.py", "")
    assert_as_python(tmp_path, "there/script.py", "--stats", "-m", "x", "--", "--backend", "y")
    assert_as_python(tmp_path, tmp_path / "there" / "script.py")


def test_run_a_script_behind_a_link(tmp_path: Path) -> None:
    write(tmp_path / "there" / "script.py", LOOK_AROUND)
    write(tmp_path / "there" / "neighbour.py", "")
    (tmp_path / "link.py").symlink_to("there/script.py")
    assert_as_python(tmp_path, "link.py")


def test_run_a_script_with_safe_path(tmp_path: Path) -> None:
    write(tmp_path / "script.py", LOOK_AROUND)
    write(tmp_path / "neighbour.py", "")
    assert_as_python(tmp_path, "script.py", PYTHONSAFEPATH="1")


def test_run_a_module(tmp_path: Path) -> None:
    write(tmp_path / "package" / "module.py", LOOK_AROUND)
    write(tmp_path / "package" / "__init__.py", "")
    write(tmp_path / "package" / "__main__.py", LOOK_AROUND)
    write(tmp_path / "neighbour.py", "")
    assert_as_python(tmp_path, "-m", "package.module", "--stats", "run", "-m")
    assert_as_python(tmp_path, "-m", "package", "a")
    assert_as_python(tmp_path, "-mpackage.module", "a")


def test_run_a_directory_and_a_zip_file(tmp_path: Path) -> None:
    main = write(tmp_path / "folder" / "__main__.py", LOOK_AROUND)
    neighbour = write(tmp_path / "folder" / "neighbour.py", "")
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
        archive.write(main, "__main__.py")
        archive.write(neighbour, "neighbour.py")
    assert_as_python(tmp_path, "folder", "a")
    assert_as_python(tmp_path, "program.zip", "b")
    assert_as_python(tmp_path, "folder", PYTHONSAFEPATH="1")


def test_run_a_compiled_script(tmp_path: Path) -> None:
    source = write(tmp_path / "script.py", LOOK_AROUND)
    write(tmp_path / "neighbour.py", "")
    py_compile.compile(str(source), cfile=str(tmp_path / "other.pyc"))
    assert_as_python(tmp_path, "other.pyc", "a")


ENDS = {
    "exit code": "import sys; sys.exit(7)",
    "exit message": "import sys; sys.exit('no more')",
    "exit without a code": "raise SystemExit",
    "exception": "def f():\n    1 / 0\nf()",
    "chained": "try:\n    1 / 0\nexcept Exception as e:\n    raise OSError from e",
    "import error": "import no_such_module_at_all",
    "syntax error": "print('x'",
    "interrupt": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "exit handler": "import atexit; atexit.register(print, 'bye'); 1 / 0",
    "own hook": "import sys; sys.excepthook = lambda *a: print('hook', a[0]); 1 / 0",
    "late thread": """
import threading, time
def late():
    time.sleep(0.1)
    print(__name__, helper())
def helper():
    return 42
threading.Thread(target=late).start()
""",
}


@pytest.mark.parametrize("source", ENDS.values(), ids=ENDS.keys())
def test_run_ends_as_python_does(tmp_path: Path, source: str) -> None:
    write(tmp_path / "script.py", source)
    assert_as_python(tmp_path, "script.py")


def test_run_shows_the_traceback_of_a_trio_program(tmp_path: Path) -> None:
    write(
        tmp_path / "script.py",
        """
        import trio
        async def fail():
            raise ValueError("inside")
        async def main():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
        trio.run(main)
        """,
    )
    done = lio("run", "script.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "ValueError: inside" in done.stderr
    assert "runpy" not in done.stderr
    assert "trio_lio" not in done.stderr


def test_run_what_is_not_there(tmp_path: Path) -> None:
    done = lio("run", "absent.py", cwd=tmp_path)
    assert done.returncode == 2
    assert f"can't open file {str(tmp_path / 'absent.py')!r}: [Errno 2]" in done.stderr
    assert_as_python(tmp_path, "absent.py")
    assert_as_python(tmp_path, "-m", "absent_module")
    (tmp_path / "empty").mkdir()
    assert_as_python(tmp_path, "empty")


@pytest.mark.parametrize("arguments", [[], ["-m"], ["--stats"], ["--backend", "epoll"]])
def test_run_without_a_program(tmp_path: Path, arguments: list[str]) -> None:
    done = lio("run", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "missing" in done.stderr


# -- run: on lio -----------------------------------------------------------------------

TALK = """
    import sys
    import trio

    async def main():
        left, right = trio.socket.socketpair()
        for _ in range(100):
            await left.send(b"x")
            assert await right.recv(10) == b"x"
        print(trio.lowlevel.current_statistics().io_statistics.backend)

    trio.run(main)
    if "again" in sys.argv:
        trio.run(main)
    if "fail" in sys.argv:
        raise RuntimeError("at the end")
    if "exit" in sys.argv:
        sys.exit(5)
"""


@on_each_backend
def test_run_on_a_backend(tmp_path: Path, backend: str) -> None:
    write(tmp_path / "talk.py", TALK)
    for arguments in (["talk.py"], ["-m", "talk"]):
        done = lio("run", "--backend", backend, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"lio-{backend}\n"
        assert done.stderr == ""
    done = lio("run", "talk.py", cwd=tmp_path, TRIO_LIO_BACKEND=backend)
    assert done.stdout == f"lio-{backend}\n"


@on_each_backend
def test_run_with_a_small_capacity(tmp_path: Path, backend: str) -> None:
    write(tmp_path / "talk.py", TALK)
    done = lio("run", f"--backend={backend}", "--capacity", 1, "talk.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def counters(stderr: str) -> dict[str, int]:
    lines = [line.rsplit(None, 1) for line in stderr.splitlines() if line.startswith("  ")]
    return {name.strip(): int(value.replace(",", "")) for name, value in lines}


@pytest.mark.parametrize("ending", [[], ["again"], ["fail"], ["exit"]], ids=str)
def test_run_with_stats(tmp_path: Path, ending: list[str]) -> None:
    write(tmp_path / "talk.py", TALK)
    plain = lio("run", "talk.py", *ending, cwd=tmp_path)
    done = lio("run", "--stats", "talk.py", *ending, cwd=tmp_path)
    assert done.returncode == plain.returncode
    assert done.stdout == plain.stdout
    assert done.stderr.startswith(plain.stderr)
    table = done.stderr[len(plain.stderr) :]
    runs = 2 if ending == ["again"] else 1
    assert table.startswith(f"trio-lio: {runs} run")
    assert done.stdout.split()[0] in table
    found = counters(table)
    assert found["operations pushed"] >= 100 * runs
    assert found["operations completed"] <= found["operations pushed"]
    assert found["batches"] > 0


def test_run_with_stats_and_no_run_at_all(tmp_path: Path) -> None:
    write(tmp_path / "script.py", "import os\nif os.fork() == 0:\n    raise SystemExit")
    done = lio("run", "--stats", "script.py", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("trio-lio: 0 runs on no backend") == 1  # not by the child too


def test_run_refuses_a_backend_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "script.py", "print('ran')")
    asked = lio("run", "--backend", "nonsense", "script.py", cwd=tmp_path)
    told = lio("run", "script.py", cwd=tmp_path, TRIO_LIO_BACKEND="nonsense")
    for done in (asked, told):
        assert done.returncode == 2
        assert done.stdout == ""
        assert "'nonsense'" in done.stderr
        assert "Traceback" not in done.stderr
    assert "TRIO_LIO_BACKEND" in told.stderr


# -- demo ------------------------------------------------------------------------------

TINY = ["--connections", 5, "--size", 100, "--seconds", 0.5, "--rounds", 2]


def servers_left() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            parent = (entry / "environ").read_bytes() if b"_demo_server" in command else b""
        except OSError:
            continue
        if f"TRIO_LIO_TEST={os.getpid()}".encode() in parent:
            found.append(entry.name)
    return found


def assert_no_servers_left() -> None:
    for _ in range(100):
        if not servers_left():
            return
        time.sleep(0.1)
    raise AssertionError(f"processes left over: {servers_left()}")


def test_demo(tmp_path: Path) -> None:
    done = lio("demo", *TINY, cwd=tmp_path, TRIO_LIO_TEST=str(os.getpid()))
    assert done.returncode == 0, done.stderr
    for word in ("requests/s", "CPU", "syscalls", "p50", "stock Trio"):
        assert word in done.stdout
    for backend in BACKENDS:
        assert f"lio-{backend}" in done.stdout
        assert f"round 2/2  lio-{backend}" in done.stderr
    for info in trio_lio.available_backends():
        assert info.available or f"{info.name} cannot run here" in done.stdout
    assert servers_left() == []


def test_demo_as_json(tmp_path: Path) -> None:
    asked = ["--backends", f"stock,{BACKENDS[0]}"]
    done = lio("demo", *TINY, *asked, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["server"] for row in found["rows"]] == ["stock Trio", f"lio-{BACKENDS[0]}"]
    for row in found["rows"]:
        assert row["requests_per_second"] > 0
        assert row["cpu_per_request"] > 0
        assert 0 < row["p50"] <= row["p99"]
        assert row["lost_connections"] == 0
        assert row["syscalls_per_request"] is None or row["syscalls_per_request"] > 0


def test_demo_stops_on_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_lio", "demo", "--seconds", "30"],
        cwd=tmp_path,
        env=environment(TRIO_LIO_TEST=str(os.getpid())),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not servers_left():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert servers_left() == []


def test_demo_killed_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_lio", "demo", "--seconds", "30"],
        cwd=tmp_path,
        env=environment(TRIO_LIO_TEST=str(os.getpid())),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not servers_left():
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert_no_servers_left()


def test_demo_of_what_there_is_not(tmp_path: Path) -> None:
    done = lio("demo", "--backends", "nonsense", cwd=tmp_path)
    assert done.returncode == 1
    assert "'nonsense'" in done.stderr
    assert lio("demo", "--connections", "0", cwd=tmp_path).returncode == 2
    assert lio("demo", "--seconds", "soon", cwd=tmp_path).returncode == 2
