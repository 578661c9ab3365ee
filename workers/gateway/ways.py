"""How a hop to a remote domain gets its sessions: opened by us, or by the remote (XEP-0288).

A session that goes both ways has two parts that must hear of it: the hop, which sends and is
acknowledged, and a source, which takes what comes. On a session we opened the hop comes first and
the source is made when something comes back; on one that was opened to us it is the other way round
(`RemoteSource`), and the hop is given the session here.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from coordinator.routes import DomainPair
from workers.gateway.inbound import ReturnSource
from workers.gateway.session import Session
from workers.xmpp.events import Event, StanzaRefused, StanzasReceived
from workers.xmpp.management import Suspended

if TYPE_CHECKING:
    from workers.gateway.hop import Hop
    from workers.gateway.remote_connector import RemoteConnector
    from workers.gateway.router import Router

log = logging.getLogger(__name__)

# What came on a lost session must be handled before another one may go on with it, in seconds.
PENDING_TIMEOUT = 3.0
# How long the way back waits for the remote to resume the session it opened, before we open one.
RESUMPTION_PATIENCE = 3.0


class Way(Protocol):
    """Where a hop's sessions come from."""

    async def connect(self, hop: "Hop") -> Session:
        """An authenticated session, events of which the hop hears. Raises `HopFailed`."""

    def end(self) -> None:
        """The hop has ended."""


class OwnWay:
    """Sessions that we open; owns them."""

    def __init__(self, router: "Router", connector: "RemoteConnector", pair: DomainPair) -> None:
        self._router = router
        self._connector = connector
        self._pair = pair
        self._hop: Hop
        self._source: ReturnSource | None = None

    async def connect(self, hop: "Hop") -> Session:
        self._hop = hop
        resume = hop.suspended
        if resume is not None and not await self._is_settled(resume):
            log.info("%s → %s: what came back pends, so nothing is resumed", *self._pair)
            hop.give_up_resumption()
            resume = None
        if resume is None:
            self.end()
        local, remote = self._pair
        queued = bool(hop.outbox)
        session = await self._connector.connect(local, remote, self, resume=resume, queued=queued)
        session.websocket.meter = self._router.allowances.of(remote)
        return session

    async def _is_settled(self, resume: Suspended) -> bool:
        if self._source is not None and not await self._source.settled(PENDING_TIMEOUT):
            return False
        return not resume.received.pending

    def end(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.end()

    def _source_for(self, session: Session) -> ReturnSource:
        source = self._source
        if source is not None and source.base_session is not session:
            if session.stream.resumed:
                source.go_on(session)
            else:
                source.end()
                source = None
        if source is None:
            source = self._source = ReturnSource(self._router, session)
        return source

    # What the session calls.

    def on_event(self, session: Session, event: Event) -> None:
        if isinstance(event, StanzasReceived):
            # Our stream has one pair.
            self._source_for(session).take(event, self._pair)
            self._hop.note_use()
        elif isinstance(event, StanzaRefused):
            self._source_for(session).refuse(event)
        else:
            self._hop.on_event(session, event)

    def on_write_paused(self, session: Session) -> None:
        self._hop.on_write_paused(session)

    def on_write_resumed(self, session: Session) -> None:
        self._hop.on_write_resumed(session)

    def on_pong(self, session: Session, payload: bytes) -> None:
        self._hop.on_pong(session, payload)

    def on_closed(self, session: Session, reason: str) -> None:
        source = self._source
        if (
            source is not None
            and source.base_session is session
            and session.stream.suspended() is None
        ):
            self.end()
        self._hop.on_closed(session, reason)

    def close(self, session: Session) -> None:
        """End a session in order, once what came back on it is acknowledged."""
        if session.stream.received.pending:
            # What one read brought may not have got to its source yet.
            asyncio.get_running_loop().call_soon(self._close, session)
        else:
            self._close(session)

    def _close(self, session: Session) -> None:
        source = self._source
        if source is not None and source.base_session is session:
            source.close()
        else:
            session.close()


class Accepted(Protocol):
    """A session that was opened to us and goes both ways, over all its resumptions."""

    way_back: "Hop | None"

    @property
    def is_lost(self) -> bool:
        """Its connection is gone, and another session may go on with it."""

    def close(self, see_other_uri: str | None = None) -> None:
        """End it in order."""

    def let_go(self, reason: str) -> None:
        """Nobody will go on with it."""

    async def next_session(self, patience: float) -> Session | None:
        """The session, or what resumes it within `patience` seconds; None if nothing does."""


class AcceptedWay:
    """The session that the remote opened, as long as it lasts; afterwards sessions of our own."""

    def __init__(self, accepted: Accepted, own: OwnWay) -> None:
        self._accepted: Accepted | None = accepted
        self._own = own
        self._is_used = False

    @property
    def is_accepted(self) -> bool:
        return self._accepted is not None

    async def connect(self, hop: "Hop") -> Session:
        while (accepted := self._accepted) is not None:
            # A second session is only wanted if it goes on with the first.
            if not self._is_used or hop.suspended is not None:
                self._is_used = True
                session = await accepted.next_session(RESUMPTION_PATIENCE)
                if session is not None:
                    return session
            if self._accepted is accepted:
                self._leave()
            hop.give_up_resumption()
        return await self._own.connect(hop)

    def replace(self, accepted: Accepted) -> bool:
        """The remote has opened another session; it is used if ours is lost."""
        lost = self._accepted
        if lost is None or not lost.is_lost:
            return False
        accepted.way_back, lost.way_back = lost.way_back, None
        self._accepted, self._is_used = accepted, False
        lost.let_go("the remote has begun anew")
        return True

    def end(self) -> None:
        self._leave()
        self._own.end()

    def close(self, session: Session) -> None:
        if self._accepted is None:
            self._own.close(session)
        else:
            self._accepted.close()

    def _leave(self) -> None:
        accepted, self._accepted = self._accepted, None
        if accepted is not None:
            accepted.way_back = None
