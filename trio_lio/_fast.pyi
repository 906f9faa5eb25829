from typing import Any

from ._plain import ManagerBase as ManagerBase
from ._plain import OperationBase as OperationBase

def configure(
    functions: tuple[int, ...],
    kinds: tuple[int, ...],
    socket_type: type,
    family_of: Any,
    default_size: int,
    /,
) -> None:
    """Once, before all else: the addresses of three functions of the core, the numbers of four
    kinds of operations, Trio's class of sockets, a function for the family of a
    `socket.socket`, and what a receive without a size asks for."""

# Each says None, and has done nothing, where the case is not the usual one: another kind of
# socket or manager, wrong arguments, an operation that cannot be queued now, or none free.

def begin_receive(sock: Any, size: int | None, /) -> Any:
    """Queues a receive from the pool for the current task: ``await`` what this returns."""

def begin_receive_from(sock: Any, size: int, /) -> Any:
    """The same, with the address of the sender."""

def begin_send_to(sock: Any, data: Any, address: Any, /) -> Any:
    """Queues a send to an IPv4 address in numbers."""

def begin_send(sock: Any, data: Any, /) -> Any:
    """Queues a send of which a part may do."""

def begin_send_all(sock: Any, data: Any, detector: Any, /) -> Any:
    """Queues a send of all of it. ``detector``: Trio's, which is held from then on; or None."""
