"""The `fedgate` command of an operator, beside a running gateway."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from loadtest.stage.addresses import WEBSOCKET_PORT
from loadtest.stage.peers import XmppProxyPeer
from loadtest.stage.stage import CAPULET, ESCALUS, MONTAGUE, Stage
from loadtest.stage.users import User
from tests.integration.conversation import talk

NOUNS = ("status", "workers", "routes", "sessions", "ledger", "errors")
STRANGER = "strange.example"
DEAD = "dead.example"


async def check(stage: Stage, domain: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    """`fedgate check` of capulet's gateway: exit code, steps by name, the text for people."""
    gateway = stage.capulet_gateway
    (code, out, error), (_, text, _) = await asyncio.gather(
        gateway.run_any("check", "--json", domain), gateway.run_any("check", domain)
    )
    assert error == ""
    answer = json.loads(out)
    assert answer["ok"] is (code == 0)
    return code, {step["step"]: step for step in answer["steps"]}, text


async def test_check_of_a_domain_behind_a_gateway(stage: Stage) -> None:
    code, steps, text = await check(stage, MONTAGUE)
    assert code == 0, text
    assert list(steps) == [
        *("dns", "steering", "host-meta", "tcp", "tls", "certificate", "websocket"),
        *("features", "authentication", "ping"),
    ]
    assert {step["status"] for step in steps.values()} == {"ok"}
    assert f"as {CAPULET} by external" in steps["authentication"]["text"]


async def test_check_of_a_domain_without_a_gateway(stage: Stage) -> None:
    code, steps, text = await check(stage, ESCALUS)
    assert code == 0, text
    assert steps["host-meta"]["status"] == "note"
    assert f"{stage.escalus.address}:5269" in steps["native"]["text"]


@pytest_asyncio.fixture(loop_scope="session")
async def wrong_certificate(stage: Stage) -> AsyncIterator[str]:
    """The wss endpoint of strange.example is given in the file, and shows another's certificate."""
    address = stage.actor_address(140)
    peer = XmppProxyPeer(STRANGER, address, stage.authority.issue("other.example"))
    stage.dns.set(STRANGER, "A", address)
    await peer.start()
    yield STRANGER
    await peer.stop()
    stage.dns.remove(STRANGER)


@pytest.fixture
def configured(stage: Stage, request: pytest.FixtureRequest) -> Any:
    """Remote URLs in the file, which `check` reads anew each time; the gateway itself does not."""
    gateway = stage.capulet_gateway
    before = dict(gateway.options.get("remote", {}))
    for domain in (STRANGER, DEAD):
        gateway.configure("remote", **{domain: {"url": f"wss://{domain}/xmpp-s2s"}})
    yield
    for domain in (STRANGER, DEAD):
        gateway.configure("remote", **{domain: before.get(domain)})
    gateway.write_config()


async def test_check_of_a_wrong_certificate(
    stage: Stage, wrong_certificate: str, configured: None
) -> None:
    code, steps, text = await check(stage, wrong_certificate)
    assert code == 1
    last = text.strip().splitlines()[-2:]
    assert last[0].startswith("FAILED certificate"), text
    assert "other.example" in last[0]
    assert last[1].strip().startswith("→ ")
    assert list(steps)[-1] == "certificate"


async def test_check_of_a_dead_endpoint(stage: Stage, configured: None) -> None:
    address = stage.actor_address(141)
    stage.dns.set(DEAD, "A", address)
    with socket.socket() as taken:
        taken.bind((address, WEBSOCKET_PORT))
        code, _, text = await check(stage, DEAD)
    stage.dns.remove(DEAD)
    assert code == 1
    last = text.strip().splitlines()[-2:]
    assert last[0].startswith("FAILED tcp"), text
    assert f"{address} port {WEBSOCKET_PORT}: Connection refused" in last[0]
    assert "is the remote gateway running" in last[1]


async def test_check_of_a_domain_that_does_not_exist(stage: Stage) -> None:
    code, _, text = await check(stage, "nowhere.example")
    assert code == 1
    assert text.strip().splitlines()[-2].startswith("FAILED"), text


@pytest.mark.parametrize("domain", [CAPULET, "not a domain", ""])
async def test_check_of_what_cannot_be_checked(stage: Stage, domain: str) -> None:
    code, out, error = await stage.capulet_gateway.run_any("check", domain)
    assert code in (1, 2)
    assert "Traceback" not in out + error
    assert (out + error).strip()


async def test_the_questions_to_a_running_gateway(stage: Stage, juliet: User, romeo: User) -> None:
    await talk(juliet, romeo)
    gateway = stage.capulet_gateway
    await gateway.wait_session(MONTAGUE, "outbound")
    answers = await asyncio.gather(*(gateway.run(noun) for noun in NOUNS))
    tables = dict(zip(NOUNS, answers, strict=True))
    assert "capulet-gateway" in tables["status"]
    assert tables["workers"].count("running") == 2
    assert MONTAGUE in tables["routes"]
    assert f"{CAPULET} ↔ {MONTAGUE}" in tables["sessions"]
    assert "acknowledged" in tables["ledger"]
    assert "Traceback" not in "".join(answers)


async def test_the_same_as_json(stage: Stage) -> None:
    gateway = stage.capulet_gateway
    answers = await asyncio.gather(*(gateway.run(noun, "--json") for noun in NOUNS))
    status, workers, routes, sessions, ledger, errors = map(json.loads, answers)
    assert status["name"] == "capulet-gateway"
    assert {"id", "pid", "state", "sessions", "routes", "rss_bytes"} <= set(workers[0])
    assert {"local", "remote", "owner", "epoch"} <= set(routes[0])
    assert {"domain_pairs", "direction", "worker", "authenticated_by", "since"} <= set(sessions[0])
    for side in ("outbound", "inbound"):
        entry = ledger[side]
        ended = sum(entry[key] for key in ("acknowledged", "bounced", "returned", "in_flight"))
        assert entry["accepted"] == ended + sum(entry["dropped"].values())
    assert isinstance(errors, list)
