"""The fate of every stanza, by its end-to-end id."""

import random

from loadtest.load.account import Account
from loadtest.load.ledger import Ledger

ROOM = "room1@sink.example"


class Told:
    """What was noted for locust's tables."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []
        self.good = 0

    def __call__(self, name: str, seconds: float | None, error: str) -> None:
        if error:
            self.failures.append((name, error))
        else:
            assert seconds is not None
            assert seconds >= 0
            self.good += 1


def balanced(account: Account) -> bool:
    return account.sent == (
        account.delivered + account.bounces + account.returned + account.lost + account.waiting
    )


def test_what_is_answered_is_delivered_with_its_latency() -> None:
    told = Told()
    ledger = Ledger("run", told)
    flow = ledger.new_flow()
    ledger.answered(ledger.send(flow, "chat"))
    account = ledger.record.accounts["chat"]
    assert (account.sent, account.delivered, account.waiting, len(account.latency)) == (1, 1, 0, 1)
    assert told.good == 1
    assert ledger.is_settled("a.example", [flow])


def test_what_never_comes_is_lost_at_the_end_and_not_before() -> None:
    told = Told()
    ledger = Ledger("run", told)
    flow = ledger.new_flow()
    ledger.send(flow, "chat")
    account = ledger.record.accounts["chat"]
    assert (account.waiting, account.lost) == (1, 0)
    assert not ledger.is_settled("a.example", [flow])
    ledger.write_off()
    assert (account.waiting, account.lost) == (0, 1)
    assert told.failures == [("chat", "lost")]


def test_an_error_is_a_bounce_by_its_condition() -> None:
    told = Told()
    ledger = Ledger("run", told)
    ledger.answered(ledger.send(ledger.new_flow(), "chat"), error="remote-server-timeout")
    assert ledger.record.accounts["chat"].bounced == {"remote-server-timeout": 1}
    assert told.failures == [("chat", "remote-server-timeout")]


def test_a_second_answer_is_a_double_unless_it_is_marked() -> None:
    ledger = Ledger("run", Told())
    flow = ledger.new_flow()
    id = ledger.send(flow, "chat")
    ledger.answered(id)
    ledger.answered(id)
    ledger.answered(id, is_marked=True)
    account = ledger.record.accounts["chat"]
    assert (account.delivered, account.doubled, account.replayed) == (1, 1, 1)


def test_a_second_result_of_a_request_is_no_double() -> None:
    ledger = Ledger("run", Told())
    id = ledger.send(ledger.new_flow(), "iq ping")
    ledger.answered(id, is_result=True)
    ledger.answered(id, is_result=True)
    account = ledger.record.accounts["iq ping"]
    assert (account.delivered, account.doubled, account.replayed) == (1, 0, 1)


def test_an_answer_after_a_later_ones_is_out_of_order() -> None:
    ledger = Ledger("run", Told())
    flow = ledger.new_flow()
    first, second, third = (ledger.send(flow, "chat") for _ in range(3))
    for id in (second, first, third):
        ledger.answered(id)
    assert ledger.record.accounts["chat"].reordered == 1


def test_flows_have_no_order_between_them() -> None:
    ledger = Ledger("run", Told())
    one, other = ledger.new_flow(), ledger.new_flow()
    first, second = ledger.send(one, "chat"), ledger.send(other, "chat")
    ledger.answered(second)
    ledger.answered(first)
    assert ledger.record.accounts["chat"].reordered == 0


def test_what_was_returned_and_comes_all_the_same_is_delivered() -> None:
    ledger = Ledger("run", Told())
    flow = ledger.new_flow()
    id = ledger.send(flow, "chat")
    ledger.returned(id)
    account = ledger.record.accounts["chat"]
    assert (account.returned, account.delivered) == (1, 0)
    ledger.answered(id)
    assert (account.returned, account.delivered, account.doubled) == (0, 1, 0)


def test_foreign_ids_are_strays() -> None:
    ledger = Ledger("run", Told())
    flow = ledger.new_flow()
    ledger.send(flow, "chat")
    for id in ("other.0.0", "run.7.0", "run.0.5", "run.x.y", "", "hello"):
        ledger.answered(id)
    assert ledger.record.accounts["stray"].delivered == 6
    assert ledger.record.accounts["chat"].waiting == 1


def test_gaps_in_a_feed_are_missing_until_they_come() -> None:
    ledger = Ledger("run", Told())
    ledger.subscribe("a.example", ROOM, "copy")
    post = ledger.send(ledger.new_flow(), "room", is_post=True)
    ledger.copied("a.example", ROOM, 0, post)
    ledger.copied("a.example", ROOM, 3, post)
    account = ledger.record.accounts["copy"]
    assert (account.sent, account.delivered, account.waiting) == (4, 2, 2)
    assert not ledger.is_settled("a.example", [])
    ledger.copied("a.example", ROOM, 1, post)
    ledger.copied("a.example", ROOM, 1, post)
    assert (account.delivered, account.reordered, account.doubled) == (3, 1, 1)
    assert len(account.latency) == 3


def test_a_tally_finds_what_was_lost_at_the_end_of_a_feed() -> None:
    ledger = Ledger("run", Told())
    ledger.subscribe("a.example", ROOM, "copy")
    ledger.copied("a.example", ROOM, 0, "post")
    ledger.tally("a.example", ROOM, 3)
    ledger.refused_copy("a.example", ROOM, 1, "gone")
    ledger.write_off()
    account = ledger.record.accounts["copy"]
    assert (account.sent, account.delivered, account.lost) == (3, 1, 1)
    assert account.bounced == {"gone": 1}


def test_every_account_adds_up_whatever_happens() -> None:
    seeded = random.Random(5)
    ledger = Ledger("run", Told())
    ledger.subscribe("a.example", ROOM, "copy")
    flows = [ledger.new_flow() for _ in range(3)]
    ids: list[str] = []
    for _ in range(3000):
        what = seeded.randrange(7)
        if what < 3 or not ids:
            ids.append(ledger.send(seeded.choice(flows), seeded.choice(["chat", "iq ping"])))
        elif what == 3:
            ledger.answered(seeded.choice(ids), is_marked=seeded.random() < 0.5)
        elif what == 4:
            ledger.answered(seeded.choice(ids), error="gone")
        elif what == 5:
            ledger.returned(seeded.choice(ids))
        else:
            ledger.copied("a.example", ROOM, seeded.randrange(500), "post")
        assert all(map(balanced, ledger.record.accounts.values()))
    ledger.write_off()
    assert all(map(balanced, ledger.record.accounts.values()))
    assert not any(each.waiting for each in ledger.record.accounts.values())
