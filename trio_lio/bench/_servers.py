"""Who is measured: trio-lio, and its rivals."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import attrs

from .._native import available_backends

HERE = Path(__file__).resolve().parent
URING, EPOLL, STOCK = "lio-uring", "lio-epoll", "trio"
UVLOOP, FLOOR = "uvloop", "floor"


@attrs.frozen
class Kind:
    """One server program and how it is run."""

    label: str
    script: str
    arguments: tuple[str, ...] = ()
    backend: str | None = None
    """Of trio-lio, under it."""
    needs: tuple[str, ...] = ()
    """Packages that have to be installed."""


KINDS = {
    URING: Kind("lio-uring", "trio_server", backend="uring"),
    EPOLL: Kind("lio-epoll", "trio_server", backend="epoll"),
    STOCK: Kind("stock Trio", "trio_server"),
    "asyncio": Kind("asyncio streams", "asyncio_server"),
    UVLOOP: Kind("uvloop streams", "asyncio_server", ("--uvloop",), needs=("uvloop",)),
    "asyncio-protocol": Kind("asyncio protocol", "asyncio_server", ("--style=protocol",)),
    "uvloop-protocol": Kind(
        "uvloop protocol",
        "asyncio_server",
        ("--style=protocol", "--uvloop"),
        needs=("uvloop",),
    ),
    "anyio-lio": Kind(
        "anyio on lio-uring",
        "anyio_server",
        ("--loop=trio",),
        backend="uring",
        needs=("anyio",),
    ),
    "anyio-trio": Kind("anyio on Trio", "anyio_server", ("--loop=trio",), needs=("anyio",)),
    "anyio-asyncio": Kind(
        "anyio on asyncio", "anyio_server", ("--loop=asyncio",), needs=("anyio",)
    ),
    "anyio-uvloop": Kind(
        "anyio on uvloop", "anyio_server", ("--loop=uvloop",), needs=("anyio", "uvloop")
    ),
    FLOOR: Kind("C on io_uring", "floor_server"),
}
ANYIO = ("anyio-lio", "anyio-trio", "anyio-asyncio", "anyio-uvloop")
ALL = tuple(KINDS)


def program(name: str, *arguments: str) -> list[str]:
    """The arguments of the Python that serves."""
    kind = KINDS[name]
    script = str(HERE / "servers" / f"{kind.script}.py")
    return [*under(kind.backend), script, *kind.arguments, *arguments]


def under(backend: str | None) -> list[str]:
    """What stands before a script that is to run on a backend of trio-lio."""
    return [] if backend is None else ["-m", "trio_lio", "run", "--backend", backend]


def why_not(name: str) -> str:
    """Why a server cannot run here; empty if it can."""
    kind = KINDS[name]
    missing = [need for need in kind.needs if importlib.util.find_spec(need) is None]
    if missing:
        return f"{' and '.join(missing)} not installed (pip install 'trio-lio[bench]')"
    wanted = "uring" if name == FLOOR else kind.backend
    for info in available_backends():
        if info.name == wanted and not info.available:
            return info.reason
    return ""
