"""The listening sockets: bound here and inherited by workers, so a dead worker loses none."""

import errno
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from coordinator.address import Address, InvalidAddress, is_unix_path, parse_address
from coordinator.config import Config

log = logging.getLogger(__name__)

BACKLOG = 1024


class CannotBind(Exception):
    """An address cannot be listened on; one line with the address, the cause and the next step.

    `in_use`: another process has it, and may be about to end.
    """

    def __init__(self, text: str, *, in_use: bool = False) -> None:
        super().__init__(text)
        self.in_use = in_use


@dataclass(slots=True)
class Listeners:
    """All bound sockets, by what they are for."""

    websocket: list[socket.socket] = field(default_factory=list)
    local: list[socket.socket] = field(default_factory=list)
    dns_udp: list[socket.socket] = field(default_factory=list)
    dns_tcp: list[socket.socket] = field(default_factory=list)
    admin: list[socket.socket] = field(default_factory=list)

    @classmethod
    def of(cls, named: Mapping[str, list[socket.socket]]) -> "Listeners":
        """The sockets that were handed over, by the names of `shared()`."""
        return cls(
            websocket=list(named.get("websocket", ())),
            local=list(named.get("local", ())),
            dns_udp=list(named.get("dns-udp", ())),
            dns_tcp=list(named.get("dns-tcp", ())),
        )

    def shared(self) -> dict[str, list[socket.socket]]:
        """The sockets that workers inherit, under the names of `workers.worker --sockets`."""
        return {
            "websocket": self.websocket,
            "local": self.local,
            "dns-udp": self.dns_udp,
            "dns-tcp": self.dns_tcp,
        }

    def argument(self) -> str:
        """The value of `--sockets`: file descriptors by name."""
        return ";".join(
            f"{name}={','.join(str(sock.fileno()) for sock in sockets)}"
            for name, sockets in self.shared().items()
            if sockets
        )

    def descriptors(self) -> list[int]:
        return [sock.fileno() for sockets in self.shared().values() for sock in sockets]

    def addresses(self) -> dict[str, list[str]]:
        """Where we listen, in words, with the real ports."""
        groups = {"websocket": self.websocket, "local": self.local, "dns": self.dns_udp}
        return {
            name: [_shown(sock) for sock in sockets]
            for name, sockets in {**groups, "admin": self.admin}.items()
        }

    def close(self) -> None:
        for sock in [*self.admin, *(s for group in self.shared().values() for s in group)]:
            sock.close()


def bind_all(config: Config, *, shared: bool = True) -> Listeners:
    """Bind every address of the configuration, or none. Raises `CannotBind`.

    `shared=False`: only the coordinator's own, as workers started elsewhere bind theirs.
    """
    bound = Listeners()
    try:
        if shared:
            _bind_shared(config, bound)
        if is_unix_path(config.admin.listen):
            bound.admin.append(_bind_unix(config.admin.listen, "admin.listen"))
        else:
            bound.admin += _bind_tcp(config.admin.listen, "admin.listen")
    except BaseException:
        bound.close()
        raise
    return bound


def why_not_as_configured(config: Config, listeners: Listeners) -> str:
    """Why these shared sockets are not those of the configuration; "" if they are."""
    dns = (config.local.dns,) if config.local.dns else ()
    local = (config.local.listen,) if config.local.attach == "s2s" else ()
    wanted = {
        "websocket.listen": (config.websocket.listen, socket.SOCK_STREAM, listeners.websocket),
        "local.listen": (local, socket.SOCK_STREAM, listeners.local),
        "local.dns": (dns, socket.SOCK_DGRAM, listeners.dns_udp),
    }
    for key, (texts, kind, sockets) in wanted.items():
        left = [(sock.family, *sock.getsockname()[:2]) for sock in sockets]
        for text in texts:
            for family, target in _resolved(parse_address(text), kind):
                host, port = target[:2]
                same = [a for a in left if a[:2] == (family, host) and port in (0, a[2])]
                if not same:
                    return f"{key} is {text} now"
                left.remove(same[0])
        if left:
            return f"{key} has changed"
    return "" if len(listeners.dns_tcp) == len(listeners.dns_udp) else "local.dns lacks its TCP"


def _bind_shared(config: Config, bound: Listeners) -> None:
    for text in config.websocket.listen:
        bound.websocket += _bind_tcp(text, "websocket.listen")
    if config.local.attach == "s2s":
        bound.local += _bind_tcp(config.local.listen, "local.listen")
    if config.local.dns:
        _bind_dns(config.local.dns, bound)


def _bind_dns(text: str, bound: Listeners) -> None:
    """UDP and TCP on one port, also where port 0 lets the system choose it."""
    attempts = 10 if parse_address(text).port == 0 else 1
    while True:
        attempts -= 1
        udp = _bind(text, "local.dns", socket.SOCK_DGRAM)
        try:
            bound.dns_tcp += _bind_tcp(text, "local.dns", udp[0].getsockname()[1])
        except CannotBind:
            # What is free for UDP may be taken for TCP.
            for sock in udp:
                sock.close()
            if not attempts:
                raise
        else:
            bound.dns_udp += udp
            return


def _bind_tcp(text: str, key: str, port: int | None = None) -> list[socket.socket]:
    bound = _bind(text, key, socket.SOCK_STREAM, port)
    for sock in bound:
        sock.listen(BACKLOG)
    return bound


def _bind(
    text: str, key: str, kind: socket.SocketKind, port: int | None = None
) -> list[socket.socket]:
    try:
        address = parse_address(text)
    except InvalidAddress as exc:
        raise CannotBind(f"cannot listen on {key}: {exc}") from exc
    if port is not None:
        address = Address(address.host, port)
    bound: list[socket.socket] = []
    try:
        for family, target in _resolved(address, kind):
            bound.append(_bound(family, kind, target))
    except OSError as exc:
        for sock in bound:
            sock.close()
        raise _cannot_bind(str(address), key, exc) from exc
    return bound


def _resolved(
    address: Address, kind: socket.SocketKind
) -> Iterator[tuple[int, tuple[object, ...]]]:
    if address.host == "::" and not _has_ipv6():
        log.warning("this machine has no IPv6: listening on 0.0.0.0:%d instead", address.port)
        address = Address("0.0.0.0", address.port)
    seen = set()
    for family, _, _, _, target in socket.getaddrinfo(*address, type=kind):
        if target not in seen:
            seen.add(target)
            yield family, target


def _bound(family: int, kind: socket.SocketKind, target: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if kind is socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "[::]" means every address, IPv4 too.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(target[0] != "::"))
        sock.bind(target)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(path: str, key: str) -> socket.socket:
    """A unix socket 0600; a socket file that nobody answers on is stale and replaced."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        if _is_answered(path):
            raise OSError(errno.EADDRINUSE, "Address already in use")
        if os.path.lexists(path):
            os.unlink(path)
        previous = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(previous)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise _cannot_bind(path, key, exc) from exc
    return sock


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def _cannot_bind(address: str, key: str, exc: OSError) -> CannotBind:
    if exc.errno == errno.EADDRINUSE:
        what = "another process has it"
        step = f"stop that process (ss -lptun shows it) or change {key}"
    elif exc.errno == errno.EACCES:
        what = "this user may not"
        step = f"run as root, grant CAP_NET_BIND_SERVICE, or change {key}"
    elif exc.errno == errno.EADDRNOTAVAIL:
        what = "this machine has no such address"
        step = f"change {key}"
    else:
        what = exc.strerror or str(exc)
        step = f"change {key}"
    in_use = exc.errno == errno.EADDRINUSE
    return CannotBind(f"cannot listen on {address}: {what}; {step}", in_use=in_use)


def _shown(sock: socket.socket) -> str:
    name = sock.getsockname()
    return name if isinstance(name, str) else str(Address(name[0], name[1]))
