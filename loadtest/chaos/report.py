"""How runs are shown: a line that moves on a terminal, a table at the end, a file of JSON."""

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from loadtest.chaos.flap import FlapOutcome
from loadtest.chaos.traffic import Traffic
from loadtest.chaos.verdict import Outcome

WIDTH = 132
_HEADS = (
    *("fault", "stanzas", "lost", "in\nserver", "window", "doubled", "re-\nordered", "swapped"),
    *("bounced", "replayed", "re-\npeated", "back\nafter", "p99\nms", "p99\nbefore"),
)
_LEGEND = """\
lost: from Prosody + from ejabberd · in server: lost in a local server that was restarted, or by
ejabberd in closing a stream · window: dropped worker-lost in the ledgers / lost from ejabberd ·
doubled: copies of messages, all marked late unless said · swapped: overtaken within Prosody where
its stream begins, by at most one turn of its loop · repeated: requests executed again · back after:
seconds · p99: of domains that the fault does not touch, and theirs without the fault"""


class Progress:
    """One line that is rewritten, where standard error is a terminal; else nothing."""

    def __init__(self) -> None:
        self.title = ""
        self._is_shown = sys.stderr.isatty()
        self._at = time.monotonic()

    def __call__(self, what: str, traffic: Traffic) -> None:
        if self._is_shown:
            elapsed = time.monotonic() - self._at
            open = traffic.sent - traffic.settled
            self.line(
                f"{self.title}  {elapsed:5.0f} s  {what}: {traffic.sent:,} sent, {open:,} open"
            )

    def line(self, text: str) -> None:
        """Rewrite the line."""
        if self._is_shown:
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        self.line("")


def console() -> Console:
    """Where results are printed: lines are kept whole also where the output is no terminal."""
    found = Console(highlight=False)
    return Console(highlight=False, width=found.width if found.is_terminal else WIDTH)


def show_run(console: Console, outcome: Outcome) -> None:
    """One line per run, and one per broken promise."""
    losses = f"{outcome.lost_prosody}+{outcome.lost_ejabberd} lost"
    console.print(
        f"{outcome.fault} {outcome.where} (seed {outcome.seed}): {outcome.stanzas:,} stanzas at "
        f"{outcome.rate:.0f}/s each way, {losses}, {outcome.doubled} doubled, "
        f"{sum(outcome.bounced.values())} bounced, back after {outcome.recovered_after:.1f} s"
    )
    for text in outcome.broken:
        console.print(f"  [red]{text}[/]", soft_wrap=True)


def table(outcomes: Sequence[Outcome]) -> Table:
    """One row per fault: sums of its runs, and the worst time."""
    shown = Table(*_HEADS, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.caption, shown.caption_justify = _LEGEND, "left"
    for column in shown.columns:
        column.no_wrap = True
        column.justify = "right"
    shown.columns[0].justify = "left"
    for fault in dict.fromkeys(each.fault for each in outcomes):
        runs = [each for each in outcomes if each.fault == fault]
        shown.add_row(*_row(fault, runs))
    return shown


def flap_table(outcome: FlapOutcome) -> Table:
    """One row per flap; seconds count from the moment the peer accepts again."""
    heads = ("flap", "domains", "first", "median", "p99", "last", "starved", "sessions", "peak /s")
    shown = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    shown.caption = (
        f"{outcome.stanzas:,} stanzas, {outcome.lost} lost, {outcome.doubled} doubled, "
        f"{outcome.reordered} reordered, {sum(outcome.bounced.values())} bounced; "
        f"all sessions opened in {outcome.opened_in:.0f} s"
    )
    for number, flap in enumerate(outcome.flaps, 1):
        times = (flap.first, flap.median, flap.p99, flap.last)
        counts = (len(flap.starved), flap.sessions, flap.peak)
        shown.add_row(
            *(str(number), f"{flap.domains:,}"), *(f"{t:.1f}" for t in times), *map(str, counts)
        )
    for column in shown.columns:
        column.justify = "right"
    return shown


def _row(fault: str, runs: Sequence[Outcome]) -> list[str]:
    def total(name: str) -> int:
        return sum(getattr(run, name) for run in runs)

    name = f"{fault} ×{len(runs)}" if len(runs) > 1 else fault
    if any(run.broken for run in runs):
        name = f"[red]{name}[/]"
    return [
        name,
        f"{total('stanzas'):,}",
        f"{total('lost_prosody')}+{total('lost_ejabberd')}",
        str(total("lost_in_server")),
        f"{total('worker_lost')}/{total('lost_ejabberd')}",
        f"{total('doubled'):,}",
        str(total("reordered")),
        str(total("swapped")),
        f"{sum(sum(run.bounced.values()) for run in runs):,}",
        f"{total('replayed'):,}",
        str(total("repeated_requests")),
        f"{max(run.recovered_after for run in runs):.1f}",
        _milliseconds([run.p99_during for run in runs]),
        _milliseconds([run.p99_before for run in runs]),
    ]


def _milliseconds(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{max(known) * 1000:.0f}" if known else "–"


def write_json(path: Path, outcomes: Sequence[Outcome], **about: Any) -> None:
    """All figures of all runs, and what was asked for."""
    content = {**about, "runs": [outcome.as_json() for outcome in outcomes]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
