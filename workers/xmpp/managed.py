"""The part of a stream that counts and acknowledges (XEP-0198), for both roles.

Resumption: a stream whose connection is lost without a word is `suspended`; on a new, equally
authenticated stream the initiating server asks with `<resume/>`, and both go on with the counters
of the lost one. What was sent and is not covered then must be sent again by the shell, uncounted
(`send_again`): it was counted when it was sent first.
"""

from workers.xmpp import elements
from workers.xmpp.errors import LocalProtocolError, RemoteProtocolError, StreamCondition
from workers.xmpp.events import Acknowledged, AckRequested, Event
from workers.xmpp.management import MODULO, HandledCountTooHigh, Received, Sent, Suspended
from workers.xmpp.parsed import Answer
from workers.xmpp.stanza import Stanza
from workers.xmpp.state import State


class ManagedStream:
    """Counters of both directions and the nonzas that carry them."""

    __slots__ = (
        "_resumption_id",
        "_resumption_seconds",
        "_was_cut",
        "bidirectional",
        "events",
        "outgoing",
        "received",
        "resumed",
        "sender",
        "sent",
        "state",
        "target",
    )

    state: State
    sender: str
    target: str
    events: list[Event]
    outgoing: list[bytes]

    def __init__(self) -> None:
        self.sent = Sent()
        self.received = Received()
        self.bidirectional = False
        """Both sides agreed that stanzas go both ways (XEP-0288)."""
        self.resumed = False
        """This stream goes on where another one was cut off."""
        self._resumption_id = ""
        self._resumption_seconds = 0
        self._was_cut = False

    @property
    def resumption_id(self) -> str:
        """Under which name this stream may be resumed, "" if it may not."""
        return self._resumption_id

    # What the shell calls.

    def request_ack(self, *, again: bool = False) -> None:
        """Ask for an acknowledgement if something was sent since the last request, or `again`."""
        if self.state is State.ESTABLISHED and (again or self.sent.should_request()):
            self.outgoing.append(elements.SM_REQUEST)
            self.sent.requested()

    def mark_handled(self, count: int) -> None:
        """Responsibility for `count` more received stanzas, in order, has been passed on."""
        self.received.mark_handled(count)

    def send_ack(self) -> None:
        """Tell the peer what is handled if it does not know yet."""
        if self.state is State.SETTLING:
            self._settle()
        elif self.state is State.ESTABLISHED:
            self._acknowledge()

    def send_again(self, stanzas: list[Stanza]) -> None:
        """On a resumed stream: all that was sent and is not acknowledged, in its order, at once.

        Raises `LocalProtocolError` if that is not what it is.
        """
        if not self.resumed or self.state is not State.ESTABLISHED:
            raise LocalProtocolError("nothing was resumed here")
        if len(stanzas) != self.sent.outstanding:
            raise LocalProtocolError(
                f"{self.sent.outstanding} stanzas are unacknowledged, not {len(stanzas)}"
            )
        self.outgoing += [stanza.data for stanza in stanzas]
        if stanzas:
            self.sent.requested_at = self.sent.acknowledged  # an `<r/>` is due

    def suspended(self) -> Suspended | None:
        """What another stream may resume, once the connection is lost or if it were lost now.

        None if that was not agreed on, or the stream was closed or failed.
        """
        if not self._resumption_id or not (self._was_cut or self.state is State.ESTABLISHED):
            return None
        return Suspended(
            self._resumption_id,
            self.sender,
            self.target,
            self.sent,
            self.received,
            self._resumption_seconds,
            self.bidirectional,
        )

    # Inside.

    def _settle(self, *, at_once: bool = False) -> None:
        raise NotImplementedError

    def _take_up(self, suspended: Suspended) -> None:
        """Count on where the lost stream was."""
        self.sent, self.received = suspended.sent, suspended.received
        self.resumed = True
        self._resumption_id, self._resumption_seconds = suspended.id, suspended.seconds

    def _acknowledge(self) -> None:
        if self.received.has_news():
            self.outgoing.append(elements.sm_answer(self.received.answer()))

    def _on_ack_request(self) -> None:
        if self.received.enabled:
            self.outgoing.append(elements.sm_answer(self.received.answer()))
            if self.resumed:
                self.events.append(AckRequested())
        else:
            self.outgoing.append(elements.sm_failed("unexpected-request"))

    def _on_ack(self, answer: Answer) -> None:
        h = handled_count(answer.h)
        try:
            count = self.sent.acknowledge(h)
        except HandledCountTooHigh as exc:
            raise too_high(exc) from None
        if self.sent.enabled:
            self.events.append(Acknowledged(count))


def handled_count(text: str) -> int:
    """The attribute `h`, a number below 2^32. Raises bad-format."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < MODULO):
        raise RemoteProtocolError(StreamCondition.BAD_FORMAT, "h is not a 32-bit number")
    return int(text)


def too_high(exc: HandledCountTooHigh) -> RemoteProtocolError:
    """The stream error of XEP-0198 §6."""
    return RemoteProtocolError(
        StreamCondition.UNDEFINED_CONDITION,
        detail=elements.handled_count_too_high(exc.h, exc.send_count),
    )
