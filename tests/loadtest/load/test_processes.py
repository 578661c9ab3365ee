"""CPU and memory of processes."""

import os
import time

import pytest

from loadtest.load.processes import Processes, Usage, gateway_workers


def test_a_busy_process_is_seen_to_be_busy() -> None:
    processes = Processes({"me": os.getpid()})
    processes.sample()
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    processes.sample()
    usage = processes.usages["me"]
    # Clock ticks are 10 ms.
    assert usage.cpu_seconds >= 0.15
    (sample,) = usage.samples
    assert sample[1] > 0
    assert sample[2] > 1_000_000


def test_processes_that_are_gone_are_left_out() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    processes = Processes({"gone": pid})
    processes.sample()
    assert processes.usages["gone"].samples == []


def test_a_gateway_that_does_not_answer_has_no_workers() -> None:
    assert gateway_workers("http://127.0.0.1:1") == {}
    assert gateway_workers("") == {}


def test_growth_is_the_last_fifth_over_the_middle_one() -> None:
    rss = [10] * 4 + [100] * 12 + [110] * 4
    usage = Usage([(at, 0.0, each) for at, each in enumerate(rss)])
    assert usage.rss_growth == pytest.approx(0.1)
    assert Usage([(0, 0.0, 1)]).rss_growth == 0


def test_json_keeps_everything() -> None:
    usage = Usage([(1, 0.5, 100)], 0.5)
    assert Usage.from_json(usage.to_json()) == usage
