"""What is done to the scene in the middle of a run, by name."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from loadtest.chaos.scene import Names, Scene, flows_in
from loadtest.stage.gateway import Gateway
from loadtest.stage.processes import StageError

PAUSE = 30.0  # seconds a worker is stopped
STALL = 20.0  # seconds Redis is stopped
COORDINATOR_AWAY = 3.0
HALF_OPEN = 60.0  # seconds: longer than two ping intervals and what the next attempt takes


@dataclass(slots=True)
class Impact:
    """What a fault did. Times are those of `time.monotonic()`."""

    at: float
    where: str
    """Gateway and worker, or server."""
    affected: Names | None = None
    """Flows that may suffer; None: any."""
    read_by_victim: Names = field(default_factory=set)
    """Flows whose stream from the local server ended with the victim: what it had not read died."""
    restarted: str = ""
    """The kind of local server that was restarted; what it held died with it."""
    closes_streams: bool = False
    """Streams from the local server were closed in order, one after the other."""
    until: float = 0.0
    """When the fault itself was over."""


Fault = Callable[[Scene, random.Random], Awaitable[Impact]]


async def none(scene: Scene, rng: random.Random) -> Impact:
    """Nothing, for comparison."""
    await asyncio.sleep(1)
    return Impact(time.monotonic(), "", affected=set())


async def worker_killed(scene: Scene, rng: random.Random) -> Impact:
    """kill -9 of one worker."""
    gateway, pid, impact = await _choose_worker(scene, rng)
    os.kill(pid, signal.SIGKILL)
    await gateway.wait_gone(pid)
    return impact


async def worker_paused(scene: Scene, rng: random.Random) -> Impact:
    """SIGSTOP of one worker for 30 s."""
    gateway, pid, impact = await _choose_worker(scene, rng)
    with _paused(pid):
        await asyncio.sleep(PAUSE)
    await gateway.wait_ready()
    return impact


async def coordinator_killed(scene: Scene, rng: random.Random) -> Impact:
    """kill -9 of a coordinator, started again 3 s later."""
    gateway = rng.choice(scene.gateways)
    impact = Impact(time.monotonic(), gateway.name, affected=set())
    await gateway.kill()
    await asyncio.sleep(COORDINATOR_AWAY)
    await gateway.start()
    return impact


async def redis_killed(scene: Scene, rng: random.Random) -> Impact:
    """kill -9 of the embedded redis-server, which comes back with its data."""
    return await _kill_redis(rng.choice(scene.gateways), empty=False)


async def redis_emptied(scene: Scene, rng: random.Random) -> Impact:
    """kill -9 of the embedded redis-server, which comes back without its data."""
    return await _kill_redis(rng.choice(scene.gateways), empty=True)


async def redis_stalled(scene: Scene, rng: random.Random) -> Impact:
    """SIGSTOP of the embedded redis-server for 20 s."""
    gateway = rng.choice(scene.gateways)
    pid = gateway.redis_pid()
    impact = Impact(time.monotonic(), gateway.name, affected=set())
    with _paused(pid):
        await asyncio.sleep(STALL)
    return impact


async def prosody_restarted(scene: Scene, rng: random.Random) -> Impact:
    """Prosody is stopped as a service manager does, and started again."""
    return await _restart_server(scene, "prosody")


async def ejabberd_restarted(scene: Scene, rng: random.Random) -> Impact:
    """ejabberd is stopped as a service manager does, and started again."""
    return await _restart_server(scene, "ejabberd")


async def half_open(scene: Scene, rng: random.Random) -> Impact:
    """Half of the connections between the gateways carry nothing more and are not closed."""
    gateways = list(scene.gateways)
    rng.shuffle(gateways)
    for gateway in gateways:
        if pipes := scene.proxies[gateway.name].pipes:
            break
    else:
        raise StageError("no session passes through a proxy")
    chosen = rng.sample(pipes, max(1, len(pipes) // 2))
    names = {pipe.upstream_name for pipe in chosen}
    sessions = [each for each in await gateway.api("sessions") if each["peer"] in names]
    impact = Impact(time.monotonic(), gateway.name)
    impact.affected = flows_in(sessions)[0]
    for pipe in chosen:
        pipe.stall()
    await asyncio.sleep(HALF_OPEN)
    return impact


async def restarted(scene: Scene, rng: random.Random) -> Impact:
    """A rolling restart of a whole gateway: `fedgate restart`."""
    gateway = rng.choice(scene.gateways)
    old = set(await gateway.worker_pids())
    impact = Impact(time.monotonic(), gateway.name, closes_streams=True)
    await gateway.run("restart", within=120)
    for pid in old:
        await gateway.wait_gone(pid, within=120)
    await gateway.wait_ready()
    return impact


FAULTS: dict[str, Fault] = {
    "none": none,
    "worker-killed": worker_killed,
    "coordinator-killed": coordinator_killed,
    "redis-killed": redis_killed,
    "redis-emptied": redis_emptied,
    "redis-stalled": redis_stalled,
    "worker-paused": worker_paused,
    "prosody-restarted": prosody_restarted,
    "ejabberd-restarted": ejabberd_restarted,
    "half-open": half_open,
    "restarted": restarted,
}
TIMES = {"worker-killed": 20}


async def _choose_worker(scene: Scene, rng: random.Random) -> tuple[Gateway, int, Impact]:
    """A running worker, preferably one that has sessions: few pairs may all have the same owner."""
    found = []
    for gateway in scene.gateways:
        for worker in await gateway.api("workers"):
            if worker["state"] == "running":
                used, read = await scene.flows_of(gateway, worker["id"])
                found.append((worker["id"], int(worker["pid"]), gateway, used, read))
    busy = [each for each in found if each[3]]
    if not found:
        raise StageError("no worker runs")
    id, pid, gateway, used, read = rng.choice(sorted(busy or found, key=lambda each: each[0]))
    return gateway, pid, Impact(time.monotonic(), id, affected=used, read_by_victim=read)


async def _kill_redis(gateway: Gateway, *, empty: bool) -> Impact:
    pid = gateway.redis_pid()
    impact = Impact(time.monotonic(), gateway.name, affected=set())
    if empty:
        # The running server keeps its open files; the next one finds none.
        for each in (gateway.state_dir / "redis").iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    os.kill(pid, signal.SIGKILL)
    await gateway.wait_gone(pid)
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(StageError):
                gateway.redis_pid()
                return impact
            await asyncio.sleep(0.1)


async def _restart_server(scene: Scene, kind: str) -> Impact:
    server = scene.stage.capulet if kind == "prosody" else scene.stage.montague
    impact = Impact(time.monotonic(), server.domain, restarted=kind)
    await server.restart()
    await scene.wait_components()
    return impact


@contextlib.contextmanager
def _paused(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
