"""Builds `trio_lio._lio`, the C core behind a cffi module (API mode, out of line).

The declarations are those of ``csrc/lio.h``: it stays the one place where they stand.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"

PORTABLE = ["lio.c", "backend.c", "faults.c", "op_store.c", "reserved.c", "spin.c"]
POSIX = [
    "faults_posix.c",
    "poller.c",
    "poller_ops.c",
    "poller_park.c",
    "poller_turn.c",
    "sigpipe.c",
    "timer_heap.c",
    "file_ops.c",
    "file_pool.c",
    "sim.c",
    "sim_files.c",
    "sim_objects.c",
    "sim_wait.c",
]
KQUEUE = ["poller_kqueue.c"]
LINUX = [
    "uring.c",
    "uring_complete.c",
    "uring_encode.c",
    "uring_half_closed.c",
    "uring_lookout.c",
    "uring_pool.c",
    "uring_probe.c",
    "uring_ring.c",
    "uring_submit.c",
    "poller_epoll.c",
    "fifo_open.c",
    "floor_server.c",
    "load_generator.c",
    "syscall_count.c",
]

WINDOWS = [
    "iocp.c",
    "iocp_afd.c",
    "iocp_errors.c",
    "iocp_faults.c",
    "iocp_files.c",
    "iocp_handles.c",
    "iocp_ops.c",
    "iocp_receive.c",
    "iocp_transmit.c",
    "no_posix.c",
    "timer_heap.c",
]

WINDOWS_LIBRARIES = ["ws2_32", "mswsock", "ntdll"]
# Windows 10, and Winsock's own headers before all others.
WINDOWS_MACROS = ["-D_WIN32_WINNT=0x0A00", "-DWIN32_LEAN_AND_MEAN"]

# Flat functions for the hot path: filling a struct field by field from Python would cost
# more than the operation.
GLUE_DECLARATIONS = """
static const int LIO_PY_AT_FDCWD, LIO_PY_AT_SYMLINK_NOFOLLOW, LIO_PY_AT_REMOVEDIR,
    LIO_PY_AT_NO_AUTOMOUNT, LIO_PY_AT_EMPTY_PATH;
int lio_py_await_data(lio_backend *backend, uint64_t id, intptr_t fd);
int lio_py_send_all(lio_backend *backend, uint64_t id, intptr_t fd, void *buf, uint64_t len);
int lio_py_push(lio_backend *backend, uint64_t id, int opcode, intptr_t fd, void *buf,
                uint64_t len, uint32_t flags, int op_flags);
int lio_py_push_address(lio_backend *backend, uint64_t id, int opcode, intptr_t fd, void *buf,
                        uint64_t len, uint32_t flags, const char *address, size_t address_len);
int lio_py_transfer(lio_backend *backend, uint64_t id, int opcode, int fd, void *buf,
                    uint64_t len, int64_t offset);
int lio_py_path(lio_backend *backend, uint64_t id, int opcode, int fd, const char *path,
                int fd2, const char *path2, uint32_t flags, uint32_t mode, void *buf);
int lio_py_splice(lio_backend *backend, uint64_t id, int from, int64_t offset, int to,
                  uint64_t len, uint32_t flags);
void lio_py_close(intptr_t fd);
int lio_py_wait(lio_backend *backend, double seconds);
int lio_py_wait_ready(lio_backend *backend, double seconds);
"""

GLUE = """
#include "backend.h"
#if defined(__linux__)
#include "fifo_open.h"
#include "floor_server.h"
#include "load_generator.h"
#include "syscall_count.h"
#endif

#if !defined(_WIN32)
#include <fcntl.h>
#endif
#if !defined(AT_FDCWD)
#define AT_FDCWD (-100)
#define AT_SYMLINK_NOFOLLOW 0x100
#define AT_REMOVEDIR 0x200
#endif
#if !defined(AT_NO_AUTOMOUNT)
#define AT_NO_AUTOMOUNT 0
#endif
#if !defined(AT_EMPTY_PATH)
#define AT_EMPTY_PATH 0x1000 /* as in file_ops.c */
#endif
static const int LIO_PY_AT_FDCWD = AT_FDCWD;
static const int LIO_PY_AT_SYMLINK_NOFOLLOW = AT_SYMLINK_NOFOLLOW;
static const int LIO_PY_AT_REMOVEDIR = AT_REMOVEDIR;
static const int LIO_PY_AT_NO_AUTOMOUNT = AT_NO_AUTOMOUNT;
static const int LIO_PY_AT_EMPTY_PATH = AT_EMPTY_PATH;

static int lio_py_await_data(lio_backend *backend, uint64_t id, intptr_t fd)
{
    lio_op op = {.opcode = LIO_POLL,
                 .op_flags = LIO_OP_EXCLUSIVE | LIO_OP_HINT,
                 .fd = fd,
                 .flags = LIO_POLL_READ};
    return lio_push(backend, id, &op);
}

/* Bytes to send that fit in a processor's own cache, beside what else is there. */
#define LIO_PY_MUCH (256u << 10)

/* 1: queued, and so much is by now that it had better go before it has left the cache. */
static int lio_py_send_all(lio_backend *backend, uint64_t id, intptr_t fd, void *buf,
                           uint64_t len)
{
    lio_op op = {.opcode = LIO_SEND,
                 .op_flags = LIO_OP_EXCLUSIVE | LIO_OP_ALL,
                 .fd = fd,
                 .buf = buf,
                 .len = len};
    int code = lio_push(backend, id, &op);
    if (code != 0)
        return code;
    backend->queued_bytes += len;
    return backend->queued_bytes >= LIO_PY_MUCH;
}

static int lio_py_push(lio_backend *backend, uint64_t id, int opcode, intptr_t fd, void *buf,
                       uint64_t len, uint32_t flags, int op_flags)
{
    lio_op op = {.opcode = (uint8_t)opcode,
                 .op_flags = (uint8_t)op_flags,
                 .fd = fd,
                 .buf = buf,
                 .len = len,
                 .flags = flags};
    return lio_push(backend, id, &op);
}

static int lio_py_push_address(lio_backend *backend, uint64_t id, int opcode, intptr_t fd,
                               void *buf, uint64_t len, uint32_t flags, const char *address,
                               size_t address_len)
{
    lio_op op = {.opcode = (uint8_t)opcode,
                 .op_flags = LIO_OP_EXCLUSIVE,
                 .fd = fd,
                 .buf = buf,
                 .len = len,
                 .flags = flags,
                 .addr = address,
                 .addr_len = (uint16_t)address_len};
    return lio_push(backend, id, &op);
}

/* Descriptors that nobody promised to keep: the kernel has to know the file before somebody
 * else closes it. What the kernel has no room for now goes with the next wait. */
static int push_and_flush(lio_backend *backend, uint64_t id, const lio_op *op)
{
    int code = lio_push(backend, id, op);
    if (code == 0)
        lio_flush(backend);
    return code;
}

static int lio_py_transfer(lio_backend *backend, uint64_t id, int opcode, int fd, void *buf,
                           uint64_t len, int64_t offset)
{
    lio_op op = {
        .opcode = (uint8_t)opcode, .fd = fd, .buf = buf, .len = len, .offset = offset};
    return push_and_flush(backend, id, &op);
}

static int lio_py_path(lio_backend *backend, uint64_t id, int opcode, int fd, const char *path,
                       int fd2, const char *path2, uint32_t flags, uint32_t mode, void *buf)
{
    lio_op op = {.opcode = (uint8_t)opcode,
                 .fd = fd,
                 .fd2 = fd2,
                 .path = path,
                 .path2 = path2,
                 .flags = flags,
                 .mode = mode,
                 .buf = buf};
    return push_and_flush(backend, id, &op);
}

static int lio_py_splice(lio_backend *backend, uint64_t id, int from, int64_t offset, int to,
                         uint64_t len, uint32_t flags)
{
    lio_op op = {.opcode = LIO_SPLICE,
                 .fd = from,
                 .offset = offset,
                 .fd2 = to,
                 .offset2 = -1,
                 .len = len,
                 .flags = flags};
    return push_and_flush(backend, id, &op);
}

static void lio_py_close(intptr_t fd)
{
    lio_discard_result(LIO_OPENAT, fd);
}

static int64_t nanoseconds(double seconds)
{
    if (!(seconds < 9.0e9))
        return -1;
    double ns = seconds * 1e9;
    /* A wait must not end before its time: round up. */
    return seconds <= 0 ? 0 : (int64_t)ns + ((double)(int64_t)ns < ns);
}

static int lio_py_wait(lio_backend *backend, double seconds)
{
    const lio_completion *completions;
    return lio_wait(backend, nanoseconds(seconds), &completions);
}

static int lio_py_wait_ready(lio_backend *backend, double seconds)
{
    return lio_wait_ready(backend, nanoseconds(seconds));
}
"""


def declarations(header: Path) -> str:
    """What cffi has to know of a header: no comments, no preprocessor lines."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL)
    text = re.sub(r'^extern "C" \{\s*\n#endif', "#endif", text, flags=re.MULTILINE)
    text = re.sub(r"^#ifdef __cplusplus\n\}\n#endif", "", text, flags=re.MULTILINE)
    constants = dict(re.findall(r"^#define (LIO_ADDR_MAX) (\d+)", text, flags=re.MULTILINE))
    text = re.sub(r"^\s*#.*(?:\\\n.*)*$", "", text, flags=re.MULTILINE)
    for name, value in constants.items():
        text = text.replace(f"[{name}]", f"[{value}]")
    return text


def kqueue_arguments() -> dict[str, list[str]] | None:
    """How to build the backend ``kqueue``, or None: not here.

    On Linux it is for tests. ``TRIO_LIO_KQUEUE`` names a prefix with ``include/sys/event.h``
    and a library ``lib/libkqueue.a`` that offer kqueue and kevent.
    """
    if sys.platform.startswith(("darwin", "freebsd", "openbsd", "netbsd", "dragonfly")):
        return {"compile": ["-DLIO_KQUEUE"], "link": []}
    prefix = os.environ.get("TRIO_LIO_KQUEUE", "")
    if not prefix:
        return None
    for folder, name in (("include", "sys/event.h"), ("lib", "libkqueue.a")):
        if not Path(prefix, folder, name).is_file():
            raise SystemExit(
                f"TRIO_LIO_KQUEUE={prefix!r}: there is no {folder}/{name}. Build the one of "
                "the tests with 'python3 tools/build_kqueue.py PREFIX'."
            )
    include = str(Path(prefix, "include").resolve())
    library = str(Path(prefix, "lib", "libkqueue.a").resolve())
    return {"compile": ["-DLIO_KQUEUE", f"-I{include}"], "link": [library]}


def settings(platform: str) -> dict[str, list[str]]:
    """How to build for a platform, a value of `sys.platform`: C files, headers to declare, and
    the arguments of compiler and linker."""
    sources, headers = list(PORTABLE), ["lio.h"]
    arguments = ["-std=c11", "-O2"]
    links: list[str] = []
    if platform == "win32":
        sources += WINDOWS
        arguments += WINDOWS_MACROS
    else:
        sources += POSIX
        arguments += ["-D_GNU_SOURCE", "-fvisibility=hidden", "-pthread"]
        links += ["-pthread"]
    if platform.startswith("linux"):
        sources += LINUX
        headers += ["fifo_open.h", "floor_server.h", "load_generator.h", "syscall_count.h"]
    return {"sources": sources, "headers": headers, "arguments": arguments, "links": links}


def make(platform: str = sys.platform) -> FFI:
    builder = FFI()
    how = settings(platform)
    kqueue = kqueue_arguments() if platform == sys.platform else None
    if kqueue is not None:
        how["sources"] += KQUEUE
        how["arguments"] += kqueue["compile"]
        how["links"] += kqueue["link"]
    builder.cdef("\n".join(declarations(CSRC / name) for name in how["headers"]))
    builder.cdef(GLUE_DECLARATIONS)
    arguments = how["arguments"]
    if os.name == "nt":  # on Windows itself, setuptools takes Microsoft's compiler
        arguments = ["/std:c11", "/O2", *WINDOWS_MACROS]
    # Set by the sanitizer and lint sessions; assertions are on in their builds.
    extra = os.environ.get("TRIO_LIO_CFLAGS", "").split()
    if not extra:
        arguments.append("-DNDEBUG")
    os.chdir(ROOT)  # setuptools wants relative paths
    builder.set_source(
        "trio_lio._lio",
        GLUE,
        sources=[f"csrc/{name}" for name in how["sources"]],
        include_dirs=["csrc"],
        libraries=WINDOWS_LIBRARIES if platform == "win32" else [],
        depends=[str(path.relative_to(ROOT)) for path in sorted(CSRC.glob("*.h"))],
        extra_compile_args=arguments + extra,
        extra_link_args=[*how["links"], *extra],
    )
    return builder


ffibuilder = make()

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
