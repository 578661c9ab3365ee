"""What is open to other machines only by an explicit yes: the admin surface, and a bare Redis."""

import ipaddress

from coordinator.address import is_unix_path, parse_address
from coordinator.config import Config
from coordinator.configvalue import ConfigError
from coordinator.redis_url import why_insecure


def check(config: Config) -> None:
    """Raise `ConfigError` for what nobody has said yes to."""
    reason = why_insecure(config.redis.url)
    if reason and not config.redis.allow_insecure:
        raise ConfigError(
            f"redis.url: {reason}, and all stanzas that wait are kept there; protect it, or say "
            "redis.allow_insecure = true where nobody else is in that network"
        )
    if reaches_everybody(config.admin.listen) and not config.admin.allow_remote:
        raise ConfigError(
            f"admin.listen is {config.admin.listen}, and whoever reaches it may read who talks "
            "with whom; name a local or private address, or say admin.allow_remote = true where "
            "a firewall keeps others out"
        )


def reaches_everybody(listen: str) -> bool:
    """Whether more may reach an address than this machine and its private network."""
    if is_unix_path(listen):
        return False
    host = parse_address(listen).host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host != "localhost"  # what a name leads to may change
    return address.is_unspecified or not (address.is_loopback or address.is_private)
