"""The marker lio_faults, with plain tests, pytest-trio and anyio's plugin."""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Callable

import pytest

pytest_plugins = ["pytester"]

Run = Callable[..., pytest.RunResult]

for _name in ("pytest_trio", "anyio"):
    if importlib.util.find_spec(_name) is None:
        pytest.skip(
            f"{_name} is not installed: it is in the extra 'test'", allow_module_level=True
        )

ECHO = """
import pytest, trio, trio_lio

async def echo_once(size=20_000):
    left, right = trio.socket.socketpair()
    data = bytes(range(256)) * (size // 256)
    parts = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.SocketStream(left).send_all, data)
        while sum(map(len, parts)) < len(data):
            parts.append(await right.recv(1000))
    assert b"".join(parts) == data
    left.close()
    right.close()
    return trio.lowlevel.current_statistics().io_statistics
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("TRIO_LIO_BACKEND", raising=False)

    def run(code: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(ECHO + textwrap.dedent(code))
        return pytester.runpytest_subprocess(
            "--strict-markers", "-W", "error", "-p", "no:cacheprovider", *arguments
        )

    return run


def test_around_a_run_of_the_test(run: Run) -> None:
    run(
        """
        @pytest.mark.lio_faults(seed=7)
        def test_it():
            stats = trio.run(echo_once)
            assert stats.backend.startswith("lio-")
            assert stats.faults.short_ios > 0

        def test_without():
            assert not trio.run(echo_once).backend.startswith("lio-")
        """
    ).assert_outcomes(passed=2)


def test_arguments_of_the_marker(run: Run) -> None:
    run(
        """
        @pytest.mark.lio_faults(
            7, short_io=0, delay=0, overflow=0, queue_full=0, interrupt=0.5, backend="epoll"
        )
        def test_it(lio_faults):
            stats = trio.run(echo_once)
            assert stats.backend == "lio-epoll"
            assert lio_faults.seed == 7
            assert lio_faults.counts.interrupts > 0
            assert lio_faults.counts.total == lio_faults.counts.interrupts
        """
    ).assert_outcomes(passed=1)


def test_fixture_without_marker(run: Run) -> None:
    run(
        """
        def test_it(lio_faults):
            trio.run(echo_once)
            assert lio_faults.counts.total > 0
            assert lio_faults.runs == 1
        """
    ).assert_outcomes(passed=1)


def test_pytest_trio(run: Run) -> None:
    run(
        """
        @pytest.fixture
        async def stats_in_a_fixture():
            return await echo_once()

        @pytest.mark.trio
        @pytest.mark.lio_faults(seed=7)
        async def test_it(stats_in_a_fixture, nursery):
            assert stats_in_a_fixture.faults.short_ios > 0
            assert (await echo_once()).faults.total > stats_in_a_fixture.faults.total

        @pytest.mark.trio
        async def test_without():
            assert not (await echo_once()).backend.startswith("lio-")
        """
    ).assert_outcomes(passed=2)


@pytest.mark.parametrize("seed", [1, 2])
def test_mock_clock(run: Run, seed: int) -> None:
    """What is kept back must not look like a network where nothing happens any more."""
    run(
        f"""
        @pytest.mark.trio
        @pytest.mark.lio_faults(seed={seed}, delay=0.9, short_io=0.5, cancel_race=1, overflow=1)
        async def test_it(autojump_clock):
            begun = trio.current_time()
            for _ in range(10):
                with trio.fail_after(5):
                    await echo_once()
            assert trio.current_time() == begun
            await trio.sleep(1000)
            assert trio.current_time() >= begun + 1000
        """
    ).assert_outcomes(passed=1)


def test_anyio(run: Run) -> None:
    run(
        """
        import anyio

        @pytest.fixture
        def anyio_backend():
            return "trio"

        @pytest.fixture
        async def server(anyio_backend):
            async def serve(stream):
                async with stream:
                    async for data in stream:
                        await stream.send(data)

            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, serve)
                yield listener.extra(anyio.abc.SocketAttribute.local_port)
                tasks.cancel_scope.cancel()
            await listener.aclose()

        @pytest.mark.anyio
        @pytest.mark.lio_faults(seed=7)
        async def test_it(server, lio_faults):
            async with await anyio.connect_tcp("127.0.0.1", server) as stream:
                data = bytes(10_000)
                received = b""
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(stream.send, data)
                    while len(received) < len(data):
                        received += await stream.receive(5000)
            assert received == data
            assert lio_faults.runs == 1
            assert lio_faults.counts.total > 0
        """
    ).assert_outcomes(passed=1)


FAILS = """
@pytest.mark.lio_faults({0})
def test_it():
    trio.run(echo_once)
    assert False

def test_other():
    assert False
"""


def test_a_failure_names_its_seed(run: Run) -> None:
    result = run(FAILS.format("seed=123456789"))
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*- trio-lio faults -*",
            "faults: seed=123456789, short_io=0.2, *",
            "injected in 1 run: *short ios*",
            "to repeat: pytest '*::test_it' --lio-faults-seed=123456789",
        ]
    )
    assert result.stdout.str().count("trio-lio faults") == 1


def test_a_seed_of_its_own_that_can_be_repeated(run: Run) -> None:
    def seed_of(result: pytest.RunResult) -> str:
        [line] = [line for line in result.outlines if line.startswith("to repeat:")]
        return line.rpartition("=")[2]

    seeds = {seed_of(run(FAILS.format(""), "-k", "test_it")) for _ in range(2)}
    assert len(seeds) == 2
    seed = seeds.pop()
    assert (
        seed_of(run(FAILS.format("seed=1"), "-k", "test_it", f"--lio-faults-seed={seed}"))
        == seed
    )


def test_the_same_seed_makes_the_same_faults(run: Run) -> None:
    """On one socket pair nothing depends on the kernel's pace, and the order in which Trio
    runs its tasks, which is random, on a seed."""
    code = """
        import trio._core._run

        @pytest.mark.lio_faults(seed=11, backend="epoll")
        def test_it(lio_faults):
            async def main():
                left, right = trio.socket.socketpair()
                sizes = []
                for _ in range(50):
                    await left.send(bytes(100))
                    sizes.append(len(await right.recv(100)))
                left.close()
                right.close()
                return sizes

            trio._core._run._r.seed(1)
            print("sizes", trio.run(main), lio_faults.counts)
        """
    lines = [[line for line in run(code, "-s").outlines if "sizes" in line] for _ in range(2)]
    assert lines[0] == lines[1]
    assert "100, 100" in lines[0][0]


def test_bad_arguments_fail_the_test_and_not_the_session(run: Run) -> None:
    result = run(
        """
        @pytest.mark.lio_faults(short_io=2)
        def test_chance():
            pass

        @pytest.mark.lio_faults(flood=0.1)
        def test_name():
            pass

        @pytest.mark.lio_faults(backend="nothing")
        def test_backend():
            pass

        def test_after():
            pass
        """
    )
    result.assert_outcomes(errors=3, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*ValueError: short_io is a chance, from 0 to 1, not 2",
            "*TypeError: there is no fault 'flood'; there are: short_io, *",
            "*ValueError: backend= asks for the backend 'nothing'; *",
        ]
    )


def test_a_test_without_a_run_is_told_so(run: Run) -> None:
    result = run(
        """
        @pytest.mark.lio_faults
        def test_it():
            assert False
        """
    )
    result.stdout.fnmatch_lines(["no run began in this test, so nothing was injected*"])


def test_nothing_is_imported_by_the_plugin_itself(run: Run) -> None:
    result = run(
        """
        def test_it():
            pass
        """,
        "--markers",
    )
    result.stdout.fnmatch_lines(["@pytest.mark.lio_faults(seed=None, *"])
