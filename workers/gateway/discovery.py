"""Where a remote domain takes s2s over WebSocket.

Asked in this order: configuration, memory, Redis, host-meta over HTTPS; and what has expired, when
nothing newer can be had.
"""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from coordinator.config import Config
from workers.gateway.addresses import AddressPolicy, AddressRefused, is_ip_address
from workers.gateway.fetching import Busy, Fetcher, Unavailable
from workers.gateway.hostmeta import (
    MAX_TARGETS,
    MAX_TTL,
    InvalidHostMeta,
    Target,
    is_pin,
    parse_url,
    target,
)
from workers.gateway.lookup import Absent, look_up
from workers.gateway.resolver import ResolveFailed, Resolver, in_order

log = logging.getLogger(__name__)

MAX_DOMAINS = 10_000  # remembered at once of those that we have looked up for ourselves
MAX_HEARD = 2_000  # beside these, that strangers made us look up
STALE_RETRY = 60.0  # seconds until a domain is asked again after a refresh has failed
STALE_KEEP = float(MAX_TTL)  # seconds that an expired document may still serve as a last resort
_CLOCK_SKEW = 300.0  # seconds that another machine's clock may be ahead

Load = Callable[[str], Awaitable[bytes | None]]
Save = Callable[[str, bytes, int], Awaitable[None]]


class NoUsableAddress(Exception):
    """A target has no address that we may connect to. `reason` is one clear line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Discovered:
    """What is known about reaching a domain over wss.

    Look at `blocked` and `native` first: blocked means exchange nothing with the domain, native
    means use its native s2s now. Otherwise try the targets in their order until one gives an
    authenticated stream (XEP-0487 §3.2). Beside `native` there may be targets that failed lately.
    """

    domain: str
    targets: tuple[Target, ...]
    source: str  # "config", "host-meta", "cache", "stale", "none", "not-listed" or "blocked"
    native: bool
    reason: str  # one line for operators
    pins: tuple[str, ...] = ()
    blocked: bool = False

    @property
    def delegated_hosts(self) -> frozenset[str]:
        """Hosts whose certificate may stand for the domain, as server and as client.

        Learned over verified HTTPS or from configuration (XEP-0156 §2.2, XEP-0487 §2.2).
        """
        names = {name for each in self.targets for name in (each.host, each.sni) if name}
        return frozenset(name for name in names if not is_ip_address(name))

    @property
    def fresh_pins(self) -> frozenset[str]:
        """Keys that prove the domain now: a document that has expired vouches for none."""
        return frozenset(() if self.source == "stale" else self.pins)


@dataclass(frozen=True, slots=True)
class _Entry:
    targets: tuple[Target, ...]
    pins: tuple[str, ...]
    fetched_at: float
    expires_at: float
    source: str
    reason: str


class _StoredTarget(msgspec.Struct):
    url: str
    ips: list[str]
    priority: int
    weight: int
    sni: str


class _Stored(msgspec.Struct):
    fetched_at: float
    ttl: float
    reason: str
    targets: list[_StoredTarget]
    pins: list[str]


class Discovery:
    """Finds and remembers targets. One per worker; `domain` is normalised in every call."""

    def __init__(
        self,
        config: Config,
        resolver: Resolver,
        load: Load,
        save: Save,
        *,
        now: Callable[[], float] = time.time,
        fetcher: Fetcher | None = None,
    ) -> None:
        """`load` and `save` are the shared memory (`ControlPlane`); they may not raise."""
        self._config = config
        self._resolver = resolver
        self._load = load
        self._save = save
        self._now = now
        self._policy = AddressPolicy(config.discovery.allow_networks)
        self.fetcher = fetcher or Fetcher(
            resolver, self._policy, config.trust_for, timeout=config.discovery.timeout
        )
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        # What strangers made us look up stays here: they must not push out what we need, nor fill
        # Redis with names. What was found there serves us, too; what was not is asked anew.
        self._heard: OrderedDict[str, _Entry] = OrderedDict()
        self._native_until: OrderedDict[str, float] = OrderedDict()
        self._ways_back: Counter[str] = Counter()
        self._flights: dict[tuple[str, str], asyncio.Task[_Entry]] = {}
        self._background: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Stop what is under way."""
        tasks = [*self._flights.values(), *self._background]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.fetcher.close()

    async def find(self, domain: str, *, asker: str = "") -> Discovered:
        """How to reach the domain. Never raises; takes up to about `discovery.timeout` seconds.

        `asker`: the address of a peer that has proved nothing and makes us look, "" for ourselves.
        Such lookups are limited (see `Fetcher.turn`) and tell nothing to steering and to others.
        """
        decided = self._decided(domain)
        if decided is not None:
            return decided
        entry = self._entries.get(domain)
        if asker and not self._is_fresh(entry):
            entry = self._heard.get(domain)
        if entry is None or not self._is_fresh(entry):
            entry = await self._look_up_once(domain, asker)
        elif domain in self._entries:
            self._entries.move_to_end(domain)
        return self._discovered(domain, entry)

    def _is_fresh(self, entry: _Entry | None) -> bool:
        return entry is not None and self._now() < entry.expires_at

    async def addresses(self, found: Discovered, target: Target) -> list[str]:
        """The addresses to connect to for a target, all of which pass the address policy.

        A literal address that the operator wrote into `[remote]` needs no further permission.
        Raises `NoUsableAddress`.
        """
        # Only the very target: the peer may have led us elsewhere since (see-other-uri).
        if found.source == "config" and target in found.targets and is_ip_address(target.host):
            return [target.host]
        permitted = self._policy.permitted(target.ips)
        if permitted:
            return permitted
        try:
            resolved = await self._resolver.addresses(target.host)
        except ResolveFailed as exc:
            raise NoUsableAddress(exc.reason) from exc
        permitted = self._policy.permitted(resolved)
        if not permitted:
            try:
                self._policy.check(resolved[0])
            except AddressRefused as exc:
                raise NoUsableAddress(f"{target.host}: {exc.reason}") from exc
        return permitted

    def is_native(self, domain: str) -> bool:
        """May steering answer with the domain's own records? Answers at once from what is known.

        An unknown domain is not native: its stream comes to us and `find` decides. What this
        worker does not know is read from the shared memory, and what has expired is asked anew,
        both in the background.
        """
        decided = self._decided(domain)
        if decided is not None:
            return decided.native
        if domain in self._ways_back:
            return False
        if self._is_marked(domain):
            return True
        entry = self._entries.get(domain)
        if entry is None:
            self._start(self._recall(domain))
            return False
        if self._now() >= entry.expires_at:
            self._start(self._look_up_once(domain, ""))
        return not entry.targets

    def mark_native(self, domain: str, seconds: float | None = None) -> None:
        """Count the domain as native for a while: its wss did not work. Default: native_ttl."""
        if seconds is None:
            seconds = self._config.discovery.native_ttl
        self._native_until[domain] = self._now() + seconds
        _bound(self._native_until, MAX_DOMAINS)

    def mark_working(self, domain: str) -> None:
        """Take back `mark_native`: a session to the domain was authenticated over wss."""
        self._native_until.pop(domain, None)

    def note_way_back(self, domain: str, change: int) -> None:
        """One more (1) or less (-1) session that the domain opened carries our stanzas (XEP-0288).

        While there is one, steering leads the domain's stanzas to us, whatever it publishes.
        """
        self._ways_back[domain] += change
        if self._ways_back[domain] <= 0:
            del self._ways_back[domain]

    def _decided(self, domain: str) -> Discovered | None:
        """What configuration alone says."""
        policy = self._config.remote_for(domain)
        if policy.block:
            reason = f"{domain} is blocked by configuration"
            return Discovered(domain, (), "blocked", False, reason, blocked=True)
        if policy.url:
            marked = self._is_marked(domain)
            try:
                target = parse_url(policy.url, configured=True)
            except InvalidHostMeta as exc:
                return Discovered(domain, (), "config", True, f"[remote] url of {domain}: {exc}")
            reason = "its wss did not work lately" if marked else "url in configuration"
            return Discovered(domain, (target,), "config", marked, reason)
        if self._config.local.carry == "listed" and domain not in self._config.remote:
            return Discovered(domain, (), "not-listed", True, "not listed under [remote]")
        if is_ip_address(domain):
            return Discovered(domain, (), "none", True, "an address cannot publish host-meta")
        return None

    def _discovered(self, domain: str, entry: _Entry) -> Discovered:
        if not entry.targets:
            return Discovered(domain, (), "none", True, entry.reason)
        marked = self._is_marked(domain)
        reason = "its wss did not work lately" if marked else entry.reason
        targets = tuple(in_order(entry.targets))
        return Discovered(domain, targets, entry.source, marked, reason, entry.pins)

    def _is_marked(self, domain: str) -> bool:
        until = self._native_until.get(domain)
        if until is None:
            return False
        if self._now() < until:
            return True
        del self._native_until[domain]
        return False

    async def _look_up_once(self, domain: str, asker: str) -> _Entry:
        """One lookup at a time for each domain and asker, however many ask.

        A stranger joins our own lookup; we do not stand in line with a stranger's.
        """
        flight = (domain, "" if (domain, "") in self._flights else asker)
        task = self._flights.get(flight)
        if task is None:
            work = self._look_up(domain, asker)
            task = self._flights[flight] = asyncio.create_task(work, name=f"discover {domain}")
            task.add_done_callback(lambda _: self._flights.pop(flight, None))
        return await asyncio.shield(task)

    async def _look_up(self, domain: str, asker: str) -> _Entry:
        known = await self._recall(domain)
        if known is not None and self._is_fresh(known):
            return known
        heard = self._heard.get(domain)
        try:
            # Not the last resort of a failed lookup: others would take that for news.
            if not asker and heard and heard.source == "host-meta" and self._is_fresh(heard):
                return await self._keep(domain, heard)
            entry = await self._ask(domain, asker)
        except Busy as exc:
            return known or self._absence(exc.reason)  # says nothing about the domain
        except Unavailable as exc:
            return await self._without_answer(domain, known, exc, asker)
        return self._hear(domain, entry) if asker else await self._keep(domain, entry)

    async def _ask(self, domain: str, asker: str) -> _Entry:
        try:
            document = await look_up(self.fetcher, domain, asker=asker)
        except Absent as exc:
            return self._absence(exc.reason)
        ttl = document.ttl or min(self._config.discovery.ttl, MAX_TTL)
        now = self._now()
        reason = "published in its host-meta"
        return _Entry(document.targets, document.pins, now, now + ttl, "host-meta", reason)

    async def _without_answer(
        self, domain: str, known: _Entry | None, failure: Unavailable, asker: str
    ) -> _Entry:
        """XEP-0487 §3.2: expired data serves as the last resort."""
        now = self._now()
        entry = self._absence(failure.reason)
        is_old = known is None or now > known.fetched_at + STALE_KEEP
        if known is not None and known.targets and not is_old:
            log.warning("%s: using expired host-meta: %s", domain, failure.reason)
            soon = now + STALE_RETRY
            entry = replace(known, source="stale", reason=failure.reason, expires_at=soon)
        elif failure.is_ours:
            # Our own network or DNS is the cause: tell no other worker, and ask again soon.
            entry = replace(entry, expires_at=min(entry.expires_at, now + STALE_RETRY))
        elif not asker:
            return await self._keep(domain, entry)
        if asker:
            return self._hear(domain, entry)
        self._remember(domain, entry)
        return entry

    def _absence(self, reason: str) -> _Entry:
        now = self._now()
        return _Entry((), (), now, now + self._config.discovery.native_ttl, "none", reason)

    async def _keep(self, domain: str, entry: _Entry) -> _Entry:
        self._remember(domain, entry)
        keep = entry.expires_at - entry.fetched_at + (STALE_KEEP if entry.targets else 0)
        await self._save(domain, _encode(entry), max(int(keep), 1))
        return entry

    def _hear(self, domain: str, entry: _Entry) -> _Entry:
        """Keep what a stranger made us find, in this worker alone."""
        self._heard[domain] = entry
        self._heard.move_to_end(domain)
        _bound(self._heard, MAX_HEARD)
        return entry

    def _remember(self, domain: str, entry: _Entry) -> None:
        self._entries[domain] = entry
        self._entries.move_to_end(domain)
        _bound(self._entries, MAX_DOMAINS)

    async def _recall(self, domain: str) -> _Entry | None:
        """The best of memory and shared memory, fresh or not."""
        payload = await self._load(domain)
        shared = None if payload is None else _decode(payload, self._now())
        known = self._entries.get(domain)
        if shared is not None and (known is None or shared.fetched_at > known.fetched_at):
            self._remember(domain, shared)
            return shared
        return known

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _bound(memory: OrderedDict[str, Any], most: int) -> None:
    while len(memory) > most:
        memory.popitem(last=False)


def _encode(entry: _Entry) -> bytes:
    targets = [
        _StoredTarget(t.url, list(t.ips), t.priority, t.weight, t.sni) for t in entry.targets
    ]
    ttl = entry.expires_at - entry.fetched_at
    return msgspec.json.encode(
        _Stored(entry.fetched_at, ttl, entry.reason, targets, list(entry.pins))
    )


def _decode(payload: bytes, now: float) -> _Entry | None:
    """What another worker has stored; None when it makes no sense (Redis is untrusted input)."""
    try:
        stored = msgspec.json.decode(payload, type=_Stored)
        targets = tuple(
            target(each.url, ips=each.ips, priority=each.priority, weight=each.weight, sni=each.sni)
            for each in stored.targets[:MAX_TARGETS]
        )
    except (msgspec.DecodeError, InvalidHostMeta, RecursionError):
        return None
    if stored.fetched_at > now + _CLOCK_SKEW or not 0 <= stored.ttl <= MAX_TTL:
        return None
    return _Entry(
        targets,
        tuple(filter(is_pin, stored.pins[:MAX_TARGETS])),
        stored.fetched_at,
        stored.fetched_at + stored.ttl,
        "cache",
        stored.reason,
    )
