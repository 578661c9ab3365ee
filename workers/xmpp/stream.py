"""One s2s stream as a state machine without I/O: the half that both roles share.

Bytes go in with `receive`, time with `handle_timer`; what happened is drained with
`events_received`, what must be written with `data_to_send`. The roles are `initiating.py` and
`receiving.py`. The same machine runs on WebSocket (XEP-0468) and TCP (RFC 6120) legs: the framing
and the parser it is given make the difference.

Rules of this file: a handler either changes state, queues bytes and events, or raises
`RemoteProtocolError`; only `receive` turns that into a stream error on the wire.
"""

from collections.abc import Callable, Mapping
from typing import Any

from lxml import etree

from workers.xmpp import elements, namespaces
from workers.xmpp.dialback import Outstanding
from workers.xmpp.errors import LocalProtocolError, RemoteProtocolError, StreamCondition
from workers.xmpp.events import (
    Event,
    StanzaRefused,
    StanzasReceived,
    StreamClosed,
    StreamFailed,
    VerifyAnswered,
)
from workers.xmpp.framing import Framing
from workers.xmpp.managed import ManagedStream
from workers.xmpp.management import Suspended
from workers.xmpp.parser import Answer, Element, Nonza, Request, StreamFooter, StreamHeader
from workers.xmpp.stanza import RefusedStanza, Stanza, data_of
from workers.xmpp.state import Parser, State, StreamConfig

__all__ = ["Handlers", "Parser", "ServerStream", "State", "StreamConfig"]

# What a role makes of each nonza in each state. What is in no table is unexpected.
Handlers = Mapping[tuple[State, str], Callable[[Any, etree._Element], None]]

_NO_PAIRS: frozenset[tuple[str, str]] = frozenset()


class ServerStream(ManagedStream):
    """The shared half: framing, errors, closing, dialback verification."""

    # With more than 30 attributes an instance's dictionary takes 1.6 KiB.
    __slots__ = (
        "_deadline",
        "_framing",
        "_header_sent",
        "_may_send",
        "_parse",
        "_parser",
        "_see_other_uri",
        "_sent_uncounted",
        "_verifies",
        "config",
        "id",
        "pairs",
        "peer_max_bytes",
        "secure",
    )

    _handlers: Handlers = {}

    def __init__(
        self,
        config: StreamConfig,
        framing: Framing,
        parse: Callable[..., list[Element]],
        parser: Parser,
        now: float,
    ) -> None:
        super().__init__()
        self.config = config
        self.state = State.START
        self.sender = ""
        self.target = ""
        self.id = ""
        self.pairs: set[tuple[str, str]] = set()
        """Sender and target domains of the stanzas that the peer may send."""
        self.peer_max_bytes = framing.assumed_max_bytes
        self.secure = False
        self._framing = framing
        self._parse = parse
        self._parser = parser
        self._deadline: float | None = now + config.limits.authentication_timeout
        self._header_sent = False
        self.events: list[Event] = []
        """What `events_received` takes."""
        self.outgoing: list[bytes] = []
        """What `data_to_send` takes."""
        self._verifies = Outstanding()
        self._may_send = False
        self._sent_uncounted = False
        self._see_other_uri: str | None = None

    # What the shell calls.

    def receive(self, data: bytes | list[bytes]) -> None:
        """Take a chunk (TCP) or the messages of one read (WebSocket); drain both queues after.

        Never raises for what is in them.
        """
        if self.state in _DEAF:
            return
        try:
            self._take(self._parse(data))
        except RemoteProtocolError as exc:
            self.fail(exc.condition, exc.text, exc.detail)
            exc.bare()

    def receive_eof(self) -> None:
        """The connection below is gone."""
        self._note_cut()
        self._parser.drop()
        # COMPAT(xmpp-proxy 1.x): it ends TCP right after its closing tag, or instead of one.
        self._finish(clean=self.state in (State.SETTLING, State.CLOSING))

    def send_stanzas(self, stanzas: list[Stanza]) -> None:
        """Queue stanzas of the authenticated pair, or on a stream opened to us of its inverse.

        Raises `LocalProtocolError` before `StreamEstablished`, on a stream that was opened to us
        and goes one way, or only to verify keys.
        """
        if self.state is not State.ESTABLISHED or not self._may_send:
            raise LocalProtocolError(f"no stanzas are sent here, the stream is {self.state.name}")
        self.outgoing += map(data_of, stanzas)
        if self.sent.enabled:
            self.sent.total += len(stanzas)
        else:
            self._sent_uncounted = True

    def send_element(self, data: bytes) -> None:
        """Queue a stanza of our own that nobody acknowledges, where XEP-0198 counts nothing.

        Raises `LocalProtocolError` where it does; is silently left out on a closing stream.
        """
        if self.sent.enabled:
            raise LocalProtocolError("the peer would count it")
        if self.state is State.ESTABLISHED:
            self.outgoing.append(data)

    def send_verify(self, *, sender: str, target: str, id: str, key: str) -> None:
        """Ask the authoritative server about a key; `VerifyAnswered` follows (XEP-0220 §2.1.2).

        Raises `LocalProtocolError` if the stream is not established, the same question is open or
        64 others are.
        """
        if self.state is not State.ESTABLISHED:
            raise LocalProtocolError(f"stream is {self.state.name}")
        if not self._verifies.ask(sender, target, id):
            raise LocalProtocolError("this verification is open, or too many are")
        self.outgoing.append(elements.db_verify(sender, target, id, key=key))

    def close(self, see_other_uri: str | None = None) -> None:
        """Close our direction; `StreamClosed` follows when the peer has closed too.

        Before our header: on WebSocket a bare `<close/>` (RFC 7395 §3.4), on TCP nothing at all.
        """
        if self.state >= State.CLOSING:
            return
        if self.state is State.SETTLING:
            self._settle(at_once=True)
            return
        if not self._may_write_footer():
            self._finish(clean=True)
            return
        self.send_ack()  # XEP-0198 §4: recommended before a clean close
        self.outgoing.append(self._framing.footer(see_other_uri))
        self.state = State.CLOSING

    def fail(self, condition: StreamCondition, text: str = "", detail: bytes = b"") -> None:
        """End the stream with an error (RFC 6120 §4.9): header if needed, error, closing tag."""
        if self.state < State.CLOSING:
            if self.state is not State.WAIT_TLS:
                self._ensure_header()
                self.outgoing.append(self._framing.error(condition, text, detail))
                self.outgoing.append(self._framing.footer())
            self.events.append(StreamFailed(condition, text, by_peer=False))
        self._finish(clean=False)

    def lapse(self) -> None:
        """What proved who the peer is has expired: end the stream (RFC 6120 §13.7.2.3).

        Who proves the same anew may resume it.
        """
        self._note_cut()
        self.fail(StreamCondition.RESET, "the certificate has expired")

    def give_way(self) -> Suspended | None:
        """The peer resumes this stream elsewhere: end it here, with the error that says so.

        Returns what is `suspended`, if anything.
        """
        suspended = self.suspended()
        if suspended is not None and self.state is State.ESTABLISHED:
            self._was_cut = True
            self.fail(StreamCondition.CONFLICT, "resumed on another connection")  # XEP-0198 §5
        return suspended

    def tls_established(self, now: float) -> None:
        """TLS is up below us: the stream starts anew (RFC 6120 §5.4.3.3), if it has not ended.

        Raises `LocalProtocolError` if no `TlsStarting` was reported.
        """
        if self.state is State.CLOSED:
            return
        if self.state is not State.WAIT_TLS:
            raise LocalProtocolError(f"stream is {self.state.name}")
        self.secure = True
        self._restart()
        self._deadline = now + self.config.limits.authentication_timeout

    def timer_at(self) -> float | None:
        """When `handle_timer` wants to be called, if at all."""
        return self._deadline if self.state < State.ESTABLISHED else None

    def handle_timer(self, now: float) -> None:
        if (at := self.timer_at()) is not None and now >= at:
            self.fail(StreamCondition.CONNECTION_TIMEOUT, "negotiation took too long")

    @property
    def unfinished(self) -> int:
        """Which element the peer has begun and not completed, 0 if none: see `fail_unfinished`."""
        return self._parser.unfinished if self.state is State.ESTABLISHED else 0

    def fail_unfinished(self, number: int) -> None:
        """The time for that element is over: end the stream unless it was completed since."""
        if self.unfinished == number:
            self.fail(StreamCondition.POLICY_VIOLATION, "an element took too long")

    def shrink(self) -> None:
        """Nothing has come for a while: hold less memory."""
        if self.state is State.ESTABLISHED:
            self._parser.shrink()

    def events_received(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def data_to_send(self) -> list[bytes]:
        """What to write: on WebSocket one message each, on TCP to be joined."""
        outgoing, self.outgoing = self.outgoing, []
        return outgoing

    # What the roles fill in.

    def _on_header(self, header: StreamHeader) -> None:
        raise NotImplementedError

    def _on_unexpected(self, element: Nonza) -> None:
        raise NotImplementedError

    def _ensure_header(self) -> None:
        raise NotImplementedError

    # Shared handling of what arrives.

    def _take(self, items: list[Element]) -> None:
        stanzas: list[Stanza] = []
        pairs = self.pairs if self.state is State.ESTABLISHED else self._accepted_pairs()
        for item in items:
            if type(item) is Stanza:  # the common case first
                if (item.sender_domain, item.target_domain) not in pairs:
                    self._flush_stanzas(stanzas)
                    self._refuse(item)
                stanzas.append(item)
                continue
            if stanzas and not self._is_mere_question(item):
                self._flush_stanzas(stanzas)
                stanzas = []
            self._take_other(item)
            if self.state in _DEAF:
                return
            pairs = self._accepted_pairs()
        if stanzas:
            self._flush_stanzas(stanzas)

    def _is_mere_question(self, item: Element) -> bool:
        """An `<r/>`, whose answer what came with it cannot change: it need not part a batch.

        One behind every 16 stanzas of a read would cost each of them 0.7 µs.
        """
        return (
            isinstance(item, Request)
            and self.state is State.ESTABLISHED
            and self.received.enabled
            and not self.resumed  # its owner is told of it, in order
        )

    def _accepted_pairs(self) -> set[tuple[str, str]] | frozenset[tuple[str, str]]:
        # Between SASL success and the new header the pair is known, but there is no stream.
        return self.pairs if self.state in _HEARING else _NO_PAIRS

    def _flush_stanzas(self, stanzas: list[Stanza]) -> None:
        if not stanzas:
            return
        if self.state is State.CLOSING and self.received.enabled:
            # We cannot acknowledge after our closing tag, so the peer will send these again.
            return
        self.received.receive(len(stanzas))
        self.events.append(StanzasReceived(stanzas, self.received.enabled))

    def _take_other(self, item: Element) -> None:
        if isinstance(item, Answer):  # the common cases
            self._take_answer(item)
        elif isinstance(item, Request):
            self._take_request(item)
        elif isinstance(item, RemoteProtocolError):
            raise item
        elif isinstance(item, StreamHeader):
            self._take_header(item)
        elif isinstance(item, StreamFooter):
            self._on_footer(item)
        elif isinstance(item, RefusedStanza):
            self._take_refused(item)
        elif isinstance(item, Stanza):
            raise AssertionError("stanzas are taken by _take")
        elif item.tag == namespaces.STREAM_ERROR:
            self._on_stream_error(item)
        elif handler := self._handlers.get((self.state, item.tag)):
            handler(self, item)
        elif self.state is not State.CLOSING:
            # RFC 6120 §4.4: when closing we go on processing, but negotiation is moot.
            self._on_unexpected(item)

    def _take_request(self, request: Request) -> None:
        if self.state is State.ESTABLISHED:
            self._on_ack_request()
        elif self.state is not State.CLOSING:
            self._on_unexpected(request)

    def _take_answer(self, answer: Answer) -> None:
        if self.state is State.ESTABLISHED or self.state is State.CLOSING:
            self._on_ack(answer)
        else:
            self._on_unexpected(answer)

    def _take_refused(self, item: RefusedStanza) -> None:
        stanza = item.stanza
        if (stanza.sender_domain, stanza.target_domain) not in self._accepted_pairs():
            self._refuse(stanza)
        if self.state is State.CLOSING and self.received.enabled:
            return  # as in _flush_stanzas
        self.received.receive(1)
        self.events.append(StanzaRefused(stanza, item.reason, self.received.enabled))

    def _take_header(self, header: StreamHeader) -> None:
        if self.state is State.WAIT_HEADER:
            self._on_header(header)
        elif self.state is not State.CLOSING:  # we may close before the answer to ours is in
            raise RemoteProtocolError(StreamCondition.CONFLICT, "the stream is already open")

    def _refuse(self, stanza: Stanza) -> None:
        """RFC 6120 §4.9.3.12, §8.1: say which rule the addresses broke."""
        accepted = self._accepted_pairs()
        if not accepted:
            raise RemoteProtocolError(StreamCondition.NOT_AUTHORIZED)
        if all(stanza.sender_domain != sender for sender, _ in accepted):
            raise RemoteProtocolError(
                StreamCondition.INVALID_FROM, f"{stanza.sender_domain} is not authenticated here"
            )
        raise RemoteProtocolError(
            StreamCondition.HOST_UNKNOWN, f"{stanza.target_domain} is not the target of this stream"
        )

    def _on_stream_error(self, element: etree._Element) -> None:
        condition, text = elements.parse_stream_error(element)
        if condition is StreamCondition.RESET:  # §4.9.3.16: all must be proved anew, nothing else
            self._note_cut()
        self.events.append(StreamFailed(condition, text, by_peer=True))
        if self.state is not State.CLOSING and self._may_write_footer():
            self.outgoing.append(self._framing.footer())
        self._finish(clean=False)

    # Closing.

    def _on_footer(self, footer: StreamFooter) -> None:
        if self.state is State.CLOSING:
            self._finish(clean=True, answered=True, see_other_uri=footer.see_other_uri)
        elif self.state is State.ESTABLISHED and self.received.pending:
            # Our closing tag says that all was processed (RFC 6120 §4.4), as the acknowledgement
            # before it does. Too early it is a lie, or what we take over is sent twice.
            self.state = State.SETTLING
            self._see_other_uri = footer.see_other_uri
        else:
            self._close_after(footer.see_other_uri)

    def _settle(self, *, at_once: bool = False) -> None:
        if at_once or not self.received.pending:
            self._close_after(self._see_other_uri)

    def _close_after(self, see_other_uri: str | None) -> None:
        """The peer closed first: acknowledge, close as well."""
        if self.state in (State.ESTABLISHED, State.SETTLING):
            self._acknowledge()
        if self._may_write_footer():
            self.outgoing.append(self._framing.footer())
        self._finish(clean=True, see_other_uri=see_other_uri)

    def _may_write_footer(self) -> bool:
        if self.state in (State.START, State.WAIT_TLS):
            return False
        return self._header_sent or self._framing.bare_footer

    # Dialback and state.

    def _on_verify_answer(self, element: etree._Element) -> None:
        sender, target = elements.dialback_addresses(element)
        id, outcome = element.get("id", ""), element.get("type")
        # An answer nobody asked for is dropped without a word (XEP-0220 §3.1).
        if self._verifies.settle(target, sender, id):
            if outcome not in ("valid", "invalid"):
                outcome = "error"
            self.events.append(VerifyAnswered(sender, target, id, outcome))

    def _restart(self) -> None:
        """Both streams are over without a closing tag (RFC 6120 §4.3.3), and all asked on them."""
        self._parser.reset()
        self._header_sent = False
        self._verifies = Outstanding()
        self.state = State.WAIT_HEADER

    def _establish(self) -> None:
        self.state = State.ESTABLISHED
        self._parser.authenticated = True

    def _note_cut(self) -> None:
        self._was_cut = self._was_cut or self.state is State.ESTABLISHED

    def _finish(
        self, *, clean: bool, answered: bool = False, see_other_uri: str | None = None
    ) -> None:
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self.events.append(StreamClosed(clean, answered, see_other_uri))


# XEP-0288 §2.2: the receiving server may send as soon as we are authenticated, so before it has
# enabled acknowledgements, too.
_HEARING = frozenset({State.ENABLING, State.ESTABLISHED, State.CLOSING})
# RFC 6120 §5.4.3.3: nothing in clear counts once TLS was agreed; §4.4: nothing follows a closing
# tag.
_DEAF = frozenset({State.WAIT_TLS, State.SETTLING, State.CLOSED})
