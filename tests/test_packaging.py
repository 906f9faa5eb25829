"""What the distributions contain, and what a build says when it cannot be done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

HAS_FAST = sys.implementation.name == "cpython" and not sysconfig.get_config_var(
    "Py_GIL_DISABLED"
)

pytest.importorskip("setuptools.build_meta", reason="builds without isolation")
if not (ROOT / "setup.py").exists():
    pytest.skip("needs the source tree", allow_module_level=True)


def build(tree: Path, hook: str, out: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Calls a hook of the build backend, as pip does, without fetching anything."""
    kept = {k: v for k, v in os.environ.items() if k not in ("CC", "CFLAGS", "TRIO_LIO_CFLAGS")}
    code = f"import setuptools.build_meta as b; print(b.{hook}({str(out)!r}))"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        env={**kept, **env},
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


def copy_tree(to: Path) -> Path:
    names = "setup.py pyproject.toml MANIFEST.in README.md CHANGELOG.md noxfile.py".split()
    to.mkdir()
    for name in [*names, ".clang-format", "LICENSE-MIT", "LICENSE-APACHE"]:
        shutil.copy(ROOT / name, to)
    junk = shutil.ignore_patterns("__pycache__", "*.so", "*.o", "_build", "_lio.c")
    for name in ("csrc", "docs", "tests", "tools", "trio_lio"):
        shutil.copytree(ROOT / name, to / name, ignore=junk)
    return to


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    place = tmp_path_factory.mktemp("sdist")
    done = build(copy_tree(place / "tree"), "build_sdist", place)
    assert done.returncode == 0, done.stdout + done.stderr
    [archive] = place.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(place / "unpacked")
    [unpacked] = (place / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, made of nothing but what the source distribution has."""
    out = tmp_path_factory.mktemp("wheel")
    done = build(sdist, "build_wheel", out)
    assert done.returncode == 0, done.stdout + done.stderr
    [archive] = out.glob("*.whl")
    return zipfile.ZipFile(archive)


def test_sdist_has_all_sources(sdist: Path) -> None:
    for folder in ("csrc", "trio_lio", "tests", "docs", "tools"):
        wanted = {
            path.relative_to(ROOT)
            for path in (ROOT / folder).rglob("*")
            if path.suffix in {".c", ".h", ".py", ".pyi", ".rst", ".txt", ".typed"}
            and not {"_build", "__pycache__"} & set(path.parts)
            and path.name != "_lio.c"
        }
        missing = [path for path in wanted if not (sdist / path).exists()]
        assert not missing
    for name in ("LICENSE-MIT", "LICENSE-APACHE", "README.md", "CHANGELOG.md", "noxfile.py"):
        assert (sdist / name).exists()


def test_wheel_has_what_it_needs_and_no_more(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    code = {name for name in names if name.startswith("trio_lio/")}
    stubs = {f"trio_lio/{path.name}" for path in (ROOT / "trio_lio").glob("*.pyi")}
    assert {"trio_lio/py.typed", "trio_lio/_lio.abi3.so", *stubs} <= code
    assert ("trio_lio/_fast.abi3.so" in code) == HAS_FAST
    assert {f"trio_lio/{path.name}" for path in (ROOT / "trio_lio").glob("*.py")} <= code
    info = {name.partition("/")[0] for name in names} - {"trio_lio"}
    assert len(info) == 1
    assert next(iter(info)).endswith(".dist-info")
    licences = {name.rpartition("/")[2] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE-MIT", "LICENSE-APACHE"}
    assert not [name for name in names if name.endswith((".c", ".h", ".o"))]


def test_wheel_needs_trio_and_cffi_only(wheel: zipfile.ZipFile) -> None:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    lines = wheel.read(name).decode().splitlines()
    needs = [line.split()[1] for line in lines if line.startswith("Requires-Dist:")]
    always = [
        line for line in lines if line.startswith("Requires-Dist:") and "extra" not in line
    ]
    assert needs
    assert {line.split()[1].partition(">")[0] for line in always} == {"trio", "cffi"}
    assert "License-Expression: MIT OR Apache-2.0" in lines


def test_no_compiler(tmp_path: Path) -> None:
    done = build(copy_tree(tmp_path / "tree"), "build_wheel", tmp_path, CC="/nonexistent/cc")
    assert done.returncode != 0
    assert "there is no C compiler '/nonexistent/cc'" in done.stderr
    assert "apt-get install gcc libc6-dev python3-dev" in done.stderr


def test_no_python_headers(tmp_path: Path) -> None:
    without = tmp_path / "cc"
    include = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    without.write_text(
        "#!/bin/sh\n"
        "for word do\n    shift\n"
        f"    case $word in {'|'.join(f'-I{path}' for path in sorted(include))}) ;;\n"
        '    *) set -- "$@" "$word";;\n    esac\ndone\n'
        'exec cc "$@"\n'
    )
    without.chmod(0o755)
    done = build(copy_tree(tmp_path / "tree"), "build_wheel", tmp_path, CC=str(without))
    assert done.returncode != 0
    assert "the headers of Python are not there (Python.h)" in done.stderr
    assert "python3-dev" in done.stderr


def test_any_other_error_is_the_compilers(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    (tree / "csrc" / "lio.c").write_text("#error this is not a program\n")
    done = build(tree, "build_wheel", tmp_path)
    assert done.returncode != 0
    assert "this is not a program" in done.stderr + done.stdout
    assert "apt-get" not in done.stderr + done.stdout


@pytest.mark.parametrize("platform", ["aix", "cygwin"])
def test_platform_without_backend(platform: str) -> None:
    code = (
        "import sys, setuptools.command.build_ext, setuptools.errors;"
        f"sys.platform = {platform!r}; exec(open('setup.py').read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert f"no backend for {platform} yet" in done.stderr
    assert "Linux" in done.stderr
