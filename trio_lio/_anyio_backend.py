"""The anyio backend: anyio's own Trio backend, on lio runs."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import sniffio

from . import _anyio_stream, _install  # noqa: F401  the streams come with the backend
from ._anyio_compat import TestRunner, TrioBackend

if TYPE_CHECKING:
    from ._install import Settings

NAME = "trio_lio"


def _split(options: dict[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Our options, and those of anyio's Trio backend."""
    rest = dict(options)
    ours = {name: rest.pop(name) for name in ("backend", "capacity", "files") if name in rest}
    return _install.settings(**ours), rest


def _say_trio() -> None:
    """anyio notes the name of its backend for sniffio, and takes that back when it is done;
    libraries know the name of Trio."""
    if sniffio.current_async_library_cvar.get() == NAME:
        sniffio.current_async_library_cvar.set("trio")


class LioTestRunner(TestRunner):  # type: ignore[misc]
    """What anyio's pytest plugin runs tests in: one guest run, as with its Trio backend."""

    def __init__(self, **options: Any) -> None:
        self._settings, rest = _split(options)
        self._stack = ExitStack()
        super().__init__(**rest)

    def __enter__(self) -> Any:
        _say_trio()
        self._stack.enter_context(_install.in_use())
        return super().__enter__()

    def __exit__(self, *exc_info: Any) -> None:
        with self._stack:
            super().__exit__(*exc_info)

    def _call_in_runner_task(self, func: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self._send_stream is not None:
            return super()._call_in_runner_task(func, *args, **kwargs)
        with _install.for_next_run(self._settings):  # it is just going to start
            return super()._call_in_runner_task(func, *args, **kwargs)


class TrioLioBackend(TrioBackend):  # type: ignore[misc]
    """anyio's Trio backend, whose runs are lio runs.

    Options: those of `trio.run`, and ``backend``, ``capacity`` and ``files`` as in
    `trio_lio.run`.
    """

    @classmethod
    def run(cls, func: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        settings, rest = _split(options)
        _say_trio()
        with _install.for_next_run(settings):
            return super().run(func, args, kwargs, rest)

    @classmethod
    def create_test_runner(cls, options: dict[str, Any]) -> LioTestRunner:
        return LioTestRunner(**options)
