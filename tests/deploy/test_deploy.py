"""What is shipped for operators fits the code: example file, systemd unit, compose file, image."""

import re
import shlex
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator import cli
from coordinator.configfile import load
from coordinator.configtext import example
from coordinator.exits import ExitCode

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@pytest.fixture
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return document


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


def test_composes_commands_are_understood(compose: dict[str, Any]) -> None:
    for name in ("coordinator", "worker"):
        service = compose["services"][name]
        options = parsed(service["command"])
        assert options.verb == name
        mounts = dict(volume.rsplit(":ro", 1)[0].rsplit(":", 1) for volume in service["volumes"])
        assert mounts["./deploy/compose.toml"] == options.config


def test_composes_paths_exist_in_the_repository(compose: dict[str, Any]) -> None:
    build = compose["services"]["worker"]["build"]
    assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    assert (DEPLOY / "compose.toml").is_file()


def test_composes_configuration_fits_its_services(compose: dict[str, Any]) -> None:
    config = load(str(DEPLOY / "compose.toml"))

    published = compose["services"]["redis"]["ports"][0].rpartition(":")[0]
    assert config.redis.url == f"redis://{published}"
    # The local server reads the CA there, so the path is the same inside and outside.
    state = config.gateway.state_dir
    assert f"{state}:{state}" in compose["services"]["coordinator"]["volumes"]
    [directory] = config.certificates.directories
    certificates = next(v for v in compose["services"]["worker"]["volumes"] if "CERTIF" in v)
    assert directory.startswith(certificates.removesuffix(":ro").rpartition(":")[2])
    grace = compose["services"]["worker"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > config.gateway.drain_timeout


def test_the_image_starts_the_gateway() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    [command] = re.findall(r"^CMD \[(.*)\]$", text, re.MULTILINE)

    options = parsed([word.strip('" ') for word in command.split(",")])

    assert options.verb == "up"
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY ([^-].*)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert f"!{source}" in allowed, source
            assert (ROOT / source).exists(), source
