"""Builds the kqueue on Linux of the tests, tests/kqueue_on_linux, into a prefix::

    python3 tools/build_kqueue.py PREFIX
    TRIO_LIO_KQUEUE=PREFIX pip install -e .

Needs a C compiler and no Python package.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tests" / "kqueue_on_linux"


def build(prefix: Path, flags: list[str] | None = None) -> Path:
    """``include/sys/event.h`` and ``lib/libkqueue.a``; returns the prefix."""
    cc = os.environ.get("CC", "gcc").split()
    archiver = os.environ.get("AR", "ar").split()
    shutil.rmtree(prefix, ignore_errors=True)
    shutil.copytree(SOURCE / "include", prefix / "include")
    library = prefix / "lib" / "libkqueue.a"
    library.parent.mkdir()
    made = library.with_name("kqueue.o")
    options = flags or ["-O1", "-g"]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(
        [
            *(*cc, "-std=c11", "-D_GNU_SOURCE", "-pthread", "-fPIC", *options, *warnings),
            *("-I", str(prefix / "include"), "-c", str(SOURCE / "kqueue.c"), "-o", str(made)),
        ],
        check=True,
    )
    subprocess.run([*archiver, "rcs", str(library), str(made)], check=True)
    made.unlink()
    return prefix


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("prefix", type=Path)
    print(build(parser.parse_args().prefix))
