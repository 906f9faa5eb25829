"""Tables and progress: with rich on a terminal if it is installed, plain text otherwise."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from typing_extensions import Self


def _rich_console(stream: TextIO) -> Any:
    """A rich console for a terminal, None without rich or for anything else."""
    if not stream.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=stream)


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Prints a table; with ``numbers`` all columns but the first are set to the right."""
    stream = stream or sys.stdout
    console = _rich_console(stream)
    if console is not None:
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for place, name in enumerate(columns):
            table.add_column(name, justify="right" if numbers and place else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    for row in (columns, ["-" * width for width in widths], *rows):
        cells = [
            f"{cell:>{width}}" if numbers and place else f"{cell:<{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), file=stream)


class Progress:
    """What is going on, on stderr: a moving line on a terminal, a line a step elsewhere."""

    def __init__(self, steps: int) -> None:
        self._live: Any = None
        self._task: Any = None
        console = _rich_console(sys.stderr)
        if console is not None:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            self._task = self._live.add_task("starting", total=steps)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, text: str, done: float = 0.0) -> None:
        """What this step is at, and how much of it is done: 0 to 1."""
        if self._live is not None:
            whole = int(self._live.tasks[0].completed)
            self._live.update(self._task, description=text, completed=whole + min(done, 0.99))

    def step(self, text: str) -> None:
        """A step is done, with this to say."""
        if self._live is None:
            print(text, file=sys.stderr, flush=True)
            return
        whole = int(self._live.tasks[0].completed)
        self._live.console.print(text, highlight=False, markup=False)
        self._live.update(self._task, completed=whole + 1)
