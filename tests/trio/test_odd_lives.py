"""Runs in processes that end, give up their rights, or run out of something."""

from __future__ import annotations

import errno
import gc
import os
import platform
import resource
import socket as stdlib_socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import trio_lio
import trio_lio._manager
import trio_lio.lowlevel

from ..common import take_now
from .support import PATIENCE, all_in_flight, half_foreign_pair, rss, statistics, tcp_listener

Run = Callable[..., Any]

# Waits in every way, with a socket pair whose other end tells what became of it.
WAITING = """
import os, signal, sys, threading, trio, trio_lio
backend = sys.argv[1]
async def wait_with_operations_in_flight(then):
    pairs = [trio.socket.socketpair() for _ in range(3)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pairs[0][0].recv, 10)
        nursery.start_soon(trio.SocketStream(pairs[1][0]).send_all, bytes(5_000_000))
        nursery.start_soon(trio.lowlevel.wait_readable, pairs[2][0])
        await trio.testing.wait_all_tasks_blocked()
        then()
        await trio.sleep_forever()
"""


def python(program: str, backend: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WAITING + textwrap.dedent(program), backend],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


# -- ends ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["main", "child task", "system task", "callback", "thread"])
def test_sys_exit_in_a_run(where: str, backend: str) -> None:
    """As on stock Trio: the process ends with that code, at once and in order."""
    program = f"""
    import trio.testing
    def exit():
        sys.exit(7)
    async def exits():
        exit()
    def start(nursery):
        where = {where!r}
        if where == "child task":
            nursery.start_soon(exits)
        elif where == "system task":
            trio.lowlevel.spawn_system_task(exits)
        elif where == "callback":
            trio.lowlevel.current_trio_token().run_sync_soon(exit)
        elif where == "thread":
            nursery.start_soon(trio.to_thread.run_sync, exit)
        else:
            exit()
    async def main():
        async with trio.open_nursery() as nursery:
            await wait_with_operations_in_flight(lambda: start(nursery))
    def code_of(run):
        def find(exc):
            if isinstance(exc, SystemExit):
                return exc.code
            inner = [*getattr(exc, "exceptions", ()), exc.__cause__]
            return next(filter(None, (find(e) for e in inner if e is not None)), None)
        try:
            run(main)
        except BaseException as exc:
            return type(exc).__name__, find(exc)
    stock = code_of(trio.run)
    ours = code_of(lambda main: trio_lio.run(main, backend=backend))
    assert ours == stock, (ours, stock)
    sys.exit(ours[1])
    """
    done = python(program, backend)
    assert done.returncode == 7, done.stderr


@pytest.mark.parametrize("how", ["exit", "signal", "kill", "_exit"])
def test_process_ends_in_the_middle_of_a_run(how: str, backend: str) -> None:
    program = f"""
    import trio.testing
    def end():
        print("ends", flush=True)
        how = {how!r}
        if how == "exit":  # from the main thread, past Trio
            threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        elif how == "_exit":
            os._exit(0)
        else:
            os.kill(os.getpid(), signal.SIGTERM if how == "signal" else signal.SIGKILL)
    if {how!r} == "exit":
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    trio_lio.run(wait_with_operations_in_flight, end, backend=backend)
    """
    done = python(program, backend)
    expected = {"signal": -15, "kill": -9}.get(how, 0)
    assert (done.returncode, done.stdout) == (expected, "ends\n"), done.stderr


def test_interpreter_goes_down_inside_a_guest_run(backend: str) -> None:
    """The host is done, its guest is not: its thread still waits in the kernel."""
    program = """
    import queue, time, trio.testing
    todo = queue.Queue()
    over = False
    def stop():
        global over
        over = True
    trio_lio.start_guest_run(wait_with_operations_in_flight, stop, backend=backend,
        run_sync_soon_threadsafe=todo.put, done_callback=print)
    while not over:
        todo.get(timeout=20)()
    time.sleep(0.05)
    print("out")
    """
    done = python(program, backend)
    assert (done.returncode, done.stdout) == (0, "out\n"), done.stderr


@pytest.mark.parametrize("when", ["atexit", "collection", "thread at the end"])
def test_run_while_the_interpreter_goes_down(when: str, backend: str) -> None:
    program = f"""
    import atexit
    async def use():
        a, b = trio.socket.socketpair()
        with a, b:
            await a.send(b"x")
            return await b.recv(10)
    def last():
        print(trio_lio.run(use, backend=backend), flush=True)
    class Late:
        def __del__(self, last=last):
            last()
    when = {when!r}
    if when == "atexit":
        atexit.register(last)
    elif when == "collection":
        late = Late()
        atexit.register(globals().pop, "late")
    else:
        threading.Timer(0.1, last).start()
    trio_lio.run(use, backend=backend)
    """
    done = python(program, backend)
    assert (done.returncode, done.stdout) == (0, "b'x'\n"), done.stderr


def test_sockets_of_a_run_are_globals_at_the_end(backend: str) -> None:
    """They are collected when modules are gone already."""
    program = """
    async def main():
        global a, b, stream, scope
        a, b = trio.socket.socketpair()
        stream = trio.SocketStream(a)
        await b.send(b"x")
        assert await stream.receive_some() == b"x"
    trio_lio.install(backend=backend)
    trio.run(main)
    """
    done = python(program, backend, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    assert (done.returncode, done.stderr) == (0, "")


# -- rights ----------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_setuid(backend: str, tmp_path: Any) -> None:
    """What operations may do is what the process may do at that moment: nothing of a ring or
    of a worker keeps the rights of before. And runs work before, across and after."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    program = f"""
    import trio.testing
    from trio_lio import lowlevel
    path = {str(secret)!r}
    folder = os.open(os.path.dirname(path), os.O_PATH)
    async def use():
        a, b = trio.socket.socketpair()
        with a, b:
            await a.send(b"x")
            assert await b.recv(10) == b"x"
    async def opens():
        try:
            fd = await lowlevel.openat(os.path.basename(path), os.O_RDONLY, dir_fd=folder)
        except PermissionError:
            return False
        else:
            await lowlevel.close(fd)
            return True
    async def main():
        a, b = trio.socket.socketpair()
        fd = await lowlevel.openat(path, os.O_RDONLY)
        async with trio.open_nursery() as nursery:
            async def receive():
                assert await a.recv(10) == b"after"
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await use()
            assert await opens()
            assert await trio.to_thread.run_sync(os.access, path, os.R_OK)
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            assert not await opens()
            # What is open stays open.
            assert await lowlevel.read_at(fd, 10, 0) == b"x"
            await b.send(b"after")
        await use()
    trio_lio.run(use, backend=backend)
    trio_lio.run(main, backend=backend)
    trio_lio.run(use, backend=backend)
    async def again():
        return await opens()
    assert not trio_lio.run(again, backend=backend)
    print("done")
    """
    done = python(program, backend)
    assert done.stdout == "done\n", done.stderr


# -- want ------------------------------------------------------------------------------


SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")


@pytest.mark.skipif(
    SANITIZED, reason="the address sanitizer itself needs all the address space"
)
def test_want_of_memory_for_a_backend_is_an_error_and_no_fallback(backend: str) -> None:
    """At each limit of address space: ENOMEM, or a run on the backend that was asked for."""
    program = """
    import errno, resource
    def size():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    async def main():
        return trio_lio.current_backend().name
    trio_lio.run(main, backend=backend)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = sorted(os.listdir("/proc/self/fd"))
    seen = []
    more = 0
    while not seen or seen[-1] == "ENOMEM":
        more += 64 << 10 if more < 2 << 20 else more // 8
        assert more < 1 << 30
        resource.setrlimit(resource.RLIMIT_AS, (size() + more, limits[1]))
        try:
            # Not a whole run: Trio's own tasks have no answer to a MemoryError.
            manager = trio_lio._manager.LioIOManager(backend, 20_000)
            name = manager.name
            manager.close()
        except OSError as exc:
            assert exc.errno == errno.ENOMEM, exc
            name = "ENOMEM"
        except MemoryError:
            name = "ENOMEM"
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        assert sorted(os.listdir("/proc/self/fd")) == before
        seen.append(name)
    assert len(seen) > 5 and set(seen) == {"ENOMEM", backend}, seen
    assert trio_lio.run(main, backend=backend) == backend
    print("done")
    """
    done = python(program, backend)
    assert done.stdout == "done\n", done.stderr


def test_want_of_memory_while_growing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One task cannot start its operation; all others go on as if nothing had been."""

    class Short:
        """The core, which moves its records for a growth and then has no memory for it."""

        left = 1

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def lio_grow(self, handle: Any, more: int) -> int:
            if not self.left:
                return int(real.lio_grow(handle, more))
            self.left -= 1
            assert real.lio_grow(handle, 1 << 16) == 0  # too large to grow where they are
            return -errno.ENOMEM

    real = trio_lio._manager.lib
    monkeypatch.setattr(trio_lio._manager, "lib", Short())

    async def main() -> None:
        pairs = [half_foreign_pair() for _ in range(200)]
        came: list[Any] = []

        async def receive(sock: Any) -> None:
            try:
                came.append(await sock.recv(10))
            except OSError as exc:
                came.append(exc.errno)

        async with trio.open_nursery() as nursery:
            for a, _ in pairs:
                nursery.start_soon(receive, a)
            await trio.testing.wait_all_tasks_blocked()
            assert came == [errno.ENOMEM]
            for _, b in pairs:
                b.send(b"data")
        assert came.count(b"data") == len(pairs) - 1
        for a, b in pairs:
            a.close()
            b.close()

    run(main, capacity=64)


def test_want_of_descriptors_loses_no_connection(run: Run) -> None:
    """An accept without a free number fails as in Trio; the connection waits."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> None:
        with await tcp_listener() as listener:
            clients = [
                stdlib_socket.create_connection(listener.getsockname()) for _ in range(3)
            ]
            await trio.sleep(0)
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            try:
                for _ in range(3):
                    with pytest.raises(OSError) as caught:
                        await listener.accept()
                    assert caught.value.errno == errno.EMFILE
                with pytest.raises(OSError) as caught:
                    trio.socket.socket()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            with trio.fail_after(PATIENCE):
                accepted = [(await listener.accept())[0] for _ in clients]
            names = {client.getsockname() for client in clients}
            assert {sock.getpeername() for sock in accepted} == names
            for sock in *clients, *accepted:
                sock.close()

    run(main)


def test_server_lives_through_a_want_of_descriptors(run: Run) -> None:
    """trio.serve_tcp logs it, waits and goes on: with a small limit all are served."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    served = 0

    async def main() -> None:
        async def echo(stream: trio.SocketStream) -> None:
            nonlocal served
            await stream.send_all(await stream.receive_some())
            served += 1

        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(
                lambda task_status: trio.serve_tcp(
                    echo, 0, host="127.0.0.1", task_status=task_status
                )
            )
            address = listener.socket.getsockname()
            clients = [stdlib_socket.create_connection(address) for _ in range(10)]
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + 3, limits[1]))
            try:
                with trio.fail_after(PATIENCE):
                    for client in clients:
                        client.send(b"data")
                    while served < len(clients):
                        await trio.sleep(0.01)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for client in clients:
                assert take_now(client) == b"data"
                client.close()
            nursery.cancel_scope.cancel()

    run(main)
    assert served == 10


# -- a long life -----------------------------------------------------------------------


@pytest.mark.skipif(
    SANITIZED or platform.libc_ver()[0] != "glibc", reason="it is the way of glibc's malloc"
)
def test_memory_of_large_messages_is_kept() -> None:
    def faults(preamble: str) -> int:
        program = f"""{preamble}
import resource
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(100):
    [bytes([i]) * 60_000 for i in range(20)]
print(faults() - before)"""
        return int(subprocess.check_output([sys.executable, "-c", program]))

    pages = 20 * 60_000 // 4096
    assert faults("") > 50 * pages  # what it is against
    assert faults("import trio_lio") < 10 * pages


@pytest.mark.skipif(
    SANITIZED, reason="the address sanitizer keeps what is freed, to see who uses it still"
)
def test_million_operations_leave_the_heap_as_it_was(run: Run, backend: str) -> None:
    """Sends, receives of each kind, cancelled ones, accepts: what each held is given back."""
    if os.environ["TRIO_LIO_URING_WITHOUT"]:
        pytest.skip("the Python side is the same with every kind of ring: once will do")
    tasks, rounds, growth = 50, 2500, []

    async def exchange(rounds: int) -> None:
        a, b = trio.socket.socketpair()
        stream = trio.SocketStream(b)
        buffer = bytearray(100)
        with a, b:
            for _ in range(rounds):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await a.recv(10)
                await a.send(b"data")
                await stream.receive_some(10)
                await b.send(b"data")
                await a.recv_into(buffer)
                await a.send(b"data")
                await b.recvmsg(10)
                await trio_lio.lowlevel.nop()

    async def many(rounds: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(exchange, rounds)

    async def main() -> None:
        await many(rounds // 10)
        gc.collect()
        blocks, memory = sys.getallocatedblocks(), rss()
        await many(rounds)
        gc.collect()
        growth.append((sys.getallocatedblocks() - blocks, rss() - memory))
        assert statistics().operations_pushed >= 1_000_000
        assert statistics().capacity <= 256
        await all_in_flight(0)

    run(main, capacity=256)
    [(blocks, memory)] = growth
    assert blocks < 10_000  # one of a hundred operations
    assert memory < 4 << 20
