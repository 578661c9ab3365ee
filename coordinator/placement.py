"""Which worker should own a domain pair: rendezvous hashing, so that all who ask agree."""

from collections.abc import Sequence
from hashlib import blake2b

from coordinator.routes import RUNNING, DomainPair, Workers, gateway_of, slot_of


def owner_for(pair: DomainPair, workers: Sequence[str]) -> str:
    """The worker with the highest score for this pair. Raises ValueError if there is none.

    A worker that comes or goes moves only the pairs it wins or held. The incarnation does not
    count: a restarted worker is placed as its predecessor was.
    """
    if not workers:
        raise ValueError("no live worker to own a domain pair")
    return max(workers, key=lambda worker: (_score(pair, worker), worker))


def heir_for(pair: DomainPair, me: str, workers: Workers) -> str:
    """Who should own the pair as `me` sees it: of its own machine, if one there takes routes.

    When every worker drains, they count as if none did.
    """
    running = [worker for worker, info in workers.items() if info.state == RUNNING]
    return owner_for(pair, prefer_gateway(running or list(workers), gateway_of(me)))


def prefer_gateway(workers: Sequence[str], gateway: str) -> list[str]:
    """The workers of one machine if it has any, else all: a pair stays near its local server."""
    return [worker for worker in workers if gateway_of(worker) == gateway] or list(workers)


def _score(pair: DomainPair, worker: str) -> bytes:
    name = f"{gateway_of(worker)}/{slot_of(worker)}"
    return blake2b(f"{pair.local}\0{pair.remote}\0{name}".encode(), digest_size=8).digest()
