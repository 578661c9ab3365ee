"""The way to any kind of Redis: one server, Sentinel or Cluster, over TCP, TLS or a unix socket.

Any trouble is `StoreUnavailable`, within `COMMAND_TIMEOUT` seconds; for `PAUSE` seconds after one,
calls fail at once (probes still try), so that a lost Redis costs its callers nothing.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis.asyncio as redis_asyncio
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

COMMAND_TIMEOUT = 0.25
_LOOKS = 5
PAUSE = 0.5
TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""What the query of a rediss url may name: the CAs to trust, and a certificate of our own."""


class StoreUnavailable(Exception):
    """Redis did not do it: away, too slow, or refusing. Go on with what you know."""


class BadValue(Exception):
    """A key holds what we never wrote: treat it as absent."""


class RedisClient:
    """Commands and scripts within their time; usable before Redis is there.

    `prefix` begins every key. `invalid_values` counts what was read and is not what we write.
    """

    def __init__(self, url: str, prefix: str = "fedgate") -> None:
        self.url = url
        self.invalid_values = 0
        self._prefix = prefix
        self._client: Any = None
        self._paused_until = 0.0

    async def connect(self) -> None:
        """Prove that Redis answers. Raises `StoreUnavailable`, or ValueError for a wrong url.

        The store is usable even when this raises: each call connects by itself.
        """
        if self._client is None:
            self._client = open_client(self.url)
        await self.ping()

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            # It leaves the connections to the Sentinels open.
            pool = getattr(self._client, "connection_pool", None)
            manager = getattr(pool, "sentinel_manager", None)
            for sentinel in manager.sentinels if manager else ():
                await sentinel.aclose()
            self._client = None

    async def ping(self) -> None:
        """Raise `StoreUnavailable` unless Redis answers."""
        await self._call(lambda: self._client.ping(), probe=True)

    async def _script(
        self, text: str, keys: list[str], *arguments: Any, probe: bool = False
    ) -> Any:
        """Run a Lua text; all its keys are of one slot."""

        async def run() -> Any:
            try:
                return await self._client.evalsha(_sha(text), len(keys), *keys, *arguments)
            except NoScriptError:
                return await self._client.eval(text, len(keys), *keys, *arguments)

        return await self._call(run, probe=probe)

    async def _call(self, run: Callable[[], Awaitable[Any]], *, probe: bool = False) -> Any:
        """Run one command within the timeout. `probe`: also while calls are paused.

        Raises `StoreUnavailable`, or `BadValue` for a key of another type.
        """
        if not probe and time.monotonic() < self._paused_until:
            raise StoreUnavailable("Redis was away a moment ago")
        if self._client is None:
            self._client = open_client(self.url)
        try:
            async with _within_timeout():
                return await run()
        except ResponseError as exc:
            if "WRONGTYPE" in str(exc):  # Redis 6.2 puts a script's errors behind its own words
                self.invalid_values += 1
                raise BadValue from exc
            raise StoreUnavailable(f"Redis refuses: {exc}") from exc
        except (RedisError, RedisClusterException, OSError) as exc:  # TimeoutError is an OSError
            self._paused_until = time.monotonic() + PAUSE
            raise StoreUnavailable(f"Redis is away: {str(exc) or type(exc).__name__}") from exc


@contextlib.asynccontextmanager
async def _within_timeout() -> AsyncIterator[None]:
    """As `asyncio.timeout(COMMAND_TIMEOUT)`, but while this process stands still no time passes.

    On a busy machine the answer may be there before we are: looks are counted, and before the next
    one what has come is read.
    """
    loop, interval, left = asyncio.get_running_loop(), COMMAND_TIMEOUT / _LOOKS, _LOOKS
    handle: asyncio.TimerHandle | None = None

    def look() -> None:
        nonlocal left, handle
        left -= 1
        if left:
            handle = loop.call_later(interval, look)
        else:
            timeout.reschedule(loop.time())

    async with asyncio.timeout(None) as timeout:
        handle = loop.call_later(interval, look)
        try:
            yield
        finally:
            handle.cancel()


def open_client(url: str) -> Any:
    """A client for any of the url forms; the part after `?` may name `TLS_OPTIONS`.

    Raises ValueError for a url that is none of them.
    """
    # A connection that died in the pool shows on first use: one new attempt, inside the timeout.
    # Its own limits only stand behind ours, which count otherwise.
    behind = 4 * COMMAND_TIMEOUT
    options: dict[str, Any] = {
        "socket_timeout": behind,
        "socket_connect_timeout": behind,
        "retry": Retry(NoBackoff(), 1),
    }
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if not kind:
        pool: redis_asyncio.BlockingConnectionPool = redis_asyncio.BlockingConnectionPool.from_url(
            url, max_connections=16, timeout=behind, **options
        )
        return redis_asyncio.Redis.from_pool(pool)
    query = dict(parse_qsl(parts.query))
    if scheme == "rediss":
        options |= {"ssl": True} | {name: query[name] for name in TLS_OPTIONS if name in query}
    hosts = parts.netloc.rpartition("@")[2].split(",")
    login = _login(parts.username, parts.password)
    if kind == "cluster":
        nodes = [ClusterNode(*_host_port(host, 6379)) for host in hosts]
        return RedisCluster(startup_nodes=nodes, **options, **login)
    # Sentinels have accounts of their own, and often none.
    sentinel_login = _login(query.get("sentinel_username"), query.get("sentinel_password"))
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        [_host_port(host, 26379) for host in hosts],
        sentinel_kwargs=options | sentinel_login,
        **options,
        **login,
    )
    return sentinel.master_for(parts.path.strip("/") or "mymaster")


def _login(username: str | None, password: str | None) -> dict[str, Any]:
    given = {"username": username, "password": password}
    return {name: unquote(value) for name, value in given.items() if value}


def is_cluster(client: Any) -> bool:
    """Tell if this client speaks to a Cluster, whose commands may need to name a server."""
    return isinstance(client, RedisCluster)


def _host_port(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "127.0.0.1", parts.port or default


def _sha(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
