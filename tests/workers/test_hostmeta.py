import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.exits import ExitCode
from tests.workers.gateway.stub_dns import StubDns
from workers import hostmeta
from workers.gateway.hostmeta import parse_json, parse_xrd

CONFIG = """
[gateway]
domains = ["a.example", "rooms.a.example"]
[websocket]
listen = "{listen}"
public_url = "{url}"
[local]
upstream_dns = ["{dns}"]
"""


def write(
    directory: Path,
    listen: str = "93.184.216.40:443",
    url: str = "wss://gw.a.example/x",
    dns: str = "127.0.0.1:9",
) -> str:
    file = directory / "fedgate.toml"
    file.write_text(CONFIG.format(listen=listen, url=url, dns=dns))
    return str(file)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workers.hostmeta", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
        timeout=60,
    )


def test_the_documents_are_printed_with_their_file_names(tmp_path: Path):
    done = run("--config", write(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    head, json_part, xrd_part = done.stdout.split("\n==> ")
    assert "a.example, rooms.a.example" in head
    assert json_part.startswith(".well-known/host-meta.json ")
    assert "Access-Control-Allow-Origin: *" in json_part.splitlines()[0]
    assert parse_json(json_part.partition("\n")[2].encode()).targets[0].ips == ("93.184.216.40",)
    assert xrd_part.startswith(".well-known/host-meta ")
    assert parse_xrd(xrd_part.partition("\n")[2].encode()).targets


async def test_a_document_without_addresses_is_warned_of(tmp_path: Path, capsys):
    dns = await StubDns.start()
    file = write(tmp_path, listen="[::]:443", dns=dns.address)
    assert await asyncio.to_thread(hostmeta.main, ["--config", file]) == ExitCode.OK
    dns.close()
    shown = capsys.readouterr()
    assert shown.err.startswith("fedgate: warning: no public address is known")
    assert "ips" not in shown.out


@pytest.mark.parametrize("url", ["https://gw.a.example/x", "wss://gw.a.example:99999/x"])
def test_a_wrong_public_url_is_one_line_and_an_exit_code(tmp_path: Path, capsys, url):
    assert hostmeta.main(["--config", write(tmp_path, url=url)]) == ExitCode.CONFIGURATION
    error = capsys.readouterr().err
    assert error.startswith("fedgate: ")
    assert "websocket.public_url" in error
    assert error.count("\n") == 1


def test_a_missing_file_is_one_line_and_an_exit_code(tmp_path: Path, capsys):
    assert hostmeta.main(["--config", str(tmp_path / "none.toml")]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err.count("\n") == 1
