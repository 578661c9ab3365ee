"""The report as one HTML page: nothing is loaded from anywhere, it can be mailed."""

import json
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from loadtest.report.plot import Series, line_chart

Figures = Mapping[str, Any]

_STYLE = """
:root { color-scheme: light dark; --ink: #111827; --paper: #fff; --soft: #6b7280; --rule: #e5e7eb;
  --card: #f9fafb; --good: #059669; --bad: #dc2626 }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --paper: #111418; --soft: #9ca3af;
  --rule: #2b3038; --card: #1a1f26 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 2rem auto; max-width: 1180px; padding: 0 1.5rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2rem 0 .6rem }
.about { color: var(--soft); margin: .2rem 0 1.4rem; overflow-wrap: anywhere }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: .7rem }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: .6rem .8rem }
.card b { display: block; white-space: nowrap; font-size: 1.25rem;
  font-variant-numeric: tabular-nums }
.card span { color: var(--soft); font-size: .85rem }
.good b { color: var(--good) } .bad b, td.bad { color: var(--bad); font-weight: 600 }
.verdict { margin: 1rem 0 0; padding: .5rem .8rem; border-radius: 8px; color: #fff }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr));
  gap: 1rem } figure { margin: 0; border: 1px solid var(--rule); border-radius: 8px;
  padding: .6rem .8rem } figcaption { font-weight: 600 } small { color: var(--soft);
  font-weight: 400 } svg { width: 100%; height: auto } svg text { fill: var(--soft);
  font: 11px system-ui, sans-serif } .grid { stroke: var(--rule) } .line { fill: none;
  stroke-width: 1.6; stroke-linejoin: round } .legend { display: flex; flex-wrap: wrap;
  gap: .2rem 1rem; font-size: .82rem; color: var(--soft) } .legend i { display: inline-block;
  width: 12px; height: 3px; margin-right: .4rem; vertical-align: middle }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .88rem }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--rule); text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap } th:first-child, td:first-child {
  text-align: left; white-space: normal; overflow-wrap: anywhere } th { color: var(--soft);
  font-weight: 500 } tr.all td { font-weight: 600 }
"""

_COUNTS = ("sent", "delivered", "bounced", "returned", "lost", "doubled", "replayed", "reordered")
# What must not happen at all; the rest may be the network's or the sender's doing.
_ZERO = frozenset({"lost", "doubled", "reordered"})
_LATENCIES = ("p50", "p95", "p99", "p99.9", "max")


def page(figures: Figures) -> str:
    """The whole document."""
    title = "Load test of " + str(figures["options"].get("url") or "an XEP-0468 endpoint")
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1><p class='about'>{escape(_about(figures))}</p>",
        _cards(figures["totals"], figures["seconds"]),
        _verdict(figures),
        "<h2>Over time</h2><div class='plots'>",
        *_plots(figures),
        "</div>",
        "<h2>By scenario <small>latencies in ms, there and back</small></h2>",
        _scenarios(figures),
        "<h2>By process</h2>",
        _processes(figures["processes"]),
        _attacks(figures),
        "<h2>Errors</h2>",
        _errors(figures["errors"]),
        "</body></html>\n",
    ]
    return "".join(parts)


def _about(figures: Figures) -> str:
    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(figures["started_at"]))
    # What is off or empty needs no words.
    told = {key: value for key, value in figures["options"].items() if value}
    words = ", ".join(
        f"{key.replace('_', ' ')} {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in told.items()
        if key != "url"
    )
    return f"{started}, {figures['seconds']:.0f} s of traffic. {words}"


def _cards(totals: Mapping[str, float | None], seconds: float) -> str:
    cards = [
        ("sessions", _count(totals["sessions"]), ""),
        ("stanzas sent", _count(totals["sent"]), ""),
        ("answers per second", _count(round(totals["rate"] or 0)), ""),
        ("p50", _latency(totals["p50"]), ""),
        ("p99", _latency(totals["p99"]), ""),
        *(
            (name, _count(totals[name]), "bad" if totals[name] else "good")
            for name in sorted(_ZERO)
        ),
    ]
    return (
        "<div class='cards'>"
        + "".join(
            f"<div class='card {kind}'><b>{text}</b><span>{name}</span></div>"
            for name, text, kind in cards
        )
        + "</div>"
    )


def _verdict(figures: Figures) -> str:
    wanted = figures["options"].get("fail_if")
    if not wanted:
        return ""
    broken = figures["broken"]
    text = f"failed by {', '.join(broken)}" if broken else f"passed: none of {', '.join(wanted)}"
    colour = "var(--bad)" if broken else "var(--good)"
    return f"<p class='verdict' style='background:{colour}'>{escape(text)}</p>"


def _plots(figures: Figures) -> list[str]:
    timeline, processes = figures["timeline"], figures["processes"]
    first = figures["started_at"]
    return [
        line_chart(
            "Latency", "ms, there and back", _series(timeline, "p50", "p95", "p99"), log=True
        ),
        line_chart("Stanzas", "per second", _series(timeline, "sent", "failed", "delivered")),
        line_chart("Sessions", "open", _series(timeline, "sessions")),
        line_chart("Sessions opened", "per second", _series(timeline, "connects")),
        line_chart("CPU", "cores", _samples(processes, first, 1, 1.0)),
        line_chart("Memory", "MiB resident", _samples(processes, first, 2, 2.0**20)),
    ]


def _series(timeline: Sequence[Mapping[str, Any]], *names: str) -> list[Series]:
    return [Series(name, [(each["t"], each[name]) for each in timeline]) for name in names]


def _samples(processes: Mapping[str, Any], first: float, column: int, unit: float) -> list[Series]:
    return [
        Series(
            name,
            [
                (max(0.0, each["started_at"] - first) + sample[0], sample[column] / unit)
                for sample in each["samples"]
            ],
        )
        for name, each in processes.items()
    ]


def _scenarios(figures: Figures) -> str:
    rows = [
        [name, *_row(values)]
        for name, values in [*figures["scenarios"].items(), ("all", figures["totals"])]
    ]
    return _table(["", *_COUNTS, "per second", *_LATENCIES], rows)


def _row(values: Mapping[str, float | None]) -> list[str]:
    cells = [
        f"<td class='bad'>{_count(values[name])}"
        if name in _ZERO and values[name]
        else f"<td>{_count(values[name])}"
        for name in _COUNTS
    ]
    cells.append(f"<td>{values['rate'] or 0:,.1f}")
    return cells + [f"<td>{_latency(values[name], unit='')}" for name in _LATENCIES]


def _processes(processes: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            f"<td>{each['cpu_seconds']:,.1f}",
            *(f"<td>{each[key] / 2**20:,.0f}" for key in ("rss_first", "rss_last", "rss_most")),
            f"<td>{each['rss_growth']:+.1%}",
        ]
        for name, each in processes.items()
    ]
    heads = ["", "CPU s", "MiB at first", "at last", "most", "growth, last fifth over middle"]
    return _table(heads, rows)


def _attacks(figures: Figures) -> str:
    if not figures["attacks"]:
        return ""
    unrefused = figures["errors"]["attacks not refused"]
    rows = [
        [
            name,
            f"<td>{_count(tried)}",
            f"<td class='bad'>{_count(unrefused[name])}" if name in unrefused else "<td>0",
        ]
        for name, tried in sorted(figures["attacks"].items())
    ]
    return f"<h2>Attacks</h2>{_table(['', 'tried', 'not refused'], rows)}"


def _errors(errors: Mapping[str, Mapping[str, int]]) -> str:
    rows = [
        [f"{kind}: {reason}", f"<td>{_count(count)}"]
        for kind, reasons in errors.items()
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1])
    ]
    return _table(["", "times"], rows) if rows else "<p>None.</p>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Each row is a plain first cell and cells that begin with their tag."""
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join(map(_table_row, rows))
    return f"<div class='scroll'><table><tr>{head}</tr>{body}</table></div>"


def _table_row(row: Sequence[str]) -> str:
    kind = " class='all'" if row[0] == "all" else ""
    cells = "".join(f"{cell}</td>" for cell in row[1:])
    return f"<tr{kind}><td>{escape(row[0])}</td>{cells}</tr>"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _latency(value: float | None, unit: str = " ms") -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}{unit}" if value < 100 else f"{value:,.0f}{unit}"
