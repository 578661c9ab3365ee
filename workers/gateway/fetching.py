"""Fetches the host-meta documents of remote domains over HTTPS, trusting nobody on the way.

Names, addresses, redirects and bodies are chosen by strangers: every address passes the address
policy when resolved and when the socket is made, certificates are verified, everything is bounded.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from ipaddress import ip_address
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from workers.gateway.addresses import AddressPolicy, AddressRefused
from workers.gateway.hostmeta import (
    JSON_PATH,
    MAX_DOCUMENT,
    XRD_PATH,
    HostMeta,
    InvalidHostMeta,
    parse_json,
    parse_xrd,
)
from workers.gateway.identity import TrustProblem, load_trust
from workers.gateway.resolver import ResolveFailed, Resolver

MAX_REDIRECTS = 3
MAX_FETCHES = 32  # at once in one worker
MAX_STRANGERS_FETCHES = MAX_FETCHES // 2  # of these, for domains that strangers named
SLOT_TIMEOUT = 2.0  # seconds to wait for one of them
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})


class FetchFailed(Exception):
    """No document was had. `reason` is one clear line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Absent(FetchFailed):
    """The domain says, over verified HTTPS, that it offers no s2s over WebSocket."""


class Unavailable(FetchFailed):
    """The domain could not be asked, or its answer makes no sense.

    `is_ours`: the cause seems to be on our side (DNS does not answer, the network is unreachable).
    """

    def __init__(self, reason: str, *, is_ours: bool = False) -> None:
        super().__init__(reason)
        self.is_ours = is_ours


class Busy(FetchFailed):
    """Nobody was asked: too many others are being asked at the moment."""


class _NotPermitted(OSError):
    """What aiohttp sees of an address that was refused or not found."""


class _NoDns(_NotPermitted):
    """What aiohttp sees when our DNS servers give no answer."""


class Fetcher:
    """GETs host-meta.json and, when it has no answer, the host-meta XRD."""

    HTTPS_PORT = 443  # RFC 6415: the default port of https, never another

    def __init__(
        self,
        resolver: Resolver,
        policy: AddressPolicy,
        trust_for: Callable[[str], str],
        *,
        timeout: float,
    ) -> None:
        """`trust_for(domain)`: "system" or the path of a PEM bundle; `timeout`: seconds in all."""
        self._policy = policy
        self._trust_for = trust_for
        self._timeout = timeout
        self._slots = asyncio.Semaphore(MAX_FETCHES)
        self._strangers_slots = asyncio.Semaphore(MAX_STRANGERS_FETCHES)
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._checked_resolver = _CheckedResolver(resolver, policy)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close what is open; the fetcher may not be used again."""
        if self._session is not None:
            await self._session.close()

    async def fetch(self, domain: str, *, for_stranger: bool = False) -> HostMeta:
        """The domain's document, with at least one target.

        Raises `Absent`, `Unavailable` or `Busy`. What strangers ask for leaves slots free.
        """
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(SLOT_TIMEOUT):
                    if for_stranger:
                        await stack.enter_async_context(self._strangers_slots)
                    await stack.enter_async_context(self._slots)
            except TimeoutError:
                raise Busy(f"{domain} was not looked up: too many lookups at once") from None
            return await self._fetch_in_time(domain)

    async def _fetch_in_time(self, domain: str) -> HostMeta:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._fetch(domain)
        except TimeoutError:
            raise Unavailable(
                f"{domain} gave no host-meta within {self._timeout:g} seconds"
            ) from None

    async def _fetch(self, domain: str) -> HostMeta:
        unclear = ""
        try:
            document = parse_json(await self._get(domain, JSON_PATH))
            if document.targets:
                return document
            if document.problems:
                unclear = f"host-meta.json of {domain}: {document.problems[0]}"
            elif document.is_complete:
                raise Absent(f"host-meta.json of {domain} lists no s2s WebSocket")
        except InvalidHostMeta as exc:
            unclear = f"host-meta.json of {domain}: {exc}"
        except _NotFound:
            pass
        try:
            document = parse_xrd(await self._get(domain, XRD_PATH))
            if document.targets:
                return document
        except (InvalidHostMeta, _NotFound):
            pass
        if unclear:
            raise Unavailable(unclear)
        raise Absent(f"{domain} publishes no s2s WebSocket in its host-meta")

    async def _get(self, domain: str, path: str) -> bytes:
        url = URL.build(scheme="https", host=domain, port=self.HTTPS_PORT, path=path)
        context = self._context(self._trust_for(domain))
        for _ in range(MAX_REDIRECTS + 1):
            body_or_location = await self._get_once(url, context)
            if isinstance(body_or_location, bytes):
                return body_or_location
            url = self._redirected(url, body_or_location)
        raise Unavailable(f"host-meta of {domain} redirects more than {MAX_REDIRECTS} times")

    async def _get_once(self, url: URL, context: ssl.SSLContext) -> bytes | str:
        """The body, or the location to go on to."""
        try:
            async with self._http().get(url, ssl=context, allow_redirects=False) as response:
                if response.status in _REDIRECTS:
                    return response.headers.get("Location", "")
                if response.status in _GONE:
                    raise _NotFound
                if response.status != 200:
                    raise Unavailable(f"{url} answers with HTTP status {response.status}")
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise Unavailable(f"{url} is compressed, though we asked for it as it is")
                return await _read(response, url)
        except aiohttp.ClientError as exc:
            raise Unavailable(_reason(url, exc), is_ours=_is_ours(exc)) from exc
        except (ValueError, OSError) as exc:
            raise Unavailable(f"cannot fetch {url}: {exc}") from exc

    def _redirected(self, url: URL, location: str) -> URL:
        try:
            target = url.join(URL(location))
            host = target.host or ""
        except ValueError as exc:
            raise Unavailable(f"{url} redirects to a malformed address: {exc}") from None
        if not location or not host or len(location) > 2048:
            raise Unavailable(f"{url} redirects to nowhere")
        if target.scheme != "https" or target.port != self.HTTPS_PORT:
            raise Unavailable(f"{url} redirects to {str(target)[:200]}, which is not https on 443")
        if target.user is not None or target.password is not None:
            raise Unavailable(f"{url} redirects to an address with a user part")
        try:
            ip_address(host)
        except ValueError:
            return target
        try:
            # aiohttp asks no resolver for literals, so this is the place to check them first.
            self._policy.check(host)
        except AddressRefused as exc:
            raise Unavailable(f"{url} redirects to {host}: {exc.reason}") from None
        return target

    def _context(self, source: str) -> ssl.SSLContext:
        context = self._contexts.get(source)
        if context is None:
            try:
                path = load_trust(source).path
            except TrustProblem as exc:
                raise Unavailable(str(exc)) from exc
            context = ssl.create_default_context(cafile=path)
            # Python 3.13 turns this on, and private authorities often fail it.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            self._contexts[source] = context
        return context

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=self._checked_resolver,
                    socket_factory=self._make_socket,
                    use_dns_cache=False,
                    force_close=True,
                    limit=MAX_FETCHES,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                headers={"User-Agent": "fedgate", "Accept-Encoding": "identity"},
            )
        return self._session

    def _make_socket(self, address: Any) -> socket.socket:
        """The second check: what is connected to is what was permitted, whatever resolved it."""
        family, kind, protocol, _, where = address
        try:
            self._policy.check(str(where[0]))
        except AddressRefused as exc:
            raise _NotPermitted(exc.reason) from None
        return socket.socket(family, kind, protocol)


class _NotFound(Exception):
    """The web server has no such document."""


class _CheckedResolver(AbstractResolver):
    """The first check: names that lead to addresses which are not permitted do not resolve."""

    def __init__(self, resolver: Resolver, policy: AddressPolicy) -> None:
        self._resolver = resolver
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            addresses = await self._resolver.addresses(host)
        except ResolveFailed as exc:
            raise (_NoDns if exc.temporary else _NotPermitted)(exc.reason) from exc
        permitted = self._policy.permitted(addresses)
        if not permitted:
            try:
                self._policy.check(addresses[0])
            except AddressRefused as exc:
                raise _NotPermitted(f"{host}: {exc.reason}") from None
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in permitted
        ]

    async def close(self) -> None:
        pass


async def _read(response: aiohttp.ClientResponse, url: URL) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_DOCUMENT:
            raise Unavailable(f"{url} is larger than {MAX_DOCUMENT} bytes")
    return bytes(body)


def _is_ours(error: aiohttp.ClientError) -> bool:
    if not isinstance(error, aiohttp.ClientConnectorError):
        return False
    cause = error.os_error
    return isinstance(cause, _NoDns) or cause.errno == errno.ENETUNREACH


def _reason(url: URL, error: aiohttp.ClientError) -> str:
    """One line for what went wrong, without aiohttp's own wrapping."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        text = getattr(cause, "verify_message", "") or str(cause)
        return f"the certificate of {url.host} is not good for https: {text}"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        if isinstance(cause, _NotPermitted):
            return str(cause)
        return f"cannot connect to {url.host} port {url.port}: {cause.strerror or cause}"
    return f"cannot fetch {url}: {str(error)[:200] or type(error).__name__}"
