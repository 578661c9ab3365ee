"""The receiving server's half of a stream: features, EXTERNAL, dialback results."""

from collections.abc import Callable

from lxml import etree

from workers.xmpp import elements, namespaces, sasl
from workers.xmpp.dialback import Outstanding
from workers.xmpp.errors import LocalProtocolError, RemoteProtocolError, StreamCondition
from workers.xmpp.events import (
    Authenticated,
    DialbackKeyReceived,
    StreamEstablished,
    StreamOpened,
    TlsStarting,
)
from workers.xmpp.framing import Framing
from workers.xmpp.parser import Element, StreamHeader
from workers.xmpp.stream import Parser, ServerStream, State, StreamConfig, peer_domain

# RFC 6120 §6.4.5 asks for at least 2 and recommends no more than 5 attempts.
MAX_AUTH_ATTEMPTS = 3


class ReceivingStream(ServerStream):
    """A peer opened the connection towards us.

    Each `StreamOpened` must be answered with `offer` (or `fail`); on WebSocket one comes, on TCP
    with STARTTLS one after TLS. After SASL the restart is answered by the stream itself.
    """

    def __init__(
        self,
        config: StreamConfig,
        framing: Framing,
        parse: Callable[..., list[Element]],
        parser: Parser,
        now: float,
        *,
        new_id: Callable[[], str],
    ) -> None:
        super().__init__(config, framing, parse, parser, now)
        self.state = State.WAIT_HEADER
        self._new_id = new_id
        self._external = False
        self._external_reason = ""
        self._dialback = False
        self._authenticated = False
        self._attempts = 0
        self._keys = Outstanding()
        self._announced_from = ""

    def offer(self, *, external: bool, dialback: bool, reason: str = "") -> None:
        """Answer the header: what this peer may use. `reason` says why not EXTERNAL, if not."""
        if self.state is not State.DECIDING:
            raise LocalProtocolError(f"stream is {self.state.name}")
        self._external, self._dialback, self._external_reason = external, dialback, reason
        children = []
        if external:
            children.append(elements.mechanisms(sasl.MECHANISM))
        if dialback:
            children.append(elements.DIALBACK_FEATURE)
        children.append(elements.limits(self.config.limits.preauth_bytes))
        self._send_header_and_features(children)
        self.state = State.NEGOTIATING

    def answer_dialback(
        self, *, sender: str, target: str, outcome: str, error: str = "", by: str = "dialback"
    ) -> None:
        """Answer `DialbackKeyReceived`: "valid", "invalid" or "error" with a stanza condition."""
        if self.state >= State.CLOSING or not self._keys.settle(sender, target):
            return
        self._out.append(elements.db_result(target, sender, type=outcome, error=error))
        if outcome == "valid":
            self._authenticate(sender, target, by)
            if self.state is State.NEGOTIATING:
                self._establish()
                self._events.append(StreamEstablished())
        elif outcome == "invalid" and not self.pairs:
            self.close()  # XEP-0220 §2.2.1: the only pair was a lie

    def _send_header_and_features(self, children: list[bytes]) -> None:
        self._ensure_header()
        self._out.append(self._framing.features(children))

    def _ensure_header(self) -> None:
        if not self._header_sent:
            self.id = self._new_id()
            self._out.append(self._framing.header(self.target, self.sender, self.id, response=True))
            self._header_sent = True

    def _on_header(self, header: StreamHeader) -> None:
        if header.namespace != self._framing.namespace:
            raise RemoteProtocolError(StreamCondition.INVALID_NAMESPACE)
        if not header.sender or not header.recipient:
            self._remember(header)
            raise RemoteProtocolError(
                StreamCondition.IMPROPER_ADDRESSING, "from and to are required"
            )
        sender, target = peer_domain(header.sender), peer_domain(header.recipient)
        if self.sender and (sender, target) != (self.sender, self.target):
            raise RemoteProtocolError(
                StreamCondition.IMPROPER_ADDRESSING, "from and to may not change at a restart"
            )
        self.sender, self.target = sender, target
        self._check_header(header)
        if self._authenticated:
            self._send_final_features()
        elif self.config.offer_tls and not self.secure:
            self._send_header_and_features([elements.STARTTLS_FEATURE])
            self.state = State.NEGOTIATING
        else:
            self.state = State.DECIDING
            self._events.append(StreamOpened(sender, target, self.secure))

    def _remember(self, header: StreamHeader) -> None:
        """Keep what can be echoed in the header that precedes a stream error."""
        self.sender = peer_domain(header.sender) if header.sender else ""
        self.target = peer_domain(header.recipient) if header.recipient else ""

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
        self._establish()
        self._events.append(StreamEstablished())

    def _on_nonza(self, element: etree._Element) -> None:
        handler = _HANDLERS.get((self.state, element.tag))
        if handler is not None:
            handler(self, element)
        elif not self._authenticated:
            raise RemoteProtocolError(StreamCondition.NOT_AUTHORIZED, "authenticate first")
        else:
            raise RemoteProtocolError(
                StreamCondition.UNSUPPORTED_STANZA_TYPE, f"{element.tag} makes no sense now"
            )

    def _on_starttls(self, element: etree._Element) -> None:
        if self.secure or not self.config.offer_tls:
            # RFC 7395 §3.9: a WebSocket is secured below, or not at all.
            raise RemoteProtocolError(StreamCondition.UNSUPPORTED_STANZA_TYPE, "no STARTTLS here")
        self._out.append(elements.PROCEED)
        self.state = State.WAIT_TLS
        self._events.append(TlsStarting())

    def _on_auth(self, element: etree._Element) -> None:
        self._attempts += 1
        if self._attempts > MAX_AUTH_ATTEMPTS:
            raise RemoteProtocolError(StreamCondition.POLICY_VIOLATION, "too many attempts")
        try:
            self._check_auth(element)
        except sasl.SaslFailure as exc:
            self._out.append(elements.failure(exc.condition, exc.text))
            return
        self._out.append(elements.SUCCESS)
        self._authenticate(self.sender, self.target, "external")
        self._restart()

    def _check_auth(self, element: etree._Element) -> None:
        if element.get("mechanism") != sasl.MECHANISM:
            raise sasl.SaslFailure("invalid-mechanism")
        if not self._external:
            raise sasl.SaslFailure("not-authorized", self._external_reason)
        sasl.check_initial_response(element.text, self.sender)

    def _on_result(self, element: etree._Element) -> None:
        sender, target = self._dialback_addresses(element)
        if element.get("type") is not None:
            return  # XEP-0220 §3.1: an answer to no question
        if not self._dialback:
            self._out.append(
                elements.db_result(target, sender, type="error", error="not-authorized")
            )
        elif target not in self.config.hosts:
            self._out.append(
                elements.db_result(target, sender, type="error", error="item-not-found")
            )
        elif sender in self.config.hosts or not self._keys.ask(sender, target):
            self._out.append(
                elements.db_result(target, sender, type="error", error="resource-constraint")
            )
        else:
            key = (element.text or "").strip()
            self._events.append(DialbackKeyReceived(sender, target, key))

    def _on_enable(self, element: etree._Element) -> None:
        if self.received.enabled or not self.config.use_management:
            self._out.append(elements.sm_failed("unexpected-request"))
            return
        self.received.enabled = True
        self._out.append(elements.SM_ENABLED)

    def _on_resume(self, element: etree._Element) -> None:
        self._out.append(elements.sm_failed("item-not-found"))

    def _authenticate(self, sender: str, target: str, by: str) -> None:
        self._authenticated = True
        self.pairs.add((sender, target))
        self._events.append(Authenticated(sender, target, by))


def _ignore(stream: ReceivingStream, element: etree._Element) -> None:
    """XEP-0288: bidi was not offered; RFC 6120 lets us ignore what needs no answer."""


_HANDLERS: dict[tuple[State, str], Callable[[ReceivingStream, etree._Element], None]] = {
    (State.NEGOTIATING, namespaces.STARTTLS): ReceivingStream._on_starttls,
    (State.NEGOTIATING, namespaces.AUTH): ReceivingStream._on_auth,
    (State.NEGOTIATING, namespaces.RESULT): ReceivingStream._on_result,
    (State.NEGOTIATING, namespaces.BIDI_ELEMENT): _ignore,
    (State.ESTABLISHED, namespaces.RESULT): ReceivingStream._on_result,
    (State.ESTABLISHED, namespaces.SM_ENABLE): ReceivingStream._on_enable,
    (State.ESTABLISHED, namespaces.SM_RESUME): ReceivingStream._on_resume,
}
