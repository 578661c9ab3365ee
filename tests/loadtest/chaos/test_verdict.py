"""Which runs break a promise, and what their figures are."""

import math
from typing import Any

import pytest

from loadtest.chaos.faults import Impact
from loadtest.chaos.flow import Flow, Kind
from loadtest.chaos.traffic import Traffic
from loadtest.chaos.verdict import Outcome, judge

ENTRY: dict[str, Any] = {
    **{"accepted": 10, "acknowledged": 10, "bounced": 0, "dropped": {}, "returned": 0},
    **{"in_flight": 0, "replayed": 0},
}
P, E = "p.example", "e.example"


class Case:
    """Ten stanzas each way, one a second; the fault strikes at 5."""

    def __init__(self) -> None:
        self.traffic = Traffic(1, (), {P: "prosody", E: "ejabberd"}, 1)
        self.impact = Impact(5.0, "gw/w1", affected=set(), until=5.0)
        self.after = {"gw": {"outbound": dict(ENTRY), "inbound": dict(ENTRY)}}
        for flow in self.traffic.flows:
            for number in range(10):
                flow.sent(Kind.MESSAGE, float(number))

    @property
    def from_prosody(self) -> Flow:
        return self.traffic.flows[0]

    @property
    def from_ejabberd(self) -> Flow:
        return self.traffic.flows[1]

    def deliver(self, *, but: dict[Flow, set[int]] | None = None, after: float = 0.1) -> None:
        for flow in self.traffic.flows:
            for number in range(10):
                if number not in (but or {}).get(flow, ()):
                    flow.arrived(number, number + after, is_marked=False)

    def outcome(self) -> Outcome:
        outcome = Outcome("worker-killed", "", "1")
        before = {"gw": {"outbound": dict(ENTRY), "inbound": dict(ENTRY)}}
        judge(
            outcome,
            self.traffic,
            self.impact,
            before,
            self.after,
            started_at=0.0,
            stopped_at=20.0,
        )
        return outcome


@pytest.fixture
def case() -> Case:
    return Case()


def test_a_run_in_which_nothing_happens_keeps_every_promise(case: Case) -> None:
    case.deliver()
    outcome = case.outcome()
    assert outcome.broken == []
    assert (outcome.stanzas, outcome.rate) == (20, 0.5)
    assert outcome.recovered_after == 0
    assert outcome.p99_during == pytest.approx(0.1)


def test_nothing_from_prosody_may_be_lost(case: Case) -> None:
    case.deliver(but={case.from_prosody: {5}})
    outcome = case.outcome()
    assert outcome.lost_prosody == 1
    assert "from Prosody lost" in outcome.broken[0]


def test_what_ejabberd_sent_may_be_lost_with_the_worker_that_read_it(case: Case) -> None:
    case.deliver(but={case.from_ejabberd: {5}})
    case.impact.read_by_victim = {(E, P)}
    case.after["gw"]["outbound"].update(accepted=11, dropped={"worker-lost": 1})
    outcome = case.outcome()
    assert outcome.broken == []
    assert (outcome.lost_ejabberd, outcome.worker_lost) == (1, 1)


def test_what_ejabberd_sent_may_not_be_lost_elsewhere(case: Case) -> None:
    case.deliver(but={case.from_ejabberd: {5}})
    assert "not by the victim" in case.outcome().broken[0]


@pytest.mark.parametrize(("lost", "is_broken"), [({5}, False), ({3, 5}, False), ({3, 4, 5}, True)])
def test_ejabberd_may_lose_a_moment_of_a_stream_that_is_closed(
    case: Case, lost: set[int], is_broken: bool
) -> None:
    case.deliver(but={case.from_ejabberd: lost})
    case.impact.closes_streams = True
    outcome = case.outcome()
    assert bool(outcome.broken) == is_broken
    assert outcome.lost_in_server == (0 if is_broken else len(lost))


def test_a_restarted_server_forgets_what_it_held(case: Case) -> None:
    case.deliver(but={case.from_ejabberd: {4}, case.from_prosody: {4}})
    case.impact.restarted, case.impact.until = "prosody", 9.0
    outcome = case.outcome()
    assert outcome.broken == []
    assert outcome.lost_in_server == 2


def test_what_is_sent_to_a_restarted_ejabberd_is_not_forgotten(case: Case) -> None:
    case.deliver(but={case.from_ejabberd: {4}, case.from_prosody: {4}})
    case.impact.restarted, case.impact.until = "ejabberd", 9.0
    outcome = case.outcome()
    assert (outcome.lost_in_server, outcome.lost_prosody) == (1, 1)


def test_results_that_were_dropped_and_counted_are_not_lost(case: Case) -> None:
    case.from_prosody.kinds[5] = Kind.RESULT
    case.deliver(but={case.from_prosody: {5}})
    case.after["gw"]["outbound"].update(accepted=11, dropped={"iq-result": 1})
    outcome = case.outcome()
    assert outcome.broken == []
    assert outcome.undeliverable_results == 1


def test_disorder_unmarked_copies_and_repeated_requests_break_a_promise(case: Case) -> None:
    flow = case.from_prosody
    flow.kinds[3] = Kind.REQUEST
    for number in (2, 1, 0, 0, 3, 3, 4, 5, 6, 7, 8, 9):
        flow.arrived(number, 9.5, is_marked=False)
    for number in range(10):
        case.from_ejabberd.arrived(number, number + 0.1, is_marked=False)
    told = "\n".join(case.outcome().broken)
    for text in ("2 reordered", "1 doubled without a mark", "1 requests executed again"):
        assert text in told


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"accepted": 11}, "11 accepted, 10 told"),
        ({"accepted": 11, "in_flight": 1}, "1 stay in flight"),
    ],
)
def test_the_ledger_must_balance(case: Case, change: dict[str, int], text: str) -> None:
    case.deliver()
    case.after["gw"]["inbound"].update(change)
    assert text in case.outcome().broken[0]


def test_seconds_to_recover_end_with_the_last_late_stanza(case: Case) -> None:
    case.deliver(but={case.from_prosody: {6, 7}})
    for number in (6, 7):
        case.from_prosody.arrived(number, 8.5, is_marked=False)
    assert case.outcome().recovered_after == 3.5


def test_a_load_that_ends_in_trouble_has_not_recovered(case: Case) -> None:
    for flow in case.traffic.flows:
        flow.sent(Kind.MESSAGE, 19.5)
    case.deliver()
    assert "not recovered when the load ended" in case.outcome().broken


def test_other_domains_are_those_that_are_not_affected(case: Case) -> None:
    case.impact.affected = {(P, E)}
    case.deliver(but={case.from_ejabberd: {5}})
    case.from_ejabberd.arrived(5, 5.9, is_marked=False)
    case.impact.read_by_victim = set()
    outcome = case.outcome()
    assert outcome.p99_before == pytest.approx(0.1)
    assert outcome.p99_during == pytest.approx(0.9)


def test_what_is_not_known_is_null_in_json() -> None:
    outcome = Outcome("none", "", "1")
    assert math.isnan(outcome.p99_during)
    assert outcome.as_json()["p99_during"] is None
