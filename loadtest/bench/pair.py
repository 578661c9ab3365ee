"""Two stock servers of a kind that federate natively, each with one external component."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from loadtest.stage.addresses import DNS_PORT, S2S_PORT, Addresses
from loadtest.stage.authority import TestAuthority
from loadtest.stage.dns import StageDns
from loadtest.stage.ejabberd import Ejabberd
from loadtest.stage.prosody import Prosody
from loadtest.stage.stage import CAPULET, MONTAGUE, PASSWORD

Kind = Literal["prosody", "ejabberd"]
# Debian's Prosody takes 30 kB/s from another server, 94 stanzas; `fedgate attach` lifts that, too.
_UNLIMITED = 'limits = { s2sin = { rate = "100mb/s" } }'


class Pair:
    """Use as `async with Pair("prosody") as pair:`; `servers` of capulet and montague."""

    def __init__(self, kind: Kind) -> None:
        # Not below TMPDIR: Prosody 0.12 fails with long paths.
        self.directory = Path(tempfile.mkdtemp(prefix="fedgate-bench-", dir="/tmp"))
        self.directory.chmod(0o755)  # the servers run as accounts of their own
        self._addresses = Addresses()
        self._dns = StageDns(self._addresses.of(1))
        self._authority = TestAuthority(self.directory / "ca")
        make = self._prosody if kind == "prosody" else self._ejabberd
        self.servers = make(CAPULET, 11), make(MONTAGUE, 12)

    async def __aenter__(self) -> "Pair":
        try:
            self._dns.start()
            for server in self.servers:
                for domain in (server.domain, *server.components):
                    self._dns.set_xmpp_server(domain, server.address, S2S_PORT)
                if isinstance(server, Prosody):
                    await server.attach(_UNLIMITED)
            await asyncio.gather(*(server.start() for server in self.servers))
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End all of it and remove the directory."""
        await asyncio.gather(*(server.stop() for server in self.servers), return_exceptions=True)
        self._dns.stop()
        self._addresses.release()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _prosody(self, domain: str, actor: int) -> Prosody:
        component = f"load1.{domain}"
        return Prosody(
            domain,
            self._addresses.of(actor),
            self.directory / domain.partition(".")[0],
            certificate=self._authority.issue(domain, component),
            trust=self._authority.bundle,
            resolver=f"{self._dns.address}@{DNS_PORT}",
            log=self.directory / f"{domain}.log",
            components={component: PASSWORD},
            log_level="warn",
        )

    def _ejabberd(self, domain: str, actor: int) -> Ejabberd:
        component = f"load1.{domain}"
        return Ejabberd(
            domain,
            self._addresses.of(actor),
            self.directory / domain.partition(".")[0],
            certificate=self._authority.issue(domain, component),
            trust=self._authority.bundle,
            resolver=(self._dns.address, DNS_PORT),
            log=self.directory / f"{domain}.log",
            rooms=f"conference.{domain}",
            components={component: PASSWORD},
            log_level="warning",
        )
