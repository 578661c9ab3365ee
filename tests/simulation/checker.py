"""What must hold: looked at as it happens, and once more when everything has come to rest."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation import stanzas
from tests.simulation.network import End, Wire
from tests.simulation.stanzas import ERROR, REQUEST, RESULT, Token
from tests.simulation.world import World

RECOVERY = 12.0
"""Seconds within which others take over what a worker, or a machine, has left."""


@dataclass(slots=True)
class Sent:
    """A stanza that a user sent, and what became of it."""

    id: str
    direction: str
    pair: int
    number: int
    kind: str
    origin: str
    target: str
    can_resend: bool = True
    """The previous hop will send it again until it is told otherwise."""
    copies: list[bool] = field(default_factory=list)
    """One for each time it arrived: was it marked as late?"""
    bounced: str = ""
    excuse: str = ""
    """Why it may be lost."""
    stream: int = 0
    """The connection on which it was sent last."""
    readers: set[str] = field(default_factory=set)
    arrived_at: float = 0.0

    @property
    def is_ended(self) -> bool:
        return bool(self.copies or self.bounced)

    @property
    def is_silent(self) -> bool:
        """RFC 6120 forbids to answer it: undeliverable, it is dropped and counted."""
        return self.kind in (RESULT, ERROR)


class Checker:
    """Follows every stanza; tells the world what is wrong."""

    def __init__(self, world: World, redis_ids: Callable[[], set[str]]) -> None:
        self.world = world
        self.sent: dict[str, Sent] = {}
        self.undeliverable: Callable[[], int] = lambda: 0
        """So many bounces were dropped, and counted, for want of a way back."""
        self.open: set[str] = set()
        """Ids of what has not ended."""
        self.kept_ever: set[str] = set()
        self.lost_data_at = 0.0
        self.gave_up_at = 0.0
        self.troubles: list[tuple[float, float]] = []
        """When Redis did not answer everybody in time: begin and end."""
        self.had_fault = False
        self.faults = 0
        self.unordered: set[str] = set()
        """Ids of stanzas whose order their own server does not tell."""
        self.two_owners: set[int] = set()
        """Pairs whose new owner has waited for the old one in vain: order gives way (§1.4)."""
        self.window: list[int] = []
        """How many stanzas died with each worker, beyond what could be sent again."""
        self.doubles = 0
        self.departures: list[float] = []
        """When workers died or began to drain."""
        self.owners: dict[tuple[str, int], str] = {}
        self._last: dict[tuple[str, int, int], int] = {}
        self._redis_ids = redis_ids

    def note(self, text: str) -> None:
        self.world.trace("checker", text)

    def will_send(self, sent: Sent) -> None:
        self.sent[sent.id] = sent
        self.open.add(sent.id)

    # What the servers tell.

    def never_sent(self, ids: list[str]) -> None:
        for id in ids:
            del self.sent[id]
            self.open.discard(id)

    def written(self, ids: tuple[str, ...], *, can_resend: bool, stream: int) -> None:
        for id in ids:
            if id:
                self.sent[id].can_resend = can_resend
                self.sent[id].stream = stream
        self.world.trace("written", " ".join(ids) + ("" if can_resend else " (once)"))

    def acknowledged_to_origin(self, id: str) -> None:
        """The previous hop forgets the stanza: somebody else must have it."""
        sent = self.sent[id]
        sent.can_resend = False
        if sent.is_ended or sent.is_silent or id in self.kept_ever:
            return
        if not self.undeliverable():  # else `finish` counts them
            self.world.fail(f"{id} was acknowledged, and nobody else had it")

    def bounced(self, id: str, by: str) -> None:
        if id in self.sent:
            self.sent[id].bounced = by
            self.open.discard(id)
            self.note(f"{id} bounced {by}")

    def excuse(self, id: str, why: str) -> None:
        sent = self.sent.get(id)
        if sent is not None and not sent.is_ended and not sent.excuse:
            sent.excuse = why
            self.open.discard(id)
            self.note(f"{id} may be lost: {why}")

    def arrived(self, id: str, token: Token, *, at: str) -> None:
        """A stanza of ours reached a server; one with the id of the other direction is its error"""
        self.world.trace(at, f"got {token.name} {id} {token.attributes.get('type', '')}")
        sent = self.sent.get(id)
        if sent is None:
            # The answer to a ping of a worker that died meanwhile is passed on: it does no harm.
            if id and not (self.had_fault and id.startswith("fedgate-barrier-")):
                self.world.fail(f"{at} got {id!r}, which nobody sent")
            return
        if at != sent.target:
            if token.attributes.get("type") != "error":
                self.world.fail(f"{id} came to {at}")
            self.bounced(id, "to " + at)
            return
        is_marked = stanzas.is_marked(token.data)
        sent.copies.append(is_marked)
        self.open.discard(id)
        if len(sent.copies) == 1:
            sent.arrived_at = self.world.now
            self._check_order(sent)
        else:
            self._check_double(sent)

    def _check_order(self, sent: Sent) -> None:
        if sent.excuse or sent.bounced or sent.id in self.unordered:
            return  # it survived in a worker that stood still, for one
        # Streams of the local server have one owner (design.md §1.3); sessions from remotes may be
        # anywhere, and each is in order by itself.
        way = (sent.direction, sent.pair, sent.stream if sent.direction == "i" else 0)
        before = self._last.get(way, 0)
        if sent.number >= before:
            self._last[way] = sent.number
        elif sent.pair not in self.two_owners and not self._was_abandoned():
            self.world.fail(f"{sent.id} arrived after {sent.direction}{sent.pair}-{before}")

    def _check_double(self, sent: Sent) -> None:
        self.doubles += 1
        if sent.kind == REQUEST:
            if self._may_have_no_note(sent):
                return
            self.world.fail(f"the request {sent.id} was executed {len(sent.copies)} times")
        elif sent.kind != RESULT and sent.copies.count(False) > 1:
            self.world.fail(f"{sent.id} arrived twice without a mark")
        if not self.had_fault:
            self.world.fail(f"{sent.id} arrived twice without any fault")

    def _was_abandoned(self) -> bool:
        """Two failures: Redis was in trouble while what a worker left was to be taken over."""
        return any(
            begin < at + RECOVERY and at - 2.0 < end
            for at in self.departures
            for begin, end in self.troubles
        )

    def _may_have_no_note(self, sent: Sent) -> bool:
        """Two failures: nobody could note the request, or Redis lost the note, and a worker died"""
        at = sent.arrived_at
        return (
            max(self.lost_data_at, self.gave_up_at) > at - 2.0
            or any(begin < at and at - 2.0 < end for begin, end in self.troubles)
            or self._was_abandoned()
        )

    # What the network, the workers and Redis tell.

    def on_read(self, end: End, ids: tuple[str, ...]) -> None:
        for id in ids:
            if id:
                self.sent[id].readers.add(end.process.name)

    def on_lost(self, wire: Wire, sender: End, ids: tuple[str, ...], why: str) -> None:
        """What was under way is lost: through a fault, or through what the code under test did."""
        fate = "lost on the way"
        for id in ids:
            sent = self.sent.get(id)
            if sent is None or sent.can_resend:
                continue
            if not why.startswith("the reader") or sender.peer.process.is_dead:
                self.excuse(id, why)
            fate = why
        self.world.trace("lost", f"{' '.join(ids)}: {fate}")

    def worker_leaves(self) -> None:
        self.departures.append(self.world.now)

    def worker_died(self, name: str) -> None:
        """What it had read, and nobody else has, dies with it: the window."""
        self.worker_leaves()
        ids = self._redis_ids()
        lost = 0
        for id in sorted(self.open):
            sent = self.sent[id]
            if name in sent.readers and not sent.can_resend and id not in ids:
                lost += 1
                self.excuse(id, f"died with {name}, not yet kept")
        self.window.append(lost)

    def redis_forgot(self, held: set[str]) -> None:
        """Redis lost data; `held`: what living workers have in memory."""
        self.lost_data_at = self.world.now
        for id in sorted(self.open - held):
            if id in self.kept_ever:
                self.excuse(id, "was in Redis alone, which lost its data")

    def redis_troubled(self, begin: float, end: float) -> None:
        self.troubles.append((begin, end))

    def on_route(self, route: str, owner: str, epoch: int) -> None:
        known = self.owners.setdefault((route, epoch), owner)
        if known != owner:
            self.world.fail(f"{route} has two owners in epoch {epoch}: {known} and {owner}")

    # At rest.

    def finish(self) -> None:
        left = []
        for sent in self.sent.values():
            if sent.is_ended or sent.excuse:
                continue
            if sent.is_silent and self.had_fault:
                continue  # dropped: the ledger counts it
            left.append(sent)
        if len(left) > self.undeliverable():
            for sent in left:
                self.world.fail(f"{sent.id} ({sent.kind}) is lost; read by {sorted(sent.readers)}")
        if not self.had_fault:
            for sent in self.sent.values():
                if len(sent.copies) != 1 or sent.bounced:
                    self.world.fail(f"{sent.id} without any fault: {sent}")

    def summary(self) -> dict[str, Any]:
        every = self.sent.values()
        return {
            "stanzas": len(self.sent),
            "faults": self.faults,
            "bounced": sum(bool(sent.bounced) for sent in every),
            "excused": sum(bool(sent.excuse) and not sent.is_ended for sent in every),
            "doubled": self.doubles,
            "window": sum(self.window),
        }
