"""Two runs side by side."""

import copy

from loadtest.report.compare import compare
from loadtest.report.figures import Run, figures


def test_changes_are_shares_of_the_first(run: Run) -> None:
    first = figures(run)
    second = copy.deepcopy(first)
    second["totals"]["p99"] = 2 * first["totals"]["p99"]
    second["processes"]["worker w1"]["cpu_seconds"] = 3.0
    lines = {line[:34].strip(): line.split() for line in compare(first, second).splitlines()}
    assert lines["p99"][-1] == "+100.0%"
    assert lines["sent"][-1] == "+0.0%"
    assert lines["worker w1: CPU µs per answer"][-1] == "-50.0%"


def test_what_only_one_of_them_has_is_left_out(run: Run) -> None:
    first, second = figures(run), figures(run)
    del second["scenarios"]["chat"]
    del second["processes"]["worker w1"]
    text = compare(first, second)
    assert "chat" not in text
    assert "worker" not in text
