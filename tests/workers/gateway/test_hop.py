"""Hops against a far end of our own on loopback: what is sent, resent, bounced and acknowledged."""

import asyncio
from typing import Any

import pytest

from coordinator.accounts import (
    ACK_SM,
    ACK_STREAM_CLOSE,
    ACK_WEBSOCKET_PING,
    ACK_XMPP_PING,
)
from coordinator.config import Limits
from tests.workers.gateway.hop_bench import HopScene
from tests.workers.gateway.session_bench import (
    REMOTE,
    message,
    on_quiet_loop,
    request,
    until,
)
from workers.gateway import asking
from workers.gateway import hop as hop_module
from workers.gateway.asking import BARRIER
from workers.gateway.failure import HopFailed
from workers.xmpp.errors import StanzaCondition
from workers.xmpp.initiating import InitiatingStream


@on_quiet_loop
async def test_what_waits_for_the_session_is_sent_in_order_and_acknowledged(
    hops: HopScene,
) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    hops.send(message("1"), message("2"))
    hops.send(message("3"))
    await hop.wait_open()
    await until(lambda: hops.handled == 3)
    assert hops.far.ids() == ["1", "2", "3"]
    assert hops.counters[ACK_SM] == 3
    hops.check_ledger()


@on_quiet_loop
async def test_each_batch_is_asked_about_soon_after_the_last_answer_is_in(hops: HopScene) -> None:
    """A peer that speaks only when asked, and then of what it knew, must not wait for a tick."""
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    await hop.wait_open()
    hops.far.handles = False
    hops.far.on_stanzas = lambda session, got: session.stream.mark_handled(len(got))
    async with asyncio.timeout(hop_module.ASK_INTERVAL / 2):
        for count in range(4):
            hops.send(message(str(count)))
            await until(lambda: len(hops.far.got) > count and hops.handled >= count)  # noqa: B023


@on_quiet_loop
async def test_a_first_connection_that_fails_is_final_for_the_impatient(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hops.far._server.close()
    hop = hops.start_hop()
    hops.send(message("1"))
    with pytest.raises(HopFailed):
        await hop.wait_open()
    assert hops.ended == [hop]
    assert hop.failure is not None
    assert [(id, condition) for id, condition, _ in hops.failed] == [
        ("1", StanzaCondition.REMOTE_SERVER_NOT_FOUND)
    ]
    assert hops.attempts == 1


@on_quiet_loop
async def test_the_patient_try_again_until_their_time_is_over(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hops.far.outcome, hops.far.external = "invalid", False
    hops.start_hop(patient=True)
    hops.send(message("1"))
    await until(lambda: hops.ended)
    assert hops.attempts > 1
    assert hops.failed[0][:2] == ("1", StanzaCondition.REMOTE_SERVER_TIMEOUT)


@on_quiet_loop
async def test_a_bug_while_connecting_bounces_what_waits(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop()

    async def broken(owner: Any) -> Any:
        raise KeyError("a bug")

    hop._connect = broken
    hops.send(message("1"))
    await until(lambda: hops.ended)
    assert [id for id, _, _ in hops.failed] == ["1"]


@on_quiet_loop
async def test_a_websocket_without_management_is_asked_by_its_ping(hops: HopScene) -> None:
    await hops.far.serve_websocket()
    hops.far.external = False
    hop = hops.start_hop(websocket=True)
    await hop.wait_open()
    for count in (1, 2):
        hops.send(message(str(count)))
        await until(lambda: hops.handled == count)  # noqa: B023
    assert hops.counters[ACK_WEBSOCKET_PING] == 2


@on_quiet_loop
async def test_a_tcp_stream_without_management_is_asked_by_an_xmpp_ping(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hops.far.external = False
    hop = hops.start_hop()
    await hop.wait_open()
    hops.send(message("1"))
    await until(lambda: len(hops.far.got) == 2)
    ping = hops.far.got[1]
    assert (ping.name, ping.type, ping.recipient) == ("iq", "get", REMOTE)
    assert (ping.id or "").startswith(BARRIER)
    hops.send(message("2"))  # not covered by the first ping
    assert not hop.barrier_answered("forged")
    assert hop.barrier_answered((ping.id or "").removeprefix(BARRIER))
    assert (hops.handled, hops.counters[ACK_XMPP_PING]) == (1, 1)
    await until(lambda: len(hops.far.got) == 4)  # the next ping follows at once
    assert hop.barrier_answered((hops.far.got[3].id or "").removeprefix(BARRIER))
    assert hops.handled == 2


@on_quiet_loop
async def test_an_overdue_barrier_ends_the_stream_in_order_which_acknowledges(
    hops: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop_module, "ASK_INTERVAL", 0.02)
    monkeypatch.setattr(asking, "BARRIER_TIMEOUT", 0.02)
    await hops.far.serve_tcp()
    hops.far.external = False
    hop = hops.start_hop()
    hop.users = 1
    await hop.wait_open()
    hops.send(message("1"))
    await until(lambda: hops.handled == 1)
    assert hops.counters[ACK_STREAM_CLOSE] == 1
    await until(lambda: hops.far.ended)
    hops.send(message("2"))  # on a new stream
    await until(lambda: hops.handled == 2)
    assert [s.id for s in hops.far.got if s.name == "message"] == ["1", "2"]


@on_quiet_loop
async def test_bytes_that_wait_hold_the_source_back_until_the_hop_is_gone(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hops.far._server.close()
    hops.start_hop(limits=Limits(queue_bytes=65536))
    hops.send(message("1", body="x" * 70_000))
    assert hops.paces == ["pause"]
    await until(lambda: hops.ended)
    assert hops.paces == ["pause", "resume"]


@on_quiet_loop
async def test_closing_delivers_what_is_held_first(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    hops.send(message("1"))
    await hop.close()
    assert (hops.far.ids(), hops.handled, hops.ended) == (["1"], 1, [hop])
    assert hop.failure is None


@on_quiet_loop
async def test_closing_does_not_wait_for_a_barrier_whose_answer_may_have_no_way(
    hops: HopScene,
) -> None:
    await hops.far.serve_tcp()
    hops.far.external = False
    hop = hops.start_hop()
    await hop.wait_open()
    hops.send(message("1"))
    await until(lambda: len(hops.far.got) == 2)  # and the ping
    await hop.close()
    assert (hops.handled, hops.counters[ACK_STREAM_CLOSE], hops.ended) == (1, 1, [hop])


@on_quiet_loop
async def test_closing_while_connecting_with_nothing_to_send_does_not_hang(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    hop.users = 1
    await hop.close()
    assert hops.ended == [hop]


@on_quiet_loop
async def test_a_hop_is_looked_after_only_while_there_is_something_to_look_after(
    hops: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop_module, "ASK_INTERVAL", 0.02)
    await hops.far.serve_tcp()
    hop = hops.start_hop(limits=Limits(idle_timeout=0.05))
    hop.users = 1
    await hop.wait_open()
    await until(lambda: hop._timer is None)
    hops.far.handles = False
    hops.send(message("1"))
    await until(lambda: hops.far.got)
    assert hop._timer is not None
    hops.far.sessions[0].mark_handled(1)
    await until(lambda: hop._timer is None)
    hop.leave()
    await until(lambda: hops.ended)


@on_quiet_loop
async def test_an_unused_hop_is_closed_in_order(
    hops: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop_module, "ASK_INTERVAL", 0.01)
    await hops.far.serve_tcp()
    hop = hops.start_hop(limits=Limits(idle_timeout=0.01))
    await hop.wait_open()
    await until(lambda: hops.ended)
    assert hops.far.ended == ["closed"]


@on_quiet_loop
async def test_whoever_waits_for_the_end_of_a_hop_survives_that_it_is_cut(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    await hop.wait_open()
    hops.far.handles = False
    hops.send(message("1"))
    closing = asyncio.create_task(hop.close())
    await asyncio.sleep(0)
    hop.cut()
    await closing
    assert hops.ended == [hop]


async def test_a_hop_that_is_cut_before_its_first_turn_ends_all_the_same(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    hop.cut()
    await until(lambda: hops.ended == [hop])
    with pytest.raises(asyncio.CancelledError):
        await hop.wait_open()


@on_quiet_loop
async def test_cutting_leaves_what_is_held_unsettled(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    await hop.wait_open()
    hops.far.handles = False
    hops.send(message("1"), request("2"))
    hop.cut()
    await until(lambda: hops.ended and hops.far.ended)
    assert (hops.handled, hops.failed, hops.origin.in_flight) == (0, [], 2)


@on_quiet_loop
async def test_a_peer_that_takes_its_time_is_not_cut_while_it_goes_on(
    hops: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop_module, "ASK_INTERVAL", 0.01)
    monkeypatch.setattr(asking, "PROGRESS_TIMEOUT", 0.25)
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    hop.users = 1
    await hop.wait_open()
    await asyncio.sleep(0.3)  # silence with nothing outstanding is no fault
    hops.far.handles = False
    hops.send(*(message(str(n)) for n in range(5)))
    for count in range(5):
        await asyncio.sleep(0.1)
        hops.far.sessions[0].mark_handled(1)
        await until(lambda: hops.handled == count + 1)  # noqa: B023
    assert len(hops.far.sessions) == 1


@on_quiet_loop
async def test_many_bytes_are_asked_about_in_between(
    hops: HopScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow peer answers an `<r/>` only when it has read all that was written before it."""
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    await hop.wait_open()
    written: list[int] = []
    original = InitiatingStream.request_ack

    def counted(stream: InitiatingStream, *, again: bool = False) -> None:
        written.append(stream.sent.total)
        original(stream, again=again)

    monkeypatch.setattr(InitiatingStream, "request_ack", counted)
    hops.send(*(message(str(n), body="x" * 40_000) for n in range(5)))
    assert written == [2, 4]  # and about the last with the first answer
    await until(lambda: hops.handled == 5)
    assert written == [2, 4, 5]


@on_quiet_loop
async def test_a_hop_that_still_connects_shows_all_that_a_session_does(hops: HopScene) -> None:
    await hops.far.serve_tcp()
    hop = hops.start_hop()
    before = hop.describe()
    await hop.wait_open()
    assert before["state"] == "connecting"
    assert set(before) == set(hop.describe())
