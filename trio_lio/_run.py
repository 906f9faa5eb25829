"""``python -m trio_lio run``: somebody's program, on lio, as python would run it."""

from __future__ import annotations

import atexit
import builtins
import importlib.machinery
import io
import os
import pkgutil
import runpy
import sys
import types
from typing import TYPE_CHECKING, Any

from . import _statistics
from ._install import install
from ._native import BackendUnavailable
from ._trio_compat import TrioIncompatible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._statistics import LioStatistics

_SUMS = (
    "operations_pushed",
    "operations_completed",
    "operations_cancelled",
    "batches",
    "syscalls",
    "overflows",
    "wakeups",
    "spins",
    "spin_hits",
)
_MAXIMA = ("largest_batch", "capacity")


class _Counters:
    """What all runs of the program counted."""

    def __init__(self) -> None:
        self.runs: list[LioStatistics] = []
        self.pid = os.getpid()
        _statistics.add_close_listener(self.runs.append)
        # After the program's own last words, however it ends.
        atexit.register(self.print)

    def print(self) -> None:
        stream = sys.__stderr__
        if stream is None or os.getpid() != self.pid:
            return
        backends = ", ".join(sorted({run.backend for run in self.runs})) or "no backend"
        runs = f"{len(self.runs)} run" + ("" if len(self.runs) == 1 else "s")
        lines = [f"trio-lio: {runs} on {backends}"]
        for names, total in ((_SUMS, sum), (_MAXIMA, max)):
            for name in names:
                value = total([getattr(run, name) for run in self.runs] or [0])
                lines.append(f"  {name.replace('_', ' '):<22}{value:>14,}")
        try:
            print("\n".join(lines), file=stream, flush=True)
        except (OSError, ValueError):  # nobody is left to read it
            return


_OUR_FILES = frozenset(
    os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    for name in ("__main__.py", "_cli.py", "_run.py")
)


def _is_ours(frame: types.FrameType) -> bool:
    file = os.path.abspath(frame.f_code.co_filename)
    return file in _OUR_FILES or frame.f_globals.get("__name__") == "runpy"


def _hide_our_frames() -> None:
    """An exception that ends the program shows the program's frames, as with python."""
    show = sys.excepthook

    def hook(kind: type[BaseException], value: BaseException, tb: Any) -> None:
        while tb is not None and _is_ours(tb.tb_frame):
            tb = tb.tb_next
        show(kind, value.with_traceback(tb), tb)

    sys.excepthook = hook


def _has_path_entry() -> bool:
    """Whether python put the current directory at the head of sys.path."""
    return not (sys.flags.isolated or getattr(sys.flags, "safe_path", False))


def _execute(code: types.CodeType, **attributes: Any) -> None:
    """As runpy does, but ``__main__`` stays what it is after the last line: threads and exit
    handlers may still look at it."""
    main = types.ModuleType("__main__")
    vars(main).update(__builtins__=builtins, __cached__=None, **attributes)
    sys.modules["__main__"] = main
    exec(code, vars(main))


def _run_file(path: str) -> None:
    if _has_path_entry():
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    absolute = os.path.abspath(path)
    if path.endswith(".pyc"):
        compiled = importlib.machinery.SourcelessFileLoader("__main__", absolute)
        code = compiled.get_code("__main__")
        assert code is not None
        _execute(code, __file__=absolute, __loader__=compiled)
        return
    with io.open_code(absolute) as file:
        source = file.read()
    loader = importlib.machinery.SourceFileLoader("__main__", absolute)
    code = compile(source, absolute, "exec", dont_inherit=True)
    _execute(code, __file__=absolute, __loader__=loader)


def _run_archive(importer: Any, path: str) -> int:
    """A directory or zip file with a ``__main__`` in it."""
    absolute = os.path.abspath(path)
    spec = importer.find_spec("__main__")
    if spec is None:
        print(
            f"{sys.executable}: can't find '__main__' module in {absolute!r}", file=sys.stderr
        )
        return 1
    sys.path[: int(_has_path_entry())] = [absolute]
    _execute(
        spec.loader.get_code("__main__"),
        __file__=spec.origin,
        __loader__=spec.loader,
        __package__="",
        __spec__=spec,
    )
    return 0


def _run_script(path: str) -> int:
    importer = pkgutil.get_importer(os.path.abspath(path))
    if importer is not None:
        return _run_archive(importer, path)
    try:
        with open(path, "rb"):
            pass
    except OSError as exc:
        print(
            f"{sys.executable}: can't open file {os.path.abspath(path)!r}: "
            f"[Errno {exc.errno}] {exc.strerror}",
            file=sys.stderr,
        )
        return 2
    _run_file(path)
    return 0


def _run_module(name: str) -> int:
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except ImportError as exc:
        tb = exc.__traceback__
        while tb is not None and tb.tb_next is not None:
            tb = tb.tb_next
        if tb is None or tb.tb_frame.f_globals.get("__name__") != "runpy":
            raise
        # Not the program's: there is no such program.
        print(f"{sys.executable}: {exc}", file=sys.stderr)
        return 1
    return 0


def run_program(
    program: Sequence[str], *, backend: str | None, capacity: int | None, stats: bool
) -> int:
    """Runs SCRIPT or -m MODULE with its arguments; everything it raises comes through."""
    rest = list(program)
    module = None
    if rest and rest[0].startswith("-m"):
        module = rest.pop(0)[2:] or (rest.pop(0) if rest else "")
    if not rest and not module:
        missing = "SCRIPT or -m MODULE" if module is None else "MODULE after -m"
        print(f"python -m trio_lio run: error: {missing} is missing", file=sys.stderr)
        return 2
    try:
        install(backend=backend, capacity=capacity)
    except (BackendUnavailable, TrioIncompatible, ValueError, OSError) as exc:
        print(f"python -m trio_lio run: error: {exc}", file=sys.stderr)
        return 2
    # Stays installed: threads and exit handlers of the program may start further runs.
    if stats:
        _Counters()
    _hide_our_frames()
    if module:
        sys.argv = [module, *rest]
        return _run_module(module)
    sys.argv = rest
    return _run_script(rest[0])
