"""How a hop's stanzas leave: in order, in turns, no larger than the peer takes, sources held."""

import asyncio

import pytest

from coordinator.config import Limits
from tests.workers.gateway.hop_bench import HopScene
from tests.workers.gateway.session_bench import message, on_quiet_loop, until
from workers.gateway import sending
from workers.gateway.channel import HIGH_WATER
from workers.gateway.hop import Hop
from workers.gateway.session import Session
from workers.xmpp.errors import StanzaCondition


@on_quiet_loop
async def test_what_is_too_large_for_the_peer_is_bounced_even_if_it_came_before_the_session(
    hops: HopScene,
) -> None:
    hops.far.limits = Limits(stanza_bytes=10_000)
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    hops.send(message("1"), message("large", body="x" * 10_000), message("2"))
    await hop.wait_open()
    hops.send(message("larger", body="x" * 20_000))
    await until(lambda: hops.handled == 4)
    assert hops.far.ids() == ["1", "2"]
    assert [(id, condition) for id, condition, _ in hops.failed] == [
        ("large", StanzaCondition.POLICY_VIOLATION),
        ("larger", StanzaCondition.POLICY_VIOLATION),
    ]
    assert not hops.ended


@on_quiet_loop
async def test_a_full_hop_pauses_its_source_and_resumes_it_when_there_is_room(
    hops: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MAX_UNACKNOWLEDGED", 2)
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    await hop.wait_open()
    hops.far.handles = False
    hops.send(*(message(str(n)) for n in range(3)))
    hops.send(message("3"))
    assert hops.paces == ["pause"]
    await until(lambda: len(hops.far.got) == 4)
    hops.far.sessions[0].mark_handled(2)
    await until(lambda: hops.handled == 2)
    assert hops.paces == ["pause", "resume"]


@on_quiet_loop
async def test_unacknowledged_bytes_hold_the_source_back_too(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop(limits=Limits(queue_bytes=65536))
    await hop.wait_open()
    hops.far.handles = False
    hops.send(*(message(str(n), body="x" * 30_000) for n in range(3)))
    assert hops.paces == ["pause"]
    await until(lambda: len(hops.far.got) == 3)
    hops.far.sessions[0].mark_handled(2)
    await until(lambda: hops.handled == 2)
    assert hops.paces == ["pause", "resume"]
    hops.far.sessions[0].mark_handled(1)
    await until(lambda: hops.handled == 3)
    assert (hop.outbox.unacknowledged_bytes, hop.outbox.waiting_bytes) == (0, 0)


@on_quiet_loop
async def test_a_long_queue_is_sent_in_pieces_and_not_beyond_what_the_peer_reads(
    hops: HopScene,
) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop(limits=Limits(queue_bytes=1 << 25))
    await hop.wait_open()
    hops.far.sessions[0].pause_reading()
    session = hop.session
    assert session is not None
    hop.on_write_paused(session)
    for number in range(200):
        hops.send(message(str(number), body="x" * 100_000))
    hop.on_write_resumed(session)
    await until(lambda: hop._blocked)
    assert session.channel.buffered < HIGH_WATER + 4 * sending.PIECE
    assert hop.outbox.has_waiting
    hops.far.sessions[0].resume_reading()
    await until(lambda: hops.handled == 200)
    assert hops.far.ids() == [str(number) for number in range(200)]


async def opened(hops: HopScene) -> tuple[Hop, Session]:
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    await hop.wait_open()
    await until(lambda: hop.session)
    assert hop.session is not None
    return hop, hop.session


@on_quiet_loop
async def test_what_may_not_be_sent_yet_holds_back_what_came_after_it(hops: HopScene) -> None:
    hop, _ = await opened(hops)
    hops.send(message("1"))
    held = hops.origin.accept([message("2")])
    held.held = True
    hop.send(held, hops)
    hops.send(message("3"))
    await until(lambda: hops.handled == 1)
    assert hops.far.ids() == ["1"] and hop.outbox.in_flight == 2
    held.release()
    await until(lambda: hops.handled == 3)
    assert hops.far.ids() == ["1", "2", "3"]


@on_quiet_loop
async def test_what_is_released_while_the_hop_connects_is_sent_when_it_has(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    held = hops.origin.accept([message("1")])
    held.held = True
    hop.send(held, hops)
    hops.send(message("2"))
    held.release()
    await until(lambda: hops.handled == 2)
    assert hops.far.ids() == ["1", "2"]


@on_quiet_loop
async def test_a_peer_that_does_not_read_is_sent_nothing_and_then_all_in_order(
    hops: HopScene,
) -> None:
    hop, session = await opened(hops)
    hop.on_write_paused(session)
    for number in range(3):
        hops.send(message(str(number)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not hops.far.got and (hop.outbox.in_flight, hop.outbox.unacknowledged) == (3, 0)
    hop.on_write_resumed(session)
    hops.send(message("3"))
    await until(lambda: hops.handled == 4)
    assert hops.far.ids() == ["0", "1", "2", "3"]


@on_quiet_loop
async def test_what_a_former_owner_has_left_goes_first_and_says_that_it_is_late(
    hops: HopScene,
) -> None:
    hop, session = await opened(hops)
    hop.on_write_paused(session)
    hops.send(message("new"))
    old = hops.origin.accept([message("old")])
    old.uncertain = True
    hop.send_old(old)
    hop.on_write_resumed(session)
    await until(lambda: hops.handled == 2)
    assert hops.far.ids() == ["old", "new"]
    assert [b"urn:xmpp:delay" in stanza.data for stanza in hops.far.got] == [True, False]


@on_quiet_loop
async def test_between_the_pieces_of_a_queue_others_have_their_turns(
    hops: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PIECE", 1500)
    hop, session = await opened(hops)
    hop.on_write_paused(session)
    for number in range(6):
        hops.send(message(str(number), body="x" * 1000))
    sent: list[int] = []
    hop.on_write_resumed(session)
    while not sent or sent[-1] < 6:
        sent.append(session.stream.sent.total)
        await asyncio.sleep(0)
    assert sorted({*sent}) == [2, 4, 6]
    await until(lambda: hops.handled == 6)
    assert hops.far.ids() == [*"012345"]


@on_quiet_loop
async def test_a_session_that_is_lost_between_two_pieces_takes_no_more_of_them(
    hops: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PIECE", 1500)
    hop, session = await opened(hops)
    hop.on_write_paused(session)
    for number in range(6):
        hops.send(message(str(number), body="x" * 1000))
    hop.on_write_resumed(session)
    session.abort("lost")
    await until(lambda: hops.handled == 6)
    assert session.stream.sent.total < 6 and len(hops.far.sessions) == 2
    ids = hops.far.ids()
    assert ids[-6:] == [*"012345"] and set(ids) == {*"012345"}


@on_quiet_loop
async def test_what_comes_while_pieces_wait_does_not_pass_them(
    hops: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PIECE", 1500)
    hop, session = await opened(hops)
    hops.send(message("0"))  # past the queue
    hops.send(*(message(str(n), body="x" * 1000) for n in (1, 2)))  # more than a piece
    hop.on_write_paused(session)
    hops.send(message("3", body="x" * 2000))
    hops.send(message("4", body="x" * 2000))
    hop.on_write_resumed(session)
    hops.send(message("5"))
    await until(lambda: hops.handled == 6)
    assert hops.far.ids() == [*"012345"]


class Source:
    def __init__(self) -> None:
        self.paces: list[str] = []

    def pause(self) -> None:
        self.paces.append("pause")

    def resume(self) -> None:
        self.paces.append("resume")


@on_quiet_loop
async def test_each_source_of_a_full_hop_is_held_once_and_all_go_on_together(
    hops: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MAX_UNACKNOWLEDGED", 2)
    hop, _ = await opened(hops)
    hops.far.handles = False
    early, one, other = Source(), Source(), Source()
    for number, source in enumerate((early, early, one, one, other)):
        hop.send(hops.origin.accept([message(str(number))]), source)
    hop.send(hops.origin.accept([message("of nobody")]))
    assert (early.paces, one.paces, other.paces) == ([], ["pause"], ["pause"])
    await until(lambda: len(hops.far.got) == 6)
    hops.far.sessions[0].mark_handled(3)
    await until(lambda: hops.handled == 3)
    assert one.paces == ["pause"]  # three more are too many still
    hops.far.sessions[0].mark_handled(1)
    await until(lambda: hops.handled == 4)
    assert (early.paces, one.paces, other.paces) == ([], ["pause", "resume"], ["pause", "resume"])
    hops.far.sessions[0].mark_handled(2)
    await until(lambda: hops.handled == 6)
    assert one.paces == ["pause", "resume"]


@pytest.mark.parametrize("waits", [True, False])
@on_quiet_loop
async def test_what_is_as_large_as_the_peer_takes_is_sent_and_a_byte_more_is_not(
    hops: HopScene, waits: bool
) -> None:
    limit = 10_000
    hops.far.limits = Limits(stanza_bytes=limit)
    hop, session = await opened(hops)
    assert session.stream.peer_max_bytes == limit
    if waits:
        hop.on_write_paused(session)
    room = limit - len(message("a", body="").data)
    hops.send(message("a", body="x" * room))
    hops.send(message("b", body="x" * (room + 1)), message("c"))
    hops.send(*(message(id, body="x" * 6000) for id in "de"))  # too large together alone
    if waits:
        hop.on_write_resumed(session)
    await until(lambda: hops.handled == 5)
    assert hops.far.ids() == [*"acde"]
    assert hops.failed == [
        ("b", StanzaCondition.POLICY_VIOLATION, f"Stanza exceeds remote limit of {limit} bytes")
    ]
