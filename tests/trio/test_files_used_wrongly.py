"""Files, open and closed, called with good and with bad arguments: one exception of the built-in
``open``'s files is ours too, also where several things are wrong at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trio_lio

Run = Callable[..., Any]
CONTENT = b"a\nb\n"
CALLS: list[tuple[Any, ...]] = [
    *((name,) for name in ("read", "read1", "readline", "readlines", "readall", "peek")),
    *(("read", size) for size in (1, -2, "x")),
    *((name, size) for name in ("read1", "readline", "peek") for size in (0, 1, "x")),
    *(("readlines", hint) for hint in (1, 2, 3, "x")),
    *(
        (name, buffer)
        for name in ("readinto", "readinto1")
        for buffer in (bytearray(3), b"abc")
    ),
    *(("write", data) for data in (b"x", "x", 3)),
    *(("writelines", lines) for lines in ([b"x"], ["x"], [], 3)),
    *(("seek", *where) for where in ((0,), ("x",), (0, 9))),
    *(("truncate", *size) for size in ((), (0,), ("x",))),
    *((name,) for name in ("tell", "flush", "fileno", "isatty")),
    *((name,) for name in ("readable", "writable", "seekable")),
]


def comparable(value: Any) -> Any:
    plain = value is None or isinstance(value, (bool, bytes, str, list))
    return value if plain else type(value) if isinstance(value, int) else "an object"


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize(
    ("mode", "buffering"),
    [
        *(("rb", -1), ("rb", 0), ("wb", -1), ("wb", 0), ("ab", -1), ("r+b", -1), ("r+b", 0)),
        *(("r", -1), ("w", -1), ("a", -1), ("r+", -1)),
    ],
)
def test_what_is_wrong_is_told_as_by_the_builtin(
    run: Run, tmp_path: Path, mode: str, buffering: int, closed: bool
) -> None:
    path = tmp_path / "file"

    def builtin(name: str, *arguments: Any) -> Any:
        path.write_bytes(CONTENT)
        with open(path, mode, buffering) as file:
            if not hasattr(file, name):
                return None
            if closed:
                file.close()
            try:
                return comparable(getattr(file, name)(*arguments)), file.close()
            except Exception as exc:
                return type(exc)

    async def ours(name: str, *arguments: Any) -> Any:
        path.write_bytes(CONTENT)
        async with await trio_lio.open_file(path, mode, buffering) as file:
            if not hasattr(file, name):
                return None
            if closed:
                await file.aclose()
            try:
                result = getattr(file, name)(*arguments)
                if inspect.isawaitable(result):
                    result = await result
                return comparable(result), await file.aclose()
            except Exception as exc:
                return type(exc)

    async def main() -> None:
        for call in CALLS:
            if call in (("read", "x"), ("read1", "x")) and mode in ("wb", "ab"):
                continue  # which of the two is told depends on the version of Python
            assert await ours(*call) == builtin(*call), call

    run(main)
