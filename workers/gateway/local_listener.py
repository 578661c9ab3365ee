"""The local port: peek at the stream header, then hand the untouched stream on, once."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from coordinator.address import parse_address
from coordinator.client import ControlPlane, ControlPlaneUnavailable
from coordinator.config import Config
from coordinator.routes import DomainPair, Route, gateway_of
from workers.gateway.addresses import AddressPolicy
from workers.gateway.discovery import Discovery
from workers.gateway.failure import HopFailed
from workers.gateway.hop import barrier_tag
from workers.gateway.local_source import LocalSource
from workers.gateway.local_trust import LocalTrust
from workers.gateway.native import NativeFailed, Splice, connect_native, greet, splice
from workers.gateway.peek import Peeked, PeekFailed, peek_header
from workers.gateway.public_listener import new_stream_id
from workers.gateway.resolver import Resolver
from workers.gateway.router import Router
from workers.gateway.session import TcpSession
from workers.gateway.siblings import Siblings, SiblingUnavailable
from workers.gateway.tls import LeafContexts
from workers.xmpp.framing import StreamFraming
from workers.xmpp.parser import StreamParser
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stream import StreamConfig

log = logging.getLogger(__name__)

# The local server waits this long for its header to be answered, in all (attach.md: 8 to 12 s).
NATIVE_TIMEOUT = 8.0
# Seconds until a failed accept is tried again.
ACCEPT_RETRY = 0.5


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
        router.barrier_tag = barrier_tag(control.worker_id)
        self.trust = trust
        self.sources: set[LocalSource] = set()
        self.splices: dict[Splice, DomainPair] = {}
        self._discovery = discovery
        self._resolver = resolver
        self._control = control
        self._siblings = siblings
        self._contexts = contexts
        self._routes: dict[DomainPair, Route] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: list[asyncio.Task[None]] = []
        self._own = (parse_address(config.local.listen),)
        # The local server chose the domain and would connect there itself: no policy of ours.
        self._native_policy = AddressPolicy(("0.0.0.0/0", "::/0"))
        siblings.on_socket = self._on_socket
        siblings.on_message = self._on_message
        router.on_outbound_failed = self._on_outbound_failed
        router.on_pair_idle = self._on_pair_idle
        control.on_route_lost = self._on_route_lost

    def start(self, sockets: list[socket.socket]) -> None:
        """Accept on sockets that are bound; other workers may accept on the same."""
        for sock in sockets:
            sock.setblocking(False)
            accepting = asyncio.create_task(self._accept(sock))
            accepting.add_done_callback(lambda _, sock=sock: sock.close())  # type: ignore[misc]
            self._accepting.append(accepting)

    def stop(self) -> None:
        """Accept nothing more."""
        for task in self._accepting:
            task.cancel()

    async def close(self) -> None:
        """Cut what is left: streams being negotiated and splices."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pair in list(self.splices):
            pair.close()

    def describe(self) -> list[dict[str, Any]]:
        spliced = [
            {
                "domain_pairs": [list(pair)],
                "direction": "native",
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
        return len(self._routes)

    # A stream arrives.

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listening)
            except OSError as exc:
                # Out of descriptors: the connection waits in the backlog until some are free.
                log.error("cannot accept a local stream: %s", exc)
                await asyncio.sleep(ACCEPT_RETRY)
                continue
            sock.setblocking(False)
            self._spawn(self._guard(sock, self._peek, sock))

    async def _guard(
        self, sock: socket.socket, work: Callable[..., Coroutine[Any, Any, None]], *args: Any
    ) -> None:
        """Close the socket if the work that is to hand it on fails or is cancelled."""
        try:
            await work(*args)
        except BaseException:
            hang_up(sock)
            raise

    async def _peek(self, sock: socket.socket) -> None:
        try:
            peeked = await peek_header(sock)
        except PeekFailed as exc:
            log.info("a local connection is no stream: %s", exc.reason)
            hang_up(sock)
            return
        await self._hand_on(sock, peeked)

    async def _hand_on(self, sock: socket.socket, peeked: Peeked) -> None:
        pair = DomainPair(peeked.sender, peeked.recipient)
        if pair.local not in self.config.gateway.domains:
            log.info("%s is not a domain of this gateway: its stream is passed through", pair.local)
            failure = await self._splice(sock, pair)
            if failure is not None:
                log.info("%s → %s: %s", *pair, failure.reason)
                hang_up(sock)
            return
        route = await self._control.acquire(pair)
        if route.owner != self._control.worker_id and gateway_of(route.owner) == gateway_of(
            self._control.worker_id
        ):
            try:
                await self._siblings.send_socket(route.owner, sock, {"pair": list(pair)})
                return
            except SiblingUnavailable as exc:
                # Static stability: better a second session than no session (design.md §1.6).
                log.warning("%s; serving %s → %s here", exc, *pair)
                self._control.doubt(route.owner)
                route = await self._control.acquire(pair)
        await self._serve(sock, pair, route)

    def _on_socket(self, sock: socket.socket, info: dict[str, Any]) -> None:
        match info.get("pair"):
            case [str(local), str(remote)]:
                pair = DomainPair(local, remote)
                self._spawn(self._guard(sock, self._serve_handed_on, sock, pair))
            case _:
                hang_up(sock)

    async def _serve_handed_on(self, sock: socket.socket, pair: DomainPair) -> None:
        # The sibling says that we own the pair: asked again for the epoch, and never passed back.
        await self._serve(sock, pair, await self._control.acquire(pair))

    async def _serve(self, sock: socket.socket, pair: DomainPair, route: Route) -> None:
        """We own the pair; afterwards the socket is somebody else's, or closed."""
        self._routes.setdefault(pair, route)
        try:
            await self._serve_here(sock, pair)
        finally:
            self._forget_route(pair)

    async def _serve_here(self, sock: socket.socket, pair: DomainPair) -> None:
        """Open the wss session first, then answer the header."""
        found = await self._discovery.find(pair.remote)
        failure: HopFailed | None = None
        if found.blocked:
            failure = HopFailed(found.reason, resolved=True)
        elif found.native:
            failure = await self._splice(sock, pair)
            if failure is None:
                return
        else:
            failure = await self._open_hop(pair)
            if failure is not None:
                log.warning("%s → %s: no wss session: %s", *pair, failure.reason)
                instead = await self._splice(sock, pair)
                if instead is None:
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
            return HopFailed(f"no authenticated stream within {timeout:g} s", resolved=True)
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
        self.splices[spliced] = pair
        self._spawn(self._watch(spliced))
        log.info("%s → %s: native, passed through", *pair)
        return None

    async def _watch(self, spliced: Splice) -> None:
        try:
            await spliced.wait_closed()
        finally:
            self.splices.pop(spliced, None)

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
        try:
            await session.adopt(sock)
        except OSError as exc:
            log.info("%s → %s broke before it was answered: %s", *pair, exc)
            self.sources.discard(source)
            hang_up(sock)
            return
        session.start_timer()

    # What ends.

    def source_ended(self, source: LocalSource) -> None:
        self.sources.discard(source)
        self._forget_route(source.pair)

    def _on_outbound_failed(self, pair: DomainPair, reason: str) -> None:
        """Let the local server start anew: discovery then decides again."""
        self._close_sources(pair)

    def _on_route_lost(self, pair: DomainPair, route: Route) -> None:
        """Redis is back and another worker owns the pair: the next stream goes there."""
        log.info("%s → %s belongs to %s now: its stream ends here", *pair, route.owner)
        self._routes.pop(pair, None)
        self._close_sources(pair)

    def _close_sources(self, pair: DomainPair) -> None:
        for source in list(self.sources):
            if source.pair == pair and source.failure is None:
                source.close()

    def _on_pair_idle(self, pair: DomainPair) -> None:
        self._forget_route(pair)

    def _forget_route(self, pair: DomainPair) -> None:
        """Nobody uses the pair here any more: any worker may own it next."""
        if any(source.pair == pair for source in self.sources) or self.router.has_remote(pair):
            return
        route = self._routes.pop(pair, None)
        if route is not None:
            self._spawn(self._control.release(pair))

    # Barriers.

    def barrier_answered(self, pair: DomainPair, token: str) -> bool:
        """The local server answered a ping, on whichever worker's stream it chose.

        False: no worker of ours can have sent it, so the answer is for somebody else.
        """
        if self.router.barrier_answered(pair, token):
            return True
        asker = token.partition(".")[0]
        for worker in self._control.live_workers():
            if worker != self._control.worker_id and barrier_tag(worker) == asker:
                self._spawn(self._tell_sibling(worker, pair, token))
                return True
        return False

    async def _tell_sibling(self, worker: str, pair: DomainPair, token: str) -> None:
        try:
            await self._siblings.send_message(worker, {"barrier": token, "pair": list(pair)})
        except SiblingUnavailable:
            log.debug("worker %s did not hear of a barrier", worker)

    def _on_message(self, message: dict[str, Any]) -> None:
        match message:
            case {"barrier": str(token), "pair": [str(local), str(remote)]}:
                self.router.barrier_answered(DomainPair(local, remote), token)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("a local stream failed inside", exc_info=exc)


def hang_up(sock: socket.socket) -> None:
    """Close a stream that was only peeked at: with FIN, which unread bytes would make a reset."""
    with contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.recv(65536)
    sock.close()
