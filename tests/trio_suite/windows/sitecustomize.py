"""Children of Trio's tests run on trio-lio too: stock Trio cannot start under Wine."""

import os

_backend = os.environ.get("TRIO_SUITE_BACKEND", "stock")
if os.name == "nt" and _backend != "stock":
    import trio_lio

    trio_lio.install(backend=_backend)
