"""One screen of what gateways did: sessions, routes and ledger, from their admin APIs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

WIDTH, HEIGHT = 80, 24
_COUNTERS = ("accepted", "acknowledged", "bounced", "returned", "in_flight", "replayed")
_SHORT = {"outbound": "out", "inbound": "in"}
# A table's heading and the lines around it, three times, and the lines below the tables.
_ROWS = HEIGHT - 14


@dataclass(slots=True)
class Answers:
    """What the admin API of one gateway said, and the address of its status page."""

    name: str
    page: str
    sessions: Sequence[Mapping[str, Any]]
    routes: Sequence[Mapping[str, Any]]
    ledger: Mapping[str, Mapping[str, Any]]


def summary(gateways: Sequence[Answers]) -> RenderableType:
    """At most `HEIGHT` lines of `WIDTH` columns; what does not fit is counted."""
    ledger = _ledger(gateways)
    left = _ROWS - ledger.row_count
    routes = _routes(gateways, max(1, left // 3))
    sessions = _sessions(gateways, max(1, left - routes.row_count))
    pages = Text("status pages  " + "  ".join(each.page for each in gateways))
    return Group(sessions, routes, ledger, pages)


def console(*, width: int = WIDTH) -> Console:
    """Where it is printed: lines are kept whole also where the output is no terminal."""
    found = Console(highlight=False, soft_wrap=True)
    return Console(highlight=False, width=found.width if found.is_terminal else width)


def _sessions(gateways: Sequence[Answers], most: int) -> Table:
    rows = [
        (
            each.name,
            ", ".join(" ↔ ".join(pair) for pair in session["domain_pairs"]),
            session["direction"] + (" ⇄" if session.get("bidirectional") else ""),
            session.get("authenticated_by") or "–",
            _worker(session["worker"]),
        )
        for each in gateways
        for session in each.sessions
        if session["direction"] != "local"
    ]
    return _table(("sessions of", "domains", "direction", "proved by", "worker"), rows, most)


def _routes(gateways: Sequence[Answers], most: int) -> Table:
    rows = [
        (each.name, f"{route['local']} → {route['remote']}", _worker(route["owner"]))
        for each in gateways
        for route in each.routes
    ]
    return _table(("routes of", "domains", "owner"), rows, most)


def _ledger(gateways: Sequence[Answers]) -> Table:
    heads = ("stanzas", *(name.replace("_", " ") for name in _COUNTERS), "dropped")
    table = _table(heads, (), 0)
    table.padding = 0  # one blank between columns, to fit
    for column in table.columns[1:]:
        column.justify = "right"
    for each in gateways:
        for direction, entry in each.ledger.items():
            dropped = sum(entry["dropped"].values())
            counts = (f"{n:,}" for n in (*(entry[key] for key in _COUNTERS), dropped))
            table.add_row(f"{each.name} {_SHORT[direction]}", *counts)
    return table


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], most: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=True, overflow="ellipsis")
    shown = rows if len(rows) <= most else rows[: most - 1]
    for row in shown:
        table.add_row(*row)
    if len(shown) < len(rows):
        table.add_row(f"and {len(rows) - len(shown)} more")
    return table


def _worker(name: str) -> str:
    """`gateway/w1.6a0c…` without the gateway and the incarnation."""
    return name.rpartition("/")[2].partition(".")[0]
