"""One s2s stream as a state machine without I/O: the half that both roles share.

Bytes go in with `receive`, time with `handle_timer`; what happened is drained with
`events_received`, what must be written with `data_to_send`. The roles are `initiating.py` and
`receiving.py`. The same machine runs on WebSocket (XEP-0468) and TCP (RFC 6120) legs: the framing
and the parser it is given make the difference.

Rules of this file: a handler either changes state, queues bytes and events, or raises
`RemoteProtocolError`; only `receive` turns that into a stream error on the wire.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from lxml import etree

from coordinator.config import Limits
from workers.xmpp import elements, namespaces
from workers.xmpp.dialback import Outstanding
from workers.xmpp.errors import LocalProtocolError, RemoteProtocolError, StreamCondition
from workers.xmpp.events import (
    Acknowledged,
    Event,
    StanzasReceived,
    StreamClosed,
    StreamFailed,
    VerifyAnswered,
    VerifyRequested,
)
from workers.xmpp.framing import Framing
from workers.xmpp.jid import InvalidJid, domain_of
from workers.xmpp.management import HandledCountTooHigh, Received, Sent
from workers.xmpp.parser import Element, StreamFooter, StreamHeader
from workers.xmpp.stanza import Stanza

# A peer that negotiates for longer is not going to make it (Prosody: 90 s, ejabberd: 120 s; our
# caller waits 10 s at most, so a longer patience would only hold sockets).
NEGOTIATION_TIMEOUT = 30.0


class State(IntEnum):
    """Where the stream is. Order matters: everything from CLOSING on sends nothing more."""

    START = 0
    """Nothing sent or received (initiating: header not yet sent)."""
    WAIT_HEADER = 1
    """The peer's stream header must come next, first or after a restart."""
    DECIDING = 2
    """Receiving: the header is in, the shell decides what to offer."""
    NEGOTIATING = 3
    """Features are out (receiving) or awaited (initiating)."""
    WAIT_TLS = 4
    """STARTTLS was agreed; every byte in between is discarded."""
    AUTHENTICATING = 5
    """Initiating: SASL or dialback awaits its result."""
    ENABLING = 6
    """Initiating: `<enable/>` awaits its answer."""
    ESTABLISHED = 7
    """Stanzas may flow."""
    CLOSING = 8
    """Our closing tag is out; the peer may still send."""
    CLOSED = 9
    """Over."""


class Parser(Protocol):
    """What both parsers offer a stream."""

    authenticated: bool

    def reset(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class StreamConfig:
    """What a stream needs to know; values only, no policy objects."""

    limits: Limits = field(default_factory=Limits)
    dialback_secret: bytes = b""
    offer_tls: bool = False
    """Receiving on TCP: STARTTLS comes before anything else."""
    require_tls: bool = False
    """Initiating on TCP: do not authenticate before STARTTLS."""
    use_external: bool = True
    use_dialback: bool = True
    use_management: bool = True
    verify_only: bool = False
    """Initiating: stop after features; only `send_verify` is wanted."""
    hosts: frozenset[str] = frozenset()
    """Receiving: the domains this side answers for."""


class ServerStream:
    """The shared half: framing, errors, closing, acknowledgements, dialback verification."""

    def __init__(
        self,
        config: StreamConfig,
        framing: Framing,
        parse: Callable[..., list[Element]],
        parser: Parser,
        now: float,
    ) -> None:
        self.config = config
        self.state = State.START
        self.sender = ""
        self.target = ""
        self.id = ""
        self.pairs: set[tuple[str, str]] = set()
        self.sent = Sent()
        self.received = Received()
        self.peer_max_bytes = 0
        self.secure = False
        self._framing = framing
        self._parse = parse
        self._parser = parser
        self._deadline: float | None = now + NEGOTIATION_TIMEOUT
        self._header_sent = False
        self._events: list[Event] = []
        self._out: list[bytes] = []
        self._verifies = Outstanding()

    # What the shell calls.

    def receive(self, data: bytes | list[bytes]) -> None:
        """Take a chunk (TCP) or the messages of one read (WebSocket); drain both queues after."""
        if self.state is State.CLOSED or self.state is State.WAIT_TLS:
            return  # RFC 6120 §5.4.3.3: nothing in clear counts once TLS was agreed
        try:
            self._take(self._parse(data))
        except RemoteProtocolError as exc:
            self.fail(exc.condition, exc.text)

    def receive_eof(self) -> None:
        """The connection below is gone."""
        if self.state is not State.CLOSED:
            # COMPAT(xmpp-proxy): it ends TCP right after its closing tag, or instead of one.
            self._finish(clean=self.state is State.CLOSING)

    def send_stanzas(self, stanzas: list[Stanza]) -> None:
        """Queue stanzas of an authenticated pair. Raises `LocalProtocolError` before that."""
        if self.state is not State.ESTABLISHED:
            raise LocalProtocolError(f"stream is {self.state.name}")
        self._out += [stanza.data for stanza in stanzas]
        if self.sent.enabled:
            self.sent.total += len(stanzas)

    def send_element(self, data: bytes) -> None:
        """Queue a stanza of our own that nobody acknowledges, where XEP-0198 counts nothing."""
        if self.sent.enabled:
            raise LocalProtocolError("the peer would count it")
        if self.state is State.ESTABLISHED:
            self._out.append(data)

    def request_ack(self, *, again: bool = False) -> None:
        """Ask for an acknowledgement if something was sent since the last request, or `again`."""
        if self.state is State.ESTABLISHED and (again or self.sent.should_request()):
            self._out.append(elements.SM_REQUEST)
            self.sent.requested()

    def mark_handled(self, count: int) -> None:
        """Responsibility for `count` more received stanzas, in order, has been passed on."""
        self.received.mark_handled(count)

    def send_ack(self) -> None:
        """Tell the peer what is handled if it does not know yet."""
        if self.state is State.ESTABLISHED and self.received.has_news():
            self._out.append(elements.sm_answer(self.received.answer()))

    def send_verify(self, *, sender: str, target: str, id: str, key: str) -> None:
        """Ask the authoritative server about a key; `VerifyAnswered` follows (XEP-0220 §2.1.2)."""
        if self.state not in (State.NEGOTIATING, State.ESTABLISHED):
            raise LocalProtocolError(f"stream is {self.state.name}")
        if not self._verifies.ask(sender, target, id):
            raise LocalProtocolError("too many verifications open")
        self._out.append(elements.db_verify(sender, target, id, key=key))

    def answer_verify(
        self, *, sender: str, target: str, id: str, outcome: str, error: str = ""
    ) -> None:
        """Answer `VerifyRequested`: addresses are those of the request, swapped here (§2.2.2)."""
        if self.state < State.CLOSING:
            self._out.append(elements.db_verify(target, sender, id, type=outcome, error=error))

    def close(self, see_other_uri: str | None = None) -> None:
        """Close our direction; `StreamClosed` follows when the peer has closed too."""
        if self.state >= State.CLOSING:
            return
        if not self._header_sent:
            self._finish(clean=True)
            return
        self.send_ack()  # XEP-0198 §4: recommended before a clean close
        self._out.append(self._framing.footer(see_other_uri))
        self.state = State.CLOSING

    def fail(self, condition: StreamCondition, text: str = "") -> None:
        """End the stream with an error (RFC 6120 §4.9): header if needed, error, closing tag."""
        if self.state >= State.CLOSING:
            self._finish(clean=False)
            return
        self._ensure_header()
        self._out.append(self._framing.error(condition, text))
        self._out.append(self._framing.footer())
        self._events.append(StreamFailed(condition, text, by_peer=False))
        self._finish(clean=False)

    def tls_established(self, now: float) -> None:
        """TLS is up below us: the stream starts anew (RFC 6120 §5.4.3.3)."""
        if self.state is not State.WAIT_TLS:
            raise LocalProtocolError(f"stream is {self.state.name}")
        self.secure = True
        self._restart()
        self._deadline = now + NEGOTIATION_TIMEOUT

    def timer_at(self) -> float | None:
        """When `handle_timer` wants to be called, if at all."""
        return self._deadline if self.state < State.ESTABLISHED else None

    def handle_timer(self, now: float) -> None:
        if (at := self.timer_at()) is not None and now >= at:
            self.fail(StreamCondition.CONNECTION_TIMEOUT, "negotiation took too long")

    def events_received(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> list[bytes]:
        """What to write: on WebSocket one message each, on TCP to be joined."""
        out, self._out = self._out, []
        return out

    # What the roles fill in.

    def _on_header(self, header: StreamHeader) -> None:
        raise NotImplementedError

    def _on_nonza(self, element: etree._Element) -> None:
        raise NotImplementedError

    def _ensure_header(self) -> None:
        raise NotImplementedError

    # Shared handling of what arrives.

    def _take(self, items: list[Element]) -> None:
        stanzas: list[Stanza] = []
        pairs = self.pairs
        for item in items:
            if type(item) is Stanza:  # the common case first
                if (item.sender_domain, item.target_domain) not in pairs:
                    self._flush_stanzas(stanzas)
                    self._refuse(item)
                stanzas.append(item)
                continue
            if stanzas:
                self._flush_stanzas(stanzas)
                stanzas = []
            self._take_other(item)
            if self.state is State.WAIT_TLS or self.state is State.CLOSED:
                return
        self._flush_stanzas(stanzas)

    def _flush_stanzas(self, stanzas: list[Stanza]) -> None:
        if not stanzas:
            return
        if self.state is State.CLOSING and self.received.enabled:
            # We cannot acknowledge after our closing tag, so the peer will send these again.
            return
        self.received.receive(len(stanzas))
        self._events.append(StanzasReceived(stanzas, self.received.enabled))

    def _take_other(self, item: Element) -> None:
        if isinstance(item, RemoteProtocolError):
            raise item
        if isinstance(item, StreamHeader):
            if self.state is not State.WAIT_HEADER:
                raise RemoteProtocolError(StreamCondition.CONFLICT, "the stream is already open")
            self._on_header(item)
        elif isinstance(item, StreamFooter):
            self._on_footer(item)
        elif isinstance(item, Stanza):
            raise AssertionError("stanzas are taken by _take")
        elif self.state is State.CLOSING:
            pass  # RFC 6120 §4.4: keep processing until the peer closes; negotiation is moot
        elif item.tag == namespaces.STREAM_ERROR:
            self._on_stream_error(item)
        elif not self._on_shared_nonza(item):
            self._on_nonza(item)

    def _refuse(self, stanza: Stanza) -> None:
        """RFC 6120 §4.9.3.12, §8.1: say which rule the addresses broke."""
        if not self.pairs:
            raise RemoteProtocolError(
                StreamCondition.NOT_AUTHORIZED, "authenticate before sending stanzas"
            )
        if all(stanza.sender_domain != sender for sender, _ in self.pairs):
            raise RemoteProtocolError(
                StreamCondition.INVALID_FROM, f"{stanza.sender_domain} is not authenticated here"
            )
        raise RemoteProtocolError(
            StreamCondition.HOST_UNKNOWN, f"{stanza.target_domain} is not the target of this stream"
        )

    def _on_footer(self, footer: StreamFooter) -> None:
        answered = self.state is State.CLOSING
        if not answered and self._header_sent:
            self.send_ack()
            self._out.append(self._framing.footer())
        self._finish(clean=True, answered=answered, see_other_uri=footer.see_other_uri)

    def _on_stream_error(self, element: etree._Element) -> None:
        condition, text = elements.parse_stream_error(element)
        self._events.append(StreamFailed(condition, text, by_peer=True))
        if self._header_sent:
            self._out.append(self._framing.footer())
        self._finish(clean=False)

    def _on_shared_nonza(self, element: etree._Element) -> bool:
        """Handle what both roles understand; False if it was not that."""
        tag = element.tag
        if tag == namespaces.SM_REQUEST and self.received.enabled:
            self._out.append(elements.sm_answer(self.received.answer()))
        elif tag == namespaces.SM_ANSWER and self.sent.enabled:
            self._on_ack(element)
        elif tag == namespaces.VERIFY:
            self._on_verify(element)
        else:
            return False
        return True

    def _on_ack(self, element: etree._Element) -> None:
        text = element.get("h", "")
        if not (text.isascii() and text.isdigit() and len(text) <= 10):
            raise RemoteProtocolError(StreamCondition.BAD_FORMAT, "h is not a number")
        try:
            count = self.sent.acknowledge(int(text))
        except HandledCountTooHigh as exc:
            # XEP-0198 §6 names this text element; the condition is undefined-condition.
            raise RemoteProtocolError(
                StreamCondition.UNDEFINED_CONDITION,
                f"handled-count-too-high: h={exc.h}, sent {exc.send_count}",
            ) from None
        self._events.append(Acknowledged(count))

    def _on_verify(self, element: etree._Element) -> None:
        sender, target = self._dialback_addresses(element)
        id, outcome = element.get("id", ""), element.get("type")
        if outcome is None:
            if self.state in (State.WAIT_HEADER, State.DECIDING):
                raise RemoteProtocolError(StreamCondition.NOT_AUTHORIZED, "open the stream first")
            key = (element.text or "").strip()
            self._events.append(VerifyRequested(sender, target, id, key))
        elif self._verifies.settle(target, sender, id):
            if outcome not in ("valid", "invalid"):
                outcome = "error"
            self._events.append(VerifyAnswered(sender, target, id, outcome))
        # An answer nobody asked for is dropped without a word (XEP-0220 §3.1).

    def _dialback_addresses(self, element: etree._Element) -> tuple[str, str]:
        return peer_domain(element.get("from")), peer_domain(element.get("to"))

    def _restart(self) -> None:
        self._parser.reset()
        self._header_sent = False
        self.state = State.WAIT_HEADER

    def _establish(self) -> None:
        self.state = State.ESTABLISHED
        self._parser.authenticated = True

    def _finish(
        self, *, clean: bool, answered: bool = False, see_other_uri: str | None = None
    ) -> None:
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self._events.append(StreamClosed(clean, answered, see_other_uri))


def peer_domain(text: str | None) -> str:
    """A domain as a peer wrote it, normalised. Raises improper-addressing."""
    try:
        return domain_of(text or "")
    except InvalidJid as exc:
        raise RemoteProtocolError(StreamCondition.IMPROPER_ADDRESSING, str(exc)) from None
