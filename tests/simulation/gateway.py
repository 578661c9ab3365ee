"""A worker in the simulation: the real parts, on model connections to everything outside.

Real: ControlPlane, Store and what they use, Router, Hop, sources, LocalListener, LocalConnector,
sessions, streams, channels. Modelled: TLS, the WebSocket below a session, discovery, certificates,
the coordinator's socket, the unix sockets between workers.
"""

import asyncio
from typing import Any

from coordinator import accounts
from coordinator.accounts import ACCEPTED, ACKNOWLEDGED, BOUNCED, DROPPED, RETURNED
from coordinator.config import Config
from coordinator.silence import Silence
from tests.simulation.model_parts import Anything, ModelControlPlane, ModelSiblings
from tests.simulation.model_sessions import ModelPublicListener, ModelRemoteConnector
from tests.simulation.network import End
from tests.simulation.sockets import ListeningSocket
from tests.simulation.world import Process
from workers.gateway.local_connector import LocalConnector
from workers.gateway.local_listener import LocalListener
from workers.gateway.router import Router
from workers.worker import Worker

_BALANCED = (
    ACKNOWLEDGED,
    BOUNCED,
    RETURNED,
    accounts.IN_FLIGHT_OURS,
    accounts.IN_FLIGHT_RESENDABLE,
)


class Account:
    """The counters, in memory."""

    def __init__(self) -> None:
        self.bytes = bytearray(2 * 32 * 8)
        words = memoryview(self.bytes).cast("Q")
        self.outbound, self.inbound = words[:32], words[32:]

    def words(self) -> list[int]:
        return self.outbound.tolist() + self.inbound.tolist()

    def snapshot(self) -> dict[str, Any]:
        return {}


def balance(words: list[int]) -> int:
    """Accepted minus all that it became, of one direction."""
    ends = sum([words[at] for at in _BALANCED]) + sum(words[DROPPED : DROPPED + 16])
    return words[ACCEPTED] - ends


class SimulatedWorker:
    """One worker process from its start to its end; `machine` is where it runs."""

    def __init__(self, machine: Any, process: Process, worker_id: str, config: Config) -> None:
        self.machine = machine
        self.process = process
        self.worker_id = worker_id
        self._id = worker_id
        self._config = config
        self.account = Account()
        self.is_ready = False
        self.turns = 0
        self.silence = Silence()
        self._balanced = b""
        self.final: list[int] | None = None
        process.after_turn = self._after_turn
        process.on_death.insert(0, self._on_death)

    def start(self) -> None:
        self._stopping = asyncio.Event()
        self._draining = asyncio.Event()
        self.process.create_task(self._run(), name="main")

    async def _run(self) -> None:
        await self._start()
        self.is_ready = True
        self.machine.worker_is_ready(self)
        reporting = self.process.create_task(self._report())
        await self._draining.wait()
        await Worker._drain(self)  # type: ignore[arg-type]
        reporting.cancel()
        await self._close()
        self.process.kill()

    async def _start(self) -> None:
        config, machine = self._config, self.machine
        self.control = ModelControlPlane(config, self.worker_id)
        await self.control.start()
        anything: Any = Anything()
        self.discovery = anything
        self.router = Router(
            config,
            self.account,  # type: ignore[arg-type]
            ModelRemoteConnector(  # type: ignore[arg-type]
                config, self._open_remote, machine.network.latency
            ),
            LocalConnector(config, self.control, anything, anything),
            self.control.journal,
        )
        self.siblings: Any = ModelSiblings(machine, self.worker_id, self.process)
        self.public = ModelPublicListener(config, self.router)
        self.local = LocalListener(
            config,
            self.router,
            anything,
            anything,
            self.control,
            self.siblings,
            anything,
            anything,
        )
        machine.wire_up(self)
        self.local.start([ListeningSocket(machine.listening, self.process)])  # type: ignore[list-item]

    def _open_remote(self, remote: str) -> End | None:
        return self.machine.scene.open_remote(self.process, remote)

    async def _report(self) -> None:
        while True:
            self.router.each_second()
            await asyncio.sleep(1.0)

    def _sources(self) -> list[Any]:
        return [*self.local.sources, *self.public.sources]

    def drain(self) -> None:
        """The coordinator's command."""
        self.process.post(self._on_drain)

    def _on_drain(self) -> None:
        self.machine.world.trace(self.process.name, "drains")
        self.machine.scene.checker.worker_leaves()
        self._draining.set()

    async def _close(self) -> None:
        self.local.stop()
        await self.router.drain(0)
        await self.local.close()
        self.router.recount()
        await self.control.journal.close()
        await self.control.close()
        self.process.world.trace(self.process.name, "has ended")

    # What is watched.

    def _after_turn(self) -> None:
        self.turns += 1
        if self.account.bytes == self._balanced:
            return
        self._balanced = bytes(self.account.bytes)
        for name in ("outbound", "inbound"):
            words = getattr(self.account, name).tolist()
            if balance(words):
                self.process.world.fail(f"{self.worker_id}: {name} is off by {balance(words)}")
        if self.turns % 4 == 0 and self.is_ready:
            self.check_queues()

    def check_queues(self) -> None:
        """In flight is what the queues hold."""
        for counters in (self.account.outbound, self.account.inbound):
            ours = resendable = 0
            for origin in self.router.origins:
                if origin.counters is counters:
                    counts = origin.count()
                    ours, resendable = ours + counts[0], resendable + counts[1]
            told = (counters[accounts.IN_FLIGHT_OURS], counters[accounts.IN_FLIGHT_RESENDABLE])
            if told != (ours, resendable):
                self.process.world.fail(
                    f"{self.worker_id}: in flight {told}, the queues hold {(ours, resendable)}"
                )

    def held(self) -> set[str]:
        """The ids of stanzas in memory."""
        if not self.is_ready:
            return set()
        return {
            stanza.id or ""
            for origin in self.router.origins
            for batch in origin._pending
            for stanza in batch.stanzas[batch.first :]
        }

    def _on_death(self) -> None:
        self.final = accounts._settled(self.account.words())
        self.machine.worker_died(self)
