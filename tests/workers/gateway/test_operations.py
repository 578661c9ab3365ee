"""What operators ask of sessions, on real ones between a gateway and two played servers."""

import pytest

from tests.workers.gateway.gateway_bench import PAIR, GatewayScene
from tests.workers.gateway.session_bench import REMOTE, message, on_quiet_loop, until
from workers.gateway import operations
from workers.gateway.operations import Operations


class NoLocal:
    """A local side without streams."""

    def __init__(self) -> None:
        self.sources: set[object] = set()
        self.splices: dict[object, object] = {}

    def describe(self) -> list[dict[str, object]]:
        return []


def operations_of(gateway: GatewayScene) -> Operations:
    return Operations(gateway.router, gateway.public, NoLocal())  # type: ignore[arg-type]


@on_quiet_loop
async def test_sessions_are_counted_and_described(gateway: GatewayScene) -> None:
    await gateway.start()
    asked = operations_of(gateway)
    assert (asked.count(), await asked.answer("sessions", "")) == (0, [])
    await gateway.router.to_remote(PAIR).wait_open()
    await gateway.open_remote()
    rows = await asked.answer("sessions", "")
    assert asked.count() == len(rows) == 2
    assert {row["direction"] for row in rows} == {"inbound", "outbound"}
    assert len(await asked.answer("sessions", "1")) == 1
    assert await asked.answer("dance", "") == []


@on_quiet_loop
async def test_a_ping_goes_to_the_remote_and_back(gateway: GatewayScene) -> None:
    await gateway.start()
    asked = operations_of(gateway)
    assert await asked.answer("ping", REMOTE) == []
    await gateway.router.to_remote(PAIR).wait_open()
    (row,) = await asked.answer("ping", REMOTE)
    assert row["ok"] and row["pair"] == list(PAIR)
    assert row["text"].startswith("WebSocket ping answered in ")


@on_quiet_loop
async def test_a_ping_that_nobody_answers_is_said(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.start()
    monkeypatch.setattr(operations, "PING_TIMEOUT", 0.05)
    await gateway.router.to_remote(PAIR).wait_open()
    gateway.remote.sessions[0].pause_reading()
    (row,) = await operations_of(gateway).answer("ping", REMOTE)
    assert not row["ok"] and row["text"].startswith("no answer to a WebSocket ping")
    gateway.remote.sessions[0].resume_reading()


@on_quiet_loop
async def test_a_session_is_opened_anew_with_what_it_holds_delivered(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    hop = gateway.router.to_remote(PAIR)
    await hop.wait_open()
    origin = gateway.router.new_origin("out", lambda count: None)
    hop.send(origin.accept([message("1")]))
    (row,) = await operations_of(gateway).answer("reconnect", REMOTE)
    assert (row["text"], row["ok"]) == ("reopened", True)
    assert [stanza.id for stanza in gateway.remote.got] == ["1"]
    assert len(gateway.remote.sessions) == 2
    assert gateway.router.to_remote(PAIR) is not hop


@on_quiet_loop
async def test_a_domain_is_let_go_in_both_directions(gateway: GatewayScene) -> None:
    await gateway.start()
    await gateway.router.to_remote(PAIR).wait_open()
    peer = await gateway.open_remote()
    rows = await operations_of(gateway).answer("close", REMOTE)
    assert sorted(row["text"] for row in rows) == [
        "inbound stream closes",
        "outbound session closed",
    ]
    await until(lambda: bool(peer.ended))
    assert not list(gateway.router.hops())
    assert await operations_of(gateway).answer("close", REMOTE) == []
