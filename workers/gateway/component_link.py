"""Keeping one component connected (XEP-0114): whose it is, when to try again, what to say."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any

from coordinator.address import Address
from coordinator.client import ControlPlane
from coordinator.config import Config
from coordinator.domains import written_domain
from coordinator.routes import DomainPair, Route, gateway_of
from workers.gateway.component_source import ComponentSource, Lane
from workers.gateway.failure import HopFailed
from workers.gateway.negotiation import Negotiation, SeeOtherUri
from workers.gateway.router import Router
from workers.gateway.session import Session, SessionOwner
from workers.gateway.tcp_session import TcpSession
from workers.xmpp.component import ComponentStream
from workers.xmpp.errors import StreamCondition
from workers.xmpp.events import Event, StreamFailed
from workers.xmpp.stream import State, StreamConfig

log = logging.getLogger(__name__)

FIRST_RETRY = 0.25
# An operator who has just mended the server's configuration does not want to wait longer.
LAST_RETRY = 2.0
# A connection that lasts so long, in seconds, was no failure: the next attempt comes at once.
STABLE_TIME = 5.0
# While another worker owns the component, it is asked for so often, in seconds: while the owner
# drains, local users are told that the domain is away.
OWNER_INTERVAL = 0.25
# As long as a worker of another gateway lives, it is asked for once in so many of these.
STANDBY_INTERVALS = 20
# The same problem is logged again after so many seconds.
REMIND_INTERVAL = 60.0

_DEFAULT_PORT = "the default component port of Prosody and ejabberd is 5347"


class ComponentRefused(Exception):
    """No component stream; one line with the cause and the next step."""


def explain(name: str, server: Address, condition: StreamCondition | None, reason: str) -> str:
    """What the operator of a server that refuses a component has to know and do."""
    match condition:
        case StreamCondition.HOST_UNKNOWN:
            return (
                f"the server at {server} has no component {name} ({reason}): "
                "add the lines of `fedgate attach prosody` to its configuration and reload it"
            )
        case StreamCondition.NOT_AUTHORIZED:
            return (
                f"the server at {server} refuses component {name} ({reason}): local.secret must be "
                "its component_secret (Prosody) or its password under hosts: (ejabberd, which says "
                "the same about a name that is not listed)"
            )
        case StreamCondition.CONFLICT:
            return (
                f"somebody else is connected to {server} as component {name} ({reason}): "
                "one connection per name is all that servers keep in order; stop the other one"
            )
        case StreamCondition.INVALID_NAMESPACE | StreamCondition.BAD_FORMAT:
            return (
                f"the port {server} is not for components ({reason}): "
                f"correct local.server; {_DEFAULT_PORT}"
            )
        case StreamCondition.SYSTEM_SHUTDOWN:
            return f"the server at {server} shuts down; component {name} waits for it"
    return (
        f"no component stream as {name} to {server}: {reason}; see the log of that server, and "
        f"that local.server is its component port ({_DEFAULT_PORT})"
    )


class _Opening(Negotiation):
    """Remembers with which condition the server refused."""

    condition: StreamCondition | None = None

    def on_event(self, session: Session, event: Event) -> None:
        if isinstance(event, StreamFailed) and event.by_peer:
            self.condition = event.condition
        super().on_event(session, event)


class ComponentLink:
    """One remote domain's component at one address of the local server."""

    def __init__(
        self,
        config: Config,
        control: ControlPlane,
        router: Router,
        server: Address,
        remote: str,
        locals: tuple[str, ...],
        on_problem: Callable[[str, str], None],
        on_connected: Callable[["ComponentLink"], None],
        on_done: Callable[["ComponentLink"], None],
    ) -> None:
        self.server = server
        self.remote = remote
        self.name = written_domain(remote)
        self.pair = DomainPair(locals[0], remote)
        """The route that says which worker, of all machines, holds the connection."""
        self.source: ComponentSource | None = None
        self.is_ours = False
        """This worker owns the route."""
        self.problem = ""
        """Why it is not connected, "" if nothing is wrong."""
        self._config = config
        self._control = control
        self._router = router
        self.locals = locals
        self._on_problem = on_problem
        self._on_connected = on_connected
        self._on_done = on_done
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._said_at = 0.0
        self._stopping = False
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._on_task_ended)

    # What the attachment calls.

    async def lane(self, owner: SessionOwner, timeout: float) -> Lane:
        """A share of the connected stream, waiting for it up to `timeout` s. Raises `HopFailed`."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    source = self.source
                    if source is not None and _is_open(source):
                        await source.writable.wait()
                        if _is_open(source):
                            lane = Lane(source, owner)
                            source.lanes.add(lane)
                            return lane
                    if self._stopping:
                        break
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        reason = self.problem or "it is connecting"
        raise HopFailed(f"component {self.name} is not connected: {reason}", resolved=True)

    def hurry(self) -> None:
        """Another component was accepted at this server: it is back, try at once."""
        self._hurry.set()

    def stop(self) -> None:
        """Do not connect again; a connected stream goes on until its source is closed."""
        self._stopping = True
        if self.source is None:
            self._task.cancel()
        self._wake()

    async def close(self) -> None:
        """Cut what is left."""
        self.stop()
        if self.source is not None:
            self.source.session.abort("the gateway stops")
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def is_used(self) -> bool:
        """Another worker may not have the component yet."""
        if not self._stopping or self.source is not None:
            return self.is_ours
        # What came by the stream is still under way: what another worker read would overtake it.
        return any(self._router.has_remote(DomainPair(local, self.remote)) for local in self.locals)

    def lose_route(self, route: Route) -> None:
        """Another worker owns the component now: end in order, and stand by."""
        log.info("component %s belongs to %s now: its stream ends here", self.name, route.owner)
        self.is_ours = False
        if self.source is not None:
            self.source.close()

    # Inside.

    async def _run(self) -> None:
        delay = FIRST_RETRY
        while not self._stopping:
            try:
                await self._own()
                source = await self._open()
            except ComponentRefused as exc:
                self._complain(str(exc))
                await self._pause(delay * (1.0 + random.random()) / 2.0)
                delay = min(2 * delay, LAST_RETRY)
                continue
            self._connected(source)
            connected_at = self._loop.time()
            await asyncio.shield(source.session.closed_future)
            if self._loop.time() - connected_at >= STABLE_TIME:
                delay = FIRST_RETRY
                continue
            await self._pause(delay)
            delay = min(2 * delay, LAST_RETRY)

    async def _pause(self, seconds: float) -> None:
        self._hurry.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    def _on_task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("component %s failed inside", self.name, exc_info=exc)

    async def _own(self) -> None:
        """Two connections of one name: refused by Prosody, put out of order by ejabberd."""
        said = ""
        while not self.is_ours:
            # Never taken from an owner that drains: it may still be connected.
            route = await self._control.acquire(self.pair, if_free=True)
            self.is_ours = route.owner == self._control.worker_id
            if self.is_ours:
                return
            self.problem = f"worker {route.owner} has it"
            if said != route.owner:
                said = route.owner
                log.info("component %s is connected by worker %s", self.name, route.owner)
            await self._wait_for(route.owner)

    async def _wait_for(self, owner: str) -> None:
        """Until it is worth asking Redis again who owns the component."""
        me = self._control.worker_id
        most = 1 if gateway_of(owner) == gateway_of(me) else STANDBY_INTERVALS
        for _ in range(most):
            await asyncio.sleep(OWNER_INTERVAL)
            if owner not in self._control.live_workers():  # it drains, or is dead
                return

    async def _open(self) -> ComponentSource:
        """Connect and prove the secret. Raises `ComponentRefused`."""
        limits = self._config.limits
        stream = ComponentStream(
            StreamConfig(limits=limits),
            self._loop.time(),
            remote=self.remote,
            locals=self.locals,
            secret=self._config.local.secret,
        )
        source = ComponentSource(self._router, self.remote, self._on_ended)
        opening = _Opening(source)
        session = TcpSession(stream, opening, is_server=False)
        source.attach(session)
        try:
            async with asyncio.timeout(limits.connect_timeout):
                await session.connect(self.server.host, self.server.port)
        except asyncio.CancelledError:
            session.channel.abort()
            raise
        except (OSError, TimeoutError) as exc:
            session.channel.abort()
            raise ComponentRefused(
                f"the local server does not answer at {self.server}: {exc or 'timeout'}; start it, "
                f"or correct local.server; {_DEFAULT_PORT}"
            ) from None
        stream.open()
        session.pump()
        try:
            await opening.finish(session, limits.connect_timeout)
        except (HopFailed, SeeOtherUri) as exc:
            condition = opening.condition
            raise ComponentRefused(explain(self.name, self.server, condition, str(exc))) from None
        return source

    def _connected(self, source: ComponentSource) -> None:
        log.info("connected to %s as component %s", self.server, self.name)
        self.problem = ""
        self._said_at = 0.0
        if source.session.ended:
            return  # lost in the same turn
        self.source = source
        source.keep_alive(self._config.limits.ping_interval)
        self._wake()
        self._on_connected(self)

    def _on_ended(self, source: ComponentSource, reason: str) -> None:
        if self.source is not source:
            return
        self.source = None
        if self._stopping or not self.is_ours:
            log.info("component %s is disconnected from %s", self.name, self.server)
            self._wake()
            self._on_done(self)
        else:
            self._complain(
                f"component {self.name} has lost its stream to {self.server}: {reason}; "
                "it connects again by itself"
            )

    def _complain(self, text: str) -> None:
        """Say it when it is new, and now and then while it lasts."""
        now = self._loop.time()
        if text != self.problem or now - self._said_at > REMIND_INTERVAL:
            self._said_at = now
            log.warning("%s", text)
            self._on_problem(self.remote, text)
        self.problem = text

    def _wake(self) -> None:
        self._changed.set()


def _is_open(source: ComponentSource) -> bool:
    return not source.session.ended and source.session.stream.state is State.ESTABLISHED


def describe(link: ComponentLink) -> dict[str, Any]:
    """What `/api/sessions` shows of a component that is not connected."""
    return {
        "domain_pairs": [list(link.pair)],
        "direction": "local",
        "authenticated_by": "",
        "unacknowledged": 0,
        "peer": str(link.server),
        "tls": "",
        "since": 0.0,
        "state": "connecting",
    }
