"""One stream, several hops: barriers, pace and ends do not disturb the others."""

import asyncio
from pathlib import Path

import pytest

from tests.workers.gateway.component_bench import PAIR, ROOMS, ROOMS_PAIR, ComponentScene
from tests.workers.gateway.session_bench import LOCAL, REMOTE, message, on_quiet_loop, until
from workers.gateway import asking, component_source, hop
from workers.xmpp.stanza import Stanza


async def turns() -> None:
    """As many turns of the loop as anything here could take."""
    for _ in range(50):
        await asyncio.sleep(0)


@on_quiet_loop
async def test_answers_to_barriers_are_taken_out_and_nothing_else(
    component: ComponentScene,
) -> None:
    await component.start()
    component.server.answers = False
    component.from_remote("1")
    await until(lambda: component.server.pings)
    stranger = Stanza(
        "iq",
        f"<iq xmlns='jabber:server' from='{LOCAL}' to='{REMOTE}' id='fedgate-barrier-x.1'"
        " type='result'/>".encode(),
        LOCAL,
        REMOTE,
        "fedgate-barrier-x.1",
        "result",
        LOCAL,
        REMOTE,
    )
    component.server.send(stranger)
    component.server.answer(component.server.pings[0])
    component.server.send(message("after"))
    await until(lambda: len(component.far.got) == 2)
    assert component.far.ids() == ["fedgate-barrier-x.1", "after"]
    assert component.ledger("inbound")["acknowledged"] == 1


@on_quiet_loop
async def test_a_hop_that_leaves_keeps_the_stream_for_the_others(
    component: ComponentScene,
) -> None:
    await component.start()
    component.from_remote("1")
    component.from_remote("2", local=ROOMS)
    await until(lambda: component.ledger("inbound")["acknowledged"] == 2)
    first, second = component.router.to_local(PAIR), component.router.to_local(ROOMS_PAIR)
    await first.close()
    assert component.server.footers == 0
    component.from_remote("3", local=ROOMS)
    await until(lambda: component.ledger("inbound")["acknowledged"] == 3)
    assert component.router.to_local(ROOMS_PAIR) is second
    second.cut()
    component.from_remote("4")
    await until(lambda: component.ledger("inbound")["acknowledged"] == 4)
    assert len(component.server.writers) == 1


@on_quiet_loop
async def test_a_closing_hop_waits_for_its_answer(component: ComponentScene) -> None:
    await component.start()
    component.server.answers = False
    component.from_remote("1")
    await until(lambda: component.server.pings)
    closing = asyncio.create_task(component.router.to_local(PAIR).close())
    await asyncio.sleep(0)
    assert not closing.done()
    component.server.answer(component.server.pings[0])
    await closing
    assert component.server.footers == 0


@on_quiet_loop
async def test_a_server_without_pings_tells_by_the_end_of_the_stream(
    component: ComponentScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (asking, component_source):
        monkeypatch.setattr(module, "BARRIER_TIMEOUT", 0.05)
    monkeypatch.setattr(hop, "ASK_INTERVAL", 0.02)
    await component.start()
    component.server.answers = False
    component.from_remote("1")
    await until(lambda: component.ledger("inbound")["acknowledged"] == 1)
    assert component.ledger("inbound")["replayed"] == 0
    assert component.server.footers == 1
    await until(lambda: len(component.server.writers) == 2)


@on_quiet_loop
async def test_a_draining_source_closes_when_its_hops_are_done(
    component: ComponentScene,
) -> None:
    await component.start()
    component.server.answers = False
    component.from_remote("1")
    await until(lambda: component.server.pings)
    component.attachment.stop()
    (source,) = component.attachment.sources
    source.close()
    component.server.send(message("late"))
    await until(lambda: component.far.got)
    assert component.server.footers == 0
    component.server.answer(component.server.pings[0])
    await until(lambda: source.session.ended)
    assert component.server.footers == 1
    assert component.ledger("inbound")["acknowledged"] == 1


@on_quiet_loop
async def test_a_full_hop_holds_the_stream_and_answers_still_come(
    component: ComponentScene,
) -> None:
    await component.start()
    component.far.handles = False
    component.server.answers = False
    big = message("big", body="x" * 70_000)
    (source,) = component.attachment.sources
    component.server.send(message("0"))
    await until(lambda: component.far.got)
    source.pause()
    component.from_remote("in")
    await until(lambda: component.server.pings)
    component.server.send(big)
    component.server.answer(component.server.pings[0])
    await until(lambda: component.ledger("inbound")["acknowledged"] == 1)
    assert source.is_held
    source.resume()
    component.server.send(message("last"))
    await until(lambda: "last" in component.far.ids())


@on_quiet_loop
async def test_a_remote_that_is_away_is_told_to_senders_and_not_asked_each_time(
    component: ComponentScene,
) -> None:
    await component.start()
    component.remote.failure = "nobody is there"
    component.server.send(message("1"))
    await until(lambda: component.server.got)
    component.server.send(message("2"))
    await until(lambda: component.server.ids() == ["1", "2"])
    assert {stanza.type for stanza in component.server.got} == {"error"}
    assert b"nobody is there" in component.server.got[1].data
    assert component.remote.attempts == 1
    await until(lambda: component.ledger("outbound")["bounced"] == 2)


@on_quiet_loop
async def test_what_is_not_served_is_returned_alone(component: ComponentScene) -> None:
    await component.start()
    component.server.send(
        message("1"), message("2", sender="other.example"), message("3", target="x.example")
    )
    component.server.send(message("4"))
    await until(lambda: component.far.ids() == ["1", "4"])
    await until(lambda: component.server.ids() == ["2"])
    assert b"not a domain of this gateway" in component.server.got[0].data
    # For the other no stream goes back: a component speaks in its own name alone.
    await until(lambda: component.ledger("outbound")["in_flight"] == 0)
    dropped = component.ledger("outbound")["dropped"]
    assert dropped["bounce-undeliverable"] == 1


@on_quiet_loop
async def test_lanes_wait_while_the_server_does_not_read(component: ComponentScene) -> None:
    await component.start()
    (source,) = component.attachment.sources
    source.on_write_paused(source.session)
    component.from_remote("1")
    await turns()
    assert not component.server.got
    source.on_write_resumed(source.session)
    await until(lambda: component.server.ids() == ["1"])
    source.on_write_paused(source.session)
    component.from_remote("2")
    await turns()
    assert component.server.ids() == ["1"]
    source.on_write_resumed(source.session)
    await until(lambda: component.server.ids() == ["1", "2"])


@on_quiet_loop
async def test_a_silent_server_is_asked_and_a_vanished_one_left(tmp_path: Path) -> None:
    component = ComponentScene(tmp_path, ping_interval=0.02)
    await component.start()
    await until(lambda: component.server.asked_alive >= 3)
    assert len(component.server.writers) == 1
    assert not component.far.got  # the answers are for us
    component.server.is_alive = False
    await until(lambda: len(component.server.writers) >= 2)
    assert any("no answer to a ping" in error["reason"] for error in component.errors)
    component.server.is_alive = True
    component.server.send(message("1"))
    await until(lambda: component.far.got)
    await component.close()
