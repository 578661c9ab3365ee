"""One gateway on two machines, its Redis on a third: splicing, death, and parting."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest_asyncio
import redis.asyncio as redis_asyncio

from loadtest.stage.addresses import DNS_PORT, LOCAL_PORT
from loadtest.stage.gateway import Gateway
from loadtest.stage.processes import StageError, StageProcess
from loadtest.stage.stage import CAPULET, MONTAGUE, Stage
from loadtest.stage.users import User
from tests.integration.conversation import talk, talk_again
from tests.integration.machines import REDIS_PORT, Machines, move_gateway, redis_on

# The second is the number that the stage has for the gateway of montague.
SECOND, FIRST, REDIS = 24, 22, 40
PAIR = [MONTAGUE, CAPULET]
WITHOUT_REDIS = 20.0


class Cluster(NamedTuple):
    """montague's gateway on two machines; its server uses the first, `stage.montague_gateway`."""

    stage: Stage
    machines: Machines
    first: Gateway
    second: Gateway
    redis: redis_asyncio.Redis


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cluster() -> AsyncIterator[Cluster]:
    machines = Machines(FIRST, SECOND, REDIS)
    async with Stage(workers=1, escalus=False, addresses=machines) as stage:
        server = redis_on(machines, REDIS, stage.directory)
        first, second = stage.montague_gateway, second_gateway(stage)
        client = redis_asyncio.Redis(host=machines.of(REDIS), port=REDIS_PORT)
        try:
            await start(stage, machines, server, first, second)
            yield Cluster(stage, machines, first, second, client)
        finally:
            await client.aclose()
            await second.stop()
            await first.stop()
            await server.stop()


def second_gateway(stage: Stage) -> Gateway:
    first = stage.montague_gateway
    return Gateway(
        "montague-second",
        first.domains,
        stage.actor_address(SECOND),
        stage.directory / "montague-second",
        certificate=stage.authority.issue(*first.domains, first.public_host),
        trust=stage.authority.bundle,
        server=stage.montague.s2s_address,
        upstream_dns=f"{stage.dns.address}:{DNS_PORT}",
        log=stage.logs / "montague-second.log",
        workers=1,
    )


async def start(
    stage: Stage, machines: Machines, server: StageProcess, first: Gateway, second: Gateway
) -> None:
    server.start()
    await server.wait_for_port(machines.of(REDIS), REDIS_PORT)
    for gateway in (stage.capulet_gateway, first, second):
        gateway.configure("discovery", allow_networks=["10.77.0.0/16"])
    # Told by name: host-meta has the addresses of the time when it was made.
    url = f"wss://{first.public_host}/xmpp-s2s"
    stage.capulet_gateway.configure(f'remote."{MONTAGUE}"', url=url)
    # A peer sees by its pings alone that a machine is gone for good.
    stage.capulet_gateway.configure("limits", ping_interval=2.0)
    secret = str(stage.directory / "cluster.secret")
    for gateway, actor in ((first, FIRST), (second, SECOND)):
        url = f"redis://{machines.of(REDIS)}:{REDIS_PORT}"
        gateway.configure("redis", url=url, allow_insecure=True)
        # The local server runs on another machine, and asks from whatever address that has.
        gateway.configure("local", dns_clients=["10.77.0.0/16"])
        gateway.configure("cluster", secret_file=secret)
        move_gateway(gateway, machines, actor)
    await stage.attach_gateways()
    await second.attach_files("ejabberd")  # pins the server's key on this machine, too
    await second.start()


@pytest_asyncio.fixture(loop_scope="session")
async def couple(cluster: Cluster) -> AsyncIterator[tuple[User, User]]:
    juliet = await cluster.stage.login(f"juliet@{CAPULET}/balcony")
    romeo = await cluster.stage.login(f"romeo@{MONTAGUE}/orchard")
    yield juliet, romeo
    await juliet.logout()
    await romeo.logout()


async def shown(gateway: Gateway, *directions: str) -> list[dict[str, Any]]:
    """The sessions of montague and capulet on one machine, of these directions.

    "stream": what the local server opened; what is opened to it is "local", too.
    """
    sessions = await gateway.sessions(CAPULET)
    for session in sessions:
        if session["direction"] == "local" and "waiting" not in session:
            session["direction"] = "stream"
    return [session for session in sessions if session["direction"] in directions]


async def wait_shown(gateway: Gateway, count: int, *directions: str, within: float = 10) -> None:
    sessions: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(within):
            while len(sessions := await shown(gateway, *directions)) != count:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise StageError(f"{gateway.name}: not {count} {directions}, but {sessions}") from None


async def owner(cluster: Cluster) -> str:
    """The worker that owns the pair, as Redis has it."""
    key = f"fedgate:route:{{{CAPULET}}}:{MONTAGUE}"
    value = await cluster.redis.hget(key, "owner")  # type: ignore[misc]
    return (value or b"").decode()


async def wait_owner(cluster: Cluster, gateway: Gateway, within: float = 10) -> None:
    found = ""
    try:
        async with asyncio.timeout(within):
            while not (found := await owner(cluster)).startswith(gateway.name):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise StageError(f"{gateway.name} does not own the pair, but {found!r}") from None


async def wait_dealt(cluster: Cluster, worker: str, within: float = 15) -> None:
    """Wait until nothing is left of a dead worker, and the new owner has taken it in."""
    keys = [f"fedgate:{name}:{{{worker}}}" for name in ("journal", "sealed", "inbox")]
    inbox = f"fedgate:inbox:{{{await owner(cluster)}}}"
    async with asyncio.timeout(within):
        while True:
            both = (
                cluster.redis.pipeline()
            )  # at once: what leaves one may be on its way to the other
            left, waiting = await both.exists(*keys).xlen(inbox).execute()
            if not left and not waiting:
                return
            await asyncio.sleep(0.1)


def lead_to(cluster: Cluster, gateway: Gateway) -> None:
    """The load balancer of the public side sends new sessions to this machine."""
    dns = cluster.stage.dns
    for name in (*gateway.domains, gateway.public_host):
        dns.set(name, "A", gateway.address)


async def test_a_stream_whose_owner_is_another_machine_is_spliced_there(
    cluster: Cluster, couple: tuple[User, User]
) -> None:
    juliet, romeo = couple
    lead_to(cluster, cluster.second)
    juliet.send(romeo.jid, "by whose direction found'st thou out this place?")
    await romeo.message("by whose direction found'st thou out this place?", within=20)
    await wait_owner(cluster, cluster.second)
    romeo.send(juliet.jid, "by love")
    await juliet.message("by love", within=20)
    await wait_shown(cluster.first, 1, "to gateway")
    await wait_shown(cluster.second, 1, "outbound")
    assert not await shown(cluster.first, "outbound", "stream", "inbound")
    await talk(juliet, romeo)
    for gateway in (cluster.first, cluster.second):
        await gateway.wait_settled()


async def test_a_machine_that_dies_is_replaced_and_its_journal_replayed(
    cluster: Cluster, couple: tuple[User, User]
) -> None:
    juliet, romeo = couple
    (holder,) = await cluster.stage.capulet_gateway.worker_pids()
    os.kill(holder, signal.SIGSTOP)
    said = [romeo.send(juliet.jid, f"line {number}") for number in range(20)]
    worker = await owner(cluster)
    async with asyncio.timeout(5):
        while not await cluster.redis.xlen(f"fedgate:journal:{{{worker}}}"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    lead_to(cluster, cluster.first)
    died_at = time.monotonic()
    await cluster.machines.switch_off(SECOND)
    os.kill(holder, signal.SIGCONT)
    await talk_again(juliet, romeo)
    await wait_owner(cluster, cluster.first)
    print(f"the pair is served again {time.monotonic() - died_at:.1f} s after its machine died")
    await wait_dealt(cluster, worker)
    ledger = await cluster.first.wait_settled()
    assert ledger["outbound"]["replayed"] > 0
    heard = juliet.inbox.peek(lambda s: s.id in said)
    firsts = list(dict.fromkeys(each.id for each in heard))
    assert firsts == said
    seen: set[str] = set()
    for each in heard:
        assert each.id not in seen or each.is_delayed, f"{each} came twice and does not say so"
        seen.add(each.id)
    cluster.machines.switch_on(SECOND)
    await cluster.second.start()


async def test_without_redis_sessions_go_on_and_on_contact_the_older_owner_drains(
    cluster: Cluster, couple: tuple[User, User]
) -> None:
    juliet, romeo = couple
    first, second, machines = cluster.first, cluster.second, cluster.machines
    await talk(juliet, romeo)
    await wait_owner(cluster, first)
    machines.part(REDIS, FIRST)
    try:
        parted_at = time.monotonic()
        await speak_until(couple, parted_at + 8.0)
        # The first machine counts as dead now: another stream of the pair finds the second one.
        _, writer = await asyncio.open_connection(second.address, LOCAL_PORT)
        writer.write(
            f"<stream:stream from='{MONTAGUE}' to='{CAPULET}' version='1.0' xmlns='jabber:server'"
            " xmlns:stream='http://etherx.jabber.org/streams'>".encode()
        )
        await wait_owner(cluster, second)
        await speak_until(couple, parted_at + WITHOUT_REDIS)
        assert await shown(first, "stream")
    finally:
        machines.join(REDIS, FIRST)
    await wait_shown(first, 0, "stream", "outbound", within=20)
    await wait_owner(cluster, second)
    writer.close()
    await talk(juliet, romeo)
    await wait_shown(second, 1, "outbound")
    for gateway in (first, second, cluster.stage.capulet_gateway):
        await gateway.wait_settled()


async def speak_until(couple: tuple[User, User], end: float) -> None:
    """Each second both say something, which arrives."""
    while time.monotonic() < end:
        await talk(*couple, within=5)
        await asyncio.sleep(1.0)
