"""The table of runs and the file of figures."""

import io
import json
from pathlib import Path

from rich.console import Console, RenderableType

from loadtest.chaos.flap import Flap, FlapOutcome
from loadtest.chaos.report import WIDTH, flap_table, show_run, table, write_json
from loadtest.chaos.verdict import Outcome


def shown(*things: RenderableType) -> str:
    out = io.StringIO()
    console = Console(file=out, width=WIDTH)
    for thing in things:
        console.print(thing)
    return out.getvalue()


def outcome(fault: str, **figures: object) -> Outcome:
    made = Outcome(fault, "gw/w1", "1")
    for name, value in figures.items():
        setattr(made, name, value)
    return made


def test_runs_of_a_fault_are_one_row_with_sums_and_the_worst_times() -> None:
    runs = [
        outcome("worker-killed", stanzas=1000, lost_ejabberd=2, worker_lost=1, recovered_after=0.5),
        outcome("worker-killed", stanzas=500, bounced={"x": 3}, recovered_after=2.25),
        outcome("none", stanzas=7, p99_during=0.012, p99_before=0.011),
    ]
    text = shown(table(runs))
    row = next(line for line in text.splitlines() if "worker-killed" in line).split()
    assert row == [
        "worker-killed",
        "×2",
        "1,500",
        "0+2",
        "0",
        "1/2",
        *"0 0 0 3 0 0 2.2 – –".split(),
    ]
    assert "12" in text
    assert all(len(line) <= WIDTH for line in text.splitlines())


def test_a_broken_promise_is_printed_below_its_run() -> None:
    out = io.StringIO()
    show_run(Console(file=out, width=WIDTH), outcome("half-open", broken=["3 reordered: …"]))
    assert "3 reordered" in out.getvalue()


def test_flaps() -> None:
    flaps = FlapOutcome([Flap(2000, 1.0, 2.0, 3.0, 4.0, ["d1.flap.example"], 2001, 300)])
    text = shown(flap_table(flaps))
    assert "2,000" in text
    assert flaps.broken == ["1 starved"]


def test_all_figures_are_in_the_file(tmp_path: Path) -> None:
    write_json(tmp_path / "chaos.json", [outcome("none", stanzas=5)], rate=2000.0)
    content = json.loads((tmp_path / "chaos.json").read_text())
    assert content["rate"] == 2000
    assert content["runs"][0]["stanzas"] == 5
    assert content["runs"][0]["p99_during"] is None
