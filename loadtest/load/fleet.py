"""All remote domains of one load process, their ledger and what their sessions went through."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from loadtest.load.certificates import LoadAuthority
from loadtest.load.domain import RemoteDomain
from loadtest.load.ledger import Ledger
from loadtest.load.link import Link
from loadtest.load.listener import InboundSession, WssListener
from loadtest.load.opening import open_session
from loadtest.load.settings import FleetSettings
from workers.gateway.certificates import KeyPair
from workers.gateway.session import Session
from workers.gateway.tls import server_context
from workers.xmpp.management import Suspended
from workers.xmpp.stanza import Stanza

# Reasons name addresses and stanzas; so many different ones tell enough.
_MOST_REASONS = 50
_REASON_LENGTH = 120
ATTACK = "attack: "
"""What the names of attacks begin with in locust's tables."""


@dataclass(slots=True)
class Outcome:
    """One thing that locust's tables show: it took `seconds`, or failed with `error`."""

    name: str
    seconds: float | None
    error: str


class Fleet:
    """Made and used in the engine's thread; only `outcomes` is emptied from elsewhere."""

    def __init__(self, settings: FleetSettings, authority: LoadAuthority, run: str) -> None:
        self.settings = settings
        self.authority = authority
        self.outcomes: deque[Outcome] = deque()
        self.ledger = Ledger(run, self.note)
        self.domains: dict[str, RemoteDomain] = {}
        self.listening: tuple[str, int] | None = None
        """Where the endpoint finds us, once started."""
        self._turns = asyncio.Semaphore(settings.connects)
        self._hosts: frozenset[str] = frozenset()
        self._ticker: asyncio.Task[None] | None = None
        self._listener: WssListener | None = None
        self._retiring: list[asyncio.Task[None]] = []
        self._is_stopping = False

    async def start(self) -> None:
        """Raises `OSError` when the listener's address is taken."""
        if self.settings.listen is not None:
            context = server_context(self.authority.issue(f"*.{self.settings.zone}"))
            self._listener = WssListener(
                context, self.authority.dialback_secret, self._known_hosts, self._take
            )
            port = await self._listener.start(self.settings.listen)
            self.listening = (self.settings.listen[0], port)
        self._ticker = asyncio.create_task(self._tick())

    def new_domain(self) -> RemoteDomain:
        """The next one, with a certificate of its own."""
        name = f"{self.settings.prefix}d{len(self.domains)}.{self.settings.zone}"
        domain = self.domains[name] = RemoteDomain(name, self)
        return domain

    def certificate_for(self, name: str) -> KeyPair:
        return self.authority.issue(name)

    def cut_all(self) -> None:
        """All connections are lost in one moment."""
        for domain in self.domains.values():
            domain.link.cut()

    def keep_all(self) -> None:
        """The run ends: nobody retires from now on before `stop`."""
        self._is_stopping = True

    def new_deadline(self) -> float:
        """Until when (`time.monotonic`) to wait for what is on its way now."""
        return time.monotonic() + self.settings.settle

    def retire(self, domain: RemoteDomain) -> None:
        """One leaves while the others go on."""
        if not self._is_stopping:
            self._retiring.append(asyncio.create_task(domain.retire(self.new_deadline())))

    async def stop(self) -> None:
        """Let everything arrive, close all sessions; what is missing then is lost."""
        self.keep_all()
        deadline = self.new_deadline()
        # What one has said goes to others, too: nobody leaves before all of it is answered.
        async with asyncio.TaskGroup() as group:
            for domain in self.domains.values():
                group.create_task(domain.finish(deadline))
        async with asyncio.TaskGroup() as group:
            for domain in self.domains.values():
                group.create_task(domain.retire(deadline))
        if self._listener is not None:
            self._listener.stop()
        if self._ticker is not None:
            self._ticker.cancel()
        self._count_sessions()
        self.ledger.write_off()

    async def open_session(
        self, domain: RemoteDomain, link: Link, resume: Suspended | None
    ) -> Session:
        """In turn with all others. Raises `HopFailed`, `SeeOtherUri`."""
        async with self._turns:
            return await open_session(
                self.settings,
                domain.name,
                domain.context,
                self.authority.dialback_secret,
                link,
                resume,
            )

    # What domains report.

    def note(self, name: str, seconds: float | None, error: str) -> None:
        self.outcomes.append(Outcome(name, seconds, error))

    def note_opened(self, seconds: float, how: str) -> None:
        self.ledger.record.second(time.time()).connects += 1
        self.note(how, seconds, "")

    def note_refused(self, reason: str) -> None:
        _count(self.ledger.record.refusals, reason)
        self.note("connect", None, reason[:_REASON_LENGTH])

    def note_lost(self, reason: str) -> None:
        _count(self.ledger.record.ends, reason)

    def note_attack(self, name: str, seconds: float, error: str) -> None:
        """`error`: how the endpoint went along with it, "" if it did not."""
        _count(self.ledger.record.attacks, name)
        if error:
            _count(self.ledger.record.unrefused, name)
        self.note(f"{ATTACK}{name}", seconds, error)

    # Inside.

    def _known_hosts(self) -> frozenset[str]:
        if len(self._hosts) != len(self.domains):
            self._hosts = frozenset(self.domains)
        return self._hosts

    def _take(self, _session: InboundSession, stanzas: list[Stanza]) -> None:
        for stanza in stanzas:
            domain = self.domains.get(stanza.target_domain)
            if domain is not None:
                domain.receive(stanza)

    async def _tick(self) -> None:
        while True:
            self._count_sessions()
            await asyncio.sleep(1)

    def _count_sessions(self) -> None:
        ledger = self.ledger
        ledger.sessions = sum(domain.link.is_open for domain in self.domains.values())
        ledger.record.second(time.time()).sessions = ledger.sessions


def _count(reasons: dict[str, int], reason: str) -> None:
    reason = reason[:_REASON_LENGTH]
    if reason not in reasons and len(reasons) >= _MOST_REASONS:
        reason = "other reasons"
    reasons[reason] = reasons.get(reason, 0) + 1
