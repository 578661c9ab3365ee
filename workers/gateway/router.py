"""The hops of a worker: one outbound session and one local stream per domain pair.

Sources hand their batches to `to_remote` or `to_local`; what a hop cannot deliver comes back here
and is returned to its sender as a stanza error over the hop of the opposite direction.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from coordinator.accounts import IN_FLIGHT_OURS, IN_FLIGHT_RESENDABLE, Account
from coordinator.config import Config
from coordinator.journal import Kind
from coordinator.routes import DomainPair
from workers.gateway.allowance import Allowances
from workers.gateway.batch import Batch
from workers.gateway.flow import JournalPort, Origin
from workers.gateway.hop import Hop
from workers.gateway.local_connector import ToLocalServer
from workers.gateway.pace import QueueLimit
from workers.gateway.remote_connector import RemoteConnector
from workers.gateway.replies import Failed, Replies, settle_dropped
from workers.gateway.requests import Requests
from workers.gateway.verification import Verifier
from workers.gateway.ways import Accepted, AcceptedWay, OwnWay, Way
from workers.xmpp.errors import StanzaCondition
from workers.xmpp.stanza import bounce, why_not_bounced

log = logging.getLogger(__name__)


class Router:
    """Makes hops when they are needed and forgets them when they end."""

    def __init__(
        self,
        config: Config,
        account: Account,
        remote_connector: RemoteConnector,
        local_connector: ToLocalServer,
        journal: JournalPort | None = None,
    ) -> None:
        self.account = account
        self.journal = journal
        self.requests = Requests()
        self.allowances = Allowances(lambda: config.limits)
        self.queue_limit = QueueLimit(config.limits.queue_bytes)
        self.on_outbound_failed: Callable[[DomainPair, str], None] = lambda pair, reason: None
        """Told when a remote hop gave up, so that its local streams can be closed."""
        self.on_pair_idle: Callable[[DomainPair], None] = lambda pair: None
        self.barrier_tag = ""
        """How pings towards the local server name this worker; see `asking.barrier_tag`."""
        self.origins: set[Origin] = set()
        """Those of which something is under way, or was a moment ago."""
        self._config = config
        self._remote_connector = remote_connector
        self._local_connector = local_connector
        self._remote: dict[DomainPair, Hop] = {}
        self._local: dict[DomainPair, Hop] = {}
        self._ways: dict[DomainPair, AcceptedWay] = {}
        """Of the remote hops that send on sessions opened to us."""
        self.verifier = Verifier(remote_connector, local_connector)

    # Hops.

    def to_remote(self, pair: DomainPair) -> Hop:
        """The hop from our domain to the remote one, connecting if there is none yet."""
        hop = self._remote.get(pair)
        if hop is None:
            hop = self._new_remote(pair, OwnWay(self, self._remote_connector, pair))
        return hop

    def is_held_back(self, pair: DomainPair) -> bool:
        """Too many hops connect, so that to the remote domain still waits for its turn."""
        return pair in self._remote_connector.held_back

    def adopt(self, pair: DomainPair, accepted: Accepted) -> Hop | None:
        """Send to the remote domain on a session that it opened (XEP-0288), unless we have one.

        The hop is told to the session as its `way_back`.
        """
        if pair in self._remote:
            way = self._ways.get(pair)
            return self._remote[pair] if way is not None and way.replace(accepted) else None
        own = OwnWay(self, self._remote_connector, pair)
        way = self._ways[pair] = AcceptedWay(accepted, own)
        hop = self._new_remote(pair, way, closes_when_idle=lambda: not way.is_accepted)
        accepted.way_back = hop
        return hop

    def _new_remote(self, pair: DomainPair, way: OwnWay | AcceptedWay, **options: Any) -> Hop:
        hop = self._remote[pair] = Hop(
            pair,
            sender=pair.local,
            target=pair.remote,
            connect=way.connect,
            close_session=way.close,
            limits=self._config.limits,
            queue_limit=self.queue_limit,
            on_failed=partial(self._on_outbound_failed, pair),
            on_ended=partial(self._on_remote_ended, way),
            patient=False,
            **options,
        )
        return hop

    def to_local(self, pair: DomainPair) -> Hop:
        """The hop from the remote domain to the local server's domain."""
        hop = self._local.get(pair)
        if hop is None:
            hop = self._local[pair] = Hop(
                pair,
                sender=pair.remote,
                target=pair.local,
                connect=partial(self._local_connector.connect, pair.local, pair.remote),
                limits=self._config.limits,
                queue_limit=self.queue_limit,
                on_failed=partial(self._on_inbound_failed, pair),
                on_ended=self._on_local_ended,
                # The local server's restart is no reason to bounce at once.
                patient=True,
                barrier_tag=self.barrier_tag,
            )
        return hop

    def has_remote(self, pair: DomainPair) -> bool:
        """A hop to the remote domain exists."""
        return pair in self._remote

    def goes_back(self, pair: DomainPair) -> bool:
        """What is for the remote domain goes on a session that it opened (XEP-0288)."""
        way = self._ways.get(pair)
        return way is not None and way.is_accepted

    def take_out(self, pair: DomainPair) -> list[Failed]:
        """Cut the hop to the remote domain; returns what it held, still unsettled."""
        hop = self._remote.get(pair)
        if hop is None:
            return []
        held = hop.outbox.fail_all()
        hop.cut()
        return held

    def new_origin(self, kind: Kind, on_handled: Callable[[int], None]) -> Origin:
        """The bookkeeping of a new source of stanzas to remotes ("out") or from them ("in")."""
        counters = self.account.outbound if kind == "out" else self.account.inbound
        return Origin(counters, on_handled, kind=kind, journal=self.journal, busy=self.origins)

    @property
    def is_full(self) -> bool:
        """The journal takes no more: what cannot be kept is returned to its senders."""
        return self.journal is not None and self.journal.is_full

    def each_second(self) -> None:
        """Mend the counts, and let nothing wait too long in a previous hop's memory.

        What it costs depends on what is under way, not on how many sessions there are.
        """
        if self.journal is not None:
            self.journal.each_second()
        self.recount()
        now = asyncio.get_running_loop().time()
        for origin in tuple(self.origins):
            origin.journal_old(now)
            origin.rest()
        self.requests.forget_old(now)
        self.allowances.each_second(now)

    def barrier_answered(self, pair: DomainPair, token: str) -> bool:
        """The local server answered a ping of ours; false if no hop of this worker sent it."""
        hop = self._local.get(pair)
        return hop is not None and hop.barrier_answered(token)

    @property
    def hop_count(self) -> int:
        return len(self._remote) + len(self._local)

    def hops(self) -> Iterator[tuple[str, Hop]]:
        """All hops with their direction."""
        yield from (("outbound", hop) for hop in self._remote.values())
        yield from (("local", hop) for hop in self._local.values())

    def recount(self) -> None:
        """Write what is in flight as the queues have it."""
        for counters in (self.account.outbound, self.account.inbound):
            ours = resendable = 0
            for origin in self.origins:
                if origin.counters is counters:
                    counts = origin.count()
                    ours += counts[0]
                    resendable += counts[1]
            if (counters[IN_FLIGHT_OURS], counters[IN_FLIGHT_RESENDABLE]) != (ours, resendable):
                log.error(
                    "ledger: in flight %d+%d, but the queues hold %d+%d",
                    counters[IN_FLIGHT_OURS],
                    counters[IN_FLIGHT_RESENDABLE],
                    ours,
                    resendable,
                )
            counters[IN_FLIGHT_OURS], counters[IN_FLIGHT_RESENDABLE] = ours, resendable

    async def drain(self, timeout: float) -> None:
        """Let every hop deliver what it holds and close in order; cut what is left at the end."""
        closings: dict[Hop, asyncio.Task[None]] = {}
        try:
            async with asyncio.timeout(timeout):
                # What a hop cannot deliver is bounced, which may need a hop of its own.
                while hops := [hop for _, hop in self.hops()]:
                    for hop in hops:
                        if hop not in closings:
                            closings[hop] = asyncio.create_task(hop.close())
                    await asyncio.wait(
                        [closings[hop] for hop in hops], return_when=asyncio.FIRST_COMPLETED
                    )
        except TimeoutError:
            log.info("%d hops are cut at the end of the drain", len(hops))
        for _, hop in list(self.hops()):
            hop.cut()
        for closing in closings.values():
            closing.cancel()
        await asyncio.gather(*closings.values(), return_exceptions=True)

    def _on_remote_ended(self, way: Way, hop: Hop) -> None:
        way.end()
        if self._ways.get(hop.pair) is way:
            del self._ways[hop.pair]
        if self._remote.get(hop.pair) is hop:
            del self._remote[hop.pair]
            if hop.failure is not None:
                self.on_outbound_failed(hop.pair, hop.failure.reason)
            self.on_pair_idle(hop.pair)

    def _on_local_ended(self, hop: Hop) -> None:
        if self._local.get(hop.pair) is hop:
            del self._local[hop.pair]

    # What could not be delivered.

    def _on_outbound_failed(
        self, pair: DomainPair, failed: list[Failed], condition: StanzaCondition, text: str
    ) -> None:
        log.warning("%s → %s: %d stanzas bounced: %s", *pair, len(failed), text)
        self.bounce(failed, condition, text, lambda: self.to_local(pair))

    def _on_inbound_failed(
        self, pair: DomainPair, failed: list[Failed], condition: StanzaCondition, text: str
    ) -> None:
        log.warning("%s → %s: %d stanzas bounced: %s", pair.remote, pair.local, len(failed), text)
        self.bounce(failed, condition, "", lambda: self.to_remote(pair))

    def bounce(
        self,
        failed: list[Failed],
        condition: StanzaCondition,
        text: str,
        way_back: Callable[[], Hop],
    ) -> None:
        """Return stanzas to their senders (RFC 6120 §8.3); each is settled when its reply is."""
        replies = []
        told = []
        for each in failed:
            reply = bounce(each.stanza, condition, text)
            if reply is None:
                each.batch.has_gaps = True  # those before it are settled later, with their replies
                settle_dropped(each, why_not_bounced(each.stanza) or "other")
            else:
                replies.append(reply)
                told.append(each)
        if replies:
            way_back().send(Batch(replies, len(replies), Replies(told)))

    def describe(self) -> list[dict[str, Any]]:
        """The sessions that this worker opened, for `/api/sessions`."""
        return [{"direction": direction, **hop.describe()} for direction, hop in self.hops()]
