"""Components under failure: said clearly, tried again, senders told, nothing out of order."""

import asyncio
import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
import pytest_asyncio

from loadtest.stage.component import Component
from loadtest.stage.gateway import Gateway
from loadtest.stage.stage import PASSWORD, Stage
from loadtest.stage.users import User
from tests.integration.conversation import talk, talk_again

SECONDS = 25
# Stanzas that may die with a worker: one receive buffer and what Redis had not confirmed.
MOST_LOST = 100
# What ejabberd hands to a component in the moment when that closes its stream is gone, silently.
MOST_SWALLOWED = 3


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(component_stage: Stage) -> Stage:
    return component_stage


@pytest.mark.parametrize("server", ["prosody", "ejabberd"])
async def test_the_local_server_restarts(
    stage: Stage, juliet: User, romeo: User, server: str
) -> None:
    await talk(juliet, romeo)
    restarted, user = (stage.capulet, juliet) if server == "prosody" else (stage.montague, romeo)
    await restarted.restart()
    await user.connect()
    await stage.wait_components()
    await talk_again(juliet, romeo)


@pytest.mark.parametrize("server", ["prosody", "ejabberd"])
async def test_senders_are_told_when_the_server_stays_away(
    stage: Stage, juliet: User, romeo: User, server: str
) -> None:
    stopped, speaker, user = (
        (stage.capulet, romeo, juliet) if server == "prosody" else (stage.montague, juliet, romeo)
    )
    await stopped.stop()
    stanza_id = speaker.send(user.jid, "are you there?")
    error = await speaker.error(stanza_id, within=SECONDS)
    assert (error.condition, error.sender) == ("remote-server-timeout", user.jid)
    await stopped.start()
    await user.connect()
    await stage.wait_components()
    await talk_again(juliet, romeo)


@pytest.mark.parametrize("server", ["prosody", "ejabberd"])
async def test_a_wrong_secret_is_said_with_the_next_step(stage: Stage, server: str) -> None:
    gateway = _gateway(stage, server)
    gateway.configure("local", secret="not this one")
    await gateway.restart()
    reason = await _problem(gateway, "refuses component")
    assert "local.secret must be its component_secret (Prosody) or its password" in reason
    gateway.configure("local", secret=PASSWORD)
    await gateway.restart()
    await stage.wait_components()


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (
            "prosody",
            "has no component nowhere.example .* add the lines of `fedgate attach prosody`",
        ),
        ("ejabberd", "refuses component nowhere.example .* a name that is not listed"),
    ],
)
async def test_a_domain_that_the_server_does_not_have_is_said(
    stage: Stage, juliet: User, romeo: User, server: str, words: str
) -> None:
    gateway = _gateway(stage, server)
    gateway.configure('remote."nowhere.example"', block=False)
    await gateway.run("reload")
    assert re.search(words, await _problem(gateway, "nowhere.example"))
    del gateway.options['remote."nowhere.example"']
    # The others are connected all the same.
    await talk_again(juliet, romeo)
    await gateway.run("reload")
    await stage.wait_components()


async def test_a_second_connection_is_a_conflict(stage: Stage) -> None:
    """Prosody refuses it; ejabberd would accept it."""
    gateway = stage.capulet_gateway
    await gateway.stop()
    other = Component("montague.example", stage.capulet.address, PASSWORD, lambda data: None)
    await other.connect()
    await gateway.start()
    assert "one connection per name" in await _problem(gateway, "somebody else is connected")
    other.close()
    await stage.wait_components()


@pytest.mark.parametrize("server", ["prosody", "ejabberd"])
async def test_an_undeclared_domain_is_refused(
    stage: Stage, juliet: User, romeo: User, server: str
) -> None:
    gateway, speaker, listener = (
        (stage.capulet_gateway, romeo, juliet)
        if server == "prosody"
        else (stage.montague_gateway, juliet, romeo)
    )
    table = f'remote."{speaker.domain}"'
    options = gateway.options.pop(table)
    try:
        await gateway.run("reload")
        await gateway.run_any("close", speaker.domain)  # there may be none
        stanza_id = speaker.send(listener.jid, "let me in")
        error = await speaker.error(stanza_id, within=SECONDS)
        assert error.condition == "remote-server-timeout"
        problem = await _problem(gateway, "refused: ")
        assert f"{speaker.domain} is not declared under [remote]" in problem
    finally:
        gateway.options[table] = options
        await gateway.run("reload")
    await stage.wait_components()
    await talk_again(juliet, romeo)


@pytest.mark.parametrize("server", ["prosody", "ejabberd"])
async def test_a_rolling_restart_keeps_order_and_tells_of_the_rest(
    stage: Stage, juliet: User, romeo: User, server: str
) -> None:
    """The next worker connects when the one before has delivered; meanwhile users are told."""
    await talk(juliet, romeo)
    gateway = _gateway(stage, server)
    [pid] = await gateway.worker_pids()
    restart = asyncio.create_task(gateway.run("restart", within=60))
    ways = ((juliet, romeo), (romeo, juliet))
    sent = await asyncio.gather(*(_keep_talking(user, other, pid) for user, other in ways))
    await restart
    await gateway.wait_gone(pid, within=30)
    await stage.wait_components()
    await talk_again(juliet, romeo)
    await gateway.wait_settled(within=30)
    for (user, other), ids in zip(ways, sent, strict=True):
        good = other.inbox.peek(lambda s: s.id.startswith("roll-") and s.type != "error")
        came = [s.id for s in good]
        bounced = {s.id for s in user.inbox.peek(lambda s: s.type == "error")}
        assert came == [each for each in ids if each in set(came)], f"out of order from {user.jid}"
        lost = set(ids) - set(came) - bounced
        swallowed = MOST_SWALLOWED if server == "ejabberd" and user is romeo else 0
        assert len(lost) <= swallowed, f"{lost} from {user.jid}"


@pytest.mark.parametrize("server", ["prosody", "ejabberd"])
async def test_a_killed_worker_loses_no_more_than_its_window(
    stage: Stage, juliet: User, romeo: User, server: str
) -> None:
    """What its journal kept goes on, marked; what is new does not overtake it."""
    await talk(juliet, romeo)
    gateway, speaker, listener = (
        (stage.capulet_gateway, juliet, romeo)
        if server == "prosody"
        else (stage.montague_gateway, romeo, juliet)
    )
    before = await gateway.wait_settled()
    [pid] = await gateway.worker_pids()
    sent = await _send_until(speaker, listener, pid)
    await gateway.wait_gone(pid)
    await gateway.wait_ready()
    await stage.wait_components()
    await talk_again(juliet, romeo)
    ledger = await gateway.wait_settled(within=30)

    came = listener.inbox.peek(lambda s: s.id.startswith("kill-") and s.type != "error")
    first = list(dict.fromkeys(s.id for s in came))
    doubles = [s for at, s in enumerate(came) if s.id in {each.id for each in came[:at]}]
    bounced = {s.id for s in speaker.inbox.peek(lambda s: s.type == "error")}
    lost = set(sent) - set(first) - bounced
    assert _numbers(first) == sorted(_numbers(first))
    assert all(s.is_delayed for s in doubles)
    replayed = ledger["outbound"]["replayed"] - before["outbound"]["replayed"]
    assert len(doubles) <= replayed
    # Read and not kept, or never read: what was under way at the moment of death, no more.
    assert len(lost) <= MOST_LOST
    gone = sorted(_numbers(lost | (bounced & set(sent))))
    assert gone == list(range(gone[0], gone[0] + len(gone))) if gone else True


def _numbers(ids: Iterable[str]) -> list[int]:
    return [int(each.removeprefix("kill-")) for each in ids]


async def _send_until(speaker: User, listener: User, pid: int) -> list[str]:
    """Messages at a fair pace, and a death in the midst of them; returns their ids."""
    sent = []
    for number in range(600):
        sent.append(speaker.send(listener.jid, f"number {number}", id=f"kill-{number}"))
        if number == 300:
            os.kill(pid, signal.SIGKILL)
        if number % 20 == 0:
            await asyncio.sleep(0.01)
    return sent


async def _keep_talking(speaker: User, listener: User, pid: int) -> list[str]:
    """Messages at a gentle pace until a process is gone, and some more; returns their ids."""
    sent = []
    left = 50
    while left:
        number = len(sent)
        sent.append(speaker.send(listener.jid, f"number {number}", id=f"roll-{number}"))
        await asyncio.sleep(0.01)
        left -= not _is_there(pid)
    return sent


def _is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _gateway(stage: Stage, server: str) -> Gateway:
    return stage.capulet_gateway if server == "prosody" else stage.montague_gateway


async def _problem(gateway: Gateway, words: str) -> str:
    """The reason in `/api/errors` that has these words, as soon as it is there."""
    found: list[str] = []
    async with asyncio.timeout(SECONDS):
        while not found:
            errors = await gateway.api("errors")
            found = [error["reason"] for error in errors if words in error["reason"]]
            await asyncio.sleep(0.1)
    return found[0]
