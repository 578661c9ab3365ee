"""Network addresses as the configuration writes them: `host:port`, `[::1]:port`, or a path."""

import ipaddress
from typing import NamedTuple


class InvalidAddress(ValueError):
    """The text is not `host:port`; the message says what is wrong and how to write it."""


class Address(NamedTuple):
    """Where to listen or connect: a host without brackets, and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """Whether listening here means every address of the machine."""
        return self.host in ("0.0.0.0", "::")

    def reachable(self) -> "Address":
        """The address that a process of this machine connects to: loopback for a wildcard."""
        if self.host == "0.0.0.0":
            return Address("127.0.0.1", self.port)
        return Address("::1", self.port) if self.host == "::" else self


def parse_address(text: str) -> Address:
    """Split `host:port`; an IPv6 address stands in brackets. Raises `InvalidAddress`."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise InvalidAddress(f"{text!r} is not host:port; write for example 127.0.0.1:5271")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise InvalidAddress(f"{text!r} has no port from 0 to 65535 after the last colon")
    if host.startswith("[") and host.endswith("]"):
        return Address(_ipv6(host[1:-1], text), int(port))
    if ":" in host or not all(c.isalnum() or c in "-._" for c in host):
        raise InvalidAddress(f"{text!r} is not host:port; write IPv6 addresses as [::1]:5271")
    return Address(host, int(port))


def is_loopback(host: str) -> bool:
    """Whether a host without brackets can only be this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_unix_path(text: str) -> bool:
    """Whether a listening address is the path of a unix socket."""
    return "/" in text


def _ipv6(host: str, text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError as exc:
        raise InvalidAddress(f"{text!r} has no IPv6 address between its brackets") from exc
