"""What load processes note, put together."""

from loadtest.load.record import Record


def record_of(at: int, sent: int) -> Record:
    record = Record()
    record.account("chat").sent = sent
    second = record.second(at + 0.7)
    second.sent, second.sessions = sent, 10
    second.latency.add(0.02)
    record.ends["gone"] = 1
    return record


def test_seconds_of_unix_time_add_up() -> None:
    merged = record_of(100, 3)
    merged.merge(record_of(100, 4))
    merged.merge(record_of(101, 5))
    assert merged.accounts["chat"].sent == 12
    assert {at: (each.sent, each.sessions) for at, each in merged.seconds.items()} == {
        100: (7, 20),
        101: (5, 10),
    }
    assert merged.ends == {"gone": 3}


def test_json_keeps_everything() -> None:
    record = record_of(100, 3)
    record.refusals["no"] = 2
    record.attacks["oversize"] = 3
    record.unrefused["oversize"] = 1
    assert Record.from_json(record.to_json()).to_json() == record.to_json()


def test_only_later_seconds_are_told_again() -> None:
    record = record_of(100, 3)
    record.merge(record_of(105, 1))
    assert list(record.to_json(since=101)["seconds"]) == ["105"]
    assert record.to_json(since=101)["accounts"]["chat"]["sent"] == 4
