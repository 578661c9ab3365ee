"""What is made of the suite's verdicts; the suite itself needs a Python that Debian 12 has not."""

import json
from pathlib import Path

import pytest

from loadtest import autobahn
from loadtest.autobahn import AGENT, SuiteFailed, find_python, read_results, unexpected


def verdicts(home: Path, **cases: tuple[str, str]) -> dict[str, str]:
    """The results as read from a report with these behaviours and closes."""
    report = {
        name.replace("_", "."): {"behavior": behavior, "behaviorClose": close}
        for name, (behavior, close) in cases.items()
    }
    (home / "accepting").mkdir()
    (home / "accepting" / "index.json").write_text(json.dumps({AGENT: report}))
    return read_results("accepting")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(autobahn, "HOME", tmp_path)
    monkeypatch.setitem(autobahn.DEVIATIONS, "accepting", {"2": "meant", "3": "meant"})
    return tmp_path


def test_failures_are_what_must_not_be_and_deviations_what_must(home: Path) -> None:
    results = verdicts(
        home,
        **{
            "1": ("OK", "OK"),
            "2": ("FAILED", "OK"),
            "3": ("OK", "OK"),
            "4": ("FAILED", "OK"),
            "5": ("NON-STRICT", "INFORMATIONAL"),
            "6": ("OK", "FAILED"),
        },
    )
    assert [line.partition(";")[0] for line in unexpected("accepting", results)] == [
        "accepting 3 passes, but is listed as a deviation",
        "accepting 4 failed",
        "accepting 6 failed",
    ]


def test_a_deviation_that_was_not_asked_for_is_not_missed(home: Path) -> None:
    assert unexpected("accepting", verdicts(home, **{"1": ("OK", "OK")})) == []


def test_no_report_is_a_failure() -> None:
    with pytest.raises(SuiteFailed, match="no report"):
        read_results("accepting")


def test_a_python_that_does_not_run_is_not_taken(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = home / "python2.7"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PYTHON27", str(shim))
    with pytest.raises(SuiteFailed, match="no Python 2"):
        find_python()
    shim.write_text("#!/bin/sh\nexit 0\n")
    assert find_python() == str(shim)
