"""A hop to a far end of our own, an origin whose ledger is looked at, a source that is paced."""

from typing import Any

from coordinator.accounts import ACCEPTED, ACKNOWLEDGED, BOUNCED, IN_FLIGHT_OURS
from coordinator.config import Limits
from coordinator.routes import DomainPair
from tests.workers.gateway.session_bench import LOCAL, REMOTE, FarServer, until
from workers.gateway.failure import HopFailed
from workers.gateway.flow import Origin
from workers.gateway.hop import Hop
from workers.gateway.replies import Failed
from workers.xmpp.errors import StanzaCondition
from workers.xmpp.stanza import Stanza

PAIR = DomainPair(LOCAL, REMOTE)


def settle_bounced(failed: Failed) -> None:
    """Its sender has been told, as an acknowledged reply would mean."""
    if failed.batch.origin is not None:
        failed.batch.origin.settle(failed.batch, 1, BOUNCED)


class HopScene:
    """A far server, a hop to it, an origin whose ledger is looked at, a source that is paced."""

    def __init__(self, far: FarServer | None = None) -> None:
        self.far = far or FarServer()
        self.counters = memoryview(bytearray(32 * 8)).cast("Q")
        self.origin = Origin(self.counters, self._on_handled)
        self.handled = 0
        self.failed: list[tuple[str | None, StanzaCondition, str]] = []
        self.ended: list[Hop] = []
        self.paces: list[str] = []
        self.attempts = 0
        self.hop: Hop

    def start_hop(
        self, *, patient: bool = False, limits: Limits | None = None, **options: Any
    ) -> Hop:
        connect = self.far.connector(**options)

        async def counted(owner: Any) -> Any:
            self.attempts += 1
            try:
                return await connect(owner)
            except OSError as exc:
                raise HopFailed(str(exc), resolved=False) from None

        self.hop = Hop(
            PAIR,
            sender=LOCAL,
            target=REMOTE,
            connect=counted,
            limits=limits or Limits(resend_timeout=0.3),
            on_failed=self._on_failed,
            on_ended=self.ended.append,
            patient=patient,
        )
        return self.hop

    def send(self, *stanzas: Stanza) -> None:
        self.hop.send(self.origin.accept(list(stanzas)), self)

    def check_ledger(self) -> None:
        counters = self.counters
        ends = counters[ACKNOWLEDGED] + counters[BOUNCED]
        assert counters[ACCEPTED] == ends + self.origin.in_flight
        assert counters[IN_FLIGHT_OURS] == self.origin.in_flight

    async def close(self) -> None:
        self.check_ledger()
        self.hop.cut()
        await until(lambda: self.ended)
        self.check_ledger()
        await self.far.close()

    def _on_handled(self, count: int) -> None:
        self.handled += count

    def _on_failed(self, failed: list[Failed], condition: StanzaCondition, text: str) -> None:
        for each in failed:
            self.failed.append((each.stanza.id, condition, text))
            settle_bounced(each)

    def pause(self) -> None:
        self.paces.append("pause")

    def resume(self) -> None:
        self.paces.append("resume")
