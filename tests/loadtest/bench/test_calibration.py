"""What pauses between portions cost, measured on a loop that does nothing else."""

import time

from loadtest.bench.calibration import BATCH, bare_xml, paced_to_saturated


def test_portions_come_at_the_rate() -> None:
    begun = time.monotonic()
    ratio = paced_to_saturated(10 * BATCH, 2 * BATCH)
    assert time.monotonic() - begun > 0.2
    assert ratio > 0


def test_bare_xml_takes_microseconds() -> None:
    assert 0.5 < bare_xml() < 500


def test_where_the_rate_is_too_high_nothing_is_waited_for() -> None:
    assert paced_to_saturated(1e9, 10 * BATCH) > 0
