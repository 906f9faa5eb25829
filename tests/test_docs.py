"""Runs every example of the README and the documentation, as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import attrs
import pytest

import trio_lio

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "docs" / "examples"

if not EXAMPLES.is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)

# Blocks that install something or run the tests that this is one of.
_NOT_RUN = ("python3 -m pip install",)


@attrs.frozen
class Block:
    file: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.file.name}:{self.line}"


def _blocks_of(file: Path) -> list[Block]:
    text = file.read_text()
    if file.suffix == ".md":
        pattern = r"^```(\w+)\n((?:.*\n)*?)```$"
    else:
        pattern = r"^\.\. code-block:: (\w+)\n\n((?:(?:    .*)?\n)+)"
    return [
        Block(
            file=file,
            line=text.count("\n", 0, found.start()) + 1,
            language=found[1],
            text=textwrap.dedent(found[2]).strip() + "\n",
        )
        for found in re.finditer(pattern, text, flags=re.MULTILINE)
    ]


def _all_blocks() -> list[Block]:
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.rst"))]
    return [block for file in files for block in _blocks_of(file)]


BLOCKS = _all_blocks()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the examples run: as in the tree, with the example programs at hand."""
    shutil.copytree(EXAMPLES, tmp_path / "docs" / "examples")
    for example in EXAMPLES.glob("*.py"):
        shutil.copy(example, tmp_path)
    return tmp_path


def run(command: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def test_every_file_with_examples_is_read() -> None:
    assert {"README.md", "index.rst", "using-it.rst", "backends.rst", "anyio.rst"} <= {
        block.file.name for block in BLOCKS
    }
    assert {block.language for block in BLOCKS} <= {"python", "sh", "text"}


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "python"], ids=lambda block: block.name
)
def test_python_example(block: Block, place: Path) -> None:
    (place / "example.py").write_text(block.text)
    done = run([sys.executable, "-W", "error", "example.py"], place)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, id=f"{block.name}:{number}")
        for block in BLOCKS
        if block.language == "sh" and not block.text.startswith(_NOT_RUN)
        for number, line in enumerate(block.text.splitlines(), 1)
    ],
)
def test_command(line: str, place: Path) -> None:
    program, *arguments = line.split()
    assert program == "python3"
    done = run([sys.executable, *arguments], place)
    assert done.returncode == 0, done.stdout + done.stderr
    if " hello" in line:
        assert done.stdout == "hello\n"


@pytest.mark.parametrize("backend", ["stock", "uring", "epoll"])
@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_program(example: Path, backend: str, place: Path) -> None:
    infos = {info.name: info for info in trio_lio.available_backends()}
    if backend != "stock" and not infos[backend].available:
        pytest.skip(infos[backend].reason)
    how = [] if backend == "stock" else ["-m", "trio_lio", "run", "--backend", backend]
    done = run([sys.executable, *how, example.name, "hello", "you"], place)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hello you\n"


def test_readme_has_two_commands_for_a_fresh_machine() -> None:
    commands = [
        block.text.strip()
        for block in BLOCKS
        if block.file.name == "README.md" and block.text.startswith(_NOT_RUN)
    ]
    assert commands == [
        'python3 -m pip install -e ".[demo]" && python3 -m trio_lio demo',
        "python3 -m pip install nox && python3 -m nox",
    ]
