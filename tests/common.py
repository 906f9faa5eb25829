"""What the tests of the backends and those of Trio's level share."""

from __future__ import annotations

import array
import contextlib
import functools
import os
import socket as stdlib_socket
import sys
import time

# A kernel that has io_uring and little of what was added to it since.
OLD_KERNEL = (
    "single_issuer,defer_taskrun,taskrun_flag,coop_taskrun,submit_all,cqsize,no_sqarray,"
    "ext_arg,buf_ring,fixed_files"
)

# Chances of faults by which everything goes wrong all the time, but resets.
ROUGH = {
    "short_io": 0.5,
    "delay": 0.4,
    "cancel_race": 0.5,
    "interrupt": 0.1,
    "overflow": 0.3,
    "queue_full": 0.3,
}


def open_fds() -> dict[int, str]:
    """The open descriptors, and what each of them is."""
    found: dict[int, str] = {}
    if sys.platform == "win32":
        return found  # there is no list of handles
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def socketpair() -> tuple[stdlib_socket.socket, stdlib_socket.socket]:
    """`socket.socketpair`, which is of TCP on Windows: there without TCP's delays."""
    pair = stdlib_socket.socketpair()
    if sys.platform == "win32":
        for sock in pair:
            sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
    return pair


@functools.lru_cache(maxsize=64)
def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes in which a lost, doubled or moved part shows."""
    first = seed * 1_000_003 % 2**31
    return array.array("I", range(first, first + size // 4 + 1)).tobytes()[:size]


def handle_of(fd: int) -> int:
    """What backends know a file by: on Windows, not C's number for it."""
    if sys.platform == "win32":
        import msvcrt

        return msvcrt.get_osfhandle(fd)
    return fd


def fill(sock: stdlib_socket.socket) -> int:
    """Sends until the socket takes no more; returns how much it took."""
    sock.setblocking(False)
    sent, size, full = 0, 65536, 0
    while full < 8:
        try:
            sent += sock.send(bytes(size))
            full = 0
        except BlockingIOError:
            if sys.platform != "win32":
                break
            # There a small one fits where a large one does not, and the system moves on what it
            # has, and finds more room.
            size //= 16
            if size == 0:
                size = 65536
                full += 1
                time.sleep(0.05)
    return sent


def take_now(sock: stdlib_socket.socket, size: int = 1 << 20) -> bytes | None:
    """What is there to be received at this moment; None if nothing is, not even the end."""
    sock.setblocking(False)
    try:
        return sock.recv(size)
    except BlockingIOError:
        return None


def sees_end(sock: stdlib_socket.socket) -> bool:
    """Whether a peer sees the end of the stream at this very moment."""
    try:
        return take_now(sock) == b""
    except ConnectionResetError:
        return True
