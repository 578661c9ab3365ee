"""POSH (RFC 7711): a domain publishes over HTTPS which certificates may stand for it.

What is learned stays in this worker's memory, and no longer than the documents permit.
"""

import asyncio
import logging
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from workers.gateway.fetching import Busy, Fetcher, FetchFailed, Get, NotFound

log = logging.getLogger(__name__)

PATH = "/.well-known/posh/xmpp-server.json"
MAX_FINGERPRINTS = 64  # of one document
MAX_DOMAINS = 2_000  # remembered at once; names are chosen by strangers
MAX_KEEP = 604800  # seconds, whatever the document says
ABSENT_KEEP = 300.0  # seconds until a domain without a document is asked again
FAILED_KEEP = 60.0  # seconds until one that could not be asked is
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha-256": hashes.SHA256(),
    "sha-384": hashes.SHA384(),
    "sha-512": hashes.SHA512(),
}

Fingerprint = dict[str, bytes]
"""Hashes of one certificate, by name."""


class InvalidPosh(ValueError):
    """A document cannot be used; the text is one clear line."""


@dataclass(frozen=True, slots=True)
class Document:
    """Either `fingerprints`, or the `url` of the document that has them."""

    expires: int  # seconds
    fingerprints: tuple[Fingerprint, ...] = ()
    url: str = ""


class _Json(msgspec.Struct):
    expires: int
    fingerprints: list[Any] | msgspec.UnsetType = msgspec.UNSET
    url: str | msgspec.UnsetType = msgspec.UNSET


def parse(data: bytes) -> Document:
    """Read a document (RFC 7711 §3). Raises `InvalidPosh`.

    A fingerprint that is malformed, or has no hash that we trust, spoils no other.
    """
    try:
        document = msgspec.json.decode(data, type=_Json)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise InvalidPosh(f"not a POSH document: {exc}") from None
    if document.expires <= 0:
        raise InvalidPosh("the document has expired")
    expires = min(document.expires, MAX_KEEP)
    if isinstance(document.url, str):
        if document.fingerprints is not msgspec.UNSET:
            raise InvalidPosh("the document has both fingerprints and a url")
        return Document(expires, url=document.url)
    listed = document.fingerprints or []
    found = [_fingerprint(each) for each in listed[:MAX_FINGERPRINTS]]
    fingerprints = tuple(each for each in found if each)
    if not fingerprints:
        raise InvalidPosh("the document has no usable fingerprint")
    return Document(expires, fingerprints)


def _fingerprint(described: Any) -> Fingerprint:
    """The hashes that we know, {} if one of them makes no sense."""
    known = {}
    for name, text in described.items() if isinstance(described, dict) else ():
        algorithm = _HASHES.get(str(name).lower())
        if algorithm is None:
            continue
        try:
            digest = b64decode(text, validate=True)
        except (ValueError, TypeError):
            return {}
        if len(digest) != algorithm.digest_size:
            return {}
        known[str(name).lower()] = digest
    return known


@dataclass(frozen=True, slots=True)
class _Known:
    until: float  # POSIX time
    fingerprints: tuple[Fingerprint, ...] = ()


class Posh:
    """Asks for documents and remembers them. One per worker."""

    def __init__(self, fetcher: Fetcher, *, now: Callable[[], float] = time.time) -> None:
        self._fetcher = fetcher
        self._now = now
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._flights: dict[tuple[str, str], asyncio.Task[bool]] = {}

    def matches(self, domain: str, certificate: x509.Certificate) -> bool:
        """Has the domain published this certificate (§3.3)? Looks at memory alone."""
        known = self._known.get(domain)
        if known is None or self._now() >= known.until:
            return False
        return any(_matches(each, certificate) for each in known.fingerprints)

    async def learn(self, domain: str, *, asker: str = "") -> bool:
        """Ask a domain of which nothing is known; True if it has told fingerprints now.

        `asker`: see `Fetcher.turn`. Never raises.
        """
        known = self._known.get(domain)
        if known is not None and self._now() < known.until:
            return False
        # We may be waited for by a stranger, who must not be waited for by us.
        flight = (domain, "" if (domain, "") in self._flights else asker)
        task = self._flights.get(flight)
        if task is None:
            task = self._flights[flight] = asyncio.create_task(
                self._ask(domain, asker), name=f"POSH of {domain}"
            )
            task.add_done_callback(lambda _: self._flights.pop(flight, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Stop what is under way."""
        tasks = list(self._flights.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, domain: str, asker: str) -> bool:
        try:
            async with self._fetcher.turn(domain, asker=asker) as get:
                document = await _fetch(get, domain)
        except Busy:
            return False  # says nothing about the domain
        except NotFound:
            self._remember(domain, _Known(self._now() + ABSENT_KEEP))
            return False
        except (FetchFailed, InvalidPosh) as exc:
            log.info("POSH of %s: %s", domain, exc)
            self._remember(domain, _Known(self._now() + FAILED_KEEP))
            return False
        self._remember(domain, _Known(self._now() + document.expires, document.fingerprints))
        return True

    def _remember(self, domain: str, known: _Known) -> None:
        self._known[domain] = known
        self._known.move_to_end(domain)
        while len(self._known) > MAX_DOMAINS:
            self._known.popitem(last=False)


async def _fetch(get: Get, domain: str) -> Document:
    document = parse(await get(f"https://{domain}{PATH}"))
    if not document.url:
        return document
    referred = parse(await get(document.url))
    if referred.url:
        raise InvalidPosh("its url leads to another url")  # §3.2
    return Document(min(document.expires, referred.expires), referred.fingerprints)


def _matches(fingerprint: Fingerprint, certificate: x509.Certificate) -> bool:
    return all(
        certificate.fingerprint(_HASHES[name]) == digest for name, digest in fingerprint.items()
    )
