"""A stream of ours that is opened again whenever it is lost, with what waits to be sent on it.

Both sides of a load test use it: a remote domain towards the gateway (wss), the sink towards the
gateway's local port (TCP). Acknowledgements (XEP-0198) decide what became of what was sent; a lost
stream is resumed where the peer agrees.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from workers.gateway.failure import HopFailed
from workers.gateway.negotiation import SeeOtherUri
from workers.gateway.session import Session
from workers.xmpp.events import Acknowledged, Event, StanzaRefused, StanzasReceived
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.management import Suspended
from workers.xmpp.stanza import Stanza, with_delay
from workers.xmpp.stream import State

# Attempts wait a random part of a time that doubles from the first of these to the second.
RETRY_FIRST, RETRY_MOST = 0.25, 10.0
ASK_INTERVAL = 1.0
"""Seconds between two requests for acknowledgements."""

Open = Callable[["Link", Suspended | None], Awaitable[Session]]
"""Opens an established session for the link, resuming a lost one. Raises `HopFailed`, `OSError`."""


class LinkOwner(Protocol):
    """What a link tells whoever uses it."""

    def link_opened(self, link: "Link", seconds: float, how: str) -> None:
        """`how`: "connect", "reconnect" or "resume"."""

    def link_refused(self, link: "Link", reason: str) -> None:
        """An attempt failed; unless the link is closed another follows."""

    def link_lost(self, link: "Link", reason: str) -> None:
        """The session ended and we did not want that."""

    def stanzas_received(self, link: "Link", stanzas: list[Stanza]) -> None: ...

    def stanzas_returned(self, link: "Link", stanzas: list[Stanza]) -> None:
        """Not acknowledged, and nobody will say more about them."""


class Link:
    """Owner of one session after the other. `connect` first, `close` last."""

    def __init__(
        self, open: Open, owner: LinkOwner, *, resends: bool = False, keeps: bool = True
    ) -> None:
        """`resends`: what was not acknowledged is sent again on a new stream, as Prosody can.

        `keeps`: a lost session is opened again.
        """
        self.owner = owner
        self.session: Session | None = None
        self.is_closing = False
        self.keeps = keeps
        self._open = open
        self._resends = resends
        self._queue: deque[Stanza] = deque()
        self._unacknowledged: deque[Stanza] = deque()
        self._suspended: Suspended | None = None
        self._was_open = False
        self._paused = False
        self._flushing = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        """The session has opened or ended; whoever waits clears it."""

    @property
    def is_open(self) -> bool:
        return self.session is not None

    @property
    def was_lost(self) -> bool:
        """There was a session, and it ended without our wish."""
        return self._was_open and not self.is_open and not self.is_closing

    @property
    def is_opening(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def waiting(self) -> int:
        """Stanzas that nobody has acknowledged, sent or not."""
        return len(self._queue) + len(self._unacknowledged)

    def start(self) -> None:
        """Open, and try again until it works or the link is closed."""
        if self.session is None and not self.is_opening and not self.is_closing:
            self._task = self._loop.create_task(self._keep_opening())

    async def connect(self) -> bool:
        """One attempt; false if it failed."""
        try:
            session = await self._open(self, self._suspended)
        except SeeOtherUri as exc:
            self.owner.link_refused(self, f"see-other-uri: {exc}")
            return False
        except (HopFailed, OSError, TimeoutError) as exc:
            self.owner.link_refused(self, getattr(exc, "reason", "") or str(exc) or "timeout")
            return False
        if session.ended:
            self.owner.link_refused(self, session.reason)
            return False
        self._took(session, time.time() - session.opened_at)
        return True

    async def wait_open(self) -> None:
        """Return when there is a session, or the link is closed."""
        while self.session is None and not self.is_closing:
            self._changed.clear()
            await self._changed.wait()

    async def wait_closed(self) -> None:
        """Return when there is no session (any more)."""
        while self.session is not None:
            self._changed.clear()
            await self._changed.wait()

    def send(self, stanza: Stanza) -> None:
        """Send with all else of this turn of the loop; waits while there is no session."""
        self._queue.append(stanza)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Close the stream in order; what it has not acknowledged by then is returned."""
        self.is_closing = True
        self._changed.set()
        if self._task is not None:
            self._task.cancel()
        if self.session is not None:
            self.session.close()
        else:
            self._give_back()

    def cut(self) -> None:
        """Lose the connection without a word."""
        if self.session is not None:
            self.session.abort("cut by the load test")

    # What the session calls.

    def on_event(self, session: Session, event: Event) -> None:
        kind = type(event)
        if kind is StanzasReceived:
            stanzas = event.stanzas  # type: ignore[union-attr]
            # Also tells the peer: its `<r/>` of the same read was answered before this.
            session.mark_handled(len(stanzas))
            self.owner.stanzas_received(self, stanzas)
        elif kind is Acknowledged:
            for _ in range(event.count):  # type: ignore[union-attr]
                self._unacknowledged.popleft()
        elif kind is StanzaRefused:
            session.mark_handled(1)

    def on_write_paused(self, session: Session) -> None:
        self._paused = True

    def on_write_resumed(self, session: Session) -> None:
        self._paused = False
        self._flush()

    def on_pong(self, session: Session, payload: bytes) -> None: ...

    def on_closed(self, session: Session, reason: str) -> None:
        if session is not self.session:
            return
        self.session = None
        self._changed.set()
        if self._timer is not None:
            self._timer.cancel()
        if self.is_closing:
            self._give_back()
            return
        self._suspended = session.stream.suspended()
        self.owner.link_lost(self, reason)
        if self.keeps:
            self.start()

    # Inside.

    async def _keep_opening(self) -> None:
        pause = RETRY_FIRST
        while not self.is_closing and not await self.connect():
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, RETRY_MOST)

    def _took(self, session: Session, seconds: float) -> None:
        stream = session.stream
        assert isinstance(stream, InitiatingStream)
        how = "resume" if stream.resumed else "reconnect" if self._was_open else "connect"
        self._was_open = True
        self.session, self._suspended, self._paused = session, None, False
        self._changed.set()
        for _ in range(stream.covered):
            self._unacknowledged.popleft()
        if stream.resumed:
            stream.send_again(list(self._unacknowledged))
            stream.request_ack(again=True)
            session.write()
        else:
            self._forget_unacknowledged()
        self._timer = self._loop.call_later(ASK_INTERVAL, self._ask)
        self.owner.link_opened(self, seconds, how)
        self._flush()

    def _flush(self) -> None:
        self._flushing = False
        session, queue = self.session, self._queue
        if session is None or self._paused or not queue:
            return
        stream = session.stream
        if stream.state is not State.ESTABLISHED:
            return
        stanzas = list(queue)
        queue.clear()
        stream.send_stanzas(stanzas)
        if stream.sent.enabled:
            self._unacknowledged.extend(stanzas)
        session.write()

    def _ask(self) -> None:
        session = self.session
        if session is not None:
            session.stream.request_ack()
            session.write()
            self._timer = self._loop.call_later(ASK_INTERVAL, self._ask)

    def _forget_unacknowledged(self) -> None:
        """Nobody goes on with the lost stream."""
        unacknowledged = list(self._unacknowledged)
        self._unacknowledged.clear()
        if self._resends:
            # Marked, as Prosody does (XEP-0203): they may come twice.
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            marked = [with_delay(each, stamp, each.sender_domain) for each in unacknowledged]
            self._queue.extendleft(reversed(marked))
        elif unacknowledged:
            self.owner.stanzas_returned(self, unacknowledged)

    def _give_back(self) -> None:
        rest = [*self._unacknowledged, *self._queue]
        self._unacknowledged.clear()
        self._queue.clear()
        if rest:
            self.owner.stanzas_returned(self, rest)
