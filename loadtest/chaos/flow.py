"""What became of every stanza from one domain to another: pure bookkeeping, times are arguments.

Each stanza of a flow has the number of its turn on the sender's stream, requests' results among
them. Its fate is one of: arrived (first copy, later copies), bounced, both, or neither: lost.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import IntEnum

MAX_COPIES = 255
# What Prosody reads from one component in a turn of its loop, 8 KiB, has about so many stanzas.
MAX_OVERTAKING = 24


class Kind(IntEnum):
    MESSAGE = 0
    REQUEST = 1  # iq get or set
    RESULT = 2  # the answer to a request of the opposite flow


class Flow:
    """All stanzas from `sender` to `target`, by number. Times are in seconds, NaN: did not happen.

    `server` names the kind of server the sender is attached to, "prosody" or "ejabberd".
    """

    def __init__(self, sender: str, target: str, server: str) -> None:
        self.sender = sender
        self.target = target
        self.server = server
        self.kinds = bytearray()
        self.sent_at = array("d")
        self.arrived_at = array("d")
        self.bounced_at = array("d")
        self.copies = bytearray()
        self.first_marked = bytearray()
        """1: the first copy says that it is late, or that it may be a copy."""
        self.unmarked = 0
        """Later copies of messages that do not say that they are late (XEP-0203)."""
        self.marked = 0
        self.repeated_results = 0
        """Later copies of results: harmless, their request is answered already."""
        self.order = array("L")
        """Numbers of first copies, as they arrived."""
        self.conditions: Counter[str] = Counter()

    @property
    def name(self) -> tuple[str, str]:
        return self.sender, self.target

    def __len__(self) -> int:
        return len(self.kinds)

    def sent(self, kind: Kind, now: float) -> int:
        """Count one more stanza and return its number."""
        number = len(self.kinds)
        self.kinds.append(kind)
        self.sent_at.append(now)
        self.arrived_at.append(math.nan)
        self.bounced_at.append(math.nan)
        self.copies.append(0)
        self.first_marked.append(0)
        return number

    def arrived(self, number: int, now: float, *, is_marked: bool) -> bool:
        """A copy arrived; returns whether it is the first one."""
        copies = self.copies[number]
        self.copies[number] = min(copies + 1, MAX_COPIES)
        if copies:
            self._count_copy(Kind(self.kinds[number]), is_marked=is_marked)
            return False
        self.arrived_at[number] = now
        self.first_marked[number] = is_marked
        self.order.append(number)
        return True

    def bounced(self, number: int, condition: str, now: float) -> None:
        """An error for it came back to its sender."""
        self.bounced_at[number] = now
        self.conditions[condition] += 1

    def missing(self) -> Iterator[int]:
        """Numbers that neither arrived nor came back."""
        for number, copies in enumerate(self.copies):
            if not copies and math.isnan(self.bounced_at[number]):
                yield number

    def misjudged(self) -> int:
        """Stanzas that both arrived and came back: their fate was unknown to who bounced them."""
        return sum(
            1
            for copies, bounced_at in zip(self.copies, self.bounced_at, strict=True)
            if copies and not math.isnan(bounced_at)
        )

    def repeated_requests(self) -> list[int]:
        """Numbers of requests that were executed more than once."""
        return [
            number
            for number, (kind, copies) in enumerate(zip(self.kinds, self.copies, strict=True))
            if kind == Kind.REQUEST and copies > 1
        ]

    def reordered(self) -> list[int]:
        """Numbers whose first copy came after that of a later one, as they arrived."""
        late, highest = [], -1
        for number in self.order:
            if number < highest:
                late.append(number)
            highest = max(highest, number)
        return late

    def swapped(self) -> int:
        """How many of these were overtaken by a few, of which none was overtaken itself.

        Prosody 0.12 lets what it routes between `<success/>` and the features that follow overtake
        what it had queued. In its own loop turn nothing on the wire tells these apart.
        """
        return sum(
            len(overtaken)
            for overtaking, overtaken in map(_disorder, _disturbed(self.order))
            if len(overtaking) <= MAX_OVERTAKING and not overtaking & overtaken
        )

    def latencies(self, since: float, until: float) -> list[float]:
        """Of what was sent in a span of time and arrived."""
        return [
            arrived_at - sent_at
            for sent_at, arrived_at in zip(self.sent_at, self.arrived_at, strict=True)
            if since <= sent_at < until and not math.isnan(arrived_at)
        ]

    def troubled_until(self, since: float, patience: float) -> float:
        """When the last stanza sent after `since` arrived later than `patience`, or came back.

        For one that is lost, when it was sent. Returns `since` when there was no trouble.
        """
        end = since
        for number, sent_at in enumerate(self.sent_at):
            arrived_at, bounced_at = self.arrived_at[number], self.bounced_at[number]
            if arrived_at < since:  # false for NaN
                continue
            if not math.isnan(arrived_at):
                if arrived_at - sent_at > patience:
                    end = max(end, arrived_at)
            elif not math.isnan(bounced_at):
                end = max(end, bounced_at)
            else:
                end = max(end, sent_at)
        return end

    def _count_copy(self, kind: Kind, *, is_marked: bool) -> None:
        if kind == Kind.RESULT:
            self.repeated_results += 1
        elif kind == Kind.MESSAGE:
            if is_marked:
                self.marked += 1
            else:
                self.unmarked += 1


def _disturbed(order: Sequence[int]) -> Iterator[Sequence[int]]:
    """The spans of what arrived that are in order only as a whole; alone, each stanza is one."""
    start, highest = 0, -1
    for at, (number, expected) in enumerate(zip(order, sorted(order), strict=True)):
        highest = max(highest, number)
        if highest == expected:
            yield order[start : at + 1]
            start = at + 1


def _disorder(span: Sequence[int]) -> tuple[set[int], set[int]]:
    """Who overtook others in it, and who was overtaken."""
    highest, lowest = -1, math.inf
    overtaken, overtaking = set(), set()
    for number in span:
        if number < highest:
            overtaken.add(number)
        highest = max(highest, number)
    for number in reversed(span):
        if number > lowest:
            overtaking.add(number)
        lowest = min(lowest, number)
    return overtaking, overtaken


def percentile(values: list[float], part: float) -> float:
    """The value that `part` (0..1) of them do not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[min(len(values) - 1, math.ceil(part * len(values)) - 1)]
