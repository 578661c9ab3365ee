"""One run of stanzas through a rig, measured: the CPU time of every part, and every id counted."""

from dataclasses import dataclass
from typing import Any, Protocol

from loadtest.bench.calibration import bare_xml
from loadtest.bench.generator import Generator
from loadtest.bench.machine import TICK
from loadtest.bench.rig import spent
from loadtest.bench.stanzas import SIZE

WARM_UP = 2000
WINDOW = 4096


class LedgerWrong(Exception):
    """Sink, generator and ledger do not say the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What is sent. `rate`: stanzas a second, 0: as fast as they are taken."""

    inbound: bool
    count: int
    batch: int = 64
    rate: float = 0
    size: int = SIZE
    mixed: bool = False
    window: int = WINDOW
    """How many stanzas of a stream wait for an acknowledgement, at most."""
    first: int = 0
    links: int = 0
    """Over how many of the open streams, from the `first` on; 0: all."""
    direct: bool = False
    """The streams lead through no gateway: there is no ledger to compare."""


@dataclass(slots=True)
class Flood:
    """One run. CPU in seconds by part, times in seconds."""

    count: int
    seconds: float
    cpu: dict[str, float]
    """worker (all of them), coordinator, redis, generator, sink."""
    bare_xml: float
    """What `calibration.bare_xml` was then, in µs."""

    @property
    def microseconds(self) -> float:
        """CPU of the workers per stanza; what is less than a tick counts as one."""
        return max(self.cpu["worker"], TICK) / self.count * 1e6

    @property
    def per_second(self) -> float:
        """Stanzas a second, by the clock on the wall."""
        return self.count / self.seconds

    @property
    def per_stanza(self) -> dict[str, float]:
        """CPU in µs per stanza, by part."""
        return {name: seconds / self.count * 1e6 for name, seconds in self.cpu.items()}

    def busy(self, part: str) -> float:
        """How much of a processor a part took, 0 to 1."""
        return self.cpu[part] / self.seconds


class Scene(Protocol):
    """Two generators and what is between them: a `Rig`, or another product's."""

    def ends(self, *, inbound: bool) -> tuple[Generator, Generator]:
        """(who sends, who receives)."""

    async def processes(self) -> dict[str, list[int]]:
        """Process ids by part: the workers', and the generators' by name."""

    async def ledger(self, *, inbound: bool) -> dict[str, Any]:
        """The settled account of one direction; not asked for where a flow is `direct`."""


async def flood(rig: Scene, flow: Flow) -> Flood:
    """Send, wait until all has arrived and is acknowledged, and compare the accounts.

    The streams must be open. Raises `LedgerWrong`, `StageError`.
    """
    sender, sink = rig.ends(inbound=flow.inbound)
    processes = await rig.processes()
    before = {} if flow.direct else await rig.ledger(inbound=flow.inbound)
    await sender.ask(
        "prepare",
        count=flow.count,
        batch=flow.batch,
        size=flow.size,
        mixed=flow.mixed,
        first=flow.first,
        links=flow.links,
    )
    await sink.ask("expect", count=flow.count)
    cpu = spent(processes)
    sent = await sender.ask("send", rate=flow.rate, window=flow.window)
    arrived = await sink.ask("arrived")
    after = spent(processes)
    if (arrived["arrived"], arrived["doubled"], arrived["strange"]) != (flow.count, 0, 0):
        ledger = {} if flow.direct else await rig.ledger(inbound=flow.inbound)
        raise LedgerWrong(f"sent {flow.count:,}, and {arrived} of them arrived; ledger: {ledger}")
    if not flow.direct:
        compare(before, await rig.ledger(inbound=flow.inbound), flow.count)
    seconds = max(arrived["last"] - sent["begun"], sent["seconds"] if flow.rate else 0)
    roles = {sender.name: "generator", sink.name: "sink"}
    return Flood(
        flow.count,
        seconds,
        {roles.get(name, name): after[name] - cpu[name] for name in after},
        bare_xml(),
    )


def compare(before: dict[str, object], after: dict[str, object], count: int) -> None:
    """All of `count` were accepted and acknowledged, and nothing else happened.

    Raises `LedgerWrong`.
    """
    for name in ("accepted", "acknowledged", "bounced", "returned", "replayed"):
        moved = int(str(after[name])) - int(str(before[name]))
        if moved != (count if name in ("accepted", "acknowledged") else 0):
            raise LedgerWrong(f"{count:,} stanzas were sent, the ledger has {name} {moved:,}")
    if before["dropped"] != after["dropped"]:
        raise LedgerWrong(f"the ledger has dropped {after['dropped']}")
