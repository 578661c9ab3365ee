"""Who may ask steering: it forwards questions, and must not do so for the world."""

import logging
from ipaddress import IPv6Address, ip_address, ip_network

from coordinator.address import parse_address
from coordinator.config import Config
from workers.gateway.addresses import IPAddress, IPNetwork, is_of_this_machine

log = logging.getLogger(__name__)

_MAX_NAMED = 100  # strangers that the log names


class Clients:
    """This machine, the local server where it has an address, and `local.dns_clients`."""

    def __init__(self, config: Config) -> None:
        servers = (config.local.server_for(domain) for domain in config.gateway.domains)
        networks = [ip_network(text) for text in config.local.dns_clients]
        networks += filter(None, (_network(parse_address(server).host) for server in servers))
        self._networks = tuple(networks)
        self._named: set[IPAddress] = set()

    def may_ask(self, host: str) -> bool:
        """Whether questions from this address are answered."""
        ip = ip_address(host.partition("%")[0])
        ip = (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip
        if ip.is_loopback or any(ip in network for network in self._networks):
            return True
        if is_of_this_machine(str(ip)):
            return True
        if ip not in self._named and len(self._named) < _MAX_NAMED:
            self._named.add(ip)
            log.warning("DNS questions from %s are refused; see local.dns_clients", ip)
        return False


def _network(host: str) -> IPNetwork | None:
    try:
        return ip_network(host)
    except ValueError:
        return None  # a name: whose address may change
