"""Builds the C core with each of its tests, tests/csrc/test_*.c, and runs them.

Needs a C compiler and no Python package. Assertions are on. Exit code 0: all passed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import build_kqueue

ROOT = Path(__file__).resolve().parent.parent
FLAGS = [
    *("-std=c11", "-D_GNU_SOURCE", "-pthread", "-g", "-O1", "-fno-omit-frame-pointer"),
    *("-Wall", "-Wextra", "-Werror"),
]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
THREAD = ["-fsanitize=thread"]
VALGRIND = [
    *("valgrind", "-q", "--error-exitcode=99", "--leak-check=full"),
    *("--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"),
]
# valgrind does not see what io_uring writes into memory after the call that asked for it, and
# gives up in children of a process with a ring. So it gets a kernel without io_uring; on the
# poller the core makes its system calls itself. And epoll_pwait2 it may not know.
NO_IO_URING = """
#include <errno.h>
long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    if (number == 425 || number == 441) { /* io_uring_setup, epoll_pwait2: everywhere */
        errno = ENOSYS;
        return -1;
    }
    return __real_syscall(number, a, b, c, d, e, f);
}
"""
# A test may stand in for these: what it gets instead it defines as __wrap_NAME.
WRAPPED = {
    "test_no_memory": ("malloc", "calloc", "realloc", "free", "mmap", "munmap"),
}
# These count descriptors, of which valgrind has some of its own, race with signals, which it
# delivers when it likes, hand over bad addresses on purpose, and watch processes by pidfd_open,
# which it may not know.
NOT_UNDER_VALGRIND = {
    *("test_contract_fds", "test_contract_wait", "test_fuzz", "test_kqueue_on_linux"),
}
# What only Windows has: tools/wine.py builds and tests it.
WINDOWS = ("iocp", "no_posix")
# A test hangs rather than takes so long.
PATIENCE = 300


def fail(message: str) -> None:
    sys.exit(f"build_ctests: {message}")


def compiler() -> list[str]:
    command = os.environ.get("CC", "gcc").split()
    if shutil.which(command[0]) is None:
        fail(
            f"there is no C compiler {command[0]!r}: apt-get install gcc libc6-dev (Debian, "
            "Ubuntu), dnf install gcc (Fedora), apk add gcc musl-dev (Alpine)"
        )
    return command


def check_sanitizers(cc: Sequence[str], sanitizers: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "empty.c")
        source.write_text("int main(void) { return 0; }\n")
        command = [*cc, *sanitizers, str(source), "-o", str(source.with_suffix(""))]
        tried = subprocess.run(command, capture_output=True, text=True)
    if tried.returncode != 0:
        fail(
            "the compiler finds no sanitizers: they come with gcc on Debian and Ubuntu "
            "(libasan, libubsan and libtsan of libgcc-*-dev); dnf install libasan libubsan "
            "libtsan (Fedora)\n"
            f"{tried.stderr}"
        )


def run_all(commands: Iterable[list[str]]) -> None:
    """Runs compilers side by side; the first that fails ends it."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        work = [
            pool.submit(subprocess.run, command, capture_output=True, text=True)
            for command in commands
        ]
        for one in work:
            done = one.result()
            if done.returncode != 0:
                pool.shutdown(cancel_futures=True)
                fail(f"{' '.join(done.args)}\n{done.stderr}")


def has_threads(test: Path) -> bool:
    return "pthread_create" in test.read_text()


def with_kqueue(flags: Sequence[str], folder: Path, core: list[Path]) -> list[str]:
    """The flags with which the backend kqueue is built too: over the tests' own kqueue, or
    over that of the prefix TRIO_LIO_KQUEUE; empty, it is left out."""
    asked = os.environ.get("TRIO_LIO_KQUEUE")
    if asked == "":
        core[:] = [source for source in core if source.name != "poller_kqueue.c"]
        return []
    prefix = Path(asked) if asked else build_kqueue.build(folder / "kqueue", list(flags))
    return ["-DLIO_KQUEUE", "-I", str(prefix / "include")]


def build(
    cc: Sequence[str], flags: Sequence[str], folder: Path, tests: Sequence[Path], *, uring: bool
) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    core = [c for c in sorted((ROOT / "csrc").glob("*.c")) if not c.stem.startswith(WINDOWS)]
    link = []
    kqueue = with_kqueue(flags, folder, core)
    flags = [*flags, *kqueue]
    if kqueue:
        link.append(str(Path(kqueue[-1]).parent / "lib" / "libkqueue.a"))
    if not uring:
        link.append("-Wl,--wrap=syscall")
        core.append(folder / "no_io_uring.c")
        core[-1].write_text(NO_IO_URING)
    if not kqueue:
        tests = [test for test in tests if "kqueue" not in test.stem]
    objects = {source: folder / f"{source.stem}.o" for source in (*core, *tests)}
    run_all(
        [*cc, *flags, "-I", str(ROOT / "csrc"), "-c", str(source), "-o", str(made)]
        for source, made in objects.items()
    )
    programs = [folder / test.stem for test in tests]
    run_all(
        [
            *(*cc, *flags, str(objects[test])),
            *(str(objects[source]) for source in core),
            *link,
            *(f"-Wl,--wrap={name}" for name in WRAPPED.get(test.stem, ())),
            *("-o", str(program)),
        ]
        for test, program in zip(tests, programs, strict=True)
    )
    return programs


def run(program: Path, wrapper: Sequence[str], only: str | None) -> tuple[int, int]:
    """How many tests passed and failed. Shows what a program said when it failed."""
    started = time.monotonic()
    command = [*wrapper, str(program), *([only] if only else [])]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
        code, said = str(done.returncode), done.stdout
    except subprocess.TimeoutExpired as exc:
        code, said = f"no end after {PATIENCE} s", exc.stdout or b""
    output = said.decode(errors="replace")
    # A program that names no tests is one.
    count = len(re.findall(r"^test_\w+$", output, flags=re.MULTILINE)) or 1
    failed = 0
    if code != "0":
        # What went wrong in a test stands below its name, indented.
        failed = len(re.findall(r"^test_\w+\n(?= )", output, flags=re.MULTILINE)) or 1
        print(output, end="")
    seconds = time.monotonic() - started
    state = "ok" if not failed else f"FAILED ({code})"
    print(f"{program.name:<32} {count:>3} tests  {seconds:6.2f} s  {state}", flush=True)
    return count - failed, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--sanitize", action="store_true", help="with ASan and UBSan")
    how.add_argument("--thread", action="store_true", help="with TSan, what has threads")
    how.add_argument("--valgrind", action="store_true", help="under valgrind")
    parser.add_argument("--run-with", metavar="EMULATOR", help="for another processor")
    parser.add_argument("--build", type=Path, help="where to build; kept")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM[:TEST]", help="which ones")
    options = parser.parse_args()
    cc = compiler()
    tests = sorted((ROOT / "tests" / "csrc").glob("test_*.c"))
    if not tests:
        fail(f"no tests in {ROOT / 'tests' / 'csrc'}")
    flags, wrapper, name = list(FLAGS), [], "plain"
    if options.run_with:
        wrapper = [options.run_with]
        name = Path(options.run_with).name
    if options.sanitize:
        check_sanitizers(cc, SANITIZE)
        flags += SANITIZE
        name = "ASan and UBSan"
    elif options.thread:
        check_sanitizers(cc, THREAD)
        flags += THREAD
        # It has something to say only of these: lio_wake, lio_wait_ready, the file workers.
        tests = [test for test in tests if has_threads(test)]
        name = "TSan"
    elif options.valgrind:
        if shutil.which("valgrind") is None:
            fail("there is no valgrind: apt-get install valgrind libc6-dbg")
        wrapper = VALGRIND
        name = "valgrind"
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.build or Path(scratch)) / name.replace(" ", "_")
        wanted = dict(p.partition(":")[::2] for p in options.programs)
        started = time.monotonic()
        passed = failed = 0
        for program in build(cc, flags, folder, tests, uring=not options.valgrind):
            if wanted and program.name not in wanted:
                continue
            if options.valgrind and program.name in NOT_UNDER_VALGRIND:
                print(f"{program.name:<32} not under valgrind")
                continue
            good, bad = run(program, wrapper, wanted.get(program.name))
            passed += good
            failed += bad
    if results := os.environ.get("TRIO_LIO_RESULTS"):  # for tools/reliability.py
        made = {"name": name, "passed": passed, "failed": failed}
        Path(results, f"ctests-{folder.name}.json").write_text(json.dumps(made))
    seconds = time.monotonic() - started
    print(f"=== C tests, {name}: {failed} failed, {passed} passed in {seconds:.2f}s ===")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
