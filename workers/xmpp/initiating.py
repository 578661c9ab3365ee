"""The initiating server's half of a stream: open, STARTTLS, EXTERNAL or dialback, and taking up
a lost stream again.
"""

from collections.abc import Callable

from lxml import etree

from workers.xmpp import elements, namespaces, sasl
from workers.xmpp.dialback import Outstanding, dialback_key
from workers.xmpp.errors import LocalProtocolError, RemoteProtocolError, StreamCondition
from workers.xmpp.events import (
    Authenticated,
    AuthenticationFailed,
    StreamEstablished,
    TlsStarting,
)
from workers.xmpp.framing import Framing
from workers.xmpp.managed import handled_count, too_high
from workers.xmpp.management import MAX_ID_BYTES, HandledCountTooHigh, Suspended
from workers.xmpp.parser import Element, Nonza, StreamHeader
from workers.xmpp.stream import (
    Handlers,
    Parser,
    ServerStream,
    State,
    StreamConfig,
)


class InitiatingStream(ServerStream):
    """We opened the connection for stanzas from `sender` to `target`.

    Call `open` once the connection is ready. `StreamEstablished` means stanzas may be sent (or,
    with `verify_only`, `send_verify` called); `AuthenticationFailed` or `StreamClosed`: never.
    """

    __slots__ = (
        "_answering_domain",
        "_external_failure",
        "_results",
        "_resume",
        "authenticated_by",
        "covered",
    )

    def __init__(
        self,
        config: StreamConfig,
        framing: Framing,
        parse: Callable[..., list[Element]],
        parser: Parser,
        now: float,
        *,
        sender: str,
        target: str,
        resume: Suspended | None = None,
    ) -> None:
        """`resume`: the lost stream of the same pair to go on with, nothing of it pending.

        Afterwards `resumed` tells whether the peer agreed, and in both cases `covered` how many
        stanzas of the lost stream it has acknowledged now.
        """
        super().__init__(config, framing, parse, parser, now)
        self.sender = sender
        self.target = target
        self.authenticated_by = ""
        self.covered = 0
        self._resume = resume
        self._external_failure = ""
        self._answering_domain = ""
        self._results = Outstanding()

    def open(self) -> None:
        """Send our stream header (RFC 6120 §4.2, RFC 7395 §3.4). Once, else `LocalProtocolError`.

        After STARTTLS and SASL the stream opens itself anew.
        """
        if self.state is not State.START:
            raise LocalProtocolError(f"stream is {self.state.name}")
        self._ensure_header()
        self.state = State.WAIT_HEADER

    def _restart(self) -> None:
        super()._restart()
        self._ensure_header()

    def _ensure_header(self) -> None:
        if not self._header_sent:
            self.outgoing.append(
                self._framing.header(self.sender, self.target, None, response=False)
            )
            self._header_sent = True

    def _on_header(self, header: StreamHeader) -> None:
        self._answering_domain = header.sender or ""
        if header.namespace != self._framing.namespace:
            raise RemoteProtocolError(StreamCondition.INVALID_NAMESPACE)
        self.id = header.id or ""
        self.state = State.NEGOTIATING

    def _check_answer(self) -> None:
        """RFC 6120 §4.7.1: an answer in another domain's name is not the server we wanted.

        Not checked before features: §4.9.1.3 lets a server that does not know our target answer
        in its own name, and the error that follows then says so. Some leave `from` out; the
        certificate or dialback then decides alone.
        """
        if self._answering_domain and elements.peer_domain(self._answering_domain) != self.target:
            raise RemoteProtocolError(StreamCondition.INVALID_FROM, "another domain answered")

    def _on_unexpected(self, element: Nonza) -> None:
        raise RemoteProtocolError(
            StreamCondition.UNSUPPORTED_STANZA_TYPE, f"{element.tag} makes no sense now"
        )

    def _on_features(self, element: etree._Element) -> None:
        self._check_answer()
        features = elements.parse_features(element)
        self.peer_max_bytes = features.max_bytes or self._framing.assumed_max_bytes
        config = self.config
        if self.authenticated_by:
            self._on_final_features(features)
        elif config.require_tls and not self.secure:
            if not features.starttls:
                self._give_up("STARTTLS is not offered")
                return
            self.outgoing.append(elements.STARTTLS)
            self.state = State.REQUESTING_TLS
        elif config.verify_only:
            self._establish()
            self.events.append(StreamEstablished())
        else:
            self._authenticate(features)

    def _authenticate(self, features: elements.Features) -> None:
        config = self.config
        if features.bidi and config.use_bidi:  # XEP-0288 §2.2: before, and without an answer
            self.bidirectional = True
            self.outgoing.append(elements.bidi(config.limits.stanza_bytes))
        if config.use_external and sasl.MECHANISM in features.mechanisms:
            self.outgoing.append(elements.auth(sasl.MECHANISM, sasl.initial_response(self.sender)))
            self.state = State.AUTHENTICATING
        else:
            self._try_dialback("SASL EXTERNAL is not offered" if config.use_external else "")

    def _on_final_features(self, features: elements.Features) -> None:
        # Stanzas may come from now on, if they come at all.
        self._parser.authenticated = self.bidirectional
        if not (features.management and self.config.use_management):
            self._ready()
        elif self._resume is not None:
            self.outgoing.append(
                elements.sm_resume(self._resume.id, self._resume.received.answer())
            )
            self.state = State.RESUMING
        else:
            self._enable()

    def _enable(self) -> None:
        self.outgoing.append(elements.sm_enable(self.config.resumption_seconds))
        self.state = State.ENABLING

    def _on_proceed(self, element: etree._Element) -> None:
        self.state = State.WAIT_TLS
        self.events.append(TlsStarting())

    def _on_tls_failure(self, element: etree._Element) -> None:
        self._give_up("the peer refused STARTTLS")

    def _on_success(self, element: etree._Element) -> None:
        self._prove("external")
        self._restart()
        self._parser.authenticated = self.bidirectional  # see `ReceivingStream._restart`

    def _prove(self, by: str) -> None:
        self.authenticated_by = by
        if self.bidirectional:
            # One proof serves both ways, but for no other pair.
            self.pairs.add((self.target, self.sender))
        self.events.append(Authenticated(self.sender, self.target, by))

    def _on_failure(self, element: etree._Element) -> None:
        self._try_dialback(f"SASL EXTERNAL failed: {elements.parse_sasl_failure(element)}")

    def _try_dialback(self, reason: str) -> None:
        """XEP-0178 §3 (11): after a failed EXTERNAL the same stream goes on with dialback.

        Dialback is tried even if not advertised: PeerTube's peers presume support (protocol A5).
        """
        self._external_failure = reason
        if not self.config.use_dialback or not self.config.dialback_secret or not self.id:
            self._give_up(reason or "no way to authenticate is left")
            return
        key = dialback_key(
            self.config.dialback_secret,
            receiving=self.target,
            originating=self.sender,
            stream_id=self.id,
        )
        self._results.ask(self.sender, self.target)
        self.outgoing.append(elements.db_result(self.sender, self.target, key=key))
        self.state = State.PROVING

    def _on_result(self, element: etree._Element) -> None:
        sender, target = elements.dialback_addresses(element)
        outcome = element.get("type")
        if outcome is None:
            self._check_bidirectional()
            # XEP-0220 §2.5: the condition that asks for a stream of the peer's own.
            refusal = elements.db_result(target, sender, type="error", error="resource-constraint")
            self.outgoing.append(refusal)
            return
        if not self._results.settle(target, sender):
            return  # XEP-0220 §3.1: never believe an answer to no question
        if outcome == "valid":
            self._prove("dialback")
            self._ready()
        else:
            reason = f"dialback answered {outcome}"
            self._give_up(
                f"{self._external_failure}; {reason}" if self._external_failure else reason
            )

    def _on_verify(self, element: etree._Element) -> None:
        if element.get("type") is not None:
            self._on_verify_answer(element)
            return
        self._check_bidirectional()
        sender, target = elements.dialback_addresses(element)
        id = element.get("id", "")
        self.outgoing.append(
            elements.db_verify(target, sender, id, type="error", error="resource-constraint")
        )

    def _check_bidirectional(self) -> None:
        if not self.bidirectional:
            raise RemoteProtocolError(
                StreamCondition.UNSUPPORTED_STANZA_TYPE, "this stream goes one way (no bidi)"
            )

    def _on_enabled(self, element: etree._Element) -> None:
        # Both directions count (XEP-0198 §3), though on this one nothing comes back: Prosody asks
        # an idle stream for an acknowledgement and wants its `h='0'`.
        self.sent.enabled = self.received.enabled = True
        id = element.get("id", "")
        if (
            self.config.resumption_seconds
            and elements.is_true(element, "resume")
            and 0 < len(id.encode()) <= MAX_ID_BYTES
        ):
            self._resumption_id = id
            ours = self.config.resumption_seconds
            self._resumption_seconds = min(elements.seconds_of(element, "max") or ours, ours)
        self._ready()

    def _on_enable_failed(self, element: etree._Element) -> None:
        self._ready()

    def _on_resumed(self, element: etree._Element) -> None:
        assert self._resume is not None
        if element.get("previd") != self._resume.id:
            raise RemoteProtocolError(
                StreamCondition.UNDEFINED_CONDITION, "another stream was to be resumed"
            )
        try:
            self.covered = self._resume.sent.resume(handled_count(element.get("h", "")))
        except HandledCountTooHigh as exc:
            raise too_high(exc) from None
        self._take_up(self._resume)
        self._ready()

    def _on_resume_failed(self, element: etree._Element) -> None:
        assert self._resume is not None
        if element.get("h") is not None:
            # XEP-0198 §5: what was handled of the stream that cannot be resumed.
            try:
                self.covered = self._resume.sent.resume(handled_count(element.get("h", "")))
            except HandledCountTooHigh as exc:
                raise too_high(exc) from None
        self._enable()

    def _ready(self) -> None:
        self._may_send = True
        self._establish()
        self.events.append(StreamEstablished())

    def _give_up(self, reason: str) -> None:
        self.events.append(AuthenticationFailed(reason))
        self.close()

    def _ignore(self, element: etree._Element) -> None:
        """Servers may announce features again; nothing in them is ours to take up then."""

    _handlers: Handlers = {
        (State.NEGOTIATING, namespaces.FEATURES): _on_features,
        (State.REQUESTING_TLS, namespaces.PROCEED): _on_proceed,
        (State.REQUESTING_TLS, namespaces.TLS_FAILURE): _on_tls_failure,
        (State.AUTHENTICATING, namespaces.SUCCESS): _on_success,
        (State.AUTHENTICATING, namespaces.FAILURE): _on_failure,
        (State.PROVING, namespaces.RESULT): _on_result,
        (State.ENABLING, namespaces.SM_ENABLED): _on_enabled,
        (State.ENABLING, namespaces.SM_FAILED): _on_enable_failed,
        (State.RESUMING, namespaces.SM_RESUMED): _on_resumed,
        (State.RESUMING, namespaces.SM_FAILED): _on_resume_failed,
        (State.ESTABLISHED, namespaces.FEATURES): _ignore,
        (State.ESTABLISHED, namespaces.RESULT): _on_result,
        (State.ESTABLISHED, namespaces.VERIFY): _on_verify,
        (State.CLOSING, namespaces.VERIFY): ServerStream._on_verify_answer,
    }
