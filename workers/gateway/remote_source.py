"""A wss session that a remote server opened to us (XEP-0468): judged, then routed."""

import logging
import time
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from coordinator.routes import DomainPair
from workers.gateway.addresses import network_of
from workers.gateway.hop import Hop
from workers.gateway.identity import CertificateRejected, TrustProblem, verify_chain
from workers.gateway.session import Session, WebSocketSession
from workers.gateway.source import Source
from workers.gateway.websocket_handshake import AcceptedWebSocket
from workers.xmpp.dialback import is_our_key
from workers.xmpp.errors import StreamCondition
from workers.xmpp.events import (
    Authenticated,
    DialbackKeyReceived,
    Event,
    StanzaRefused,
    StanzasReceived,
    StreamOpened,
    VerifyRequested,
)
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stanza import Stanza
from workers.xmpp.stream import State

if TYPE_CHECKING:
    from workers.gateway.public_listener import PublicListener

log = logging.getLogger(__name__)

# Keys that one stream may have us look after at the same time, before and after it has proved one
# domain.
MAX_STRANGERS_QUESTIONS = 4
MAX_QUESTIONS = 16


class RemoteSource(Source):
    """Takes a remote server's stanzas, of one or more pairs, and gives them to local hops."""

    session: WebSocketSession

    def __init__(self, listener: "PublicListener") -> None:
        super().__init__(listener.router, "in")
        self.pairs: dict[DomainPair, str] = {}
        """Authenticated pairs and how each was proved."""
        self._listener = listener
        self._hops: dict[DomainPair, Hop] = {}

    def attach(self, session: WebSocketSession) -> None:
        self.session = self._session = session

    def describe(self) -> dict[str, Any]:
        return {
            "domain_pairs": [list(pair) for pair in self.pairs],
            "direction": "inbound",
            "authenticated_by": ", ".join(sorted(set(self.pairs.values()))),
            "unacknowledged": self.origin.in_flight,
            **self.session.describe(),
        }

    # What the session calls.

    def on_event(self, session: Session, event: Event) -> None:
        if type(event) is StanzasReceived:
            self._on_stanzas(event)
        elif isinstance(event, StanzaRefused):
            pair = DomainPair(*_pair_of(event.stanza))
            self.bounce_refused(event, lambda: self.router.to_remote(pair))
        elif isinstance(event, StreamOpened):
            self._spawn(self._judge(event))
        elif isinstance(event, Authenticated):
            pair = DomainPair(event.target, event.sender)
            self.pairs[pair] = event.by
            websocket = self.session.websocket
            if isinstance(websocket, AcceptedWebSocket):
                websocket.admitted(2 * self._listener.config.limits.stanza_bytes)
            log.info("%s authenticated to %s by %s", event.sender, event.target, event.by)
        elif isinstance(event, DialbackKeyReceived):
            self._on_key(event)
        elif isinstance(event, VerifyRequested):
            self._on_verify_requested(event)

    def on_closed(self, session: Session, reason: str) -> None:
        super().on_closed(session, reason)
        for hop in self._hops.values():
            hop.leave()
        self._hops.clear()
        stream = session.stream
        log.info("session from %s to %s ended: %s", stream.sender or "?", stream.target, reason)
        self._listener.source_ended(self, reason)

    # Stanzas.

    def _on_stanzas(self, event: StanzasReceived) -> None:
        stanzas = event.stanzas
        self.origin.resendable = event.resendable
        if len(self.pairs) == 1:  # the common case: no need to look at each stanza
            self._forward(next(iter(self.pairs)), stanzas)
            return
        for (local, remote), run in groupby(stanzas, key=_pair_of):
            self._forward(DomainPair(local, remote), list(run))

    def _forward(self, pair: DomainPair, stanzas: list[Stanza]) -> None:
        if self.origin.resendable and not self.router.requests.is_suspicious(pair):
            self._send(pair, stanzas)
        else:
            way_back = partial(self.router.to_remote, pair)
            self.admit(pair, stanzas, partial(self._send, pair), way_back)

    def _send(self, pair: DomainPair, stanzas: list[Stanza]) -> None:
        hop = self.router.to_local(pair)
        known = self._hops.get(pair)
        if hop is not known:
            self._hops[pair] = self._use(known, hop)
        hop.send(self.origin.accept(stanzas), self)

    # Identity.

    @property
    def _stream(self) -> ReceivingStream:
        assert isinstance(self.session.stream, ReceivingStream)
        return self.session.stream

    async def _judge(self, event: StreamOpened) -> None:
        """Decide what the peer may use: EXTERNAL only if its certificate proves the domain."""
        policy = self._listener.config.remote_for(event.sender)
        stream = self._stream
        if policy.block:
            stream.fail(StreamCondition.POLICY_VIOLATION, "this domain is not served")
            self.session.pump()
            return
        reason = await self._why_no_external(event.sender)
        if stream.state is not State.DECIDING:
            return
        dialback = "dialback" in policy.auth
        if reason and not dialback:
            stream.fail(StreamCondition.NOT_AUTHORIZED, reason)
        else:
            stream.offer(external=not reason, dialback=dialback, reason=reason)
        if reason:
            log.info("%s may not use EXTERNAL: %s", event.sender, reason)
        self.session.pump()

    async def _why_no_external(self, domain: str) -> str:
        """XEP-0178 §3 (9): the reason not to offer EXTERNAL, "" if its certificate is good."""
        listener = self._listener
        if "external" not in listener.config.remote_for(domain).auth:
            return "EXTERNAL is not accepted from this domain"
        try:
            trust = listener.authorities.for_domain(domain)
            names = verify_chain(self.session.peer_chain(), trust, time.time())
        except CertificateRejected as exc:
            return exc.reason
        except TrustProblem as exc:
            log.error("%s", exc)
            return "certificates cannot be verified at the moment"
        if names.covers(domain):
            return ""
        # Only now may a stranger make us fetch: its certificate is genuine.
        hosts = await listener.discovery.learn_delegated_hosts(domain)
        if names.covers(domain, hosts):
            return ""
        return f"the certificate is for {names}, not for {domain}"

    def _why_no_question(self, sender: str, target: str) -> str:
        """The stanza condition with which to refuse to look after a key, "" to do it.

        A stranger may only speak of what its stream header names.
        """
        if not self.pairs and (sender, target) != (self._stream.sender, self._stream.target):
            return "not-authorized"
        most = MAX_QUESTIONS if self.pairs else MAX_STRANGERS_QUESTIONS
        return "resource-constraint" if len(self._tasks) >= most else ""

    @property
    def _asker(self) -> str:
        """For whom we ask others about keys."""
        if self._listener.config.websocket.trusted_proxies:
            return self._stream.sender  # all have the proxy's address
        peer = self.session.channel.peername
        return network_of(peer[0]) if isinstance(peer, tuple) else "?"

    def _on_key(self, event: DialbackKeyReceived) -> None:
        refusal = self._why_no_question(event.sender, event.target)
        if not refusal:
            self._spawn(self._verify_key(event))
            return
        self._stream.answer_dialback(
            sender=event.sender, target=event.target, outcome="error", error=refusal
        )

    async def _verify_key(self, event: DialbackKeyReceived) -> None:
        pair = DomainPair(event.target, event.sender)
        policy = self._listener.config.remote_for(event.sender)
        outcome, error = "error", "policy-violation"
        # The stream may have been opened by a domain of which less is asked.
        if not policy.block and "dialback" in policy.auth:
            outcome, error = await self.router.verifier.ask_remote(
                pair, id=self._stream.id, key=event.key, asker=self._asker
            )
        self._stream.answer_dialback(
            sender=event.sender, target=event.target, outcome=outcome, error=error
        )
        self.session.pump()

    def _on_verify_requested(self, event: VerifyRequested) -> None:
        refusal = self._why_no_question(event.sender, event.target)
        if not refusal:
            self._spawn(self._answer_verify(event))
        else:
            self._stream.answer_verify(
                sender=event.sender,
                target=event.target,
                id=event.id,
                outcome="error",
                error=refusal,
            )

    async def _answer_verify(self, event: VerifyRequested) -> None:
        """A key made by us is known at once; any other may be the local server's own."""
        outcome, error = "error", "item-not-found"
        if event.target in self._stream.config.hosts:
            if is_our_key(
                event.key,
                self._stream.config.dialback_secret,
                receiving=event.sender,
                originating=event.target,
                stream_id=event.id,
            ):
                outcome = "valid"
            else:
                pair = DomainPair(event.target, event.sender)
                outcome, error = await self.router.verifier.ask_local(
                    pair, id=event.id, key=event.key, asker=self._asker
                )
        self._stream.answer_verify(
            sender=event.sender,
            target=event.target,
            id=event.id,
            outcome=outcome,
            error=error if outcome == "error" else "",
        )
        self.session.pump()


def _pair_of(stanza: Stanza) -> tuple[str, str]:
    return stanza.target_domain, stanza.sender_domain
