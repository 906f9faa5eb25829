"""Compiles the C for other systems, and runs the core's tests on other processors.

Needs the package ziglang, which brings a compiler and the headers of all targets. With
``--run``, the C tests of the poller are also linked for the Linux targets for which there is
an emulator (qemu-user), and run there: one of them is big-endian.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_HEADERS = sysconfig.get_path("include")
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror"]
LINUX = [
    *("x86_64-linux-gnu", "x86_64-linux-musl", "aarch64-linux-gnu", "aarch64-linux-musl"),
    *("riscv64-linux-gnu", "riscv64-linux-musl", "s390x-linux-gnu", "s390x-linux-musl"),
]
KQUEUE = [
    *("aarch64-macos", "x86_64-macos", "x86_64-freebsd", "aarch64-freebsd"),
    *("x86_64-openbsd", "aarch64-openbsd", "x86_64-netbsd", "aarch64-netbsd"),
]
WINDOWS = ["x86_64-windows-gnu", "aarch64-windows-gnu"]
# clang in the shape of Microsoft's compiler, and what that one does not know. The headers are
# mingw's all the same, which want a GNU compiler and are not pedantic: what counts is what is
# said of our files.
MICROSOFT = [
    *("-fms-compatibility", "-fms-extensions", "-fms-compatibility-version=19.38"),
    *("-fgnuc-version=4.2.1", "-Wmicrosoft", "-pedantic", "-Wgnu", "-Wno-error"),
]
EMULATED = {
    "aarch64-linux-musl": ("qemu-aarch64-static", "qemu-aarch64"),
    "s390x-linux-musl": ("qemu-s390x-static", "qemu-s390x"),
}
# What an emulator of system calls does not do as a kernel does: these look at all descriptors
# of the process, at every mapping that is made, or at moments; the fuzzer crashes the emulator.
NOT_EMULATED = {"test_contract_fds", "test_contract_spin", "test_fuzz", "test_no_memory"}
# An emulated arm64 lets a later load overtake a sequentially consistent store, which no arm64
# does: with a fence between the two, the wake that is lost then and now is not (qemu 7.2).
NOT_EMULATED |= {"test_contract_wait"}
# They pass, and take a minute each.
NOT_EMULATED |= {"test_contract_load", "test_contract_send"}


def sources_of(target: str) -> tuple[list[str], list[str]]:
    """What is built there, and with which further flags: as trio_lio/_ffi_build.py says, which
    cannot be imported without cffi."""
    lists: dict[str, list[str]] = {}
    for line in ast.parse((ROOT / "trio_lio" / "_ffi_build.py").read_text()).body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.List):
            [name] = line.targets
            lists[ast.unparse(name)] = ast.literal_eval(line.value)
    if target in WINDOWS:
        # Which Windows that is, this compiler says itself.
        macros = [macro for macro in lists["WINDOWS_MACROS"] if "_WINNT" not in macro]
        return lists["PORTABLE"] + lists["WINDOWS"], macros
    common = lists["PORTABLE"] + lists["POSIX"]
    if target in KQUEUE:
        return common + lists["KQUEUE"], ["-DLIO_KQUEUE"]
    return common + lists["LINUX"], []


def suits_headers(target: str) -> bool:
    """Whether the hot path, which needs those of a Python, can be compiled against those of
    the one at hand: they are made for its own kind of processor. Windows: see wine.py."""
    fits = sys.byteorder == "little" and "s390x" not in target and target not in WINDOWS
    return fits and sys.maxsize > 2**32 and Path(PYTHON_HEADERS, "Python.h").exists()


def compile_for(target: str, folder: Path) -> str:
    """The compiler's complaints, or nothing."""
    names, flags = sources_of(target)
    if suits_headers(target):
        names = [*names, "python/fast.c"]
        flags = [*flags, f"-I{ROOT / 'csrc'}", f"-I{PYTHON_HEADERS}"]
    # Without assertions it must not complain, either; once for each set of files will do.
    first = target in (LINUX[0], KQUEUE[0], WINDOWS[0])
    ways = ["-UNDEBUG", "-DNDEBUG"] if first else ["-UNDEBUG"]
    said = ""
    for name in names:
        for assertions in ways:
            command = [
                *(sys.executable, "-m", "ziglang", "cc", "-target", target, *FLAGS, *flags),
                *(assertions, "-c", str(ROOT / "csrc" / name)),
                *("-o", str(folder / f"{target}-{Path(name).name}.o")),
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                said += done.stderr
        if target == WINDOWS[0]:
            said += microsoft_complaints(name, flags, folder)
    return said


def microsoft_complaints(name: str, flags: list[str], folder: Path) -> str:
    command = [
        *(sys.executable, "-m", "ziglang", "cc", "-target", WINDOWS[0], *FLAGS, *flags),
        *(*MICROSOFT, "-c", str(ROOT / "csrc" / name), "-o", str(folder / f"ms-{name}.o")),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    ours = re.escape(str(ROOT / "csrc"))
    said = re.findall(rf"^{ours}.*(?:warning|error): .*$", done.stderr, re.MULTILINE)
    if done.returncode != 0 and not said:
        return done.stderr
    return "".join(f"{line}\n" for line in said)


def run_tests(target: str, folder: Path) -> int | None:
    """The exit code of the C tests under an emulator; None: there is none."""
    emulator = next(filter(None, map(shutil.which, EMULATED[target])), None)
    if emulator is None:
        print(
            f"{target}: no {' or '.join(EMULATED[target])} (apt-get install qemu-user-static)"
        )
        return None
    compiler = f"{sys.executable} -m ziglang cc -target {target} -static"
    archiver = f"{sys.executable} -m ziglang ar"
    tests = sorted(test.stem for test in (ROOT / "tests" / "csrc").glob("test_*.c"))
    print(f"{target}: C tests with {emulator}", flush=True)
    command = [sys.executable, str(ROOT / "tools" / "build_ctests.py")]
    command += ["--build", str(folder / target), "--run-with", emulator]
    command += [test for test in tests if test not in NOT_EMULATED]
    return subprocess.run(
        command, env={**os.environ, "CC": compiler, "AR": archiver}
    ).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", action="store_true", help="also run tests, with qemu-user")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    options = parser.parse_args()
    targets = options.targets or [*LINUX, *KQUEUE, *WINDOWS]
    started = time.monotonic()
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            said_of = pool.map(lambda target: compile_for(target, folder), targets)
            for target, said in zip(targets, said_of, strict=True):
                print(f"{target:<22} {'FAILED' if said else 'ok'}\n{said}".rstrip(), flush=True)
                failed += bool(said)
        ran = [run_tests(t, folder) for t in targets if options.run and t in EMULATED]
    failed += sum(code not in (0, None) for code in ran)
    seconds = time.monotonic() - started
    passed = len(targets) + len(ran) - failed - ran.count(None)
    print(f"=== cross: {failed} failed, {passed} passed in {seconds:.2f}s ===")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
