"""What a run comes to: its figures, and which promises of design.md §1 it broke (pure)."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from loadtest.chaos.faults import Impact
from loadtest.chaos.flow import Flow, Kind, percentile
from loadtest.chaos.traffic import Traffic

LATE = 1.0  # seconds: who waits longer has noticed the fault, unless it was slow before
SERVER_HOLDS = 2.0  # seconds of traffic that a stopping server may hold
# A killed worker's socket may hold this much that it never read, per stream from the local server.
RECEIVE_BUFFER = 262144
STANZA_BYTES = 300
CLOSING = 0.1  # seconds in which ejabberd may hand stanzas to a stream that it is closing
MAX_CLOSINGS = 2  # a rolling restart of two workers closes each stream at most so often

Ledgers = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By gateway, then by direction."""


@dataclass(slots=True)
class Outcome:
    """One row of the table; counts are stanzas, times seconds."""

    fault: str
    where: str
    seed: str
    seconds: float = 0.0
    stanzas: int = 0
    rate: float = 0.0
    """Stanzas per second of the slower direction."""
    withheld: int = 0
    lost_prosody: int = 0
    lost_ejabberd: int = 0
    lost_in_server: int = 0
    """A local server that is restarted forgets what it has; ejabberd also what it hands to a stream
    that is just being closed in order: no gateway ever read these."""
    undeliverable_results: int = 0
    """Results that could be neither delivered nor, by RFC 6120 §8.2.3, returned: counted drops."""
    worker_lost: int = 0
    doubled: int = 0
    repeated_results: int = 0
    reordered: int = 0
    swapped: int = 0
    """From Prosody, in an order that it makes itself where a stream begins: see `Flow.swapped`."""
    bounced: dict[str, int] = field(default_factory=dict)
    misjudged: int = 0
    """Bounced, and arrived nevertheless."""
    repeated_requests: int = 0
    replayed: int = 0
    returned: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    recovered_after: float = 0.0
    p99_before: float = math.nan
    p99_during: float = math.nan
    strays: int = 0
    broken: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }


def judge(
    outcome: Outcome,
    traffic: Traffic,
    impact: Impact,
    before: Ledgers,
    after: Ledgers,
    *,
    started_at: float,
    stopped_at: float,
) -> None:
    """Fill in the figures and name the promises that were broken."""
    flows = traffic.flows
    span = stopped_at - started_at
    outcome.where = impact.where
    outcome.seconds = span
    outcome.stanzas = sum(map(len, flows))
    outcome.rate = min(
        sum(len(flow) for flow in flows if flow.server == server) / span
        for server in ("prosody", "ejabberd")
    )
    outcome.withheld, outcome.strays = traffic.withheld, traffic.strays
    outcome.doubled = sum(flow.marked + flow.unmarked for flow in flows)
    outcome.repeated_results = sum(flow.repeated_results for flow in flows)
    outcome.swapped = sum(flow.swapped() for flow in flows if flow.server == "prosody")
    outcome.reordered = sum(len(flow.reordered()) for flow in flows) - outcome.swapped
    outcome.bounced = dict(sum((flow.conditions for flow in flows), Counter()))
    outcome.misjudged = sum(flow.misjudged() for flow in flows)
    outcome.repeated_requests = sum(len(flow.repeated_requests()) for flow in flows)
    outcome.broken += _read_ledgers(outcome, before, after)
    outcome.broken += _count_losses(outcome, flows, impact)
    outcome.broken += _promises(outcome, flows)
    _time(outcome, flows, impact, started_at, stopped_at)


def patience(flows: list[Flow], since: float, until: float) -> float:
    """How long a stanza may take, by what they took when all was calm: the machine may be busy."""
    calm = [each for flow in flows for each in flow.latencies(since, until)]
    usual = percentile(calm, 0.99)
    return LATE if math.isnan(usual) else max(LATE, 3 * usual)


def _promises(outcome: Outcome, flows: list[Flow]) -> Iterator[str]:
    if outcome.reordered:
        yield f"{outcome.reordered} reordered: {_examples(flows, Flow.reordered)}"
    if unmarked := sum(flow.unmarked for flow in flows):
        yield f"{unmarked} doubled without a mark"
    if outcome.repeated_requests:
        which = _examples(flows, Flow.repeated_requests)
        yield f"{outcome.repeated_requests} requests executed again: {which}"


def _read_ledgers(outcome: Outcome, before: Ledgers, after: Ledgers) -> Iterator[str]:
    dropped: Counter[str] = Counter()
    for gateway, directions in after.items():
        for direction, entry in directions.items():
            earlier = before[gateway][direction]
            outcome.replayed += entry["replayed"] - earlier["replayed"]
            outcome.returned += entry["returned"] - earlier["returned"]
            dropped.update(entry["dropped"])
            dropped.subtract(earlier["dropped"])
            ended = entry["acknowledged"] + entry["bounced"] + entry["returned"]
            ended += sum(entry["dropped"].values()) + entry["in_flight"]
            if ended != entry["accepted"]:
                yield f"ledger of {gateway} {direction}: {entry['accepted']} accepted, {ended} told"
            if entry["in_flight"]:
                yield f"ledger of {gateway} {direction}: {entry['in_flight']} stay in flight"
    outcome.dropped = {reason: count for reason, count in dropped.items() if count}
    outcome.worker_lost = outcome.dropped.get("worker-lost", 0)


def _count_losses(outcome: Outcome, flows: list[Flow], impact: Impact) -> Iterator[str]:
    lost: dict[tuple[str, str], list[int]] = {}
    results = 0
    for flow in flows:
        for number in flow.missing():
            if _died_in_server(flow, flow.sent_at[number], impact):
                outcome.lost_in_server += 1
            elif flow.kinds[number] == Kind.RESULT and results < outcome.dropped.get(
                "iq-result", 0
            ):
                results += 1
            else:
                lost.setdefault(flow.name, []).append(number)
    outcome.undeliverable_results = results
    by_name = {flow.name: flow for flow in flows}
    for name, numbers in lost.items():
        flow = by_name[name]
        if flow.server == "prosody":
            outcome.lost_prosody += len(numbers)
            yield f"from Prosody lost: {len(numbers)} of {_span(flow, numbers, impact)}"
        elif impact.closes_streams and _fell_to_closing_streams(flow, numbers):
            outcome.lost_in_server += len(numbers)
        else:
            outcome.lost_ejabberd += len(numbers)
            if name not in impact.read_by_victim:
                yield f"from ejabberd lost, not by the victim: {_span(flow, numbers, impact)}"
            elif len(numbers) * STANZA_BYTES > RECEIVE_BUFFER + SERVER_HOLDS:
                yield f"from ejabberd lost: more than a buffer: {_span(flow, numbers, impact)}"


def _died_in_server(flow: Flow, sent_at: float, impact: Impact) -> bool:
    """Whether a restarted server may have held it.

    ejabberd's end of a stream is answered by our component, so what it acknowledged has arrived;
    Prosody acknowledges what it has not yet written to the component.
    """
    if not impact.at - SERVER_HOLDS < sent_at < impact.until:
        return False
    return impact.restarted == flow.server or impact.restarted == "prosody"


def _fell_to_closing_streams(flow: Flow, numbers: list[int]) -> bool:
    """Whether these are moments' worth: ejabberd gives them to a stream that it has just closed.

    (No gateway read them: seen by writing down the id of every stanza that was read.)
    """
    moments, end = 0, -math.inf
    for number in numbers:
        if flow.sent_at[number] > end:
            moments, end = moments + 1, flow.sent_at[number] + CLOSING
    return moments <= MAX_CLOSINGS


def _span(flow: Flow, numbers: list[int], impact: Impact) -> str:
    first, last = flow.sent_at[numbers[0]] - impact.at, flow.sent_at[numbers[-1]] - impact.at
    kinds = Counter(Kind(flow.kinds[number]).name.lower() for number in numbers)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return (
        f"{flow.sender} → {flow.target} {numbers[0]}…{numbers[-1]}, "
        f"sent {first:+.2f}…{last:+.2f} s ({told})"
    )


def _examples(flows: list[Flow], of: Any) -> str:
    return "; ".join(f"{flow.sender} → {flow.target} {of(flow)[:5]}" for flow in flows if of(flow))


def _time(
    outcome: Outcome, flows: list[Flow], impact: Impact, started_at: float, stopped_at: float
) -> None:
    since = impact.until if impact.restarted else impact.at
    late = patience(flows, started_at, impact.at)
    end = max(flow.troubled_until(since, late) for flow in flows)
    outcome.recovered_after = end - since
    if any(flow.troubled_until(stopped_at - late, late) > stopped_at - late for flow in flows):
        outcome.broken.append("not recovered when the load ended")
    if impact.affected is None:
        return
    others = [flow for flow in flows if flow.name not in impact.affected]
    until = max(end, impact.until, impact.at + 1)
    during = [each for flow in others for each in flow.latencies(impact.at, until)]
    # Connections are warm after the first second.
    calm = [each for flow in others for each in flow.latencies(started_at + 1, impact.at)]
    outcome.p99_before, outcome.p99_during = percentile(calm, 0.99), percentile(during, 0.99)
