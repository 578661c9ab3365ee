"""Latencies in buckets."""

import pytest

from loadtest.load.histogram import Histogram, bucket_of


@pytest.mark.parametrize("microseconds", [0, 1, 63, 64, 999, 123_456, 98_765_432])
def test_a_bucket_is_at_most_one_32nd_below_the_value(microseconds: int) -> None:
    bucket = bucket_of(microseconds)
    assert bucket <= microseconds
    assert microseconds - bucket <= microseconds / 32


def test_percentiles_are_milliseconds() -> None:
    histogram = Histogram()
    for milliseconds in range(1, 101):
        histogram.add(milliseconds / 1000)
    assert histogram.percentile(0.5) == pytest.approx(50, rel=1 / 32)
    assert histogram.percentile(0.99) == pytest.approx(99, rel=1 / 32)
    assert histogram.percentile(1.0) == pytest.approx(100, rel=1 / 32)


def test_nothing_has_no_percentile() -> None:
    assert Histogram().percentile(0.5) is None


def test_merging_is_adding_all_again() -> None:
    one, other, both = Histogram(), Histogram(), Histogram()
    for number in range(200):
        (one if number % 3 else other).add(number / 7)
        both.add(number / 7)
    one.merge(other)
    assert one.counts == both.counts
    assert len(one) == 200


def test_json_keeps_everything() -> None:
    histogram = Histogram()
    histogram.add(0.0123)
    histogram.add(12.3)
    assert Histogram.from_json(histogram.to_json()).counts == histogram.counts
