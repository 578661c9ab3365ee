"""Around a worker: its siblings, its coordinator's socket, and what gives it certificates."""

import asyncio
from collections.abc import Callable
from typing import Any

from coordinator.client import ControlPlane
from tests.simulation.sockets import FakeSocket
from tests.simulation.world import Process
from workers.gateway.siblings import SiblingUnavailable


class ModelSiblings:
    """Sockets and messages to the other workers of the machine.

    A packet to a stopped process waits in the kernel; one to a process that is gone is refused.
    """

    def __init__(self, machine: Any, worker_id: str, process: Process) -> None:
        self.on_socket: Callable[[Any, dict[str, Any]], None] = lambda sock, info: None
        self.on_message: Callable[[dict[str, Any]], None] = lambda message: None
        self.on_withdrawn: Callable[[dict[str, Any]], None] = lambda info: None
        self._machine = machine
        self._process = process
        machine.siblings[worker_id] = self

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def send_socket(self, worker_id: str, sock: FakeSocket, info: dict[str, Any]) -> None:
        """Not before the other has taken it: one that is stopped must not serve it later."""
        other = await self._find(worker_id)
        taken = self._process.create_future()
        other._process.post(other._take, self, taken, sock, info)
        try:
            async with asyncio.timeout(1.0):
                await taken
        except TimeoutError:
            raise SiblingUnavailable(f"worker {worker_id} does not take a stream") from None
        sock.is_handed_on = True

    def _take(
        self, sender: "ModelSiblings", taken: Any, sock: FakeSocket, info: dict[str, Any]
    ) -> None:
        if taken.done() or sender._process.is_dead:
            self.on_withdrawn(info)
            return
        sock.end.on_input = None
        sock.move_to(self._process)
        sender._process.post(_succeed, taken)
        self.on_socket(FakeSocket(sock.end), info)

    async def send_message(self, worker_id: str, message: dict[str, Any]) -> None:
        other = await self._find(worker_id)
        other._process.post(other._on_message, message)

    def _on_message(self, message: dict[str, Any]) -> None:
        self.on_message(message)

    async def _find(self, worker_id: str) -> "ModelSiblings":
        await asyncio.sleep(0.0003)
        other = self._machine.siblings.get(worker_id)
        if other is None or other._process.is_dead:
            raise SiblingUnavailable(f"worker {worker_id} is away")
        return other


def _succeed(future: Any) -> None:
    if not future.done():
        future.set_result(None)


class ModelControlPlane(ControlPlane):
    """The coordinator's socket is a method call, certificates are free."""

    async def _stay_connected(self) -> None:
        self.dialback_secret = b"secret"
        self.degraded.discard("coordinator")
        self._welcomed.set()

    async def leaf(self, domain: str, purpose: str = "route") -> Any:
        await asyncio.sleep(0.0005)
        return _LEAF

    def report(self, snapshot: dict[str, Any]) -> None: ...


class _Leaf:
    certificate_pem = key_pem = b""
    not_after = float("inf")


_LEAF = _Leaf()


class Anything:
    """Stands in for what gives contexts, trust and discovery."""

    def server(self, *args: Any) -> str:
        return "context"

    client = server

    def why_not(self, *args: Any) -> str:
        return ""

    async def find(self, domain: str, **options: Any) -> Any:
        return self

    blocked = native = False
    reason = ""

    def mark_native(self, *args: Any) -> None: ...

    mark_working = mark_native

    def is_native(self, domain: str) -> bool:
        return False
