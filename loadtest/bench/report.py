"""The one table of a run, and its file of JSON."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from loadtest.bench.machine import Machine
from loadtest.bench.row import Row

WIDTH = 180
_HEADS = ("", "ratio", "to", "least", "median", "most", "unit")
_PROCESSES = {
    "worker": "worker",
    "coordinator": "coor-\ndinator",
    "redis": "redis",
    "generator": "gene-\nrator",
    "sink": "sink",
}
_LEGEND = """\
ratio: of the median to the goal (✓ reached, ✗ not), or to what is named · least, median, most: of
the repeats · per CPU-s: per CPU second of all workers, user and system · worker to sink, and what
is named at the end: CPU by process in µs per stanza; /s: stanzas by the clock, which others slow"""


class Progress:
    """One line that is rewritten, where standard error is a terminal; else nothing."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if self._is_shown:
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)


def console() -> Console:
    """Where the table is printed: lines are kept whole also where the output is no terminal."""
    found = Console(highlight=False)
    return Console(highlight=False, width=found.width if found.is_terminal else WIDTH)


def table(rows: Sequence[Row], machine: Machine) -> Table:
    """Ratios first, absolutes second, a section for each part."""
    heads = (*_HEADS, *_PROCESSES.values(), "")
    shown = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.title, shown.title_justify = str(machine), "left"
    shown.caption, shown.caption_justify = _LEGEND, "left"
    for column in shown.columns[:-1]:
        column.no_wrap, column.justify = True, "right"
    for at in (0, len(_HEADS) - 1):
        shown.columns[at].justify = "left"
    for part, group in groupby(rows, key=lambda row: row.part):
        shown.add_row(f"[bold]{part}[/]")
        for row in group:
            shown.add_row(*_cells(row))
        shown.add_section()
    return shown


def goals(rows: Sequence[Row]) -> str:
    """One line: how many goals are reached, and which are not."""
    with_goal = [row for row in rows if row.is_reached is not None]
    missed = [f"{row.part}, {row.name}" for row in with_goal if not row.is_reached]
    reached = len(with_goal) - len(missed)
    line = f"{reached} of {len(with_goal)} goals reached"
    return f"{line}; not: {'; '.join(missed)}" if missed else line


def write_json(
    path: Path, rows: Sequence[Row], machine: Machine, seconds: Mapping[str, float]
) -> None:
    """All figures, every repeat; `seconds` that each part took."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": asdict(machine),
        "seconds": dict(seconds),
        "rows": [row.as_json() for row in rows],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _cells(row: Row) -> tuple[str, ...]:
    median = row.median
    if median is None:
        blank = [""] * len(_PROCESSES)
        return (f"  {row.name}", "", "", "", "–", "", row.unit, *blank, row.note)
    mark = {None: "", True: " [green]✓[/]", False: " [red]✗[/]"}[row.is_reached]
    to = row.base_name if row.goal is None else f"{'≤' if row.is_ceiling else '≥'}{row.goal:,g}"
    others = [f"{name} {cpu:.0f}" for name, cpu in row.cpu.items() if name not in _PROCESSES]
    return (
        f"  {row.name}",
        "" if row.ratio is None else f"{row.ratio:.2f}{mark}",
        to,
        *(_number(value) for value in (min(row.samples), median, max(row.samples))),
        row.unit,
        *(f"{row.cpu[name]:.1f}" if name in row.cpu else "" for name in _PROCESSES),
        " · ".join(filter(None, (row.note, *others))),
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
