"""Builds trio-lio for Windows and runs its tests there, under Wine.

    python tools/wine.py --root DIR STEP ...

Steps: ``ctests`` (the C core's own), ``doctor``, ``demo``, ``conformance``, ``trio`` (our tests
at Trio's level), ``suite`` (Trio's own tests), ``anyio`` (anyio's own, in a private network);
``all`` of them; or ``run ARGS``, which is python.exe with these arguments.

What it makes in DIR, once: a Windows CPython 3.12, and Wine prefixes, in which steps run side
by side. The interpreter's DLL and the standard library's C modules are the unmodified builds of
python.org, which the ``panda3d`` wheel for Windows contains; the library's Python files are
those of a CPython 3.12 found here. mingw compiles the core, with -Wall -Wextra -Werror, against
the C runtime that CPython uses.

Exit code 0: everything passed, and every runner said so in its closing line (a Wine server that
dies can end a test run with exit code 0 in the middle). A process that ends without a word, as
they do when their Wine server dies, is started once more; what failed is not.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
CC = "x86_64-w64-mingw32-gcc"
PACKAGES = {CC: "gcc-mingw-w64-x86-64", "wine": "wine wine64"}
# Each of these wheels contains that CPython.
CARRIERS = {1: "panda3d==1.10.14", 7: "panda3d==1.10.15", 10: "panda3d==1.10.16"}
WHEELS = ["trio==0.35.0", "cffi", "attrs", "pytest>=9", "colorama", "hypothesis", "rich>=13"]
SUITE_WHEELS = ["trustme", "pyopenssl"]
# Apart from the others, because pytest finds their plugins.
ANYIO = "anyio==4.16.0"
ANYIO_WHEELS = [ANYIO, "psutil", "pytest-mock", "pytest-timeout", "truststore"]
# Assertions are on: this is for tests. The runtime is the UCRT, not mingw's usual one, whose
# errno and files are others.
FLAGS = [
    *("-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"),
    *("-D_UCRT", "-D__MSVCRT_VERSION__=0xE00", "-D__USE_MINGW_ANSI_STDIO=0"),
]
RUNTIME = [
    *("-nodefaultlibs", "-static-libgcc", "-lmingw32", "-lgcc", "-lmingwex", "-lmoldname"),
    *("-lucrt", "-ladvapi32", "-lshell32", "-luser32", "-lkernel32", "-lmingw32", "-lgcc"),
    *("-lmingwex", "-lucrt"),
]
# Of the standard library: what no test needs, and what needs a module that is not there.
NOT_COPIED = ("__pycache__", "site-packages", "lib-dynload", "test", "tests", "config-*")
# DLLs that Wine has its own of, and _wmi, whose absence the library is ready for: under Wine
# it ends the process.
NOT_UNPACKED = ("api-ms-", "tcl", "tk", "_tkinter", "_wmi")
# As they come from mingw: types whose size depends on the platform.
PYCONFIG = """\
#define MS_WIN32
#define MS_WINDOWS
#define MS_WIN64
#define NT_THREADS
#define WITH_THREAD
#define Py_ENABLE_SHARED 1
#define HAVE_DECLSPEC_DLL
#define PYD_PLATFORM_TAG "win_amd64"
#define SIZEOF_SHORT 2
#define SIZEOF_INT 4
#define SIZEOF_LONG 4
#define SIZEOF_LONG_LONG 8
#define SIZEOF_VOID_P 8
#define SIZEOF_SIZE_T 8
#define SIZEOF_TIME_T 8
#define SIZEOF_OFF_T 4
#define SIZEOF_FPOS_T 8
#define SIZEOF_WCHAR_T 2
#define SIZEOF_PID_T 4
#define ALIGNOF_SIZE_T 8
#define ALIGNOF_LONG 4
#define HAVE_SSIZE_T 1
#define HAVE_WCHAR_H 1
#define HAVE_SYS_TYPES_H 1
#define HAVE_SYS_STAT_H 1
#define HAVE_ERRNO_H 1
#define HAVE_IO_H 1
#define HAVE_STDDEF_H 1
#define HAVE_STDINT_H 1
#define DOUBLE_IS_LITTLE_ENDIAN_IEEE754 1
#include <io.h>
#include <stdio.h>
"""
PYTHON_EXE = """\
#include <wchar.h>
__declspec(dllimport) int Py_Main(int, wchar_t **);
int wmain(int argc, wchar_t **argv)
{
    return Py_Main(argc, argv);
}
"""
# Wheels made with Rust take random bytes from here, and Wine 8 has no such DLL.
BCRYPTPRIMITIVES = """\
__declspec(dllimport) unsigned char SystemFunction036(void *bytes, unsigned long count);
__declspec(dllexport) int ProcessPrng(unsigned char *bytes, unsigned long long count);
int ProcessPrng(unsigned char *bytes, unsigned long long count)
{
    return SystemFunction036(bytes, (unsigned long)count);
}
"""
# pytest's last line, and what it counts.
CLOSING = re.compile(r"^(?:=+ )?(\d+ [a-z]+\b.* in [\d.]+s\b.*?)(?: =+)?\r?$", re.MULTILINE)

# What a process has to say that did not simply vanish: of faulthandler, of assert, of cffi.
LAST_WORDS = ("Fatal Python error", "Windows fatal exception", "Timeout (", "Assertion failed")
TIMED_OUT = 124
NOT_HERE = 3  # exit code: what no package of the system brings is missing
NO_PYTHON = "wine: no CPython 3.12 with its headers is here, whose standard library it takes"


def fail(message: str) -> NoReturn:
    sys.exit(f"wine: {message}")


def wine_program() -> str:
    places = ["/usr/lib/wine/wine64", "/usr/bin/wine64", "/usr/bin/wine"]
    found = shutil.which("wine64") or shutil.which("wine")
    return next((place for place in places if os.path.exists(place)), found or "")


def check_tools() -> None:
    missing = [PACKAGES[CC]] if shutil.which(CC) is None else []
    if not wine_program():
        missing.append(PACKAGES["wine"])
    if missing:
        fail(f"apt-get install --no-install-recommends {' '.join(missing)} (Debian, Ubuntu)")
    local_python()


def local_python() -> tuple[int, dict[str, str]]:
    """The third part of the version of a CPython 3.12 here, and its folders; one of those that
    there is a carrier for, if possible."""
    code = (
        "import sys, sysconfig, json; assert sys.version_info[:2] == (3, 12);"
        "print(json.dumps([sys.version_info[2], sysconfig.get_paths()]))"
    )
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    programs = [sys.executable, *map(str, sorted(home.glob("versions/3.12*/bin/python3.12")))]
    found: list[tuple[int, dict[str, str]]] = []
    for program in (*programs, "python3.12"):
        try:
            said = subprocess.run([program, "-c", code], capture_output=True, text=True)
        except OSError:
            continue
        if said.returncode == 0:
            micro, paths = json.loads(said.stdout)
            if Path(paths["include"], "Python.h").exists():
                found.append((micro, paths))
    if not found:
        print(NO_PYTHON, file=sys.stderr)
        sys.exit(NOT_HERE)
    return max(found, key=lambda each: each[0] in CARRIERS)


def build_settings() -> Any:
    """trio_lio/_ffi_build.py, without the package around it."""
    path = ROOT / "trio_lio" / "_ffi_build.py"
    spec = importlib.util.spec_from_file_location("lio_ffi_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_windows(*arguments: str | Path) -> None:
    command = [CC, *FLAGS, *map(str, arguments), *RUNTIME]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        fail(f"{' '.join(command)}\n{done.stderr}")


class Windows:
    """A Windows CPython in a Wine prefix; those of one folder differ in the prefix alone."""

    def __init__(self, root: Path, lane: int = 0) -> None:
        self.root = root.resolve()
        self.lane = f"lane-{lane}"
        self.prefix = self.root / self.lane / "prefix"
        self.within: list[str] = []
        """What programs are started by."""
        self.python = self.root / "python"
        self.include = self.root / "include"
        self.packages = self.python / "Lib" / "site-packages"
        self.exe = self.python / "python.exe"

    # -- setting up

    def environment(self, **more: str) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TRIO_"))}
        return {
            **env,
            "WINEPREFIX": str(self.prefix),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            # No dialogues that offer to download something.
            "WINEDLLOVERRIDES": "mscoree=;mshtml=;winemenubuilder.exe=",
            "PYTHONUTF8": "1",
            "PYTHONUNBUFFERED": "1",
            **more,
        }

    def once(self, name: str, make: Any) -> None:
        done = self.root / f"{name}.done"
        if not done.exists():
            started = time.monotonic()
            make()
            done.touch()
            print(f"wine: {name} made in {time.monotonic() - started:.0f} s", flush=True)

    def make_prefix(self) -> None:
        shutil.rmtree(self.prefix, ignore_errors=True)
        self.prefix.mkdir(parents=True)
        self.run_program(["wineboot.exe", "-u"], 300)
        self.run_program(["winecfg.exe", "-v", "win10"], 60)
        code, said = self.run(["-c", "import ssl, ctypes, _overlapped; print('ready')"], 120)
        if "ready" not in said:
            fail(f"python.exe does not start under Wine (exit code {code}):\n{said}")

    def make_python(self) -> None:
        micro, paths = local_python()
        nearest = min(CARRIERS, key=lambda each: abs(each - micro))
        if nearest != micro:
            print(f"wine: the library of 3.12.{micro} with the DLLs of 3.12.{nearest}")
        for folder in (self.python, self.include):
            shutil.rmtree(folder, ignore_errors=True)
        ignored = shutil.ignore_patterns(*NOT_COPIED)
        shutil.copytree(paths["stdlib"], self.python / "Lib", ignore=ignored)
        shutil.copytree(paths["include"], self.include)
        (self.include / "pyconfig.h").write_text(PYCONFIG)
        self.packages.mkdir(parents=True)
        (self.python / "DLLs").mkdir()
        [carrier] = self.download("--no-deps", CARRIERS[nearest])
        with zipfile.ZipFile(carrier) as wheel:
            for member in wheel.namelist():
                folder, _, name = member.rpartition("/")
                if folder == "deploy_libs" and not name.startswith(NOT_UNPACKED):
                    beside = name.lower().startswith(("python312.dll", "vcruntime"))
                    place = self.python if beside else self.python / "DLLs"
                    (place / name).write_bytes(wheel.read(member))
        self.make_programs()
        self.install(WHEELS + SUITE_WHEELS)

    def make_programs(self) -> None:
        dll = self.python / "python312.dll"
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch, "source.c")
            source.write_text(PYTHON_EXE)
            compile_windows("-municode", "-Wno-missing-prototypes", source, dll, "-o", self.exe)
            source.write_text(BCRYPTPRIMITIVES)
            made = self.python / "bcryptprimitives.dll"
            compile_windows("-shared", source, "-o", made)
            # For wheels of the stable ABI.
            dump = CC.replace("gcc", "objdump")
            said = subprocess.run([dump, "-p", dll], capture_output=True, text=True, check=True)
            names = re.findall(r"^\s*\[\s*\d+\].*?\s(\w+)$", said.stdout, re.MULTILINE)
            exports = Path(scratch, "python3.def")
            lines = [f"{n} = python312.{n}" for n in sorted(set(names)) if n[0] in "_P"]
            exports.write_text("LIBRARY python3.dll\nEXPORTS\n" + "\n".join(lines) + "\n")
            made = self.python / "python3.dll"
            compile_windows("-shared", "-nostartfiles", "-Wl,-e,0", exports, "-o", made)

    def download(self, *wanted: str) -> list[Path]:
        place = self.root / "wheels"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        abis = [word for abi in ("cp312", "abi3", "none") for word in ("--abi", abi)]
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "-q", "-d", str(place)),
                *("--platform", "win_amd64", "--python-version", "3.12"),
                *("--implementation", "cp", *abis, "--only-binary=:all:", *wanted),
            ],
            check=True,
        )
        return list(place.iterdir())

    def install(self, wanted: list[str], place: Path | None = None) -> None:
        for path in self.download(*wanted):
            with zipfile.ZipFile(path) as wheel:
                wheel.extractall(place or self.packages)

    def make_anyio(self) -> None:
        """anyio with what its tests need, and the tests, which only its sources contain."""
        place = self.root / "anyio"
        shutil.rmtree(place, ignore_errors=True)
        self.install(ANYIO_WHEELS, place / "packages")
        download = [*(sys.executable, "-m", "pip", "download", "-q", "--no-deps")]
        download += ["--no-binary", "anyio", "-d", str(place), ANYIO]
        subprocess.run(download, check=True)
        [archive] = place.glob("anyio-*.tar.gz")
        shutil.unpack_archive(archive, place)
        archive.with_suffix("").with_suffix("").rename(place / "sources")

    # -- building

    def build(self) -> None:
        """Our package, with its extensions, into the site-packages."""
        settings = build_settings()
        how = settings.settings("win32")
        place = self.packages / "trio_lio"
        shutil.rmtree(place, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.c", "*.pyd")
        shutil.copytree(ROOT / "trio_lio", place, ignore=ignored)
        with tempfile.TemporaryDirectory() as scratch:
            generated = Path(scratch, "_lio.c")
            settings.make("win32").emit_c_code(str(generated))
            compile_windows(
                # What cffi generates is not ours to mend.
                *("-shared", "-Wno-error", *settings.WINDOWS_MACROS),
                *(f"-I{self.include}", f"-I{ROOT / 'csrc'}", generated),
                *(ROOT / "csrc" / name for name in how["sources"]),
                self.python / "python312.dll",
                *(f"-l{name}" for name in settings.WINDOWS_LIBRARIES),
                *("-o", place / "_lio.cp312-win_amd64.pyd"),
            )
        compile_windows(
            *("-shared", "-Wno-missing-prototypes", f"-I{self.include}", f"-I{ROOT / 'csrc'}"),
            *(ROOT / "csrc" / "python" / "fast.c", self.python / "python312.dll"),
            *("-o", place / "_fast.cp312-win_amd64.pyd"),
        )

    def build_ctests(self) -> list[Path]:
        settings = build_settings()
        place = self.root / "ctests"
        place.mkdir(exist_ok=True)
        core = []
        for name in settings.settings("win32")["sources"]:
            core.append(place / f"{name}.o")
            source = ROOT / "csrc" / name
            compile_windows(*settings.WINDOWS_MACROS, "-c", source, "-o", core[-1])
        programs = []
        for test in sorted((ROOT / "tests" / "csrc").glob("test_iocp*.c")):
            programs.append(place / f"{test.stem}.exe")
            compile_windows(
                *settings.WINDOWS_MACROS,
                *core,
                test,
                *(f"-l{name}" for name in settings.WINDOWS_LIBRARIES),
                *("-o", programs[-1]),
            )
        return programs

    # -- running

    def run(
        self, arguments: list[str], patience: float, quiet: bool = True, **env: str
    ) -> tuple[int, str]:
        return self.run_program([str(self.exe), *arguments], patience, quiet=quiet, **env)

    def run_program(
        self, command: list[str], patience: float, *, quiet: bool = True, **env: str
    ) -> tuple[int, str]:
        """Exit code and output of a Windows program. Its streams are pipes: with a terminal or
        a file, Wine gives it handles that Python refuses."""
        elsewhere = self.root / self.lane / "elsewhere"
        elsewhere.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            [*self.within, wine_program(), *command],
            env=self.environment(**env),
            cwd=elsewhere,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        said: list[bytes] = []
        reader = threading.Thread(target=_read, args=(process.stdout, said, quiet), daemon=True)
        reader.start()
        try:
            code = process.wait(patience)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = TIMED_OUT
            said.append(f"\nwine: stopped after {patience:.0f} s\n".encode())
        reader.join(5)  # a child of it that lives on holds the pipe
        return code, b"".join(said).decode(errors="replace")

    def stop_server(self) -> None:
        """Ends what runs in the prefix. The server is what has all sockets."""
        server = str(Path(wine_program()).with_name("wineserver"))
        program = server if os.path.exists(server) else shutil.which("wineserver") or server
        subprocess.run([program, "-k"], env=self.environment(), timeout=60)

    def windows_path(self, path: Path) -> str:
        return "Z:" + str(path).replace("/", "\\")

    def pytest(self, arguments: list[str], patience: float, **env: str) -> tuple[int, str]:
        """The same of pytest; once more if it vanished."""
        common = ["-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short"]
        code, said = self.run([*common, *arguments], patience, **env)
        if code != TIMED_OUT and vanished(said):
            print(f"wine: once more: ended without a word, exit code {code}\n{said[-2000:]}")
            self.stop_server()
            code, said = self.run([*common, *arguments], patience, **env)
        return code, said


def vanished(said: str) -> bool:
    """Whether a run of pytest ended in the middle, and for no reason that it knew of."""
    return not CLOSING.search(said) and not any(words in said for words in LAST_WORDS)


def set_up(lanes: list[Windows]) -> None:
    """Makes what is not there yet, and builds the package."""
    first = lanes[0]
    first.root.mkdir(parents=True, exist_ok=True)
    with open(first.root / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        first.once("python", first.make_python)
        with ThreadPoolExecutor(len(lanes)) as pool:
            for made in [pool.submit(lane.once, lane.lane, lane.make_prefix) for lane in lanes]:
                made.result()
        first.build()


def _read(stream: IO[bytes], said: list[bytes], quiet: bool) -> None:
    while chunk := os.read(stream.fileno(), 65536):
        said.append(chunk)
        if not quiet:
            sys.stdout.buffer.write(chunk)
            sys.stdout.flush()


# -- the steps ---------------------------------------------------------------------------


@dataclass
class Report:
    """What came of one job."""

    text: str
    failed: int = 0
    passed: int = 0
    step: str = ""  # of those whose numbers are summed up


Job = Callable[[Windows], Report]


def ctests(windows: Windows) -> list[Job]:
    def run(program: Path, windows: Windows) -> Report:
        started = time.monotonic()
        code, said = windows.run_program([str(program)], 300)
        count = len(re.findall(r"^test_\w+", said, re.MULTILINE))
        seconds = time.monotonic() - started
        if code != 0 or "ok: 0 failed" not in said:
            return Report(
                f"{said}\n=== C tests, {program.stem}: 1 failed in {seconds:.2f}s ===", 1
            )
        return Report(f"=== C tests, {program.stem}: {count} passed in {seconds:.2f}s ===")

    return [partial(run, program) for program in windows.build_ctests()]


def doctor(windows: Windows) -> list[Job]:
    def run(windows: Windows) -> Report:
        code, said = windows.run(["-m", "trio_lio", "doctor"], 120)
        chosen = code == 0 and re.search(r"^iocp +chosen", said, re.MULTILINE)
        return Report(f"{said}\ndoctor: {'ok' if chosen else f'exit code {code}'}", not chosen)

    return [run]


def demo(windows: Windows) -> list[Job]:
    def run(windows: Windows) -> Report:
        arguments = ["-m", "trio_lio", "demo", "--seconds", "0.5", "--rounds", "1"]
        code, said = windows.run(arguments, 120)
        measured = code == 0 and re.search(r"^lio-iocp +\d", said, re.MULTILINE)
        return Report(
            f"{said}\ndemo: {'ok' if measured else f'exit code {code}'}", not measured
        )

    return [run]


def tests(folder: str) -> list[Job]:
    def run(windows: Windows) -> Report:
        arguments = ["-c", windows.windows_path(ROOT / "pyproject.toml")]
        arguments += ["--rootdir", windows.windows_path(ROOT)]
        arguments += [windows.windows_path(ROOT / "tests" / folder)]
        code, said = windows.pytest(arguments, 900)
        closing = CLOSING.findall(said)
        if code == 0 and closing and " passed" in closing[-1]:
            return Report(f"=== tests/{folder} on iocp: {closing[-1]} ===")
        line = closing[-1] if closing else f"no closing line, exit code {code}; 1 failed in 0s"
        return Report(f"{said}\n=== tests/{folder} on iocp: {line} ===", 1)

    return [run]


def conformance(windows: Windows) -> list[Job]:
    return tests("conformance")


def trio(windows: Windows) -> list[Job]:
    return tests("trio")


def known_failures(suite: str) -> dict[str, str]:
    """The tests of others that fail under Wine, or are left out there, and why."""
    lines = (ROOT / "tests" / suite / "wine_failures.txt").read_text().splitlines()
    wanted = [line for line in lines if line.strip() and not line.startswith("#")]
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in wanted)


def judge(step: str, name: str, said: str, code: int, known: dict[str, str]) -> Report:
    """Of one file of a suite of others', or of all. A test may fail if it is known to; it
    counts only what the closing line tells, and every failure has to have a name."""
    failed = re.findall(r"^(?:FAILED|ERROR) .*?::(.+?)(?: - .*)?\r?$", said, re.MULTILINE)
    new = [each for each in failed if each not in known]
    closing = CLOSING.findall(said)[-1:]
    counts = {word: int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", "".join(closing))}
    told = sum(counts.get(word, 0) for word in ("failed", "error", "errors"))
    bad = bool(new) or not closing or told != len(failed) or code not in (0, 1, 5)
    text = f"{name}: {closing[0] if closing else f'no closing line, exit code {code}'}"
    if new:
        text += f"; not known to fail: {new}"
    elif failed:
        text += f"; known: {failed}"
    return Report(f"{said}\n{text}" if bad else text, bad, counts.get("passed", 0), step)


def suite(windows: Windows) -> list[Job]:
    """Trio's own tests, each file in a process of its own. They may fail where stock Trio does
    for Wine's sake, and nowhere else."""
    known = known_failures("trio_suite")
    plugin = ROOT / "tests" / "trio_suite"

    def run(path: Path, windows: Windows) -> Report:
        name = ".".join(path.relative_to(windows.packages).with_suffix("").parts)
        arguments = ["-c", windows.windows_path(plugin / "pytest.ini"), "--pyargs", name]
        arguments += ["-p", "trio._tests.pytest_plugin", "-p", "trio_suite_plugin", "-rfE"]
        arguments += ["--skip-optional-imports", "-k", "not static_tool"]
        paths = ";".join(map(windows.windows_path, (plugin, plugin / "windows")))
        code, said = windows.pytest(arguments, 600, PYTHONPATH=paths, TRIO_SUITE_BACKEND="iocp")
        return judge("Trio's suite on iocp", path.stem, said, code, known)

    paths = sorted((windows.packages / "trio").rglob("test_*.py"))
    return [
        partial(run, path)
        for path in paths
        if "type_tests" not in path.parts and "tools" not in path.parts
    ]


def anyio(windows: Windows) -> list[Job]:
    """anyio's own tests, in a network of their own, which has the names that they look up. They
    may fail where they do on stock Trio, too."""
    plugin = ROOT / "tests" / "anyio_suite"
    windows.once("anyio", windows.make_anyio)
    place = windows.root / "anyio"

    def run(windows: Windows) -> Report:
        step, network = (
            "anyio's suite on iocp",
            [sys.executable, str(plugin / "private_network.py")],
        )
        arguments = ["-c", windows.windows_path(place / "sources" / "pyproject.toml")]
        arguments += [windows.windows_path(place / "sources" / "tests")]
        paths = ";".join(map(windows.windows_path, (plugin, place / "packages")))
        check = subprocess.run([*network, "true"], capture_output=True, text=True)
        if check.returncode != 0:
            return Report(f"{step}: not started: {check.stderr.strip()}", 1, step=step)
        windows.stop_server()  # lest it lives on in the other network
        windows.within = network
        try:
            code, said = windows.pytest(
                arguments,
                900,
                PYTHONPATH=paths,
                PYTEST_PLUGINS="anyio_suite_plugin",
                PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
                ANYIO_SUITE_BACKEND="iocp",
            )
        finally:
            windows.within = []
            windows.stop_server()
        return judge(step, "anyio", said, code, known_failures("anyio_suite"))

    return [run]


STEPS = {
    each.__name__: each for each in (ctests, doctor, demo, conformance, trio, anyio, suite)
}


def run_side_by_side(jobs: list[Job], lanes: list[Windows]) -> int:
    """Runs them, in as many prefixes as there are; how many failed."""
    started = time.monotonic()
    left, lock = jobs[::-1], threading.Lock()
    reports: list[Report] = []

    def work(windows: Windows) -> None:
        while True:
            with lock:
                if not left:
                    return
                job = left.pop()
            try:
                report = job(windows)
            except Exception as exc:
                report = Report(f"{type(exc).__name__}: {exc}", 1)
            with lock:
                reports.append(report)
                print(report.text, flush=True)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for step in dict.fromkeys(report.step for report in reports if report.step):
        of_step = [report for report in reports if report.step == step]
        failed = sum(report.failed for report in of_step)
        numbers = f"{failed} failed, " if failed else ""
        numbers += f"{sum(report.passed for report in of_step)} passed"
        print(f"=== {step}: {numbers} in {time.monotonic() - started:.2f}s ===", flush=True)
    return sum(report.failed for report in reports)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="where it makes all it needs")
    parser.add_argument("--check", action="store_true", help="only say what is missing here")
    parser.add_argument("--lanes", type=int, default=2, help="what runs at once (default: 2)")
    parser.add_argument("steps", nargs=argparse.REMAINDER, help=f"{', '.join(STEPS)}, all, run")
    options = parser.parse_args()
    steps = options.steps or ["all"]
    if steps == ["all"]:
        steps = list(STEPS)
    alone = steps[0] == "run"
    unknown = [step for step in steps if step not in STEPS]
    if unknown and not alone:
        fail(f"no such step: {', '.join(unknown)}; there are {', '.join(STEPS)}")
    check_tools()
    if options.check:
        return
    lanes = [Windows(options.root, lane) for lane in range(1 if alone else options.lanes)]
    set_up(lanes)
    if alone:
        code, _ = lanes[0].run(steps[1:], 3600, quiet=False)
        sys.exit(code)
    jobs = [job for step in steps for job in STEPS[step](lanes[0])]
    sys.exit(run_side_by_side(jobs, lanes) != 0)


if __name__ == "__main__":
    main()
