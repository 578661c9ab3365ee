"""A run to report on."""

import pytest

from loadtest.load.processes import Usage
from loadtest.report.figures import Run


@pytest.fixture
def run() -> Run:
    """Ten seconds of two scenarios, with every kind of trouble once."""
    run = Run(started_at=1000.0, options={"url": "wss://gw.example/x"})
    record = run.record
    for at in range(1001, 1011):
        second = record.second(at)
        second.sent = second.delivered = 10
        second.sessions = 5
        for milliseconds in range(1, 11):
            second.latency.add(milliseconds / 1000)
            record.account("chat").latency.add(milliseconds / 1000)
    chat, ping = record.account("chat"), record.account("iq ping")
    chat.sent, chat.delivered = 102, 100
    chat.bounce("remote-server-timeout")
    chat.lost = 1
    ping.sent = ping.delivered = 7
    ping.reordered = 2
    record.ends = {"cut by the load test": 4, "connection <lost>": 3}
    record.refusals = {"no": 1}
    run.usages["worker w1"] = Usage([(1000 + n, 0.5, 2**20 * 100) for n in range(12)], 6.0)
    return run
