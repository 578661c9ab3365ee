"""Stanzas that a remote server sends us, on a stream of its own or back on ours (XEP-0288)."""

import asyncio
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from coordinator.routes import DomainPair
from workers.gateway.bell import Bell
from workers.gateway.replies import Failed
from workers.gateway.source import Source
from workers.xmpp.errors import StanzaCondition
from workers.xmpp.events import StanzaRefused, StanzasReceived
from workers.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from workers.gateway.hop import Hop
    from workers.gateway.router import Router
    from workers.gateway.session import Session


class InboundSource(Source):
    """Gives a remote server's stanzas to the hops to the local server."""

    __slots__ = (
        "_hops",
        "_progress",
    )

    def __init__(self, router: "Router") -> None:
        super().__init__(router, "in")
        self._hops: dict[DomainPair, Hop] = {}
        self._progress = Bell()

    def take(self, event: StanzasReceived, pair: DomainPair | None) -> None:
        """Pass stanzas on; `pair` if they can only be of that one."""
        self.origin.resendable = event.resendable
        if pair is not None:  # the common case: no need to look at each stanza
            self._forward(pair, event.stanzas)
            return
        for (local, remote), run in groupby(event.stanzas, key=_pair_of):
            self._forward(DomainPair(local, remote), list(run))

    def take_uncertain(self, event: StanzasReceived) -> None:
        """Pass on what may have come before: marked, and requests back to their senders."""
        self.origin.resendable = event.resendable
        for (local, remote), run in groupby(event.stanzas, key=_pair_of):
            pair, stanzas = DomainPair(local, remote), list(run)
            for stanza in stanzas:
                # One by one: what is handled is told in this order.
                if stanza.is_request:
                    self.router.bounce(
                        [Failed(stanza, self.origin.accept([stanza]))],
                        StanzaCondition.REMOTE_SERVER_TIMEOUT,
                        "this request may have been executed",
                        partial(self.router.to_remote, pair),
                    )
                else:
                    self.origin.note_replayed(1)
                    self._send(pair, [stanza], is_uncertain=True)

    def refuse(self, event: StanzaRefused) -> None:
        """A stanza that may not be passed on: its sender is told."""
        pair = DomainPair(*_pair_of(event.stanza))
        self.bounce_refused(event, lambda: self.router.to_remote(pair))

    async def settled(self, timeout: float) -> bool:
        """Whether all that was read is handled, after waiting at most so many seconds.

        What comes next may reach the local server by another worker: only what that server has
        acknowledged cannot be overtaken.
        """
        try:
            async with asyncio.timeout(timeout):
                while self.origin.unreported:
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    def go_on(self, session: "Session") -> None:
        """Another session has resumed ours."""
        is_held = self._session.is_paused
        self._session = session
        if is_held:
            session.pause_reading()

    def end(self) -> None:
        """No more comes, and nobody sends again what did."""
        self.origin.lose()
        for hop in self._hops.values():
            hop.leave()
        self._hops.clear()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    def _on_handled(self, count: int) -> None:
        super()._on_handled(count)
        self._progress.ring()

    def _forward(self, pair: DomainPair, stanzas: list[Stanza]) -> None:
        if self.origin.resendable and pair not in self.router.requests.suspicious:
            self._send(pair, stanzas)
        else:
            way_back = partial(self.router.to_remote, pair)
            self.admit(pair, stanzas, partial(self._send, pair), way_back)

    def _send(self, pair: DomainPair, stanzas: list[Stanza], *, is_uncertain: bool = False) -> None:
        hop = self.router.to_local(pair)
        known = self._hops.get(pair)
        if hop is not known:
            self._hops[pair] = self._use(known, hop)
        batch = self.origin.accept(stanzas)
        batch.uncertain = is_uncertain
        hop.send(batch, self)


class ReturnSource(InboundSource):
    """What comes back on a session that we opened."""

    def __init__(self, router: "Router", session: "Session") -> None:
        super().__init__(router)
        self._session = session


def _pair_of(stanza: Stanza) -> tuple[str, str]:
    return stanza.target_domain, stanza.sender_domain
