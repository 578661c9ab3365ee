"""Keys are looked after for strangers too, who may not keep anybody else from being served."""

import asyncio

import pytest

from coordinator.authority import Leaf
from coordinator.routes import DomainPair
from tests.workers.gateway.gateway_bench import PAIR, GatewayScene
from tests.workers.gateway.session_bench import LOCAL, on_quiet_loop, until
from workers.gateway import verification
from workers.gateway.local_connector import VERIFIER
from workers.gateway.verification import BUSY


@on_quiet_loop
async def test_keys_are_verified_on_connections_of_their_own(gateway: GatewayScene) -> None:
    await gateway.start()
    verifier = gateway.router.verifier
    assert await verifier.ask_remote(PAIR, id="1", key="k", asker="") == ("valid", "")
    gateway.local.verdict = "invalid"
    assert await verifier.ask_local(PAIR, id="1", key="k", asker="") == ("invalid", "")
    await until(lambda: gateway.remote.ended and gateway.local.ended)
    assert not list(gateway.router.hops())


@on_quiet_loop
async def test_no_certificate_is_made_for_a_domain_that_a_stranger_names(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.start()
    made: list[str] = []
    leaf = gateway.control.leaf

    async def noted(domain: str, purpose: str = "route") -> Leaf:
        made.append(domain)
        return await leaf(domain, purpose)

    monkeypatch.setattr(gateway.control, "leaf", noted)
    pair = DomainPair(LOCAL, "victim.example")
    verdict = await gateway.router.verifier.ask_local(pair, id="1", key="k", asker="192.0.2.1")
    assert verdict.outcome == "valid"
    assert made == [VERIFIER]


@on_quiet_loop
async def test_a_key_that_cannot_be_verified_is_an_error(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.start()
    verifier = gateway.router.verifier
    gateway.remote.verdict = ""
    monkeypatch.setattr(verification, "VERIFY_TIMEOUT", 0.2)
    late = await verifier.ask_remote(PAIR, id="1", key="k", asker="")
    assert late == ("error", "remote-server-timeout")
    gateway.control.is_away = True
    unreachable = await verifier.ask_local(PAIR, id="1", key="k", asker="")
    assert unreachable == ("error", "remote-server-not-found")


@on_quiet_loop
async def test_a_stream_that_ends_before_the_question_is_an_error(gateway: GatewayScene) -> None:
    await gateway.start()
    gateway.remote.verdict = ""
    verifier = gateway.router.verifier
    task = asyncio.create_task(verifier.ask_remote(PAIR, id="1", key="k", asker=""))
    await until(lambda: gateway.remote.sessions)
    await until(lambda: gateway.remote.sessions[0].stream.sender)
    gateway.remote.sessions[0].close()
    assert (await task).outcome == "error"


@on_quiet_loop
async def test_who_asks_too_much_waits_behind_itself_and_not_longer_than_anybody(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "VERIFY_TIMEOUT", 1.0)
    monkeypatch.setattr(verification, "MAX_PER_ASKER", 1)
    monkeypatch.setattr(verification, "MAX_PER_DOMAIN", 2)
    await gateway.start()
    gateway.remote.verdict = ""
    verifier = gateway.router.verifier
    greedy = [
        asyncio.create_task(verifier.ask_remote(PAIR, id=str(n), key="k", asker="192.0.2.1"))
        for n in range(3)
    ]
    await until(lambda: gateway.remote.sessions)
    honest = asyncio.create_task(verifier.ask_remote(PAIR, id="4", key="k", asker="192.0.2.2"))
    await until(lambda: len(gateway.remote.sessions) == 2)
    verdicts = await asyncio.gather(*greedy)
    assert BUSY in verdicts
    assert await honest == ("error", "remote-server-timeout")


@on_quiet_loop
async def test_strangers_leave_the_local_server_its_own_places(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "MAX_VERIFICATIONS", 2)
    monkeypatch.setattr(verification, "VERIFY_TIMEOUT", 1.0)
    await gateway.start()
    gateway.remote.verdict = ""
    verifier = gateway.router.verifier
    strangers = [
        asyncio.create_task(verifier.ask_remote(PAIR, id=str(n), key="k", asker=f"192.0.2.{n}"))
        for n in range(4)
    ]
    await until(lambda: len(gateway.remote.sessions) == 2)
    own = asyncio.create_task(verifier.ask_remote(PAIR, id="own", key="k", asker=""))
    await until(lambda: len(gateway.remote.sessions) == 3)
    pair = DomainPair(LOCAL, "other.example")
    assert (await verifier.ask_local(pair, id="own", key="k", asker="")).outcome == "valid"
    await asyncio.gather(*strangers)
    await own
