"""xmpp-proxy in place of fedgate, where the environment variable XMPP_PROXY_BIN names its binary.

One xmpp-proxy dials in the name of the local server, another one accepts for the remote one, so a
stanza passes two; it is compared with the way out of one gateway and the way into another. Between
the generators and the proxies there is no TLS: xmpp-proxy speaks plain to its server.
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from loadtest.bench.flood import Flood, Flow, flood
from loadtest.bench.generator import Generator
from loadtest.bench.ground import Ground
from loadtest.bench.rig import LOCAL, REMOTE, Rig
from loadtest.bench.row import Row, median_of
from loadtest.bench.run import PER_CPU_SECOND, Run, repeated, warm_up
from loadtest.stage.addresses import S2S_PORT, WEBSOCKET_PORT
from loadtest.stage.authority import KeyPair
from loadtest.stage.gateway import to_toml
from loadtest.stage.processes import StageProcess
from loadtest.stage.website import Website, host_meta

VARIABLE = "XMPP_PROXY_BIN"
OUTGOING_PORT = 15270
_HOST = f"xp.{REMOTE}"
_LOCAL, _REMOTE, _WEBSITE, _DIALLING, _ACCEPTING = 11, 12, 13, 21, 22
# It asks the system's resolvers: for it alone these are the stage's.
_WITH_RESOLVER = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


async def proxy(run: Run) -> AsyncIterator[Row]:
    """The same flow through both, one after the other."""
    row = Row(part="xmpp-proxy", name="two xmpp-proxies", unit=PER_CPU_SECOND)
    binary = os.environ.get(VARIABLE)
    if not binary:
        row.note = f"not measured: {VARIABLE} names no binary"
        yield row
        return
    flow = Flow(inbound=False, count=run.stanzas)
    async with Rig() as rig:
        costs = [await _fedgate(rig, run, inbound=inbound) for inbound in (False, True)]
    row.base = 1e6 / sum(costs)
    row.base_name = "two fedgates"
    async with ProxyRig(Path(binary)) as proxies:
        await proxies.open()
        bare = Flow(inbound=False, count=flow.count, direct=True)
        await warm_up(proxies, bare)
        floods = (await repeated(proxies, run, {"xmpp-proxy": bare}))["xmpp-proxy"]
    row.samples = [1e6 / each.microseconds for each in floods]
    row.cpu = median_of([each.per_stanza for each in floods])
    yield row


async def _fedgate(rig: Rig, run: Run, *, inbound: bool) -> float:
    """Median µs of a worker's CPU per stanza."""
    flow = Flow(inbound=inbound, count=run.stanzas)
    await rig.open(inbound=inbound)
    await warm_up(rig, flow)
    floods: list[Flood] = [await flood(rig, flow) for _ in range(run.repeats)]
    await rig.close()
    return sorted(each.microseconds for each in floods)[len(floods) // 2]


class ProxyRig(Ground):
    """Two xmpp-proxies between two generators: `async with ProxyRig(binary) as rig:`."""

    def __init__(self, binary: Path) -> None:
        super().__init__()
        of = self.addresses.of
        local, remote = self.authority.issue(LOCAL), self.authority.issue(REMOTE, _HOST)
        self._website = Website(
            of(_WEBSITE), remote, host_meta(f"wss://{_HOST}/", of(_ACCEPTING), _HOST, ttl=3600)
        )
        self._local = self._generator("local server", LOCAL, local)
        self._remote = self._generator("remote server", REMOTE, remote)
        self._dialling = self._proxy(
            binary, "dialling", local, outgoing_listen=[f"{of(_DIALLING)}:{OUTGOING_PORT}"]
        )
        self._accepting = self._proxy(
            binary,
            "accepting",
            remote,
            incoming_listen=[f"{of(_ACCEPTING)}:{WEBSOCKET_PORT}"],
            s2s_target=f"{of(_REMOTE)}:{S2S_PORT}",
        )

    async def _start(self) -> None:
        of = self.addresses.of
        self.dns.set(REMOTE, "A", of(_WEBSITE))
        self.dns.set(_HOST, "A", of(_ACCEPTING))
        await self._website.start()
        for generator in (self._local, self._remote):
            await generator.start()
        await self._remote.ask("listen_tcp", address=of(_REMOTE), port=S2S_PORT)
        self._accepting.start()
        self._dialling.start()
        await self._accepting.wait_for_port(of(_ACCEPTING), WEBSOCKET_PORT)
        await self._dialling.wait_for_port(of(_DIALLING), OUTGOING_PORT)

    async def _stop(self) -> None:
        for process in (self._dialling, self._accepting):
            await process.stop(within=2)
        for generator in (self._local, self._remote):
            await generator.stop()
        await self._website.stop()

    async def open(self) -> None:
        """Open the stream from one generator through both to the other one."""
        address = self.addresses.of(_DIALLING)
        pairs = [(LOCAL, REMOTE)]
        await self._local.ask("connect_tcp", address=address, port=OUTGOING_PORT, pairs=pairs)

    def ends(self, *, inbound: bool) -> tuple[Generator, Generator]:
        """(who sends, who receives); there is one way only."""
        assert not inbound
        return self._local, self._remote

    async def processes(self) -> dict[str, list[int]]:
        """Process ids by part; the two proxies are the workers here."""
        return {
            "worker": [self._dialling.pid, self._accepting.pid],
            self._local.name: [self._local.pid],
            self._remote.name: [self._remote.pid],
        }

    async def ledger(self, *, inbound: bool) -> dict[str, Any]:
        """It keeps none: what was sent and what arrived is all there is to compare."""
        return {}

    def _generator(self, name: str, domain: str, identity: KeyPair) -> Generator:
        log = self.directory / f"{domain}.log"
        return Generator(name, identity, [domain], log, tls=False)

    def _proxy(
        self, binary: Path, name: str, identity: KeyPair, **keys: str | list[str]
    ) -> StageProcess:
        resolver = self.directory / "resolv.conf"
        resolver.write_text(f"nameserver {self.dns.address}\n")
        config = self.directory / f"{name}.toml"
        # All its keys are at the top, above any table.
        everything = {
            "log_level": "error",
            "tls_cert": str(identity.certificate),
            "tls_key": str(identity.key),
            **keys,
        }
        config.write_text(to_toml({"": everything}).removeprefix("[]\n"))
        return StageProcess(
            f"xmpp-proxy, {name}",
            [
                *("unshare", "--mount", "sh", "-c", _WITH_RESOLVER, "sh", str(resolver)),
                *(str(binary), str(config)),
            ],
            self.directory / f"{name}.log",
            environment={"SSL_CERT_FILE": str(self.authority.bundle)},
        )
