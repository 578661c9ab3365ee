"""`python -m loadtest`: what it starts locust with."""

import argparse
import os
from pathlib import Path

import pytest

from loadtest.__main__ import FAIL_IF, locust_command, parser
from loadtest.rig import Rig


class Started:
    """Of a rig that was not started, whoever is asked for is this process."""

    pid = os.getpid()


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    rig = Rig(tmp_path / "rig")
    monkeypatch.setattr(rig, "sink", Started())
    monkeypatch.setattr(
        rig.gateway, "process", argparse.Namespace(pid=os.getpid(), is_running=True)
    )
    rig.addresses.release()
    return rig


def command(rig: Rig, *arguments: str) -> list[str]:
    options, rest = parser().parse_known_args(arguments)
    return locust_command(rig, options, rest)


def value_of(command: list[str], option: str) -> str:
    """The last one, which counts."""
    at = len(command) - 1 - command[::-1].index(option)
    return command[at + 1]


def test_the_default_is_the_mixed_preset_with_strict_thresholds(rig: Rig) -> None:
    found = command(rig)
    assert value_of(found, "--preset") == "mixed"
    at = found.index("--fail-if")
    assert tuple(found[at + 1 : at + 5]) == FAIL_IF
    assert value_of(found, "--url") == rig.url
    assert value_of(found, "--report") == "loadtest-report"
    assert f"sink={os.getpid()}" in value_of(found, "--pids")


def test_what_was_said_comes_last(rig: Rig) -> None:
    found = command(rig, "--preset", "soak", "-u", "7", "--fail-if", "lost>5", "--report", "x")
    assert found.count("--preset") == 1
    assert found[-4:] == ["-u", "7", "--fail-if", "lost>5"]
    assert value_of(found, "--report") == "x"


def test_the_gateway_finds_every_domain_at_the_load_process(rig: Rig) -> None:
    options = rig.gateway.options
    assert options['remote."*"'] == {"url": f"wss://{rig.peers}/xmpp-s2s"}
    assert options["local"]["server"] == f"{rig.addresses.of(11)}:5269"


def test_its_help_tells_the_options_that_locusts_help_leaves_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["loadtest", "--preset", "soak"])  # of locust's options, too
    shown = parser().format_help()
    assert all(option in shown for option in ("--gateway-workers", "--mix", "--fail-if", "--rate"))
