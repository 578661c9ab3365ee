"""Reports on disk."""

from pathlib import Path

import pytest

from loadtest.report.figures import Run, figures
from loadtest.report.files import UnreadableReport, read_report, summary, write_report


def test_a_report_is_read_as_it_was_written(run: Run, tmp_path: Path) -> None:
    found = figures(run)
    write_report(tmp_path / "new" / "run.one", found)
    assert read_report(tmp_path / "new" / "run.one.json") == found
    assert (tmp_path / "new" / "run.one.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}'])
def test_what_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(UnreadableReport, match=r"x\.json"):
        read_report(file)


def test_the_summary_has_a_line_for_each_scenario(run: Run) -> None:
    run.broken = ["lost>0"]
    text = summary(figures(run))
    assert any(line.startswith("chat ") and " 102 " in line for line in text.splitlines())
    assert "FAILED by lost>0" in text
    assert "remote-server-timeout: 1" in text
