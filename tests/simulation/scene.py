"""Everything together: two machines, local servers of both kinds, remote servers, users, Redis."""

import itertools
import logging
import random
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from coordinator import accounts, redis_client
from coordinator.config import Config, Gateway, Limits, Local, Redis
from coordinator.routes import DomainPair
from tests.simulation import sockets, stanzas
from tests.simulation.checker import Checker, Sent
from tests.simulation.gateway import SimulatedWorker
from tests.simulation.local_server import LocalServer
from tests.simulation.machine import Machine
from tests.simulation.model_sessions import ModelTLS
from tests.simulation.network import End, Network
from tests.simulation.redis_connection import ModelClient
from tests.simulation.redis_data import Stream
from tests.simulation.redis_model import RedisModel
from tests.simulation.remote_server import RemoteServer
from tests.simulation.sockets import FakeSocket
from tests.simulation.world import START, WALL, Process, World
from workers.gateway import channel, gateway_splice, local_listener
from workers.gateway.native import NativeFailed
from workers.gateway.replay import Replay

LOCALS = {"prosody.example": True, "ejabberd.example": False}
REMOTES = {"sm.example": True, "plain.example": False}
_KINDS = ("message", "request", "result", "presence", "error")
_WEIGHTS = (70, 17, 4, 6, 3)
_LIMITS = Limits(resend_timeout=8.0, ping_interval=4.0, connect_timeout=3.0, idle_timeout=20.0)


class Scene:
    """One run. `busy` seconds of traffic and faults, then time to come to rest."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.world = World(seed, tracing=tracing)
        self.network = Network(self.world)
        self.redis = RedisModel(self.world)
        self.checker = Checker(self.world, self.ids_in_redis)
        self.checker.undeliverable = self.undeliverable
        self.network.on_lost = self.checker.on_lost
        self.network.on_read = self.checker.on_read
        self.redis.on_executed = self._on_executed
        self.machines: list[Machine] = []
        self.locals: dict[str, LocalServer] = {}
        self.remotes: dict[str, RemoteServer] = {}
        self.pairs: list[DomainPair] = []
        self.counts: dict[tuple[str, int], int] = {}
        self.traffic_left = 0
        self.traps: list[Any] = []
        """Called with each command that Redis executes."""

    # Building.

    def build(self) -> None:
        world, rng = self.world, self.world.rng
        self.network.latency = rng.choice((0.001, 0.01, 0.08))
        self.redis.latency = self.redis.usual_latency = rng.choice((0.001, 0.01, 0.05))
        for domain, has_sm in REMOTES.items():
            remote = RemoteServer(self.network, Process(world, domain), domain, has_sm=has_sm)
            remote.checker, remote.connect = self.checker, self._open_public
            self.remotes[domain] = remote
        for port, (domain, is_prosody) in enumerate(LOCALS.items(), 15269):
            local = LocalServer(
                self.network,
                Process(world, domain),
                domain,
                is_prosody=is_prosody,
                connect=self._open_local,
            )
            local.checker = self.checker
            self.locals[domain] = local
            self.network.services["127.0.0.1", port] = self._service(local)
        every = [DomainPair(local, remote) for local in LOCALS for remote in REMOTES]
        self.pairs = rng.sample(every, rng.randint(2, 4))
        for name, slots in (("gw1", 2), ("gw2", 1)):
            machine = Machine(self, name, slots, self._config(name))
            self.network.gateways[machine.config.local.listen] = machine
            self.machines.append(machine)

    def _config(self, name: str) -> Config:
        number = 1 if name == "gw1" else 2
        return Config(
            gateway=Gateway(domains=tuple(LOCALS), name=name, drain_timeout=15.0, workers=2),
            local=Local(
                server={domain: f"127.0.0.1:{port}" for port, domain in enumerate(LOCALS, 15269)},
                listen=f"127.0.0.1:527{number}",
            ),
            redis=Redis(url="redis://model:6379"),
            limits=_LIMITS,
        )

    def _service(self, local: LocalServer) -> Any:
        def accept(process: Process) -> End | None:
            if not local.is_up:
                return None
            wire = self.network.open("local-in", process, local.process)
            local.accept(wire.b)
            return wire.a

        return accept

    def _open_local(self, pair: DomainPair) -> End | None:
        """The local server connects to its machine's gateway; the other's if its own is down."""
        order = self.machines if pair.local == "prosody.example" else self.machines[::-1]
        for machine in order:
            if not machine.is_down:
                wire = self.network.open(
                    "local-out", self.locals[pair.local].process, machine.coordinator
                )
                machine.listening.arrive(FakeSocket(wire.b))
                return wire.a
        return None

    def open_remote(self, process: Process, domain: str) -> End | None:
        remote = self.remotes[domain]
        if remote.is_refusing:
            return None
        wire = self.network.open("wss-out", process, remote.process)
        remote.accept(wire.b)
        return wire.a

    def _open_public(self, remote: RemoteServer) -> End | None:
        able = [
            worker
            for machine in self.machines
            for worker in machine.workers
            if worker.is_ready and worker.public.is_accepting
        ]
        if not able:
            return None
        worker = self.world.rng.choice(able)
        wire = self.network.open("wss-in", remote.process, worker.process)
        worker.process.post(worker.public.accept, wire.b)
        return wire.a

    def wire_up(self, worker: SimulatedWorker) -> None:
        """What `Worker` connects between its parts."""
        worker.control.on_dealt = Replay(worker.router, worker._config).on_dealt

    # Users.

    def plan_traffic(self, bursts: int, seconds: float) -> None:
        for _ in range(bursts):
            self.plan_burst(0.3 + self.world.rng.random() * seconds)

    def plan_burst(self, when: float) -> None:
        """Some stanzas one way, `when` seconds after the beginning."""
        rng = self.world.rng
        way = rng.choice("oi"), rng.randrange(len(self.pairs))
        self.traffic_left += 1
        self.world.later(max(when, 0.3), self._burst, way, rng.choice((1, 1, 2, 3, 5, 8, 12)))

    def _burst(self, way: tuple[str, int], size: int) -> None:
        self.traffic_left -= 1
        direction, index = way
        pair = self.pairs[index]
        items = [self._new_stanza(direction, index, pair) for _ in range(size)]
        server: Any = self.locals[pair.local] if direction == "o" else self.remotes[pair.remote]
        server.process.post(server.user_sends, pair, items)

    def _new_stanza(self, direction: str, index: int, pair: DomainPair) -> tuple[str, bytes]:
        number = self.counts.get((direction, index), 0) + 1
        self.counts[direction, index] = number
        kind = self.world.rng.choices(_KINDS, _WEIGHTS)[0]
        sender, target = pair if direction == "o" else (pair.remote, pair.local)
        id = f"{direction}{index}-{number}"
        self.checker.will_send(Sent(id, direction, index, number, kind, sender, target))
        return id, stanzas.write(kind, id, sender, target)

    # What is watched.

    def worker_died(self, worker: SimulatedWorker) -> None:
        self.checker.worker_died(worker.worker_id)

    def journals_stay(self) -> None:
        """A new owner gave up waiting for a dead one's journal: too many were away at once."""
        self.checker.gave_up_at = self.world.now
        self.checker.two_owners.update(range(len(self.pairs)))

    def predecessor_stays(self, local: str, remote: str) -> None:
        """A worker gave up waiting for the pair's former owner."""
        pair = DomainPair(local, remote)
        if pair in self.pairs:
            self.checker.two_owners.add(self.pairs.index(pair))

    def ids_in_redis(self) -> set[str]:
        ids: set[str] = set()
        for value in self.redis.data.keys.values():
            if isinstance(value, Stream):
                for fields in value.entries.values():
                    for field in fields:
                        ids.update(stanzas.ids_in(field))
        return ids

    def _on_executed(
        self, process: Process, name: str, arguments: tuple[Any, ...], result: Any
    ) -> None:
        for trap in list(self.traps):
            trap(process, name, arguments, result)
        if name == "evalsha" and len(arguments) > 2 and ":route:" in str(arguments[2]):
            if isinstance(result, list):
                self.checker.on_route(str(arguments[2]), result[0].decode(), int(result[1]))
        elif name == "xadd":
            for value in arguments:
                if isinstance(value, dict):
                    value = b"".join(value.values())
                if isinstance(value, bytes) and len(value) > 40:
                    self.checker.kept_ever.update(stanzas.ids_in(value))

    def held_in_memory(self) -> set[str]:
        held: set[str] = set()
        for machine in self.machines:
            for worker in machine.workers:
                held |= worker.held()
        return held

    def is_at_rest(self) -> bool:
        if self.traffic_left or self.checker.open:
            return False
        for machine in self.machines:
            for worker in machine.workers:
                if not worker.is_ready or any(origin.in_flight for origin in worker.router.origins):
                    return False
        return True

    def undeliverable(self) -> int:
        """How many bounces the ledgers say were dropped."""
        at = accounts.drop_index("bounce-undeliverable")
        every = [words for machine in self.machines for words in machine.ended]
        every += [w.account.words() for machine in self.machines for w in machine.workers]
        return sum(words[at] + words[32 + at] for words in every)

    def check_at_rest(self) -> None:
        """Everything has ended, and nothing of it is left anywhere."""
        self.checker.finish()
        for machine in self.machines:
            for worker in machine.workers:
                if worker.is_ready and not self.world.failures:
                    worker.check_queues()
                    in_flight = sum(origin.in_flight for origin in worker.router.origins)
                    if in_flight:
                        self.world.fail(f"{worker.worker_id} still has {in_flight} in flight")
        for key in self.left_in_redis():
            self.world.fail(f"{key} still has entries")

    def left_in_redis(self) -> list[str]:
        """Journals and inboxes with something in them, and somebody to deal with it."""
        if self.checker.lost_data_at:
            return []  # with the list of those that have a journal
        left = []
        # An append that is executed after its connection was given up may stay until the next one.
        writers = {w.worker_id: w for machine in self.machines for w in machine.workers}
        for key, value in self.redis.data.keys.items():
            if not isinstance(value, Stream) or not value.entries:
                continue
            name = key.decode()
            writer = writers.get(name.partition("{")[2].rstrip("}"))
            if writer is None or ":journal:" not in name or writer.control.journal.entries:
                left.append(name)
        return left

    def is_tidy(self) -> bool:
        return not self.left_in_redis()


# What the code under test takes from the interpreter.


_ordinals = itertools.count()


def _ordinal_hash(self: Any) -> int:
    """Objects stand in sets in the order of their use, not of their addresses in memory."""
    known: dict[str, Any] = self.__dict__
    if "_ordinal" not in known:
        known["_ordinal"] = next(_ordinals)
    ordinal: int = known["_ordinal"]
    return ordinal


def _order_sets() -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith(("workers.", "coordinator.", "tests.simulation.")):
            for found in vars(module).values():
                if (
                    isinstance(found, type)
                    and found.__module__ == name
                    and found.__hash__ is object.__hash__
                    and found.__dictoffset__
                ):
                    found.__hash__ = _ordinal_hash  # type: ignore[assignment]


def _no_native(*args: Any, **options: Any) -> Any:
    async def refuse() -> Any:
        raise NativeFailed(resolved=True, reason="no native server")

    return refuse()


_order_sets()


@contextmanager
def in_world(scene: Scene) -> Iterator[None]:
    """Time, chance and the boundaries are the scene's."""
    global _ordinals
    world = scene.world
    _ordinals = itertools.count()

    def wall() -> float:
        machine = getattr(world.current, "machine", None)
        return WALL + world.now - START + (machine.wall_offset if machine else 0.0)

    def open_client(url: str) -> ModelClient:
        process: Any = world.current
        return ModelClient(scene.redis, process, process.machine.name)

    async def connect_gateway(address: str) -> FakeSocket:
        try:
            process: Any = world.current
            return await sockets.connect_gateway(scene.network, process, address)
        except OSError as exc:
            raise NativeFailed(resolved=True, reason=f"{address}: {exc}") from None

    patches: list[tuple[Any, str, Any]] = [
        (time, "time", wall),
        (time, "monotonic", lambda: world.now),
        (
            secrets,
            "token_hex",
            lambda count=32: f"{world.chance.getrandbits(8 * count):0{2 * count}x}",
        ),
        (redis_client, "open_client", open_client),
        (channel, "TLSEngine", ModelTLS),
        (local_listener, "connect_native", _no_native),
        (gateway_splice, "_connect", connect_gateway),
    ]
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    state = random.getstate()
    random.seed(world.seed)
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in saved:
            setattr(owner, name, value)
        random.setstate(state)


__all__ = ["Scene", "in_world", "logging", "replace"]
