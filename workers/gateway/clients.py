"""Who may ask steering: it forwards questions, and must not do so for the world."""

import logging

from coordinator.address import parse_address
from coordinator.config import Config
from workers.gateway.addresses import Networks, is_ip_address, is_of_this_machine

log = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.0/8", "::1/128")
_MAX_NAMED = 100  # strangers that the log names


class Clients:
    """This machine, the local server where it has an address, and `local.dns_clients`."""

    def __init__(self, config: Config) -> None:
        servers = (config.local.server_for(domain) for domain in config.gateway.domains)
        hosts = filter(is_ip_address, (parse_address(server).host for server in servers))
        self._permitted = Networks((*_LOOPBACK, *config.local.dns_clients, *hosts))
        self._named: set[str] = set()

    def may_ask(self, host: str) -> bool:
        """Whether questions from this address are answered."""
        if host in self._permitted or is_of_this_machine(host):
            return True
        if host not in self._named and len(self._named) < _MAX_NAMED:
            self._named.add(host)
            log.warning("DNS questions from %s are refused; see local.dns_clients", host)
        return False
