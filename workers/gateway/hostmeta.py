"""Host metadata (RFC 6415, XEP-0156, XEP-0487): what remote domains publish and what we publish.

The JSON document carries everything; the XRD only the link. Documents are read leniently, link by
link (one bad link spoils no other), and written in full: xmpp-proxy rejects a whole document for
one link with a missing field.
"""

from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

import msgspec

from coordinator.config import Config
from coordinator.domains import InvalidDomain, normalise_domain

JSON_PATH = "/.well-known/host-meta.json"
XRD_PATH = "/.well-known/host-meta"
S2S_WEBSOCKET = "urn:xmpp:alt-connections:s2s-websocket"
MAX_DOCUMENT = 65536  # bytes
MAX_TTL = 604800  # seconds (XEP-0487 §5)
MAX_PUBLISHED_TTL = 65535  # COMPAT(xmpp-proxy): its ttl is 16 bits wide
MIN_TTL = 60
MAX_TARGETS = 16
MAX_IPS = 16
_MAX_URL = 2048
_MAX_DEPTH = 32
_WSS_PORT = 443
_LOWEST_PRIORITY = 65535  # of a link that states none
_XRD = "http://docs.oasis-open.org/ns/xri/xrd-1.0"
_PUBLISHED_PRIORITY = 10
_PUBLISHED_WEIGHT = 50


class InvalidHostMeta(ValueError):
    """A document or an URL in it cannot be used; the text is one clear line."""


@dataclass(frozen=True, slots=True)
class Target:
    """One wss endpoint of a remote domain."""

    url: str
    host: str  # normalised name, or an address literal without brackets
    port: int
    path: str  # with the query
    ips: tuple[str, ...] = ()  # literals from the document, not checked by the address policy yet
    priority: int = _LOWEST_PRIORITY
    weight: int = 0
    sni: str = ""  # name for SNI; "" when the host is an address


@dataclass(frozen=True, slots=True)
class HostMeta:
    """What a document says about s2s over WebSocket."""

    targets: tuple[Target, ...]
    ttl: int | None = None  # seconds; None when the document has no `xmpp` object
    pins: tuple[str, ...] = ()  # base64 SHA-256 of public keys
    problems: tuple[str, ...] = ()  # links that were left out, and why

    @property
    def is_complete(self) -> bool:
        """Does the document claim to say everything (XEP-0487 §2.2: `xmpp` object present)?"""
        return self.ttl is not None


def parse_url(
    url: str,
    *,
    configured: bool = False,
    ips: tuple[str, ...] = (),
    priority: int = 0,
    weight: int = 0,
    sni: str = "",
) -> Target:
    """Check a wss URL and take it apart. Raises `InvalidHostMeta`.

    Ports below 1024 other than 443 are refused, because a stranger must not point us at mail or SSH
    servers, unless the URL was `configured` by the operator.
    """
    if len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidHostMeta(f"URL is too long or has forbidden characters: {url[:100]!r}")
    try:
        parts = urlsplit(url)
        port = _WSS_PORT if parts.port is None else parts.port
    except ValueError as exc:
        raise InvalidHostMeta(f"malformed URL {url[:100]!r}: {exc}") from None
    if parts.scheme != "wss":
        raise InvalidHostMeta(f"URL is not wss: {url[:100]!r}")
    if "@" in parts.netloc or parts.fragment:
        raise InvalidHostMeta(f"URL with user or fragment part: {url[:100]!r}")
    if port == 0 or (not configured and port != _WSS_PORT and port < 1024):
        raise InvalidHostMeta(f"port {port} is not permitted in {url[:100]!r}")
    host, literal = _host(parts.hostname or "")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    name = _host(sni)[0] if sni else host
    return Target(url, host, port, path, ips, priority, weight, "" if literal and not sni else name)


def _host(text: str) -> tuple[str, bool]:
    """The normalised host and whether it is an address literal."""
    if "%" in text:
        raise InvalidHostMeta(f"{text[:100]!r} is an address with a zone, or no host name")
    try:
        return str(ip_address(text)), True
    except ValueError:
        pass
    try:
        return normalise_domain(text), False
    except InvalidDomain as exc:
        raise InvalidHostMeta(str(exc)) from None


class _Link(msgspec.Struct):
    rel: str
    href: str = ""
    ips: list[str] = []
    priority: int = _LOWEST_PRIORITY
    weight: int = 0
    sni: str = ""


class _Xmpp(msgspec.Struct):
    ttl: int = MIN_TTL
    public_key_pins_sha_256: list[str] = msgspec.field(name="public-key-pins-sha-256", default=[])


class _Document(msgspec.Struct):
    links: list[msgspec.Raw] = []
    xmpp: _Xmpp | None = None


def parse_json(data: bytes) -> HostMeta:
    """Read a host-meta.json. Raises `InvalidHostMeta` when it is no such document.

    A document without s2s-websocket links is valid: `targets` is empty.
    """
    _check_size(data)
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise InvalidHostMeta(f"not a host-meta JSON document: {exc}") from None
    targets, problems = [], []
    for raw in document.links:
        try:
            link = msgspec.json.decode(raw, type=_Link)
            if link.rel == S2S_WEBSOCKET:
                targets.append(_target_of(link))
        except (msgspec.DecodeError, InvalidHostMeta, RecursionError, UnicodeDecodeError) as exc:
            problems.append(str(exc))
    xmpp = document.xmpp
    return HostMeta(
        tuple(targets[:MAX_TARGETS]),
        None if xmpp is None else min(max(xmpp.ttl, MIN_TTL), MAX_TTL),
        () if xmpp is None else tuple(filter(is_pin, xmpp.public_key_pins_sha_256))[:MAX_TARGETS],
        tuple(problems[:MAX_TARGETS]),
    )


def _target_of(link: _Link) -> Target:
    return target(link.href, ips=link.ips, priority=link.priority, weight=link.weight, sni=link.sni)


def target(url: str, *, ips: Sequence[str], priority: int, weight: int, sni: str) -> Target:
    """Check the fields of a link (XEP-0487 §2.1). Raises `InvalidHostMeta`."""
    for name, value in (("priority", priority), ("weight", weight)):
        if not 0 <= value <= 65535:
            raise InvalidHostMeta(f"{name} {value} is not in 0..65535")
    literals = []
    for text in ips[:MAX_IPS]:
        try:
            literals.append(str(ip_address(text)))
        except ValueError:
            continue  # XEP-0487 wants literals; the others may still be good
    return parse_url(url, ips=tuple(literals), priority=priority, weight=weight, sni=sni)


def is_pin(text: str) -> bool:
    """Whether the text is a SHA-256 in base64, as XEP-0487 writes the pin of a key."""
    try:
        return len(b64decode(text, validate=True)) == 32
    except ValueError:
        return False


def _check_size(data: bytes) -> None:
    if len(data) > MAX_DOCUMENT:
        raise InvalidHostMeta(f"document is larger than {MAX_DOCUMENT} bytes")


def parse_xrd(data: bytes) -> HostMeta:
    """Read a host-meta XRD for its s2s-websocket links. Raises `InvalidHostMeta`.

    DOCTYPE and entities are refused. This is pyexpat, not the stanza parser: an XRD may have
    comments and an XML declaration, and expat keeps no memory of names that strangers make up.
    """
    _check_size(data)
    reader = _XrdReader()
    try:
        reader.read(data)
    except (expat.ExpatError, UnicodeDecodeError) as exc:
        raise InvalidHostMeta(f"not a host-meta XRD document: {exc}") from None
    targets, problems = [], []
    for href in reader.hrefs:
        try:
            targets.append(parse_url(href, priority=_LOWEST_PRIORITY))
        except InvalidHostMeta as exc:
            problems.append(str(exc))
    return HostMeta(tuple(targets[:MAX_TARGETS]), problems=tuple(problems[:MAX_TARGETS]))


class _XrdReader:
    """Collects the links of `<XRD><Link rel=… href=…/></XRD>`."""

    def __init__(self) -> None:
        self.hrefs: list[str] = []
        self._path: list[str] = []

    def read(self, data: bytes) -> None:
        parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        parser.StartDoctypeDeclHandler = self._on_doctype
        parser.StartElementHandler = self._on_start
        parser.EndElementHandler = self._on_end
        # Decoded here, for expat would follow a byte order mark into other encodings.
        parser.Parse(data.decode("utf-8"), True)

    def _on_doctype(self, *_: Any) -> None:
        raise InvalidHostMeta("XRD document has a DOCTYPE")

    def _on_start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        if len(self._path) > _MAX_DEPTH:
            raise InvalidHostMeta("XRD document is nested too deeply")
        if self._path[0] != f"{_XRD} XRD":
            raise InvalidHostMeta("XML document is not an XRD")
        if self._path[1:] == [f"{_XRD} Link"] and attributes.get("rel") == S2S_WEBSOCKET:
            self.hrefs.append(attributes.get("href", ""))

    def _on_end(self, _name: str) -> None:
        self._path.pop()


def public_url(config: Config) -> str:
    """The wss URL that we publish: `websocket.public_url`, else made from the first domain."""
    return config.websocket.public_url or (
        f"wss://{config.gateway.domains[0]}{config.websocket.path}"
    )


def published_ttl(config: Config) -> int:
    """Seconds that others may keep our documents."""
    return min(max(config.discovery.ttl, MIN_TTL), MAX_PUBLISHED_TTL)


def build_json(config: Config, ips: Sequence[str] = ()) -> bytes:
    """The host-meta.json to publish (XEP-0487).

    `ips` are the public literals (see `publication.find_addresses`). Without any the link is the
    minimal one of XEP-0156 and the `xmpp` object is left out: XEP-0487 requires at least one.
    Raises `InvalidHostMeta` when `websocket.public_url` is not a wss URL.
    """
    target = parse_url(public_url(config), configured=True)
    link: dict[str, Any] = {"rel": S2S_WEBSOCKET, "href": target.url}
    document: dict[str, Any] = {"links": [link]}
    if ips:
        link |= {
            "ips": list(ips),
            "priority": _PUBLISHED_PRIORITY,
            "weight": _PUBLISHED_WEIGHT,
            "sni": target.sni or config.gateway.domains[0],
        }
        document = {"xmpp": {"ttl": published_ttl(config)}, **document}
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def build_xrd(config: Config) -> bytes:
    """The host-meta XRD to publish (XEP-0156). Raises `InvalidHostMeta` like `build_json`."""
    target = parse_url(public_url(config), configured=True)
    return (
        "<?xml version='1.0' encoding='utf-8'?>\n"
        f"<XRD xmlns={quoteattr(_XRD)}>\n"
        f"  <Link rel={quoteattr(S2S_WEBSOCKET)} href={quoteattr(target.url)}/>\n"
        "</XRD>\n"
    ).encode()
