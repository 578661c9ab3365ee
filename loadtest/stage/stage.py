"""The whole scene: three servers, their users, the test DNS and CA, and a gateway where wanted."""

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

from loadtest.stage.addresses import ATTACH_PORT, COMPONENT_PORT, DNS_PORT, S2S_PORT, Addresses
from loadtest.stage.authority import TestAuthority
from loadtest.stage.dns import StageDns
from loadtest.stage.ejabberd import Ejabberd
from loadtest.stage.gateway import Gateway
from loadtest.stage.prosody import Prosody
from loadtest.stage.users import User

CAPULET = "capulet.example"
CAPULET_ROOMS = "rooms.capulet.example"
MONTAGUE = "montague.example"
MONTAGUE_ROOMS = "conference.montague.example"
ESCALUS = "escalus.example"
# A second domain of the third server, for what must be met for the first time.
MANTUA = "mantua.example"

PASSWORD = "wherefore"
ACCOUNTS = {
    CAPULET: ("juliet", "nurse", "tybalt"),
    MONTAGUE: ("romeo", "benvolio", "mercutio"),
    ESCALUS: ("friar", "page"),
}

# Actors of a stage, as the third octet of their loopback address; 100 and up are free for tests.
_DNS, _CAPULET, _MONTAGUE, _ESCALUS, _CAPULET_GATEWAY, _MONTAGUE_GATEWAY = 1, 11, 12, 13, 21, 22


class Stage:
    """Made stopped; `start()` brings up DNS and servers, `attach_gateways()` the two gateways.

    `stop()` ends every process it started, removes its directory (unless `keep` was set) and frees
    the addresses. Use it as `async with Stage() as stage:` to be sure of that.

    Each of the two servers with a gateway takes `components` external components (XEP-0114), see
    `component_domains()`; without `escalus` the third server stays down. `log_level` is that of
    servers and gateways: "debug" costs more than the traffic it tells about. With `attachment`
    "component" each gateway has the other one's domains as components of its server. `addresses`:
    elsewhere than on loopback.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        components: int = 0,
        escalus: bool = True,
        log_level: str = "debug",
        attachment: str = "s2s",
        directory: Path | None = None,
        addresses: Addresses | None = None,
    ) -> None:
        self.keep = directory is not None
        # Not below TMPDIR: Prosody 0.12 fails when it has to warn about a configuration file whose
        # path has more than 60 characters, and a path of a unix socket has at most 107.
        self.directory = directory or Path(tempfile.mkdtemp(prefix="fedgate-stage-", dir="/tmp"))
        # The servers run as accounts of their own and have to pass through.
        self.directory.chmod(0o755)
        self.logs = self.directory / "logs"
        self.logs.mkdir()
        self.addresses = addresses or Addresses()
        self.authority = TestAuthority(self.directory / "ca")
        self.dns = StageDns(self.addresses.of(_DNS))
        self.users: list[User] = []
        self._workers = workers
        self._components = components
        self._log_level = log_level
        self._make_servers()
        self.servers: tuple[Prosody | Ejabberd, ...] = (self.capulet, self.montague)
        if escalus:
            self.servers += (self.escalus,)
        self.capulet_gateway = self._make_gateway(
            (CAPULET, CAPULET_ROOMS), _CAPULET_GATEWAY, self.capulet
        )
        self.montague_gateway = self._make_gateway(
            (MONTAGUE, MONTAGUE_ROOMS), _MONTAGUE_GATEWAY, self.montague
        )
        self._attachment = attachment
        if attachment == "component":
            self._use_components(self.capulet_gateway, COMPONENT_PORT, self.montague_gateway)
            self._use_components(self.montague_gateway, ATTACH_PORT, self.capulet_gateway)

    def component_domains(self, domain: str) -> tuple[str, ...]:
        """The domains that external components may connect as to the server of `domain`."""
        return tuple(f"load{number}.{domain}" for number in range(1, self._components + 1))

    @property
    def gateways(self) -> tuple[Gateway, Gateway]:
        return self.capulet_gateway, self.montague_gateway

    async def __aenter__(self) -> "Stage":
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """DNS and the three servers, federating natively."""
        self.dns.start()
        for server in self.servers:
            names = (*server.domains, server.rooms, *server.components)
            for domain in filter(None, names):
                self.dns.set_xmpp_server(domain, server.address, S2S_PORT)
                self.dns.set(domain, "A", server.address)
        await asyncio.gather(*(server.start() for server in self.servers))

    async def attach_gateways(self) -> None:
        """Put a gateway before capulet and montague as an operator does: attach, then up."""
        await asyncio.gather(self.attach_capulet(), self.attach_montague())

    async def attach_capulet(self) -> None:
        """`fedgate attach prosody`, its lines into Prosody's file, restart, `fedgate up`."""
        gateway = self.capulet_gateway
        files = await gateway.attach_files("prosody")
        await gateway.start()
        self._publish(gateway)
        await self.capulet.attach(files["/etc/prosody/prosody.cfg.lua"])

    async def attach_montague(self) -> None:
        """`fedgate attach ejabberd`, its lines into ejabberd.yml and inetrc, `fedgate up`."""
        gateway = self.montague_gateway
        files = await gateway.attach_files("ejabberd")
        await gateway.start()
        self._publish(gateway)
        lines = files["/etc/ejabberd/ejabberd.yml"]
        if self._attachment == "component":
            await self.montague.attach("", "", lines)
        else:
            await self.montague.attach(lines, files["/etc/ejabberd/inetrc"])

    async def wait_components(self, within: float = 15) -> None:
        """Wait until every component is connected. Raises `StageError`."""
        for gateway in self.gateways:
            declared = [table for table in gateway.options if table.startswith("remote.")]
            await gateway.wait_components(len(declared), within)

    async def repair(self) -> None:
        """Start again what is not running of the servers and of the gateways that were attached."""
        for server in self.servers:
            if not server.process.is_running:
                await server.start()
        for gateway in self.gateways:
            if gateway.config.exists() and not gateway.process.is_running:
                await gateway.start()

    async def login(self, jid: str) -> User:
        """Log a user in at its server; it is logged out with the stage."""
        domain = jid.partition("@")[2].partition("/")[0]
        server = next(server for server in self.servers if domain in server.domains)
        user = await User.login(jid, PASSWORD, server.address)
        self.users.append(user)
        return user

    def actor_address(self, number: int) -> str:
        """A loopback address for an actor of a test; numbers from 100 are free."""
        return self.addresses.of(number)

    async def stop(self) -> None:
        """End all of it; errors of one part do not keep the others running."""
        for user in self.users:
            with contextlib.suppress(Exception):
                await user.logout()
        self.users.clear()
        stops = [gateway.stop() for gateway in self.gateways]
        stops += [server.stop() for server in self.servers]
        results = await asyncio.gather(*stops, return_exceptions=True)
        self.dns.stop()
        self.addresses.release()
        if not self.keep:
            shutil.rmtree(self.directory, ignore_errors=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _publish(self, gateway: Gateway) -> None:
        for domain in (*gateway.domains, gateway.public_host):
            self.dns.set(domain, "A", gateway.public_address)

    def _make_servers(self) -> None:
        self.capulet = self._make_prosody(CAPULET, _CAPULET, rooms=CAPULET_ROOMS)
        self.escalus = self._make_prosody(ESCALUS, _ESCALUS, more_domains=(MANTUA,))
        self.montague = Ejabberd(
            MONTAGUE,
            self.addresses.of(_MONTAGUE),
            self.directory / "montague",
            certificate=self.authority.issue(
                MONTAGUE, MONTAGUE_ROOMS, *self.component_domains(MONTAGUE)
            ),
            trust=self.authority.bundle,
            resolver=(self.dns.address, DNS_PORT),
            log=self.logs / "montague.log",
            rooms=MONTAGUE_ROOMS,
            accounts=dict.fromkeys(ACCOUNTS[MONTAGUE], PASSWORD),
            components=dict.fromkeys(self.component_domains(MONTAGUE), PASSWORD),
            log_level=self._log_level,
        )

    def _make_prosody(
        self, domain: str, actor: int, *, rooms: str = "", more_domains: tuple[str, ...] = ()
    ) -> Prosody:
        name = domain.partition(".")[0]
        components = self.component_domains(domain) if domain == CAPULET else ()
        return Prosody(
            domain,
            self.addresses.of(actor),
            self.directory / name,
            certificate=self.authority.issue(
                *filter(None, (domain, rooms, *more_domains, *components))
            ),
            trust=self.authority.bundle,
            resolver=f"{self.dns.address}@{DNS_PORT}",
            log=self.logs / f"{name}.log",
            rooms=rooms,
            more_domains=more_domains,
            accounts=dict.fromkeys(ACCOUNTS[domain], PASSWORD),
            components=dict.fromkeys(components, PASSWORD),
            log_level=self._log_level,
        )

    def _use_components(self, gateway: Gateway, port: int, other: Gateway) -> None:
        address = self.capulet.address if gateway is self.capulet_gateway else self.montague.address
        gateway.configure("gateway", workers=1)
        gateway.configure(
            "local", attach="component", secret=PASSWORD, server=f"{address}:{port}", dns=None
        )
        for domain in other.domains:
            gateway.configure(f'remote."{domain}"', block=False)

    def _make_gateway(
        self, domains: tuple[str, str], actor: int, server: Prosody | Ejabberd
    ) -> Gateway:
        domain = domains[0]
        name = domain.partition(".")[0]
        served = (*domains, *self.component_domains(domain))
        return Gateway(
            f"{name}-gateway",
            served,
            self.addresses.of(actor),
            self.directory / f"{name}-gateway",
            certificate=self.authority.issue(*served, f"gw.{domain}"),
            trust=self.authority.bundle,
            server=server.s2s_address,
            upstream_dns=f"{self.dns.address}:{DNS_PORT}",
            log=self.logs / f"{name}-gateway.log",
            workers=self._workers,
            log_level=self._log_level,
        )
