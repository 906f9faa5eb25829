"""What of Trio and the standard library has ours in its place while trio-lio is in use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Replaced:
    """Functions of one owner (a class, a module), and ours for them.

    Each step looks at what is there: a `KeyboardInterrupt` can end either method anywhere,
    and the next call must find its way from there.
    """

    def __init__(self, owner: Any, ours: Mapping[str, Callable[..., Any]]) -> None:
        self.owner = owner
        self._there = vars(owner)  # a view of what is there now
        self.original: dict[str, Callable[..., Any]] = {}
        """By name; filled by `put_in_place`."""
        # Each run goes through it twice. None: not known yet.
        self._all: list[tuple[str, Callable[..., Any], Any]] = [
            (name, function, None) for name, function in ours.items()
        ]

    def put_in_place(self) -> None:
        owner, there = self.owner, self._there
        for name, function, original in self._all:
            if there[name] is original:
                setattr(owner, name, function)
            elif there[name] is not function:  # else a take_away was interrupted
                self._learn(name)
                setattr(owner, name, function)

    def _learn(self, wanted: str) -> None:
        """What is there now is what has to be there again."""
        original = self._there[wanted]
        self.original[wanted] = original
        for name, function, _ in self._all:
            if name == wanted:
                function.__doc__ = original.__doc__
                function.__qualname__ = original.__qualname__
        self._all = [
            (name, function, original if name == wanted else known)
            for name, function, known in self._all
        ]

    def take_away(self) -> None:
        owner, there = self.owner, self._there
        for name, function, original in self._all:
            if there[name] is function:
                setattr(owner, name, original)
