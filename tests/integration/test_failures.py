"""What fails is told to the sender within seconds; what comes back is used again by itself."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from loadtest.stage.addresses import S2S_PORT, WEBSOCKET_PORT
from loadtest.stage.processes import eventually
from loadtest.stage.stage import Stage
from loadtest.stage.users import User
from tests.integration.conversation import talk, talk_again

SECONDS = 20


@pytest.fixture(params=["prosody", "ejabberd"])
def sender(request: pytest.FixtureRequest, juliet: User, romeo: User) -> User:
    """A user behind a gateway, on either server."""
    return juliet if request.param == "prosody" else romeo


async def test_a_domain_that_does_not_exist(sender: User) -> None:
    stanza_id = sender.send("paris@nowhere.example", "hello?")
    error = await sender.error(stanza_id, within=SECONDS)
    assert (error.condition, error.sender) == ("remote-server-not-found", "paris@nowhere.example")


async def test_a_domain_whose_server_refuses(stage: Stage, sender: User) -> None:
    stage.dns.set_xmpp_server("refusing.example", stage.actor_address(101), S2S_PORT)
    stanza_id = sender.send("paris@refusing.example", "hello?")
    error = await sender.error(stanza_id, within=SECONDS)
    assert error.condition == "remote-server-timeout"


@pytest.fixture
def silent_server(stage: Stage) -> Iterator[str]:
    """A domain whose web server accepts connections and then says nothing; no s2s port is open."""
    address = stage.actor_address(102)
    with socket.create_server((address, WEBSOCKET_PORT)):
        stage.dns.set("silent.example", "A", address)
        yield "silent.example"
    stage.dns.remove("silent.example")


async def test_a_domain_whose_server_is_silent(
    juliet: User, romeo: User, silent_server: str
) -> None:
    await expect_timeouts(f"paris@{silent_server}", juliet, romeo, within=SECONDS)


async def expect_timeouts(to: str, *senders: User, within: float) -> None:
    """Each writes to the silent one, at the same time, and is told that no answer came."""
    ids = [sender.send(to, "hello?") for sender in senders]
    errors = await asyncio.gather(
        *(sender.error(id, within) for sender, id in zip(senders, ids, strict=True))
    )
    assert {error.condition for error in errors} == {"remote-server-timeout"}


@pytest.fixture
def mute_native_server(stage: Stage) -> Iterator[str]:
    """A domain without a web server, whose s2s port accepts and then says nothing."""
    address = stage.actor_address(103)
    with socket.create_server((address, S2S_PORT)):
        stage.dns.set_xmpp_server("mute.example", address, S2S_PORT)
        yield "mute.example"
    stage.dns.remove("mute.example")


async def test_a_native_server_that_accepts_and_stays_silent(
    juliet: User, romeo: User, mute_native_server: str
) -> None:
    """Both local servers would wait for minutes; the gateway does not."""
    await expect_timeouts(f"paris@{mute_native_server}", juliet, romeo, within=25)


@pytest.mark.parametrize("type", ["", "subscribe"])
async def test_presence_to_a_domain_that_does_not_exist(
    stage: Stage, sender: User, romeo: User, juliet: User, type: str
) -> None:
    """It comes back once as an error, and nothing else is held up by it."""
    to = f"paris@nowhere{type}.example"
    kind = f" type='{type}'" if type else ""
    sender.send_raw(f"<presence to='{to}' id='gone-{type}'{kind}/>")
    error = await sender.inbox.take(lambda s: s.name == "presence" and s.sender == to, SECONDS)
    assert (error.type, error.condition) == ("error", "remote-server-not-found")
    await talk(juliet, romeo)
    assert not sender.inbox.peek(lambda s: s.sender == to)


async def test_a_request_to_a_domain_that_does_not_exist(sender: User) -> None:
    error = await sender.ask("nowhere2.example", "<ping xmlns='urn:xmpp:ping'/>", within=SECONDS)
    assert (error.type, error.condition) == ("error", "remote-server-not-found")


@pytest.mark.parametrize("server", ["prosody", "ejabberd"])
async def test_a_local_server_restarts(
    stage: Stage, juliet: User, romeo: User, server: str
) -> None:
    await talk(juliet, romeo)
    restarted, user = (stage.capulet, juliet) if server == "prosody" else (stage.montague, romeo)
    await restarted.restart()
    await user.connect()
    await talk_again(juliet, romeo)


async def test_a_worker_is_killed(stage: Stage, juliet: User, romeo: User) -> None:
    await talk(juliet, romeo)
    gateway = stage.capulet_gateway
    for pid in await gateway.worker_pids():
        os.kill(pid, signal.SIGKILL)
        await gateway.wait_gone(pid)
        await talk_again(juliet, romeo)
    await gateway.wait_ready()


async def test_language_and_id_are_kept_after_a_worker_was_killed(
    stage: Stage, juliet: User, romeo: User
) -> None:
    await talk(juliet, romeo)
    for gateway in stage.gateways:
        for pid in await gateway.worker_pids():
            os.kill(pid, signal.SIGKILL)
            await gateway.wait_gone(pid)
        await gateway.wait_ready()
    await talk_again(juliet, romeo)
    for speaker, listener in ((juliet, romeo), (romeo, juliet)):
        body = f"buona notte, {listener.bare_jid}"
        speaker.send_raw(
            f"<message to='{listener.jid}' id='notte' type='chat' xml:lang='it'>"
            f"<body>{body}</body></message>"
        )
        received = await listener.message(body)
        assert (received.lang, received.id, received.sender) == ("it", "notte", speaker.jid)


async def test_a_worker_is_killed_in_the_middle_of_a_burst(
    stage: Stage, juliet: User, romeo: User
) -> None:
    """From Prosody, which can resend: every message arrives or comes back, and is told apart."""
    await talk(juliet, romeo)
    gateway = stage.capulet_gateway
    sent = [juliet.send(romeo.jid, f"burst {n}", id=f"kill-{n}") for n in range(200)]
    await romeo.inbox.take(lambda s: s.id == "kill-20")
    for pid in await gateway.worker_pids():
        os.kill(pid, signal.SIGKILL)
    sent += [juliet.send(romeo.jid, f"burst {n}", id=f"kill-{n}") for n in range(200, 300)]
    await gateway.wait_ready()
    await talk_again(juliet, romeo)

    def ended() -> set[str]:
        arrived = {s.id for s in romeo.inbox.peek(lambda s: s.id.startswith("kill-"))}
        bounced = {s.id for s in juliet.inbox.peek(lambda s: s.type == "error")}
        return arrived | bounced | {"kill-20"}

    # What was said while talking again may have come back too.
    await eventually(
        lambda: ended() >= set(sent),
        within=30,
        what=lambda: f"neither here nor there: {set(sent) - ended()}",
    )


@pytest.mark.parametrize("which", ["capulet_gateway", "montague_gateway"])
async def test_a_whole_gateway_restarts(
    stage: Stage, juliet: User, romeo: User, which: str
) -> None:
    await talk(juliet, romeo)
    await getattr(stage, which).restart()
    await talk_again(juliet, romeo)


async def test_a_gateway_away_for_a_while_is_reported_and_found_again(
    stage: Stage, juliet: User, romeo: User
) -> None:
    await talk(juliet, romeo)
    await stage.montague_gateway.stop()
    try:
        stanza_id = juliet.send(romeo.jid, "are you there?")
        error = await juliet.error(stanza_id, within=40)
        assert error.condition in ("remote-server-timeout", "remote-server-not-found")
    finally:
        await stage.montague_gateway.start()
    await talk_again(juliet, romeo)
