"""Accepted sessions that their peers may resume (XEP-0198 §5), wherever the peer connects next.

An id names the worker that issued it and is unguessable. On that worker the lost session goes on at
once; another worker of the machine asks it (`siblings.py`), whereupon it settles what it had
received, ends its half and hands over its count. From then on it knows where the session went.
Of a worker that has died nothing is known but the count it had saved last.
"""

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordinator.client import ControlPlane
from coordinator.keyed_lock import KeyedLock
from coordinator.lost_sessions import LostSession
from coordinator.routes import DomainPair, gateway_of
from workers.gateway.asking import barrier_tag
from workers.gateway.shares import Lost, Shares
from workers.gateway.siblings import Siblings, SiblingUnavailable
from workers.xmpp.management import MODULO, HandledCountTooHigh, Received, Sent, Suspended

if TYPE_CHECKING:
    from workers.gateway.remote_source import RemoteSource

log = logging.getLogger(__name__)

# Lost sessions that a worker remembers, and bytes that wait to be sent back on them.
MAX_SUSPENDED = 2048
MAX_SUSPENDED_BYTES = 64 * 1024 * 1024
# So few are kept whatever they hold: each is bounded by itself.
MIN_SUSPENDED = 7
# Lost sessions of one pair; a server needs one, and some more if it cannot hold a connection.
MAX_SUSPENDED_OF_PAIR = 64
# Sessions that went to other workers, remembered by the one that issued their ids.
MAX_MOVED = 16384
# How many workers are asked for one session, one after the other.
MAX_QUESTIONS = 3
# For what a lost session had received to be handled, in seconds.
SETTLE_TIMEOUT = 3.0
# For another worker to answer: longer than it may take to settle.
SIBLING_TIMEOUT = 5.0


@dataclass(slots=True)
class Found:
    """What a peer may go on with: `source` if it is ours. Without `suspended` nothing, but `h`."""

    suspended: Suspended | None = None
    source: "RemoteSource | None" = None
    h: int | None = None
    is_exact: bool = True
    """False: more may have been handled than is known."""


class Resumptions:
    """The sessions of this worker that may be resumed, live and lost, by id."""

    def __init__(self) -> None:
        self._sources: dict[str, RemoteSource] = {}
        self._lost = Shares()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._moved: OrderedDict[str, str] = OrderedDict()
        self._busy: KeyedLock[str] = KeyedLock()
        self._saved: dict[str, int] = {}
        self._moving: dict[str, RemoteSource] = {}
        """Those that may have come further since the last time that all were saved."""
        self._saving: asyncio.Task[None] | None = None
        self._worker_id = ""
        self._tag = barrier_tag("")
        self._control: ControlPlane | None = None
        self._siblings: Siblings | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next_question = 1
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, control: ControlPlane, siblings: Siblings) -> None:
        """Other workers of the machine can be asked from now on, and may ask."""
        self._control, self._siblings = control, siblings
        self._worker_id = control.worker_id
        self._tag = barrier_tag(control.worker_id)
        others = siblings.on_message

        def on_message(message: dict[str, Any]) -> None:
            if not self._on_message(message):
                others(message)

        siblings.on_message = on_message

    # Sessions of this worker.

    def new_id(self, source: "RemoteSource") -> str:
        """The name under which the session of `source` may be resumed."""
        id = f"{self._tag}.{secrets.token_urlsafe(18)}"
        self._sources[id] = self._moving[id] = source
        return id

    def keep(self, suspended: Suspended) -> None:
        """A session is lost: its source is kept for so long, and told to `let_go` then.

        If there are too many, the remote that has most loses its oldest.
        """
        id, pair = suspended.id, DomainPair(suspended.target, suspended.sender)
        source = self._sources.get(id)
        self._stop_timer(id)
        self._timers[id] = asyncio.get_running_loop().call_later(
            suspended.seconds, self._let_go, id, "it was not resumed in time"
        )
        lost = self._lost
        lost.add(id, Lost(pair, 0 if source is None else source.held_bytes))
        if lost.count(pair) > MAX_SUSPENDED_OF_PAIR:
            self._let_go(lost.oldest_of(pair), "too many lost sessions of this pair are kept")
        while len(lost) > MAX_SUSPENDED:
            self._let_go(lost.oldest_of_most(), "too many lost sessions are kept")
        while lost.size > MAX_SUSPENDED_BYTES and len(lost) > MIN_SUSPENDED:
            self._let_go(lost.oldest_of_largest(), "lost sessions hold too much")

    def each_second(self) -> None:
        """Save how far the sessions have come that went on since the last time.

        It looks at those alone: at 10,000, idle or not, would take 5 % of a processor.
        """
        store = None if self._control is None else self._control.lost_sessions
        if store is None or (self._saving is not None and not self._saving.done()):
            return
        news: list[tuple[str, LostSession]] = []
        moving, self._moving = self._moving, {}
        for id, source in moving.items():
            state = source.state
            if state is not None and self._saved.get(id) != state.handled:
                self._saved[id] = state.handled
                news.append((id, state))
        if news:
            self._saving = asyncio.create_task(store.save(news))

    def note_progress(self, id: str) -> None:
        """More of what came on a session is handled."""
        if (source := self._sources.get(id)) is not None:
            self._moving[id] = source

    def forget(self, id: str) -> None:
        """It is claimed here, or nobody may resume it any more."""
        self._sources.pop(id, None)
        self._moving.pop(id, None)
        self._saved.pop(id, None)
        self._lost.discard(id)
        self._stop_timer(id)

    def _stop_timer(self, id: str) -> None:
        timer = self._timers.pop(id, None)
        if timer is not None:
            timer.cancel()

    def put_back(self, id: str, source: "RemoteSource") -> None:
        """It goes on, or could not and is still lost: it may be resumed again."""
        self._sources[id] = self._moving[id] = source
        self._moved.pop(id, None)

    def _let_go(self, id: str, reason: str) -> None:
        source = self._sources.get(id)
        self.forget(id)
        if source is not None:
            source.let_go(reason)

    def _claim(self, id: str, pair: DomainPair) -> "RemoteSource | None":
        """The source to go on with, which from now on nobody else can claim."""
        source = self._sources.get(id)
        if source is None or set(source.pairs) != {pair}:
            return None
        self.forget(id)
        return source

    # Somebody wants to resume.

    def alone(self, id: str) -> AbstractAsyncContextManager[None]:
        """One attempt at a time: who comes while another is at it sees how that ended."""
        return self._busy.hold(id)

    async def find(self, id: str, h: int, pair: DomainPair) -> Found:
        """What a peer that has proved `pair` may go on with. May take some `SIBLING_TIMEOUT`."""
        source = self._claim(id, pair)
        if source is not None:
            return await self._find_here(source)
        owner = self._moved.get(id) or self._issuer_of(id)
        for _ in range(MAX_QUESTIONS):
            if owner is None or owner == self._worker_id:
                break
            answer = await self._ask(owner, id, h, pair)
            owner = answer.get("moved")
            if owner is None and answer:
                return _found(id, h, pair, answer)
        return await self._find_left_behind(id, h, pair)

    async def _find_left_behind(self, id: str, h: int, pair: DomainPair) -> Found:
        """What a dead worker has saved."""
        store = None if self._control is None else self._control.lost_sessions
        if store is None or self._control is None:
            return Found()
        tag = id.partition(".")[0]
        if tag in map(barrier_tag, (self._worker_id, *self._control.live_workers())):
            return Found()
        left = await store.take(id)
        if left is None or left.pair != pair:
            return Found()
        half = _new_half(id, h, pair, left.handled, left.seconds, left.bidirectional)
        return Found(half, is_exact=False)

    async def _find_here(self, source: "RemoteSource") -> Found:
        suspended = source.suspend("the peer resumes it")
        if suspended is None:
            return Found()
        if not await source.settled(SETTLE_TIMEOUT):
            source.let_go("what it had received pends")
            return Found(h=suspended.received.h)
        return Found(suspended, source)

    def _issuer_of(self, id: str) -> str | None:
        """The worker of this machine that issued an id, if it lives and is another one."""
        tag = id.partition(".")[0]
        if self._control is None or tag == self._tag:
            return None
        gateway = gateway_of(self._worker_id)
        for worker in self._control.live_workers():
            if barrier_tag(worker) == tag and gateway_of(worker) == gateway:
                return worker
        return None

    async def _ask(self, owner: str, id: str, h: int, pair: DomainPair) -> dict[str, Any]:
        assert self._siblings is not None
        number = self._next_question
        self._next_question += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        question = {
            "resume": id,
            "h": h,
            "pair": list(pair),
            "asker": self._worker_id,
            "number": number,
        }
        try:
            async with asyncio.timeout(SIBLING_TIMEOUT):
                await self._siblings.send_message(owner, question)
                return await answer
        except (SiblingUnavailable, TimeoutError) as exc:
            log.info("worker %s does not hand over a session: %s", owner, exc or "timeout")
            return {}
        finally:
            del self._answers[number]

    # Between workers.

    def _on_message(self, message: dict[str, Any]) -> bool:
        match message:
            case {
                "resume": str(id),
                "h": int(h),
                "pair": [str(local), str(remote)],
                "asker": str(asker),
                "number": int(number),
            }:
                self.spawn(self._answer(id, h, DomainPair(local, remote), asker, number))
            case {"resumed": int(number)}:
                waiting = self._answers.get(number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
            case _:
                return False
        return True

    async def _answer(self, id: str, h: int, pair: DomainPair, asker: str, number: int) -> None:
        async with self.alone(id):
            answer = {"resumed": number, **await self._hand_over(id, h, pair, asker)}
        assert self._siblings is not None
        try:
            await self._siblings.send_message(asker, answer)
        except SiblingUnavailable as exc:
            log.info("a session was to be handed over, but %s", exc)

    async def _hand_over(self, id: str, h: int, pair: DomainPair, asker: str) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        source = self._claim(id, pair)
        if source is None:
            if id in self._moved and self._moved[id] != asker:
                answer["moved"] = self._moved[id]
        else:
            found = await self._find_here(source)
            suspended = found.suspended
            if suspended is None:
                answer["h"] = found.h
            else:
                answer |= {"h": suspended.received.h, "seconds": suspended.seconds}
                answer["goes_on"] = _covers(suspended, h)
                answer["bidirectional"] = suspended.bidirectional
                source.succeeded_elsewhere(is_exact=answer["goes_on"])
                self._note_moved(id, asker)
        return answer

    def _note_moved(self, id: str, worker: str) -> None:
        self._moved[id] = worker
        if len(self._moved) > MAX_MOVED:
            self._moved.popitem(last=False)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what must be finished though the session that asked for it may end meanwhile."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_ended)

    def _on_task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("a resumption failed inside", exc_info=exc)


def _covers(suspended: Suspended, h: int) -> bool:
    """Acknowledge what the peer has; false if it claims to have more than was sent."""
    try:
        suspended.sent.acknowledge(h)
    except HandledCountTooHigh:
        return False
    return True


def _found(id: str, h: int, pair: DomainPair, answer: dict[str, Any]) -> Found:
    match answer:
        case {
            "h": int(handled),
            "seconds": int(seconds),
            "goes_on": True,
            "bidirectional": bool(bidirectional),
        }:
            return Found(_new_half(id, h, pair, handled, seconds, bidirectional))
        case {"h": int(handled)}:
            return Found(h=handled % MODULO)
    return Found()


def _new_half(
    id: str, h: int, pair: DomainPair, handled: int, seconds: int, bidirectional: bool
) -> Suspended:
    """What a session goes on with here that was lost elsewhere."""
    sent, received = Sent(), Received()
    sent.enabled = received.enabled = True
    # What the peer does not have of ours is sent on another session, or came from a dead worker.
    sent.total = sent.acknowledged = sent.requested_at = h % MODULO
    received.total = received.handled = received.answered = handled % MODULO
    return Suspended(id, pair.remote, pair.local, sent, received, seconds, bidirectional)
