"""DNS as the gateway needs it: addresses of a host, ordered targets of a service."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol, TypeVar

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.resolver

CACHED_ANSWERS = 10_000
MAX_TARGETS = 32  # of one SRV answer; more is an attack or a mistake
_DNS_PORT = 53


class ResolveFailed(Exception):
    """A name has no usable answer. `reason` is one clear line; if `temporary`, ask again later."""

    def __init__(self, reason: str, *, temporary: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.temporary = temporary


class ServiceNotOffered(ResolveFailed):
    """The domain says that it does not offer the service: its SRV target is `.` (RFC 2782)."""


@dataclass(frozen=True, slots=True)
class ServiceTarget:
    """One SRV record."""

    host: str
    port: int
    priority: int
    weight: int


class _Weighted(Protocol):
    @property
    def priority(self) -> int: ...
    @property
    def weight(self) -> int: ...


_T = TypeVar("_T", bound=_Weighted)


class Resolver:
    """Asks the configured upstream servers, or the system's, and caches answers by their ttl."""

    def __init__(self, upstream: Sequence[str] = (), *, timeout: float = 5.0) -> None:
        """`upstream` are addresses like "192.0.2.1", "192.0.2.1:5353" or "[2001:db8::1]:53".

        `timeout` is in seconds for one question, all servers together.
        Raises `ValueError` for an upstream that is no address.
        """
        self._resolver = dns.asyncresolver.Resolver(configure=not upstream)
        if upstream:
            self._resolver.nameservers = [_nameserver(text) for text in upstream]
        self._resolver.lifetime = timeout
        self._resolver.timeout = max(timeout / 3, 0.5)
        self._resolver.cache = dns.resolver.LRUCache(CACHED_ANSWERS)

    async def addresses(self, host: str) -> list[str]:
        """The addresses of a host, IPv4 before IPv6; a literal address is its own answer.

        Raises `ResolveFailed` when there are none.
        """
        literal = _literal(host)
        if literal is not None:
            return [literal]
        answers = await asyncio.gather(
            self._ask(host, "A"), self._ask(host, "AAAA"), return_exceptions=True
        )
        # IPv4 first: networks whose IPv6 is a black hole are more common than the reverse.
        found: list[str] = []
        failure: ResolveFailed | None = None
        for answer in answers:
            if isinstance(answer, ResolveFailed):
                failure = failure if failure is not None and failure.temporary else answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found += [record.address for record in answer]
        if not found:
            raise failure or ResolveFailed(f"{host} has no address")
        return found

    async def srv(self, service: str, domain: str) -> list[ServiceTarget]:
        """The targets of e.g. `_xmpp-server._tcp` at the domain, in the order to try (RFC 2782).

        Empty when the domain has no such records. Raises `ServiceNotOffered` for the target `.`,
        `ResolveFailed` (temporary) when no answer came.
        """
        try:
            records = await self._ask(f"{service}.{domain}", "SRV")
        except ResolveFailed as exc:
            if exc.temporary:
                raise
            return []
        targets = [
            ServiceTarget(
                record.target.to_text(omit_final_dot=True).lower(),
                record.port,
                record.priority,
                record.weight,
            )
            for record in records
            if record.target != dns.name.root
        ]
        if records and not targets:
            raise ServiceNotOffered(f"{domain} does not offer {service}")
        return in_order(targets[:MAX_TARGETS])

    async def _ask(self, name: str, kind: str) -> list[Any]:
        try:
            return list(await self._resolver.resolve(name, kind, search=False))
        except dns.resolver.NXDOMAIN:
            raise ResolveFailed(f"{name} does not exist in DNS") from None
        except dns.resolver.NoAnswer:
            return []
        except dns.exception.Timeout:
            raise ResolveFailed(f"DNS gave no answer for {name} in time", temporary=True) from None
        except (dns.exception.DNSException, OSError, ValueError) as exc:
            cause = str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__
            raise ResolveFailed(f"DNS failed for {name}: {cause}", temporary=True) from exc


def in_order(targets: Sequence[_T], pick: Callable[[int, int], int] = random.randint) -> list[_T]:
    """Order by priority and, among equals, by weighted chance (RFC 2782).

    `pick(a, b)` returns a number between both, inclusive.
    """
    ordered: list[_T] = []
    for priority in sorted({target.priority for target in targets}):
        # Weight 0 first, so that it has a small chance at all (RFC 2782, "Weight").
        rest = sorted((t for t in targets if t.priority == priority), key=lambda t: t.weight > 0)
        while rest:
            chosen = pick(0, sum(target.weight for target in rest))
            running = 0
            for target in rest:
                running += target.weight
                if running >= chosen:
                    ordered.append(target)
                    rest.remove(target)
                    break
    return ordered


def _literal(host: str) -> str | None:
    try:
        return str(ip_address(host.strip("[]")))
    except ValueError:
        return None


def _nameserver(text: str) -> dns.nameserver.Do53Nameserver:
    literal = _literal(text)
    if literal is not None:
        return dns.nameserver.Do53Nameserver(literal, _DNS_PORT)
    host, _, port = text.rpartition(":")
    literal = _literal(host)
    if literal is None or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not the address of a DNS server")
    return dns.nameserver.Do53Nameserver(literal, int(port))
