"""What was found: a table, a JSON file, plots, and the difference from an earlier JSON."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from .. import __version__
from .._console import print_table
from .._native import available_backends
from ._lab import MORE_IS_BETTER, BenchError
from ._servers import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._lab import Figure, Result

FORMAT = 1
_PANELS_ACROSS = 4


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", file.read(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _commit() -> str | None:
    """Of the clone that this runs from; None for an installed package."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True
        )
    except OSError:
        return None
    if head.returncode != 0:
        return None
    return head.stdout.strip() + (" with changes" if changes.stdout.strip() else "")


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def stamp(rounds: int, seconds: float) -> dict[str, Any]:
    """Where, when and with what this was measured."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {
            "trio-lio": __version__,
            **{name: _version_of(name) for name in ("trio", "uvloop", "anyio", "cffi")},
        },
        "backends": [attrs.asdict(info) for info in available_backends()],
        "environment": {k: v for k, v in os.environ.items() if k.startswith("TRIO_LIO_")},
        "commit": _commit(),
        "rounds": rounds,
        "seconds": seconds,
    }


def as_json(results: dict[str, Result], stamped: dict[str, Any], notes: list[str]) -> Any:
    works = {}
    for name, result in results.items():
        works[name] = {
            "measurements": [attrs.asdict(found) for found in result.measurements],
            "figures": [{**attrs.asdict(f), "met": f.met} for f in result.figures],
        }
    return {"format": FORMAT, "stamp": stamped, "notes": notes, "works": works}


# -- tables ----------------------------------------------------------------------------


def number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def _ratio(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def figure_cells(figure: Figure) -> list[str]:
    target = "-"
    if figure.target is not None:
        target = f"{'<=' if figure.at_most else '>='} {figure.target:g}"
    verdict = {True: "reached", False: "NOT reached", None: ""}[figure.met]
    spread = f"{_ratio(min(figure.rounds))}..{_ratio(max(figure.rounds))}"
    base = number(figure.base_value) if figure.base_value is not None else ""
    against = f"{figure.subject} / {figure.base}" if figure.base else figure.subject
    return [
        figure.row,
        figure.what,
        against,
        figure.metric,
        number(figure.value),
        base,
        _ratio(figure.figure),
        spread,
        target,
        verdict,
    ]


FIGURE_COLUMNS = [
    "row",
    "work",
    "who",
    "metric",
    "value",
    "base",
    "figure",
    "rounds",
    "target",
    "",
]


def print_measurements(title: str, result: Result) -> None:
    metrics = list(dict.fromkeys(m for found in result.measurements for m in found.metrics))
    rows = [
        [found.setting, KINDS[found.server].label]
        + [number(found.median(m)) if m in found.metrics else "" for m in metrics]
        for found in result.measurements
    ]
    print(f"\n{title}")
    print_table(["setting", "server", *metrics], rows, numbers=True)


def print_figures(results: dict[str, Result]) -> None:
    rows = [figure_cells(f) for result in results.values() for f in result.figures]
    if rows:
        print("\nFigures: medians of the ratios within each round, and the targets")
        print_table(FIGURE_COLUMNS, rows, numbers=True)


# -- comparing -------------------------------------------------------------------------


def load_earlier(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError) as exc:
        raise BenchError(f"cannot read the earlier results: {exc}") from exc
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BenchError(f"{path} is not a result of this benchmark (format {FORMAT})")
    return found


def print_comparison(now: Any, earlier: Any) -> None:
    before = {
        (f["row"], f["what"], f["subject"], f["base"], f["metric"]): f
        for work in earlier["works"].values()
        for f in work["figures"]
    }
    rows = []
    for work in now["works"].values():
        for f in work["figures"]:
            key = (f["row"], f["what"], f["subject"], f["base"], f["metric"])
            if key not in before or not before[key]["figure"]:
                continue
            change = f["figure"] / before[key]["figure"]
            better = change > 1 if f["metric"] in MORE_IS_BETTER else change < 1
            low, high = min(before[key]["rounds"]), max(before[key]["rounds"])
            inside = low <= f["figure"] <= high
            verdict = "within its rounds" if inside else "better" if better else "worse"
            against = f"{f['subject']} / {f['base']}" if f["base"] else f["subject"]
            rows.append(
                [
                    f["row"],
                    f["what"],
                    against,
                    f["metric"],
                    _ratio(before[key]["figure"]),
                    _ratio(f["figure"]),
                    f"{change - 1:+.1%}",
                    verdict,
                ]
            )
    then = earlier["stamp"]
    print(f"\nCompared with {then['date']}, {then['commit'] or 'no commit known'}")
    for what in ("kernel", "cpu", "python", "versions"):
        if then[what] != now["stamp"][what]:
            print(f"  another {what}: {then[what]} then, {now['stamp'][what]} now")
    print_table(
        ["row", "work", "who", "metric", "then", "now", "change", ""], rows, numbers=True
    )


# -- plots -----------------------------------------------------------------------------


def _bars(
    axes: Any, labels: Sequence[str], values: Sequence[float], own: Sequence[bool]
) -> None:
    colours = ["#1f77b4" if mine else "#b0b0b0" for mine in own]
    axes.barh(range(len(labels)), values, color=colours)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    for place, value in enumerate(values):
        axes.text(value, place, f" {number(value)}", va="center", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15)


def _plot_work(pyplot: Any, title: str, result: Result, path: Path) -> list[Path]:
    """A panel for each metric, a bar for each server and setting."""
    metrics = list(dict.fromkeys(m for found in result.measurements for m in found.metrics))
    settings = list(dict.fromkeys(found.setting for found in result.measurements))
    found_by = {m: [f for f in result.measurements if m in f.metrics] for m in metrics}
    columns = min(len(metrics), _PANELS_ACROSS)
    bars = [
        max(len(found_by[m]) for m in metrics[at : at + columns])
        for at in range(0, len(metrics), columns)
    ]
    figure, panels = pyplot.subplots(
        len(bars),
        columns,
        figsize=(5 * columns, sum(1.2 + 0.3 * count for count in bars)),
        height_ratios=bars,
        squeeze=False,
    )
    for axes in panels.flat[len(metrics) :]:
        axes.remove()
    for metric, axes in zip(metrics, panels.flat, strict=False):
        having = found_by[metric]
        labels = [
            KINDS[f.server].label + (f" ({f.setting})" if len(settings) > 1 else "")
            for f in having
        ]
        own = [KINDS[f.server].backend is not None for f in having]
        _bars(axes, labels, [f.median(metric) for f in having], own)
        better = "more" if metric in MORE_IS_BETTER else "less"
        axes.set_title(f"{metric} ({better} is better)", fontsize=9)
    figure.suptitle(title)
    return _save(pyplot, figure, path)


def _plot_targets(pyplot: Any, figures: Sequence[Figure], path: Path) -> list[Path]:
    """How far each figure is from its target; below 1 is reached."""
    aimed = [f for f in figures if f.target is not None]
    if not aimed:
        return []
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.28 * len(aimed)))
    for place, f in enumerate(aimed):
        assert f.target is not None
        shares = [v / f.target if f.at_most else f.target / v for v in f.rounds if v]
        share = f.figure / f.target if f.at_most else f.target / f.figure
        axes.plot([min(shares), max(shares)], [place, place], color="#b0b0b0", lw=3)
        axes.plot(share, place, "o", color="#2ca02c" if f.met else "#d62728")
    labels = [f"{f.row}  {f.what}: {f.metric}, {f.subject}" for f in aimed]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xlabel("figure in terms of its target: left of the line is reached")
    axes.set_xlim(left=0)
    return _save(pyplot, figure, path)


def _save(pyplot: Any, figure: Any, path: Path) -> list[Path]:
    figure.tight_layout()
    made = [path.with_suffix(".svg"), path.with_suffix(".png")]
    for file in made:
        figure.savefig(file, dpi=120)
    pyplot.close(figure)
    return made


def draw(
    titles: dict[str, str], results: dict[str, Result], folder: Path, notes: list[str]
) -> list[Path]:
    if importlib.util.find_spec("matplotlib") is None:
        notes.append("no plots: matplotlib not installed (pip install 'trio-lio[bench]')")
        return []
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made = []
    for name, result in results.items():
        if result.measurements:
            made += _plot_work(pyplot, titles[name], result, folder / name)
    figures = [f for result in results.values() for f in result.figures]
    return made + _plot_targets(pyplot, figures, folder / "targets")


def describe(stamped: dict[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in stamped["versions"].items() if v)
    usable = [info["name"] for info in stamped["backends"] if info["available"]]
    spoken = f"{stamped['kernel']}, {stamped['cpu']} ({stamped['cpus']} CPUs)"
    return f"{spoken}, {stamped['python']}, {versions}; backends: {', '.join(usable)}"


def write(path: Path, found: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def print_json(found: Any) -> None:
    print(json.dumps(found, indent=2))
