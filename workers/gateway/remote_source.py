"""A wss session that a remote server opened to us (XEP-0468): judged, then routed."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from coordinator.lost_sessions import LostSession
from coordinator.routes import DomainPair
from workers.gateway.bell import Bell
from workers.gateway.hop import Hop
from workers.gateway.judged_source import JudgedSource
from workers.gateway.session import Session
from workers.gateway.websocket_accept import AcceptedWebSocket
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp.errors import StreamCondition
from workers.xmpp.events import (
    AckRequested,
    Authenticated,
    DialbackKeyReceived,
    Event,
    ManagementEnabled,
    ResumptionRequested,
    StanzaRefused,
    StanzasReceived,
    StreamEstablished,
    StreamFailed,
    StreamOpened,
    VerifyRequested,
)
from workers.xmpp.management import Suspended
from workers.xmpp.stream import State

if TYPE_CHECKING:
    from workers.gateway.public_listener import PublicListener

log = logging.getLogger(__name__)

# How long a session that may go both ways waits for acknowledgements to be agreed on, in seconds.
ENABLE_TIMEOUT = 1.0


class RemoteSource(JudgedSource):
    """Takes a remote server's stanzas, of one or more pairs, and gives them to local hops.

    When its connection is lost it may stay for a while: another session may go on with it.
    """

    __slots__ = (
        "_changed",
        "_is_over",
        "_is_uncertain",
        "_suspended",
        "way_back",
    )

    def __init__(self, listener: "PublicListener") -> None:
        super().__init__(listener)
        self.way_back: Hop | None = None
        """The hop that sends on this session, too (XEP-0288)."""
        self._suspended: Suspended | None = None
        self._is_over = False
        self._is_uncertain = False
        """What comes may be a second copy: a dead worker had the session before us."""
        self._changed = Bell()
        """The session was resumed or is over, or acknowledgements were agreed on."""

    def attach(self, session: WebSocketSession) -> None:
        self.session = self._session = session

    def describe(self) -> dict[str, Any]:
        shown = {
            "domain_pairs": [list(pair) for pair in self.pairs],
            "direction": "inbound",
            "authenticated_by": ", ".join(sorted(set(self.pairs.values()))),
            "unacknowledged": self.origin.in_flight,
            "bidirectional": self.session.stream.bidirectional,
            **self.session.describe(),
        }
        return shown if self._suspended is None else {**shown, "state": "suspended"}

    # What the session calls.

    def on_event(self, session: Session, event: Event) -> None:
        if type(event) is StanzasReceived:
            if self._is_uncertain:
                self.take_uncertain(event)
            else:
                self.take(event, next(iter(self.pairs)) if len(self.pairs) == 1 else None)
        elif isinstance(event, AckRequested):
            self._is_uncertain = False  # peers ask at the end of what they send again
        elif isinstance(event, StanzaRefused):
            self.refuse(event)
        elif isinstance(event, StreamOpened):
            self._spawn(self._judge(event))
        elif isinstance(event, Authenticated):
            self._on_authenticated(event)
        elif isinstance(event, StreamEstablished):
            if session.stream.bidirectional:
                self._spawn(self._offer_way_back())
        elif isinstance(event, ManagementEnabled):
            self._changed.ring()
        elif isinstance(event, ResumptionRequested):
            self._listener.resumptions.spawn(self._resume(event))
        elif isinstance(event, DialbackKeyReceived):
            self._on_key(event)
        elif isinstance(event, VerifyRequested):
            self._on_verify_requested(event)
        elif isinstance(event, StreamFailed):
            self._on_failed(event)
        elif self.way_back is not None:
            self.way_back.on_event(session, event)

    def on_write_paused(self, session: Session) -> None:
        if self.way_back is not None:
            self.way_back.on_write_paused(session)

    def on_write_resumed(self, session: Session) -> None:
        if self.way_back is not None:
            self.way_back.on_write_resumed(session)

    def on_pong(self, session: Session, payload: bytes) -> None:
        if self.way_back is not None:
            self.way_back.on_pong(session, payload)

    def on_closed(self, session: Session, reason: str) -> None:
        if session is not self.session:
            return  # resumed already
        stream = session.stream
        if self._suspended is None and not self._closing:
            self._suspended = stream.suspended()
            if self._suspended is not None:
                self._listener.resumptions.keep(self._suspended)
        if self._suspended is not None and not self._closing and not self._is_over:
            log.info("session from %s is lost: %s; it may be resumed", stream.sender, reason)
        else:
            self.let_go(reason)
        if self.way_back is not None:
            self.way_back.on_closed(session, reason)

    def _on_authenticated(self, event: Authenticated) -> None:
        pair = DomainPair(event.target, event.sender)
        websocket = self.session.websocket
        if not self.pairs:
            if self._is_one_too_many():
                return  # others of the domain were judged at the same time, and came first
            websocket.meter = self.router.allowances.of(event.sender)
            self.session.note_names()  # it may have come back too early
            self._listener.source_authenticated(self, self._stream.sender)
        self.pairs[pair] = event.by
        if event.by == "external":
            self.note_external()
        if isinstance(websocket, AcceptedWebSocket):
            websocket.admitted(2 * self._listener.config.limits.stanza_bytes)
        log.info("%s authenticated to %s by %s", event.sender, event.target, event.by)

    def _on_failed(self, event: StreamFailed) -> None:
        if event.condition is StreamCondition.CONNECTION_TIMEOUT and not event.by_peer:
            self._listener.refusals.note("slow", self._asker, "no authentication in time")
        if self.way_back is not None:
            self.way_back.on_event(self.session, event)

    def _on_handled(self, count: int) -> None:
        super()._on_handled(count)
        if kept := self.session.stream.resumption_id:
            self._listener.resumptions.note_progress(kept)

    # Lost, resumed or over.

    def new_resumption_id(self) -> str:
        return self._listener.resumptions.new_id(self)

    @property
    def state(self) -> LostSession | None:
        """What a successor must know if this worker dies."""
        half = self._suspended or self._stream.suspended()
        if half is None:
            return None
        return LostSession(
            half.target, half.sender, half.received.h, half.seconds, half.bidirectional
        )

    @property
    def is_lost(self) -> bool:
        """The connection is gone, and another session may go on with it."""
        return self._suspended is not None

    @property
    def held_bytes(self) -> int:
        """What waits to be sent on this session."""
        if self.way_back is None:
            return 0
        outbox = self.way_back.outbox
        return outbox.waiting_bytes + outbox.unacknowledged_bytes

    def close(self, see_other_uri: str | None = None) -> None:
        if self._suspended is not None:
            self._closing = True
            self.let_go("closed while it was lost")
        else:
            super().close(see_other_uri)

    def suspend(self, reason: str) -> Suspended | None:
        """What another session may go on with; if this one still seems to live it ends here."""
        if self._suspended is None and not self._closing:
            session = self.session
            self._suspended = self._stream.give_way()
            if self._suspended is not None:
                session.pump()
                if self.way_back is not None:
                    self.way_back.on_closed(session, reason)
        return self._suspended

    def let_go(self, reason: str) -> None:
        """Nobody goes on with this session."""
        if self._is_over:
            return
        self._is_over = True
        if self._suspended is not None:
            self._listener.resumptions.forget(self._suspended.id)
        elif kept := self._stream.resumption_id:
            self._listener.resumptions.forget(kept)
        self.end()
        self._changed.ring()
        stream = self.session.stream
        log.info("session from %s to %s ended: %s", stream.sender or "?", stream.target, reason)
        self._listener.source_ended(self, reason)

    def succeeded_elsewhere(self, *, is_exact: bool) -> None:
        """Another worker goes on with it; `is_exact`: the remote has told what it has of ours."""
        if is_exact and self.way_back is not None:
            self.way_back.resumed_elsewhere()
        self.let_go("another worker goes on with it")

    async def next_session(self, patience: float) -> Session | None:
        """The session, or what resumes it within `patience` seconds; None if nothing does."""
        try:
            async with asyncio.timeout(patience):
                while self._suspended is not None and not self._is_over:
                    await self._changed.wait()
        except TimeoutError:
            return None
        return None if self._is_over else self.session

    async def _resume(self, event: ResumptionRequested) -> None:
        """The peer goes on with another session: ours becomes part of that one."""
        async with self._listener.resumptions.alone(event.id):
            if self._stream.state is State.RESUMING:  # not lost again while it waited
                await self._resume_alone(event)
        self.session.pump()

    async def _resume_alone(self, event: ResumptionRequested) -> None:
        stream = self._stream
        ours = DomainPair(stream.target, stream.sender)
        found = await self._listener.resumptions.find(event.id, event.h, ours)
        if found.suspended is None:
            log.info("%s → %s: there is nothing to resume", ours.remote, ours.local)
            stream.refuse_resumption(h=found.h)
            return
        stream.accept_resumption(found.suspended, event.h)
        if stream.resumed:
            self._is_uncertain = not found.is_exact
            (found.source or self)._go_on_with(self, found.suspended.id)
        else:
            (found.source or self._heir())._stay_suspended(found.suspended)

    def _heir(self) -> "RemoteSource":
        """A source for a session of another worker's that was lost again while it came to us."""
        heir = RemoteSource(self._listener)
        heir.attach(self.session)
        heir.pairs = dict(self.pairs)
        self._listener.sources.add(heir)
        self._listener.source_authenticated(heir, self._stream.sender)
        return heir

    def _stay_suspended(self, suspended: Suspended) -> None:
        self._suspended = suspended
        self._listener.resumptions.put_back(suspended.id, self)
        self._listener.resumptions.keep(suspended)

    def _go_on_with(self, successor: "RemoteSource", id: str) -> None:
        session = successor.session
        if successor is not self:
            self.go_on(session)
            self.session = session
            session.owner = self
            successor.retire()
        self._suspended = None
        self._listener.resumptions.put_back(id, self)
        if self.way_back is None:
            # Whatever was sent on the lost session has another way by now.
            session.stream.sent.total = session.stream.sent.acknowledged
        self._changed.ring()
        log.info("session from %s to %s is resumed", session.stream.sender, session.stream.target)

    def retire(self) -> None:
        """Our session belongs to the source whose session it resumes."""
        self._is_over = True
        self.origin.lose()
        self._changed.ring()
        self._listener.forget(self)

    # The way back.

    async def _offer_way_back(self) -> None:
        """Let the pair's stanzas go out on this session if no other worker has the pair.

        Acknowledgements should be agreed on first; servers ask for them at once, or never.
        """
        stream = self._stream
        pair = DomainPair(stream.target, stream.sender)
        if self.pairs.get(pair) == "external":
            try:
                async with asyncio.timeout(ENABLE_TIMEOUT):
                    while not stream.received.enabled and not self._is_over:
                        await self._changed.wait()
            except TimeoutError:
                pass
        if self._is_over or stream.resumed or not await self._listener.acquire(pair):
            return
        if stream.state is State.ESTABLISHED and not self._closing:
            if self.router.adopt(pair, self) is not None:
                self._listener.way_back_opened(self)
                log.info("%s → %s goes back on the session it opened", *pair)
                return
        self._listener.release(pair)
