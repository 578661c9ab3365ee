"""One gateway between two generators, all on loopback: the scene of most rows.

`local` plays the local server: s2s over TCP with STARTTLS, EXTERNAL, XEP-0198 and the pinned key.
`remote` plays any number of remote servers: wss with EXTERNAL and XEP-0198. Each also listens as
the other does, so that the same stanzas can go between them without a gateway.
"""

import asyncio
from typing import Any

from loadtest.bench.generator import Generator
from loadtest.bench.ground import Ground
from loadtest.bench.machine import cpu_seconds
from loadtest.stage.addresses import (
    DNS_PORT,
    LOCAL_PORT,
    S2S_PORT,
    WEBSOCKET_PORT,
)
from loadtest.stage.gateway import Gateway
from loadtest.stage.processes import StageError

LOCAL = "capulet.example"
REMOTE = "montague.example"
ZONE = "peers.example"
"""Many remote domains: `d0.peers.example`, `d1.peers.example`, …"""
_REMOTE_HOST = f"gw.{REMOTE}"
# They are looked after all the same, but one generator is every remote owner and address at once.
_LIMITS = {
    "stanzas_per_second": 1_000_000,
    "bytes_per_second": 1 << 30,
    "connections_per_address": 100_000,
    "handshakes_per_address": 1_000_000,
}
_LOCAL, _REMOTE, _GATEWAY = 11, 12, 21


def pairs(count: int, *, inbound: bool, first: int = 0) -> list[tuple[str, str]]:
    """(sender, target) for one stream, or for each of many remote domains."""
    if count == 1:
        remotes = [REMOTE]
    else:
        remotes = [f"d{number}.{ZONE}" for number in range(first, first + count)]
    return [(remote, LOCAL) if inbound else (LOCAL, remote) for remote in remotes]


class Rig(Ground):
    """`async with Rig() as rig:`. `manages`: the local server has XEP-0198."""

    def __init__(self, *, workers: int = 1, manages: bool = True) -> None:
        super().__init__()
        authority = self.authority
        self.local_address = self.addresses.of(_LOCAL)
        self.remote_address = self.addresses.of(_REMOTE)
        self.local = Generator(
            "local server",
            authority.issue(LOCAL),
            [LOCAL],
            self.directory / "local.log",
            manages=manages,
        )
        self.remote = Generator(
            "remote server",
            authority.issue(REMOTE, _REMOTE_HOST, f"*.{ZONE}"),
            [REMOTE, f"*.{ZONE}"],
            self.directory / "remote.log",
        )
        self.gateway = Gateway(
            "bench",
            (LOCAL,),
            self.addresses.of(_GATEWAY),
            self.directory / "gateway",
            certificate=authority.issue(LOCAL, f"gw.{LOCAL}"),
            trust=authority.bundle,
            server=(self.local_address, S2S_PORT),
            upstream_dns=f"{self.dns.address}:{DNS_PORT}",
            log=self.directory / "gateway.log",
            workers=workers,
            log_level="warning",
        )
        self.gateway.configure("limits", **_LIMITS)
        # 10,000 sessions with traffic take more than the default: a worker that is replaced for it
        # would end them all.
        self.gateway.configure("gateway", max_worker_rss=0)
        self.gateway.configure('remote."*"', url=f"wss://{_REMOTE_HOST}/xmpp-s2s")

    async def _start(self) -> None:
        self.dns.set(_REMOTE_HOST, "A", self.remote_address)
        for generator, address in (
            (self.local, self.local_address),
            (self.remote, self.remote_address),
        ):
            await generator.start()
            await generator.ask("listen_tcp", address=address, port=S2S_PORT)
            await generator.ask("listen_wss", address=address, port=WEBSOCKET_PORT)
        # The gateway pins the key that the local server shows.
        await self.gateway.attach_files("prosody")
        await self.gateway.start()

    async def _stop(self) -> None:
        await self.gateway.stop()
        for generator in (self.local, self.remote):
            await generator.stop()

    def ends(self, *, inbound: bool) -> tuple[Generator, Generator]:
        """(who sends, who receives)."""
        return (self.remote, self.local) if inbound else (self.local, self.remote)

    async def open(self, count: int = 1, *, inbound: bool, direct: bool = False) -> None:
        """Open streams of the sending generator: to the gateway, or straight to the other one.

        Raises `StageError`.
        """
        try:
            await self._open(count, inbound=inbound, direct=direct)
        except StageError as exc:
            raise StageError(f"{exc}\n{self.gateway.process.log_tail()}") from None

    async def _open(self, count: int, *, inbound: bool, direct: bool) -> None:
        sender, _ = self.ends(inbound=inbound)
        wanted = pairs(count, inbound=inbound)
        if inbound:
            address = self.local_address if direct else self.gateway.address
            order, host, port = "connect_wss", f"gw.{LOCAL}", WEBSOCKET_PORT
            await sender.ask(order, address=address, port=port, host=host, pairs=wanted)
        else:
            address = self.remote_address if direct else self.gateway.address
            port = S2S_PORT if direct else LOCAL_PORT
            await sender.ask("connect_tcp", address=address, port=port, pairs=wanted)

    async def close(self) -> None:
        """Close the streams of both generators."""
        await asyncio.gather(self.local.ask("close"), self.remote.ask("close"))

    async def processes(self) -> dict[str, list[int]]:
        """Process ids by part."""
        return {
            "worker": await self.gateway.worker_pids(),
            "coordinator": [self.gateway.process.pid],
            "redis": [self.gateway.redis_pid()],
            "local server": [self.local.pid],
            "remote server": [self.remote.pid],
        }

    async def ledger(self, *, inbound: bool) -> dict[str, Any]:
        """The settled account of one direction."""
        ledger = await self.gateway.wait_settled()
        return ledger["inbound" if inbound else "outbound"]


def spent(processes: dict[str, list[int]]) -> dict[str, float]:
    """CPU seconds so far, by part."""
    return {name: sum(map(cpu_seconds, pids)) for name, pids in processes.items()}
