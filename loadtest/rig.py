"""A gateway to measure: `fedgate up` with embedded Redis, and the sink behind it, on loopback."""

import sys
import tempfile
from pathlib import Path

from loadtest.load.certificates import LoadAuthority
from loadtest.load.listener import PATH
from loadtest.stage.addresses import ADMIN_PORT, LOCAL_PORT, S2S_PORT, WEBSOCKET_PORT, Addresses
from loadtest.stage.gateway import Gateway
from loadtest.stage.processes import StageProcess

DOMAIN = "sink.example"
_SINK, _GATEWAY, _PEERS = 11, 21, 31


class Rig:
    """Made stopped. `directory` has configuration, state and logs."""

    def __init__(self, directory: Path | None = None, *, workers: int = 1) -> None:
        self.directory = directory or Path(tempfile.mkdtemp(prefix="fedgate-load-", dir="/tmp"))
        self.addresses = Addresses()
        self.authority_directory = self.directory / "ca"
        authority = LoadAuthority(self.authority_directory)
        self.gateway = self._make_gateway(authority, workers)
        self.sink = StageProcess(
            "sink",
            [
                *(sys.executable, "-P", "-m", "loadtest.sink", "--domain", DOMAIN),
                *("--listen", f"{self.addresses.of(_SINK)}:{S2S_PORT}"),
                *("--gateway", f"{self.gateway.address}:{LOCAL_PORT}"),
                *("--ca", str(self.authority_directory)),
            ],
            self.directory / "sink.log",
        )

    @property
    def url(self) -> str:
        return f"wss://{self.gateway.address}:{WEBSOCKET_PORT}{PATH}"

    @property
    def admin(self) -> str:
        return f"http://{self.gateway.address}:{ADMIN_PORT}"

    @property
    def peers(self) -> str:
        """Where the gateway finds the remote domains: the load process listens there."""
        return f"{self.addresses.of(_PEERS)}:{WEBSOCKET_PORT}"

    async def start(self) -> None:
        """Raises `StageError`."""
        self.sink.start()
        await self.sink.wait_for_port(self.addresses.of(_SINK), S2S_PORT)
        await self.gateway.start()

    async def stop(self) -> None:
        await self.gateway.stop()
        await self.sink.stop()
        self.addresses.release()

    def _make_gateway(self, authority: LoadAuthority, workers: int) -> Gateway:
        gateway = Gateway(
            "gateway",
            (DOMAIN,),
            self.addresses.of(_GATEWAY),
            self.directory / "gateway",
            certificate=authority.issue_files(DOMAIN),
            trust=authority.bundle,
            server=(self.addresses.of(_SINK), S2S_PORT),
            upstream_dns=self.addresses.of(1),
            log=self.directory / "gateway.log",
            workers=workers,
            log_level="warning",
        )
        gateway.configure("local", dns="", upstream_dns=[])
        # Every remote domain is the load process: the URL needs no DNS, the certificate is a
        # wildcard for all of them.
        gateway.configure('remote."*"', url=f"wss://{self.peers}{PATH}")
        # Load and gateway share the cores: a worker that waits for one does not hang.
        gateway.configure("gateway", hang_timeout=30.0)
        # The stage's short patience is for tests; all domains come from one address and have one
        # owner here.
        gateway.configure(
            "limits",
            resend_timeout=None,
            unauthenticated_per_address=1000,
            connections_per_address=100_000,
            handshakes_per_address=0,
            bytes_per_second=0,
            stanzas_per_second=0,
        )
        return gateway
