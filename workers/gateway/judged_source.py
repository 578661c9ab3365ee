"""Who a remote server is that opened a session to us: certificates and dialback keys."""

import logging
from typing import TYPE_CHECKING

from coordinator.config import Remote
from coordinator.routes import DomainPair
from workers.gateway import expiry
from workers.gateway.addresses import network_of
from workers.gateway.identity import CertificateRejected
from workers.gateway.inbound import InboundSource
from workers.gateway.judge import Proof
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp.dialback import is_our_key
from workers.xmpp.errors import StreamCondition
from workers.xmpp.events import DialbackKeyReceived, StreamOpened, VerifyRequested
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.state import State

if TYPE_CHECKING:
    from workers.gateway.public_listener import PublicListener

log = logging.getLogger(__name__)

# Keys that one stream may have us look after at the same time, before and after it has proved one
# domain.
MAX_STRANGERS_QUESTIONS = 4
MAX_QUESTIONS = 16
_WITH_CERTIFICATE = {"external", "dialback-with-cert"}


class JudgedSource(InboundSource):
    """Decides what its peer may use as proof, and looks after the keys that come."""

    __slots__ = (
        "_listener",
        "_proved_until",
        "pairs",
        "session",
    )

    session: WebSocketSession

    def __init__(self, listener: "PublicListener") -> None:
        super().__init__(listener.router)
        self.pairs: dict[DomainPair, str] = {}
        """Authenticated pairs and how each was proved."""
        self._listener = listener
        self._proved_until: float | None = None
        """How long the certificate is good that proved the domain which opened the stream."""

    @property
    def _stream(self) -> ReceivingStream:
        assert isinstance(self.session.stream, ReceivingStream)
        return self.session.stream

    async def _judge(self, event: StreamOpened) -> None:
        """Decide what the peer may use: EXTERNAL only if its certificate proves the domain."""
        policy = self._listener.config.remote_for(event.sender)
        stream = self._stream
        if policy.block:
            if event.sender not in self._listener.config.remote:
                self.session.reason = (
                    f"refused: {event.sender} is not declared under [remote], and local.attach is "
                    "component: declare it, and add it to the server (`fedgate attach`)"
                )
            stream.fail(StreamCondition.POLICY_VIOLATION, "this domain is not served")
            self.session.pump()
            return
        if self._is_one_too_many():
            self.session.pump()
            return
        proof, reason = await self._prove(event.sender)
        if stream.state is not State.DECIDING:
            return
        self._proved_until = proof.not_after if proof is not None else None
        external, dialback = _ways(policy, proof)
        reason = "" if external else reason or "EXTERNAL is not accepted from this domain"
        if external or dialback:
            stream.offer(external=external, dialback=dialback, reason=reason)
        else:
            stream.fail(StreamCondition.NOT_AUTHORIZED, reason)
        if reason:
            log.info("%s may not use EXTERNAL: %s", event.sender, reason)
        self.session.pump()

    def _is_one_too_many(self) -> bool:
        """The domain has all sessions that it may have; then the stream has failed."""
        domain = self._stream.sender
        if not self._listener.has_too_many(domain):
            return False
        self._listener.refusals.note("sessions-of-domain", domain, "refused one more")
        self._stream.fail(StreamCondition.RESOURCE_CONSTRAINT, "too many sessions of this domain")
        return True

    async def _prove(self, domain: str) -> tuple[Proof | None, str]:
        """What its certificate proves the domain by, or why it does not (XEP-0178 §3 (9))."""
        if not _WITH_CERTIFICATE & set(self._listener.config.remote_for(domain).auth):
            return None, ""  # nobody asks for one
        try:
            chain = self.session.peer_chain()
            proof = await self._listener.judge.ask(chain, domain, asker=self._asker)
        except CertificateRejected as exc:
            return None, exc.reason
        if proof.by != "PKIX":
            log.info("the certificate of %s is good by %s", domain, proof.by)
        return proof, ""

    def note_external(self) -> None:
        """The peer has used the certificate that was judged when it opened the stream."""
        if self._proved_until is not None:
            self._rely_on(self._proved_until)

    def _rely_on(self, not_after: float) -> None:
        """A pair is authenticated no longer than what proved it is good."""
        expiry.end_by(self.session, not_after)

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
        address = self.session.websocket.peer_address
        if self._listener.proxies.trusts(address):
            return self._stream.sender  # all have the proxy's address
        return network_of(address)

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
        # The stream may have been opened by a domain of which less is asked.
        policy = self._listener.config.remote_for(event.sender)
        outcome, error, by = "error", "policy-violation", "dialback"
        proof = None if policy.block else (await self._prove(event.sender))[0]
        external, dialback = _ways(policy, proof)
        if policy.block:
            pass
        elif external:
            outcome, by = "valid", "certificate"  # XEP-0344 §2.4: it proves more than a key
        elif dialback:
            outcome, error = await self.router.verifier.ask_remote(
                pair, id=self._stream.id, key=event.key, asker=self._asker
            )
        elif policy.dialback:
            error = "not-authorized"  # XEP-0220 §2.5: a certificate is asked for
        if proof is not None and outcome == "valid":
            self._rely_on(proof.not_after)
        self._stream.answer_dialback(
            sender=event.sender, target=event.target, outcome=outcome, error=error, by=by
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


def _ways(policy: Remote, proof: Proof | None) -> tuple[bool, bool]:
    """Whether EXTERNAL and whether dialback is accepted."""
    auth = policy.auth
    external = proof is not None and "external" in auth
    dialback = "dialback" in auth or (proof is not None and "dialback-with-cert" in auth)
    return external, dialback
