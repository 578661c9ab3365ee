"""The receiving server's half of a stream: features, EXTERNAL, dialback results, resumption."""

from collections.abc import Callable

from lxml import etree

from workers.xmpp import elements, namespaces, sasl
from workers.xmpp.dialback import Outstanding
from workers.xmpp.errors import LocalProtocolError, RemoteProtocolError, StreamCondition
from workers.xmpp.events import (
    Authenticated,
    DialbackKeyReceived,
    ManagementEnabled,
    ResumptionRequested,
    StreamEstablished,
    StreamOpened,
    TlsStarting,
    VerifyRequested,
)
from workers.xmpp.framing import Framing
from workers.xmpp.jid import InvalidJid, domain_of
from workers.xmpp.managed import handled_count, too_high
from workers.xmpp.management import MAX_ID_BYTES, HandledCountTooHigh, Suspended
from workers.xmpp.parser import Element, Nonza, StreamHeader
from workers.xmpp.stanza import Stanza
from workers.xmpp.stream import (
    Handlers,
    Parser,
    ServerStream,
    State,
    StreamConfig,
)

# RFC 6120 §6.4.5 asks for at least 2 and recommends no more than 5 attempts.
MAX_AUTH_ATTEMPTS = 3


class ReceivingStream(ServerStream):
    """A peer opened the connection towards us.

    Each `StreamOpened` must be answered with `offer` (or `fail`); on WebSocket one comes, on TCP
    with STARTTLS one after TLS. After SASL the restart is answered by the stream itself.
    """

    __slots__ = (
        "_attempts",
        "_authenticated",
        "_dialback",
        "_external",
        "_external_reason",
        "_keys",
        "_new_id",
        "_new_resumption_id",
        "_questions",
        "authenticated_by",
    )

    def __init__(
        self,
        config: StreamConfig,
        framing: Framing,
        parse: Callable[..., list[Element]],
        parser: Parser,
        now: float,
        *,
        new_id: Callable[[], str],
        new_resumption_id: Callable[[], str] | None = None,
    ) -> None:
        """`new_resumption_id` names a stream that may be resumed; "" if this one may not."""
        super().__init__(config, framing, parse, parser, now)
        self.state = State.WAIT_HEADER
        self._new_id = new_id
        self._new_resumption_id = new_resumption_id
        self._external = False
        self._external_reason = ""
        self._dialback = False
        self.authenticated_by = ""
        """How the first pair was proved."""
        self._authenticated = False
        self._attempts = 0
        self._keys = Outstanding()
        self._questions = Outstanding()

    def offer(self, *, external: bool, dialback: bool, reason: str = "") -> None:
        """Answer the header: what this peer may use. `reason` says why not EXTERNAL, if not.

        Does nothing on a stream that has ended meanwhile. Raises `LocalProtocolError` if no header
        waits for it.
        """
        if self.state >= State.CLOSING:
            return
        if self.state is not State.DECIDING:
            raise LocalProtocolError(f"stream is {self.state.name}")
        self._external, self._dialback, self._external_reason = external, dialback, reason
        children = []
        if external:
            children.append(elements.mechanisms(sasl.MECHANISM))
        if self.config.use_bidi:
            children.append(elements.BIDI_FEATURE)
        if dialback:
            children.append(elements.DIALBACK_FEATURE)
        # After SASL new features follow, after dialback none: then these must last.
        limits = self.config.limits
        children.append(elements.limits(limits.stanza_bytes if dialback else limits.preauth_bytes))
        self._send_header_and_features(children)
        self.state = State.NEGOTIATING

    def send_stanzas(self, stanzas: list[Stanza]) -> None:
        pairs = self.pairs
        for stanza in stanzas:
            # XEP-0288 §2.2: only where the peer has proved to be the target.
            if (stanza.target_domain, stanza.sender_domain) not in pairs:
                raise LocalProtocolError(f"{stanza!r} is not of a pair authenticated here")
        super().send_stanzas(stanzas)

    def accept_resumption(self, suspended: Suspended, h: int) -> int:
        """Answer `ResumptionRequested`: go on with the lost stream, of which nothing is pending.

        Returns how many stanzas of ours `h` newly covers; `send_again` the rest. Does nothing on a
        stream that has ended meanwhile, ends it if `h` is too high: then `resumed` stays False.
        Raises `LocalProtocolError` if nothing was requested or the pair is another.
        """
        if self.state >= State.SETTLING:
            return 0
        if self.state is not State.RESUMING:
            raise LocalProtocolError(f"stream is {self.state.name}")
        if self.pairs != {(suspended.sender, suspended.target)}:
            raise LocalProtocolError("only the same pair may resume a stream")
        try:
            count = suspended.sent.acknowledge(h)
        except HandledCountTooHigh as exc:
            error = too_high(exc)
            self.fail(error.condition, error.text, error.detail)
            return 0
        self._take_up(suspended)
        self.bidirectional = self._may_send = suspended.bidirectional
        self.outgoing.append(elements.sm_resumed(suspended.id, self.received.answer()))
        self._establish()
        return count

    def refuse_resumption(self, condition: str = "item-not-found", h: int | None = None) -> None:
        """Answer `ResumptionRequested`: no. `h`: what was handled of that stream, if known.

        Does nothing on a stream that has ended meanwhile.
        """
        if self.state is State.RESUMING:
            self.outgoing.append(elements.sm_failed(condition, h))
            self._establish()

    def answer_dialback(
        self, *, sender: str, target: str, outcome: str, error: str = "", by: str = "dialback"
    ) -> None:
        """Answer `DialbackKeyReceived`: "valid", "invalid" or "error" with a stanza condition."""
        if self.state >= State.CLOSING or not self._keys.settle(sender, target):
            return
        self.outgoing.append(elements.db_result(target, sender, type=outcome, error=error))
        if outcome == "valid":
            self._authenticate(sender, target, by)
            if self.state is State.NEGOTIATING:
                self._ready()
        elif outcome == "invalid" and not self.pairs:
            self.close()  # XEP-0220 §2.2.1: the only pair was a lie

    def answer_verify(
        self, *, sender: str, target: str, id: str, outcome: str, error: str = ""
    ) -> None:
        """Answer `VerifyRequested`: addresses are those of the request, swapped here (§2.2.2)."""
        if self.state < State.CLOSING and self._questions.settle(sender, target, id):
            self.outgoing.append(elements.db_verify(target, sender, id, type=outcome, error=error))

    def _send_header_and_features(self, children: list[bytes]) -> None:
        self._ensure_header()
        self.outgoing.append(self._framing.features(children))

    def _ensure_header(self) -> None:
        if not self._header_sent:
            self.id = self._new_id()
            self.outgoing.append(
                self._framing.header(self.target, self.sender, self.id, response=True)
            )
            self._header_sent = True

    def _restart(self) -> None:
        super()._restart()
        # Its stanzas may come in one read with the new header (Prosody's do, if we are busy).
        self._parser.authenticated = self._authenticated
        self._keys, self._questions = Outstanding(), Outstanding()

    def _on_header(self, header: StreamHeader) -> None:
        if not self.target:
            # RFC 7395 §3.5: our header precedes a stream error, and echoes what can be read.
            self.sender, self.target = _readable(header.sender), _readable(header.recipient)
        if header.namespace != self._framing.namespace:
            raise RemoteProtocolError(StreamCondition.INVALID_NAMESPACE)
        if not header.sender or not header.recipient:
            raise RemoteProtocolError(
                StreamCondition.IMPROPER_ADDRESSING, "from and to are required"
            )
        pair = elements.peer_domain(header.sender), elements.peer_domain(header.recipient)
        if pair != (self.sender, self.target):
            raise RemoteProtocolError(
                StreamCondition.IMPROPER_ADDRESSING, "from and to may not change at a restart"
            )
        self._check_header(header)
        if self._authenticated:
            self._send_final_features()
        elif self.config.offer_tls and not self.secure:
            self._send_header_and_features([elements.STARTTLS_FEATURE])
            self.state = State.TLS_REQUIRED
        else:
            self.state = State.DECIDING
            self.events.append(StreamOpened(self.sender, self.target, self.secure))

    def _check_header(self, header: StreamHeader) -> None:
        if header.version is None or header.version.partition(".")[0] != "1":
            raise RemoteProtocolError(StreamCondition.UNSUPPORTED_VERSION, "version 1.0 is needed")
        if self.target not in self.config.hosts:
            raise RemoteProtocolError(
                StreamCondition.HOST_UNKNOWN, f"This host does not serve {self.target}"
            )
        if self.sender in self.config.hosts:
            raise RemoteProtocolError(
                StreamCondition.UNDEFINED_CONDITION, f"{self.sender} is served by this host"
            )

    def _send_final_features(self) -> None:
        children = []
        if self.config.use_management:
            children.append(elements.SM_FEATURE)
        if self._dialback:
            children.append(elements.DIALBACK_FEATURE)
        children.append(elements.limits(self.config.limits.stanza_bytes))
        self._send_header_and_features(children)
        self._ready()

    def _ready(self) -> None:
        self._may_send = self.bidirectional
        self._establish()
        self.events.append(StreamEstablished())

    def _on_unexpected(self, element: Nonza) -> None:
        if self.state is State.TLS_REQUIRED:
            raise RemoteProtocolError(StreamCondition.POLICY_VIOLATION, "STARTTLS comes first")
        if not self._authenticated:
            raise RemoteProtocolError(StreamCondition.NOT_AUTHORIZED)
        raise RemoteProtocolError(
            StreamCondition.UNSUPPORTED_STANZA_TYPE, f"{element.tag} makes no sense now"
        )

    def _on_starttls(self, element: etree._Element) -> None:
        self.outgoing.append(elements.PROCEED)
        self.state = State.WAIT_TLS
        self.events.append(TlsStarting())

    def _on_starttls_again(self, element: etree._Element) -> None:
        # RFC 7395 §3.9: a WebSocket is secured below, or not at all.
        raise RemoteProtocolError(StreamCondition.UNSUPPORTED_STANZA_TYPE, "no STARTTLS here")

    def _on_early_auth(self, element: etree._Element) -> None:
        self.outgoing.append(elements.failure("encryption-required"))

    def _on_auth(self, element: etree._Element) -> None:
        self._attempts += 1
        if self._attempts > MAX_AUTH_ATTEMPTS:
            raise RemoteProtocolError(StreamCondition.POLICY_VIOLATION, "too many attempts")
        try:
            self._check_auth(element)
        except sasl.SaslFailure as exc:
            self.outgoing.append(elements.failure(exc.condition, exc.text))
            return
        self.outgoing.append(elements.SUCCESS)
        self._authenticate(self.sender, self.target, "external")
        self._restart()

    def _check_auth(self, element: etree._Element) -> None:
        if element.get("mechanism") != sasl.MECHANISM:
            raise sasl.SaslFailure("invalid-mechanism")
        if not self._external:
            raise sasl.SaslFailure("not-authorized", self._external_reason)
        sasl.check_initial_response(element.text, self.sender)

    def _on_abort(self, element: etree._Element) -> None:
        self.outgoing.append(elements.failure("aborted"))  # RFC 6120 §6.5.1

    def _on_result(self, element: etree._Element) -> None:
        sender, target = elements.dialback_addresses(element)
        if element.get("type") is not None:
            return  # XEP-0220 §3.1: an answer to no question
        error = self._why_no_dialback(sender, target)
        if error:
            self.outgoing.append(elements.db_result(target, sender, type="error", error=error))
        else:
            key = (element.text or "").strip()
            self.events.append(DialbackKeyReceived(sender, target, key))

    def _why_no_dialback(self, sender: str, target: str) -> str:
        """XEP-0220 §2.5: the stanza condition of the refusal, "" if there is none."""
        if not self._dialback:
            return "not-authorized"
        if target not in self.config.hosts:
            return "item-not-found"
        if sender in self.config.hosts:
            return "not-acceptable"
        return "" if self._keys.ask(sender, target) else "resource-constraint"

    def _on_verify(self, element: etree._Element) -> None:
        sender, target = elements.dialback_addresses(element)
        if element.get("type") is not None:
            self._on_verify_answer(element)
            return
        id, key = element.get("id", ""), (element.text or "").strip()
        if self._questions.ask(sender, target, id):
            self.events.append(VerifyRequested(sender, target, id, key))
        else:
            self.outgoing.append(
                elements.db_verify(target, sender, id, type="error", error="resource-constraint")
            )

    def _on_enable(self, element: etree._Element) -> None:
        # After uncounted stanzas the shell could not tell what an acknowledgement covers.
        if self.received.enabled or self._sent_uncounted or not self.config.use_management:
            self.outgoing.append(elements.sm_failed("unexpected-request"))
            return
        # Both directions count (XEP-0198 §3), though most streams carry stanzas one way: Prosody
        # acknowledges nothing with `h='0'` when it closes.
        self.sent.enabled = self.received.enabled = True
        if elements.is_true(element, "resume"):
            self._allow_resumption(elements.seconds_of(element, "max"))
        self.outgoing.append(elements.sm_enabled(self._resumption_id, self._resumption_seconds))
        self.events.append(ManagementEnabled(self._resumption_id))

    def _on_enable_too_late(self, element: etree._Element) -> None:
        # It counts from here on, and sends again what we do not acknowledge behind our closing tag.
        self.received.enabled = self.received.enabled or self.config.use_management

    def _finish(
        self, *, clean: bool, answered: bool = False, see_other_uri: str | None = None
    ) -> None:
        super()._finish(clean=clean, answered=answered, see_other_uri=see_other_uri)
        self._new_resumption_id = None  # whoever gives ids holds us

    def _allow_resumption(self, asked: int) -> None:
        ours = self.config.resumption_seconds
        if ours and self._new_resumption_id is not None and len(self.pairs) == 1:
            self._resumption_id = self._new_resumption_id()
            self._resumption_seconds = min(asked or ours, ours)

    def suspended(self) -> Suspended | None:
        # A stream with other pairs than its first could not be resumed by the same ones at once.
        is_single = self.pairs == {(self.sender, self.target)}
        return super().suspended() if is_single else None

    def _on_resume(self, element: etree._Element) -> None:
        id, h = element.get("previd", ""), handled_count(element.get("h", ""))
        if (
            not self.config.resumption_seconds
            or not self.config.use_management
            or not 0 < len(id.encode()) <= MAX_ID_BYTES
            or self.pairs != {(self.sender, self.target)}
        ):
            self.outgoing.append(elements.sm_failed("item-not-found"))
        elif self.received.enabled:
            self.outgoing.append(elements.sm_failed("unexpected-request"))
        else:
            self.state = State.RESUMING
            self.events.append(ResumptionRequested(id, h))

    def _authenticate(self, sender: str, target: str, by: str) -> None:
        self._authenticated = True
        self.authenticated_by = self.authenticated_by or by
        self.pairs.add((sender, target))
        self.events.append(Authenticated(sender, target, by))

    def _on_bidi(self, element: etree._Element) -> None:
        """XEP-0288 §2.2: it needs no answer, so where it was not offered it does no harm."""
        if self.config.use_bidi:
            self.bidirectional = True
            self.peer_max_bytes = elements.bidi_max_bytes(element) or self.peer_max_bytes

    _handlers: Handlers = {
        (State.TLS_REQUIRED, namespaces.STARTTLS): _on_starttls,
        (State.TLS_REQUIRED, namespaces.AUTH): _on_early_auth,
        (State.NEGOTIATING, namespaces.STARTTLS): _on_starttls_again,
        (State.NEGOTIATING, namespaces.AUTH): _on_auth,
        (State.NEGOTIATING, namespaces.ABORT): _on_abort,
        (State.NEGOTIATING, namespaces.RESULT): _on_result,
        (State.NEGOTIATING, namespaces.VERIFY): _on_verify,
        (State.NEGOTIATING, namespaces.BIDI_ELEMENT): _on_bidi,
        (State.ESTABLISHED, namespaces.RESULT): _on_result,
        (State.ESTABLISHED, namespaces.VERIFY): _on_verify,
        (State.ESTABLISHED, namespaces.SM_ENABLE): _on_enable,
        (State.ESTABLISHED, namespaces.SM_RESUME): _on_resume,
        (State.CLOSING, namespaces.SM_ENABLE): _on_enable_too_late,
    }


def _readable(text: str | None) -> str:
    """The domain as the peer wrote it, "" if there is none."""
    try:
        return domain_of(text or "")
    except InvalidJid:
        return ""
