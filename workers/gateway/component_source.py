"""A connected component stream: a source of stanzas, and the session of several hops.

What local users send to the remote domain comes in here and is journaled, as the server cannot send
it again. What the remote domain sends goes out by the same stream: each hop has a `Lane` of it. The
barrier of a hop, an XEP-0199 ping, is answered on this very stream, in order.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any

from coordinator.routes import DomainPair
from workers.gateway.asking import BARRIER, BARRIER_TIMEOUT
from workers.gateway.failure import HopFailed
from workers.gateway.hop import Hop
from workers.gateway.local_source import BOUNCING_TIME
from workers.gateway.replies import Failed
from workers.gateway.router import Router
from workers.gateway.session import Session, SessionOwner
from workers.gateway.source import SETTLE_TIMEOUT, Source
from workers.gateway.tcp_session import TcpSession
from workers.xmpp import elements
from workers.xmpp.events import Event, StanzaRefused, StanzasReceived, StreamClosed
from workers.xmpp.stanza import Stanza

log = logging.getLogger(__name__)

# While a full hop holds us back, one read is taken so often (in seconds): answers to barriers come
# by this stream, and two gateways that wait for each other's would wait for ever.
SIP_INTERVAL = 0.1
# How much longer an answer may take that stands behind what we do not read.
_PATIENCE_WHEN_HELD = 6
# Ids of pings that only ask whether the server is still there begin with this.
ALIVE = "fedgate-alive-"
# How often a closing source looks whether its hops are done, in seconds.
_LOOK_INTERVAL = 0.05
_sender_domain = attrgetter("sender_domain")


class Lane(Session):
    """One hop's share of a component's session: the stream is common, its end is told to all."""

    def __init__(self, source: "ComponentSource", owner: SessionOwner) -> None:
        session = source.session
        super().__init__(session.stream, owner)
        self.channel = session.channel
        self.opened_at = session.opened_at
        self._source = source

    def write(self) -> None:
        self._source.session.write()

    def pump(self) -> None:
        self._source.session.pump()

    def close(self, see_other_uri: str | None = None) -> None:
        """Let go of the stream, which others use, too; of all of it only if pings go unanswered.

        While the hop still waits for an answer nothing happens: it asks again.
        """
        if self.ended:
            return
        if not self._waits():
            self._loop.call_soon(self.leave, "not needed any more")
        elif self._is_overdue():
            log.warning(
                "the local server does not answer pings from %s: the component reconnects, "
                "as the end of the stream tells that all was taken",
                self.stream.sender,
            )
            self._source.end()

    def abort(self, reason: str) -> None:
        """The hop gives up; the stream goes on."""
        self._loop.call_soon(self.leave, reason)

    def leave(self, reason: str) -> None:
        """Exactly once tell the hop that its session is over."""
        if self.ended:
            return
        self.ended = True
        self.reason = self.reason or reason
        self._source.lanes.discard(self)
        self._note_end()
        self.owner.on_closed(self, self.reason)

    def describe(self) -> dict[str, Any]:
        return self._source.session.describe()

    def _waits(self) -> bool:
        return isinstance(self.owner, Hop) and bool(self.owner.outbox)

    def _is_overdue(self) -> bool:
        if not isinstance(self.owner, Hop):
            return False
        held = _PATIENCE_WHEN_HELD if self._source.is_held else 1
        return self.owner.outbox.is_overdue(self._loop.time(), held * BARRIER_TIMEOUT)


class ComponentSource(Source):
    """Takes what local users send to one remote domain and gives it to the hops of its pairs."""

    session: TcpSession

    def __init__(
        self, router: Router, remote: str, on_ended: Callable[["ComponentSource", str], None]
    ) -> None:
        super().__init__(router, "out")
        self.remote = remote
        self.lanes: set[Lane] = set()
        self.is_held = False
        """A next hop is full."""
        self._loop = asyncio.get_running_loop()
        self._on_ended = on_ended
        self._hops: dict[DomainPair, Hop] = {}
        self._failures: dict[DomainPair, tuple[float, HopFailed]] = {}
        self._refused: set[str] = set()
        self._sip_timer: asyncio.TimerHandle | None = None
        self._alive_timer: asyncio.TimerHandle | None = None
        self._alive_id = ""
        """Of the ping that waits for its answer."""
        self._is_heard = False
        """Something came since the last look."""
        self.writable = asyncio.Event()
        self.writable.set()

    def attach(self, session: TcpSession) -> None:
        self.session = self._session = session

    def keep_alive(self, interval: float) -> None:
        """Ask a server that is silent for `interval` seconds; without an answer cut the stream.

        A machine that vanished says nothing, and while we believe in the stream nobody reconnects.
        """
        if self._session.ended:
            return
        if self._is_heard or self.is_held:
            self._alive_id = ""
        elif self._alive_id:
            self._session.abort(f"no answer to a ping for {interval:g} s")
            return
        else:
            self._alive_id = f"{ALIVE}{secrets.token_hex(8)}"
            ping = elements.ping(self.remote, self.pair.local, self._alive_id)
            self._session.stream.send_element(ping)
            self._session.write()
        self._is_heard = False
        self._alive_timer = self._loop.call_later(interval, self.keep_alive, interval)

    @property
    def pair(self) -> DomainPair:
        """The first of its pairs, where one has to stand for all."""
        return DomainPair(min(self.session.stream.pairs, default=("", ""))[0], self.remote)

    def describe(self) -> dict[str, Any]:
        stream = self.session.stream
        return {
            "domain_pairs": [[local, remote] for local, remote in sorted(stream.pairs)],
            "direction": "local",
            "authenticated_by": "component",
            "unacknowledged": self.origin.in_flight,
            **self.session.describe(),
        }

    def outbound_failed(self, pair: DomainPair, reason: str) -> None:
        """The remote domain cannot be reached: for a while nobody tries again (§10.4.3)."""
        hop = self._hops.get(pair)
        failure = (hop and hop.failure) or HopFailed(reason, resolved=True)
        self._failures[pair] = self._loop.time() + BOUNCING_TIME, failure

    # Pace and end.

    def pause(self) -> None:
        """The next hop is full: let TCP hold the server back, but for a sip now and then."""
        self.is_held = True
        self._session.pause_reading()
        if self._sip_timer is None:
            self._sip_timer = self._loop.call_later(SIP_INTERVAL, self._sip)

    def resume(self) -> None:
        self.is_held = False
        self._session.resume_reading()

    def close(self, see_other_uri: str | None = None) -> None:
        """End the stream in order, once the hops that use it are done; for a draining worker."""
        if not self._closing:
            self._closing = True
            self._spawn(self._close_when_settled())

    def end(self) -> None:
        """End the stream in order now: what was sent is acknowledged by the server's own end."""
        self.resume()
        self._session.close()

    async def _close_when_settled(self) -> None:
        deadline = self._loop.time() + SETTLE_TIMEOUT
        # Twice in a row: between two messages of a remote server a hop is done for a moment.
        calm = 0
        while calm < 2 and self._loop.time() < deadline:
            calm = 0 if any(hop.outbox for hop in self._local_hops()) else calm + 1
            await asyncio.sleep(_LOOK_INTERVAL)
        self.end()

    def _local_hops(self) -> list[Hop]:
        return [lane.owner for lane in self.lanes if isinstance(lane.owner, Hop)]

    def _sip(self) -> None:
        self._sip_timer = None
        if self.is_held and not self._session.ended:
            self._session.resume_reading()
            self._sip_timer = self._loop.call_later(SIP_INTERVAL, self._sip)

    def _on_handled(self, count: int) -> None:
        self._session.mark_handled(count)

    # What the session calls.

    def on_event(self, session: Session, event: Event) -> None:
        self._is_heard = True
        if type(event) is StanzasReceived:
            self._on_stanzas(event.stanzas)
            if self.is_held:
                session.pause_reading()
        elif isinstance(event, StanzaRefused):
            self._on_refused(event)
        elif isinstance(event, StreamClosed):
            for lane in list(self.lanes):
                lane.owner.on_event(lane, event)

    def on_write_paused(self, session: Session) -> None:
        self.writable.clear()
        for lane in list(self.lanes):
            lane.owner.on_write_paused(lane)

    def on_write_resumed(self, session: Session) -> None:
        self.writable.set()
        for lane in list(self.lanes):
            lane.owner.on_write_resumed(lane)

    def on_closed(self, session: Session, reason: str) -> None:
        super().on_closed(session, reason)
        for timer in (self._sip_timer, self._alive_timer):
            if timer is not None:
                timer.cancel()
        for hop in self._hops.values():
            hop.leave()
        self._hops.clear()
        self.writable.set()
        for lane in list(self.lanes):
            lane.leave(reason)
        self._on_ended(self, reason)

    # Stanzas.

    def _on_stanzas(self, stanzas: list[Stanza]) -> None:
        stanzas = self._without_barriers(stanzas)
        for local, run in groupby(stanzas, key=_sender_domain):
            pair = DomainPair(local, self.remote)
            forward = partial(self._forward, pair)
            self.admit(pair, list(run), forward, partial(self.router.to_local, pair))

    def _forward(self, pair: DomainPair, stanzas: list[Stanza]) -> None:
        now = self._loop.time()
        batch = self.origin.accept(stanzas, now)
        until, failure = self._failures.get(pair, (0.0, None))
        if failure is not None and now < until:
            failed = [Failed(stanza, batch) for stanza in stanzas]
            way_back = partial(self.router.to_local, pair)
            self.router.bounce(failed, failure.condition, failure.reason, way_back)
            return
        hop = self.router.to_remote(pair)
        known = self._hops.get(pair)
        if hop is not known:
            self._hops[pair] = self._use(known, hop)
        hop.send(batch, self)

    def _on_refused(self, event: StanzaRefused) -> None:
        stanza = event.stanza
        if self._is_answer(stanza):  # an error went to a domain of the server that we do not serve
            self._on_handled(1)
            return
        if stanza.target_domain != self.remote:
            self._warn_once(
                f"the stream of component {self.remote} brings stanzas for {stanza.target_domain}, "
                "which are returned: set global_routes: false in ejabberd's listener",
                stanza.target_domain,
            )
        elif stanza.sender_domain not in {local for local, _ in self.session.stream.pairs}:
            self._warn_once(
                f"{stanza.sender_domain} sends to {self.remote} and is not served: "
                "add it to gateway.domains",
                stanza.sender_domain,
            )
        pair = DomainPair(stanza.sender_domain, stanza.target_domain)
        self.bounce_refused(event, partial(self.router.to_local, pair))

    def _warn_once(self, text: str, domain: str) -> None:
        if domain not in self._refused and len(self._refused) < 100:
            self._refused.add(domain)
            log.warning("%s", text)

    def _without_barriers(self, stanzas: list[Stanza]) -> list[Stanza]:
        """Take out the answers to our own pings."""
        others = [
            stanza for stanza in stanzas if stanza.name != "iq" or not self._is_answer(stanza)
        ]
        if len(others) < len(stanzas):
            self._on_handled(len(stanzas) - len(others))
        return others

    def _is_answer(self, stanza: Stanza) -> bool:
        if stanza.name != "iq" or stanza.type not in ("result", "error"):
            return False
        id = stanza.id or ""
        if id.startswith(ALIVE):
            return id == self._alive_id
        pair = DomainPair(stanza.sender_domain, self.remote)
        return id.startswith(BARRIER) and self.router.barrier_answered(
            pair, id.removeprefix(BARRIER)
        )
