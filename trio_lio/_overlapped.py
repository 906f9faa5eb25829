"""What Trio lets its users do with the completion port itself, on Windows:
``trio.lowlevel.current_iocp``, ``register_with_iocp``, ``wait_overlapped``,
``readinto_overlapped``, ``write_overlapped``, ``monitor_completion_key``; and Trio's pipes,
which stand on these. They are Trio's own functions, on our port.
"""

from __future__ import annotations

import itertools
import socket
import sys
from typing import TYPE_CHECKING, Any

from ._native import lib

__all__ = ["PACKET", "Overlapped", "check_network"]

PACKET = -3
"""The id of a record that is a packet of somebody else's (``LIO_ID_PACKET``)."""

if TYPE_CHECKING or sys.platform != "win32":

    def check_network() -> None:
        """Raises RuntimeError where a layered service provider has waits go elsewhere."""

    class Overlapped:
        """The part of a manager that there is on Windows only."""

        def open_overlapped(self, handle: Any) -> None: ...

        def close_overlapped(self) -> None: ...

        def overlapped_statistics(self) -> dict[str, int]:
            return {}

        def process_packet(self, transferred: int, overlapped: int, key: int) -> None: ...

else:
    from ._trio_compat import io_windows, windows_ffi

    def check_network() -> None:
        """Raises RuntimeError where a layered service provider has waits go elsewhere."""
        with socket.socket() as sock:
            base = io_windows._get_base_socket(sock)
            try:
                selected = io_windows._get_underlying_socket(
                    sock, which=io_windows.WSAIoctls.SIO_BSP_HANDLE_SELECT
                )
            except OSError:
                return  # not known here (Wine), so it cannot be another one
            if selected != base:
                raise RuntimeError(
                    "Unexpected network configuration detected: SIO_BASE_HANDLE and "
                    "SIO_BSP_HANDLE_SELECT differ. A layered service provider has replaced "
                    "select(); `netsh winsock show catalog` tells which."
                )

    class Port(io_windows.WindowsIOManager):
        """Trio's manager, on a port that is not its own, for overlapped operations alone."""

        def __init__(self, port: int) -> None:
            self._iocp = windows_ffi.cast("HANDLE", port)
            self._all_afd_handles = []
            self._afd_waiters = {}
            self._events = windows_ffi.new("OVERLAPPED_ENTRY[]", 1)
            self._overlapped_waiters = {}
            self._posted_too_late_to_cancel = set()
            self._completion_key_queues = {}
            self._completion_key_counter = itertools.count(io_windows.CKeys.USER_DEFINED)

        def close(self) -> None:
            self._iocp = None  # it is not ours to close

        def process_packet(self, transferred: int, overlapped: int, key: int) -> None:
            entry = self._events[0]
            entry.lpCompletionKey = key
            entry.lpOverlapped = windows_ffi.cast("LPOVERLAPPED", overlapped)
            entry.dwNumberOfBytesTransferred = transferred
            self.process_events(1)

    class Overlapped:
        """The part of a manager that there is on Windows only."""

        def open_overlapped(self, handle: Any) -> None:
            port = Port(lib.lio_port(handle))
            self._port = port
            self.process_packet = port.process_packet
            self.current_iocp = port.current_iocp
            self.register_with_iocp = port.register_with_iocp
            self.wait_overlapped = port.wait_overlapped
            self.readinto_overlapped = port.readinto_overlapped
            self.write_overlapped = port.write_overlapped
            self.monitor_completion_key = port.monitor_completion_key

        def close_overlapped(self) -> None:
            self._port.close()

        def overlapped_statistics(self) -> dict[str, int]:
            found = self._port.statistics()
            return {
                "tasks_waiting_overlapped": found.tasks_waiting_overlapped,
                "completion_key_monitors": found.completion_key_monitors,
            }
