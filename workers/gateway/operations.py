"""What operators ask of a worker's sessions: to describe, close, reopen or ping them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

from coordinator.routes import DomainPair
from workers.gateway.component import ComponentAttachment
from workers.gateway.failure import HopFailed
from workers.gateway.hop import Hop
from workers.gateway.local_listener import LocalListener
from workers.gateway.public_listener import PublicListener
from workers.gateway.router import Router
from workers.gateway.session import Session
from workers.gateway.source import Source
from workers.gateway.websocket_session import WebSocketSession

CLOSE_TIMEOUT = 8.0  # seconds for a session to deliver what it holds and to close in order
PING_TIMEOUT = 8.0
MAX_SESSIONS = 20000  # described in one answer: 8 MB, half of what the control socket takes
PART = 100  # sessions described in one turn of the loop: about 1 ms
AT_ONCE = 16  # sessions that are reopened at the same time

Rows = list[dict[str, Any]]


class Operations:
    """The verbs of `control.Request`. A domain is a remote one; "" stands for all of them."""

    def __init__(
        self,
        router: Router,
        public: PublicListener,
        local: LocalListener | ComponentAttachment,
    ) -> None:
        self._router = router
        self._public = public
        self._local = local
        self._verbs: dict[str, Callable[[str], Awaitable[Rows]]] = {
            "sessions": self._sessions,
            "close": self._close,
            "reconnect": self._reconnect,
            "ping": self._ping,
        }

    async def answer(self, verb: str, domain: str) -> Rows:
        """Do it; one record per session. Never fails: a record says what did."""
        do = self._verbs.get(verb)
        return await do(domain) if do else []

    def count(self) -> int:
        """How many sessions there are, of all kinds."""
        local = len(self._local.sources) + len(self._local.splices)
        return self._router.hop_count + self._public.authenticated + local

    def sessions(self) -> Iterator[Session]:
        """All that are open."""
        for _, hop in self._router.hops():
            if hop.session is not None:
                yield hop.session
        for source in (*self._public.sources, *self._local.sources):
            yield source.base_session

    async def _sessions(self, most: str) -> Rows:
        """A part at a time: describing 10,000 sessions must hold no stanza up."""
        limit = min(int(most or MAX_SESSIONS), MAX_SESSIONS)
        rows = self._local.describe()[:limit]
        for describe in self._describers():
            if len(rows) >= limit:
                break
            rows.append(describe())
            if not len(rows) % PART:
                await asyncio.sleep(0)
        return rows

    def _describers(self) -> Iterator[Callable[[], dict[str, Any]]]:
        for source in list(self._public.sources):
            if source.pairs and not source.base_session.ended:
                yield source.describe
        for direction, hop in list(self._router.hops()):
            yield partial(_described, direction, hop)

    async def _close(self, domain: str) -> Rows:
        """Local streams first, so that nothing new comes while the rest is delivered."""
        rows = []
        sources = self._sources(domain)
        for pair, source, kind in sources:
            source.close()
            rows.append(_row(pair, f"{kind} stream closes"))
        for splice, pair in list(self._local.splices.items()):
            if pair.remote == domain:
                splice.close()
                rows.append(_row(pair, "passed-through stream cut"))
        ends = [source.base_session.closed_future for _, source, _ in sources]
        if ends:
            await asyncio.wait(ends, timeout=CLOSE_TIMEOUT / 2)
        hops = self._hops(domain)
        outcomes = await asyncio.gather(*(_closed(hop) for _, hop in hops))
        for (direction, hop), text in zip(hops, outcomes, strict=True):
            rows.append(_row(hop.pair, f"{direction} session {text}", ok=text == "closed"))
        return rows

    async def _reconnect(self, domain: str) -> Rows:
        """Outbound sessions only: remote servers reopen theirs, the local server its own."""
        gate = asyncio.Semaphore(AT_ONCE)
        hops = [hop for direction, hop in self._hops(domain) if direction == "outbound"]
        return await asyncio.gather(*(self._reopen(hop, gate) for hop in hops))

    async def _reopen(self, hop: Hop, gate: asyncio.Semaphore) -> dict[str, Any]:
        async with gate:
            text = await _closed(hop)
            if text != "closed":
                return _row(hop.pair, text, ok=False)
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._router.to_remote(hop.pair).wait_open()
            except HopFailed as exc:
                return _row(hop.pair, f"closed, but not opened again: {exc.reason}", ok=False)
            except (TimeoutError, asyncio.CancelledError):
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                return _row(hop.pair, "closed, and still connecting", ok=False)
            return _row(hop.pair, "reopened")

    async def _ping(self, domain: str) -> Rows:
        sessions = [(hop.pair, hop.session) for _, hop in self._hops(domain) if hop.session]
        found = [(p, s) for p, s in sessions if isinstance(s, WebSocketSession)]
        found += [
            (pair, source.session)
            for source in self._public.sources
            for pair in source.pairs
            if pair.remote == domain
        ]
        return await asyncio.gather(*(_pinged(pair, session) for pair, session in found))

    def _hops(self, domain: str) -> list[tuple[str, Hop]]:
        return [each for each in self._router.hops() if domain in ("", each[1].pair.remote)]

    def _sources(self, domain: str) -> list[tuple[DomainPair, Source, str]]:
        found: list[tuple[DomainPair, Source, str]] = [
            (source.pair, source, "local")
            for source in self._local.sources
            if source.pair.remote == domain
        ]
        for source in self._public.sources:
            for pair in source.pairs:
                if pair.remote == domain:
                    found.append((pair, source, "inbound"))
                    break
        return found


async def _closed(hop: Hop) -> str:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            with contextlib.suppress(HopFailed):
                await hop.close()
    except TimeoutError:
        return f"holds undelivered stanzas after {CLOSE_TIMEOUT:g} s and closes when they are gone"
    return "closed"


async def _pinged(pair: DomainPair, session: WebSocketSession) -> dict[str, Any]:
    try:
        async with asyncio.timeout(PING_TIMEOUT):
            seconds = await session.round_trip()
    except TimeoutError:
        return _row(pair, f"no answer to a WebSocket ping in {PING_TIMEOUT:g} s", ok=False)
    except ConnectionError:
        return _row(pair, "the session ended meanwhile", ok=False)
    return _row(pair, f"WebSocket ping answered in {1000 * seconds:.1f} ms")


def _described(direction: str, hop: Hop) -> dict[str, Any]:
    return {"direction": direction, **hop.describe()}


def _row(pair: DomainPair, text: str, *, ok: bool = True) -> dict[str, Any]:
    return {"pair": list(pair), "text": text, "ok": ok}
