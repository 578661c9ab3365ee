"""Sums and percentiles of a run."""

import pytest

from loadtest.load.record import Record
from loadtest.report.figures import Run, figures, metrics, progress


def test_the_whole_is_the_sum_of_its_scenarios(run: Run) -> None:
    found = metrics(run)
    assert (found[""]["sent"], found[""]["delivered"]) == (109, 107)
    assert (found[""]["lost"], found[""]["bounced"], found[""]["reordered"]) == (1, 1, 2)
    assert (found["chat"]["sent"], found["iq ping"]["sent"]) == (102, 7)
    assert found[""]["rate"] == pytest.approx(10.7)


def test_percentiles_are_those_of_the_latencies(run: Run) -> None:
    found = metrics(run)
    assert found["chat"]["p50"] == pytest.approx(5, rel=0.05)
    assert found["chat"]["max"] == pytest.approx(10, rel=0.05)
    assert found["iq ping"]["p50"] is None


def test_what_is_slow_on_purpose_is_not_in_the_percentiles_of_the_whole(run: Run) -> None:
    slow = run.record.account("slow")
    slow.sent = slow.delivered = 5
    slow.is_apart = True
    slow.latency.add(60.0)
    found = metrics(run)
    assert found[""]["delivered"] == 112
    assert found[""]["max"] == pytest.approx(10, rel=0.05)
    assert found["slow"]["max"] == pytest.approx(60_000, rel=0.05)


def test_sessions_that_we_cut_are_not_held_against_the_endpoint(run: Run) -> None:
    found = metrics(run)[""]
    assert (found["ended"], found["refused"], found["sessions"]) == (3, 1, 5)


def test_figures_have_a_line_for_every_second(run: Run) -> None:
    timeline = figures(run)["timeline"]
    assert [each["t"] for each in timeline] == list(range(10))
    assert {each["delivered"] for each in timeline} == {10}


def test_processes_are_told_with_their_cost(run: Run) -> None:
    process = figures(run)["processes"]["worker w1"]
    assert process["cpu_seconds"] == 6.0
    assert process["rss_most"] == 100 * 2**20
    assert process["rss_growth"] == 0
    assert len(process["samples"]) == 12


def test_a_run_without_anything_has_figures(run: Run) -> None:
    found = figures(Run())
    assert found["timeline"] == []
    assert found["totals"]["p99"] is None
    assert found["totals"]["rate"] == 0


def test_progress_tells_the_last_seconds_of_all_processes(run: Run) -> None:
    line = progress([run.record, run.record], 12)
    assert line.split()[:2] == ["12", "s"]
    assert "10 sessions" in line
    assert "20/s out" in line
    assert "2 bounced" in line
    assert "0 sessions" in progress([], 0)
    assert "0 sessions" in progress([Record()], 0)
