"""Writes what ``python -m trio_lio bench`` measured into the documentation and the README.

Usage: performance_tables.py [--note TEXT] bench.json... Several files are the works of one
commit, measured one after another. Every figure comes from them, the ones that miss their
target too.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "performance-figures.inc"
README = ROOT / "README.md"
MARKS = r"(<!-- FIGURES[^>]*-->\n).*?(\n<!-- END OF FIGURES -->)"

# What the README shows: row, subject.
SHOWN = [
    ("1", "lio-uring"),
    ("2", "lio-epoll"),
    ("3", "lio-uring"),
    ("4b", "lio-uring"),
    ("9", "lio-uring"),
    ("10", "lio-uring"),
    ("12", "lio-uring"),
    ("14", "lio-uring"),
]


def number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def where(stamp: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in stamp["versions"].items() if v)
    return (
        f"{stamp['kernel']}, {stamp['cpu']} ({stamp['cpus']} CPUs), {stamp['python']}, "
        f"{versions}, {stamp['date'][:10]}, "
        f"{stamp['rounds']} rounds of {stamp['seconds']:g} s"
    )


def figures_of(found: Any) -> list[dict[str, Any]]:
    figures = [f for work in found["works"].values() for f in work["figures"]]

    def place(figure: dict[str, Any]) -> tuple[str, int, str]:
        letters, digits, rest = re.fullmatch(r"(\D*)(\d+)(.*)", figure["row"]).groups()
        return letters, int(digits), rest

    return sorted(figures, key=place)


def target_of(figure: dict[str, Any]) -> tuple[str, str]:
    if figure["target"] is None:
        return "", ""
    sign = "<=" if figure["at_most"] else ">="
    return f"{sign} {figure['target']:g}", "reached" if figure["met"] else "**missed**"


def rst_table(columns: list[str], rows: list[list[str]], widths: str) -> str:
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in [columns, *rows]:
        for place, cell in enumerate(row):
            lines.append(f"   {'*' if place == 0 else ' '} - {cell}".rstrip())
    return "\n".join(lines)


def targets_table(found: Any) -> str:
    rows = []
    for f in figures_of(found):
        low, high = min(f["rounds"]), max(f["rounds"])
        base = f"{number(f['base_value'])} ({f['base']})" if f["base"] else ""
        spread = f"{ratio(low)} to {ratio(high)}" if len(f["rounds"]) > 1 else ""
        value = f"{number(f['value'])} ({f['subject']})"
        cells = [f["row"], f["what"], f["metric"], value, base, ratio(f["figure"]), spread]
        rows.append([*cells, *target_of(f)])
    columns = ["row", "work", "metric", "value", "base", "figure", "rounds", "target", ""]
    return rst_table(columns, rows, "4 18 14 14 16 8 12 8 8")


def everybody_table(found: Any) -> str:
    measured = found["works"]["echo"]["measurements"]
    rows = []
    for m in measured:
        if "requests/s" not in m["metrics"]:
            continue
        medians = [sorted(values)[len(values) // 2] for values in m["metrics"].values()]
        rows.append([m["server"], *map(number, medians)])
    columns = ["server", *measured[0]["metrics"]]
    return rst_table(columns, rows, "30 20 20 15 15")


def write_documentation(found: Any) -> None:
    reached = [f["met"] for f in figures_of(found) if f["target"] is not None]
    summary = f"{sum(reached)} of {len(reached)} targets were reached."
    parts = [
        ".. Written by tools/performance_tables.py.",
        f"Measured on {where(found['stamp'])}.{found['note']} {summary}",
        targets_table(found),
        "Everybody at an echo of 1 KiB on 50 connections, medians:",
        everybody_table(found),
    ]
    parts += [f"- {note}" for note in found["notes"]]
    FIGURES.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def write_readme(found: Any) -> None:
    lines = ["| work | | measured | compared with | ratio |", "|---|---|---|---|---|"]
    for f in figures_of(found):
        if (f["row"], f["subject"]) in SHOWN and f["base"]:
            value, base = number(f["value"]), number(f["base_value"])
            what = f"{f['what']}: {f['metric']}"
            against = f"{f['base']}: {base}"
            lines.append(
                f"| {what} | {f['subject']} | {value} | {against} | {ratio(f['figure'])} |"
            )
    text = (
        f"Medians of the ratios within each round: {where(found['stamp'])}.{found['note']} All "
        "rows, the targets and what was missed stand in "
        "[docs/performance.rst](docs/performance.rst); `python3 -m trio_lio bench` measures on "
        "your machine.\n\n" + "\n".join(lines)
    )
    before = README.read_text(encoding="utf-8")
    after = re.sub(MARKS, lambda m: m[1] + "\n" + text + "\n" + m[2], before, flags=re.DOTALL)
    README.write_text(after, encoding="utf-8")


def merged(paths: list[str]) -> Any:
    """The files as one; they have to be of one commit, on one machine."""
    found = [json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]
    first = found[0]
    rounds = sorted({one["stamp"]["rounds"] for one in found})
    first["stamp"]["rounds"] = " to ".join(
        str(number) for number in (rounds[0], *rounds[1:][-1:])
    )
    for other in found[1:]:
        for what in ("commit", "kernel", "cpu", "python", "versions"):
            if other["stamp"][what] != first["stamp"][what]:
                sys.exit(f"{paths[0]} and another file differ in {what}")
        first["works"].update(other["works"])
        first["notes"] += [note for note in other["notes"] if note not in first["notes"]]
    return first


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--note", default="", help="how it was measured, if that needs saying")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    results = merged(options.files)
    results["note"] = f" {options.note}" if options.note else ""
    write_documentation(results)
    write_readme(results)
