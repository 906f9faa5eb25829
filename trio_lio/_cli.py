"""The command line: what there is to ask for. What it does stands in _doctor, _run, _demo."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from . import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PROGRAM = "python -m trio_lio"

_RUN_USAGE = (
    f"{_PROGRAM} run [--backend NAME] [--capacity N] [--stats] (SCRIPT | -m MODULE) [ARGS ...]"
)
# The options of `run` that come with a value of their own.
_RUN_VALUES = frozenset({"--backend", "--capacity"})


def _positive(kind: Callable[[str], float], what: str) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < 1 << 30:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} above 0")
        return value

    return convert


_count = _positive(int, "a whole number")
_seconds = _positive(float, "a number")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Trio on completions: io_uring, and a first-class epoll poller, under "
        "unchanged Trio programs.",
        epilog=f"'{_PROGRAM} COMMAND --help' tells more of a command. The environment "
        "variable TRIO_LIO_BACKEND names the backend to use or to be refused.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"trio-lio {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    doctor = commands.add_parser(
        "doctor",
        help="which backends run here, which one is chosen, and why",
        description="Tries every backend out and shows which of them run here or why not, "
        "which one a run would use, what the kernel offers to it, and all versions.",
        epilog="Exit code: 0 when a run would find a backend, 1 otherwise.",
        allow_abbrev=False,
    )
    doctor.add_argument("--json", action="store_true", help="for machines to read")

    run = commands.add_parser(
        "run",
        usage=_RUN_USAGE,
        help="run an existing Trio program on trio-lio, unchanged",
        description="Runs a Python script, directory, zip file or module as python itself "
        "would, with every trio.run in it on trio-lio. What follows SCRIPT or -m MODULE "
        "belongs to the program.",
        epilog="Exit code: the program's; 2 when it could not be started.",
        allow_abbrev=False,
    )
    run.add_argument(
        "--backend",
        metavar="NAME",
        help="uring or epoll: used or refused (default: TRIO_LIO_BACKEND, else the best)",
    )
    run.add_argument(
        "--capacity",
        metavar="N",
        type=int,
        help="operations in flight to set memory aside for (default: 256)",
    )
    run.add_argument(
        "--stats",
        action="store_true",
        help="print the counters of all runs to stderr when the program ends",
    )

    demo = commands.add_parser(
        "demo",
        help="an echo server on trio-lio and on stock Trio, side by side",
        description="Starts one and the same Trio echo server on each backend and on stock "
        "Trio, each in a process of its own, loads them in turn from a generator written in "
        "C, all on loopback, and shows medians over the rounds.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    demo.add_argument(
        "--connections", type=_count, default=50, metavar="N", help="connections at a time"
    )
    demo.add_argument(
        "--size", type=_count, default=1024, metavar="BYTES", help="of one message"
    )
    demo.add_argument(
        "--seconds", type=_seconds, default=2.0, metavar="S", help="of one measurement"
    )
    demo.add_argument(
        "--rounds", type=_count, default=3, metavar="N", help="measurements of each server"
    )
    demo.add_argument(
        "--backends",
        metavar="NAMES",
        help="which servers, separated by commas; stock is Trio without trio-lio "
        "(default: all that this build has)",
    )
    demo.add_argument("--json", action="store_true", help="the result for machines to read")
    _add_bench(commands)
    return parser


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="trio-lio against stock Trio, asyncio, uvloop and anyio, work by work",
        description="Measures trio-lio and its rivals at each kind of work, in turn over "
        "several rounds, servers on one CPU and the load on another, all on loopback. Shows "
        "tables, and writes bench.json and plots. The extra 'bench' has the rivals and what "
        "draws: pip install 'trio-lio[bench]'; what is missing is left out and named.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    bench.add_argument("names", nargs="*", metavar="NAME", help="works, or rows of the table")
    bench.add_argument("--list", action="store_true", help="which works there are")
    bench.add_argument(
        "--rounds", type=_count, default=5, metavar="N", help="measurements of each server"
    )
    bench.add_argument(
        "--seconds", type=_seconds, default=0.5, metavar="S", help="of one measurement"
    )
    bench.add_argument(
        "--out", default="bench-results", metavar="DIR", help="for bench.json and the plots"
    )
    bench.add_argument("--compare", metavar="FILE", help="the bench.json of an earlier run")
    bench.add_argument("--json", action="store_true", help="print the JSON, not the tables")


def _split_run(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Ours and the program's: from SCRIPT or -m on, nothing is ours."""
    at = 0
    while at < len(arguments):
        argument = arguments[at]
        if argument == "--":
            return list(arguments[:at]), list(arguments[at + 1 :])
        if argument.startswith("-m") or not argument.startswith("-"):
            break
        at += 2 if argument in _RUN_VALUES else 1
    return list(arguments[:at]), list(arguments[at:])


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    program: list[str] = []
    if given[:1] == ["run"]:
        ours, program = _split_run(given[1:])
        given = ["run", *ours]
    options = _parser().parse_args(given)
    # Only what is asked for is imported: a program under `run` pays for nothing else.
    if options.command == "run":
        from ._run import run_program

        return run_program(
            program, backend=options.backend, capacity=options.capacity, stats=options.stats
        )
    try:
        code = _tell(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads (head, say) has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _tell(options: argparse.Namespace) -> int:
    """What a command other than ``run`` does: it prints."""
    if options.command == "doctor":
        from ._doctor import doctor

        return doctor(as_json=options.json)
    measures_on = {"demo": ("linux", "win32"), "bench": ("linux",)}.get(options.command)
    if measures_on and not sys.platform.startswith(measures_on):
        # The load generator is built on epoll, the counter of system calls on ptrace. For
        # Windows there is a load of threads.
        print(
            f"trio-lio: {options.command} measures with tools of Linux: it runs there only",
            file=sys.stderr,
        )
        return 1
    if options.command == "demo":
        from ._demo import Plan, demo

        return demo(
            Plan(
                connections=options.connections,
                message_bytes=options.size,
                seconds=options.seconds,
                rounds=options.rounds,
            ),
            [] if options.backends is None else options.backends.split(","),
            as_json=options.json,
        )
    from .bench._main import Plan as BenchPlan
    from .bench._main import bench, list_works

    if options.list:
        list_works()
        return 0
    plan = BenchPlan(
        rounds=options.rounds,
        seconds=options.seconds,
        out=options.out,
        compare=options.compare,
        as_json=options.json,
    )
    return bench(plan, options.names)
