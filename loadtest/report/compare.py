"""Two runs side by side: what changed, and by how much."""

from collections.abc import Mapping
from typing import Any

_METRICS = (
    *("sent", "delivered", "bounced", "returned", "lost", "doubled", "replayed", "reordered"),
    *("rate", "p50", "p90", "p95", "p99", "p99.9", "max", "sessions", "connects", "refused"),
)


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """A table in text: the whole, the scenarios both have, CPU per answer by process."""
    lines = [f"{'':34}{'first':>12}{'second':>12}{'change':>10}"]
    lines += _rows("", first["totals"], second["totals"])
    for name in first["scenarios"]:
        if name in second["scenarios"]:
            lines += _rows(f"{name}: ", first["scenarios"][name], second["scenarios"][name])
    for name in first["processes"]:
        if name in second["processes"]:
            costs = [_cost(figures, name) for figures in (first, second)]
            lines.append(_row(f"{name}: CPU µs per answer", *costs))
            memory = [figures["processes"][name]["rss_most"] / 2**20 for figures in (first, second)]
            lines.append(_row(f"{name}: MiB at most", *memory))
    return "\n".join(lines)


def _rows(prefix: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Without those that are nothing in both."""
    return [
        _row(prefix + name, first[name], second[name])
        for name in _METRICS
        if name in first and name in second and (first[name] or second[name])
    ]


def _row(name: str, first: float | None, second: float | None) -> str:
    change = f"{second / first - 1:+.1%}" if first and second is not None else ""
    return f"{name:34}{_text(first):>12}{_text(second):>12}{change:>10}"


def _cost(figures: Mapping[str, Any], name: str) -> float | None:
    answers = figures["totals"]["delivered"]
    return 1e6 * figures["processes"][name]["cpu_seconds"] / answers if answers else None


def _text(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"
