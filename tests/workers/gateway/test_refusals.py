"""All are counted, few are told."""

import logging

import pytest

from workers.gateway.refusals import LINE_INTERVAL, Refusals


def test_a_flood_makes_one_line_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    refusals = Refusals(lambda: now)
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            refusals.note("strangers", f"192.0.2.{number % 250}", "its connection is refused")
        refusals.note("memory", "192.0.2.1", "its connection is refused")
        now += LINE_INTERVAL
        refusals.note("strangers", "192.0.2.9", "its connection is refused")
    assert refusals.counts == {"strangers": 1001, "memory": 1}
    assert caplog.messages == [
        "192.0.2.0: its connection is refused (strangers)",
        "192.0.2.1: its connection is refused (memory)",
        "192.0.2.9: its connection is refused (strangers), and 999 others since the last line",
    ]
