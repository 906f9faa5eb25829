"""For tests of programs: a bad network on purpose, and a simulated kernel.

::

    with trio_lio.testing.faults(seed=7, reset=0.01):
        trio.run(main)

For pytest there is a marker: ``@pytest.mark.lio_faults(seed=7)``.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

from . import _faults
from ._faults import FaultCounts, Faults, Injected
from ._install import installed
from ._sim_stream import SimulatedStream, simulated_stream_pair
from ._trio_compat import in_run
from .backends import Sim

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "FaultCounts",
    "Faults",
    "Injected",
    "Sim",
    "SimulatedStream",
    "faults",
    "simulated_stream_pair",
]


def new_seed() -> int:
    """A seed that nobody chose, short enough to be typed."""
    return random.SystemRandom().randrange(2**32)


@contextlib.contextmanager
def faults(
    seed: int | None = None, *, backend: str | None = None, **chances: Any
) -> Iterator[Injected]:
    """Every run that begins in this block, in whichever thread, is a lio run with faults.

    Args:
      seed: decides what goes wrong. `None`: a new one each time, to be found in the result.
      backend: as for `trio_lio.install`. On ``"sim"`` the seed is the simulated kernel's too.
      chances: ``short_io``, ``reset``, ``delay``, ``cancel_race``, ``interrupt``,
        ``overflow``, ``queue_full``, ``latency``, with the meaning and the defaults of
        `Faults`. Without any of them everything goes wrong now and then but resets, which
        have to be asked for, as few programs come through them.

    Returns:
      An `Injected`: ``seed``, ``settings``, and ``counts`` of what was injected.

    The decisions follow from the seed and the row of operations. On ``uring`` and ``epoll``
    that row depends on the kernel's pace as well, so the same seed makes a run alike, and a
    failure likely to come again, but not certain to; nothing of the network's pace is
    simulated away.

    Raises:
      RuntimeError: inside a run. Its backend is made; put the block around ``trio.run``.
      TypeError, ValueError: a bad seed or chance, or one that does not exist.
    """
    if in_run():
        raise RuntimeError(
            "trio_lio.testing.faults() is for runs that begin in it, and this run has begun: "
            "put it around trio.run, or mark the test with @pytest.mark.lio_faults(...)"
        )
    known = [field for field in Faults.__annotations__ if field != "seed"]
    for name in chances:
        if name not in known:
            raise TypeError(f"there is no fault {name!r}; there are: {', '.join(known)}")
    settings = Faults(seed=new_seed() if seed is None else seed, **chances)
    injected = Injected(settings)
    with installed(backend=backend):
        _faults.enter(injected)
        try:
            yield injected
        finally:
            _faults.leave(injected)
