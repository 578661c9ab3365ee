"""How a hop's stanzas leave: in order, in turns, no larger than the peer takes, sources held."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from coordinator.config import Limits
from tests.workers.gateway.hop_bench import HopScene
from tests.workers.gateway.session_bench import message, on_quiet_loop, until
from workers.gateway import patience, sending
from workers.gateway import session as session_module
from workers.gateway.channel import HIGH_WATER
from workers.gateway.hop import Hop
from workers.gateway.session import Session
from workers.xmpp.errors import StanzaCondition


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(session_module, "CLOSE_TIMEOUT", 0.2)


@pytest_asyncio.fixture
async def scene() -> AsyncIterator[HopScene]:
    scene = HopScene()
    yield scene
    await scene.close()


@on_quiet_loop
async def test_what_is_too_large_for_the_peer_is_bounced_even_if_it_came_before_the_session(
    scene: HopScene,
) -> None:
    scene.far.limits = Limits(stanza_bytes=10_000)
    await scene.far.serve_tcp()
    hop = scene.start_hop()
    scene.send(message("1"), message("large", body="x" * 10_000), message("2"))
    await hop.wait_open()
    scene.send(message("larger", body="x" * 20_000))
    await until(lambda: scene.handled == 4)
    assert scene.far.ids() == ["1", "2"]
    assert [(id, condition) for id, condition, _ in scene.failed] == [
        ("large", StanzaCondition.POLICY_VIOLATION),
        ("larger", StanzaCondition.POLICY_VIOLATION),
    ]
    assert not scene.ended


@on_quiet_loop
async def test_a_full_hop_pauses_its_source_and_resumes_it_when_there_is_room(
    scene: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MAX_UNACKNOWLEDGED", 2)
    await scene.far.serve_tcp()
    hop = scene.start_hop()
    await hop.wait_open()
    scene.far.handles = False
    scene.send(*(message(str(n)) for n in range(3)))
    scene.send(message("3"))
    assert scene.paces == ["pause"]
    await until(lambda: len(scene.far.got) == 4)
    scene.far.sessions[0].mark_handled(2)
    await until(lambda: scene.handled == 2)
    assert scene.paces == ["pause", "resume"]


@on_quiet_loop
async def test_unacknowledged_bytes_hold_the_source_back_too(scene: HopScene) -> None:
    await scene.far.serve_tcp()
    hop = scene.start_hop(limits=Limits(queue_bytes=65536))
    await hop.wait_open()
    scene.far.handles = False
    scene.send(*(message(str(n), body="x" * 30_000) for n in range(3)))
    assert scene.paces == ["pause"]
    await until(lambda: len(scene.far.got) == 3)
    scene.far.sessions[0].mark_handled(2)
    await until(lambda: scene.handled == 2)
    assert scene.paces == ["pause", "resume"]
    scene.far.sessions[0].mark_handled(1)
    await until(lambda: scene.handled == 3)
    assert (hop.outbox.unacknowledged_bytes, hop.outbox.waiting_bytes) == (0, 0)


@on_quiet_loop
async def test_a_long_queue_is_sent_in_pieces_and_not_beyond_what_the_peer_reads(
    scene: HopScene,
) -> None:
    await scene.far.serve_tcp()
    hop = scene.start_hop(limits=Limits(queue_bytes=1 << 25))
    await hop.wait_open()
    scene.far.sessions[0].pause_reading()
    session = hop.session
    assert session is not None
    hop.on_write_paused(session)
    for number in range(200):
        scene.send(message(str(number), body="x" * 100_000))
    hop.on_write_resumed(session)
    await until(lambda: hop._blocked)
    assert session.channel.buffered < HIGH_WATER + 4 * sending.PIECE
    assert hop.outbox.has_waiting
    scene.far.sessions[0].resume_reading()
    await until(lambda: scene.handled == 200)
    assert scene.far.ids() == [str(number) for number in range(200)]


async def opened(scene: HopScene) -> tuple[Hop, Session]:
    await scene.far.serve_tcp()
    hop = scene.start_hop()
    await hop.wait_open()
    await until(lambda: hop.session)
    assert hop.session is not None
    return hop, hop.session


@on_quiet_loop
async def test_what_may_not_be_sent_yet_holds_back_what_came_after_it(scene: HopScene) -> None:
    hop, _ = await opened(scene)
    scene.send(message("1"))
    held = scene.origin.accept([message("2")])
    held.held = True
    hop.send(held, scene)
    scene.send(message("3"))
    await until(lambda: scene.handled == 1)
    assert scene.far.ids() == ["1"] and hop.outbox.in_flight == 2
    held.release()
    await until(lambda: scene.handled == 3)
    assert scene.far.ids() == ["1", "2", "3"]


@on_quiet_loop
async def test_what_is_released_while_the_hop_connects_is_sent_when_it_has(scene: HopScene) -> None:
    await scene.far.serve_tcp()
    hop = scene.start_hop()
    held = scene.origin.accept([message("1")])
    held.held = True
    hop.send(held, scene)
    scene.send(message("2"))
    held.release()
    await until(lambda: scene.handled == 2)
    assert scene.far.ids() == ["1", "2"]


@on_quiet_loop
async def test_a_peer_that_does_not_read_is_sent_nothing_and_then_all_in_order(
    scene: HopScene,
) -> None:
    hop, session = await opened(scene)
    hop.on_write_paused(session)
    for number in range(3):
        scene.send(message(str(number)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not scene.far.got and (hop.outbox.in_flight, hop.outbox.unacknowledged) == (3, 0)
    hop.on_write_resumed(session)
    scene.send(message("3"))
    await until(lambda: scene.handled == 4)
    assert scene.far.ids() == ["0", "1", "2", "3"]


@on_quiet_loop
async def test_what_a_former_owner_has_left_goes_first_and_says_that_it_is_late(
    scene: HopScene,
) -> None:
    hop, session = await opened(scene)
    hop.on_write_paused(session)
    scene.send(message("new"))
    old = scene.origin.accept([message("old")])
    old.uncertain = True
    hop.send_old(old)
    hop.on_write_resumed(session)
    await until(lambda: scene.handled == 2)
    assert scene.far.ids() == ["old", "new"]
    assert [b"urn:xmpp:delay" in stanza.data for stanza in scene.far.got] == [True, False]


@on_quiet_loop
async def test_between_the_pieces_of_a_queue_others_have_their_turns(
    scene: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PIECE", 1500)
    hop, session = await opened(scene)
    hop.on_write_paused(session)
    for number in range(6):
        scene.send(message(str(number), body="x" * 1000))
    sent: list[int] = []
    hop.on_write_resumed(session)
    while not sent or sent[-1] < 6:
        sent.append(session.stream.sent.total)
        await asyncio.sleep(0)
    assert sorted({*sent}) == [2, 4, 6]
    await until(lambda: scene.handled == 6)
    assert scene.far.ids() == [*"012345"]


@on_quiet_loop
async def test_a_session_that_is_lost_between_two_pieces_takes_no_more_of_them(
    scene: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PIECE", 1500)
    hop, session = await opened(scene)
    hop.on_write_paused(session)
    for number in range(6):
        scene.send(message(str(number), body="x" * 1000))
    hop.on_write_resumed(session)
    session.abort("lost")
    await until(lambda: scene.handled == 6)
    assert session.stream.sent.total < 6 and len(scene.far.sessions) == 2
    ids = scene.far.ids()
    assert ids[-6:] == [*"012345"] and set(ids) == {*"012345"}


@on_quiet_loop
async def test_what_comes_while_pieces_wait_does_not_pass_them(
    scene: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PIECE", 1500)
    hop, session = await opened(scene)
    scene.send(message("0"))  # past the queue
    scene.send(*(message(str(n), body="x" * 1000) for n in (1, 2)))  # more than a piece
    hop.on_write_paused(session)
    scene.send(message("3", body="x" * 2000))
    scene.send(message("4", body="x" * 2000))
    hop.on_write_resumed(session)
    scene.send(message("5"))
    await until(lambda: scene.handled == 6)
    assert scene.far.ids() == [*"012345"]


class Source:
    def __init__(self) -> None:
        self.paces: list[str] = []

    def pause(self) -> None:
        self.paces.append("pause")

    def resume(self) -> None:
        self.paces.append("resume")


@on_quiet_loop
async def test_each_source_of_a_full_hop_is_held_once_and_all_go_on_together(
    scene: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MAX_UNACKNOWLEDGED", 2)
    hop, _ = await opened(scene)
    scene.far.handles = False
    early, one, other = Source(), Source(), Source()
    for number, source in enumerate((early, early, one, one, other)):
        hop.send(scene.origin.accept([message(str(number))]), source)
    hop.send(scene.origin.accept([message("of nobody")]))
    assert (early.paces, one.paces, other.paces) == ([], ["pause"], ["pause"])
    await until(lambda: len(scene.far.got) == 6)
    scene.far.sessions[0].mark_handled(3)
    await until(lambda: scene.handled == 3)
    assert one.paces == ["pause"]  # three more are too many still
    scene.far.sessions[0].mark_handled(1)
    await until(lambda: scene.handled == 4)
    assert (early.paces, one.paces, other.paces) == ([], ["pause", "resume"], ["pause", "resume"])
    scene.far.sessions[0].mark_handled(2)
    await until(lambda: scene.handled == 6)
    assert one.paces == ["pause", "resume"]


@pytest.mark.parametrize("waits", [True, False])
@on_quiet_loop
async def test_what_is_as_large_as_the_peer_takes_is_sent_and_a_byte_more_is_not(
    scene: HopScene, waits: bool
) -> None:
    limit = 10_000
    scene.far.limits = Limits(stanza_bytes=limit)
    hop, session = await opened(scene)
    assert session.stream.peer_max_bytes == limit
    if waits:
        hop.on_write_paused(session)
    room = limit - len(message("a", body="").data)
    scene.send(message("a", body="x" * room))
    scene.send(message("b", body="x" * (room + 1)), message("c"))
    scene.send(*(message(id, body="x" * 6000) for id in "de"))  # too large together alone
    if waits:
        hop.on_write_resumed(session)
    await until(lambda: scene.handled == 5)
    assert scene.far.ids() == [*"acde"]
    assert scene.failed == [
        ("b", StanzaCondition.POLICY_VIOLATION, f"Stanza exceeds remote limit of {limit} bytes")
    ]
