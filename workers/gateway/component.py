"""The second way to attach a local server: as external components, one per declared remote domain.

Takes the place of the local listener and the local connector: no steering, no local port, no peek.
Every stream to the local server is opened from here, and carries both directions.
"""

import asyncio
import logging
import socket
import time
from collections import deque
from typing import Any

from coordinator.address import Address, parse_address
from coordinator.client import ControlPlane
from coordinator.config import Config
from coordinator.routes import DomainPair, Route
from workers.gateway.asking import barrier_tag
from workers.gateway.component_link import ComponentLink, describe
from workers.gateway.component_source import ComponentSource
from workers.gateway.failure import HopFailed
from workers.gateway.native import Splice
from workers.gateway.router import Router
from workers.gateway.session import Session, SessionOwner

log = logging.getLogger(__name__)


class ComponentConnector:
    """Gives the router's local hops their share of a component's stream."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.links: dict[tuple[Address, str], ComponentLink] = {}

    async def connect(
        self, local: str, remote: str, owner: SessionOwner, *, verify_only: bool = False
    ) -> Session:
        """A session from `remote` to our `local` domain. Raises `HopFailed`.

        With `verify_only`, always: a server that is attached by components makes no dialback keys
        for the domains that are its components.
        """
        if verify_only:
            raise HopFailed("components have no dialback (XEP-0114)", resolved=False)
        try:
            server = server_of(self._config, local)
        except KeyError:
            raise HopFailed(f"local.server names no server for {local}", resolved=False) from None
        link = self.links.get((server, remote))
        if link is None:
            raise HopFailed(f"{remote} is not declared under [remote]", resolved=False)
        return await link.lane(owner, self._config.limits.connect_timeout)


class ComponentAttachment:
    """All components of this gateway; what `LocalListener` is for a server attached by s2s."""

    def __init__(
        self,
        config: Config,
        router: Router,
        control: ControlPlane,
        connector: ComponentConnector,
        errors: deque[dict[str, Any]],
    ) -> None:
        """`errors`: what `/api/errors` shows; problems of components are added to it."""
        self.splices: dict[Splice, DomainPair] = {}
        """None: what is not carried never comes here."""
        self._errors = errors
        self._config = config
        self._router = router
        self._control = control
        self._links = connector.links
        self._retired: list[ComponentLink] = []
        router.barrier_tag = barrier_tag(control.worker_id)
        router.on_outbound_failed = self._on_outbound_failed
        router.on_pair_idle = self._on_pair_idle
        control.on_route_lost = self._on_route_lost
        control.is_used = self._is_used
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, sockets: list[socket.socket]) -> None:
        """Connect each declared remote domain, and stay connected. No sockets are needed."""
        for sock in sockets:
            sock.close()
        self.reload()

    def reload(self) -> None:
        """Connect what the configuration declares now, and end in order what it does not."""
        wanted = {
            (server, remote): locals
            for remote in declared(self._config)
            for server, locals in servers(self._config).items()
        }
        for key in self._links.keys() - wanted.keys():
            link = self._links.pop(key)
            log.info("component %s is not declared any more", link.name)
            link.stop()
            if link.source is not None:
                link.source.close()
            self._retired.append(link)
        for key in wanted.keys() - self._links.keys():
            server, remote = key
            self._links[key] = ComponentLink(
                self._config,
                self._control,
                self._router,
                server,
                remote,
                wanted[key],
                self._on_problem,
                self._on_connected,
                self._on_done,
            )

    def stop(self) -> None:
        """Connect no more; what is connected goes on until its source is closed."""
        for link in self._links.values():
            link.stop()

    async def close(self) -> None:
        """Cut what is left, and let other workers have the components."""
        links = (*self._links.values(), *self._retired)
        await asyncio.gather(*(link.close() for link in links))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def sources(self) -> set[ComponentSource]:
        return {link.source for link in self._links.values() if link.source is not None}

    @property
    def routes(self) -> int:
        return sum(link.is_ours for link in self._links.values())

    def describe(self) -> list[dict[str, Any]]:
        return [
            link.source.describe() if link.source is not None else describe(link)
            for link in self._links.values()
        ]

    def _on_outbound_failed(self, pair: DomainPair, reason: str) -> None:
        for source in self.sources:
            if source.remote == pair.remote:
                source.outbound_failed(pair, reason)

    def _on_route_lost(self, pair: DomainPair, route: Route) -> None:
        for link in self._links.values():
            if link.pair == pair:
                link.lose_route(route)

    # Who may have a component next.

    def _is_used(self, pair: DomainPair) -> bool:
        if self._router.has_remote(pair):
            return True
        return any(link.is_used for link in self._links.values() if link.pair == pair)

    def _on_pair_idle(self, pair: DomainPair) -> None:
        self._release(pair)
        for link in self._links.values():
            if link.remote == pair.remote and link.pair != pair:
                self._release(link.pair)

    def _on_done(self, link: ComponentLink) -> None:
        self._release(link.pair)

    def _release(self, pair: DomainPair) -> None:
        """Does nothing while it is used."""
        task = asyncio.create_task(self._control.release(pair))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_connected(self, link: ComponentLink) -> None:
        for other in self._links.values():
            if other.server == link.server and other is not link:
                other.hurry()

    def _on_problem(self, remote: str, reason: str) -> None:
        self._errors.append(
            {"at": time.time(), "domain": remote, "direction": "local", "reason": reason[:256]}
        )


def declared(config: Config) -> tuple[str, ...]:
    """The remote domains that are components of the local server."""
    return tuple(d for d, policy in config.remote.items() if d != "*" and not policy.block)


def servers(config: Config) -> dict[Address, tuple[str, ...]]:
    """The addresses of the local servers, each with our domains that it serves."""
    found: dict[Address, tuple[str, ...]] = {}
    for domain in config.gateway.domains:
        server = server_of(config, domain)
        found[server] = (*found.get(server, ()), domain)
    return found


def server_of(config: Config, domain: str) -> Address:
    """Where the local server of one of our domains accepts components. Raises `KeyError`."""
    return parse_address(config.local.server_for(domain)).reachable()
