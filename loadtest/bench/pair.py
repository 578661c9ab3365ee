"""Two stock servers of a kind that federate natively, each with one external component."""

import asyncio
from typing import Literal

from loadtest.bench.ground import Ground
from loadtest.stage.addresses import DNS_PORT, S2S_PORT
from loadtest.stage.ejabberd import Ejabberd
from loadtest.stage.prosody import Prosody
from loadtest.stage.stage import CAPULET, MONTAGUE, PASSWORD

Kind = Literal["prosody", "ejabberd"]
# Debian's Prosody takes 30 kB/s from another server, 94 stanzas; `fedgate attach` lifts that, too.
_UNLIMITED = 'limits = { s2sin = { rate = "100mb/s" } }'


class Pair(Ground):
    """`async with Pair("prosody") as pair:`; `servers` of capulet and montague."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        make = self._prosody if kind == "prosody" else self._ejabberd
        self.servers = make(CAPULET, 11), make(MONTAGUE, 12)

    async def _start(self) -> None:
        for server in self.servers:
            for domain in (server.domain, *server.components):
                self.dns.set_xmpp_server(domain, server.address, S2S_PORT)
            if isinstance(server, Prosody):
                await server.attach(_UNLIMITED)
        await asyncio.gather(*(server.start() for server in self.servers))

    async def _stop(self) -> None:
        await asyncio.gather(*(server.stop() for server in self.servers))

    def _prosody(self, domain: str, actor: int) -> Prosody:
        component = f"load1.{domain}"
        return Prosody(
            domain,
            self.addresses.of(actor),
            self.directory / domain.partition(".")[0],
            certificate=self.authority.issue(domain, component),
            trust=self.authority.bundle,
            resolver=f"{self.dns.address}@{DNS_PORT}",
            log=self.directory / f"{domain}.log",
            components={component: PASSWORD},
            log_level="warn",
        )

    def _ejabberd(self, domain: str, actor: int) -> Ejabberd:
        component = f"load1.{domain}"
        return Ejabberd(
            domain,
            self.addresses.of(actor),
            self.directory / domain.partition(".")[0],
            certificate=self.authority.issue(domain, component),
            trust=self.authority.bundle,
            resolver=(self.dns.address, DNS_PORT),
            log=self.directory / f"{domain}.log",
            rooms=f"conference.{domain}",
            components={component: PASSWORD},
            log_level="warning",
        )
