"""Hops that lose their session: what is sent again, what is bounced, when they try again."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from coordinator.accounts import REPLAYED
from coordinator.config import Limits
from tests.workers.gateway.hop_bench import HopScene
from tests.workers.gateway.session_bench import FarServer, message, on_quiet_loop, request, until
from workers.gateway import asking, patience, recovery
from workers.gateway import hop as hop_module
from workers.gateway.hop import Hop
from workers.gateway.session import Session
from workers.xmpp.errors import StanzaCondition
from workers.xmpp.events import Event, ManagementEnabled
from workers.xmpp.stanza import Stanza


@on_quiet_loop
async def test_unacknowledged_messages_are_sent_again_with_a_delay_and_counted(
    hops: HopScene,
) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    await hop.wait_open()
    hops.far.handles = False
    hops.send(message("1"), message("2"))
    await until(lambda: len(hops.far.got) == 2)
    hops.far.handles = True
    hops.far.sessions[0].abort("gone")
    await until(lambda: hops.handled == 2)
    assert hops.far.ids() == ["1", "2", "1", "2"]
    assert [b"urn:xmpp:delay" in s.data for s in hops.far.got] == [False, False, True, True]
    assert hops.counters[REPLAYED] == 2
    assert not hops.failed


@on_quiet_loop
async def test_a_request_of_unknown_fate_is_bounced_and_never_sent_again(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    await hop.wait_open()
    hops.far.handles = False
    hops.send(message("1"), request("2"))
    await until(lambda: len(hops.far.got) == 2)
    hops.far.handles = True
    hops.far.sessions[0].abort("gone")
    await until(lambda: hops.handled == 2)
    assert hops.far.ids() == ["1", "2", "1"]
    assert [(id, condition) for id, condition, _ in hops.failed] == [
        ("2", StanzaCondition.REMOTE_SERVER_TIMEOUT)
    ]


@on_quiet_loop
async def test_a_stanza_that_makes_the_peer_hang_up_is_not_sent_for_ever(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    await hop.wait_open()
    hops.far.handles = False
    hops.far.on_stanzas = lambda session, stanzas: session.abort("I do not like this")
    hops.send(message("poison"))
    await until(lambda: hops.ended)
    assert 1 < len(hops.far.got) < 30
    assert [id for id, _, _ in hops.failed] == ["poison"]
    assert "lost again" in hops.failed[0][2]


@on_quiet_loop
async def test_a_lost_hop_with_users_waits_for_work_and_ends_when_they_leave(
    hops: HopScene,
) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    hop.users = 1
    await hop.wait_open()
    hops.far.sessions[0].abort("gone")
    await until(lambda: hop.session is None)
    hops.send(message("1"))
    await until(lambda: hops.handled == 1)
    hops.far.sessions[1].abort("gone")
    await until(lambda: hop.session is None)
    assert not hops.ended
    hop.leave()
    await until(lambda: hops.ended)


@on_quiet_loop
async def test_reconnecting_leaves_one_timer(
    hops: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop_module, "ASK_INTERVAL", 0.02)
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    hop.users = 1
    for count in range(1, 6):
        await until(lambda: hop.session is not None)
        hops.send(message(str(count)))
        await until(lambda: hops.handled == 2 * count - 1)  # noqa: B023
        hops.far.sessions[-1].abort("gone")
        await until(lambda: hop.session is None)
        hops.send(message("again"))
        await until(lambda: hop.session is not None and hops.handled == 2 * count)  # noqa: B023
    ticks = 0

    def counted(_hop: Hop) -> None:
        nonlocal ticks
        ticks += 1

    monkeypatch.setattr(Hop, "_on_tick", counted)
    await asyncio.sleep(0.1)
    assert ticks <= 1  # each chain of timers would tick on


@on_quiet_loop
async def test_a_peer_that_acknowledges_nothing_is_cut_and_given_up(
    hops: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop_module, "ASK_INTERVAL", 0.02)
    monkeypatch.setattr(asking, "PROGRESS_TIMEOUT", 0.2)
    await hops.far.serve_tcp()
    hop = hops.start_hop(limits=Limits(resend_timeout=0.1))
    await hop.wait_open()
    hops.far.handles = False
    hops.send(message("1"))
    await until(lambda: hops.ended)
    assert [id for id, _, _ in hops.failed] == ["1"]
    assert "nothing was acknowledged for 0.2 s" in hops.failed[0][2]
    assert len(hops.far.sessions) == 2


@on_quiet_loop
async def test_only_the_stanza_that_makes_the_peer_hang_up_is_bounced(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop(limits=Limits(resend_timeout=20.0))
    hop.users = 1
    await hop.wait_open()
    hops.far.handles = False

    def judge(session: Any, stanzas: list[Stanza]) -> None:
        if any(stanza.id == "poison" for stanza in stanzas):
            session.abort("I do not like this")
        else:
            session.mark_handled(len(stanzas))

    hops.far.on_stanzas = judge
    innocents = [str(n) for n in range(6)]
    hops.send(*(message(id) for id in [*innocents[:3], "poison", *innocents[3:]]))
    await until(lambda: hops.handled == 7)
    assert [id for id, _, _ in hops.failed] == ["poison"]
    for id in innocents:
        assert hops.far.ids().count(id) <= 3
    hops.check_ledger()
    sent = len(hops.far.got)
    hops.send(message("a"), message("b"))  # careful no longer
    await until(lambda: len(hops.far.got) == sent + 2)
    await until(lambda: hops.handled == 9)
    assert not hops.ended
    hop.leave()


class Cutting(FarServer):
    """Goes both ways, may be resumed in name, and cuts each session that is agreed on."""

    def __init__(self) -> None:
        super().__init__()
        self.stream_options = {"use_bidi": True, "resumption_seconds": 60}
        self.new_resumption_id = lambda: "an-id"
        self.cuts = True

    def on_event(self, session: Session, event: Event) -> None:
        super().on_event(session, event)
        if self.cuts and isinstance(event, ManagementEnabled):
            asyncio.get_running_loop().call_later(0.01, session.abort, "cut")


BOTH: dict[str, Any] = {"websocket": True, "use_bidi": True, "resumption_seconds": 60}


@pytest_asyncio.fixture
async def cutting(short_hop_times: None) -> AsyncIterator[HopScene]:
    scene = HopScene(Cutting())
    await scene.far.serve_websocket()
    yield scene
    await scene.close()


def retry_after(delay: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """In seconds; returns where each delay that is begun shows."""
    begun: list[float] = []

    def longest() -> float:
        begun.append(delay)
        return 1.0

    monkeypatch.setattr(patience, "FIRST_RETRY", delay)
    monkeypatch.setattr(random, "random", longest)
    return begun


@on_quiet_loop
async def test_a_peer_that_cuts_sessions_without_use_is_soon_left_alone(
    cutting: HopScene,
) -> None:
    cutting.start_hop(**BOTH)
    await until(lambda: cutting.ended)
    assert cutting.attempts == recovery.MAX_FRUITLESS + 1


@on_quiet_loop
async def test_users_with_nothing_to_send_do_not_wear_such_a_peer_out(cutting: HopScene) -> None:
    hop = cutting.start_hop(**BOTH)
    hop.users = 1
    many = recovery.MAX_FRUITLESS + 1
    await until(lambda: cutting.attempts == many and len(cutting.far.ended) == many)
    await until(lambda: hop.session is None)
    assert hop.suspended is None
    cutting.far.cuts = False  # type: ignore[attr-defined]
    cutting.send(message("1"))
    await until(lambda: cutting.handled == 1)
    assert cutting.attempts == many + 1
    hop.leave()


@on_quiet_loop
async def test_a_stanza_does_not_wait_for_what_the_peer_may_bring(
    cutting: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    cutting.start_hop(**BOTH)
    begun = retry_after(60.0, monkeypatch)
    await until(lambda: begun)
    cutting.far.cuts = False  # type: ignore[attr-defined]
    cutting.send(message("1"))
    await until(lambda: cutting.handled == 1)
    assert cutting.attempts == 2


@on_quiet_loop
async def test_closing_does_not_wait_for_it_either(
    cutting: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    hop = cutting.start_hop(**BOTH)
    begun = retry_after(60.0, monkeypatch)
    await until(lambda: begun)
    await hop.close()
    assert cutting.ended == [hop] and cutting.attempts == 1


@on_quiet_loop
async def test_after_a_session_that_was_of_use_the_next_comes_at_once(
    cutting: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    retry_after(60.0, monkeypatch)
    cutting.far.cuts = False  # type: ignore[attr-defined]
    hop = cutting.start_hop(**BOTH)
    for count in range(1, 4):
        await until(lambda: hop.session is not None)
        cutting.send(message(str(count)))
        await until(lambda: cutting.handled == count)  # noqa: B023
        cutting.far.sessions[-1].abort("gone")
        await until(lambda: cutting.attempts == count + 1)  # noqa: B023
