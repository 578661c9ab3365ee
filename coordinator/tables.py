"""Shows the answers of the admin API as tables. Text chosen by peers is made harmless here."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

# What fits a terminal, in reading order; --json has all. Nouns with no list here show everything.
_COLUMNS: dict[str, tuple[str, ...]] = {
    "workers": (
        *("id", "pid", "state", "sessions", "routes"),
        *("rss_bytes", "cpu_seconds", "restarts", "connected_at"),
    ),
    "routes": ("local", "remote", "owner", "epoch", "live"),
    "sessions": (
        *("domain_pairs", "direction", "worker", "state", "authenticated_by"),
        *("waiting", "unacknowledged", "since"),
    ),
    "errors": (),
}
_EMPTY = {
    "workers": "no workers",
    "routes": "no routes: no domain pair has had traffic yet",
    "sessions": "no sessions",
    "errors": "no errors",
}
_TIMES = ("at", "since", "until", "not_after")
_LONGEST_TEXT = 256


def table(noun: str, answer: Any, *, now: float | None = None) -> Table:
    """Return the table for the answer of `/api/<noun>`; `now` in Unix time."""
    moment = time.time() if now is None else now
    if noun == "ledger":
        return _ledger(answer)
    if noun in _COLUMNS:
        return _records(noun, _rows_of(noun, answer), moment)
    return _facts(noun, answer, moment)


def _records(noun: str, rows: Sequence[Mapping[str, Any]], now: float) -> Table:
    if not rows:
        return _plain(title=None, columns=(_EMPTY[noun],))
    present = dict.fromkeys(key for row in rows for key in row)
    columns = [key for key in _COLUMNS[noun] if key in present] or list(present)
    result = _plain(title=None, columns=columns)
    for row in rows:
        result.add_row(*(_cell(key, row.get(key), now) for key in columns))
    return result


def _facts(noun: str, answer: Any, now: float) -> Table:
    result = _plain(title=None, columns=(noun, ""))
    for key, value in _flat(answer, "").items():
        if key.startswith("ledger "):
            continue  # the noun ledger shows it, side by side
        result.add_row(key, _cell(key.rpartition(" ")[2], value, now))
    return result


def _ledger(answer: Mapping[str, Any]) -> Table:
    """One row per counter, one column per direction; parts of a counter are indented below it."""
    sides = [side for side in ("outbound", "inbound") if side in answer]
    result = _plain(title=None, columns=("stanzas", *sides))
    flat = {side: _flat(answer[side], "") for side in sides}
    for name in dict.fromkeys(key for side in sides for key in flat[side]):
        result.add_row(name, *(_cell(name, flat[side].get(name, 0), 0.0) for side in sides))
    return result


def _rows_of(noun: str, answer: Any) -> Sequence[Mapping[str, Any]]:
    """The list itself, or the list under the noun (a page with a cursor beside it)."""
    rows = answer.get(noun, ()) if isinstance(answer, Mapping) else answer
    return [row if isinstance(row, Mapping) else {noun: row} for row in rows]


def _flat(answer: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(answer, Mapping):
        return {prefix.strip() or "answer": answer}
    result: dict[str, Any] = {}
    for key, value in answer.items():
        if isinstance(value, Mapping):
            result.update(_flat(value, f"{prefix}{key} "))
        else:
            result[f"{prefix}{key}"] = value
    return result


def _plain(*, title: str | None, columns: Sequence[str]) -> Table:
    result = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        result.add_column(_harmless(column.replace("_", " ")), overflow="fold")
    return result


def _cell(key: str, value: Any, now: float) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and (key in _TIMES or key.endswith("_at")):
        return f"{_span(now - value)} ago" if value <= now else f"in {_span(value - now)}"
    if isinstance(value, int | float) and key == "uptime":
        return _span(value)
    if isinstance(value, int) and key.endswith("_bytes"):
        return f"{value / 1048576:,.1f} MiB"
    if isinstance(value, int):
        return f"{value:,}" if key not in ("pid", "epoch") else str(value)
    if isinstance(value, float):
        return f"{value:,.2f}"
    if key == "domain_pairs":
        return ", ".join(_pair(pair) for pair in value) or "–"
    if isinstance(value, Mapping):
        return _harmless(", ".join(f"{name}={item}" for name, item in value.items())) or "–"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _harmless(", ".join(str(item) for item in value)) or "–"
    return _harmless(str(value))


def _pair(pair: Any) -> str:
    return _harmless(" ↔ ".join(str(domain) for domain in pair))


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172800 else f"{seconds / 86400:.0f} d"


def _harmless(text: str) -> str:
    """Peers choose some of these texts: no control characters, no markup of rich, no novels."""
    kept = "".join(c if c.isprintable() else "�" for c in text[:_LONGEST_TEXT])
    return kept.replace("[", "\\[")
