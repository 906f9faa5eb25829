"""The C extension of trio-lio. Everything else stands in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

if not sys.platform.startswith(
    ("linux", "darwin", "freebsd", "openbsd", "netbsd", "dragonfly", "win32")
):
    raise SystemExit(
        f"trio-lio has no backend for {sys.platform} yet: it runs on Linux (io_uring and "
        "epoll), macOS and the BSDs (kqueue), and Windows (IOCP)."
    )

REMEDY = (
    "Install a C compiler together with the headers of the C library and of Python, then try "
    "again: 'apt-get install gcc libc6-dev python3-dev' (Debian, Ubuntu), 'dnf install gcc "
    "python3-devel' (Fedora), 'apk add gcc musl-dev python3-dev' (Alpine), 'xcode-select "
    "--install' (macOS)."
)


class BuildExtension(build_ext):
    """Says what to install when that is the trouble; any other error is the compiler's."""

    def build_extensions(self) -> None:
        try:
            super().build_extensions()
        except (CCompilerError, ExecError, PlatformError) as exc:
            missing = self.missing()
            if missing is None:
                raise
            raise SystemExit(f"trio-lio has a core in C, and {missing}. {REMEDY}") from exc

    def missing(self) -> str | None:
        """What is not there that every build needs."""
        if sys.platform == "win32":
            return None  # what Microsoft's compiler lacks, setuptools says
        command = self.compiler.compiler  # those of the compiler_so are the same and more
        if shutil.which(command[0]) is None:
            return f"there is no C compiler {command[0]!r}"
        folders = [f"-I{folder}" for folder in self.compiler.include_dirs]
        for header, owner in (("stdio.h", "the C library"), ("Python.h", "Python")):
            tried = subprocess.run(
                [*command, *folders, "-E", "-x", "c", "-"],
                input=f"#include <{header}>\n",
                text=True,
                capture_output=True,
            )
            if tried.returncode != 0:
                said = tried.stderr.strip() or f"{command[0]} failed"
                if header in said:
                    return f"the headers of {owner} are not there ({header})"
                return f"the C compiler {command[0]!r} does not work ({said})"
        return None


# As that of the core: set by the sanitizer sessions, and then assertions are on.
extra = os.environ.get("TRIO_LIO_CFLAGS", "").split()
strict = "-std=c11 -fvisibility=hidden -Wall -Wextra".split()
if extra:
    strict.append("-Werror")

# It uses the stable ABI, which CPython without its lock does not have; for what else has no
# such module, see trio_lio/_inner.py.
fast = Extension(
    "trio_lio._fast",
    ["csrc/python/fast.c"],
    include_dirs=["csrc"],
    depends=["csrc/lio.h"],
    extra_compile_args=[
        *([] if sys.platform == "win32" else strict),
        *(extra or ["-DNDEBUG"]),
    ],
    extra_link_args=extra,
    py_limited_api=True,
)
has_fast = sys.implementation.name == "cpython" and not sysconfig.get_config_var(
    "Py_GIL_DISABLED"
)

setup(
    ext_modules=[fast] if has_fast else [],
    cffi_modules=["trio_lio/_ffi_build.py:ffibuilder"],
    cmdclass={"build_ext": BuildExtension},
)
