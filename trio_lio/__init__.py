"""Trio on completions: io_uring, and a first-class epoll poller, under unchanged programs."""

import sys
from typing import TYPE_CHECKING

from . import _anyio_finder, backends, lowlevel
from ._install import current_backend, install, installed, run, start_guest_run, uninstall
from ._native import BackendInfo, BackendUnavailable, available_backends
from ._trio_compat import TrioIncompatible

if TYPE_CHECKING or sys.platform != "win32":
    from ._file import AsyncFile, open_file
    from ._path import Path
else:
    from ._windows_files import AsyncFile, Path, open_file

from ._sendfile import sendfile

__version__ = "0.1.0"

_anyio_finder.install()

__all__ = [
    "AsyncFile",
    "BackendInfo",
    "BackendUnavailable",
    "Path",
    "TrioIncompatible",
    "__version__",
    "available_backends",
    "backends",
    "current_backend",
    "install",
    "installed",
    "lowlevel",
    "open_file",
    "run",
    "sendfile",
    "start_guest_run",
    "uninstall",
]
