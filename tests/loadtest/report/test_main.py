"""`python -m loadtest.report`."""

from pathlib import Path

import pytest

from loadtest.report.__main__ import main
from loadtest.report.figures import Run, figures
from loadtest.report.files import write_report


@pytest.fixture
def stem(run: Run, tmp_path: Path) -> Path:
    write_report(tmp_path / "run", figures(run))
    return tmp_path / "run"


def test_thresholds_decide_the_exit_code(stem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = f"{stem}.json"
    assert main(["show", file, "--fail-if", "lost>1"]) == 0
    assert main(["show", file, "--fail-if", "lost>0", "p99>1h"]) == 2
    assert main(["show", file, "--fail-if", "chat:lost>0"]) == 1
    assert "FAILED by chat:lost>0" in capsys.readouterr().out


def test_two_runs_are_compared(stem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", f"{stem}.json", f"{stem}.json"]) == 0
    assert "+0.0%" in capsys.readouterr().out


def test_the_page_is_made_again(stem: Path, tmp_path: Path) -> None:
    assert main(["page", f"{stem}.json", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_text() == Path(f"{stem}.html").read_text()


def test_a_file_that_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
