"""The bookkeeping of responsibility, as a random walk against a simple model."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coordinator.accounts import (
    ACCEPTED,
    ACK_SM,
    ACK_WEBSOCKET_PING,
    IN_FLIGHT_OURS,
    IN_FLIGHT_RESENDABLE,
)
from tests.workers.gateway.hop_bench import settle_bounced
from tests.workers.gateway.outbox_scene import LARGE, Told, a_stanza, same
from workers.gateway.outbox import Outbox
from workers.gateway.replies import Failed


class Ledger(RuleBasedStateMachine):
    """One origin, two outboxes; the model knows each stanza's place and whether it has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.told = Told()
        self.boxes = (Outbox(), Outbox())
        self.tokens: tuple[deque[str], deque[str]] = (deque(), deque())
        self.ended: dict[str, bool] = {}
        """By the order of arrival: whether responsibility has passed on."""
        self.sent: tuple[list[str], list[str]] = ([], [])
        self.waiting: tuple[list[str], list[str]] = ([], [])
        self.requests: set[str] = set()
        self.large: set[str] = set()
        self.kept: set[str] = set()
        self.next = 0

    which = st.integers(0, 1)

    @rule(box=which, kinds=st.lists(st.sampled_from("mmmrl"), min_size=1, max_size=5))
    def accept(self, box: int, kinds: list[str]) -> None:
        stanzas = []
        for kind in kinds:
            id = str(self.next)
            self.next += 1
            stanzas.append(a_stanza(id, request=kind == "r", large=kind == "l"))
            self.ended[id] = False
            self.waiting[box].append(id)
            (self.requests if kind == "r" else self.large if kind == "l" else set()).add(id)
        self.boxes[box].push(self.told.origin.accept(stanzas))

    @rule(box=which)
    def send(self, box: int) -> None:
        assert [s.id for s in self.boxes[box].take(same)] == self.waiting[box]
        self.sent[box].extend(self.waiting[box])
        self.waiting[box].clear()

    @rule(box=which)
    def send_one(self, box: int) -> None:
        if self.waiting[box]:
            first = self.waiting[box].pop(0)
            assert [s.id for s in self.boxes[box].take_one(same)] == [first]
            self.sent[box].append(first)

    @rule(box=which)
    def give_up_first(self, box: int) -> None:
        if self.waiting[box]:
            first = self.waiting[box].pop(0)
            failed = self._bounce(self.boxes[box].fail_one())
            assert [each.stanza.id for each in failed] == [first]

    @rule(box=which, count=st.integers(0, 8))
    def acknowledge(self, box: int, count: int) -> None:
        if self.tokens[box]:
            return  # a session has either acknowledgements or barriers
        self.boxes[box].acknowledge(count, ACK_SM)
        self._end(box, count)

    @rule(box=which)
    def mark(self, box: int) -> None:
        token = f"t{self.next}-{len(self.tokens[box])}"
        self.next += 1
        self.boxes[box].mark(token, 0.0)
        self.tokens[box].append(f"{token} {len(self.sent[box])}")

    @rule(box=which, data=st.data())
    def answer_barrier(self, box: int, data: st.DataObject) -> None:
        if not self.tokens[box]:
            return
        at = data.draw(st.integers(0, len(self.tokens[box]) - 1))
        token, _, covered = self.tokens[box][at].partition(" ")
        assert self.boxes[box].pass_barrier(token, ACK_WEBSOCKET_PING)
        count = int(covered)
        self._end(box, count)
        left = list(self.tokens[box])[at + 1 :]
        self.tokens[box].clear()
        for later in left:
            name, _, number = later.partition(" ")
            self.tokens[box].append(f"{name} {int(number) - count}")

    @rule(box=which)
    def lose_hop(self, box: int) -> None:
        requests = [failed.stanza.id for failed in self._bounce(self.boxes[box].take_back())]
        assert requests == [id for id in self.sent[box] if id in self.requests]
        again = [id for id in self.sent[box] if id not in self.requests]
        self.waiting[box][:0] = again
        self.sent[box].clear()
        self.tokens[box].clear()

    @rule(box=which)
    def refuse_large(self, box: int) -> None:
        refused = [
            failed.stanza.id for failed in self._bounce(self.boxes[box].remove_larger(LARGE))
        ]
        assert refused == [id for id in self.waiting[box] if id in self.large]
        self.waiting[box][:] = [id for id in self.waiting[box] if id not in self.large]

    @rule(box=which)
    def give_up(self, box: int) -> None:
        gone = [failed.stanza.id for failed in self._bounce(self.boxes[box].fail_all())]
        assert gone == self.sent[box] + self.waiting[box]
        for queue in (self.sent[box], self.waiting[box], self.tokens[box]):
            queue.clear()

    @rule(count=st.integers(0, 3))
    def keep(self, count: int) -> None:
        self.kept.update(self.told.journal.keep(count))

    @rule(resendable=st.booleans())
    def enable(self, resendable: bool) -> None:
        self.told.origin.resendable = resendable

    @precondition(lambda self: not self.told.origin.lost)
    @rule(really=st.sampled_from([False] * 9 + [True]))
    def lose_origin(self, really: bool) -> None:
        if really:
            self.told.origin.lose()

    def _bounce(self, failed: list[Failed]) -> list[Failed]:
        for each in failed:
            settle_bounced(each)
            self.ended[each.stanza.id or ""] = True
        return failed

    def _end(self, box: int, count: int) -> None:
        for id in self.sent[box][:count]:
            self.ended[id] = True
        del self.sent[box][:count]

    @invariant()
    def the_ledger_balances(self) -> None:
        counters = self.told.counters
        assert counters[ACCEPTED] == len(self.ended)
        assert counters[ACCEPTED] == self.told.ends() + self.told.in_flight()
        assert self.told.ends() == sum(self.ended.values())

    @invariant()
    def in_flight_is_what_the_queues_hold(self) -> None:
        held = sum(box.in_flight for box in self.boxes)
        assert self.told.in_flight() == self.told.origin.in_flight == held
        counts = (self.told.counters[IN_FLIGHT_OURS], self.told.counters[IN_FLIGHT_RESENDABLE])
        assert self.told.origin.count() == counts

    @invariant()
    def nothing_is_handled_before_what_came_before_it(self) -> None:
        ended = [has_ended or id in self.kept for id, has_ended in self.ended.items()]
        prefix = ended.index(False) if False in ended else len(ended)
        assert self.told.handled <= prefix
        if all(ended) and not self.told.origin.lost:
            assert self.told.handled == len(ended)

    @invariant()
    def bytes_that_wait_are_counted(self) -> None:
        for box, waiting in zip(self.boxes, self.waiting, strict=True):
            sizes = [LARGE + 1 if id in self.large else 10 for id in waiting]
            assert box.waiting_bytes == sum(sizes)
            assert box.has_waiting == bool(waiting)


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
