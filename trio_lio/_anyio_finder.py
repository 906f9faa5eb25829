"""Where anyio looks for a backend that it has not loaded, it finds ours.

anyio has no entry points for backends: it imports ``anyio._backends._NAME``. Once trio_lio is
imported, by whomever, that import works for our name. Neither anyio nor anything of ours is
imported before.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

_MODULE = "anyio._backends._trio_lio"


class _Loader:
    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        from ._anyio_backend import TrioLioBackend

        module.__doc__ = "The anyio backend of trio-lio; see trio_lio.anyio."
        vars(module)["backend_class"] = TrioLioBackend


class _Finder:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        loader: Any = _Loader()  # a Loader by its methods
        return ModuleSpec(name, loader, origin=__name__)


def install() -> None:
    """Adds the finder at the end of ``sys.meta_path``: it is asked for what nobody else has."""
    sys.meta_path.append(_Finder())
