"""``python -m trio_lio bench``: the command, its files, and what it says when something is
missing. Not how fast anything is."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trio_lio
from trio_lio.bench import _lab, _main, _report, _servers
from trio_lio.bench._lab import CPU, RATE, Lab, Measurement, Result

from .test_cli import lio

# Long enough for an answer beside whatever else the machine does.
TINY = ["--rounds", 2, "--seconds", 0.3]
BACKENDS = [info.name for info in trio_lio.available_backends() if info.available]


class NoProgress:
    def show(self, text: str, done: float = 0.0) -> None: ...
    def step(self, text: str) -> None: ...


def test_all_works_and_rows_are_listed(tmp_path: Path) -> None:
    done = lio("bench", "--list", cwd=tmp_path)
    assert done.returncode == 0
    rows = ["1", "2", "3", "4", "4b", *map(str, range(5, 15))]
    for row in rows + [f"F{number}" for number in range(1, 8)]:
        assert any(row in _main._module(name).ROWS for name in _main.WORKS)
    for name in _main.WORKS:
        assert name in done.stdout
    assert {path.stem for path in (_servers.HERE / "works").glob("[a-z]*.py")} == {*_main.WORKS}


def test_one_work_from_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "results"
    done = lio("bench", "4b", *TINY, "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "bench.json").read_text())
    stamp = found["stamp"]
    for what in ("kernel", "cpu", "cpus", "python", "versions", "backends", "commit", "date"):
        assert what in stamp
    assert stamp["versions"]["trio-lio"] == trio_lio.__version__
    assert [info["name"] for info in stamp["backends"] if info["available"]] == BACKENDS
    [(name, work)] = found["works"].items()
    assert name == "pingpong"
    assert {f"lio-{backend}" for backend in BACKENDS} | {"trio"} <= {
        measured["server"] for measured in work["measurements"]
    }
    figures = [f for f in work["figures"] if f["metric"] == RATE and f["target"] is not None]
    assert len(figures) == len(BACKENDS)
    for figure in figures:
        assert len(figure["rounds"]) == 2
        assert min(figure["rounds"]) <= figure["figure"] <= max(figure["rounds"])
        assert figure["met"] == (figure["figure"] >= figure["target"])
        assert "stock Trio" in done.stdout
    if importlib.util.find_spec("matplotlib"):
        assert (out / "pingpong.svg").exists()
        assert (out / "targets.png").exists()

    again = lio(
        "bench", "pingpong", *TINY, "--out", out, "--compare", out / "bench.json", cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr
    assert f"Compared with {stamp['date']}" in again.stdout

    as_json = lio("bench", "pingpong", *TINY, "--out", out, "--json", cwd=tmp_path)
    assert json.loads(as_json.stdout)["works"].keys() == {"pingpong"}


def test_files_from_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "results"
    done = lio("bench", "F3", "--rounds", 1, "--seconds", 0.002, "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [(name, work)] = json.loads((out / "bench.json").read_text())["works"].items()
    assert name == "files"
    servers = {f"lio-{backend}" for backend in BACKENDS} | {"trio"}
    for measured in work["measurements"]:
        assert measured["server"] in servers
        assert all(
            len(values) == 1 and values[0] > 0 for values in measured["metrics"].values()
        )
    assert len(work["measurements"]) == 8 * len(servers)
    aimed = [f for f in work["figures"] if f["target"] is not None]
    assert {f["row"] for f in aimed} == {f"F{number}" for number in range(1, 8)}
    assert len(aimed) == 8 * len(BACKENDS)
    assert not any(figure["at_most"] for figure in aimed)
    # Where stock Trio was given less to do, it is still a rate that is compared.
    assert {f["metric"] for f in aimed} == {"reads/s", "MiB/s", "files/s", "lines/s"}


def test_a_program_that_hangs_is_a_failed_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lab, "_PROGRAM_SECONDS", 0.1)
    lab = Lab(1, 0.1, None, NoProgress())  # type: ignore[arg-type]
    with pytest.raises(_lab.BenchError, match="ticks on trio took longer than 0.1 s"):
        lab.run_program("ticks", None, "--ticks", "1000000000")


def test_bad_requests(tmp_path: Path) -> None:
    done = lio("bench", "nonsense", cwd=tmp_path)
    assert done.returncode == 1
    assert "there is no work or row 'nonsense'" in done.stderr
    assert "echo" in done.stderr
    for text in (None, "no JSON", "[]", '{"format": 99}'):
        if text is not None:
            (tmp_path / "earlier.json").write_text(text)
        done = lio("bench", "pingpong", "--compare", "earlier.json", cwd=tmp_path)
        assert done.returncode == 1
        assert "earlier" in done.stderr
        assert "Traceback" not in done.stderr
    assert lio("bench", "--rounds", "0", cwd=tmp_path).returncode == 2


def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {"uvloop", "anyio", "matplotlib"}
    find = importlib.util.find_spec

    def find_spec(name: str, *rest: Any) -> Any:
        return None if name in missing else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    notes: list[str] = []
    lab = Lab(1, 0.1, None, NoProgress(), notes)  # type: ignore[arg-type]
    names = lab.able([_servers.UVLOOP, "anyio-uvloop", _servers.STOCK])
    assert names == [_servers.STOCK]
    assert any("uvloop not installed" in note for note in notes)
    assert any("anyio and uvloop not installed" in note for note in notes)
    assert _report.draw({}, {}, tmp_path, notes) == []
    assert any("matplotlib not installed" in note for note in notes)
    assert all("pip install 'trio-lio[bench]'" in note for note in notes)


def result_of(mine: list[float], stock: list[float], metric: str = CPU) -> Result:
    return Result(
        [
            Measurement("x", "lio-uring", {metric: mine}),
            Measurement("x", "trio", {metric: stock}),
        ]
    )


def test_a_figure_is_the_median_of_the_rounds_ratios() -> None:
    # The machine was three times slower in the last round: for both.
    result = result_of([10.0, 12.0, 30.0], [20.0, 20.0, 60.0])
    result.compare("1", "x", "lio-uring", "trio", CPU, 0.5)
    result.compare("5", "x", "lio-uring", "trio", CPU, 0.5, plus=20.0)
    result.compare("1", "x", "lio-uring", "uvloop", CPU)  # not measured
    one, other = result.figures
    assert one.rounds == [0.5, 0.6, 0.5]
    assert one.figure == 0.5
    assert one.met
    assert other.rounds == [0.25, 0.3, 0.375]


@pytest.mark.parametrize(("target", "met"), [(0.5, False), (2.0, True), (None, None)])
def test_more_or_less_is_better(target: float | None, met: bool | None) -> None:
    result = result_of([10.0], [8.0])
    result.compare("1", "x", "lio-uring", "trio", CPU, target)
    assert result.figures[0].met is met
    result = result_of([8.0], [10.0], RATE)
    result.compare("1", "x", "lio-uring", "trio", RATE, target)
    assert result.figures[0].met is (None if met is None else not met)


def test_a_worse_figure_is_called_worse(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for mine in ([10.0, 11.0], [10.5, 10.5], [20.0, 20.0], [5.0, 5.0]):
        result = result_of(mine, [20.0, 20.0])
        result.compare("1", "x", "lio-uring", "trio", CPU, 0.5)
        found.append(_report.as_json({"echo": result}, _report.stamp(2, 0.1), []))
    for later, word in zip(found[1:], ("within its rounds", "worse", "better"), strict=True):
        _report.print_comparison(later, found[0])
        assert word in capsys.readouterr().out


def test_instruction_counts_are_judged() -> None:
    tool = Path(__file__).resolve().parent.parent / "tools" / "count_instructions.py"
    if not tool.exists():
        pytest.skip("needs the source tree")
    code = (
        f"import sys; sys.path.insert(0, {str(tool.parent)!r})\n"
        "from count_instructions import judge\n"
        "for figure in (0.5, 0.514, 0.516, 0.48): print(*judge(figure, 0.5))\n"
        "print(*judge(0.5, None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["True", "True", "False", "True", "True"]
    assert "GROWN" in lines[2]
    assert "--store" in lines[3]
    assert "no stored figure" in lines[4]


def test_a_work_that_fails_loses_nothing_of_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trio_lio.bench._lab import BenchError
    from trio_lio.bench.works import startup, ticks

    def fail(lab: Lab) -> Result:
        raise BenchError("this one did not start")

    monkeypatch.setattr(startup, "measure", fail)
    monkeypatch.setattr(ticks, "measure", lambda lab: result_of([1.0], [2.0]))
    plan = _main.Plan(rounds=1, seconds=0.1, out=str(tmp_path), compare=None, as_json=False)
    assert _main.bench(plan, ["8", "ticks"]) == 1
    found = json.loads((tmp_path / "bench.json").read_text())
    assert list(found["works"]) == ["ticks"]
    # Without matplotlib there is another note, of plots.
    assert found["notes"][0] == "startup failed: this one did not start"
    assert "startup failed" in capsys.readouterr().out
