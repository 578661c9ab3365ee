"""The scene of every run: Prosody, ejabberd, their gateways, proxies between these, components."""

import asyncio
import time
from typing import Any

from loadtest.chaos.traffic import Traffic
from loadtest.stage.addresses import WEBSOCKET_PORT
from loadtest.stage.component import Component
from loadtest.stage.gateway import Gateway
from loadtest.stage.processes import StageError
from loadtest.stage.proxy import Proxy
from loadtest.stage.stage import PASSWORD, Stage

COMPONENTS = 3  # on each side: nine flows each way
_PROXIES = {"capulet-gateway": 31, "montague-gateway": 32}
_WARM_UP = 45.0

Names = set[tuple[str, str]]
"""Flows by name: (sending domain, receiving domain)."""


class Scene:
    """Use as `async with Scene() as scene:`; `prepare()` before each run."""

    def __init__(self, *, keep_logs: bool = False) -> None:
        self.stage = Stage(components=COMPONENTS, escalus=False, log_level="info")
        self.stage.keep = keep_logs
        self.servers: dict[str, str] = {
            domain: kind
            for server, kind in ((self.stage.capulet, "prosody"), (self.stage.montague, "ejabberd"))
            for domain in server.components
        }
        self.proxies: dict[str, Proxy] = {}
        self.components: list[Component] = []
        self.traffic: Traffic | None = None
        self._runs = 0
        self._reconnections: set[asyncio.Task[None]] = set()

    @property
    def gateways(self) -> tuple[Gateway, Gateway]:
        return self.stage.gateways

    async def __aenter__(self) -> "Scene":
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def _start(self) -> None:
        await self.stage.start()
        for gateway in self.gateways:
            gateway.public_address = self.stage.actor_address(_PROXIES[gateway.name])
            proxy = Proxy(gateway.public_address, gateway.address, WEBSOCKET_PORT)
            await proxy.start()
            self.proxies[gateway.name] = proxy
            # Before it starts: it publishes in host-meta what its name resolves to then.
            self.stage.dns.set(gateway.public_host, "A", proxy.address)
        await self.stage.attach_gateways()
        for server in (self.stage.capulet, self.stage.montague):
            for domain in server.components:
                self._add_component(domain, server.address)
        await asyncio.gather(*(component.connect() for component in self.components))

    async def stop(self) -> None:
        for task in self._reconnections:
            task.cancel()
        await asyncio.gather(*self._reconnections, return_exceptions=True)
        for component in self.components:
            component.close()
        for proxy in self.proxies.values():
            await proxy.stop()
        await self.stage.stop()

    async def prepare(self, rate: float) -> Traffic:
        """Mend what the last run left broken, and return traffic whose flows are all open.

        Raises `StageError` when a flow does not open.
        """
        for proxy in self.proxies.values():
            proxy.cut_stalled()
        await self.stage.repair()
        for gateway in self.gateways:
            await gateway.wait_ready()
        await self.wait_components()
        async with asyncio.timeout(_WARM_UP):
            while not await self._are_flows_open():
                pass
        self._runs += 1
        self.traffic = Traffic(self._runs, self.components, self.servers, rate)
        return self.traffic

    async def wait_components(self, within: float = 30) -> None:
        """Wait until every component is connected. Raises `StageError`."""
        deadline = time.monotonic() + within
        while not all(component.is_open for component in self.components):
            if time.monotonic() > deadline:
                away = [each.domain for each in self.components if not each.is_open]
                raise StageError(f"components are away: {away}")
            await asyncio.sleep(0.05)

    async def sessions_of(self, gateway: Gateway, worker: str) -> list[dict[str, Any]]:
        """The sessions and local streams of one worker."""
        sessions = await gateway.api("sessions")
        return [each for each in sessions if each["worker"] == worker]

    async def flows_of(self, gateway: Gateway, worker: str) -> tuple[Names, Names]:
        """The flows that pass through a worker, and those whose local stream it reads."""
        return flows_in(await self.sessions_of(gateway, worker))

    async def ledgers(self) -> dict[str, dict[str, Any]]:
        """The ledgers of both gateways, by gateway."""
        return {gateway.name: await gateway.ledger() for gateway in self.gateways}

    async def _are_flows_open(self) -> bool:
        """Send one stanza along every flow; true when all of them arrived."""
        self._runs += 1
        self.traffic = traffic = Traffic(self._runs, self.components, self.servers, 1)
        traffic.send_one_each()
        for _ in range(300):
            await asyncio.sleep(0.01)
            if traffic.is_settled:
                break
        return not any(list(flow.missing()) or flow.conditions for flow in traffic.flows)

    def _add_component(self, domain: str, address: str) -> None:
        component = Component(
            domain,
            address,
            PASSWORD,
            lambda data: self._on_data(domain, data),
            lambda: self._on_lost(component),
        )
        self.components.append(component)

    def _on_data(self, domain: str, data: bytes) -> None:
        if self.traffic is not None:
            self.traffic.receive(domain, data)

    def _on_lost(self, component: Component) -> None:
        if self.traffic is not None:
            self.traffic.forget_partial(component.domain)
        task = asyncio.create_task(component.connect(within=60))
        self._reconnections.add(task)
        task.add_done_callback(self._reconnections.discard)


def flows_in(sessions: list[dict[str, Any]]) -> tuple[Names, Names]:
    """The flows that may use any of these sessions, and those read from the local server by them.

    A session between gateways may go both ways (XEP-0288).
    """
    used: Names = set()
    read: Names = set()
    for session in sessions:
        for local, remote in session["domain_pairs"]:
            is_local = session["direction"] == "local"
            is_source = is_local and "waiting" not in session
            if is_source:
                read.add((local, remote))
            if is_source or not is_local:
                used.add((local, remote))
            if not is_source:
                used.add((remote, local))
    return used, read
