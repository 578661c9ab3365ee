"""Where other machines of a cluster find this one."""

import socket
from urllib.parse import urlsplit

from coordinator.address import Address, parse_address
from coordinator.config import Config


def reachable_address(config: Config) -> str:
    """Where other machines reach this gateway's local port, as `host:port`; "" if they cannot."""
    address = parse_address(config.local.listen)
    if not address.is_wildcard:
        return str(address)
    redis = urlsplit(config.redis.url)
    if not config.redis.url or redis.scheme == "unix":
        return ""
    # The address by which we reach Redis: whoever shares it can reach us there, too.
    host = redis.netloc.rpartition("@")[2].split(",")[0]
    try:
        name = urlsplit(f"//{host}").hostname or ""
        found = socket.getaddrinfo(name, 6379, type=socket.SOCK_DGRAM)
        with socket.socket(found[0][0], socket.SOCK_DGRAM) as probe:
            probe.connect(found[0][4])
            return str(Address(probe.getsockname()[0], address.port))
    except (OSError, ValueError):
        return ""
