"""What is kept in Redis: routes, discovery results, heartbeats; journals: `journal_store.py`.

Callers never see keys. Keys of one remote domain share its hash tag: one slot of a Cluster. Values
read are untrusted: a bad one counts in `invalid_values` and is treated as absent. How calls fail:
`redis_client.py`.
"""

import re
from collections.abc import AsyncIterator, Collection
from typing import Any, NamedTuple

import msgspec

from coordinator import scripts
from coordinator.config import Config
from coordinator.domains import InvalidDomain, normalise_domain
from coordinator.journal_store import JournalStore, is_worker_id
from coordinator.redis_client import BadValue, is_cluster
from coordinator.redis_client import StoreUnavailable as StoreUnavailable
from coordinator.routes import DomainPair, Route

ScanCursor = tuple[int, int] | None
"""Where a scan goes on: which server of a Cluster, and where there."""

MAX_DISCOVERY_BYTES = 131072

_EPOCH = re.compile(r"[0-9]{1,16}")


class Heartbeat(NamedTuple):
    """What a heartbeat tells: if Redis still knew us, and every live worker with its info."""

    known: bool
    workers: dict[str, dict[str, Any]]


def redis_url(config: Config) -> str:
    """The configured Redis, or the embedded one of this state directory."""
    return config.redis.url or f"unix://{config.gateway.state_dir}/run/redis.sock"


class Store(JournalStore):
    """Routes, discovery and heartbeats; `prefix` keeps clusters on one Redis apart."""

    def __init__(self, url: str, prefix: str = "fedgate") -> None:
        super().__init__(url, prefix)
        self._workers = [f"{{{prefix}}}:workers", f"{{{prefix}}}:worker-info"]

    async def acquire(self, pair: DomainPair, worker: str, live: Collection[str]) -> Route:
        """Make `worker` the owner unless a live worker is; returns the route as it stands.

        `live` spares a look when it names the owner; an owner not in it is looked up before it
        loses the route. The route is ours when `.owner == worker`.
        """
        route = await self.take(pair, worker, None)
        if route.owner in (worker, *live) or route.owner in await self.live_workers():
            return route
        return await self.take(pair, worker, route)

    async def take(self, pair: DomainPair, worker: str, replaced: Route | None) -> Route:
        """Make `worker` the owner if there is none, or one as in `replaced`; the route after it."""
        key = self._route_key(pair)
        arguments = (worker, *(replaced or ("", "")))
        for _ in range(2):
            try:
                route = self._route(await self._script(scripts.ACQUIRE, [key], *arguments))
            except BadValue:
                route = None
            if route is not None:
                return route
            await self._call(lambda: self._client.delete(key))
        raise StoreUnavailable(f"the route of {pair.local} and {pair.remote} cannot be repaired")

    async def lookup(self, pair: DomainPair) -> Route | None:
        """The route of a pair, if any; its owner may be dead."""
        key = self._route_key(pair)
        try:
            return self._route(await self._call(lambda: self._client.hmget(key, "owner", "epoch")))
        except BadValue:
            return None

    async def release(self, pair: DomainPair, worker: str, epoch: int) -> bool:
        """Give a route back; False if it is no longer ours."""
        try:
            keys = [self._route_key(pair)]
            return bool(await self._script(scripts.RELEASE, keys, worker, epoch))
        except BadValue:
            return False

    async def routes(self) -> AsyncIterator[tuple[DomainPair, Route]]:
        """All routes, read in pages; one that changes meanwhile may be seen twice or not at all."""
        cursor: ScanCursor = None
        while True:
            cursor, page = await self.route_page(cursor, 200)
            for item in page:
                yield item
            if cursor is None:
                return

    async def route_page(
        self, cursor: ScanCursor, count: int
    ) -> tuple[ScanCursor, list[tuple[DomainPair, Route]]]:
        """About `count` keys' worth of routes from `cursor` on, and the cursor of the next page.

        None is the cursor of the first page, and of the one after the last.
        """
        node, position = cursor or (0, 0)
        pattern = _glob_escaped(f"{self._prefix}:route:") + "*"
        node, position, keys = await self._scan(node, position, pattern, count)
        found = [(key, pair) for key in keys if (pair := self._pair(key))]

        async def look_up() -> list[Any]:
            pipeline = self._client.pipeline(transaction=False)
            for key, _ in found:
                pipeline.hmget(key, "owner", "epoch")
            return list(await pipeline.execute(raise_on_error=False)) if found else []

        page = []
        for (_, pair), fields in zip(found, await self._call(look_up), strict=True):
            if isinstance(fields, Exception):
                self.invalid_values += 1
            elif route := self._route(fields):
                page.append((pair, route))
        return (node, position) if node or position else None, page

    async def _scan(
        self, node: int, position: int, pattern: str, count: int
    ) -> tuple[int, int, list[bytes]]:
        """One SCAN; a Cluster is scanned master by master, in the order of their names."""
        options = {"match": pattern, "count": count}

        async def scan() -> tuple[int, int, list[bytes]]:
            if not is_cluster(self._client):
                position_after, keys = await self._client.scan(position, **options)
                return 0, position_after, keys
            await self._client.initialize()
            nodes = sorted(self._client.get_primaries(), key=lambda each: each.name)
            here = nodes[node % len(nodes)]
            positions, keys = await self._client.scan(position, target_nodes=here, **options)
            position_after = positions[here.name]
            is_last = not position_after and node + 1 >= len(nodes)
            return 0 if is_last else node + (not position_after), position_after, keys

        found: tuple[int, int, list[bytes]] = await self._call(scan)
        return found

    async def get_discovery(self, domain: str) -> bytes | None:
        """What `put_discovery` kept for this domain, if it has not expired."""
        key = f"{self._prefix}:discovery:{{{domain}}}"
        try:
            payload = await self._call(lambda: self._client.get(key))
        except BadValue:
            return None
        if payload is not None and len(payload) > MAX_DISCOVERY_BYTES:
            self.invalid_values += 1
            return None
        return payload if payload is None else bytes(payload)

    async def put_discovery(self, domain: str, payload: bytes, keep_seconds: float) -> None:
        """Keep a discovery result. Raises ValueError if it is over `MAX_DISCOVERY_BYTES`."""
        if len(payload) > MAX_DISCOVERY_BYTES:
            raise ValueError(f"a discovery result of {len(payload)} bytes is too large")
        key = f"{self._prefix}:discovery:{{{domain}}}"
        lifetime = max(1, int(keep_seconds * 1000))
        await self._call(lambda: self._client.set(key, payload, px=lifetime))

    async def put_session(self, name: str, payload: bytes, keep_seconds: int) -> None:
        """Keep what a successor needs to go on with a session; `name` is ours, not a peer's."""
        key = f"{self._prefix}:session:{{{name}}}"
        await self._call(lambda: self._client.set(key, payload, ex=keep_seconds))

    async def take_session(self, name: str) -> bytes | None:
        """What `put_session` kept, for the first who asks."""
        key = f"{self._prefix}:session:{{{name}}}"
        try:
            payload = await self._call(lambda: self._client.getdel(key))
        except BadValue:
            return None
        return None if payload is None or len(payload) > MAX_DISCOVERY_BYTES else bytes(payload)

    async def heartbeat(self, worker: str, ttl: float, info: dict[str, Any]) -> Heartbeat:
        """Say that `worker` lives for `ttl` seconds more, and learn who else does."""
        arguments = (worker, int(ttl * 1000), msgspec.json.encode(info))
        reply = await self._on_workers(scripts.HEARTBEAT, *arguments, probe=True)
        found = map(self._worker_info, reply[1::2], reply[2::2])
        workers = {name: shown for name, shown in found if name}
        return Heartbeat(bool(reply[0]), workers)

    async def live_workers(self) -> list[str]:
        """The workers whose heartbeat has not run out, on all machines."""
        names = await self._on_workers(scripts.LIVE)
        return [name for name in map(_text, names) if is_worker_id(name)]

    async def workers(self) -> dict[str, dict[str, Any]]:
        """The workers whose heartbeat has not run out, with what they say of themselves."""
        reply = await self._on_workers(scripts.WORKERS)
        found = map(self._worker_info, reply[::2], reply[1::2])
        return {name: shown for name, shown in found if name}

    async def leave(self, worker: str) -> None:
        """Take a worker off the live ones at once: it stops, or its process is known to be gone."""
        await self._on_workers(scripts.LEAVE, worker)

    async def _on_workers(self, text: str, *arguments: Any, probe: bool = False) -> Any:
        """Run a script on the keys of the workers; what is not ours there is removed."""
        for _ in range(2):
            try:
                return await self._script(text, self._workers, *arguments, probe=probe)
            except BadValue:
                await self._call(lambda: self._client.delete(*self._workers), probe=probe)
        raise StoreUnavailable("what Redis holds of the workers cannot be repaired")

    def _route_key(self, pair: DomainPair) -> str:
        return f"{self._prefix}:route:{{{pair.remote}}}:{pair.local}"

    def _pair(self, key: bytes) -> DomainPair | None:
        name = _text(key).removeprefix(f"{self._prefix}:route:")
        remote, separator, local = name.partition("}:")
        try:
            if separator and remote.startswith("{"):
                return DomainPair(normalise_domain(local), normalise_domain(remote[1:]))
        except InvalidDomain:
            pass  # counted below
        self.invalid_values += 1
        return None

    def _route(self, fields: list[bytes | None]) -> Route | None:
        if fields[0] is None and fields[1] is None:
            return None
        owner, epoch = _text(fields[0] or b""), _text(fields[1] or b"")
        if is_worker_id(owner) and _EPOCH.fullmatch(epoch):
            return Route(owner, int(epoch))
        self.invalid_values += 1
        return None

    def _worker_info(self, name: bytes, info: bytes) -> tuple[str, dict[str, Any]]:
        worker = _text(name)
        try:
            if is_worker_id(worker):
                return worker, msgspec.json.decode(info, type=dict[str, Any])
        except msgspec.DecodeError:
            pass  # counted below
        self.invalid_values += 1
        return "", {}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _glob_escaped(text: str) -> str:
    return re.sub(r"([\[\]*?\\])", r"\\\1", text)
