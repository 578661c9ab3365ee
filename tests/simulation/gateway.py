"""A worker in the simulation: the real parts, on model connections to everything outside.

Real: ControlPlane, Store and what they use, Router, Hop, sources, LocalListener, LocalConnector,
sessions, streams, channels. Modelled: TLS, the WebSocket below a session, discovery, certificates,
the coordinator's socket, the unix sockets between workers.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from coordinator import accounts
from coordinator.accounts import ACCEPTED, ACKNOWLEDGED, BOUNCED, DROPPED, RETURNED
from coordinator.client import ControlPlane
from coordinator.config import Config
from tests.simulation import network
from tests.simulation.network import DATA, RESET, End, FakeSocket, ListeningSocket, Parcel
from tests.simulation.world import Process
from workers.gateway.failure import HopFailed
from workers.gateway.local_connector import LocalConnector
from workers.gateway.local_listener import LocalListener
from workers.gateway.negotiation import Negotiation
from workers.gateway.public_listener import new_stream_id
from workers.gateway.remote_source import RemoteSource
from workers.gateway.router import Router
from workers.gateway.session import SessionOwner, WebSocketSession
from workers.gateway.siblings import SiblingUnavailable
from workers.worker import Worker
from workers.xmpp.framing import WebSocketFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.parser import MessageParser
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stream import StreamConfig

HELLO = b"\x16HELLO"
_BALANCED = (
    ACKNOWLEDGED,
    BOUNCED,
    RETURNED,
    accounts.IN_FLIGHT_OURS,
    accounts.IN_FLIGHT_RESENDABLE,
)


class ModelTLS:
    """Two hellos, then everything in the clear."""

    def __init__(self, context: Any, *, server: bool, server_name: str | None = None) -> None:
        self.established = False
        self.peer_closed = False
        self.record_sizes: tuple[int, ...] = ()
        self._is_server = server
        self._outgoing: list[bytes] = []
        self._incoming = b""
        self._has_greeted = False

    def handshake(self) -> bool:
        if not self._is_server and not self._has_greeted:
            self._has_greeted = True
            self._outgoing.append(HELLO)
        return self.established

    def receive(self, data: bytes) -> bytes:
        if self.established:
            self.record_sizes = tuple(network.records) if len(network.records) > 1 else ()
            return data
        self._incoming += data
        if not self._incoming.startswith(HELLO):
            return b""
        self.established = True
        if self._is_server:
            self._outgoing.append(HELLO)
        rest, self._incoming = self._incoming[len(HELLO) :], b""
        return rest

    def send(self, data: bytes) -> None:
        self._outgoing.append(data)

    def data_to_send(self) -> bytes:
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    def shutdown(self) -> None: ...

    def peer_chain(self) -> list[Any]:
        return []

    def summary(self) -> str:
        return "model"


class ModelWebSocket:
    """An open WebSocket below a session; also the channel that the session sees."""

    def __init__(self, end: End) -> None:
        self.end = end
        self.channel = self
        self.peername = ("192.0.2.1", end.wire.number)
        self.session: Any = None
        self._is_closing = False
        self._is_over = False
        end.on_input = None

    def use(self, session: WebSocketSession) -> None:
        self.session = session
        session.attach(self)  # type: ignore[arg-type]
        self.end.receiver = self

    # What the session calls.

    def send_messages(self, messages: list[bytes]) -> None:
        if not self._is_closing:
            self.end.send(("messages", messages))

    def ping(self, payload: bytes) -> None:
        if not self._is_closing:
            self.end.send(("ping", payload))

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self.end.send(("close", 1000))
            self.end.set_reading(True)
            self.end.process.call_later(2.0, self._over, 1006, "no answer")

    def abort(self, reason: str | None = "") -> None:
        self._is_closing = True
        self.end.abort()
        self.end.process.call_soon(self._over, 1006, reason or "")

    def pause_reading(self) -> None:
        self.end.set_reading(False)

    def resume_reading(self) -> None:
        self.end.set_reading(True)

    @property
    def buffered(self) -> int:
        return 0

    @property
    def is_closing(self) -> bool:
        return self._is_closing

    def peer_chain(self) -> list[Any]:
        return []

    def tls_summary(self) -> str:
        return "model"

    # What the network calls.

    def received(self, parcels: list[Parcel]) -> None:
        for parcel in parcels:
            if self._is_over:
                return
            if parcel.kind is not DATA:
                self._over(1006, "connection lost" if parcel.kind is RESET else "no closing frame")
                return
            kind, payload = parcel.payload
            if kind == "messages":
                self.end.wire.network.on_read(self.end, parcel.ids)
                self.session.messages_received(payload)
            elif kind == "ping":
                self.end.send(("pong", payload))
            elif kind == "pong":
                self.session.pong_received(payload)
            else:
                if not self._is_closing:
                    self._is_closing = True
                    self.end.send(("close", 1000))
                self._over(1000, "")

    def _over(self, code: int, reason: str) -> None:
        if not self._is_over:
            self._is_over = self._is_closing = True
            self.end.drop_unread("the reader closed the connection")
            self.end.finish()
            self.session.websocket_closed(code, reason)


class ModelRemoteConnector:
    """Opens sessions to remote servers; `open_to(remote)` gives a connection, or None."""

    def __init__(
        self, config: Config, open_to: Callable[[str], End | None], latency: float
    ) -> None:
        self._config = config
        self._open_to = open_to
        self._latency = latency

    async def connect(
        self, local: str, remote: str, owner: SessionOwner, **options: Any
    ) -> WebSocketSession:
        await asyncio.sleep(2 * self._latency)
        end = self._open_to(remote)
        if end is None:
            raise HopFailed("connection refused", resolved=True)
        limits = self._config.limits
        parser = MessageParser(limits)
        stream = InitiatingStream(
            StreamConfig(limits=limits, dialback_secret=b"secret"),
            WebSocketFraming(),
            parser.parse,
            parser,
            asyncio.get_running_loop().time(),
            sender=local,
            target=remote,
        )
        negotiation = Negotiation(owner)
        session = WebSocketSession(stream, negotiation, ping_interval=limits.ping_interval)
        ModelWebSocket(end).use(session)
        stream.open()
        session.pump()
        await negotiation.finish(session, limits.connect_timeout)
        return session


class ModelRemoteSource(RemoteSource):
    """Believes in every certificate."""

    async def _why_no_external(self, domain: str) -> str:
        return ""


class ModelPublicListener:
    """Takes sessions as the WebSocket endpoint hands them over."""

    def __init__(self, config: Config, router: Router) -> None:
        self.config = config
        self.router = router
        self.sources: set[Any] = set()
        self.errors: list[Any] = []
        self.is_accepting = True

    def stop(self) -> None:
        self.is_accepting = False

    def describe(self) -> list[Any]:
        return []

    def source_ended(self, source: Any, reason: str) -> None:
        self.sources.discard(source)

    def accept(self, end: End) -> None:
        if not self.is_accepting:
            end.abort()
            return
        limits = self.config.limits
        parser = MessageParser(limits)
        stream = ReceivingStream(
            StreamConfig(limits=limits, hosts=frozenset(self.config.gateway.domains)),
            WebSocketFraming(),
            parser.parse,
            parser,
            asyncio.get_running_loop().time(),
            new_id=new_stream_id,
        )
        source = ModelRemoteSource(self)  # type: ignore[arg-type]
        session = WebSocketSession(stream, source, ping_interval=limits.ping_interval)
        source.attach(session)
        self.sources.add(source)
        ModelWebSocket(end).use(session)
        end.wake()
        session.start_timer()


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


class _Anything:
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


class Account:
    """The counters, in memory."""

    def __init__(self) -> None:
        self.outbound = memoryview(bytearray(32 * 8)).cast("Q")
        self.inbound = memoryview(bytearray(32 * 8)).cast("Q")

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
        anything: Any = _Anything()
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
        for name in ("outbound", "inbound"):
            words = getattr(self.account, name).tolist()
            if balance(words):
                self.process.world.fail(f"{self.worker_id}: {name} is off by {balance(words)}")
        if self.turns % 16 == 0 and self.is_ready:
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
