"""What makes a run fail."""

import pytest

from loadtest.load.thresholds import InvalidThreshold, broken, parse_threshold

METRICS = {
    "": {"p99": 40.0, "p99.9": 120.0, "lost": 0, "rate": 950.0, "rss_growth": 0.02, "max": None},
    "iq ping": {"p95": 20.0},
}


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("p99>50ms", False),
        ("p99>40", False),
        ("p99>=40ms", True),
        ("p99.9 > 0.1s", True),
        ("lost>0", False),
        ("lost==0", True),
        ("rate<1000", True),
        ("rss_growth>5%", False),
        ("iq ping:p95>19.5ms", True),
        ("max>1s", True),
    ],
)
def test_a_threshold_holds_or_not(text: str, fails: bool) -> None:
    assert parse_threshold(text).holds(METRICS) is fails


def test_all_that_hold_are_named() -> None:
    texts = ["p99>1ms", "lost>0", "rate<1000"]
    assert broken([parse_threshold(text) for text in texts], METRICS) == ["p99>1ms", "rate<1000"]


@pytest.mark.parametrize("text", ["", "p99", "p99>", "p99>fast", ">5", "p99=5", "p99>5 parsecs"])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidThreshold, match="write for example"):
        parse_threshold(text)


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidThreshold, match="iq ping"):
        parse_threshold("chat:p95>1").holds(METRICS)
    with pytest.raises(InvalidThreshold, match="lost"):
        parse_threshold("p12>1").holds(METRICS)
