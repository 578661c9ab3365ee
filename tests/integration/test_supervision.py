"""The control plane dies, is asked to reload, or replaces its workers: no session pays for it."""

import asyncio
import os
import shutil
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from loadtest.stage.addresses import WEBSOCKET_PORT
from loadtest.stage.gateway import Gateway
from loadtest.stage.processes import eventually
from loadtest.stage.stage import CAPULET, CAPULET_ROOMS, Stage
from loadtest.stage.users import User
from tests.integration.conversation import talk, talk_again

PACE = 0.005  # seconds between two messages of each speaker
# Breaks in the order of what one user of Prosody sent, over one rolling restart of two workers.
MOST_OVERTAKEN = 6


async def open_sessions(gateway: Gateway) -> set[tuple[Any, ...]]:
    """What tells one session from the next: its pair, its worker, its peer's port, its age."""
    return {
        (str(each["domain_pairs"]), each["worker"], each["peer"], each["since"])
        for each in await gateway.sessions()
        if each["state"] == "established"
    }


def number_of(id: str) -> int:
    return int(id.rpartition("-")[2])


def runs(ids: list[str]) -> list[tuple[int, int]]:
    """The numbers at the ends of ids as runs of ascending ones, first and last."""
    found: list[tuple[int, int]] = []
    for number in map(number_of, ids):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


@asynccontextmanager
async def conversation(one: User, other: User, word: str) -> AsyncIterator[None]:
    """Both talk without a pause meanwhile; at the end each has heard all, once and in order."""
    over = asyncio.Event()

    async def speak(speaker: User, listener: User) -> int:
        number = 0
        while not over.is_set():
            speaker.send(listener.jid, f"{word} {number}", id=f"{word}-{number}")
            number += 1
            await asyncio.sleep(PACE)
        return number

    speaking = asyncio.gather(speak(one, other), speak(other, one))
    try:
        yield
    finally:
        over.set()
    sent = await speaking
    for count, listener in zip(sent, (other, one), strict=True):
        await listener.message(f"{word} {count - 1}", within=30)
        await eventually(
            lambda count=count, listener=listener: len(heard(listener, word)) >= count - 1,
            within=10,
            what=lambda: f"{len(heard(listener, word))} of {count} were heard",  # noqa: B023
        )
        # The last one was taken from the inbox above.
        ids = heard(listener, word)
        assert runs(sorted(ids, key=number_of)) == [(0, count - 2)], f"what {listener.jid} heard"
        # At each stream that Prosody opens anew under load, a few stanzas overtake others before
        # they reach us (see workers/gateway/beginning.py); nothing else may be out of order.
        overtaken = len(runs(ids)) - 1
        assert overtaken <= (MOST_OVERTAKEN if listener is other else 0), runs(ids)


def assert_all_delivered(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Of what was accepted in between everything was acknowledged by the next hop."""
    for side in ("outbound", "inbound"):
        accepted, acknowledged = (
            after[side][key] - before[side][key] for key in ("accepted", "acknowledged")
        )
        assert accepted == acknowledged > 0, (before[side], after[side])


def heard(listener: User, word: str) -> list[str]:
    return [s.id for s in listener.inbox.peek(lambda s: s.id.startswith(f"{word}-"))]


@pytest.mark.timeout(120)
async def test_a_coordinator_killed_under_load_costs_no_session(
    stage: Stage, juliet: User, romeo: User
) -> None:
    await talk(juliet, romeo)
    for gateway in stage.gateways:
        counted = await gateway.wait_settled()
        before = {
            "sessions": await open_sessions(gateway),
            "workers": {(w["id"], w["pid"]) for w in await gateway.api("workers")},
            "redis": gateway.redis_pid(),
        }
        assert before["sessions"]

        async with conversation(juliet, romeo, f"kill {gateway.name}"):
            await asyncio.sleep(0.5)
            await gateway.kill()
            # Nobody coordinates, and the port is open all the same.
            socket.create_connection((gateway.address, WEBSOCKET_PORT), timeout=2).close()
            await asyncio.sleep(0.5)
            await gateway.start()
            await asyncio.sleep(0.5)

        assert {(w["id"], w["pid"]) for w in await gateway.api("workers")} == before["workers"]
        assert gateway.redis_pid() == before["redis"]
        assert await open_sessions(gateway) >= before["sessions"]
        assert_all_delivered(counted, await gateway.wait_settled())

        # One that dies now has a successor on the same sockets.
        victim = (await gateway.worker_pids())[0]
        os.kill(victim, signal.SIGKILL)
        await gateway.wait_gone(victim)
        await gateway.wait_ready()
        assert victim not in await gateway.worker_pids()
        await talk_again(juliet, romeo)


def served_serial(gateway: Gateway) -> str:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((gateway.address, WEBSOCKET_PORT), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=gateway.public_host) as secure,
    ):
        return ssl.DER_cert_to_PEM_cert(secure.getpeercert(binary_form=True) or b"")


@pytest.mark.timeout(60)
async def test_certificates_and_configuration_are_reloaded_without_touching_sessions(
    stage: Stage, juliet: User, romeo: User
) -> None:
    gateway = stage.capulet_gateway
    await talk(juliet, romeo)
    sessions = await open_sessions(gateway)
    pids = await gateway.worker_pids()
    old = served_serial(gateway)
    (pair,) = gateway.options["certificates"]["pairs"]
    issued = stage.authority.issue(CAPULET, CAPULET_ROOMS, gateway.public_host)
    kept = stage.directory / "kept.pem"
    shutil.copy(pair["certificate"], kept)

    # A certificate that does not belong to the key is refused, and nothing changes.
    shutil.copy(issued.certificate, pair["certificate"])
    code, _, error = await gateway.run_any("reload")
    assert code == 1 and "is not the key of" in error
    assert served_serial(gateway) == old

    try:
        shutil.copy(issued.key, pair["key"])
        gateway.configure("limits", idle_timeout=250.0)
        gateway.configure("websocket", path="/elsewhere")
        said = await gateway.run("reload")
        assert "in force: limits.idle_timeout" in said
        assert "needs `fedgate restart`: websocket.path" in said
        await eventually(
            lambda: served_serial(gateway) != old, within=5, what="the new certificate is served"
        )
    finally:
        gateway.configure("limits", idle_timeout=None)
        gateway.configure("websocket", path=None)
        await gateway.run("reload")
    assert await gateway.worker_pids() == pids
    assert await open_sessions(gateway) >= sessions
    await talk(juliet, romeo)


@pytest.mark.timeout(120)
async def test_a_rolling_restart_replaces_every_worker_and_loses_nothing(
    stage: Stage, juliet: User, romeo: User
) -> None:
    gateway = stage.capulet_gateway
    await talk(juliet, romeo)
    counted = await gateway.wait_settled()
    old = set(await gateway.worker_pids())
    expected = gateway.options["gateway"]["workers"]
    async with conversation(juliet, romeo, "roll"):
        assert "replaced one after the other" in await gateway.run("restart")
        async with asyncio.timeout(40):
            while old & set(pids := await gateway.worker_pids()) or len(pids) != expected:  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.1)
    after = await gateway.wait_settled()
    for side in ("outbound", "inbound"):
        assert after[side]["dropped"] == counted[side]["dropped"]
        assert after[side]["bounced"] == counted[side]["bounced"]


@pytest.mark.timeout(60)
async def test_a_worker_that_stands_still_is_replaced(
    stage: Stage, juliet: User, romeo: User
) -> None:
    gateway = stage.capulet_gateway
    gateway.configure("gateway", hang_timeout=2.0)
    assert "in force: gateway.hang_timeout" in await gateway.run("reload")
    try:
        await talk(juliet, romeo)
        (session, *_) = await gateway.sessions("montague.example")
        workers = {worker["id"]: worker["pid"] for worker in await gateway.api("workers")}
        victim = workers[session["worker"]]
        os.kill(victim, signal.SIGSTOP)
        await gateway.wait_gone(victim)
        await gateway.wait_ready()
        assert victim not in await gateway.worker_pids()
        texts = [error["text"] for error in await gateway.api("errors") if "text" in error]
        # What it counted between its last report and the signal is a sign of life, too.
        killed = {f"has reported nothing for {seconds} s: killed" for seconds in (2, 3)}
        assert killed & set(texts)
        await talk_again(juliet, romeo)
    finally:
        gateway.configure("gateway", hang_timeout=None)
        await gateway.run("reload")


@pytest.mark.timeout(60)
async def test_sessions_are_pinged_reopened_and_closed_by_command(
    stage: Stage, juliet: User, romeo: User
) -> None:
    gateway = stage.capulet_gateway
    await talk(juliet, romeo)
    pair = "capulet.example ↔ montague.example"
    assert f"{pair}: WebSocket ping answered in" in await gateway.run("ping", "montague.example")
    before = await open_sessions(gateway)
    assert f"{pair}: reopened" in await gateway.run("reconnect", "montague.example")
    after = await open_sessions(gateway)
    assert before != after
    await talk(juliet, romeo)
    assert f"{pair}: " in await gateway.run("close", "montague.example")
    await talk_again(juliet, romeo)
    code, _, error = await gateway.run_any("ping", "nowhere.example")
    assert code == 1 and "no session with nowhere.example" in error
