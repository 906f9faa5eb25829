"""The anyio backend ``"trio_lio"``: anyio's own Trio backend, on lio runs::

    import anyio
    import trio_lio.anyio

    anyio.run(main, backend="trio_lio", backend_options={"backend": "epoll"})

Importing this module registers the backend, and lists it in `anyio.get_all_backends` and
`anyio.get_available_backends`.

Inside, everything says "trio": `sniffio.current_async_library`, and so every library that
knows Trio.

Raises on import:
  AnyioIncompatible: there is no anyio, or it is not one that trio-lio knows.
"""

from __future__ import annotations

from ._anyio_backend import NAME, TrioLioBackend
from ._anyio_compat import AnyioIncompatible, eventloop

__all__ = ["AnyioIncompatible", "TrioLioBackend"]

eventloop.loaded_backends[NAME] = TrioLioBackend
if NAME not in eventloop.BACKENDS:
    eventloop.BACKENDS = (*eventloop.BACKENDS, NAME)
