"""Fetches small documents of remote domains over HTTPS, trusting nobody on the way.

Names, addresses, redirects and bodies are chosen by strangers: every address passes the address
policy when resolved and when the socket is made, certificates are verified, everything is bounded.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from coordinator.configvalue import normalise_host
from coordinator.domains import InvalidDomain
from workers.gateway.addresses import AddressPolicy, AddressRefused, is_ip_address
from workers.gateway.gate import Gate
from workers.gateway.herd import site_of
from workers.gateway.hostmeta import MAX_DOCUMENT
from workers.gateway.identity import TrustProblem, load_trust
from workers.gateway.resolver import ResolveFailed, Resolver

MAX_REDIRECTS = 3
MAX_ADDRESSES = 4  # of one host; aiohttp tries those behind one that failed again, so 10 times
MAX_URL = 2048  # characters
MAX_TURNS = 32  # at once in one worker, for ourselves
# Beside these for strangers, in all, and for what one of them may be to blame.
MAX_STRANGERS_TURNS = 64
MAX_TURNS_FROM = 16  # for one stranger's address
MAX_TURNS_ABOUT = 4  # about one site
LEAST_TURN = 0.5  # seconds that a stranger's place is taken at least: so places bound the rate
PLACE_TIMEOUT = 4.0  # seconds to wait for a place
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})

Get = Callable[[str], Awaitable[bytes]]


class FetchFailed(Exception):
    """No document was had. `reason` is one clear line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotFound(FetchFailed):
    """The web server says, over verified HTTPS, that there is no such document (404, 410)."""


class Unavailable(FetchFailed):
    """The web server could not be asked, or not in time.

    `is_ours`: the cause seems to be on our side (DNS does not answer, the network is unreachable).
    """

    def __init__(self, reason: str, *, is_ours: bool = False) -> None:
        super().__init__(reason)
        self.is_ours = is_ours


class BadAnswer(Unavailable):
    """The web server answers, but not with a document that we take: another one may do better."""


class Busy(FetchFailed):
    """Nobody was asked: too many others are being asked at the moment."""


class _NotPermitted(OSError):
    """What aiohttp sees of an address that was refused or not found."""


class _NoDns(_NotPermitted):
    """What aiohttp sees when our DNS servers give no answer."""


class Fetcher:
    """GETs of documents that strangers name: https on port 443 alone, also after redirects.

    Promised for every GET: only addresses that the policy permits are connected to; the certificate
    is verified for the URL's host with the domain's trust; at most `MAX_REDIRECTS` redirects; at
    most `MAX_DOCUMENT` bytes, never inflated; no cookies, no proxies, no user part in the URL.
    """

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
        self._places = asyncio.Semaphore(MAX_TURNS)
        self._strangers_places = Gate(MAX_STRANGERS_TURNS)
        self._leaving: set[asyncio.Task[None]] = set()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._checked_resolver = _CheckedResolver(resolver, policy)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close what is open; the fetcher may not be used again."""
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def turn(self, domain: str, *, asker: str = "") -> AsyncIterator[Get]:
        """`async with fetcher.turn(domain) as get: body = await get("https://…")`.

        One turn is for one question about a (normalised) domain, which may take several GETs; all
        of them share one place and one timeout, and what the block does raises `Unavailable` when
        that is over. `asker` is the address of a stranger who makes us ask, "" for ourselves: the
        turns of strangers never wait before ours, and are limited for each of them, and about each
        site, in number and rate.

        Raises `Busy` when there was no place within `PLACE_TIMEOUT` seconds. `get` raises
        `NotFound`, `BadAnswer` and `Unavailable`, and nothing else for whatever strangers do.
        """
        async with self._place(domain, asker):
            try:
                async with asyncio.timeout(self._timeout):
                    yield partial(self._get, self._trust_for(domain))
            except TimeoutError:
                raise Unavailable(f"{domain} gave no answer within {self._timeout:g} s") from None

    @asynccontextmanager
    async def _place(self, domain: str, asker: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(PLACE_TIMEOUT):
                    if asker:
                        limits = (
                            (f"from {asker}", MAX_TURNS_FROM),
                            (f"about {site_of(domain)}", MAX_TURNS_ABOUT),
                        )
                        await stack.enter_async_context(self._strangers_places.enter(*limits))
                    else:
                        await stack.enter_async_context(self._places)
            except TimeoutError:
                raise Busy(f"{domain} was not looked up: too many lookups at once") from None
            if asker:
                self._keep_for_a_while(stack.pop_all(), stack)
            yield

    def _keep_for_a_while(self, place: AsyncExitStack, turn: AsyncExitStack) -> None:
        """Give the place back when the turn and `LEAST_TURN` are both over."""
        is_over = asyncio.Event()
        turn.callback(is_over.set)

        async def leave() -> None:
            async with place:
                await asyncio.sleep(LEAST_TURN)
                await is_over.wait()

        task = asyncio.create_task(leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _get(self, trust: str, address: str) -> bytes:
        url = self._permitted(address)
        context = self._context(trust)
        for _ in range(MAX_REDIRECTS + 1):
            body_or_location = await self._get_once(url, context)
            if isinstance(body_or_location, bytes):
                return body_or_location
            url = self._permitted(body_or_location, url)
        raise BadAnswer(f"{address} redirects more than {MAX_REDIRECTS} times")

    async def _get_once(self, url: URL, context: ssl.SSLContext) -> bytes | str:
        """The body, or the location to go on to."""
        try:
            async with self._http().get(url, ssl=context, allow_redirects=False) as response:
                if response.status in _REDIRECTS:
                    return response.headers.get("Location", "")
                if response.status in _GONE:
                    raise NotFound(f"{url} does not exist")
                if response.status != 200:
                    raise BadAnswer(f"{url} answers with HTTP status {response.status}")
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise BadAnswer(f"{url} is compressed, though we asked for it as it is")
                return await _read(response, url)
        except aiohttp.ClientError as exc:
            raise Unavailable(_reason(url, exc), is_ours=_is_ours(exc)) from exc
        except (ValueError, OSError) as exc:
            raise Unavailable(f"cannot fetch {url}: {str(exc)[:200]}") from exc

    def _permitted(self, text: str, base: URL | None = None) -> URL:
        """The URL, if we may ask there; `base` is the one that redirects to it."""
        said = f"{base} redirects to" if base else "the URL is"
        if not text or len(text) > MAX_URL:
            raise BadAnswer(f"{said} nowhere, or longer than {MAX_URL} characters")
        try:
            url = base.join(URL(text)) if base else URL(text)
            host = normalise_host(url.raw_host or "")
            port = url.port
        except (ValueError, InvalidDomain) as exc:
            raise BadAnswer(f"{said} a malformed address: {str(exc)[:200]}") from None
        if url.scheme != "https" or port != self.HTTPS_PORT:
            raise BadAnswer(f"{said} {str(url)[:200]}, which is not https on 443")
        if url.user is not None or url.password is not None:
            raise BadAnswer(f"{said} an address with a user part")
        if is_ip_address(host):
            try:
                # aiohttp asks no resolver for literals, so this is the place to check them first.
                self._policy.check(host)
            except AddressRefused as exc:
                raise BadAnswer(f"{said} {host}: {exc.reason}") from None
        return url

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
                    limit=0,  # places limit them
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
            for address in permitted[:MAX_ADDRESSES]
        ]

    async def close(self) -> None:
        pass


async def _read(response: aiohttp.ClientResponse, url: URL) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_DOCUMENT:
            raise BadAnswer(f"{url} is larger than {MAX_DOCUMENT} bytes")
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
