"""A draining worker gives up a pair that somebody waits for and a slow remote keeps here.

What its hop holds goes into the next owner's inbox, where it is read before any stream of the pair
(`coordinator/ownership.py`). The journal has it, too, until the inbox does.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from coordinator.client import ControlPlane
from coordinator.routes import DomainPair
from workers.gateway.claims import encoded
from workers.gateway.replies import settle_returned
from workers.gateway.router import Router

if TYPE_CHECKING:
    from workers.gateway.local_listener import LocalListener

log = logging.getLogger(__name__)

PATIENCE = 4.0
"""Seconds a pair may take to end in order; less than `ownership.PREDECESSOR_TIMEOUT`, after which
the next owner reads without waiting any longer."""


async def hand_over_late(
    local: "LocalListener", router: Router, control: ControlPlane, pair: DomainPair, heir: str
) -> None:
    """Let go of the pair after `PATIENCE` seconds, unless it has gone by then."""
    await asyncio.sleep(PATIENCE)
    if pair not in control.owned or local.has_streams(pair):
        return  # what a stream still brings could not be in order
    held = router.take_out(pair)  # its end releases the pair
    if not held:
        return
    log.warning("%s → %s is slow: %d stanzas are handed over to %s", *pair, len(held), heir)
    data = encoded([each.stanza for each in held])
    if not await control.pass_on(heir, "out", pair, data):
        return  # in flight still: the journal is dealt when this worker has ended
    for each in held:
        settle_returned(each)
