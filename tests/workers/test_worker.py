"""The worker process: boots, serves, reports, drains on a signal, says why it cannot boot."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from OpenSSL import SSL

from coordinator import accounts, control
from coordinator.configfile import load
from coordinator.control import socket_path
from loadtest.stage.authority import TestAuthority
from workers import worker
from workers.gateway import tls
from workers.gateway.certificates import KeyPair
from workers.gateway.tls import OwnCertificates


def configuration(tmp_path: Path) -> Path:
    issued = TestAuthority(tmp_path / "ca").issue("capulet.example")
    state = tmp_path / "state"
    (state / "run").mkdir(parents=True)
    path = tmp_path / "fedgate.toml"
    path.write_text(
        f"""
[gateway]
domains = ["capulet.example"]
name = "gw"
state_dir = "{state}"
drain_timeout = 2
[certificates]
pairs = [{{ certificate = "{issued.certificate}", key = "{issued.key}" }}]
trust = "{tmp_path}/ca/ca.pem"
[websocket]
listen = ["127.0.0.1:0"]
[local]
listen = "127.0.0.1:0"
dns = ""
upstream_dns = ["127.0.0.1:1"]
[redis]
url = "redis://127.0.0.1:1"
"""
    )
    return path


class FakeCoordinator:
    """Welcomes the worker and keeps its reports."""

    def __init__(self) -> None:
        self.hello: control.Hello
        self.reports: list[dict[str, object]] = []
        self.reported = asyncio.Event()
        self.writer: asyncio.StreamWriter

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        try:
            while True:
                message = await control.read_message(reader)
                if isinstance(message, control.Hello):
                    self.hello = message
                    writer.write(control.encode(control.Welcome(b"a secret")))
                elif isinstance(message, control.Report):
                    self.reports.append(message.snapshot)
                    self.reported.set()
        except EOFError:
            writer.close()


async def start(path: Path, *sockets: socket.socket) -> asyncio.subprocess.Process:
    given = ";".join(
        f"{name}={sock.fileno()}"
        for name, sock in zip(("websocket", "local"), sockets, strict=False)
    )
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "workers.worker", "--config", str(path), "--id", "w1", "--sockets", given),
        pass_fds=[sock.fileno() for sock in sockets],
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


@pytest.mark.parametrize("how", ["signal", "command"])
async def test_a_worker_serves_reports_and_drains(tmp_path: Path, how: str) -> None:
    path = configuration(tmp_path)
    fake = FakeCoordinator()
    server = await asyncio.start_unix_server(fake.serve, socket_path(str(tmp_path / "state")))
    public = socket.create_server(("127.0.0.1", 0))
    local = socket.create_server(("127.0.0.1", 0))
    process = await start(path, public, local)
    assert process.stderr is not None
    async with asyncio.timeout(20):
        await fake.reported.wait()
        (account,) = (tmp_path / "state" / "ledger").glob("gw_w1.*.account")
        assert accounts.Account.open(account).process.pid == process.pid
        assert fake.hello.pid == process.pid
        assert fake.reports[0]["state"] == "running"
        assert fake.reports[0]["degraded"] == ["redis"]
        reader, writer = await asyncio.open_connection(*local.getsockname())
        writer.write(b"no stream")
        assert await reader.read() == b""
        writer.close()
        if how == "signal":
            process.send_signal(signal.SIGTERM)
        else:
            fake.writer.write(control.encode(control.Command("drain")))
        assert await process.wait() == 0
        log = await process.stderr.read()
    assert b"drains" in log and b"Traceback" not in log
    assert fake.reports[-1]["state"] == "draining"
    public.close()
    local.close()
    server.close()


async def test_a_worker_reloads_what_is_sound_and_refuses_what_is_broken(tmp_path: Path) -> None:
    path = configuration(tmp_path)
    fake = FakeCoordinator()
    server = await asyncio.start_unix_server(fake.serve, socket_path(str(tmp_path / "state")))
    process = await start(path)
    assert process.stderr is not None
    async with asyncio.timeout(20):
        await fake.reported.wait()
        assert isinstance(fake.reports[0]["names"], int)
        sound = path.read_text()
        path.write_text(sound + "\n[limits]\ndepth = 50\nconnects = 7\n")
        process.send_signal(signal.SIGHUP)
        while not fake.reports[-1]["restart_needed"]:
            fake.reported.clear()
            await fake.reported.wait()
        assert fake.reports[-1]["restart_needed"] == ["limits.connects"]
        path.write_text(sound.replace("privkey", "other").replace("gateway]", "gatway]"))
        fake.writer.write(control.encode(control.Command("reload")))
        while b"reload: nothing was changed" not in (line := await process.stderr.readline()):
            assert line
        fake.writer.write(control.encode(control.Command("drain")))
        log = await process.stderr.read()
        assert await process.wait() == 0
    assert b"Traceback" not in log
    server.close()


async def test_a_worker_that_cannot_boot_says_why_in_one_line(tmp_path: Path) -> None:
    path = configuration(tmp_path)
    path.write_text(path.read_text().replace("ca/ca.pem", "ca/missing.pem"))
    process = await start(path)
    assert process.stderr is not None
    log = await process.stderr.read()
    assert await process.wait() == worker.CANNOT_BOOT
    assert log.splitlines()[-1].startswith(b"fedgate: worker cannot start: ")


def test_sockets_are_named_on_the_command_line() -> None:
    parsed = worker._parse_sockets("websocket=5,6;local=7")
    assert parsed == {"websocket": [5, 6], "local": [7]}
    assert worker._parse_sockets("") == {}


def test_two_workers_may_bind_the_same_address() -> None:
    one = worker._bind("127.0.0.1:0")
    other = worker._bind(f"127.0.0.1:{one.getsockname()[1]}")
    assert one.getsockname() == other.getsockname()
    one.close()
    other.close()


def test_what_the_tls_self_test_finds_is_said_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(str(configuration(tmp_path)))
    certificates = OwnCertificates(config)
    worker._test_tls(config, certificates)
    assert caplog.text == ""

    make = tls.server_context

    def server_that_does_not_ask(pair: KeyPair) -> SSL.Context:
        context = make(pair)
        context.set_verify(SSL.VERIFY_NONE)
        return context

    monkeypatch.setattr(tls, "server_context", server_that_does_not_ask)
    worker._test_tls(config, certificates)
    assert "SASL EXTERNAL is off and only dialback is left" in caplog.text


def test_a_step_that_fails_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []
    worker.do_all((lambda: done.append(1), lambda: done.append(1 // 0), lambda: done.append(2)))
    assert done == [1, 2] and "ZeroDivisionError" in caplog.text
