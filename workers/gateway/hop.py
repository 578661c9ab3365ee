"""A hop: the way of one domain pair's stanzas to their next server, kept open while it is needed.

The outbox holds what waits and what is unacknowledged; the hop connects, sends, asks for
acknowledgements and, when the connection is lost, connects again and resumes or resends. What
cannot be sent in time is handed to `on_failed`, to be bounced.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from coordinator.accounts import ACK_SM, ACK_STREAM_CLOSE, ACK_WEBSOCKET_PING, ACK_XMPP_PING
from coordinator.config import Limits
from coordinator.routes import DomainPair
from workers.gateway.bell import Bell
from workers.gateway.failure import HopFailed
from workers.gateway.pace import QueueLimit
from workers.gateway.patience import Patience
from workers.gateway.recovery import Recovery
from workers.gateway.replies import Failed
from workers.gateway.sending import OnFailed, Sending
from workers.gateway.session import Session
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp.errors import StanzaCondition
from workers.xmpp.events import Acknowledged, Event, StreamClosed
from workers.xmpp.management import Suspended

log = logging.getLogger(__name__)

# A hop that answers acknowledgement requests without progress is asked again this often.
ASK_INTERVAL = 5.0
Connect = Callable[["Hop"], Awaitable[Session]]
"""Opens and authenticates a session for the hop, to go on with what is `suspended` if it can.

Raises `HopFailed`.
"""


class Hop(Sending):
    """Towards `target` in the name of `sender`. Made by the router; ends by itself when unused."""

    # With more than 30 attributes an instance's dictionary takes 1.6 KiB.
    __slots__ = (
        "_began",
        "_close_session",
        "_closed",
        "_closes_when_idle",
        "_closing",
        "_connect",
        "_limits",
        "_made_at",
        "_on_ended",
        "_opened",
        "_patient",
        "_recovery",
        "_task",
        "_used_at",
        "failure",
        "pair",
        "sender",
        "target",
        "users",
    )

    def __init__(
        self,
        pair: DomainPair,
        *,
        sender: str,
        target: str,
        connect: Connect,
        limits: Limits,
        on_failed: OnFailed,
        on_ended: Callable[["Hop"], None],
        patient: bool,
        barrier_tag: str = "",
        close_session: Callable[[Session], None] = lambda session: session.close(),
        closes_when_idle: Callable[[], bool] = lambda: True,
        queue_limit: QueueLimit | None = None,
    ) -> None:
        """`close_session` ends one in order; `closes_when_idle`: or is that up to the peer?"""
        super().__init__(
            DomainPair(target, sender),
            tag=barrier_tag,
            limit=queue_limit or QueueLimit(limits.queue_bytes),
            on_failed=on_failed,
        )
        self.pair = pair
        self.sender = sender
        self.target = target
        self.failure: HopFailed | None = None
        """Why the hop gave up, known when it has ended; None if it was not needed any more."""
        self.users = 0
        """Sources that send through this hop: while there are any, it stays connected."""
        self._connect = connect
        self._close_session = close_session
        self._closes_when_idle = closes_when_idle
        self._limits = limits
        self._on_ended = on_ended
        self._patient = patient
        self._made_at = time.time()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._opened.add_done_callback(_retrieve)
        self._closed = Bell()
        self._recovery = Recovery(self.outbox)
        self._closing = False
        self._began = self._used_at = self._loop.time()
        self._task = asyncio.create_task(self._run())

    # What the router and sources call.

    async def wait_open(self) -> None:
        """Return when the first session is authenticated. Raises `HopFailed`."""
        await asyncio.shield(self._opened)

    @property
    def suspended(self) -> Suspended | None:
        """The lost stream that the next session is to go on with (XEP-0198 §5)."""
        return self._recovery.suspended

    def give_up_resumption(self) -> None:
        """Send again what is not known to have arrived."""
        self._bounce_lost(self._recovery.give_up())

    def resumed_elsewhere(self) -> None:
        """Another worker goes on with the stream: it is exactly known what has arrived."""
        if self._recovery.suspended is not None:
            self._recovery.succeeded_elsewhere()

    def note_use(self) -> None:
        """The session is used in the other direction."""
        self._used_at = self._loop.time()

    def leave(self) -> None:
        """A source that counted itself in `users` is gone."""
        self.users -= 1
        self._wake.ring()
        self._schedule()

    def barrier_answered(self, token: str) -> bool:
        """The answer to an XEP-0199 barrier arrived, on whatever stream the next server chose."""
        if not self.outbox.pass_barrier(token, ACK_XMPP_PING):
            return False
        self._after_acknowledgement()
        return True

    async def close(self) -> None:
        """Drain: send what waits, wait for acknowledgements, close the stream in order.

        The deadline is the caller's; cancelling leaves the outbox as it is.
        """
        self._closing = True
        self._wake.ring()
        self._schedule()
        session = self.session
        if session is not None and self._may_close(session):
            self._close_session(session)
        await asyncio.wait([self._task])  # it may be cut meanwhile: no reason to cancel us

    def _may_close(self, session: Session) -> bool:
        """All is acknowledged, or the end of the stream will do it (see `on_event`).

        The answer to an XEP-0199 barrier would come by a stream that the drain has closed already.
        """
        is_barred = session.stream.sent.enabled or isinstance(session, WebSocketSession)
        return not self.outbox or not (is_barred or self.outbox.has_waiting)

    def cut(self) -> None:
        """End at once; what is in the outbox stays unsettled."""
        # A task that is cancelled before it has begun ends without a word: nobody would be told.
        self._loop.call_soon(self._task.cancel)
        self._abort("the gateway stops")

    def describe(self) -> dict[str, Any]:
        return {
            "domain_pairs": [list(self.pair)],
            "waiting": self.outbox.in_flight - self.outbox.unacknowledged,
            "unacknowledged": self.outbox.unacknowledged,
            "authenticated_by": getattr(
                self.session and self.session.stream, "authenticated_by", ""
            ),
            "bidirectional": self.session is not None and self.session.stream.bidirectional,
            **(self.session.describe() if self.session else self._describe_absence()),
        }

    def _describe_absence(self) -> dict[str, Any]:
        return {"peer": "", "tls": "", "since": self._made_at, "state": "connecting"}

    # Life.

    async def _run(self) -> None:
        failure = None
        try:
            failure = await self._live()
        except Exception:
            # Whatever is wrong: the senders of what waits here must be told.
            log.exception("the hop %s → %s failed inside", self.sender, self.target)
            failure = HopFailed("internal error", resolved=True)
        finally:
            self._end(failure)

    async def _live(self) -> HopFailed | None:
        """Connect as often as needed; returns when not needed any more, or why it is hopeless."""
        loop = self._loop
        since = loop.time() if self._patient else None
        patience = Patience(self._limits.resend_timeout, since=since)
        while True:
            before = self.outbox.acknowledged
            self._bounce_lost(self._recovery.forget_old(loop.time()))
            try:
                session = await self._connect(self)
            except HopFailed as exc:
                failure = exc
                if not self.outbox and (self._closing or not self.users):
                    return failure
            else:
                if not self._opened.done():
                    patience.reached()
                await self._use(session)
                is_fruitful = not self.outbox or self.outbox.acknowledged > before
                culprit = self._isolation.session_lost(is_fruitful=is_fruitful)
                reason = f"connected and lost again: {session.reason}"
                if culprit:
                    is_fruitful = True
                    self._on_failed(culprit, StanzaCondition.REMOTE_SERVER_TIMEOUT, reason)
                is_cut_idle = self._recovery.is_hasty and not self.outbox
                delay = patience.next_delay(random.random()) if is_cut_idle else 0.0
                if not await self._is_needed(delay):
                    return None
                if is_fruitful:
                    patience.renew(loop.time(), keep_delay=is_cut_idle)
                    continue
                patience.begin(loop.time())
                failure = HopFailed(reason, resolved=True)
            if patience.is_over(loop.time()):
                return failure
            await asyncio.sleep(patience.next_delay(random.random()))

    async def _use(self, session: Session) -> None:
        """Until the connection is gone again."""
        self.session = session
        self._began = self._loop.time()
        self._blocked = False
        self._asking.begin()
        if not self._opened.done():
            self._opened.set_result(None)
        self._bounce_lost(self._recovery.take_up(session.stream))
        if session.ended:  # lost between authentication and here
            self._on_lost(session)
            return
        # The peer may want to know where what was sent again ends.
        self._asking.ask(session)
        self._flush(session)
        session.write()
        self._used_at = self._loop.time()
        self._schedule()
        if self._closing and self._may_close(session):
            self._close_session(session)
        while self.session is not None:
            await self._closed.wait()

    async def _is_needed(self, delay: float) -> bool:
        """After a loss: is there anything to send? Without, wait for it as long as we have users.

        When those are gone, too, the next stanza starts a new hop. If it is only that the peer may
        hold something for us, that has `delay` seconds.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._wait_for_work(lambda: self._recovery.may_bring)
        if self._recovery.may_bring and not self._closing:
            return True
        await self._wait_for_work(lambda: self.users > 0)
        return bool(self.outbox)

    async def _wait_for_work(self, is_patient: Callable[[], bool]) -> None:
        while not self.outbox and not self._closing and is_patient():
            await self._wake.wait()

    def _end(self, failure: HopFailed | None) -> None:
        """Nothing is awaited from here on: nobody can push into a hop that is forgotten."""
        self.failure = failure
        if failure is not None:  # the frames that it passed hold the session that failed
            failure.__traceback__ = failure.__context__ = None
        self._stop_timer()
        self._queue_limit.busy.discard(self.outbox)
        self._abort("internal error")
        if self._opened.done():
            pass
        elif failure is None:
            self._opened.cancel()
        else:
            self._opened.set_exception(failure)
        self._on_ended(self)
        if failure is not None and (failed := self.outbox.fail_all()):
            self._on_failed(failed, failure.condition, failure.reason)
        self._pace.release()
        # The way by which sessions come holds us, too, for what they tell.
        del self._connect, self._close_session, self._closes_when_idle, self._on_ended

    def _abort(self, reason: str) -> None:
        """Cut the session, if there is one; its end is not heard of any more."""
        session, self.session = self.session, None
        if session is not None:
            session.abort(reason)

    def _on_lost(self, session: Session) -> None:
        self.session = None
        self._stop_timer()
        may_resume = not self._isolation.is_careful
        now = self._loop.time()
        lasted = now - self._began
        requests = self._recovery.lost(session.stream, now, lasted=lasted, may_resume=may_resume)
        self._bounce_lost(requests)
        self._closed.ring()

    def _bounce_lost(self, requests: list[Failed]) -> None:
        if requests:
            self._on_failed(
                requests, StanzaCondition.REMOTE_SERVER_TIMEOUT, "the connection was lost"
            )

    # Sending.

    def _after_acknowledgement(self) -> None:
        session = self.session
        if session is None:
            return
        self._asking.ask(session)
        session.write()
        self._used_at = self._loop.time()
        if self.outbox.has_ready and not self._blocked:  # held back: one at a time
            self._flush(session)
        self._relieve_sources()
        if not self.outbox and self._closing:
            self._close_session(session)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        """Look after the session from now on, as long as there is anything to look after.

        Not at all times: thousands of timers of hops without traffic took 1 % of a processor.
        """
        if self._timer is None and self.session is not None:
            self._timer = self._loop.call_later(ASK_INTERVAL, self._on_tick)

    def _on_tick(self) -> None:
        self._timer = None
        session = self.session
        if session is None:
            return
        if session.stream.sent.outstanding:
            reason = self._asking.insist(session)
            if reason:
                session.abort(reason)
                return
        elif self._asking.is_overdue(session):
            # No answer can reach us: the end of the stream is the barrier that always works.
            session.close()
        elif not self.outbox and (self._closing or (not self.users and self._is_idle())):
            self._close_session(session)
        self.outbox.shrink()
        if self.outbox or session.stream.sent.outstanding or self._closing or not self.users:
            self._schedule()

    def _is_idle(self) -> bool:
        is_old = self._loop.time() - self._used_at > self._limits.idle_timeout
        return is_old and self._closes_when_idle()

    # What the session calls.

    def on_event(self, session: Session, event: Event) -> None:
        if session is not self.session:
            return  # it is not ours yet: `take_up` counts
        kind = type(event)
        if kind is Acknowledged:
            self._asking.answered(event.count)  # type: ignore[union-attr]
            self.outbox.acknowledge(event.count, ACK_SM)  # type: ignore[union-attr]
            self._after_acknowledgement()
        elif isinstance(event, StreamClosed) and event.answered and not session.stream.sent.enabled:
            # RFC 6120 §4.4: the peer's closing tag after ours means that it processed everything.
            self.outbox.acknowledge_all(ACK_STREAM_CLOSE)

    def on_pong(self, session: Session, payload: bytes) -> None:
        if self.outbox.pass_barrier(payload.decode("ascii", "replace"), ACK_WEBSOCKET_PING):
            self._after_acknowledgement()

    def on_closed(self, session: Session, reason: str) -> None:
        if session is self.session:
            log.info("session %s → %s ended: %s", self.sender, self.target, reason)
            self._on_lost(session)


def _retrieve(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()  # whoever waits sees it; nobody has to
