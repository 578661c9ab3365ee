"""A request that comes a second time is recognised for as long as it can come."""

from coordinator.routes import DomainPair
from workers.gateway.requests import MAX_AGE, MAX_REQUESTS, RECENT, Repeat, Requests, Taken
from workers.xmpp.stanza import Stanza

PAIR = DomainPair("a.example", "b.example")
OTHER = DomainPair("a.example", "c.example")
KEY = ("x@a.example", "1")


def iq(id: str | None, *, type: str = "set", sender: str = "x@a.example") -> Stanza:
    return Stanza("iq", b"<iq/>", sender, "y@b.example", id, type, *PAIR)


def test_what_this_worker_has_taken_is_told_from_what_a_dead_one_may_have_sent() -> None:
    requests = Requests()
    requests.remember(PAIR, [KEY], 10.0)
    requests.suspect(PAIR, [("x@a.example", "2")], 10.0)
    assert requests.judge(PAIR, iq("1"), 11.0) is Repeat.TAKEN
    assert requests.judge(PAIR, iq("2"), 11.0) is Repeat.UNCERTAIN
    assert requests.judge(PAIR, iq("3"), 11.0) is None
    assert requests.judge(OTHER, iq("1"), 11.0) is None
    assert requests.judge(PAIR, iq("1", sender="z@a.example"), 11.0) is None


def test_only_requests_are_judged_and_only_with_an_id() -> None:
    requests = Requests()
    requests.remember(PAIR, [KEY, ("x@a.example", None)], 10.0)
    assert requests.judge(PAIR, iq("1", type="result"), 10.0) is None
    assert requests.judge(PAIR, iq(None), 10.0) is None


def test_old_ones_are_forgotten() -> None:
    requests = Requests()
    requests.remember(PAIR, [KEY], 0.0)
    requests.suspect(OTHER, [("x@a.example", "1")], 1.0)
    assert requests.judge(PAIR, iq("1"), MAX_AGE) is None
    assert OTHER in requests.suspicious and PAIR not in requests.suspicious
    requests.forget_old(MAX_AGE + 2.0)
    assert OTHER not in requests.suspicious
    assert requests.judge(OTHER, iq("1"), 1.0) is None


def test_the_memory_is_as_large_as_the_ring_of_the_sender() -> None:
    requests = Requests()
    requests.remember(PAIR, [(KEY[0], str(at)) for at in range(MAX_REQUESTS + 1)], 0.0)
    assert requests.judge(PAIR, iq("0"), 0.0) is None
    assert requests.judge(PAIR, iq("1"), 0.0) is Repeat.TAKEN


def test_after_an_end_in_order_only_what_was_not_acknowledged_can_come_again() -> None:
    taken = Taken()
    taken.add([iq("1"), iq("2")], 5, 0.0)
    taken.add([iq("3")], 6, 1.0)
    assert taken.left(5, 2.0, is_clean=True) == [("x@a.example", "3")]
    assert taken.left(6, 2.0, is_clean=True) == []


def test_after_a_break_the_last_acknowledgements_may_not_have_arrived() -> None:
    taken = Taken()
    taken.add([iq("1")], 1, 0.0)
    taken.add([iq("2")], 2, 5.0)
    taken.add([iq("3")], 3, 5.0)
    now = 1.0 + RECENT
    assert [key[1] for key in taken.left(2, now, is_clean=False)] == ["2", "3"]


def test_what_is_handled_for_long_is_not_kept() -> None:
    taken = Taken()
    taken.add([iq("1")], 1, 0.0)
    taken.add([iq("2")], 2, 0.0)
    taken.forget_handled(1, RECENT + 1.0)
    assert [key[1] for key in taken.left(0, 1.0, is_clean=True)] == ["2"]
