"""The locustfile on locust's own command line; nothing is connected to."""

import subprocess
import sys

import pytest

from loadtest.__main__ import LOCUSTFILE


def locust(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "locust", "-f", str(LOCUSTFILE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_every_scenario_is_there() -> None:
    listed = locust("--list")
    assert listed.returncode == 0, listed.stderr
    assert {"Chat", "IqPing", "Room", "Hostile", "KillWorkers", "Churn"} <= {
        line.strip() for line in listed.stdout.splitlines()
    }
    assert "RemoteServer" not in listed.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--preset", "none"], "no preset 'none'"),
        (["--fail-if", "speed>1"], "no metric 'speed'"),
        (["--url", "https://gw.example/"], "no wss URL"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_starts(
    arguments: list[str], problem: str
) -> None:
    answer = locust("--headless", "-t", "1s", *arguments)
    assert answer.returncode == 2
    assert problem in answer.stderr


_PRESET = """
import sys
sys.argv = ["locust", "--preset", "soak", "-r", "7"]
import locust
from loadtest import locustfile
from locust.argument_parser import get_parser
found = get_parser(default_config_files=[]).parse_args(sys.argv[1:])
print(found.num_users, found.spawn_rate, found.run_time, found.rate)
"""


def test_a_preset_sets_options_of_locust_too() -> None:
    scene = subprocess.run(
        [sys.executable, "-P", "-c", _PRESET], capture_output=True, text=True, timeout=60
    )
    assert scene.stdout == "2000 7.0 600 0.125\n", scene.stderr


_TABLES = """
import locust, time
from collections import deque
from locust.env import Environment
from loadtest.load import tables
from loadtest.load.fleet import Outcome

environment = Environment()
environment.create_local_runner()
fired = []
environment.events.request.add_listener(lambda name, **_: fired.append(name))
few = deque([Outcome("chat", 0.012, ""), Outcome("iq ping", None, "gone")])
tables.flush(environment, few, 0.2)
assert fired == ["chat", "iq ping"], fired
assert not few

# Too many to be fired one by one: only what failed is.
many = deque(Outcome("chat", n / 1e6, "") for n in range(100_000))
many.append(Outcome("chat", None, "lost"))
tables.flush(environment, many, 0.2)
assert fired[2:] == ["chat"], fired[2:5]
entry = environment.stats.entries["chat", "message"]
assert entry.num_requests == 100_002, entry.num_requests
assert entry.num_failures == 1
assert entry.get_response_time_percentile(0.5) in range(49, 52)
assert environment.stats.total.num_requests == 100_003
print("done")
"""


def test_outcomes_reach_locusts_tables_singly_or_in_bulk() -> None:
    scene = subprocess.run(
        [sys.executable, "-P", "-c", _TABLES], capture_output=True, text=True, timeout=60
    )
    assert scene.stdout == "done\n", scene.stderr
