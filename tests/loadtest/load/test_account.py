"""One line of the ledger."""

from loadtest.load.account import Account


def test_merging_adds_every_count() -> None:
    one = Account(sent=5, delivered=3, lost=1)
    one.bounce("gone")
    one.latency.add(0.01)
    other = Account(sent=2, waiting=1, doubled=4)
    other.bounce("gone")
    other.bounce("conflict")
    one.merge(other)
    assert (one.sent, one.delivered, one.lost, one.waiting, one.doubled) == (7, 3, 1, 1, 4)
    assert one.bounced == {"gone": 2, "conflict": 1}
    assert one.bounces == 3


def test_json_keeps_everything() -> None:
    account = Account(sent=9, delivered=2, returned=1, replayed=3, reordered=4)
    account.bounce("gone", 2)
    account.latency.add(0.5)
    assert Account.from_json(account.to_json()).to_json() == account.to_json()
    assert account.to_json()["reordered"] == 4
