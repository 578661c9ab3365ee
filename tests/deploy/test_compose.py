"""The compose files: valid, hardened, and every name in them is one that the code knows."""

import argparse
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator import attach, cli
from coordinator.address import parse_address
from coordinator.config import Config
from coordinator.configcheck import check
from coordinator.configfile import load
from loadtest import lab
from loadtest.load.options import add_options

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = [ROOT / "compose.yaml", DEPLOY / "compose.host.yaml"]
CONFIGURED = "/etc/fedgate/fedgate.toml"

Service = dict[str, Any]


def services(file: Path = FILES[0]) -> dict[str, Service]:
    found: dict[str, Service] = yaml.safe_load(file.read_text())["services"]
    return found


def mounts(service: Service) -> dict[str, str]:
    """Source by target."""
    parts = (volume.removesuffix(":ro").rpartition(":") for volume in service["volumes"])
    return {target: source for source, _, target in parts}


def address(service: Service) -> str:
    return str(service["networks"]["federation"]["ipv4_address"])


def published(service: Service) -> Iterator[int]:
    """The ports inside, which must be reachable on the host's loopback only."""
    for port in service.get("ports", ()):
        host, _, rest = port.partition(":")
        assert host == "127.0.0.1"
        yield int(rest.partition(":")[2])


def configured(name: str) -> Config:
    return load(str(DEPLOY / "lab" / f"{name}.toml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_compose_itself_accepts_the_file(file: Path) -> None:
    done = subprocess.run(
        ["docker-compose", "-f", file, "config", "--quiet"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_fedgate_understands_every_command(file: Path) -> None:
    found = set()
    for service in services(file).values():
        words = service.get("command", [])
        checks = service.get("healthcheck", {}).get("test", [])
        for command in (words, checks[2:] if checks[1:2] == ["fedgate"] else []):
            if CONFIGURED in command:
                options = cli.parser().parse_args(command)
                assert options.config in mounts(service)
                found.add(options.verb)
    assert found >= {"coordinator", "worker"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_all_that_is_mounted_or_built_is_in_the_repository(file: Path) -> None:
    document = yaml.safe_load(file.read_text())
    for service in document["services"].values():
        for source in mounts(service).values() if "volumes" in service else ():
            if source.startswith("."):
                assert (file.parent / source).is_file(), source
            elif not source.startswith(("/", "$")):
                assert source in document["volumes"], source
        build = service.get("build")
        if build is not None:
            context = file.parent / build["context"]
            text = (context / build.get("dockerfile", "Dockerfile")).read_text()
            assert f" AS {build['target']}\n" in text


def test_no_service_has_more_rights_than_it_needs() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"] and "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert int(service["user"].partition(":")[0]) > 0, name
        assert not any(host.partition(":")[0] == "0.0.0.0" for host in service.get("ports", ()))
        assert ":latest" not in service["image"] and "privileged" not in service, name


def test_no_secret_is_in_the_file() -> None:
    for file in FILES:
        for service in services(file).values():
            names = " ".join(service.get("environment", {}))
            assert not re.search("PASSWORD|SECRET|TOKEN|KEY", names)
        assert not re.search(r"://[^/\s]*:[^/\s]*@", file.read_text())


def test_users_are_those_of_the_images() -> None:
    numbers = {"fedgate": (DEPLOY / "Dockerfile").read_text()}
    numbers |= dict.fromkeys(("prosody", "ejabberd"), (DEPLOY / "lab" / "Dockerfile").read_text())
    for name, text in numbers.items():
        used = {
            service["user"].partition(":")[0]
            for service in services().values()
            if service.get("build", {}).get("target") == name
        }
        [number] = re.findall(rf"--uid (\d+) --gid {name}\b", text)
        assert used == {number}


@pytest.mark.parametrize(
    ("gateway", "server", "name"),
    [("capulet-coordinator", "prosody", "capulet"), ("montague-gateway", "ejabberd", "montague")],
)
def test_a_gateway_and_its_server_find_each_other(gateway: str, server: str, name: str) -> None:
    config = configured(name)
    ours, theirs = services()[gateway], services()[server]
    assert mounts(ours)[CONFIGURED] == f"./deploy/lab/{name}.toml"
    assert config.local.server == f"{address(theirs)}:5269"
    aliases = ours["networks"]["federation"]["aliases"]
    assert set(config.gateway.domains) < set(aliases)
    assert config.local.advertise.rstrip(".") in aliases
    assert config.websocket.public_url.split("/")[2] in aliases
    assert list(published(ours)) == [parse_address(config.admin.listen).port]
    assert 5222 in published(theirs)
    state = config.gateway.state_dir
    assert mounts(ours)[state] == mounts(theirs)[state] and f"{state}:ro" in str(theirs["volumes"])
    assert float(ours["stop_grace_period"].rstrip("s")) > config.gateway.drain_timeout
    assert f"</dev/tcp/{address(theirs)}/5269" in theirs["healthcheck"]["test"][-1]
    dns = f"{address(ours)}:{parse_address(config.local.dns).port}"
    if server == "prosody":
        [line] = attach_lines("unbound = ", "prosody.cfg.lua")
        assert f'"{dns.replace(":", "@")}"' in line
        printed = "\n".join(block.text for block in attach.blocks(config, "prosody")).splitlines()
        for start in ("s2s_ssl = ", "smacks_s2s_resend = ", "network_settings = ", "limits = "):
            [line] = attach_lines(start, "prosody.cfg.lua")
            assert line in printed
    else:
        host, port = dns.split(":")
        [line] = attach_lines("{nameserver, ", "inetrc")
        assert line == f"{{nameserver, {{{host.replace('.', ',')}}}, {port}}}."
        [line] = attach_lines("s2s_cafile: ", "ejabberd.yml")
        assert line == f's2s_cafile: "{attach.ca_bundle(config)}"'


def attach_lines(start: str, name: str) -> list[str]:
    lines = (DEPLOY / "lab" / name).read_text().splitlines()
    return [line for line in lines if line.startswith(start)]


def test_the_labs_configurations_are_sound_with_its_certificates(tmp_path: Path) -> None:
    made = services()["certificates"]
    directory, *domains = made["command"]
    assert mounts(made)[directory] == "certificates"
    assert lab.main([str(tmp_path), *domains]) == 0
    for name in ("capulet", "montague"):
        text = (DEPLOY / "lab" / f"{name}.toml").read_text()
        file = tmp_path / f"{name}.toml"
        file.write_text(
            text.replace(directory, str(tmp_path)).replace("/var/lib/fedgate", f"{tmp_path}/state")
        )
        assert [str(each) for each in check(load(str(file))) if each.is_error] == []
    for name in ("prosody.cfg.lua", "ejabberd.yml"):
        used = re.findall(rf'"{directory}/([^"]+)"', (DEPLOY / "lab" / name).read_text())
        assert used and all((tmp_path / each).is_file() for each in used)


def test_redis_is_reached_by_a_socket_that_it_makes() -> None:
    redis, command = services()["redis"], services()["redis"]["command"]
    path = command[command.index("--unixsocket") + 1]
    assert configured("capulet").redis.url == f"unix://{path}"
    for name in ("redis", "capulet-coordinator", "capulet-worker"):
        assert mounts(services()[name])[str(Path(path).parent)] == "capulet-redis"
    assert redis["network_mode"] == "none" and path in redis["healthcheck"]["test"]


def test_workers_scale_within_the_coordinators_network_and_processes() -> None:
    worker = services()["capulet-worker"]
    assert worker["network_mode"] == worker["pid"] == "service:capulet-coordinator"
    assert "container_name" not in worker and "ports" not in worker


def test_the_load_goes_to_a_gateway_that_trusts_it() -> None:
    locust = services()["locust"]
    words = dict(itertools.pairwise(locust["command"]))
    aliases = services()["capulet-coordinator"]["networks"]["federation"]["aliases"]
    assert words["--url"] == configured("capulet").websocket.public_url
    assert (
        words["--target"] in configured("capulet").gateway.domains and words["--target"] in aliases
    )
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert parser.parse_args(locust["command"]).ca == words["--ca"]
    directory = services()["certificates"]["command"][0]
    assert mounts(locust)[directory] == "certificates"
    assert words["--ca"] == f"{directory}/load"  # made by loadtest.lab
    assert list(published(locust)) == [8089]  # locust's default


def test_prometheus_asks_both_gateways() -> None:
    prometheus = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    targets = [
        t
        for job in prometheus["scrape_configs"]
        for s in job["static_configs"]
        for t in s["targets"]
    ]
    assert targets == [
        f"{address(services()[gateway])}:{parse_address(configured(name).admin.listen).port}"
        for gateway, name in (("capulet-coordinator", "capulet"), ("montague-gateway", "montague"))
    ]
    assert mounts(services()["prometheus"])["/etc/prometheus/alerts.yml"] == "./deploy/alerts.yml"


def test_the_form_for_a_server_on_the_host_fits_its_configuration() -> None:
    config = load(str(DEPLOY / "compose.toml"))
    found = services(FILES[1])
    host = found["redis"]["ports"][0].rpartition(":")[0]
    assert config.redis.url == f"redis://{host}"
    # The local server reads the CA there, so the path is the same inside and outside.
    state = config.gateway.state_dir
    assert f"{state}:{state}" in found["coordinator"]["volumes"]
    [directory] = config.certificates.directories
    certificates = next(v for v in found["worker"]["volumes"] if "CERTIF" in v)
    assert directory.startswith(certificates.removesuffix(":ro").rpartition(":")[2])
    grace = found["worker"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > config.gateway.drain_timeout


@pytest.mark.timeout(300)
def test_the_images_steps_make_a_fedgate_that_starts(tmp_path: Path) -> None:
    """The commands of the build stage, one after the other, in a clean directory."""
    text = (DEPLOY / "Dockerfile").read_text().partition("\n\nFROM ")[0].replace("\\\n", " ")
    source, target = tmp_path / "source", tmp_path / "opt"
    source.mkdir()
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for word, rest in re.findall(r"^(RUN|COPY) (.*)$", text, re.MULTILINE):
        if word == "COPY":
            *names, _ = shlex.split(rest)
            for name in names:
                assert f"!{name}" in allowed
                subprocess.run(["cp", "-r", ROOT / name, source], check=True)
        else:
            command = rest.replace("/opt/fedgate", str(target))
            command = command.replace("python -m venv", f"{sys.executable} -m venv")
            done = subprocess.run(command, shell=True, cwd=source, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    for arguments in (["fedgate", "config", "print"], ["python", "-P", "-m", "loadtest.lab", "-h"]):
        done = subprocess.run(
            [target / "bin" / arguments[0], *arguments[1:]], cwd="/", capture_output=True, text=True
        )
        assert done.returncode in (0, 3) and "Traceback" not in done.stderr, done.stderr
