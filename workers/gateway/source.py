"""What both kinds of incoming stream have in common: an origin, a pace, and an end in order."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from coordinator.journal import Kind
from coordinator.routes import DomainPair
from workers.gateway.flow import Origin
from workers.gateway.hop import Hop
from workers.gateway.replies import Failed, settle_dropped
from workers.gateway.requests import Repeat
from workers.gateway.session import Session
from workers.xmpp.errors import StanzaCondition
from workers.xmpp.events import Event, StanzaRefused
from workers.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from workers.gateway.router import Router

log = logging.getLogger(__name__)

# How long a closing source waits for the next hop to take what was read, in seconds.
SETTLE_TIMEOUT = 5.0
# How long a source that filled the journal is held back, in seconds, until the next look.
FULL_INTERVAL = 0.5


class Source:
    """A stream that brings stanzas; `LocalSource` and `RemoteSource` are the two kinds."""

    __slots__ = (
        "_closing",
        "_is_postponed",
        "_loop",
        "_see_other_uri",
        "_session",
        "_tasks",
        "_timer",
        "origin",
        "router",
    )

    def __init__(self, router: "Router", kind: Kind) -> None:
        self.router = router
        self.origin: Origin = router.new_origin(kind, self._on_handled)
        self._session: Session
        self._loop = asyncio.get_running_loop()
        self._see_other_uri: str | None = None
        self._closing = False
        self._is_postponed = False
        self._timer: asyncio.TimerHandle | None = None
        # A few at the beginning, none later: an empty set would take 0.2 KiB.
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def base_session(self) -> Session:
        return self._session

    def pause(self) -> None:
        """The next hop is full: let TCP hold the peer back."""
        if not self._closing:
            self._session.pause_reading()

    def resume(self) -> None:
        if not self._closing:
            self._session.resume_reading()

    def close(self, see_other_uri: str | None = None) -> None:
        """End the stream in order, once everything read is acknowledged to the peer.

        A peer with XEP-0198 sends again what it has no acknowledgement for after our closing tag.
        """
        if self._closing:
            return
        if (
            not self._is_postponed
            and self._session.stream.received.pending > self.origin.unreported
        ):
            # Called for one event of a read that brought stanzas behind it: these are ours first.
            self._is_postponed = True
            self._loop.call_soon(self.close, see_other_uri)
            return
        self._closing = True
        self._see_other_uri = see_other_uri
        if self.origin.unreported and self._session.stream.received.enabled:
            # What is still under way to us comes again on the peer's next stream. What we have read
            # must not, when the next hop is slow: a request would be executed twice.
            self.origin.keep_all()
            self._session.pause_reading()
            self._timer = self._loop.call_later(SETTLE_TIMEOUT, self._close_session)
        else:
            self._close_session()

    def _on_handled(self, count: int) -> None:
        self._session.mark_handled(count)
        if self._closing and not self.origin.unreported:
            # Not from inside the hop that is just settling.
            self._loop.call_soon(self._close_session)

    def _close_session(self) -> None:
        # What the peer has sent is read to its closing tag, however full the next hop is.
        self._session.resume_reading()
        self._session.close(self._see_other_uri)

    def _use(self, known: Hop | None, hop: Hop) -> Hop:
        """Count ourselves as a user of the hop, and of the known one no longer."""
        if hop is not known:
            if known is not None:
                known.leave()
            hop.users += 1
        return hop

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._on_task_ended)

    def _on_task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.remove(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("a stream failed inside", exc_info=exc)
            self._session.abort("internal error")

    def admit(
        self,
        pair: DomainPair,
        stanzas: list[Stanza],
        forward: Callable[[list[Stanza]], None],
        way_back: Callable[[], Hop],
    ) -> None:
        """Forward what may go on; the others are taken into the account and ended here."""
        if not self.origin.resendable and self.router.is_full:
            self._refuse_all(stanzas, way_back)
            return
        requests = self.router.requests
        if not requests.expects(pair):  # the common case
            forward(stanzas)
            return
        now = self._loop.time()
        repeats = {
            at: repeat
            for at, stanza in enumerate(stanzas)
            if (repeat := requests.judge(pair, stanza, now)) is not None
        }
        others = [stanza for at, stanza in enumerate(stanzas) if at not in repeats]
        if others:
            forward(others)
        # Behind the others: what is handled is told in this order.
        for at, repeat in repeats.items():
            self._end_repeat(stanzas[at], repeat, way_back)

    def _end_repeat(self, stanza: Stanza, repeat: Repeat, way_back: Callable[[], Hop]) -> None:
        failed = Failed(stanza, self.origin.accept([stanza], self._loop.time()))
        if repeat is Repeat.TAKEN:
            settle_dropped(failed, "duplicate")
        else:
            self.router.bounce(
                [failed],
                StanzaCondition.REMOTE_SERVER_TIMEOUT,
                "this request came twice and may have been executed",
                way_back,
            )

    def _refuse_all(self, stanzas: list[Stanza], way_back: Callable[[], Hop]) -> None:
        """The journal is full: nothing more can be kept for a server that cannot send it again."""
        log.warning("the journal is full: %d stanzas are returned", len(stanzas))
        batch = self.origin.accept(stanzas)
        failed = [Failed(stanza, batch) for stanza in stanzas]
        self.router.bounce(
            failed, StanzaCondition.RESOURCE_CONSTRAINT, "the gateway's journal is full", way_back
        )
        self.pause()
        self._loop.call_later(FULL_INTERVAL, self._look_again)

    def _look_again(self) -> None:
        if self._session.ended:
            return
        if self.router.is_full:
            self._loop.call_later(FULL_INTERVAL, self._look_again)
        else:
            self.resume()

    def bounce_refused(self, event: StanzaRefused, way_back: Callable[[], Hop]) -> None:
        """Take the stanza into the account, in its place, and tell its sender."""
        stanza = event.stanza
        log.debug("refused %r: %s", stanza, event.reason)
        self.origin.resendable = event.resendable
        failed = [Failed(stanza, self.origin.accept([stanza], self._loop.time()))]
        self.router.bounce(failed, StanzaCondition.POLICY_VIOLATION, event.reason, way_back)

    # What the session calls.

    def on_event(self, session: Session, event: Event) -> None:
        raise NotImplementedError

    def on_write_paused(self, session: Session) -> None: ...

    def on_write_resumed(self, session: Session) -> None: ...

    def on_pong(self, session: Session, payload: bytes) -> None: ...

    def on_closed(self, session: Session, reason: str) -> None:
        self.origin.lose()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
