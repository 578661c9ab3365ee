"""Two workers of one machine: streams find their pair's owner, also when it stops or drains."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from loadtest.stage.gateway import Gateway
from loadtest.stage.stage import CAPULET, MONTAGUE, Stage
from loadtest.stage.users import User
from tests.integration.conversation import talk, talk_again

NUMBER = 300
# Stanzas that ejabberd may lose in itself for one stream that is closed in order.
LOST_IN_EJABBERD = 2


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage() -> AsyncIterator[Stage]:
    """Two gateways of two workers each, which nobody kills for being silent."""
    async with Stage(escalus=False, log_level="info") as stage:
        stage.capulet_gateway.configure("gateway", hang_timeout=60.0)
        await stage.attach_gateways()
        yield stage


async def owning_worker(gateway: Gateway, remote: str) -> dict[str, Any]:
    """The worker that has the outbound session to a domain."""
    (session,) = await gateway.wait_session(remote, "outbound")
    workers = {worker["id"]: worker for worker in await gateway.api("workers")}
    found: dict[str, Any] = workers[session["worker"]]
    return found


async def test_a_stopped_workers_pairs_are_served_by_another_and_it_yields_when_it_goes_on(
    stage: Stage, juliet: User, romeo: User
) -> None:
    await talk(juliet, romeo)
    gateway = stage.capulet_gateway
    stopped = await owning_worker(gateway, MONTAGUE)
    os.kill(stopped["pid"], signal.SIGSTOP)
    try:
        # The server opens its stream anew, as it does after each restart.
        await stage.capulet.process.stop()
        await stage.capulet.start()
        await juliet.connect()
        # The other way ends at the stopped worker, until its remote has had enough of silence.
        juliet.send(romeo.jid, "ay me")
        await romeo.message("ay me", within=15)
    finally:
        os.kill(stopped["pid"], signal.SIGCONT)
    await talk(juliet, romeo)
    async with asyncio.timeout(15):
        while True:
            outbound = [s for s in await gateway.sessions(MONTAGUE) if s["direction"] == "outbound"]
            if {s["worker"] for s in outbound} == {outbound[0]["worker"]} != {stopped["id"]}:
                break
            await asyncio.sleep(0.2)
    await talk(juliet, romeo)


async def test_a_pair_moves_in_mid_talk_when_its_worker_drains(
    stage: Stage, juliet: User, romeo: User
) -> None:
    await talk_again(juliet, romeo)
    gateways = (stage.capulet_gateway, stage.montague_gateway)
    before = (await stage.montague_gateway.wait_settled())["outbound"]
    speaking = [
        asyncio.create_task(speak(juliet, romeo, "j")),
        asyncio.create_task(speak(romeo, juliet, "r")),
    ]
    await asyncio.sleep(0.5)
    for gateway, remote in zip(gateways, (MONTAGUE, CAPULET), strict=True):
        worker = await owning_worker(gateway, remote)
        await gateway.run("drain", worker["id"].rpartition("/")[2].partition(".")[0])
    for task, speaker, listener, name in zip(
        speaking, (juliet, romeo), (romeo, juliet), "jr", strict=True
    ):
        said = await task
        await listener.inbox.take(lambda s, last=said[-1]: s.id == last, within=20)
        heard = listener.inbox.peek(lambda s, name=name: s.id.startswith(f"{name}-drain"))
        ids = list(dict.fromkeys(each.id for each in heard))
        errors = [each.id for each in speaker.inbox.peek(lambda s: s.type == "error")]
        # Prosody's own order in a stream's first moments is `beginning.py`'s, and tested there.
        ids = ids if name == "r" else sorted(ids, key=said.index)
        missing = set(said[:-1]) - set(ids)
        if name == "r":
            # ejabberd routes to a stream's process while it ends, and tells nobody: what it never
            # wrote is its own loss, what a gateway has read is not.
            after = (await stage.montague_gateway.wait_settled())["outbound"]
            read = after["accepted"] - before["accepted"]
            again = after["replayed"] - before["replayed"]
            assert len(missing) <= LOST_IN_EJABBERD and read - again <= len(ids) + 1, missing
            said = [each for each in said if each not in missing]
        assert ids == said[:-1], f"missing {missing}, bounced {errors}"
        # Sent again after a loss: never silently.
        seen: set[str] = set()
        copies = [each for each in heard if each.id in seen or seen.add(each.id)]  # type: ignore[func-returns-value]
        assert all(each.is_delayed for each in copies), copies
    for gateway in gateways:
        await gateway.wait_settled()


async def speak(speaker: User, listener: User, name: str) -> list[str]:
    """Numbered messages over some seconds; returns their ids."""
    said = []
    for number in range(NUMBER):
        said.append(speaker.send(listener.jid, "so", id=f"{name}-drain{number}"))
        await asyncio.sleep(0.01)
    return said
