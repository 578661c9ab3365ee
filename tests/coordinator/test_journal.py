from collections.abc import Callable

import msgspec
import pytest

from coordinator.journal import (
    MAX_ENTRY_BYTES,
    Append,
    Dealt,
    InvalidEntry,
    Journal,
    decode_entry,
    encode_entry,
)
from tests.coordinator.journal_scene import PAIR, AnyRecord, Scene


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_notes_are_an_entry_of_their_own(scene: Scene):
    scene.add("one")
    note = scene.add("two", kind="note")
    three = scene.add("three")
    append = scene.append()
    assert (append.number, append.floor, append.finished) == (2, 1, [])
    assert scene.written(append) == ["one", "three"]
    assert [dealt.data for dealt in decode_entry(append.notes)] == [b"two"]
    scene.journal.appended()
    assert scene.told == [("two", True), ("one", True), ("three", True)]
    scene.journal.complete(note)
    append = scene.append()
    assert (append.payload, append.notes, append.floor) == (b"", b"", 2)
    scene.journal.appended()
    scene.journal.complete(three)
    assert scene.journal.next_append() is None


def test_both_entries_of_an_append_in_doubt_are_deleted_by_the_next(scene: Scene):
    scene.add("one")
    scene.add("two", kind="note")
    scene.append()
    scene.journal.lose_contact()
    scene.journal.regain_contact(1)  # the note came through, what else went with it did not
    append = scene.append()
    assert (append.number, append.floor, append.finished) == (4, 3, [])
    assert scene.written(append) == ["one"]


def test_what_is_retired_stays_in_redis_and_counts_for_no_bound(scene: Scene):
    note = scene.add("note", size=2000, kind="note")
    assert scene.journal.is_large
    scene.append()
    scene.journal.appended()
    scene.journal.retire(note)
    scene.journal.retire(note)
    assert not scene.journal.is_large and not scene.journal.is_old(1e9)
    assert (scene.journal.bytes, scene.journal.records) == (0, 0)
    assert len(scene.journal) == 1 and scene.journal.next_append() is None
    scene.journal.lose_contact()
    scene.journal.regain_contact(None)
    assert scene.journal.next_append() is None  # not worth writing again
    scene.journal.complete(note)
    scene.journal.complete(note)


def test_what_waits_goes_together_and_is_told_when_redis_has_it(scene: Scene):
    scene.add("one")
    scene.add("two")
    append = scene.append()
    assert (append.number, append.floor, append.finished) == (1, 1, [])
    assert scene.written(append) == ["one", "two"]
    assert scene.told == []
    scene.journal.appended()
    assert scene.told == [("one", True), ("two", True)]
    assert len(scene.journal) == 1


def test_only_one_append_is_in_flight(scene: Scene):
    scene.add("one")
    scene.append()
    scene.add("two")
    assert scene.journal.is_in_flight
    assert scene.journal.next_append() is None
    scene.journal.appended()
    assert scene.written(scene.append()) == ["two"]


def test_nothing_to_write_is_no_append(scene: Scene):
    assert scene.journal.next_append() is None


def test_a_record_complete_before_it_is_written_is_never_encoded(scene: Scene):
    scene.journal.complete(scene.add("one"))
    assert scene.journal.next_append() is None
    scene.journal.complete(scene.add("two"))
    scene.add("three")
    assert scene.written(scene.append()) == ["three"]
    assert scene.encoded == ["three"]


def test_an_entry_is_deleted_when_all_its_records_are_complete(scene: Scene):
    one, two = scene.add("one"), scene.add("two")
    scene.append()
    scene.journal.appended()
    scene.journal.complete(one)
    assert not scene.journal.has_work
    scene.journal.complete(two)
    scene.journal.complete(two)
    assert scene.append() == Append(1, b"", 2, [])
    scene.journal.appended()
    assert not scene.journal.has_work


def test_completions_ride_along_with_appends(scene: Scene):
    records = []
    for name in ("one", "two", "three"):
        records.append(scene.add(name))
        scene.append()
        scene.journal.appended()
    scene.journal.complete(records[1])
    scene.add("four")
    append = scene.append()
    assert (append.number, append.floor, append.finished) == (4, 1, [2])
    scene.journal.appended()
    scene.journal.complete(records[0])
    append = scene.append()
    assert (append.payload, append.floor, append.finished) == (b"", 3, [])


def test_a_record_complete_while_its_append_is_in_flight_is_deleted_and_not_told(scene: Scene):
    one = scene.add("one")
    scene.append()
    scene.journal.complete(one)
    scene.journal.appended()
    assert scene.told == []
    assert scene.append() == Append(1, b"", 2, [])


def test_it_is_full_by_bytes_and_by_age(scene: Scene):
    first = scene.add("one", size=900, now=5.0)
    assert not scene.journal.is_large
    second = scene.add("two", size=101, now=6.0)
    assert scene.journal.is_large
    scene.journal.complete(first)
    assert scene.journal.bytes == 101 and not scene.journal.is_large
    assert not scene.journal.is_old(66.0)
    assert scene.journal.is_old(66.1)
    scene.journal.complete(second)
    assert not scene.journal.is_old(1000.0)


def test_an_entry_is_bounded_but_takes_one_record_of_any_size(scene: Scene):
    for name in ("one", "two", "three"):
        scene.add(name, size=MAX_ENTRY_BYTES // 2)
    scene.add("four", size=3 * MAX_ENTRY_BYTES)
    for names in (["one", "two"], ["three", "four"]):
        assert scene.written(scene.append()) == names
        scene.journal.appended()
    assert scene.journal.waiting_bytes == 0


def test_while_redis_is_away_records_are_told_to_go_on(scene: Scene):
    scene.add("kept")
    scene.append()
    scene.journal.appended()
    scene.add("flying")
    scene.append()
    scene.add("waiting")
    scene.told.clear()
    scene.journal.lose_contact()
    scene.add("later")
    scene.journal.lose_contact()
    assert scene.told == [("flying", False), ("waiting", False), ("later", False)]


def test_what_redis_missed_is_written_when_it_is_back(scene: Scene):
    scene.add("kept")
    scene.append()
    scene.journal.appended()
    scene.add("flying")
    scene.append()
    scene.journal.lose_contact()
    complete = scene.add("complete")
    scene.add("later")
    scene.journal.lose_contact()
    scene.journal.complete(complete)
    scene.journal.regain_contact(1)
    append = scene.append()
    assert scene.written(append) == ["flying", "later"]
    # Nobody knows if entry 2 was written: it goes.
    assert (append.number, append.floor, append.finished) == (3, 1, [2])
    scene.told.clear()
    scene.journal.appended()
    assert scene.told == [("flying", True), ("later", True)]


def test_completions_that_were_in_flight_are_sent_again(scene: Scene):
    first, second = scene.add("first"), None
    scene.append()
    scene.journal.appended()
    second = scene.add("second")
    scene.append()
    scene.journal.appended()
    scene.journal.complete(second)
    assert scene.append().finished == [2]
    scene.journal.lose_contact()
    scene.journal.regain_contact(2)
    assert scene.append().finished == [2]
    assert not first.is_complete


@pytest.mark.parametrize("last", [None, 1], ids=["empty", "an older state"])
def test_a_redis_that_lost_data_gets_all_that_it_lost_again(scene: Scene, last: int | None):
    names = ["one", "two", "three"]
    for name in names:
        scene.add(name)
        scene.append()
        scene.journal.appended()
    scene.told.clear()
    scene.journal.lose_contact()
    scene.journal.regain_contact(last)
    append = scene.append()
    left = last or 0
    assert scene.written(append) == names[left:]
    assert (append.number, append.floor) == (4, 1 if left else 4)
    scene.journal.appended()
    assert len(scene.journal) == left + 1
    assert scene.told == []  # once is enough


def test_what_others_took_over_is_not_written_again(scene: Scene):
    taken = scene.add("taken")
    scene.append()
    scene.journal.appended()
    scene.add("new")
    scene.append()
    scene.journal.lose_contact()
    scene.journal.regain_contact(None, is_sealed=True)
    assert scene.written(scene.append()) == ["new"]
    scene.journal.appended()
    scene.journal.complete(taken)
    assert len(scene.journal) == 1
    assert not scene.journal.has_work
    # Nor when Redis then loses its data.
    scene.journal.lose_contact()
    scene.journal.regain_contact(None)
    assert scene.written(scene.append()) == ["new"]


def test_entries_are_read_back_as_they_were_written():
    records = [Dealt("out", PAIR, b"\x00\xff"), Dealt("note", PAIR, b"")]
    assert decode_entry(encode_entry(records)) == records


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        msgspec.msgpack.encode([["sideways", "a.example", "b.example", b""]]),
        msgspec.msgpack.encode([["out", "a.example", b""]]),
        msgspec.msgpack.encode([["out", "a b", "b.example", b""]]),
        msgspec.msgpack.encode([["out", "a.example", "b.example", 5]]),
        msgspec.msgpack.encode({"out": 1}),
    ],
)
def test_an_entry_we_never_wrote_is_refused(payload: bytes):
    with pytest.raises(InvalidEntry):
        decode_entry(payload)


def test_what_a_loss_has_left_of_finished_entries_is_trimmed(scene: Scene) -> None:
    records = [scene.add("one", kind="note"), scene.add("two")]
    scene.append()
    scene.journal.appended()
    for record in records:
        scene.journal.complete(record)
    scene.journal.lose_contact()
    scene.journal.regain_contact(1)  # of the two entries the newer one is gone
    append = scene.append()
    assert (append.payload, append.floor) == (b"", 3)


def test_what_a_loss_has_left_stays_until_it_is_complete(scene: Scene) -> None:
    note = scene.add("note", kind="note")
    scene.append()
    scene.journal.appended()
    scene.journal.retire(note)  # a successor must find it yet
    records = [scene.add(name, size=MAX_ENTRY_BYTES) for name in ("two", "three", "four")]
    for _ in records:
        scene.append()
        scene.journal.appended()
    scene.journal.lose_contact()
    scene.journal.regain_contact(3)
    append = scene.append()
    assert scene.written(append) == ["four"]
    assert (append.number, append.floor, append.finished) == (5, 1, [])
    scene.journal.appended()
    scene.journal.complete(records[0])
    assert (scene.append().floor, len(scene.journal)) == (1, 3)


def test_once_for_several_is_told_what_is_wanted_afterwards() -> None:
    journal = Journal(1000, 60.0)
    journal.regain_contact(None)
    told: list[str] = []

    def afterwards() -> None:
        told.append("afterwards")

    def on_kept(kept: bool) -> Callable[[], None]:
        told.append("kept")
        return afterwards

    for _ in range(2):
        journal.add(AnyRecord("out", 1, write=bytes, tell=on_kept), 0.0)
    journal.next_append()
    journal.appended()
    assert told == ["kept", "kept", "afterwards"]
