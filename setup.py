"""The C extension of trio-lio. Everything else stands in pyproject.toml."""

from __future__ import annotations

import sys

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, PlatformError

if not sys.platform.startswith("linux"):
    raise SystemExit(
        f"trio-lio has no backend for {sys.platform} yet: it runs on Linux (io_uring and "
        "epoll). macOS, the BSDs (kqueue) and Windows (IOCP) are planned."
    )

REMEDY = (
    "trio-lio has a core in C and found no working C compiler. Install one together with "
    "Python's headers, then try again: 'apt-get install gcc python3-dev' (Debian, Ubuntu), "
    "'dnf install gcc python3-devel' (Fedora), 'apk add gcc musl-dev python3-dev' (Alpine)."
)


class BuildExtension(build_ext):
    def build_extensions(self) -> None:
        try:
            super().build_extensions()
        except (CompileError, PlatformError) as exc:
            raise SystemExit(f"{REMEDY}\nThe compiler said: {exc}") from exc


setup(
    cffi_modules=["trio_lio/_ffi_build.py:ffibuilder"],
    cmdclass={"build_ext": BuildExtension},
)
