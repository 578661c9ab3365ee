"""Answers to our own pings: how they reach the worker that asked.

A local server without XEP-0198 is asked by a ping behind the data (asking.py). It routes its answer
like any stanza to the remote domain: to the pair's owner, which may be another worker of ours, on
this machine or another one. An answer is taken out of the stream only if one of our workers can
have asked, also one that is gone.
"""

import logging
from typing import Any

from coordinator.client import ControlPlane
from coordinator.routes import DomainPair, gateway_of
from workers.gateway.asking import barrier_tag
from workers.gateway.router import Router
from workers.gateway.siblings import Siblings, SiblingUnavailable

log = logging.getLogger(__name__)

# Workers that asked and died are remembered, or their answers would go to the remote domain.
MAX_WORKERS = 1000


class Barriers:
    """Knows the askers by the tag in their pings."""

    def __init__(self, router: Router, control: ControlPlane, siblings: Siblings) -> None:
        self._router = router
        self._control = control
        self._siblings = siblings
        self._askers: dict[str, str] = {}
        router.barrier_tag = barrier_tag(control.worker_id)

    def asker(self, token: str) -> str | None:
        """The other worker that can have sent this barrier, alive or not; None: none of ours."""
        tag = token.partition(".")[0]
        if tag not in self._askers:
            for worker in self._control.known_workers():
                self._askers.setdefault(barrier_tag(worker), worker)
            while len(self._askers) > MAX_WORKERS:
                del self._askers[next(iter(self._askers))]
        asker = self._askers.get(tag)
        return asker if asker != self._control.worker_id else None

    async def tell(self, worker: str, pair: DomainPair, token: str) -> None:
        """Pass an answer on: at once on this machine, within a heartbeat to another one."""
        if gateway_of(worker) != gateway_of(self._control.worker_id):
            await self._control.pass_on(worker, "barrier", pair, token.encode())
            return
        try:
            await self._siblings.send_message(worker, {"barrier": token, "pair": list(pair)})
        except SiblingUnavailable:
            log.debug("worker %s does not hear of its barrier any more", worker)

    def on_message(self, message: dict[str, Any]) -> bool:
        """An answer that another worker passed on; False if the message is about something else."""
        match message:
            case {"barrier": str(token), "pair": [str(local), str(remote)]}:
                self._router.barrier_answered(DomainPair(local, remote), token)
                return True
        return False
