"""What becomes of an outbox when its session is lost: resumed exactly, or sent again with a mark.

Pure: time comes in, in seconds.
"""

from coordinator.accounts import ACK_SM
from workers.gateway.outbox import Outbox
from workers.gateway.replies import Failed
from workers.xmpp.errors import LocalProtocolError
from workers.xmpp.managed import ManagedStream
from workers.xmpp.management import Suspended
from workers.xmpp.state import State

# A stanza that makes the peer hang up would be sent again with every resumption: after so many in
# vain it is taken back and isolated.
MAX_FRUITLESS = 3
# A session of so many seconds was worth its connection even if there was nothing to send.
LASTING = 5.0


class Recovery:
    """Keeps what was sent as it is while the lost stream may still be resumed (XEP-0198 §5)."""

    def __init__(self, outbox: Outbox) -> None:
        self.suspended: Suspended | None = None
        """The stream that the next session is to go on with."""
        self.is_hasty = False
        """The last session was lost soon, and nothing was acknowledged on it."""
        self._outbox = outbox
        self._until = 0.0
        self._told = 0
        self._progress = 0
        self._handled = 0
        self._fruitless = 0

    @property
    def may_bring(self) -> bool:
        """The peer may hold something for us, which it sends when the stream is resumed."""
        return self.suspended is not None and self.suspended.bidirectional

    def lost(
        self, stream: ManagedStream, now: float, *, lasted: float, may_resume: bool
    ) -> list[Failed]:
        """The session is gone after `lasted` seconds.

        Returns the requests of unknown fate, to be bounced.
        """
        outbox = self._outbox
        has_progress = outbox.acknowledged > self._progress
        self.is_hasty = not has_progress and lasted < LASTING
        is_fruitful = (
            has_progress
            or stream.received.handled != self._handled  # something came back
            or (not outbox and not self.is_hasty)
        )
        self._fruitless = 0 if is_fruitful else self._fruitless + 1
        self._progress, self._handled = outbox.acknowledged, stream.received.handled
        suspended = stream.suspended()
        if (
            suspended is None
            or not may_resume
            or self._fruitless > MAX_FRUITLESS
            # What was sent before acknowledgements were agreed on is not covered by them.
            or suspended.sent.outstanding != outbox.unacknowledged
        ):
            return outbox.take_back()
        self.suspended = suspended
        self._told = suspended.sent.acknowledged
        self._until = now + suspended.seconds
        return []

    def forget_old(self, now: float) -> list[Failed]:
        """The peer does not keep its half for longer; as `give_up` if that time is over."""
        return self.give_up() if self.suspended is not None and now > self._until else []

    def give_up(self) -> list[Failed]:
        """Nothing will be resumed; returns the requests of unknown fate, to be bounced."""
        if self.suspended is None:
            return []
        self._count()
        return self._outbox.take_back()

    def succeeded_elsewhere(self) -> None:
        """Another worker resumed the stream: the peer has told exactly what it has."""
        self._count()
        self._outbox.take_back_unsent()

    def take_up(self, stream: ManagedStream) -> list[Failed]:
        """A session is there: go on with it as it turned out. Returns as `give_up` does."""
        if self.suspended is None:
            return []
        self._count()
        if not stream.resumed:
            return self._outbox.take_back()
        if stream.state is State.ESTABLISHED:
            stream.send_again(self._outbox.sent)
        return []

    def _count(self) -> None:
        """Acknowledge what the peer has told since the loss, by whatever attempt."""
        suspended, self.suspended = self.suspended, None
        if suspended is None:
            raise LocalProtocolError("nothing is suspended")
        covered = suspended.sent.acknowledged - self._told
        if covered > 0:  # a successor of the peer's process may know less than it had told
            self._outbox.acknowledge(covered, ACK_SM)
