"""How many connections may be open that have proved nothing yet: in all, and from one address."""

from collections import Counter
from collections.abc import Sequence

from workers.gateway.addresses import Networks, network_of


class Admission:
    """Counts strangers. When there are too many the newest is refused: the others may be honest."""

    def __init__(self, total: int, per_address: int, *, proxies: Sequence[str] = ()) -> None:
        """`proxies`: networks behind whose addresses there may be any number of peers."""
        self._total = total
        self._per_address = per_address
        self._proxies = Networks(proxies)
        self._inside: Counter[str] = Counter()
        self._count = 0

    def enter(self, address: str) -> bool:
        """False: refuse the connection. Each true needs one `leave`."""
        network = network_of(address)
        if self._count >= self._total:
            return False
        if self._inside[network] >= self._per_address and address not in self._proxies:
            return False
        self._inside[network] += 1
        self._count += 1
        return True

    def leave(self, address: str) -> None:
        """The connection has proved who it is, or is gone."""
        network = network_of(address)
        self._count -= 1
        self._inside[network] -= 1
        if not self._inside[network]:
            del self._inside[network]
