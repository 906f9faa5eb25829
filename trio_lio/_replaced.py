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
        self.ours = ours
        self._there = vars(owner)  # a view of what is there now
        self.original: dict[str, Callable[..., Any]] = {}
        """By name; filled by `put_in_place`."""

    def put_in_place(self) -> None:
        owner, there, known = self.owner, self._there, self.original
        for name, function in self.ours.items():
            original = there[name]
            if original is function:
                continue  # it was to be taken away, and that was interrupted
            if known.get(name) is not original:  # each run begins with this: once is enough
                function.__doc__ = original.__doc__
                function.__qualname__ = original.__qualname__
                known[name] = original
            setattr(owner, name, function)

    def take_away(self) -> None:
        owner, there, known = self.owner, self._there, self.original
        for name, function in self.ours.items():
            if there[name] is function:
                setattr(owner, name, known[name])
