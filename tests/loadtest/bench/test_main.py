"""What is measured is shown and written, and a run that lost something says so by its exit code."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loadtest.bench import __main__ as bench
from loadtest.bench.flood import LedgerWrong
from loadtest.bench.row import Row
from loadtest.bench.run import Run

ROW = Row(part="first", name="a row", unit="ms", samples=[1.0])


async def _good(run: Run) -> AsyncIterator[Row]:
    yield ROW


async def _bad(run: Run) -> AsyncIterator[Row]:
    yield ROW
    raise LedgerWrong("one is missing")


def test_all_parts_are_measured_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "PARTS", {"first": _good, "second": _good})
    file = tmp_path / "bench.json"
    assert bench.main(["--json", str(file)]) == 0
    content = json.loads(file.read_text())
    assert [row["name"] for row in content["rows"]] == ["a row", "a row"]
    assert list(content["seconds"]) == ["first", "second"]
    assert "a row" in capsys.readouterr().out


def test_a_ledger_that_is_wrong_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "PARTS", {"first": _good, "second": _bad, "third": _good})
    file = tmp_path / "bench.json"
    assert bench.main(["--only", "second,third", "--json", str(file)]) == 1
    assert len(json.loads(file.read_text())["rows"]) == 1
    assert "one is missing" in capsys.readouterr().out


def test_a_part_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--only", "outbound,elsewhere"])
    assert "there is no part 'elsewhere'" in capsys.readouterr().err
