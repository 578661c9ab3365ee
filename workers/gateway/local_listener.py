"""The local server's streams that are served here: discover, open the session, then answer.

How they get here: `arrivals.py`.
"""

import asyncio
import logging
import socket
from typing import Any

from coordinator.address import parse_address
from coordinator.client import ControlPlane, ControlPlaneUnavailable
from coordinator.config import Config
from coordinator.routes import DomainPair, Route, gateway_of
from workers.gateway.addresses import AddressPolicy
from workers.gateway.arrivals import Arrivals, hang_up
from workers.gateway.barriers import Barriers
from workers.gateway.discovery import Discovery
from workers.gateway.failure import HopFailed
from workers.gateway.handing_over import hand_over_late
from workers.gateway.local_source import LocalSource
from workers.gateway.local_trust import LocalTrust
from workers.gateway.native import NativeFailed, Splice, connect_native, greet, splice
from workers.gateway.public_listener import new_stream_id
from workers.gateway.resolver import Resolver
from workers.gateway.router import Router
from workers.gateway.siblings import Siblings, SiblingUnavailable
from workers.gateway.tcp_session import TcpSession
from workers.gateway.tls import LeafContexts
from workers.xmpp.framing import StreamFraming
from workers.xmpp.parser import StreamParser
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stream import StreamConfig

log = logging.getLogger(__name__)

# The local server waits this long for its header to be answered, in all (attach.md: 8 to 12 s).
NATIVE_TIMEOUT = 8.0


class LocalListener:
    """Accepts the local server's streams for any remote domain."""

    def __init__(
        self,
        config: Config,
        router: Router,
        discovery: Discovery,
        resolver: Resolver,
        control: ControlPlane,
        siblings: Siblings,
        contexts: LeafContexts,
        trust: LocalTrust,
    ) -> None:
        self.config = config
        self.router = router
        self._barriers = Barriers(router, control, siblings)
        self.trust = trust
        self.sources: set[LocalSource] = set()
        self.managing: dict[str, bool] = {}
        """Of each local domain: whether its server uses XEP-0198, as far as it is known."""
        self.splices: dict[Splice, DomainPair] = {}
        self._by_pair: dict[DomainPair, set[LocalSource]] = {}
        self._to_gateways: set[Splice] = set()
        self._leaving: set[DomainPair] = set()
        self._wanted: set[DomainPair] = set()
        self._discovery = discovery
        self._resolver = resolver
        self._control = control
        self._siblings = siblings
        self._contexts = contexts
        self._own = (parse_address(config.local.listen),)
        # The local server chose the domain, and networks behind NAT are where it could go itself.
        self._native_policy = AddressPolicy(config.discovery.allow_networks, private=True)
        self._arrivals = Arrivals(config, control, siblings)
        self._arrivals.serve = self._serve
        self._arrivals.pass_through = self._pass_through
        self._arrivals.spliced = self._on_spliced_to_gateway
        self._arrivals.left = self._on_pair_idle
        self._spawn = self._arrivals.spawn
        siblings.on_message = self._on_message
        router.on_outbound_failed = self._on_outbound_failed
        router.on_pair_idle = self._on_pair_idle
        control.on_route_lost = self._on_route_lost
        control.on_wait = self._on_wait
        control.is_used = self.is_used

    def start(self, sockets: list[socket.socket]) -> None:
        """Accept on sockets that are bound; other workers may accept on the same."""
        self._arrivals.start(sockets)

    def stop(self) -> None:
        """Accept nothing more."""
        self._arrivals.stop()

    @property
    def are_arriving(self) -> bool:
        """Streams are on their way to us or through us."""
        return self._arrivals.are_left

    async def tell_draining(self) -> None:
        """Let the siblings know at once, so that they pass us no more streams."""
        me = self._control.worker_id
        for worker in self._control.live_workers():
            if worker != me and gateway_of(worker) == gateway_of(me):
                await self._tell_sibling(worker, {"draining": me})

    async def close(self) -> None:
        """Cut what is left: streams being negotiated and splices."""
        spliced = list(self.splices)
        await self._arrivals.close()
        for each in spliced:
            each.close()

    def describe(self) -> list[dict[str, Any]]:
        spliced = [
            {
                "domain_pairs": [list(pair)],
                "direction": "to gateway" if each in self._to_gateways else "native",
                "authenticated_by": "",
                "since": each.opened_at,
                "bytes_out": each.bytes_out,
                "bytes_in": each.bytes_in,
                "state": "spliced",
            }
            for each, pair in self.splices.items()
        ]
        return [source.describe() for source in self.sources] + spliced

    @property
    def routes(self) -> int:
        return len(self._control.owned)

    # A stream has its place here.

    async def _pass_through(self, sock: socket.socket, pair: DomainPair) -> None:
        failure = await self._splice(sock, pair)
        if failure is not None:
            log.info("%s → %s: %s", *pair, failure.reason)
            hang_up(sock)

    async def _serve(self, sock: socket.socket, pair: DomainPair) -> None:
        """We own the pair; afterwards the socket is somebody else's, or closed."""
        self._leaving.discard(pair)
        await self._serve_here(sock, pair)

    async def _serve_here(self, sock: socket.socket, pair: DomainPair) -> None:
        """Open the wss session first, then answer the header."""
        found = await self._discovery.find(pair.remote)
        failure: HopFailed | None = None
        if found.blocked:
            failure = HopFailed(found.reason, resolved=True)
        elif found.native and not self.router.goes_back(pair):
            failure = await self._splice(sock, pair)
            if failure is None:
                return
        else:
            failure = await self._open_hop(pair)
            if failure is not None:
                log.warning("%s → %s: no wss session: %s", *pair, failure.reason)
                instead = await self._splice(sock, pair)
                if instead is None:
                    if not failure.untried:
                        self._discovery.mark_native(pair.remote)
                    return
                resolved = failure.resolved or instead.resolved
                failure = HopFailed(f"{failure.reason}; {instead.reason}", resolved=resolved)
        await self._answer(sock, pair, failure)

    async def _open_hop(self, pair: DomainPair) -> HopFailed | None:
        timeout = self.config.limits.connect_timeout
        try:
            async with asyncio.timeout(timeout):
                await self.router.to_remote(pair).wait_open()
        except HopFailed as exc:
            return exc
        except TimeoutError:
            untried = self.router.is_held_back(pair)
            reason = f"no {'turn to connect' if untried else 'authenticated stream'}"
            return HopFailed(f"{reason} within {timeout:g} s", resolved=True, untried=untried)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return HopFailed("the session was given up", resolved=True)
        return None

    async def _splice(self, sock: socket.socket, pair: DomainPair) -> HopFailed | None:
        """Pass the stream through to the remote's own s2s port; TLS stays end to end."""
        try:
            remote = await connect_native(
                pair.remote,
                self._resolver,
                self._native_policy,
                own=self._own,
                timeout=NATIVE_TIMEOUT,
            )
        except NativeFailed as exc:
            return HopFailed(exc.reason, resolved=exc.resolved)
        try:
            await greet(sock, remote)
        except NativeFailed as exc:
            remote.close()
            return HopFailed(exc.reason, resolved=exc.resolved)
        except BaseException:
            remote.close()
            raise
        try:
            spliced = await splice(sock, remote)
        except OSError as exc:
            log.info("%s → %s broke before it was passed through: %s", *pair, exc)
            return None
        self._watch(spliced, pair)
        log.info("%s → %s: native, passed through", *pair)
        return None

    def _on_spliced_to_gateway(self, spliced: Splice, pair: DomainPair) -> None:
        self._to_gateways.add(spliced)
        self._watch(spliced, pair)

    def _watch(self, spliced: Splice, pair: DomainPair) -> None:
        self.splices[spliced] = pair
        self._spawn(self._await_end(spliced))

    async def _await_end(self, spliced: Splice) -> None:
        try:
            await spliced.wait_closed()
        finally:
            self.splices.pop(spliced, None)
            self._to_gateways.discard(spliced)

    async def _answer(
        self, sock: socket.socket, pair: DomainPair, failure: HopFailed | None
    ) -> None:
        """Answer the header as the remote domain."""
        limits = self.config.limits
        try:
            leaf = await self._control.leaf(pair.remote, "route")
        except ControlPlaneUnavailable as exc:
            log.warning("%s → %s cannot be answered: %s", *pair, exc)
            hang_up(sock)
            return
        parser = StreamParser(limits)
        loop = asyncio.get_running_loop()
        stream = ReceivingStream(
            StreamConfig(limits=limits, offer_tls=True, hosts=frozenset((pair.remote,))),
            StreamFraming(),
            parser.feed,
            parser,
            loop.time(),
            new_id=new_stream_id,
        )
        source = LocalSource(self, pair, failure)
        session = TcpSession(stream, source, is_server=True)
        session.tls_context = self._contexts.server(pair.remote, leaf.certificate_pem, leaf.key_pem)
        source.attach(session)
        self.sources.add(source)
        self._by_pair.setdefault(pair, set()).add(source)
        try:
            await session.adopt(sock)
        except OSError as exc:
            log.info("%s → %s broke before it was answered: %s", *pair, exc)
            self._forget(source)
            hang_up(sock)
            return
        session.start_timer()

    # What ends.

    def source_ended(self, source: LocalSource) -> None:
        self._forget(source)
        self._on_pair_idle(source.pair)

    def _forget(self, source: LocalSource) -> None:
        self.sources.discard(source)
        of_pair = self._by_pair.get(source.pair, set())
        of_pair.discard(source)
        if not of_pair:
            self._by_pair.pop(source.pair, None)

    def _on_outbound_failed(self, pair: DomainPair, reason: str) -> None:
        """Let the local server start anew: discovery then decides again."""
        self._close_sources(pair)

    def _on_route_lost(self, pair: DomainPair, route: Route) -> None:
        """Another worker owns the pair: the next stream goes there."""
        log.info("%s → %s belongs to %s now: its stream ends here", *pair, route.owner)
        self.leave(pair)

    def leave(self, pair: DomainPair) -> None:
        """Let the pair go in order: its streams, then its session, then its route."""
        self._leaving.add(pair)
        self._close_sources(pair)
        self._on_pair_idle(pair)

    def _close_sources(self, pair: DomainPair) -> None:
        for source in list(self._by_pair.get(pair, ())):
            if source.failure is None:
                source.close()

    def has_streams(self, pair: DomainPair) -> bool:
        """A local stream of the pair is here, or on its way."""
        return pair in self._by_pair or pair in self._arrivals.waiting

    def is_used(self, pair: DomainPair) -> bool:
        """A stream or a session of the pair is here, or about to be."""
        return self.has_streams(pair) or self.router.has_remote(pair)

    def _on_pair_idle(self, pair: DomainPair) -> None:
        """Nobody uses the pair here any more: any worker may own it next."""
        if not self.is_used(pair):
            self._leaving.discard(pair)
            if pair in self._control.owned:
                self._spawn(self._control.release(pair))
        elif pair in self._leaving and pair not in self._by_pair:
            if pair not in self._arrivals.waiting:
                self._spawn(self.router.to_remote(pair).close())

    def _on_wait(self, pair: DomainPair, owner: str) -> None:
        """A stream of the pair waits for a draining owner: let it begin with this one."""
        if gateway_of(owner) == gateway_of(self._control.worker_id):
            me = self._control.worker_id
            self._spawn(self._tell_sibling(owner, {"wanted": list(pair), "by": me}))

    # Barriers.

    def barrier_answered(self, pair: DomainPair, token: str) -> bool:
        """The local server answered a ping, on whichever worker's stream it chose.

        False: no worker of ours can have sent it, so the answer is for somebody else.
        """
        if self.router.barrier_answered(pair, token):
            return True
        asker = self._barriers.asker(token)
        if asker is None:
            return False
        self._spawn(self._barriers.tell(asker, pair, token))
        return True

    async def _tell_sibling(self, worker: str, message: dict[str, Any]) -> None:
        try:
            await self._siblings.send_message(worker, message)
        except SiblingUnavailable:
            log.debug("worker %s did not hear: %r", worker, message)

    def _on_message(self, message: dict[str, Any]) -> None:
        if self._barriers.on_message(message):
            return
        match message:
            case {"draining": str(worker)}:
                self._control.note_draining(worker)
            case {"wanted": [str(local), str(remote)], "by": str(heir)} if self._control.draining:
                pair = DomainPair(local, remote)
                self.leave(pair)
                if pair not in self._wanted:
                    self._wanted.add(pair)
                    self._spawn(hand_over_late(self, self.router, self._control, pair, heir))
