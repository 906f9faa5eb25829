"""What stands for files on Windows: Trio's own, in threads."""

from __future__ import annotations

import errno
from typing import Any

from trio import Path, open_file

from ._trio_compat import AsyncIOWrapper as AsyncFile

__all__ = ["AsyncFile", "Path", "open_file", "sendfile"]


async def sendfile(*args: Any, **kwargs: Any) -> int:
    """Not on Windows.

    Raises:
      OSError: always (ENOTSUP).
    """
    raise OSError(errno.ENOTSUP, "trio_lio.sendfile is not there on Windows")
