"""Cost per stanza as pictures: against the number of sessions, and against the size."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only, no display

from matplotlib import pyplot

from loadtest.bench.row import Row

_SIZE = "bytes of a stanza"
_LABELS = {"sessions": "sessions that carry stanzas", "sizes": _SIZE}


def write_plots(folder: Path, rows: Sequence[Row], machine: str) -> list[Path]:
    """One PNG for each part whose rows say where they stand; returns what was written."""
    written = []
    for part, label in _LABELS.items():
        found = [row for row in rows if row.part == part and row.x is not None and row.samples]
        if len(found) > 1:
            path = folder / f"cost-by-{part}.png"
            _plot(path, found, label, machine)
            written.append(path)
    return written


def _plot(path: Path, rows: Sequence[Row], label: str, machine: str) -> None:
    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=120)
    for series in dict.fromkeys(row.series for row in rows):
        own = [row for row in rows if row.series == series]
        costs = [sorted(1e6 / sample for sample in row.samples) for row in own]
        middle = [cost[len(cost) // 2] for cost in costs]
        below = [at - cost[0] for at, cost in zip(middle, costs, strict=True)]
        above = [cost[-1] - at for at, cost in zip(middle, costs, strict=True)]
        x = [row.x or 0 for row in own]
        axes.errorbar(x, middle, yerr=[below, above], marker="o", capsize=3, label=series)
    axes.set_xscale("log")
    if label == _SIZE:  # the cost grows with it, not so with sessions
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(label)
    axes.set_ylabel("µs of a worker's CPU per stanza: least, median, most")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    axes.set_title(machine, fontsize=6)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
