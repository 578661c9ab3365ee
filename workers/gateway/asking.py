"""Asking the next hop what it has taken: `<r/>` (XEP-0198), or a barrier where that is missing.

A barrier is a ping behind the data: on a WebSocket its own, towards the local server an XEP-0199
ping. Its answer vouches for all that was sent before it.
"""

import asyncio
import hashlib
import secrets

from coordinator.routes import DomainPair
from workers.gateway.outbox import Outbox
from workers.gateway.session import Session
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp import elements
from workers.xmpp.receiving import ReceivingStream
from workers.xmpp.stanza import Stanza

# An unanswered XEP-0199 barrier ends the stream in order, which acknowledges everything.
BARRIER_TIMEOUT = 10.0
# A peer with XEP-0198 that acknowledges nothing new for so long holds what it never takes: cut.
# More than resend_timeout, for which a peer like us may wait for its own local server.
PROGRESS_TIMEOUT = 35.0
# A session that the peer opened is only found out to be deaf when we send on it: it has so many
# seconds for its first answer, which a peer gives at once, whatever it waits for to handle more.
FIRST_ANSWER_TIMEOUT = 10.0
# Never more bytes than this without an `<r/>` between: a slow peer's progress must show in time.
ASK_BYTES = 65536
# Asking and being answered costs 40 µs, or four stanzas of a full read. So few stanzas, sooner than
# so many seconds after the last question, are not asked about yet: single ones at 2,000 a second
# cost a fifth less, 16 to a read at 20,000 a second a tenth.
ASK_PAUSE = 0.002
FEW = 64
# So many seconds after it they are at last, if nothing that was sent since has taken the question
# along: alone it costs one more write and turn of the loop.
ASK_LATE = 0.004
# Ids of our own pings towards the local server begin with this.
BARRIER = "fedgate-barrier-"


def barrier_tag(worker_id: str) -> str:
    """How the id of a ping tells which worker waits for its answer."""
    return hashlib.blake2b(worker_id.encode(), digest_size=6).hexdigest()


class Asking:
    """What one hop has asked on its session, and when it was answered with progress.

    Pings towards the local server go from `addresses.remote` to `addresses.local`.
    """

    def __init__(self, outbox: Outbox, addresses: DomainPair, tag: str) -> None:
        self._outbox = outbox
        self._addresses = addresses
        self._tag = tag
        self._loop = asyncio.get_running_loop()
        self._is_open = False
        self._is_answered = False
        self._unasked_bytes = 0
        self._progress_at = 0.0
        self._asked_at = 0.0
        # When it was seen last that no answer could reach us.
        self._deaf_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """A new session: nothing is asked on it yet."""
        self._is_open = self._is_answered = False
        self._unasked_bytes = 0
        self._asked_at = 0.0
        self._stop_timer()
        self.note_progress()

    def note_progress(self) -> None:
        """Something new was acknowledged, or nothing was to be."""
        self._progress_at = self._loop.time()

    def answered(self, count: int) -> None:
        """The peer acknowledged `count` more stanzas (XEP-0198)."""
        self._is_open = False
        self._is_answered = True
        if count:
            self.note_progress()

    def send(self, session: Session, stanzas: list[Stanza], size: int) -> None:
        """Queue stanzas of `size` bytes on the session, with questions between if they are many."""
        if size + self._unasked_bytes <= ASK_BYTES:  # the common case
            self._unasked_bytes += size
            session.stream.send_stanzas(stanzas)
        else:
            self._send_many(session, stanzas)

    def _send_many(self, session: Session, stanzas: list[Stanza]) -> None:
        """Without questions between nothing is acknowledged until all has arrived."""
        start = 0
        for index, stanza in enumerate(stanzas):
            self._unasked_bytes += len(stanza.data)
            if self._unasked_bytes > ASK_BYTES:
                session.stream.send_stanzas(stanzas[start : index + 1])
                start = index + 1
                self._unasked_bytes = 0
                if session.stream.sent.enabled:
                    self._is_open = True
                    session.stream.request_ack()
        session.stream.send_stanzas(stanzas[start:])

    def ask(self, session: Session) -> None:
        """At most one question is open: its answer sets the pace, not the number of batches."""
        if session.stream.sent.enabled:
            if not self._is_open and session.stream.sent.should_request():
                self._ask_in_time(session)
        elif self._outbox.unmarked and not self._outbox.barrier_pending:
            token = f"{self._tag}.{secrets.token_hex(8)}"
            self._outbox.mark(token, self._loop.time())
            if isinstance(session, WebSocketSession):
                session.write()
                session.ping(token.encode())
            else:
                local, remote = self._addresses
                session.stream.send_element(elements.ping(remote, local, BARRIER + token))

    def _ask_in_time(self, session: Session) -> None:
        now, sent = self._loop.time(), session.stream.sent
        since = now - self._asked_at
        if since < ASK_PAUSE and sent.total - sent.requested_at < FEW:
            if self._timer is None:
                self._timer = self._loop.call_later(ASK_LATE - since, self._ask_late, session)
            return
        self._stop_timer()
        self._is_open = True
        self._unasked_bytes = 0
        self._asked_at = now
        session.stream.request_ack()

    def _ask_late(self, session: Session) -> None:
        self._timer = None
        self._asked_at = 0.0
        if not session.ended:
            self.ask(session)
            session.write()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def insist(self, session: Session) -> str:
        """Ask again now and then; returns why to cut the session, "" to keep it."""
        is_accepted = isinstance(session.stream, ReceivingStream)
        is_unproved = is_accepted and not self._is_answered
        timeout = FIRST_ANSWER_TIMEOUT if is_unproved else PROGRESS_TIMEOUT
        if not session.is_reading:
            self.note_progress()  # its answers wait
        elif self._loop.time() - self._progress_at > timeout:
            return f"nothing was acknowledged for {timeout:g} s"
        self._is_open = True
        session.stream.request_ack(again=True)
        session.write()
        return ""

    def is_overdue(self, session: Session) -> bool:
        """A barrier's answer does not come."""
        now = self._loop.time()
        if not session.is_reading:
            self._deaf_at = now
        return now - self._deaf_at > BARRIER_TIMEOUT and self._outbox.is_overdue(
            now, BARRIER_TIMEOUT
        )
