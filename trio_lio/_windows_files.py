"""What stands for files on Windows: Trio's own, in threads."""

from __future__ import annotations

from trio import Path, open_file

from ._trio_compat import AsyncIOWrapper as AsyncFile

__all__ = ["AsyncFile", "Path", "open_file"]
