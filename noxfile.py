"""The checks of trio-lio: ``python3 -m nox``, or ``-s NAME`` for one of them.

Every session builds from a copy of the tree, so that builds for several Pythons never meet
and nothing is left behind in the tree but ``.nox``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "virtualenv"
# A Python that is not here is reported in the summary, and neither fetched nor an error.
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"
nox.options.sessions = [
    "lint",
    "typing",
    "tests",
    "trio_suite",
]

ROOT = Path(__file__).resolve().parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
OLDEST_TRIO = "0.27.0"
BACKENDS = ["uring", "epoll"]

_NOT_COPIED = shutil.ignore_patterns(
    ".git",
    ".nox",
    ".venv",
    ".*_cache",
    ".hypothesis",
    "__pycache__",
    "build",
    "dist",
    "_build",
    "*.egg-info",
    "*.so",
    "*.o",
    "_lio.c",
)


def _runs(name: str, version: str) -> bool:
    """Whether there is such a Python. That there is a file of that name is not enough: a
    version manager may have put a stand-in there."""
    if shutil.which(name) is None:
        return False
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    found = subprocess.run([name, "-c", code], capture_output=True, text=True)
    return found.returncode == 0 and found.stdout.strip() == version


def _found() -> list[str]:
    return [version for version in PYTHONS if _runs(f"python{version}", version)]


# None: the Python that runs nox.
FOUND: list[str | None] = [*_found()] or [None]


def _place(session: nox.Session) -> Path:
    """A directory of this session's own, for whatever it makes."""
    place = Path(session.virtualenv.location).resolve() / "tmp"
    place.mkdir(exist_ok=True)
    return place


def _copy(session: nox.Session) -> Path:
    """The tree as it is in a clone, in this session's own place."""
    copy = _place(session) / "tree"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT, copy, ignore=_NOT_COPIED)
    return copy


def _need(session: nox.Session, program: str, packages: str) -> None:
    if shutil.which(program) is None:
        session.error(f"this session needs {program}: {packages}")


def _install(session: nox.Session, extra: str, *more: str) -> Path:
    """Installs trio-lio from a copy of the tree, and goes where nothing but the installed
    package can be imported."""
    copy = _copy(session)
    session.install(f"{copy}[{extra}]", *more)
    elsewhere = _place(session) / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    session.chdir(elsewhere)
    check = (
        "import sysconfig, trio, trio_lio;"
        "home = sysconfig.get_path('platlib');"
        "assert trio_lio.__file__.startswith(home), trio_lio.__file__;"
        "print('trio_lio', trio_lio.__version__, 'on Trio', trio.__version__, 'in', home)"
    )
    session.run("python", "-c", check)
    return copy


def _pytest(session: nox.Session, *arguments: str, **env: str) -> None:
    session.run("pytest", "-o", f"cache_dir={_place(session) / 'cache'}", *arguments, env=env)


def _run_tests(session: nox.Session, copy: Path) -> None:
    config = ["-c", str(copy / "pyproject.toml"), "--rootdir", str(copy)]
    _pytest(session, *config, *(session.posargs or [str(copy / "tests")]))


@nox.session
def lint(session: nox.Session) -> None:
    """ruff over the Python, clang-format over the C."""
    session.install("ruff>=0.14", "clang-format>=21")
    session.run("ruff", "check", "--no-cache", ".")
    session.run("ruff", "format", "--no-cache", "--check", "--diff", ".")
    c_files = [
        str(path.relative_to(ROOT))
        for folder in ("csrc", "tests/csrc")
        for path in sorted((ROOT / folder).glob("*.[ch]"))
    ]
    session.run("clang-format", "--dry-run", "-Werror", *c_files)


@nox.session
def typing(session: nox.Session) -> None:
    """mypy --strict over the package; what to check stands in pyproject.toml."""
    session.install("mypy>=1.18", "types-cffi", "trio>=0.30", "attrs", "outcome", "rich>=13")
    session.run("mypy", "--cache-dir", str(_place(session) / "mypy"))


@nox.session
def tests(session: nox.Session) -> None:
    """The tests against the installed package; arguments after -- go to pytest."""
    _run_tests(session, _install(session, "test"))


@nox.session(python=PYTHONS)
def matrix(session: nox.Session) -> None:
    """The tests on every Python that is found."""
    _run_tests(session, _install(session, "test"))


@nox.session(python=FOUND[0])
def tests_oldest(session: nox.Session) -> None:
    """The tests on the oldest Trio that is supported."""
    _run_tests(session, _install(session, "test", f"trio=={OLDEST_TRIO}"))


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation; a warning is an error. Its examples are run by tests/test_docs.py."""
    copy = _install(session, "docs")
    out = ROOT / "docs" / "_build" / "html"
    doctrees = _place(session) / "doctrees"
    session.run(
        *("sphinx-build", "-W", "-n", "--keep-going", "-E", "-b", "html"),
        *("-d", str(doctrees), str(copy / "docs"), str(out)),
    )
    session.log(f"{out / 'index.html'}")


@nox.session
def sanitize(session: nox.Session) -> None:
    """The C core's own tests with assertions, under ASan and UBSan, and under valgrind."""
    _need(session, os.environ.get("CC", "gcc"), "apt-get install gcc, or dnf install gcc")
    build = _place(session) / "ctests"
    runner = [sys.executable, str(ROOT / "tools" / "build_ctests.py"), "--build", str(build)]
    session.run(*runner, "--sanitize", *session.posargs, external=True)
    if shutil.which("valgrind") is None:
        session.warn("no valgrind here (apt-get install valgrind libc6-dbg): not run under it")
    else:
        session.run(*runner, "--valgrind", *session.posargs, external=True)


@nox.session
def trio_suite(session: nox.Session) -> None:
    """Trio's own tests with trio-lio underneath, on each backend."""
    _install(session, "test")
    suite = ROOT / "tests" / "trio_suite"
    plugins = ["trio._tests.pytest_plugin", "trio_suite_plugin"]
    arguments = ["-c", str(suite / "pytest.ini"), "--pyargs", "trio", "-q"]
    arguments += [word for plugin in plugins for word in ("-p", plugin)]
    # What mypy, jedi and the like say of Trio does not depend on what is underneath.
    arguments += ["--skip-optional-imports", "-k", "not static_tool", *session.posargs]
    for backend in BACKENDS:
        _pytest(session, *arguments, PYTHONPATH=str(suite), TRIO_SUITE_BACKEND=backend)
