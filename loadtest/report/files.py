"""Writing and reading reports, and what is printed of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtest.report.figures import FORMAT
from loadtest.report.page import page


class UnreadableReport(Exception):
    """One line with the cause."""


def write_report(stem: Path, figures: Mapping[str, Any]) -> None:
    """`stem`.json and `stem`.html."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(stem.name + ".json").write_text(json.dumps(figures) + "\n")
    stem.with_name(stem.name + ".html").write_text(page(figures))


def read_report(file: Path) -> dict[str, Any]:
    """Raises `UnreadableReport`."""
    try:
        figures = json.loads(file.read_text())
    except (OSError, ValueError) as exc:
        raise UnreadableReport(f"{file}: {exc}") from None
    if not isinstance(figures, dict) or figures.get("format") != FORMAT:
        raise UnreadableReport(f"{file} is no report of this version")
    return figures


def summary(figures: Mapping[str, Any]) -> str:
    """A few lines for the terminal."""
    lines = [_line("", figures["totals"], is_head=True)]
    lines += [_line(name, values) for name, values in figures["scenarios"].items()]
    lines.append(_line("all", figures["totals"]))
    for name, each in figures["processes"].items():
        lines.append(
            f"{name:24} {each['cpu_seconds']:8.1f} CPU s  "
            f"{each['rss_last'] / 2**20:6.0f} MiB  {each['rss_growth']:+.1%}"
        )
    if attacks := figures["attacks"]:
        lines.append("attacks: " + ", ".join(f"{count} {name}" for name, count in attacks.items()))
    for kind, reasons in figures["errors"].items():
        lines += [f"{kind}: {reason}: {count}" for reason, count in reasons.items()]
    lines += [f"FAILED by {text}" for text in figures["broken"]]
    return "\n".join(lines)


_COLUMNS = ("sent", "delivered", "bounced", "returned", "lost", "doubled", "reordered")


def _line(name: str, values: Mapping[str, float | None], *, is_head: bool = False) -> str:
    if is_head:
        cells = [*_COLUMNS, "per s", "p50 ms", "p99 ms"]
        return f"{'':20}" + "".join(f"{cell:>10}" for cell in cells)
    counts = [f"{values[column] or 0:,.0f}" for column in _COLUMNS]
    counts.append(f"{values['rate'] or 0:,.1f}")
    counts += ["–" if (v := values[key]) is None else f"{v:,.1f}" for key in ("p50", "p99")]
    return f"{name:20}" + "".join(f"{cell:>10}" for cell in counts)
