"""How a hop's stanzas leave: at once if nothing waits and the peer reads, in turns if not."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from coordinator.routes import DomainPair
from workers.gateway.asking import Asking
from workers.gateway.batch import Batch
from workers.gateway.bell import Bell
from workers.gateway.isolation import Isolation
from workers.gateway.outbox import Outbox
from workers.gateway.pace import Pace, Pausable, QueueLimit
from workers.gateway.replies import Failed
from workers.gateway.session import Session
from workers.xmpp.errors import StanzaCondition
from workers.xmpp.stanza import Stanza, bytes_of, with_delay
from workers.xmpp.stream import State

# Bytes that are sent in one turn of the loop, at most, and one batch.
PIECE = 131072
# Stanzas sent and not acknowledged before the sources are held back.
MAX_UNACKNOWLEDGED = 20_000

OnFailed = Callable[[list[Failed], StanzaCondition, str], None]


class Sending:
    """The half of a hop that sends."""

    __slots__ = (
        "_asking",
        "_blocked",
        "_isolation",
        "_loop",
        "_on_failed",
        "_pace",
        "_queue_limit",
        "_timer",
        "_wake",
        "outbox",
        "session",
    )

    def __init__(
        self, addresses: DomainPair, *, tag: str, limit: QueueLimit, on_failed: OnFailed
    ) -> None:
        """`addresses` and `tag` are those of `Asking`; `on_failed` takes what is too large."""
        self.session: Session | None = None
        self.outbox = Outbox(limit.busy)
        self._loop = asyncio.get_running_loop()
        self._queue_limit = limit
        self._on_failed = on_failed
        self._asking = Asking(self.outbox, addresses, tag)
        self._isolation = Isolation(self.outbox)
        self._pace = Pace()
        self._blocked = False
        """The peer does not read."""
        self._timer: asyncio.TimerHandle | None = None
        self._wake = Bell()
        """Rung when there is something to send, or no need to wait for it any more."""

    def _schedule(self) -> None:
        """Look after the session from now on."""
        raise NotImplementedError

    def send(self, batch: Batch, source: Pausable | None = None) -> None:
        """Queue a batch and send it at once if the session is up and the peer reads."""
        session, outbox = self.session, self.outbox
        if session is None or not self._send_past_queue(session, batch):
            outbox.push(batch)
            if batch.held:
                batch.on_released = self._send_waiting
            self._send_waiting()
        if self._timer is None:
            self._schedule()
        if source is not None and self._is_full():
            self._pace.hold(source)

    def send_old(self, batch: Batch) -> None:
        """Send what a former owner of the pair has left, before what waits here already."""
        self.outbox.push_old(batch)
        self._send_waiting()
        self._schedule()

    def _send_past_queue(self, session: Session, batch: Batch) -> bool:
        """Send a batch if nothing waits and nothing is special; False, and nothing done, if not.

        As `_flush` would, which costs 1 µs a batch more.
        """
        outbox, stream = self.outbox, session.stream
        if (
            self._blocked
            or batch.held
            or batch.uncertain
            or outbox.waiting_bytes
            or stream.state is not State.ESTABLISHED
            or self._isolation.is_careful
        ):
            return False
        size = bytes_of(batch.stanzas)
        if size > PIECE or 0 < stream.peer_max_bytes < size:
            return False
        if not outbox.unacknowledged:
            self._asking.note_progress()
        outbox.push_sent(batch, size)
        self._asking.send(session, batch.stanzas, size)
        self._asking.ask(session)
        session.write()
        if self._pace.held:
            self._relieve_sources()
        return True

    def _send_waiting(self) -> None:
        session = self.session
        if session is None:
            self._wake.ring()
        elif not self._blocked:
            self._flush(session)

    def _flush(self, session: Session) -> None:
        outbox, stream = self.outbox, session.stream
        if not outbox.has_ready or stream.state is not State.ESTABLISHED:
            return
        limit = stream.peer_max_bytes
        if limit and outbox.waiting_bytes > limit:
            self._refuse_oversized(limit)
        is_careful = self._isolation.is_careful
        if not outbox.unacknowledged:
            self._asking.note_progress()
        elif is_careful:
            return
        if is_careful:
            stream.send_stanzas(outbox.take_one(self._mark_late))
        else:
            size = outbox.waiting_bytes
            taken = outbox.take(self._mark_late, PIECE)
            self._asking.send(session, taken, size - outbox.waiting_bytes)
            if outbox.waiting_bytes and outbox.has_ready:
                # A peer that does not read stops us in time, and others have their turns between.
                self._loop.call_soon(self._go_on, session)
        self._asking.ask(session)
        session.write()
        self._relieve_sources()

    def _go_on(self, session: Session) -> None:
        if session is self.session and not self._blocked:
            self._flush(session)

    def _mark_late(self, batch: Batch) -> list[Stanza]:
        """A stanza that may arrive twice says so (XEP-0203)."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return [with_delay(stanza, stamp, stanza.sender_domain) for stanza in batch.stanzas]

    def _refuse_oversized(self, limit: int) -> None:
        """XEP-0478 §4: what the peer would not take is bounced, not sent."""
        failed = self.outbox.remove_larger(limit)
        if failed:
            self._on_failed(
                failed,
                StanzaCondition.POLICY_VIOLATION,
                f"Stanza exceeds remote limit of {limit} bytes",
            )

    def _relieve_sources(self) -> None:
        if self._pace.held and not self._is_full():
            self._pace.release()

    def _is_full(self) -> bool:
        outbox = self.outbox
        return (
            outbox.waiting_bytes + outbox.unacknowledged_bytes > self._queue_limit.bytes
            or outbox.unacknowledged > MAX_UNACKNOWLEDGED
        )

    def on_write_paused(self, session: Session) -> None:
        self._blocked = True

    def on_write_resumed(self, session: Session) -> None:
        self._blocked = False
        self._flush(session)
        self._relieve_sources()
