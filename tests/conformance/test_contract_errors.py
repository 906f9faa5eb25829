"""Misuse: each gets a clear error at once, and changes nothing."""

from __future__ import annotations

import gc
import os
import socket
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from trio_lio.backends import (
    BackendClosed,
    ContractError,
    IoBackend,
    IoUring,
    NotInitialised,
    Op,
    OpCompleted,
    Poller,
    Ready,
    probe,
)

from .support import collect, is_idle, run, submit

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Factory, Maker


def open_calls(backend: IoBackend) -> dict[str, Callable[[], object]]:
    """All calls that need an open backend."""
    return {
        "push": lambda: backend.push(1, Op.nop()),
        "cancel": lambda: backend.cancel(1),
        "flush": backend.flush,
        "wait_timeout": lambda: backend.wait_timeout(0),
        "wait_ready": lambda: backend.wait_ready(0),
        "wake": backend.wake,
        "adopt": lambda: backend.adopt(0),
        "release_fd": lambda: backend.release_fd(0),
        "close_fd": lambda: backend.close_fd(0),
        "grow": lambda: backend.grow(1),
    }


def test_before_init(new_backend: Maker) -> None:
    backend = new_backend()
    for name, call in open_calls(backend).items():
        with pytest.raises(NotInitialised, match="init"):
            call()
        assert backend.stats().pushed == 0, name
    assert "not open" in repr(backend)
    backend.init(4)
    assert run(backend, Op.nop()) == 0
    backend.close()


def test_after_close(new_backend: Maker) -> None:
    backend = new_backend()
    backend.init(4)
    backend.close()
    backend.close()
    for call in open_calls(backend).values():
        with pytest.raises(BackendClosed):
            call()
    with pytest.raises(BackendClosed):
        backend.init(4)
    assert backend.stats().in_flight == 0
    assert backend.name in repr(backend)


def test_closed_before_init(new_backend: Maker) -> None:
    backend = new_backend()
    backend.close()
    with pytest.raises(BackendClosed):
        backend.init(4)


def test_init_twice(backend: IoBackend) -> None:
    op_id = submit(backend, Op.timeout(None))
    with pytest.raises(ContractError, match="before"):
        backend.init(4)
    backend.cancel(op_id)
    assert collect(backend, [op_id])[op_id].cancelled


def test_context_manager(new_backend: Maker) -> None:
    with new_backend() as backend:
        backend.init(4)
        backend.push(1, Op.timeout(None))
    with pytest.raises(BackendClosed):
        backend.flush()


def test_a_backend_that_nobody_closed_is_closed(new_backend: Maker) -> None:
    backend = new_backend()
    backend.init(4)
    buffer = bytearray(100)
    ours, theirs = socket.socketpair()
    backend.push(1, Op.recv_into(ours.fileno(), buffer))
    backend.flush()
    drop = [backend]
    del backend
    with pytest.warns(ResourceWarning, match="unclosed backend"):
        drop.clear()
    buffer.append(0)
    theirs.send(b"x")
    assert buffer == bytes(101)
    ours.close()
    theirs.close()


@pytest.mark.parametrize("capacity", [0, -1, 2**32, 2**70, 1.5, "4", None])
def test_bad_capacity(new_backend: Maker, capacity: Any) -> None:
    with new_backend() as backend:
        with pytest.raises((ValueError, TypeError), match="capacity"):
            backend.init(capacity)
        backend.init(4)
        if capacity != 0:
            with pytest.raises((ValueError, TypeError), match="more"):
                backend.grow(capacity)
        assert backend.stats().capacity == 4


@pytest.mark.parametrize("op_id", [-1, -2, 2**63, 2**64 - 1, 2**100])
def test_bad_ids(backend: IoBackend, op_id: int) -> None:
    with pytest.raises(ValueError, match="op_id"):
        backend.push(op_id, Op.nop())
    with pytest.raises(ValueError, match="op_id"):
        backend.cancel(op_id)
    assert is_idle(backend)


@pytest.mark.parametrize("op_id", ["1", 1.0, None, b"1", object()])
def test_ids_that_are_no_numbers(backend: IoBackend, op_id: Any) -> None:
    with pytest.raises(TypeError, match="op_id"):
        backend.push(op_id, Op.nop())
    with pytest.raises(TypeError, match="op_id"):
        backend.cancel(op_id)
    assert is_idle(backend)


@pytest.mark.parametrize("op", [None, 1, "nop", Op, Op.nop])
def test_what_is_no_operation(backend: IoBackend, op: Any) -> None:
    with pytest.raises(TypeError, match="Op"):
        backend.push(1, op)
    assert is_idle(backend)


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        (-1, ValueError),
        (-1e-9, ValueError),
        (float("-inf"), ValueError),
        (float("nan"), ValueError),
        (-(10**400), ValueError),
        ("1", TypeError),
        (b"1", TypeError),
        (object(), TypeError),
        ([], TypeError),
        (1j, TypeError),
    ],
)
def test_bad_times(backend: IoBackend, timeout: Any, error: type[Exception]) -> None:
    backend.push(1, Op.nop())
    with pytest.raises(error, match="time-out"):
        backend.wait_timeout(timeout)
    with pytest.raises(error, match="time-out"):
        backend.wait_ready(timeout)
    with pytest.raises(error, match="time-out"):
        Op.timeout(timeout)
    assert collect(backend, [1])[1].result == 0


@pytest.mark.parametrize("fd", [-1, -100, 2**31, 2**63, 2**64])
def test_descriptors_out_of_range(backend: IoBackend, fd: int) -> None:
    for call in (backend.adopt, backend.release_fd, backend.close_fd):
        with pytest.raises(ValueError, match="fd"):
            call(fd)
    for make in (
        lambda: Op.recv(fd, 1),
        lambda: Op.read_at(fd, 1, 0),
        lambda: Op.close(fd),
        lambda: Op.poll(fd, readable=True),
        lambda: Op.openat("x", 0, dir_fd=fd),
        lambda: Op.splice(0, fd, 1),
    ):
        with pytest.raises(ValueError, match="fd"):
            make()


@pytest.mark.parametrize("fd", ["0", 0.0, None, socket])
def test_descriptors_that_are_no_numbers(backend: IoBackend, fd: Any) -> None:
    for call in (backend.adopt, backend.release_fd, backend.close_fd):
        with pytest.raises(TypeError, match="fd"):
            call(fd)
    with pytest.raises(TypeError, match="fd"):
        Op.recv(fd, 1)


def test_a_socket_instead_of_its_number(backend: IoBackend) -> None:
    with socket.socket() as sock:
        with pytest.raises(TypeError, match="fileno"):
            Op.recv(sock, 1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="fileno"):
            backend.close_fd(sock)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="closed"):
        Op.recv(sock.fileno(), 1)


@pytest.mark.parametrize("n", [-1, 2**31, 2**32, 2**64])
def test_bad_lengths(n: int) -> None:
    for make in (Op.recv, Op.recvfrom, Op.recvmsg, Op.read):
        with pytest.raises(ValueError, match="n must be"):
            make(0, n)
    with pytest.raises(ValueError, match="ancbufsize"):
        Op.recvmsg(0, 1, n)
    with pytest.raises(ValueError, match="backlog"):
        Op.listen(0, n)
    with pytest.raises(ValueError, match="n must be"):
        Op.splice(0, 1, n)


def test_bad_numbers() -> None:
    for make, name in (
        (lambda: Op.read_at(0, 1, -1), "offset"),
        (lambda: Op.write_at(0, b"", 2**63), "offset"),
        (lambda: Op.truncate(0, -1), "length"),
        (lambda: Op.recv(0, 1, -1), "flags"),
        (lambda: Op.send(0, b"", 2**32), "flags"),
        (lambda: Op.openat("x", -1), "flags"),
        (lambda: Op.mkdirat("x", 0o10000), "mode"),
        (lambda: Op.socket(-1, 1), "family"),
        (lambda: Op.socket(2, -1), "type"),
        (lambda: Op.poll(0), "readable"),
    ):
        with pytest.raises(ValueError, match=name):
            make()
    with pytest.raises(TypeError, match="must be an int"):
        Op.recv(0, 1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("buffer", [b"read-only", memoryview(b"read-only")])
def test_receiving_into_what_is_read_only(buffer: Any) -> None:
    for make in (
        lambda: Op.recv_into(0, buffer),
        lambda: Op.recvfrom_into(0, buffer),
        lambda: Op.recvmsg_into(0, [bytearray(1), buffer]),
        lambda: Op.read(0, buffer),
        lambda: Op.read_at(0, buffer, 0),
        lambda: Op.readv_at(0, [buffer], 0),
    ):
        with pytest.raises(TypeError, match=r"read-only|bytes-like"):
            make()


@pytest.mark.parametrize("buffer", ["text", 5, None, object(), [1]])
def test_what_is_no_buffer(buffer: Any) -> None:
    for make in (
        lambda: Op.send(0, buffer),
        lambda: Op.sendto(0, buffer, ("127.0.0.1", 1)),
        lambda: Op.sendmsg(0, [buffer]),
        lambda: Op.write(0, buffer),
        lambda: Op.write_at(0, buffer, 0),
        lambda: Op.recv_into(0, buffer),
    ):
        with pytest.raises(TypeError):
            make()


def test_one_buffer_where_several_are_wanted() -> None:
    for make in (
        lambda: Op.sendmsg(0, b"bytes"),  # type: ignore[arg-type]
        lambda: Op.recvmsg_into(0, bytearray(5)),  # type: ignore[arg-type]
        lambda: Op.writev_at(0, 5, 0),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match="iterable"):
            make()


def test_gaps_in_a_buffer() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        Op.send(0, memoryview(b"abcdef")[::2])
    with pytest.raises(ValueError, match="contiguous"):
        Op.recv_into(0, memoryview(bytearray(6))[::2])


def test_too_many_buffers() -> None:
    with pytest.raises(OSError, match="1024 is the most"):
        Op.sendmsg(0, [b"x"] * 1025)


def test_a_buffer_released_between_op_and_push(backend: IoBackend) -> None:
    view = memoryview(bytearray(10))
    op = Op.recv_into(0, view)
    view.release()
    with pytest.raises(ValueError, match="released"):
        backend.push(1, op)
    with pytest.raises(ValueError, match="released"):
        Op.send(0, view)
    assert is_idle(backend)
    backend.push(1, Op.nop())
    collect(backend, [1])


def test_a_failed_push_exports_nothing(make_backend: Factory) -> None:
    backend = make_backend(1)
    backend.push(1, Op.timeout(None))
    buffer = bytearray(10)
    op = Op.recv_into(0, buffer)
    buffer.append(0)
    for op_id in (1, 2):
        with pytest.raises(ContractError):
            backend.push(op_id, op)
        buffer.append(0)


def test_buffers_are_exported_until_the_completion_and_no_longer(backend: IoBackend) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        into, out, part = bytearray(10), bytearray(b"data"), bytearray(3)
        ids = [
            submit(backend, Op.recv_into(ours.fileno(), into)),
            submit(backend, Op.recvmsg_into(ours.fileno(), [part])),
        ]
        backend.push(1, Op.send(ours.fileno(), out))
        for buffer in (into, part, out):
            with pytest.raises(BufferError):
                buffer.append(0)
        collect(backend, [1])
        out.append(0)
        theirs.send(b"12345")
        first = backend.wait_timeout(5)
        while len(first) < 1:
            first = backend.wait_timeout(5)
        theirs.send(b"678")
        left = set(ids) - {done.op_id for done in first}
        collect(backend, left)
        into.append(0)
        part.append(0)


def test_the_buffer_is_kept_alive_by_the_operation(backend: IoBackend) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        submit(backend, Op.recv_into(ours.fileno(), bytearray(1_000_000)))
        op_id = submit(backend, Op.recvmsg(theirs.fileno(), 100_000, 10_000))
        gc.collect()
        garbage = [bytes(1_000_000) for _ in range(20)]
        theirs.send(b"x" * 100)
        ours.send(b"y" * 100)
        found = {done.op_id: done for done in backend.wait_timeout(5)}
        while op_id not in found:
            found |= {done.op_id: done for done in backend.wait_timeout(5)}
        assert found[op_id].result[0] == b"y" * 100
        assert all(not any(part[:10]) for part in garbage)


def test_paths() -> None:
    for make in (
        lambda path: Op.openat(path, 0),
        lambda path: Op.statx(path),
        lambda path: Op.linkat("x", path),
        lambda path: Op.symlinkat(path, "x"),
        lambda path: Op.unlinkat(path),
    ):
        with pytest.raises(ValueError, match="null"):
            make("a\0b")
        with pytest.raises(ValueError, match="null"):
            make(b"\0")
        for wrong in (None, 5, 1.5, ["x"]):
            with pytest.raises(TypeError):
                make(wrong)


@pytest.mark.parametrize(
    "address",
    [None, 5, ("127.0.0.1",), ("127.0.0.1", -1), ("127.0.0.1", 65536), ("127.0.0.1", "x"), ()],
)
def test_bad_addresses(address: Any) -> None:
    for make in (
        lambda: Op.connect(0, address),
        lambda: Op.bind(0, address),
        lambda: Op.sendto(0, b"", address),
    ):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            make()


def test_hosts_are_numbers() -> None:
    with pytest.raises(socket.gaierror, match="getaddrinfo"):
        Op.connect(0, ("localhost.invalid", 80))
    with pytest.raises(OSError, match="too long"):
        Op.connect(0, "x" * 200)
    with pytest.raises(OSError, match="family"):
        Op.connect(0, (1, 2), family=12345)


def test_an_operation_may_be_pushed_again(backend: IoBackend) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        op = Op.send(ours.fileno(), bytearray(b"ab"))
        for turn in range(3):
            backend.push(turn, op)
        assert all(done.result == 2 for done in collect(backend, range(3)).values())
        assert theirs.recv(100) == b"ababab"


def test_operations_are_frozen_and_tell_what_they_are() -> None:
    op = Op.recv(5, 100, socket.MSG_PEEK)
    with pytest.raises(AttributeError):
        op.fd = 6  # type: ignore[misc]
    assert repr(op) == f"<Op.recv fd=5 length=100 flags={int(socket.MSG_PEEK)}>"
    assert repr(Op.nop()) == "<Op.nop>"


def test_completions_show_and_compare() -> None:
    assert repr(OpCompleted(op_id=1, result=0)) == "OpCompleted(op_id=1, result=0)"
    failed = OpCompleted(2, None, OSError(9, "Bad file descriptor"))
    assert repr(failed) == "OpCompleted(op_id=2, error=OSError(9, 'Bad file descriptor'))"
    assert failed == OpCompleted(2, None, OSError(9, "other words"))
    assert failed != OpCompleted(2, None, OSError(10, "Bad file descriptor"))
    assert not failed.cancelled
    assert Ready.READ == 1


def test_close_of_a_descriptor_in_use_is_refused(backend: IoBackend) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        op_id = submit(backend, Op.recv(ours.fileno(), 10))
        with pytest.raises(ContractError, match="close_fd"):
            backend.push(1, Op.close(ours.fileno()))
        theirs.send(b"x")
        assert collect(backend, [op_id])[op_id].result == b"x"


def test_a_backend_by_its_bare_class() -> None:
    with pytest.raises(TypeError, match="default_backend"):
        IoBackend()


@pytest.mark.parametrize("kind", [IoUring, Poller])
def test_an_unknown_capability(kind: type[IoBackend], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_LIO_URING_WITHOUT", "defer_taskrun,perpetual_motion")
    with pytest.raises(ValueError, match="perpetual_motion"):
        kind()


def test_capabilities_that_were_switched_off_are_off(backend: IoBackend) -> None:
    without = os.environ["TRIO_LIO_URING_WITHOUT"]
    assert not set(without.split(",")) & set(backend.capabilities())
    assert backend.info.capabilities == backend.capabilities()


def test_what_was_probed_is_what_a_backend_has(backend: IoBackend) -> None:
    probed = probe(backend.info.name)
    assert set(probed.capabilities) == set(backend.capabilities())


def test_no_warning_from_a_closed_backend(new_backend: Maker) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend = new_backend()
        backend.init(4)
        backend.close()
        del backend
        gc.collect()
