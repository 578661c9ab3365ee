"""Single values of the configuration: how each kind of text or number is checked."""

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coordinator import redis_url
from coordinator.address import InvalidAddress, is_unix_path, parse_address
from coordinator.domains import InvalidDomain, normalise_domain


class ConfigError(Exception):
    """The configuration cannot be used; the message is one line: where, what, and the next step."""


def check_number(wanted: type, meta: Mapping[str, Any], value: Any, name: str) -> int | float:
    """Return a number of the wanted type, at least as large as declared."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (wanted is int and not isinstance(value, int)):
        noun = "a whole number" if wanted is int else "a number"
        raise ConfigError(f"{name} is {value!r:.60}; it must be {noun} without quotes")
    if not math.isfinite(value) or value < meta.get("least", 0):
        raise ConfigError(f"{name} is {value}; it must be at least {meta.get('least', 0):g}")
    return int(value) if wanted is int else float(value)


def check_text(meta: Mapping[str, Any], value: str, name: str, directory: Path) -> str:
    """Return the canonical form of a text; paths are resolved against `directory`."""
    choices = meta.get("choices", ())
    if choices and value not in choices:
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
    kind = meta.get("kind", "")
    if kind in _PATHS or (kind == "address-or-path" and is_unix_path(value)):
        return _path(kind, value, directory)
    if not value and kind in _MAY_BE_EMPTY:
        return value
    check = _CHECKS.get(kind)
    try:
        return check(value) if check else value
    except (ValueError, InvalidAddress, InvalidDomain) as exc:
        raise ConfigError(f"{name}: {exc}") from exc


def _path(kind: str, value: str, directory: Path) -> str:
    if not value or (kind == "trust" and value == "system"):
        return value
    # Not resolve(): certbot's live/ are symbolic links, whose targets change at each renewal.
    return str(Path(directory, Path(value).expanduser()))


def _address(text: str) -> str:
    return str(parse_address(text))


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError as exc:
        raise ValueError(f"{text!r} is not a network; write for example 10.0.0.0/8") from exc


def _resolver(text: str) -> str:
    """An address alone means port 53."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        address = parse_address(text)
    try:
        ipaddress.ip_address(address.host)
    except ValueError as exc:
        raise ValueError(f"{text!r} must be an IP address, with :port or without") from exc
    return str(address)


def _wss_url(text: str) -> str:
    url = urlsplit(text)
    if url.scheme != "wss" or not url.hostname or url.fragment or url.username:
        raise ValueError(f"{text!r} is not a URL such as wss://gw.example.org/xmpp-s2s")
    if url.port == 0:
        raise ValueError(f"{text!r} has port 0; leave the port out for 443")
    normalise_host(url.hostname)
    return text


def normalise_host(host: str) -> str:
    """A host of a URL: an IP address, or a domain as A-labels. Raises `InvalidDomain`."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return normalise_domain(host)


def _url_path(text: str) -> str:
    if not text.startswith("/") or any(c in text for c in "?# ") or not text.isascii():
        raise ValueError(f"{text!r} is not a path such as /xmpp-s2s")
    return text


def _header(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]+", text):
        raise ValueError(f"{text!r} is not the name of a header such as Client-Cert")
    return text


_PATHS = ("directory", "file", "trust")
_MAY_BE_EMPTY = ("address-or-off", "header", "redis-url", "wss-url")
_CHECKS: dict[str, Callable[[str], str]] = {
    "address": _address,
    "address-or-off": _address,
    "address-or-path": _address,
    "domain": normalise_domain,
    "network": _network,
    "resolver": _resolver,
    "redis-url": redis_url.check,
    "wss-url": _wss_url,
    "url-path": _url_path,
    "header": _header,
}
