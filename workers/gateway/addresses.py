"""Which addresses a remote domain may make us connect to.

Names, URLs and addresses of remote domains are chosen by strangers, so every address is checked
after it was resolved and again when the socket is made: nothing private, local or special, unless
`discovery.allow_networks` names its network.
"""

import socket
from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

# Checked in this order; the first that matches gives the reason an operator reads.
_REFUSED: tuple[tuple[str, tuple[IPNetwork, ...]], ...] = tuple(
    (reason, tuple(ip_network(network) for network in networks))
    for reason, networks in (
        ("unspecified", ("0.0.0.0/8", "::/128")),
        ("loopback", ("127.0.0.0/8", "::1/128")),
        ("a cloud metadata service", ("169.254.169.254/32", "100.100.100.200/32", "fd00:ec2::/32")),
        ("link-local", ("169.254.0.0/16", "fe80::/10")),
        ("private", ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10")),
        ("carrier-grade NAT", ("100.64.0.0/10",)),
        ("multicast", ("224.0.0.0/4", "ff00::/8")),
        ("broadcast", ("255.255.255.255/32",)),
        # RFC 8215: where in such an address the IPv4 address is, only its own network knows.
        ("a local translation to IPv4", ("64:ff9b:1::/48",)),
        ("IETF-reserved", ("192.0.0.0/24", "198.18.0.0/15", "240.0.0.0/4")),
        ("documentation", ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")),
        ("documentation", ("2001:db8::/32", "3fff::/20")),
    )
)
_PRIVATE = frozenset({"private", "carrier-grade NAT"})
# All that IANA has given out for unicast; Python's is_global takes much beside it for global.
_IPV6_UNICAST = IPv6Network("2000::/3")
# Translations that carry an IPv4 address in their last four bytes: it is what is reached.
_TRANSLATIONS = (
    IPv6Network("64:ff9b::/96"),  # NAT64 (RFC 6052)
    IPv6Network("::ffff:0:0:0/96"),  # SIIT (RFC 2765)
    IPv6Network("::/96"),  # IPv4-compatible
)


def is_ip_address(host: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class AddressRefused(Exception):
    """The address policy forbids to connect there. `reason` is one clear line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class AddressPolicy:
    """Refuses addresses that are not public, except in the networks allowed by configuration."""

    def __init__(self, allow_networks: Iterable[str] = (), *, private: bool = False) -> None:
        """`private`: networks behind NAT pass, too, as for native s2s, but nothing else.

        Raises `ValueError` for text that is not a network in CIDR form.
        """
        self._passed = _PRIVATE if private else frozenset()
        self._allowed = tuple(ip_network(network, strict=False) for network in allow_networks)

    def check(self, address: str | IPAddress) -> None:
        """Raise `AddressRefused` unless we may connect to this address."""
        try:
            ip = ip_address(address)
        except ValueError:
            raise AddressRefused(f"{address!r} is not an IP address") from None
        inner = _inner_ipv4(ip)
        if any(_contains(network, ip) for network in self._allowed):
            return
        if inner is not None and any(_contains(network, inner) for network in self._allowed):
            return
        reason = _why_refused(ip if inner is None else inner)
        if reason in self._passed:
            return
        if reason is None and isinstance(ip, IPv6Address) and ip.scope_id is not None:
            reason = "bound to one of our interfaces"
        if reason is not None:
            raise AddressRefused(
                f"address {ip} is {reason}; "
                "name its network in discovery.allow_networks to permit it"
            )

    def permitted(self, addresses: Iterable[str]) -> list[str]:
        """The addresses that pass `check`, in the given order, without doubles."""
        passed = dict.fromkeys(addresses)
        for address in list(passed):
            try:
                self.check(address)
            except AddressRefused:
                del passed[address]
        return list(passed)


def _contains(network: IPNetwork, ip: IPAddress) -> bool:
    return ip.version == network.version and ip in network


def _why_refused(ip: IPAddress) -> str | None:
    for reason, networks in _REFUSED:
        if any(_contains(network, ip) for network in networks):
            return reason
    if not ip.is_global or (ip.version == 6 and ip not in _IPV6_UNICAST):
        return "not a public address"
    return None


def _inner_ipv4(ip: IPAddress) -> IPv4Address | None:
    """The IPv4 address that a mapped, translated or tunnelled IPv6 address stands for."""
    if isinstance(ip, IPv4Address):
        return None
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if int(ip) > 1 and any(ip in network for network in _TRANSLATIONS):
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip.teredo is not None:
        return ip.teredo[1]
    return None


class Networks:
    """Networks of the configuration; an IPv4 address is found in its IPv6 form, too."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(ip_network(network) for network in networks)

    def __contains__(self, address: str) -> bool:
        try:
            parsed = ip_address(address.partition("%")[0])
        except ValueError:
            return False  # a unix socket has none
        plain = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(plain in network for network in self._networks)


def network_of(address: str) -> str:
    """What one peer may be taken to have: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    mapped = parsed.ipv4_mapped
    return str(mapped or ip_network((parsed, 64), strict=False))


def is_of_this_machine(ip: str) -> bool:
    """Whether the address belongs to this machine: only those can be bound."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True
