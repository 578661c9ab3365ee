"""The fate of every stanza of a flow, as told."""

import math

import pytest

from loadtest.chaos.flow import Flow, Kind, percentile


def flow_of(*kinds: Kind) -> Flow:
    """One stanza a second from 0 on."""
    flow = Flow("a.example", "b.example", "prosody")
    for at, kind in enumerate(kinds):
        assert flow.sent(kind, float(at)) == at
    return flow


def test_what_neither_arrives_nor_comes_back_is_missing() -> None:
    flow = flow_of(*3 * [Kind.MESSAGE])
    flow.arrived(0, 0.1, is_marked=False)
    flow.bounced(2, "remote-server-timeout", 3)
    assert list(flow.missing()) == [1]
    assert flow.conditions == {"remote-server-timeout": 1}
    assert flow.misjudged() == 0


def test_what_comes_back_and_arrives_is_misjudged() -> None:
    flow = flow_of(Kind.MESSAGE)
    flow.bounced(0, "remote-server-timeout", 3)
    flow.arrived(0, 4, is_marked=True)
    assert flow.misjudged() == 1
    assert not list(flow.missing())


def test_only_first_copies_are_out_of_order() -> None:
    flow = flow_of(*4 * [Kind.MESSAGE])
    for number in (0, 1, 3, 2, 0, 1):
        flow.arrived(number, 5, is_marked=True)
    assert flow.reordered() == [2]
    assert flow.marked == 2


@pytest.mark.parametrize(
    ("order", "swapped", "reordered"),
    [
        ([0, 1, 2, 3, 4, 5], 0, []),
        ([0, 1, 4, 2, 3, 5], 2, [2, 3]),  # 4 overtook 2 and 3
        ([4, 5, 0, 1, 2, 3], 4, [0, 1, 2, 3]),
        ([0, 1, 5, 2, 3, 4], 3, [2, 3, 4]),  # at the end
        ([0, 4, 2, 3, 1, 5], 0, [2, 3, 1]),
        ([0, 2, 1, 3, 5, 4], 2, [1, 4]),  # twice
        ([0, 5, 2], 1, [2]),  # the others did not arrive
        ([3, 0, 2, 1], 0, [0, 2, 1]),
        ([0, 4, 1, 2, 5, 3], 3, [1, 2, 3]),  # 4 overtook all, and 5 the last
    ],
)
def test_a_swap_is_what_a_few_overtook_that_nothing_overtook(
    order: list[int], swapped: int, reordered: list[int]
) -> None:
    flow = flow_of(*6 * [Kind.MESSAGE])
    for number in order:
        flow.arrived(number, 9, is_marked=False)
    assert (flow.swapped(), flow.reordered()) == (swapped, reordered)


def test_what_many_overtook_is_no_swap() -> None:
    flow = flow_of(*40 * [Kind.MESSAGE])
    for number in (*range(1, 40), 0):
        flow.arrived(number, 9, is_marked=False)
    assert flow.swapped() == 0


def test_a_copy_says_that_it_is_late_or_is_counted_as_unmarked() -> None:
    flow = flow_of(Kind.MESSAGE, Kind.REQUEST, Kind.RESULT)
    for number in range(3):
        assert flow.arrived(number, 5, is_marked=False)
        assert not flow.arrived(number, 6, is_marked=False)
    assert (flow.unmarked, flow.marked) == (1, 0)
    assert flow.repeated_requests() == [1]
    assert flow.repeated_results == 1


def test_latencies_are_those_of_what_was_sent_in_the_span() -> None:
    flow = flow_of(*4 * [Kind.MESSAGE])
    for number in (0, 1, 2):
        flow.arrived(number, number + 0.25, is_marked=False)
    assert flow.latencies(1, 4) == [0.25, 0.25]


@pytest.mark.parametrize(
    ("arrivals", "bounces", "end"),
    [
        ({0: 0.1, 1: 1.1, 2: 2.1}, {}, 1.0),  # all in time
        ({0: 0.1, 1: 3.5, 2: 3.6}, {}, 3.6),  # late
        ({0: 0.1, 2: 2.1}, {1: 9.0}, 9.0),  # bounced
        ({0: 0.1, 1: 1.1}, {}, 2.0),  # the last one lost, sent at 2
        ({1: 1.1, 2: 2.1}, {}, 1.0),  # lost before
        ({0: 4.0, 1: 4.0, 2: 4.0}, {}, 4.0),  # sent before, felt it
    ],
)
def test_trouble_ends_with_the_last_late_or_lost_stanza(
    arrivals: dict[int, float], bounces: dict[int, float], end: float
) -> None:
    flow = flow_of(*3 * [Kind.MESSAGE])
    for number, at in arrivals.items():
        flow.arrived(number, at, is_marked=False)
    for number, at in bounces.items():
        flow.bounced(number, "timeout", at)
    assert flow.troubled_until(1.0, patience=1.0) == end


def test_percentiles() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert math.isnan(percentile([], 0.5))
