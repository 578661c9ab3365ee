"""Stream management counters (XEP-0198 §4), one direction each, and what outlives a connection."""

from dataclasses import dataclass

MODULO = 1 << 32
# XEP-0198 §5: an id is opaque and at most so many bytes.
MAX_ID_BYTES = 4000


class HandledCountTooHigh(Exception):
    """The peer acknowledged more than was sent (XEP-0198 §6)."""

    def __init__(self, h: int, send_count: int) -> None:
        super().__init__(f"h={h}, sent {send_count}")
        self.h = h
        self.send_count = send_count


class Sent:
    """What we sent after `<enabled/>` and what the peer has acknowledged of it."""

    __slots__ = ("acknowledged", "enabled", "requested_at", "total")

    def __init__(self) -> None:
        self.enabled = False
        self.total = 0
        self.acknowledged = 0
        self.requested_at = 0

    @property
    def outstanding(self) -> int:
        return self.total - self.acknowledged

    def acknowledge(self, h: int) -> int:
        """Return how many stanzas `h`, below 2^32, newly covers. Raises `HandledCountTooHigh`.

        A count that went backwards is, modulo 2^32, too high as well.
        """
        count = (h - self.acknowledged) % MODULO
        if count > self.outstanding:
            raise HandledCountTooHigh(h, self.total % MODULO)
        self.acknowledged += count
        return count

    def resume(self, h: int) -> int:
        """The peer resumes with `h`: return how many stanzas it newly covers.

        A peer whose first process died may know less than it has acknowledged: both sides then
        count on from what it knows. Raises `HandledCountTooHigh`.
        """
        behind = (self.acknowledged - h) % MODULO
        if 0 < behind < MODULO // 2:
            self.acknowledged -= behind
            self.total -= behind
            return 0
        return self.acknowledge(h)

    def should_request(self) -> bool:
        """True once per batch: something was sent since the last `<r/>`."""
        return self.enabled and self.total > self.requested_at

    def requested(self) -> None:
        self.requested_at = self.total


class Received:
    """What we received and how much of it is handled, in order.

    Prosody sends what it had queued *before* `<enable/>`; those stanzas are not counted on the
    wire, so they are taken off first when the shell reports stanzas as handled.
    """

    __slots__ = ("answered", "enabled", "handled", "total", "uncounted")

    def __init__(self) -> None:
        self.enabled = False
        self.uncounted = 0
        self.total = 0
        self.handled = 0
        self.answered = 0

    @property
    def pending(self) -> int:
        """How many stanzas, counted or not, are received and not handled yet."""
        return self.uncounted + self.total - self.handled

    def receive(self, count: int) -> None:
        if self.enabled:
            self.total += count
        else:
            self.uncounted += count

    def mark_handled(self, count: int) -> None:
        before = min(count, self.uncounted)
        self.uncounted -= before
        self.handled += count - before

    @property
    def h(self) -> int:
        return self.handled % MODULO

    def has_news(self) -> bool:
        return self.enabled and self.handled != self.answered

    def answer(self) -> int:
        self.answered = self.handled
        return self.h


@dataclass(slots=True)
class Suspended:
    """A stream whose connection was lost, as another one can resume it (XEP-0198 §5).

    The counters are the lost stream's own: what is still handled of what it received goes on
    counting. Resume when nothing is pending any more: what `received.h` does not cover comes again.
    """

    id: str
    sender: str
    target: str
    sent: Sent
    received: Received
    seconds: int
    """For how long the receiving server keeps it."""
    bidirectional: bool = False
