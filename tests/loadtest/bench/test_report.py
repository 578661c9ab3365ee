"""The table and the files say what was measured, and what was not."""

import io
import json
from pathlib import Path

from rich.console import Console

from loadtest.bench.machine import machine
from loadtest.bench.plots import write_plots
from loadtest.bench.report import WIDTH, table, write_json
from loadtest.bench.row import Row

REACHED = Row(part="outbound", name="fast", unit="per CPU-s", samples=[2e5, 1e5], goal=1e5)
MISSED = Row(part="latency", name="slow", unit="ms", samples=[5.0], goal=3.0, is_ceiling=True)
ABSENT = Row(part="xmpp-proxy", name="absent", unit="per CPU-s", note="not measured: no binary")


def test_the_table_marks_goals() -> None:
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    console.print(table([REACHED, MISSED, ABSENT], machine()))
    lines = {line.split()[0]: line for line in console.export_text().splitlines() if line.strip()}
    assert "1.50 ✓" in lines["fast"]
    assert "1.67 ✗" in lines["slow"]
    assert "not measured" in lines["absent"]


def test_the_file_has_every_repeat(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "bench.json"
    write_json(file, [REACHED, ABSENT], machine(), {"outbound": 1.0})
    content = json.loads(file.read_text())
    assert content["machine"]["cores"] >= 1
    assert [row["samples"] for row in content["rows"]] == [[2e5, 1e5], []]
    assert [row["reached"] for row in content["rows"]] == [True, None]


def test_a_picture_is_drawn_of_rows_that_have_a_place(tmp_path: Path) -> None:
    rows = [
        Row(part="sizes", name="n", unit="u", samples=[1e5, 9e4], x=size, series="inbound")
        for size in (100, 1000)
    ]
    (file,) = write_plots(tmp_path, [REACHED, *rows], "a machine")
    assert file.read_bytes().startswith(b"\x89PNG")
