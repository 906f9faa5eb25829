"""Garbage through the contract: always an error or a completion, never a crash.

Descriptors are those of the test's own files or of none, and names stay in its directory:
a random `Op.close` would close the test's own world otherwise.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from trio_lio._native import ffi, lib
from trio_lio.backends import ContractError, IoBackend, Op

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Maker

# How many programs to try; more than by default finds more.
SETTINGS = settings(
    max_examples=int(os.environ.get("TRIO_LIO_FUZZ", "25")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
REFUSALS = (TypeError, ValueError, OverflowError, OSError)

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 1, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63)]),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.just(object()),
    st.lists(st.integers(), max_size=2),
)
SMALL = st.integers(0, 100_000)
FLAGS = st.one_of(st.just(0), st.integers(0, 2**20), st.integers(0, 2**32 - 1), ODD)
BUFFERS = st.one_of(
    st.binary(max_size=100),
    st.builds(bytearray, st.integers(0, 100)),
    st.builds(lambda n: memoryview(bytearray(n)), st.integers(0, 100)),
    st.builds(lambda n: memoryview(bytearray(n))[::2], st.integers(0, 100)),
    ODD,
)
ADDRESSES = st.one_of(
    st.tuples(st.sampled_from(["127.0.0.1", "::1", "", "x"]), st.integers(-1, 70_000)),
    st.tuples(st.just("::1"), st.integers(0, 100), ODD, ODD),
    st.binary(max_size=120).map(lambda raw: b"\0" + raw),
    ODD.filter(lambda odd: not isinstance(odd, (str, bytes))),
)
# No slash: nothing outside the directory that the test is in.
PATHS = st.one_of(
    st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=10),
    st.binary(max_size=10).filter(lambda raw: b"/" not in raw),
    ODD.filter(lambda odd: not (isinstance(odd, (str, bytes)) and "/" in os.fsdecode(odd))),
).filter(lambda path: path not in ("..", b".."))


class Sandbox:
    """Descriptors that may be hurt. Made anew for each example."""

    def __init__(self) -> None:
        self.made: list[int] = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            self.made += [sock.detach() for sock in socket.socketpair(socket.AF_UNIX, kind)]
        self.made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach())
        self.made.append(socket.socket(socket.AF_INET).detach())
        server = socket.socket()
        server.listen(1)
        self.made.append(server.detach())
        self.made += os.pipe()
        self.made.append(os.open("file", os.O_RDWR | os.O_CREAT))
        self.made.append(os.open(".", os.O_RDONLY))

    def close(self) -> None:
        for fd in self.made:
            try:
                os.close(fd)
            except OSError:
                pass  # an operation closed it


def make_op(data: st.DataObject, sandbox: Sandbox) -> Op:
    fd = st.one_of(
        st.sampled_from(sandbox.made),
        st.sampled_from(sandbox.made),
        st.sampled_from([10**6, 2**31 - 1]),
        ODD.filter(lambda odd: not isinstance(odd, int) or not 0 <= odd < 10**5),
    )
    number = st.one_of(SMALL, ODD)
    dir_fd = st.one_of(st.none(), fd)

    def draw(*strategies: st.SearchStrategy[Any]) -> list[Any]:
        return [data.draw(strategy) for strategy in strategies]

    vectors = st.one_of(st.lists(BUFFERS, max_size=4), ODD)
    ancdata = st.one_of(
        st.just(()), st.lists(st.tuples(number, number, BUFFERS), max_size=2), ODD
    )
    makers: dict[str, Any] = {
        "nop": lambda: Op.nop(),
        "timeout": lambda: Op.timeout(*draw(number)),
        "read": lambda: Op.read(*draw(fd, st.one_of(SMALL, BUFFERS))),
        "read_at": lambda: Op.read_at(*draw(fd, st.one_of(SMALL, BUFFERS), number)),
        "write": lambda: Op.write(*draw(fd, BUFFERS)),
        "write_at": lambda: Op.write_at(*draw(fd, BUFFERS, st.one_of(SMALL, st.just(-1)))),
        "readv_at": lambda: Op.readv_at(*draw(fd, vectors, number)),
        "writev_at": lambda: Op.writev_at(*draw(fd, vectors, SMALL)),
        "recv": lambda: Op.recv(*draw(fd, SMALL, FLAGS)),
        "recv_into": lambda: Op.recv_into(*draw(fd, BUFFERS, FLAGS)),
        "recvfrom": lambda: Op.recvfrom(*draw(fd, SMALL, FLAGS)),
        "recvfrom_into": lambda: Op.recvfrom_into(*draw(fd, BUFFERS, FLAGS)),
        "recvmsg": lambda: Op.recvmsg(*draw(fd, SMALL, SMALL, FLAGS)),
        "recvmsg_into": lambda: Op.recvmsg_into(*draw(fd, vectors, SMALL, FLAGS)),
        "send": lambda: Op.send(*draw(fd, BUFFERS, FLAGS), all=data.draw(st.booleans())),
        "sendto": lambda: Op.sendto(*draw(fd, BUFFERS, ADDRESSES, FLAGS)),
        "sendmsg": lambda: Op.sendmsg(*draw(fd, vectors, ancdata, FLAGS)),
        "socket": lambda: Op.socket(*draw(number, number, number)),
        "bind": lambda: Op.bind(*draw(fd, ADDRESSES)),
        "listen": lambda: Op.listen(*draw(fd, number)),
        "accept": lambda: Op.accept(*draw(fd)),
        "connect": lambda: Op.connect(*draw(fd, ADDRESSES)),
        "shutdown": lambda: Op.shutdown(*draw(fd, number)),
        "poll": lambda: Op.poll(
            *draw(fd), readable=data.draw(st.booleans()), writable=data.draw(st.booleans())
        ),
        "openat": lambda: Op.openat(*draw(PATHS, FLAGS, number), dir_fd=data.draw(dir_fd)),
        "close": lambda: Op.close(*draw(fd)),
        "fsync": lambda: Op.fsync(*draw(fd)),
        "truncate": lambda: Op.truncate(*draw(fd, st.one_of(SMALL, st.just(-5)))),
        "statx": lambda: Op.statx(*draw(PATHS, FLAGS, FLAGS), dir_fd=data.draw(dir_fd)),
        "linkat": lambda: Op.linkat(*draw(PATHS, PATHS, FLAGS)),
        "symlinkat": lambda: Op.symlinkat(*draw(PATHS, PATHS), dir_fd=data.draw(dir_fd)),
        "renameat": lambda: Op.renameat(*draw(PATHS, PATHS, FLAGS)),
        "unlinkat": lambda: Op.unlinkat(*draw(PATHS, FLAGS), dir_fd=data.draw(dir_fd)),
        "mkdirat": lambda: Op.mkdirat(*draw(PATHS, number), dir_fd=data.draw(dir_fd)),
        "tee": lambda: Op.tee(*draw(fd, fd, SMALL, FLAGS)),
        "splice": lambda: Op.splice(*draw(fd, fd, SMALL, dir_fd, dir_fd, FLAGS)),
    }
    made = makers[data.draw(st.sampled_from(sorted(makers)))]()
    assert isinstance(made, Op)
    return made


def close_what_came(done: Any, kind: str) -> None:
    if done.error is not None:
        return
    if kind in ("socket", "openat"):
        os.close(done.result)
    elif kind == "accept":
        os.close(done.result[0])


@pytest.fixture
def in_its_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("in_its_own_directory")
def test_garbage_operations(new_backend: Maker) -> None:
    @SETTINGS
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        sandbox = Sandbox()
        kinds: dict[int, str] = {}
        try:
            with new_backend() as backend:
                backend.init(8)
                for op_id in range(8):
                    try:
                        op = make_op(data, sandbox)
                        backend.push(op_id, op)
                    except (*REFUSALS, ContractError):
                        continue
                    kinds[op_id] = op.name
                for _ in range(3):
                    for done in backend.wait_timeout(0):
                        close_what_came(done, kinds.pop(done.op_id))
                for op_id in sorted(kinds):
                    if backend.cancel(op_id):
                        del kinds[op_id]
                for _ in range(200):
                    if not kinds:
                        break
                    for done in backend.wait_timeout(0.1):
                        close_what_came(done, kinds.pop(done.op_id))
                assert not kinds, "an operation does not end"
        finally:
            sandbox.close()

    check()


def test_garbage_calls(new_backend: Maker) -> None:
    @SETTINGS
    @given(calls=st.lists(st.tuples(st.integers(0, 9), ODD), max_size=12))
    def check(calls: list[tuple[int, Any]]) -> None:
        with new_backend() as backend:
            for which, odd in calls:
                # The numbers of open descriptors are not for guessing.
                guess = isinstance(odd, int) and 0 <= odd < 10**5
                fd = 10**6 if guess else odd
                try:
                    call_something(backend, which, odd, fd)
                except (*REFUSALS, ContractError, MemoryError):
                    continue

    check()


def call_something(backend: IoBackend, which: int, odd: Any, fd: Any) -> None:
    if which == 0:
        backend.init(odd if not isinstance(odd, int) or odd < 10**5 else 16)
    elif which == 1:
        backend.push(odd, Op.nop())
    elif which == 2:
        backend.cancel(odd)
    elif which == 3:
        backend.wait_timeout(
            0 if odd is None or (isinstance(odd, (int, float)) and odd > 0) else odd
        )
    elif which == 4:
        backend.adopt(fd)
    elif which == 5:
        backend.release_fd(fd)
    elif which == 6:
        backend.close_fd(fd)
    elif which == 7:
        backend.grow(odd if not isinstance(odd, int) or odd < 10**5 else 16)
    elif which == 8:
        backend.wait_ready(
            0 if odd is None or (isinstance(odd, (int, float)) and odd > 0) else odd
        )
    else:
        backend.wake()


@pytest.fixture
def sandbox(in_its_own_directory: None) -> Iterator[Sandbox]:
    made = Sandbox()
    yield made
    made.close()


def test_garbage_records(new_backend: Maker, sandbox: Sandbox) -> None:
    """The C contract itself, field by field, without the checks of Python."""
    any32 = st.one_of(st.just(0), st.integers(0, 2**32 - 1))
    any64 = st.one_of(st.just(0), st.integers(-(2**63), 2**63 - 1))
    memory = ffi.new("char[]", 4096)
    # Transfers move real memory: no longer than there is, and no paths but harmless ones.
    name = ffi.new("char[]", b"no-such-file")
    keep: list[Any] = []

    @SETTINGS
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        with new_backend() as backend:
            backend.init(4)
            handle = backend._handle
            for op_id in range(4):
                record = ffi.new("lio_op *")
                keep.append(record)
                record.opcode = data.draw(st.integers(0, 255))
                record.op_flags = data.draw(st.sampled_from([0, 0, 1, 2, 255]))
                record.flags = data.draw(any32)
                record.fd = data.draw(
                    st.sampled_from([*sandbox.made, -1, -(2**63), 10**6, 2**31, 2**62])
                )
                record.fd2 = data.draw(st.sampled_from([*sandbox.made, -1, 10**6]))
                vectored = record.opcode in (
                    lib.LIO_READV_AT,
                    lib.LIO_WRITEV_AT,
                    lib.LIO_SENDMSG,
                    lib.LIO_RECVMSG,
                )
                if record.opcode == lib.LIO_CLOSE:
                    record.fd = 10**6
                if vectored or data.draw(st.booleans()):
                    record.buf = ffi.NULL
                    record.len = data.draw(st.one_of(st.integers(0, 2000), any32))
                else:
                    record.buf = memory
                    record.len = data.draw(st.integers(0, 4096))
                if record.opcode == lib.LIO_STATX:
                    record.buf = memory
                record.offset = data.draw(any64)
                record.offset2 = data.draw(any64)
                if record.opcode == lib.LIO_TRUNCATE:
                    record.offset = data.draw(st.integers(-5, 10_000))
                if record.opcode in (lib.LIO_WRITE_AT, lib.LIO_SPLICE):
                    record.offset = data.draw(st.integers(-5, 10_000))
                    record.offset2 = -1
                record.mode = data.draw(any32)
                kind = data.draw(st.sampled_from(["nothing", "name", "address"]))
                if kind != "nothing":
                    record.addr = name if kind == "name" else memory
                    record.path2 = name
                if kind == "address":
                    record.addr_len = data.draw(st.integers(0, 300))
                    record.path2 = ffi.NULL
                lib.lio_push(handle, op_id, record)
            for _ in range(3):
                lib.lio_py_wait(handle, 0.0)
            for op_id in range(4):
                lib.lio_cancel(handle, op_id)
            for op_id in (0, 2**63 - 1, 2**63, 2**64 - 1):
                lib.lio_cancel(handle, op_id)
            lib.lio_py_wait(handle, 0.01)

    before = set(os.listdir("/proc/self/fd"))
    check()
    for number in set(os.listdir("/proc/self/fd")) - before:
        try:
            os.close(int(number))  # what LIO_SOCKET and LIO_ACCEPT brought
        except OSError:
            continue
