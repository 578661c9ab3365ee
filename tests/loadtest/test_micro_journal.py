"""The benchmark of the journal and of upkeep runs, and its tables are whole."""

import json

import pytest

from loadtest import micro_journal


def test_every_table_has_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--count", "64", "--repeats", "1", "--routes", "10", "50"]
    assert micro_journal.main([*arguments, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert [row["batch"] for row in measured["load"]] == [1, 16, 64]
    assert [row["per_second"] for row in measured["quiet"]] == list(micro_journal.QUIET_RATES)
    assert all(row["kept_ms"] > 0 and row["per_append"] >= 1 for row in measured["quiet"])
    assert [row["routes"] for row in measured["upkeep"]] == [10, 50]
    assert all(0 < row["bytes_per_route"] < 1000 for row in measured["upkeep"])


def test_the_tables_name_what_they_show() -> None:
    measured = {
        "load": [micro_journal.LoadRow(16, 12.0, 1.5, 12.5, 0.5)],
        "quiet": [micro_journal.QuietRow(1000, 90.0, 12.0, 13.3, 1.2, 10.0, 5.0, 11.0)],
        "upkeep": [micro_journal.UpkeepRow(10, 37.0, 0.4, 1.7, 0.9, 259)],
    }
    shown = micro_journal.tables(measured)
    assert shown.count("\n") == 10
    for number in ("12.5", "1000", "259"):
        assert number in shown
