"""Long random sequences of calls, on our files and on those of the built-in ``open``.

Every call must come to the same; after every call the file on disk and the position of the
descriptor must be the same.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trio_lio

ENCODINGS = [
    *("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "ascii"),
    *("shift_jis", "euc_jp", "iso2022_jp", "gb18030", "utf-7", "cp1252"),
]
SIZES = st.one_of(st.integers(-1, 40), st.sampled_from([4095, 4096, 4097, 8192, 9000, 20000]))

# There read1, and with it every read of text, does not see what was written just before.
READS_PAST_WRITES = sys.version_info < (3, 13)
UNICODE_ERRORS = [UnicodeError, UnicodeDecodeError, UnicodeEncodeError]


@attrs.frozen
class Case:
    mode: str
    buffering: int
    content: bytes
    steps: list[tuple[Any, ...]]
    arguments: dict[str, Any] = attrs.Factory(dict)
    chunk: int | None = None


def comparable(value: Any) -> Any:
    return value if value is None or isinstance(value, (int, str, bytes, list, bool)) else "?"


def lines_of(file: Any, hint: int) -> list[str]:
    lines: list[str] = []
    while line := file.readline():
        lines.append(line)
        if 0 < hint < sum(map(len, lines)):
            break
    return lines


async def perform(file: Any, step: tuple[Any, ...], positions: list[int], wait: bool) -> Any:
    name, *arguments = step
    if name in ("readinto", "readinto1"):
        buffer = bytearray(arguments[0])
        answer = getattr(file, name)(buffer)
        return (await answer if wait else answer), bytes(buffer)
    if name == "seek back":
        # To a position that the file itself has told.
        if not positions:
            return None
        name, arguments = "seek", [positions[arguments[0] % len(positions)]]
    if name == "readlines" and isinstance(file, io.TextIOBase):
        # That ends by disabling tell, if it ends early. Ours does not.
        return lines_of(file, *arguments)
    method = getattr(file, name, None)
    if method is None:
        return "there is none"
    if name in ("readable", "writable", "seekable", "isatty"):
        return method()
    answer = method(*arguments)
    if wait:
        answer = await answer
    if name == "tell":
        positions.append(answer)
    if name == "peek":
        return bytes(answer)
    return comparable(answer)


async def outcome(file: Any, step: tuple[Any, ...], positions: list[int], wait: bool) -> Any:
    try:
        return await perform(file, step, positions, wait)
    except Exception as exc:
        if step[-1] in ("wrong", b"wrong") and isinstance(exc, io.UnsupportedOperation):
            return TypeError, None  # which of the two is seen first differs between versions
        return type(exc), getattr(exc, "errno", None)


def attributes(file: Any) -> dict[str, Any]:
    names = ["closed", "mode", "encoding", "errors", "newlines", "line_buffering", "closefd"]
    return {name: getattr(file, name) for name in names if hasattr(file, name)}


async def compare(case: Case) -> None:
    with tempfile.TemporaryDirectory() as directory:
        paths = [f"{directory}/stock", f"{directory}/ours"]
        for path in paths:
            if "x" not in case.mode:
                with open(path, "wb") as file:
                    file.write(case.content)
        stock = open(paths[0], case.mode, case.buffering, **case.arguments)  # noqa: SIM115
        ours = await trio_lio.open_file(paths[1], case.mode, case.buffering, **case.arguments)
        assert isinstance(ours, trio_lio.AsyncFile)
        if case.chunk is not None:
            stock._CHUNK_SIZE = ours._CHUNK_SIZE = case.chunk  # type: ignore[attr-defined]
        positions: tuple[list[int], list[int]] = [], []
        try:
            for number, step in enumerate(case.steps):
                where = f"step {number}: {step}"
                if READS_PAST_WRITES and "+" in case.mode and step[0].startswith("read"):
                    await outcome(stock, ("flush",), [], wait=False)
                    await outcome(ours, ("flush",), [], wait=True)
                wanted = await outcome(stock, step, positions[0], wait=False)
                got = await outcome(ours, step, positions[1], wait=True)
                assert got == wanted, where
                if isinstance(wanted, tuple) and wanted[0] in UNICODE_ERRORS:
                    break  # what was read so far may be gone there, and still be here
                if step[0] == "seek" and isinstance(wanted, tuple):
                    break  # a buffered file may take -1 for its position from then on
                assert attributes(ours) == attributes(stock), where
                contents = []
                for path in paths:
                    with open(path, "rb") as file:
                        contents.append(file.read())
                assert contents[1] == contents[0], where
                at = [os.lseek(file.fileno(), 0, os.SEEK_CUR) for file in (stock, ours)]
                assert at[1] == at[0], where
        finally:
            with_error = await outcome(stock, ("close",), [], wait=False)
            assert await outcome(ours, ("aclose",), [], wait=True) == with_error
        contents = []
        for path in paths:
            with open(path, "rb") as file:
                contents.append(file.read())
        assert contents[1] == contents[0], "closed"
        assert attributes(ours) == attributes(stock)


# -- binary ------------------------------------------------------------------------------

BYTES = st.one_of(
    st.binary(max_size=50),
    st.builds(lambda part, n: part * n, st.binary(max_size=9), st.integers(0, 2000)),
)
LINES = st.lists(st.binary(max_size=12).map(lambda line: line + b"\n"), max_size=4)
BINARY_STEP = st.one_of(
    st.tuples(st.sampled_from(["read", "read1", "readline", "readlines", "peek"]), SIZES),
    st.tuples(st.sampled_from(["readinto", "readinto1"]), st.integers(0, 9000)),
    st.tuples(st.sampled_from(["tell", "flush", "truncate", "readall", "readable"])),
    st.tuples(st.just("truncate"), st.integers(-1, 9000)),
    st.tuples(st.just("write"), BYTES),
    st.tuples(st.just("writelines"), LINES),
    st.tuples(st.just("seek"), st.one_of(st.integers(-2, 60), st.integers(0, 20000))),
    st.tuples(st.just("seek"), st.integers(-50, 50), st.integers(0, 3)),
    st.tuples(st.sampled_from(["read", "write", "seek", "readinto1"]), st.just("wrong")),
)


def binary_case(modes: list[str], buffering: Any) -> Any:
    return st.builds(
        Case,
        st.sampled_from(modes),
        buffering,
        BYTES,
        st.lists(BINARY_STEP, max_size=25),
    )


run_many = settings(
    deadline=None,
    max_examples=int(os.environ.get("TRIO_LIO_EXAMPLES", "100")),
    suppress_health_check=list(HealthCheck),
)
MODES = {
    "to read": ["rb"],
    "to write": ["wb", "ab", "xb"],
    "to do both": ["r+b", "w+b", "a+b", "x+b"],
}


def check(run: Callable[..., Any], cases: Any) -> None:
    @run_many
    @given(cases)
    def same(case: Case) -> None:
        run(compare, case)

    same()


@pytest.mark.parametrize("modes", MODES)
def test_unbuffered(run: Callable[..., Any], modes: str) -> None:
    check(run, binary_case(MODES[modes], st.just(0)))


@pytest.mark.parametrize("modes", MODES)
def test_buffered(run: Callable[..., Any], modes: str) -> None:
    check(run, binary_case(MODES[modes], st.sampled_from([-1, 2, 7, 16, 1000])))


# -- text --------------------------------------------------------------------------------

CHARACTERS = st.sampled_from("ab \n\n\r\t\x0b\x1c\x85\u2028éßñ€日本語テキスト\U0001f600")
TEXT = st.one_of(
    st.text(CHARACTERS, max_size=60),
    st.builds(lambda part, n: part * n, st.text(CHARACTERS, max_size=12), st.integers(0, 1500)),
)
TEXT_STEP = st.one_of(
    st.tuples(st.sampled_from(["read", "readline", "readlines"]), SIZES),
    st.tuples(st.sampled_from(["tell", "tell", "flush", "truncate", "read", "readline"])),
    st.tuples(st.just("write"), TEXT),
    st.tuples(st.just("writelines"), st.lists(TEXT, max_size=3)),
    st.tuples(st.just("seek back"), st.integers(0, 100)),
    st.tuples(st.just("seek"), st.just(0), st.integers(-1, 3)),
    st.tuples(st.just("seek"), st.just(1), st.integers(1, 2)),
    st.tuples(st.sampled_from(["read", "write", "seek", "readinto"]), st.just(b"wrong")),
)


@st.composite
def text_case(draw: Any, modes: list[str]) -> Case:
    encoding = draw(st.sampled_from(ENCODINGS))
    errors = draw(st.sampled_from([None, "strict", "ignore", "replace", "surrogateescape"]))
    if draw(st.integers(0, 9)):
        content = draw(TEXT).encode(encoding, "replace")
        if not draw(st.integers(0, 3)):
            content = content[: draw(st.integers(0, len(content)))]  # in the middle of one
    else:
        content = draw(BYTES)
    return Case(
        mode=draw(st.sampled_from(modes)),
        buffering=draw(st.sampled_from([-1, 1, 5, 1000])),
        content=content,
        steps=draw(st.lists(TEXT_STEP, max_size=25)),
        arguments={
            "encoding": encoding,
            "errors": errors,
            "newline": draw(st.sampled_from([None, "", "\n", "\r", "\r\n"])),
        },
        chunk=draw(st.sampled_from([None, 1, 3, 16, 100])),
    )


TEXT_MODES = {
    "to read": ["r", "rt"],
    "to write": ["w", "a", "x"],
    "to do both": ["r+", "w+", "a+", "x+"],
}


@pytest.mark.parametrize("modes", TEXT_MODES)
def test_text(run: Callable[..., Any], modes: str) -> None:
    check(run, text_case(TEXT_MODES[modes]))
