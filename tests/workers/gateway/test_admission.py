"""Connections are counted in all and by address, and by when they came; the newest has to go."""

from typing import Any

from coordinator.config import Limits
from workers.gateway.admission import WINDOW, Admission, Entry
from workers.gateway.refusals import Refusals


class Door:
    """An admission under a clock of its own."""

    def __init__(self, *, proxies: tuple[str, ...] = (), **limits: Any) -> None:
        self.now = 1000.0
        self.limits = Limits(**{"unauthenticated": 10, **limits})
        self.refusals = Refusals(self._clock)
        self.admission = Admission(lambda: self.limits, self.refusals, self._clock, proxies=proxies)

    def _clock(self) -> float:
        return self.now

    def enter(self, address: str, descriptor: int = 0) -> Entry | None:
        return self.admission.enter(address, descriptor)

    def come_in(self, address: str) -> Entry:
        entry = self.enter(address)
        assert entry is not None
        return entry


class Stranger:
    """Remembers why it was cut."""

    reason = ""

    def turn_away(self, reason: str) -> None:
        self.reason = reason


def test_one_address_cannot_take_every_place() -> None:
    door = Door(unauthenticated=3, unauthenticated_per_address=2)
    first, second = door.come_in("192.0.2.1"), door.come_in("192.0.2.1")
    assert door.enter("192.0.2.1") is None
    door.come_in("192.0.2.2")
    assert door.enter("192.0.2.3") is None
    first.leave()
    first.leave()
    door.come_in("192.0.2.3")
    second.prove()
    door.come_in("192.0.2.1")
    assert door.refusals.counts == {"strangers-of-address": 1, "strangers": 1}


def test_who_proves_many_domains_may_bring_more_at_once() -> None:
    door = Door(unauthenticated=20, unauthenticated_per_address=2)
    rounds = []
    for _ in range(4):
        entries = []
        while (entry := door.enter("192.0.2.1")) is not None:
            entries.append(entry)
        rounds.append(len(entries))
        for entry in entries:
            entry.prove()
    # Never more than half of all places; another address finds its own.
    assert rounds == [2, 4, 8, 10]
    assert sum(door.enter("192.0.2.1") is not None for _ in range(20)) == 10
    assert sum(door.enter("192.0.2.2") is not None for _ in range(20)) == 2


def test_an_ipv6_peer_has_a_whole_network() -> None:
    door = Door(unauthenticated_per_address=1)
    entry = door.come_in("2001:db8::1")
    assert door.enter("2001:db8::2") is None
    entry.leave()
    door.come_in("2001:db8::2")


def test_who_has_proved_itself_still_counts_for_its_address() -> None:
    door = Door(connections_per_address=2, unauthenticated_per_address=1)
    for _ in range(2):
        door.come_in("192.0.2.1").prove()
    assert door.enter("192.0.2.1") is None
    assert door.refusals.counts == {"connections-of-address": 1}
    door.come_in("192.0.2.2")


def test_an_address_may_come_so_often_in_a_minute() -> None:
    door = Door(handshakes_per_address=6)
    for _ in range(6):
        door.come_in("192.0.2.1").leave()
    assert door.enter("192.0.2.1") is None
    door.come_in("192.0.2.2").leave()
    door.now += WINDOW / 6
    door.come_in("192.0.2.1").leave()
    assert door.enter("192.0.2.1") is None
    door.now += 2 * WINDOW
    door.admission.each_second()
    assert not door.admission._windows
    for _ in range(6):
        door.come_in("192.0.2.1").leave()


def test_another_limit_holds_at_once_for_who_has_come_often() -> None:
    door = Door(handshakes_per_address=6)
    for _ in range(6):
        door.come_in("192.0.2.1").leave()
    door.limits = Limits(handshakes_per_address=60)
    door.admission.reload()
    door.now += WINDOW / 60
    door.come_in("192.0.2.1").leave()
    assert door.enter("192.0.2.1") is None


def test_without_a_limit_it_may_come_as_often_as_it_likes() -> None:
    door = Door(handshakes_per_address=0)
    for _ in range(10_000):
        door.come_in("192.0.2.1").leave()


def test_a_proxy_stands_for_many() -> None:
    door = Door(
        proxies=("10.0.0.0/8",),
        unauthenticated=3,
        unauthenticated_per_address=1,
        connections_per_address=1,
        handshakes_per_address=1,
    )
    for _ in range(3):
        door.come_in("::ffff:10.0.0.1")
    assert door.enter("::ffff:10.0.0.1") is None


def test_whom_a_proxy_speaks_for_needs_a_place_of_its_own() -> None:
    door = Door(proxies=("10.0.0.0/8",), unauthenticated_per_address=1)
    first, second = door.come_in("10.0.0.1"), door.come_in("10.0.0.1")
    guest = Stranger()
    first.expect(guest)
    assert first.move("192.0.2.1")
    assert not second.move("192.0.2.1")
    second.leave()
    assert list(door.admission.strangers) == [first]
    assert door.admission.shed(1, "memory") == 1
    assert guest.reason


def test_the_last_descriptors_are_for_others() -> None:
    door = Door()
    door.admission.last_descriptor = 90
    assert door.enter("192.0.2.1", 90) is not None
    assert door.enter("192.0.2.1", 91) is None
    assert door.refusals.counts == {"descriptors": 1}


def test_when_memory_is_short_no_stranger_is_let_in() -> None:
    door = Door()
    door.admission.is_short_of = "memory"
    assert door.enter("192.0.2.1") is None
    assert door.refusals.counts == {"memory": 1}


def test_the_newest_strangers_make_room_and_the_others_stay() -> None:
    door = Door()
    guests = [Stranger() for _ in range(4)]
    entries = [door.come_in(f"192.0.2.{number}") for number in range(4)]
    for entry, guest in zip(entries, guests, strict=True):
        entry.expect(guest)
    entries[3].prove()
    assert door.admission.shed(2, "memory") == 2
    assert [bool(guest.reason) for guest in guests] == [False, True, True, False]
    assert door.admission.shed(5, "memory") == 1
    assert not door.admission.strangers


def test_nothing_is_kept_of_who_has_left() -> None:
    door = Door()
    entries = [door.come_in(f"192.0.2.{number}") for number in range(5)]
    for entry in entries:
        entry.leave()
    admission = door.admission
    assert not (admission.strangers or admission._entries)
    assert not (admission._strange or admission._connected)
