"""The checks of trio-lio: ``python3 -m nox``, or ``-s NAME`` for one of them.

Every session builds from a copy of the tree, so that builds for several Pythons never meet
and nothing is left behind in the tree but ``.nox``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
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
    "docs",
    "tests",
    "tests_oldest",
    "tests_plain",
    "trio_suite",
    "pytest_trio_suite",
    "anyio_suite",
    "applications",
    "sanitize",
    "sanitize_python",
    "kqueue",
    "cross",
    "wine",
    "soak",
    "instructions",
]

ROOT = Path(__file__).resolve().parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
OLDEST_TRIO = "0.27.0"
OLDEST_ANYIO = "4.7.0"
# What to install for each Trio. The tests of 0.27 are older than a trustme that hands keys
# over in another form and a pyOpenSSL that refuses to change a context which is in use.
TRIOS = {
    "newest": ["trio", "jedi"],
    "oldest": [f"trio=={OLDEST_TRIO}", "trustme<1.2", "pyopenssl<25"],
}
BACKENDS = ["uring", "epoll"]
# What anyio's own tests want besides anyio.
ANYIO_NEEDS = ["psutil", "pytest-mock", "pytest-timeout", "truststore", "blockbuster"]

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


def _pytest(
    session: nox.Session,
    *arguments: str,
    record: str = "",
    program: Sequence[str] = ("pytest",),
    **env: str,
) -> None:
    """Runs pytest. With TRIO_LIO_RESULTS in the environment, what came of it is kept there
    for tools/reliability.py."""
    options = ["-o", f"cache_dir={_place(session) / 'cache'}"]
    results = os.environ.get("TRIO_LIO_RESULTS")
    if results:
        name = re.sub(r"[^\w.]+", "-", f"{session.name}-{record}").strip("-")
        file = Path(results, f"{name}.xml").resolve()
        options += ["--junitxml", str(file)]
        code = (
            "import json, platform, trio; "
            "print(json.dumps({'python': platform.python_version(), 'trio': trio.__version__}))"
        )
        versions = str(session.run("python", "-c", code, silent=True))
        file.with_suffix(".versions.json").write_text(versions)
    # Stock Trio is there to compare with, whatever it comes to.
    codes = [0, 1] if record == "stock" else [0]
    session.run(*program, *options, *arguments, env=env, success_codes=codes)


# No test needs the machine for itself, and many of them wait.
SIDE_BY_SIDE = ["-n", "auto", "--maxprocesses", "4", "--dist", "worksteal"]


def _run_tests(
    session: nox.Session, copy: Path, *parts: str, but: str = "", **env: str
) -> None:
    config = ["-c", str(copy / "pyproject.toml"), "--rootdir", str(copy), *SIDE_BY_SIDE]
    chosen = [str(copy / "tests" / part) for part in parts or [""]]
    if but:
        chosen += ["-k", f"not ({but})"]
    _pytest(session, *config, *(session.posargs or chosen), **env)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff over the Python, clang-format over the C."""
    session.install("ruff>=0.14", "clang-format>=21")
    session.run("ruff", "check", "--no-cache", ".")
    session.run("ruff", "format", "--no-cache", "--check", "--diff", ".")
    c_files = [
        str(path.relative_to(ROOT))
        for folder in ("csrc", "tests/csrc", "tests/kqueue_on_linux")
        for path in sorted((ROOT / folder).rglob("*.[ch]"))
    ]
    session.run("clang-format", "--dry-run", "-Werror", *c_files)


@nox.session
def typing(session: nox.Session) -> None:
    """mypy --strict over the package; what to check stands in pyproject.toml."""
    # Beside the checker: what the package imports, its extras included.
    needed = "trio>=0.30 attrs outcome rich>=13 anyio>=4.7 uvloop matplotlib>=3.7 pytest>=9"
    session.install("mypy>=1.18", "types-cffi", *needed.split())
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
    """What has to do with Trio or anyio, on the oldest ones that are supported."""
    oldest = f"trio=={OLDEST_TRIO}", f"anyio=={OLDEST_ANYIO}"
    copy = _install(session, "test", *oldest)
    _run_tests(session, copy, "trio", "test_cli.py", "test_docs.py", "test_pytest_plugin.py")


@nox.session(python=FOUND[0])
def tests_plain(session: nox.Session) -> None:
    """What has to do with Trio, without the part of the hot path that is in C: as on PyPy."""
    copy = _install(session, "test")
    _run_tests(
        session, copy, "trio", but="uring-without or uring-old or sim", TRIO_LIO_FAST="0"
    )


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
    """The C core's own tests with assertions, under ASan and UBSan, TSan, and valgrind."""
    _need(session, os.environ.get("CC", "gcc"), "apt-get install gcc, or dnf install gcc")
    build = _place(session) / "ctests"
    runner = [sys.executable, str(ROOT / "tools" / "build_ctests.py"), "--build", str(build)]
    session.run(*runner, "--sanitize", *session.posargs, external=True)
    session.run(*runner, "--thread", *session.posargs, external=True)
    if shutil.which("valgrind") is None:
        session.warn("no valgrind here (apt-get install valgrind libc6-dbg): not run under it")
    else:
        session.run(*runner, "--valgrind", *session.posargs, external=True)


@nox.session
def sanitize_python(session: nox.Session) -> None:
    """The Python tests over a core built with ASan and UBSan and its assertions on.

    Those of the core and of Trio's level, on io_uring and epoll, without the variants of older
    kernels and of faults, which the C tests have too: ``-- -k ''`` for all.
    """
    cc = os.environ.get("CC", "gcc")
    _need(session, cc, "apt-get install gcc, or dnf install gcc")
    preload = [
        subprocess.run([cc, f"-print-file-name={name}"], capture_output=True, text=True)
        for name in ("libasan.so", "libubsan.so")
    ]
    libraries = [found.stdout.strip() for found in preload]
    if not all(map(os.path.isabs, libraries)):
        session.error(f"{cc} finds no libasan and libubsan: they are in libgcc-*-dev")
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g"
    session.env["TRIO_LIO_CFLAGS"] = f"{flags} -O1"
    copy = _copy(session)
    # The check of _install would import a core that finds no sanitizers.
    session.install(f"{copy}[test]")
    elsewhere = _place(session) / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    session.chdir(elsewhere)
    del session.env["TRIO_LIO_CFLAGS"]
    arguments = [str(copy / "tests" / name) for name in ("conformance", "trio")]
    others = ["uring-without", "uring-old", "sim", "slow"]
    arguments += ["-q", "-k", f"not ({' or '.join(others)})", *session.posargs]
    config = ["-c", str(copy / "pyproject.toml"), "--rootdir", str(copy), *SIDE_BY_SIDE]
    _pytest(
        session,
        *(*config, *arguments),
        LD_PRELOAD=" ".join(libraries),
        # Python's own small blocks must be the sanitizer's too.
        PYTHONMALLOC="malloc",
        # Leaks: the interpreter leaves much behind at its end. The C tests look for ours.
        # Signals: Python's fault handler shows more than the sanitizer's own.
        # Null: tests ask for more memory than there is, and want a MemoryError.
        ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:handle_segv=0:handle_abort=0"
        ":allocator_may_return_null=1",
        UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1",
    )


def _run_trio_suite(session: nox.Session, backend: str, *more: str) -> None:
    suite = ROOT / "tests" / "trio_suite"
    # Trio's tests are not written for the plugins of others.
    plugins = ["trio._tests.pytest_plugin", "trio_suite_plugin", "no:trio", "no:anyio"]
    arguments = ["-c", str(suite / "pytest.ini"), "--pyargs", "trio", "-q"]
    arguments += [word for plugin in plugins for word in ("-p", plugin)]
    arguments += ["--skip-optional-imports", *more]
    environment = {
        "PYTHONPATH": str(suite),
        "TRIO_SUITE_BACKEND": backend,
        "TRIO_SUITE_FAILED": str(_failed_on_stock(session)),
    }
    _pytest(session, *arguments, record=backend, **environment)


def _failed_on_stock(session: nox.Session) -> Path:
    return _place(session) / "failed_on_stock.txt"


def _trio_suite(session: nox.Session, which: str, backends: list[str]) -> None:
    _install(session, "test", *TRIOS[which])
    _failed_on_stock(session).unlink(missing_ok=True)
    for backend in backends:
        _run_trio_suite(session, backend, "--run-slow", *session.posargs)


@nox.session
@nox.parametrize("trio", list(TRIOS))
def trio_suite(session: nox.Session, trio: str) -> None:
    """Trio's own tests, slow ones too, with trio-lio underneath, on each backend."""
    _trio_suite(session, trio, BACKENDS)


@nox.session(python=PYTHONS)
@nox.parametrize("trio", list(TRIOS))
def trio_suite_matrix(session: nox.Session, trio: str) -> None:
    """The same on every Python that is found; and on Trio's own manager, to compare."""
    _trio_suite(session, trio, ["stock", *BACKENDS])


@nox.session
def pytest_trio_suite(session: nox.Session) -> None:
    """pytest-trio's own tests with trio-lio underneath, on each backend; and on Trio's own
    manager, to compare."""
    _install(session, "test", "pytest-trio>=0.8")
    suite = ROOT / "tests" / "trio_suite"
    arguments = ["-c", str(suite / "pytest.ini"), "--pyargs", "pytest_trio", "-q"]
    arguments += ["-p", "trio_suite_plugin", "-p", "old_names_plugin", *session.posargs]
    for backend in ["stock", *BACKENDS]:
        environment = {"PYTHONPATH": str(suite), "TRIO_SUITE_BACKEND": backend}
        _pytest(session, *arguments, record=backend, **environment)


@nox.session
def anyio_suite(session: nox.Session) -> None:
    """anyio's own tests on trio-lio in the place of Trio, on each backend.

    In a network namespace of its own: what that needs, it says when it is missing.
    """
    _install(session, "test", *ANYIO_NEEDS)
    _run_anyio_suite(session, BACKENDS, *session.posargs)


def _run_anyio_suite(session: nox.Session, backends: list[str], *more: str) -> None:
    code = "from importlib.metadata import version; print(version('anyio'))"
    version = str(session.run("python", "-c", code, silent=True)).strip()
    place = _place(session) / "sdist"
    # The tests come with the source distribution alone.
    download = "-m pip download --quiet --no-binary anyio --no-deps".split()
    session.run("python", *download, "--dest", str(place), f"anyio=={version}")
    shutil.unpack_archive(place / f"anyio-{version}.tar.gz", place)
    session.chdir(place / f"anyio-{version}")
    suite = ROOT / "tests" / "anyio_suite"
    for backend in backends:
        _pytest(
            session,
            *("-q", *more),
            record=f"anyio-{backend}",
            program=["python", str(suite / "private_network.py"), "pytest"],
            PYTHONPATH=str(suite),
            PYTEST_PLUGINS="anyio_suite_plugin",
            PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
            ANYIO_SUITE_BACKEND=backend,
        )


@nox.session
def applications(session: nox.Session) -> None:
    """Real applications from the package index, started on each backend."""
    copy = _install(session, "applications")
    config = ["-c", str(copy / "pyproject.toml"), "--rootdir", str(copy)]
    _pytest(session, *config, *(session.posargs or [str(copy / "tests" / "applications")]))


@nox.session
def kqueue(session: nox.Session) -> None:
    """The backend kqueue: the tests, Trio's suite without the slow tests, anyio's suite. On
    Linux it runs over the kqueue that the tests bring, which is strict there."""
    if sys.platform.startswith("linux"):
        prefix = _place(session) / "kqueue"
        builder = ROOT / "tools" / "build_kqueue.py"
        session.run(sys.executable, str(builder), str(prefix), external=True)
        session.env["TRIO_LIO_KQUEUE"] = str(prefix)
        session.env["KQUEUE_ON_LINUX_STRICT"] = "1"
    copy = _install(session, "test", *ANYIO_NEEDS)
    config = ["-c", str(copy / "pyproject.toml"), "--rootdir", str(copy)]
    tests = [
        str(copy / "tests" / name) for name in ("conformance", "trio", "test_platforms.py")
    ]
    chosen = ["-k", "kqueue or kevents or platforms", *session.posargs]
    _pytest(session, *config, *chosen, *tests, record="tests")
    _run_trio_suite(session, "kqueue", "-k", "not static_tool", *session.posargs)
    if sys.platform.startswith("linux"):
        _run_anyio_suite(session, ["kqueue"], *session.posargs)


@nox.session
def cross(session: nox.Session) -> None:
    """The C core for all targets, with warnings as errors; its tests on arm64 and s390x."""
    session.install("ziglang>=0.14")
    session.run("python", str(ROOT / "tools" / "cross.py"), "--run", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Mixed traffic, cancels and faults; two minutes, or ``-- --minutes 30``."""
    copy = _install(session, "test")
    arguments = list(session.posargs)
    results = os.environ.get("TRIO_LIO_RESULTS")
    if results:
        arguments += ["--json", str(Path(results, "soak.json").resolve())]
    session.run("python", str(copy / "tools" / "soak.py"), *arguments)


@nox.session
def instructions(session: nox.Session) -> None:
    """Fixed work, counted in instructions and compared with the stored figures; --store after
    -- keeps the new ones. No noise changes these."""
    if shutil.which("valgrind") is None:
        session.skip("no valgrind here: apt-get install valgrind libc6-dbg")
    copy = _install(session, "demo", "trio==0.35.0")
    # From the tree, where --store leaves its file; what is imported is the installed package.
    tool = (ROOT if session.posargs else copy) / "tools" / "count_instructions.py"
    session.run("python", str(tool), *session.posargs)


@nox.session
def wine(session: nox.Session) -> None:
    """Windows, under Wine: builds the core with mingw, runs its tests, doctor and demo, the
    conformance suite, our tests of Trio, anyio's suite and Trio's own on iocp; or the steps of
    tools/wine.py that stand after --."""
    tool = [str(ROOT / "tools" / "wine.py"), "--root", str(_place(session) / "wine")]
    check = subprocess.run([sys.executable, *tool, "--check"], capture_output=True, text=True)
    if check.returncode != 0:
        no_package = check.returncode == 3  # a Debian of the day may have no CPython 3.12
        is_due = "CI" in os.environ and not no_package
        (session.error if is_due else session.skip)(check.stderr.strip())
    session.install("cffi", "setuptools")
    session.run("python", *tool, *session.posargs)
