"""Sphinx: ``python3 -m nox -s docs``. The build reads nothing from the network."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

import trio_lio

project = "trio-lio"
author = "The trio-lio developers"
copyright = "The trio-lio developers"  # noqa: A001
release = version = trio_lio.__version__

extensions = ["sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"trio-lio {release}"
exclude_patterns = ["_build", "reliability-measured.rst"]

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True

nitpicky = True
# Names of other projects: a link to them would make the build depend on their sites.
nitpick_ignore_regex = [
    (r"py:.*", r"(trio|outcome|attrs?|anyio|sniffio|cffi)(\..*)?"),
    (r"py:.*", r"(os|socket|signal|errno|collections\.abc|typing|typing_extensions)(\..*)?"),
    (r"py:.*", r"(None|True|False|int|str|bytes|bool|float|list|dict|tuple|object|type)"),
    (r"py:.*", r"[A-Z]\w*(Error|Warning|Exception)"),
    (r"py:.*", r"(Any|Awaitable|Buffer|Callable|Iterable|Iterator|Path|Self|P|enum\.IntFlag)"),
]

# Docstrings stand in private modules and name things as their readers know them.
_HOMES = ["trio_lio", "trio_lio.anyio", "trio_lio.backends", "trio_lio.backends.IoBackend"]


def _sections(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Reads "Args:" and the like. Not by napoleon as an extension: that takes the text before
    a colon for a type in the description of an attribute."""
    if what != "attribute":
        lines[:] = GoogleDocstring(lines, Config(), app, what, name, obj, options).lines()


def _no_self(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str | None]:
    """The awaitables have the signatures of the functions of Op, but for what these return."""
    return signature, None if returns == "Self" and what == "function" else returns


def _look_in_homes(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    target = node["reftarget"]
    if target.startswith("trio_lio._"):
        target = target.rpartition(".")[2]
    domain = env.get_domain("py")
    for home in _HOMES:
        found = domain.resolve_xref(
            env, node["refdoc"], app.builder, "obj", f"{home}.{target}", node, contnode
        )
        if found is not None:
            return found
    return None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", _sections)
    app.connect("autodoc-process-signature", _no_self)
    app.connect("missing-reference", _look_in_homes)
