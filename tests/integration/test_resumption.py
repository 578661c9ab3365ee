"""Two gateways share one session for both directions; its connection is cut again and again."""

import asyncio
import itertools
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator

import pytest_asyncio

from loadtest.stage.addresses import WEBSOCKET_PORT
from loadtest.stage.processes import eventually
from loadtest.stage.proxy import Proxy
from loadtest.stage.stage import CAPULET, MONTAGUE, Stage
from loadtest.stage.users import User

CUTS = 20
# Messages and requests per second and direction: many are under way whenever a cut comes.
PACE = 400
REQUEST = "<query xmlns='jabber:iq:version'/>"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cuttable() -> AsyncIterator[Stage]:
    """Two gateways of two workers, each told a way to the other that leads through a proxy."""
    async with Stage(escalus=False, log_level="info") as stage:
        for gateway, other in (stage.gateways, stage.gateways[::-1]):
            host = f"proxy.{other.domains[0]}"
            gateway.configure(f'remote."{other.domains[0]}"', url=f"wss://{host}/xmpp-s2s")
        await stage.attach_gateways()
        yield stage


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def proxies(cuttable: Stage) -> AsyncIterator[list[Proxy]]:
    stage = cuttable
    made = []
    for number, gateway in enumerate(stage.gateways):
        proxy = Proxy(stage.actor_address(140 + number), gateway.address, WEBSOCKET_PORT)
        await proxy.start()
        stage.dns.set(f"proxy.{gateway.domains[0]}", "A", proxy.address)
        made.append(proxy)
    yield made
    for proxy in made:
        await proxy.stop()


class Talk:
    """One user says numbered things and asks numbered questions of another, until told to stop."""

    def __init__(self, name: str, speaker: User, listener: User) -> None:
        self.name = name
        self.speaker = speaker
        self.listener = listener
        self.said: list[str] = []
        self.asked: list[str] = []
        self._over = False

    async def run(self) -> None:
        for number in itertools.count():
            if self._over:
                return
            if number % 10 == 9:
                id = f"{self.name}-q{number}"
                self.speaker.request(self.listener.jid, REQUEST, id=id)
                self.asked.append(id)
            else:
                id = f"{self.name}-m{number}"
                self.speaker.send(self.listener.jid, "so", id=id)
                self.said.append(id)
            if number % 20 == 0:
                await asyncio.sleep(20 / PACE)

    def stop(self) -> None:
        self._over = True

    async def check(self) -> None:
        """Everything came once and in order; every question came once and was answered once."""
        await self.listener.inbox.take(lambda s: s.id == self.said[-1], within=30)
        for id in self.asked:
            answer = await self.speaker.response(id, within=30)
            assert answer.condition != "remote-server-timeout", f"{id} was bounced"
        seen = self.listener.inbox.peek(lambda s: s.id.startswith(f"{self.name}-"))
        heard = [s.id for s in seen if s.name == "message"]
        assert heard == self.said[:-1]
        assert not [s.id for s in seen if s.is_delayed]
        questions = Counter(s.id for s in seen if s.name == "iq" and s.type == "get")
        assert questions == Counter(self.asked)
        assert not self.speaker.inbox.peek(lambda s: s.type == "error" and s.id in self.said)


async def wait_connected(proxies: list[Proxy]) -> None:
    await eventually(
        lambda: any(proxy.pipes for proxy in proxies), within=15, what="a connection is there"
    )


@pytest_asyncio.fixture(loop_scope="session")
async def couple(cuttable: Stage, proxies: list[Proxy]) -> AsyncIterator[tuple[User, User]]:
    juliet = await cuttable.login(f"juliet@{CAPULET}/balcony")
    romeo = await cuttable.login(f"romeo@{MONTAGUE}/orchard")
    yield juliet, romeo
    await juliet.logout()
    await romeo.logout()


async def test_an_answer_comes_back_on_the_session_of_the_question(
    cuttable: Stage, proxies: list[Proxy], couple: tuple[User, User]
) -> None:
    juliet, romeo = couple
    juliet.send(romeo.jid, "art thou not Romeo?")
    await romeo.message("art thou not Romeo?", within=30)
    for word in ("neither,", "fair saint"):
        romeo.send(juliet.jid, word)
        await juliet.message(word, within=30)
    to_capulet, to_montague = proxies
    assert len(to_montague.pipes) == 1 and not to_capulet.pipes
    (inbound,) = await cuttable.montague_gateway.wait_session(CAPULET, "inbound")
    (outbound,) = await cuttable.montague_gateway.wait_session(CAPULET, "outbound")
    assert inbound["peer"] == outbound["peer"] and inbound["worker"] == outbound["worker"]
    assert inbound["bidirectional"] and outbound["bidirectional"]
    for gateway in cuttable.gateways:
        await gateway.wait_settled()


async def test_cuts_in_mid_load_lose_double_and_bounce_nothing(
    cuttable: Stage, proxies: list[Proxy], couple: tuple[User, User]
) -> None:
    juliet, romeo = couple
    before = [await gateway.ledger() for gateway in cuttable.gateways]
    talks = [Talk("j", juliet, romeo), Talk("r", romeo, juliet)]
    running = [asyncio.create_task(each.run()) for each in talks]
    cut = 0
    for _ in range(CUTS):
        await asyncio.sleep(0.25)
        await wait_connected(proxies)
        for proxy in proxies:
            cut += len(proxy.pipes)
            proxy.cut(proxy.pipes)
    for each in talks:
        each.stop()
    await asyncio.gather(*running)
    for each in talks:
        await each.check()
    assert cut >= CUTS
    for gateway, old in zip(cuttable.gateways, before, strict=True):
        ledger = await gateway.wait_settled()
        for side in ("outbound", "inbound"):
            for outcome in ("replayed", "bounced", "returned"):
                assert ledger[side][outcome] == old[side][outcome], (gateway.name, side, outcome)


async def test_a_dead_workers_session_is_resumed_by_another(
    cuttable: Stage, couple: tuple[User, User]
) -> None:
    """At least once: nothing is lost, what comes twice is marked, no request is executed twice."""
    juliet, romeo = couple
    juliet.send(romeo.jid, "before")
    await romeo.message("before", within=30)
    gateway = cuttable.montague_gateway
    (session,) = [
        each
        for each in await gateway.wait_session(CAPULET, "inbound")
        if each["state"] == "established"
    ]
    pids = {worker["id"]: int(worker["pid"]) for worker in await gateway.api("workers")}
    talk = Talk("k", juliet, romeo)
    running = asyncio.create_task(talk.run())
    await asyncio.sleep(1.5)
    os.kill(pids[session["worker"]], signal.SIGKILL)
    await asyncio.sleep(3)
    talk.stop()
    await running
    await romeo.inbox.take(lambda s: s.id == talk.said[-1], within=30)
    for id in talk.asked:
        await juliet.response(id, within=30)
    seen = romeo.inbox.peek(lambda s: s.id.startswith("k-"))
    times = Counter(s.id for s in seen if s.name == "message")
    assert set(times) >= set(talk.said[:-1])
    late = {s.id for s in seen if s.is_delayed}
    assert {id for id, count in times.items() if count > 1} <= late
    assert not [id for id, n in Counter(s.id for s in seen if s.type == "get").items() if n > 1]
    log = gateway.log.read_text()
    assert "is resumed" in log[log.index("authenticated to") :]
    await gateway.wait_ready()
