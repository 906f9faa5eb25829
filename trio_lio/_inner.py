"""The innermost of the manager: `_fast`, in C; or `_plain`, in Python, where that was not built
or ``TRIO_LIO_FAST=0`` asks to do without it.
"""

from __future__ import annotations

import _socket
import os
from typing import TYPE_CHECKING, Any

from ._kinds import KIND_RECEIVE, KIND_RECEIVE_FROM, KIND_SEND_ALL, KIND_WRITE
from ._native import ffi, lib
from ._trio_compat import DEFAULT_RECEIVE_SIZE, SocketType

__all__ = [
    "ManagerBase",
    "OperationBase",
    "begin_receive",
    "begin_receive_from",
    "begin_send",
    "begin_send_all",
    "begin_send_to",
    "family_of",
    "fast",
    "type_of",
]

# The numbers themselves: socket.socket's own properties make an enum of them each time.
family_of = vars(_socket.socket)["family"].__get__
type_of = vars(_socket.socket)["type"].__get__


FUNCTIONS = "lio_push", "lio_py_send_all", "lio_py_wait"


def configure(module: Any, *functions: Any) -> None:
    """Tells `_fast` what it has to know; ``functions``: those of `FUNCTIONS`."""
    module.configure(
        tuple(int(ffi.cast("uintptr_t", function)) for function in functions),
        (KIND_RECEIVE, KIND_RECEIVE_FROM, KIND_WRITE, KIND_SEND_ALL),
        SocketType,
        family_of,
        DEFAULT_RECEIVE_SIZE,
    )


def _fast_if_any() -> Any:
    asked = os.environ.get("TRIO_LIO_FAST", "")
    if asked not in ("", "0", "1"):
        raise ValueError(f"TRIO_LIO_FAST={asked!r} is neither 0 nor 1")
    if asked == "0":
        return None
    try:
        from . import _fast
    except ImportError:
        if asked == "1":
            raise
        return None
    configure(_fast, *(ffi.addressof(lib, name) for name in FUNCTIONS))
    return _fast


fast = _fast_if_any()
"""The module `_fast`, or None."""

if TYPE_CHECKING:
    from ._fast import (
        ManagerBase,
        OperationBase,
        begin_receive,
        begin_receive_from,
        begin_send,
        begin_send_all,
        begin_send_to,
    )
elif fast is not None:
    ManagerBase, OperationBase = fast.ManagerBase, fast.OperationBase
    begin_receive, begin_receive_from = fast.begin_receive, fast.begin_receive_from
    begin_send, begin_send_to = fast.begin_send, fast.begin_send_to
    begin_send_all = fast.begin_send_all
else:
    from ._plain import ManagerBase, OperationBase

    def _begin_nothing(*_: Any) -> None:
        """Nothing is the usual case here: the methods in Python do it all."""

    begin_receive = begin_receive_from = _begin_nothing
    begin_send = begin_send_to = begin_send_all = _begin_nothing
