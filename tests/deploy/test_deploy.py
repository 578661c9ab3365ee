"""What is shipped for operators fits the code: example file, systemd unit, compose file, image."""

import re
import shlex
import subprocess
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

from coordinator import cli
from coordinator.configfile import load
from coordinator.configtext import example
from coordinator.exits import ExitCode

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def parsed(command: list[str]) -> Any:
    """The options as `fedgate` understands them; a usage error ends the test."""
    return cli.parser().parse_args(command)


def test_the_example_file_is_what_the_declarations_say() -> None:
    # Written by: fedgate config print --example > deploy/fedgate.toml
    assert (DEPLOY / "fedgate.toml").read_text() == example()


def test_the_units_commands_are_understood() -> None:
    unit = RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "fedgate.service")
    service = unit["Service"]

    program, *arguments = shlex.split(service["ExecStart"])
    assert program == "/opt/fedgate/bin/fedgate"
    assert parsed(arguments).config == "/etc/fedgate/fedgate.toml"
    forbidden = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert forbidden == {
        ExitCode.USAGE,
        ExitCode.CONFIGURATION,
        ExitCode.CERTIFICATE,
        ExitCode.WORKER_CANNOT_BOOT,
    }
    drain_timeout = load(str(DEPLOY / "fedgate.toml")).gateway.drain_timeout
    assert float(service["TimeoutStopSec"]) > drain_timeout


def test_the_units_are_sound_for_systemd() -> None:
    # Its program and the directories of the gateway are not on the machine that tests.
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", DEPLOY / "fedgate.service"],
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stderr.splitlines() if "fedgate.service" in line]
    assert [line for line in said if "/opt/fedgate/bin/fedgate is not executable" not in line] == []


def test_the_image_starts_the_gateway() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    [command] = re.findall(r"^CMD \[(.+)\]$", text, re.MULTILINE)

    options = parsed([word.strip('" ') for word in command.split(",")])

    assert options.verb == "up"
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY ([^-].*)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert f"!{source.partition('/')[0]}" in allowed, source
            assert (ROOT / source).exists(), source
