"""What can be seen here of platforms that are not this one."""

from __future__ import annotations

import subprocess
import sys

# Names that Python's modules have on Linux only, or not on all of macOS and the BSDs.
ELSEWHERE = """
import errno, os, select, signal, socket, sys
import trio

for module, names in {
    errno: ["ETIME"],
    os: ["sched_setaffinity", "sched_getaffinity", "pidfd_open", "eventfd", "splice",
         "POSIX_SPAWN_CLOSEFROM", "posix_fallocate", "SCHED_BATCH", "waitid", "pipe2"],
    select: ["epoll"],
    socket: ["SOCK_NONBLOCK", "SOCK_CLOEXEC", "MSG_ERRQUEUE", "MSG_NOSIGNAL", "MSG_MORE",
             "MSG_CMSG_CLOEXEC", "MSG_CONFIRM", "AF_NETLINK", "AF_PACKET", "AF_VSOCK",
             "SO_DOMAIN", "SO_PROTOCOL", "SO_PEERCRED", "SCM_CREDENTIALS", "TCP_QUICKACK"],
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.platform = PLATFORM

import trio_lio
from trio_lio import _doctor
from trio_lio.backends import Op, backend_names
from trio_lio._cli import main

kind = Op.socket(socket.AF_INET, socket.SOCK_STREAM)
assert kind.flags == socket.SOCK_STREAM, kind
Op.statx("x"), Op.timeout(1), Op.sendto(1, b"", ("127.0.0.1", 1))
address = Op.connect(1, ("127.0.0.1", 0x1234)).address
assert address[:4] == bytes([16, socket.AF_INET, 0x12, 0x34]), address
assert backend_names()
for command in ("demo", "bench"):
    assert main([command]) == 1
print("ok")
"""


def test_imports_without_what_only_linux_has() -> None:
    for platform in ("darwin", "freebsd14"):
        program = ELSEWHERE.replace("PLATFORM", repr(platform))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.stdout == "ok\n", done.stderr
        assert "tools of Linux" in done.stderr
