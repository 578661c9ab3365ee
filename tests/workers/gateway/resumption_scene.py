"""Remote servers that may resume, and a lost session as `Resumptions` sees it."""

from typing import Any

from tests.workers.gateway.gateway_bench import PAIR
from tests.workers.gateway.session_bench import LOCAL, REMOTE, message
from workers.xmpp.management import Received, Sent, Suspended

RESUMABLE = {"resumption_seconds": 60}


def inbound(id: str) -> Any:
    return message(id, sender=REMOTE, target=LOCAL)


class FakeSource:
    """A lost session as `Resumptions` sees it."""

    held_bytes = 0

    def __init__(self, *, handled: int, sent: int, settles: bool = True) -> None:
        self.pairs = {PAIR: "external"}
        self.settles = settles
        self.ends: list[Any] = []
        self.half = Suspended("", REMOTE, LOCAL, Sent(), Received(), 60, True)
        self.half.sent.total = sent
        self.half.received.total = self.half.received.handled = handled

    def suspend(self, reason: str) -> Suspended:
        return self.half

    async def settled(self, timeout: float) -> bool:
        return self.settles

    def let_go(self, reason: str) -> None:
        self.ends.append(reason)

    def succeeded_elsewhere(self, *, is_exact: bool) -> None:
        self.ends.append(is_exact)
