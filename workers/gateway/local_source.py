"""A stream that the local server opened to a remote domain: we answer as that domain."""

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from coordinator.routes import DomainPair
from workers.gateway.asking import BARRIER
from workers.gateway.batch import Batch
from workers.gateway.beginning import WAIT_KNOWN, WAIT_UNKNOWN, Beginning, Sign
from workers.gateway.failure import HopFailed
from workers.gateway.hop import Hop
from workers.gateway.replies import Failed
from workers.gateway.requests import Taken
from workers.gateway.session import Session
from workers.gateway.source import Source
from workers.gateway.tcp_session import TcpSession
from workers.xmpp.errors import StreamCondition
from workers.xmpp.events import (
    Authenticated,
    DialbackKeyReceived,
    Event,
    ManagementEnabled,
    StanzaRefused,
    StanzasReceived,
    StreamClosed,
    StreamEstablished,
    StreamOpened,
    VerifyRequested,
)
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stanza import Stanza
from workers.xmpp.stream import State

if TYPE_CHECKING:
    from workers.gateway.local_listener import LocalListener

log = logging.getLogger(__name__)

# How long a stream to an unreachable domain is kept to bounce what comes, in seconds.
BOUNCING_TIME = 5.0


class LocalSource(Source):
    """Takes the local server's stanzas for one domain pair and gives them to the pair's hop.

    With a `failure` the domain cannot be reached: what comes is bounced, then the stream closed.
    """

    session: TcpSession

    def __init__(
        self, listener: "LocalListener", pair: DomainPair, failure: HopFailed | None = None
    ) -> None:
        super().__init__(listener.router, "out")
        self.pair = pair
        self.origin.has_ring = self.origin.repeats_requests = True
        self.origin.on_requests = self._remember
        self.failure = failure
        self.authenticated_by = ""
        self._listener = listener
        self._hop: Hop | None = None
        self._bouncing: asyncio.TimerHandle | None = None
        self._beginning: Beginning | None = None
        self._taken = Taken()
        self._is_clean = False
        self._enabling: asyncio.TimerHandle | None = None
        self._closes_when_open = False

    def attach(self, session: TcpSession) -> None:
        self.session = self._session = session

    def describe(self) -> dict[str, Any]:
        return {
            "domain_pairs": [list(self.pair)],
            "direction": "local",
            "authenticated_by": self.authenticated_by,
            "unacknowledged": self.origin.in_flight,
            **self.session.describe(),
        }

    # What the session calls.

    def on_event(self, session: Session, event: Event) -> None:
        if type(event) is StanzasReceived:
            self._on_stanzas(event)
        elif isinstance(event, StanzaRefused):
            self.bounce_refused(event, self._way_back)
        elif isinstance(event, StreamOpened):
            self._on_opened(event)
        elif isinstance(event, Authenticated):
            self._on_authenticated(event)
        elif isinstance(event, DialbackKeyReceived):
            self._spawn(self._verify_key(event))
        elif isinstance(event, VerifyRequested):
            self._spawn(self._answer_verify(event))
        elif isinstance(event, StreamEstablished):
            self._on_established()
        elif isinstance(event, StreamClosed):
            self._is_clean = event.clean
        elif isinstance(event, ManagementEnabled):
            self._listener.managing[self.pair.local] = True
            self._end_beginning(is_enabled=True)

    def close(self, see_other_uri: str | None = None) -> None:
        if self.authenticated_by and self._stream.state < State.ESTABLISHED:
            # What Prosody sends right behind its new header it will never send again: read it.
            self._closes_when_open = True
            return
        self._end_beginning()
        super().close(see_other_uri)

    def on_closed(self, session: Session, reason: str) -> None:
        self._end_beginning()
        now = self._loop.time()
        left = self._taken.left(self._handled, now, is_clean=self._is_clean)
        if left:
            self.router.requests.remember(self.pair, left, now)
        super().on_closed(session, reason)
        if self._hop is not None:
            self._hop.leave()
            self._hop = None
        if self._bouncing is not None:
            self._bouncing.cancel()
        log.debug("local stream %s → %s ended: %s", *self.pair, reason)
        self._listener.source_ended(self)

    # Inside.

    @property
    def _stream(self) -> ReceivingStream:
        assert isinstance(self.session.stream, ReceivingStream)
        return self.session.stream

    def _on_opened(self, event: StreamOpened) -> None:
        if (event.sender, event.target) != self.pair:  # not what its first header said (peek)
            self._stream.fail(StreamCondition.INVALID_FROM, "from and to may not change")
            return
        reason = self._listener.trust.why_not(self.pair.local, self.session.peer_chain())
        if reason:
            log.warning(
                "a stream as %s to %s does not come from the local server: %s; "
                "if its key was changed run `fedgate attach`",
                *self.pair,
                reason,
            )
        if self._stream.state is not State.DECIDING:
            return  # it closed right behind its header
        # Without its key the local server may still prove itself by a key it knows (XEP-0220).
        self._stream.offer(external=not reason, dialback=bool(reason), reason=reason)

    def _on_authenticated(self, event: Authenticated) -> None:
        self.authenticated_by = event.by
        if self.failure is not None:
            self._bouncing = self._loop.call_later(BOUNCING_TIME, self.close)
        elif self._hop is None:
            self._hop = self._use(None, self.router.to_remote(self.pair))

    def _on_stanzas(self, event: StanzasReceived) -> None:
        stanzas = event.stanzas
        self.origin.resendable = event.resendable
        if not event.resendable:
            stanzas = self._without_barriers(stanzas)
            if not stanzas:
                return
        if self._beginning is not None and not event.resendable:
            for run, sign in self._beginning.cut(stanzas):
                hold = partial(self._hold, sign=sign)
                self.admit(self.pair, run, hold, self._way_back)
        elif not event.resendable or self.pair in self.router.requests.suspicious:
            self.admit(self.pair, stanzas, self._forward, self._way_back)
        else:  # as `_forward`, in line
            self._send(self.origin.accept(stanzas, self._loop.time()))

    def _forward(self, stanzas: list[Stanza]) -> None:
        self._send(self.origin.accept(stanzas, self._loop.time()))

    def _send(self, batch: Batch) -> None:
        if self.failure is not None:
            failed = [Failed(stanza, batch) for stanza in batch.stanzas]
            self.router.bounce(failed, self.failure.condition, self.failure.reason, self._way_back)
            return
        hop = self.router.to_remote(self.pair)
        if hop is not self._hop:
            self._hop = self._use(self._hop, hop)
        hop.send(batch, self)

    # The beginning of a stream.

    def _on_established(self) -> None:
        if self._closes_when_open:
            self._loop.call_soon(self.close)
            return
        manages = self._listener.managing.get(self.pair.local)
        if self.authenticated_by != "external" or manages is False or self.failure is not None:
            return
        self._beginning = Beginning(self.pair.local, self._is_repeat)
        self.session.by_record = True
        wait = WAIT_KNOWN if manages else WAIT_UNKNOWN
        self._enabling = self._loop.call_later(wait, self._on_not_enabled)

    def _on_not_enabled(self) -> None:
        """As long as it does not enable it elsewhere, this server need not be waited for again."""
        if self._stream.state is State.ESTABLISHED:
            self._listener.managing[self.pair.local] = False
        self._end_beginning()

    def _is_repeat(self, stanza: Stanza) -> bool:
        now = self._loop.time()
        return self.router.requests.judge(self.pair, stanza, now) is not None

    def _hold(self, stanzas: list[Stanza], *, sign: Sign) -> None:
        batch = self.origin.accept(stanzas, self._loop.time())
        if self._beginning is None:
            self._send(batch)
        else:
            self._beginning.hold(batch, self.session.writes, sign)

    def _end_beginning(self, *, is_enabled: bool = False) -> None:
        """Send what is held, in order."""
        beginning, self._beginning = self._beginning, None
        self.session.by_record = False
        if self._enabling is not None:
            self._enabling.cancel()
        if beginning is not None:
            for batch in beginning.in_order(is_enabled=is_enabled):
                self._send(batch)

    def _way_back(self) -> Hop:
        return self.router.to_local(self.pair)

    def _remember(self, requests: list[Stanza]) -> None:
        """Prosody may send these again, when it has lost us and not heard what became of them."""
        now = self._loop.time()
        self._taken.add(requests, self.origin.accepted, now)
        self._taken.forget_handled(self._handled, now)

    @property
    def _handled(self) -> int:
        """How many stanzas the local server was told to be handled, from the first on."""
        return self.origin.accepted - self.origin.unreported

    def _without_barriers(self, stanzas: list[Stanza]) -> list[Stanza]:
        """Take out the answers to our own pings (servers without XEP-0198 only)."""
        answers = [
            stanza
            for stanza in stanzas
            if stanza.name == "iq"
            and self._is_barrier(stanza)
            and self._listener.barrier_answered(self.pair, (stanza.id or "").removeprefix(BARRIER))
        ]
        if not answers:
            return stanzas
        self._on_handled(len(answers))
        return [stanza for stanza in stanzas if stanza not in answers]

    def _is_barrier(self, stanza: Stanza) -> bool:
        """Whether an iq is one."""
        return (
            stanza.type in ("result", "error")
            and stanza.recipient == self.pair.remote
            and (stanza.id or "").startswith(BARRIER)
        )

    async def _verify_key(self, event: DialbackKeyReceived) -> None:
        """The local server sent a dialback key: only the server at `local.server` can know it."""
        pair = DomainPair(event.sender, event.target)
        outcome, error = "error", "not-authorized"
        if pair == self.pair:
            outcome, error = await self.router.verifier.ask_local(
                pair, id=self._stream.id, key=event.key, asker=""
            )
        self._stream.answer_dialback(
            sender=event.sender, target=event.target, outcome=outcome, error=error
        )
        self.session.pump()

    async def _answer_verify(self, event: VerifyRequested) -> None:
        """The local server checks a key of the remote domain: only the remote can answer.

        (We never make keys in a remote domain's name: on local legs we use certificates.)
        """
        outcome, error = "error", "not-authorized"
        if (event.sender, event.target) == self.pair:
            outcome, error = await self.router.verifier.ask_remote(
                self.pair, id=event.id, key=event.key, asker=""
            )
        self._stream.answer_verify(
            sender=event.sender, target=event.target, id=event.id, outcome=outcome, error=error
        )
        self.session.pump()
