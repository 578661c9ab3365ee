"""One running gateway without servers: its network is the test's, and so are its strangers."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from loadtest.stage.authority import TestAuthority
from loadtest.stage.gateway import Gateway
from loadtest.stage.peers import FRAMING, attribute
from loadtest.stage.processes import StageProcess
from loadtest.stage.wire import Wire, WireClosed, dial, tls_context
from tests.integration.machines import REDIS_PORT, Machines
from tests.workers.gateway.https_server import HttpsServer
from tests.workers.gateway.stub_dns import StubDns

OWN = "capulet.example"
PASSWORD = "hush-hush"
GATEWAY, WEB, REDIS, STRANGER = 21, 30, 40, 50


class LoneGateway:
    """`fedgate up` with umask 0 at 10.77.x.21; its Redis has a password, `STRANGER` is a machine.

    Half of 10.77.x.0/24 may be connected to; the other half, like all of 127.0.0.0/8, may not.
    """

    def __init__(self) -> None:
        self.machines = Machines(STRANGER)
        self.directory = Path(tempfile.mkdtemp(prefix="fedgate-lone-", dir="/tmp"))
        self.authority = TestAuthority(self.directory / "ca")
        self.web = HttpsServer()
        self.dns: StubDns
        self._started = contextlib.AsyncExitStack()
        words = ("redis-server", "--bind", self.here, "--port", str(REDIS_PORT))
        words += ("--requirepass", PASSWORD, "--save", "", "--appendonly", "no")
        self.redis = StageProcess("redis", words, self.directory / "redis.log")
        self.redis.start()

    @property
    def here(self) -> str:
        """A loopback address of this slot: others run tests on the same machine."""
        return f"127.{self.machines.slot}.{REDIS}.1"

    @property
    def redis_url(self) -> str:
        return f"redis://:{PASSWORD}@{self.here}:{REDIS_PORT}"

    async def start(self, *web_names: str) -> None:
        """The web server at `WEB` has a certificate for the names."""
        self.dns = await StubDns.start()
        self._started.callback(self.dns.close)
        files = self.authority.issue(*web_names)
        leaf = SimpleNamespace(pem=files.certificate.read_bytes() + files.key.read_bytes())
        await self.web.start(self.machines.of(WEB), 443, leaf, self.directory)  # type: ignore[arg-type]
        self._started.push_async_callback(self.web.close)
        await self.redis.wait_for_port(self.here, REDIS_PORT)
        address = self.machines.of(GATEWAY)
        self.gateway = Gateway(
            "lone-gateway",
            (OWN,),
            address,
            self.directory / "gateway",
            certificate=self.authority.issue(OWN),
            trust=self.authority.bundle,
            server=(address, 1),
            upstream_dns=self.dns.address,
            log=self.directory / "gateway.log",
            workers=1,
        )
        self.gateway.configure("redis", url=self.redis_url)
        self.gateway.configure("local", secret=PASSWORD)
        network = f"10.77.{self.machines.slot}.0/25"
        self.gateway.configure("discovery", allow_networks=[network], timeout=2.0)
        self.gateway.configure("limits", connect_timeout=2.0)
        command = ("sh", "-c", 'umask 0; exec "$@"', "sh", *self.gateway.process.command)
        self.gateway.process = StageProcess(
            "lone-gateway", command, self.gateway.log, directory=self.gateway.directory
        )
        self._started.push_async_callback(self.gateway.stop)
        await self.gateway.start()

    async def stop(self) -> None:
        await self._started.aclose()
        await self.redis.stop()
        self.machines.release()
        shutil.rmtree(self.directory)

    async def dial(self) -> Wire:
        """A WebSocket of somebody without a certificate."""
        url = f"wss://{OWN}/xmpp-s2s"
        return await dial(url, self.gateway.address, tls_context(None))

    async def claim(self, domain: str) -> str:
        """Say to be `domain`, and offer a dialback key; returns the answer to it."""
        wire = await self.dial()
        try:
            wire.send(f"<open xmlns='{FRAMING}' from='{domain}' to='{OWN}' version='1.0'/>")
            await wire.receive()
            await wire.receive()
            wire.send(f"<db:result from='{domain}' to='{OWN}' xmlns='jabber:server'>0f</db:result>")
            while not (answer := await wire.receive(20)).startswith("<db:result"):
                pass
            return attribute(answer, "type")
        except WireClosed as closed:
            return str(closed)
        finally:
            wire.end()

    def on_the_stranger(self, script: str, *arguments: Any) -> str:
        """Run Python on another machine of the network, and return what it prints."""
        command = (sys.executable, "-c", script, *map(str, arguments))
        done = subprocess.run(
            self.machines.command(STRANGER, *command), capture_output=True, text=True, timeout=20
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
