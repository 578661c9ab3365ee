"""What all parts of a benchmark need to know, and repeat."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from loadtest.bench.flood import WARM_UP, Flood, Flow, Scene, flood
from loadtest.bench.row import Row, median_of

PER_CPU_SECOND = "per CPU-s"
# A generator that is this busy is what limits a run; CPU figures hold nevertheless.
_LIMIT = 0.85


@dataclass(frozen=True, kw_only=True)
class Run:
    """`stanzas` and `repeats` of a row; `full`: the long runs at their full length."""

    stanzas: int = 100_000
    repeats: int = 3
    full: bool = False
    say: Callable[[str], None] = lambda text: None


Part = Callable[[Run], AsyncIterator[Row]]


async def warm_up(rig: Scene, flow: Flow) -> None:
    """What happens once happens before the first measurement."""
    await flood(rig, replace(flow, count=WARM_UP, rate=0))


async def repeated(rig: Scene, run: Run, flows: dict[str, Flow]) -> dict[str, list[Flood]]:
    """Every flow once, then again, so that a bad moment of the machine meets all of them."""
    found: dict[str, list[Flood]] = {name: [] for name in flows}
    for repeat in range(run.repeats):
        for name, flow in flows.items():
            run.say(f"{name}, {repeat + 1} of {run.repeats}")
            found[name].append(await flood(rig, flow))
    return found


def cpu_row(part: str, name: str, floods: list[Flood], *, goal: float | None = None) -> Row:
    """Stanzas per CPU second of the workers."""
    cpu = median_of([each.per_stanza for each in floods])
    busiest = max(max(each.busy(role) for role in ("generator", "sink")) for each in floods)
    per_second = sorted(each.per_second for each in floods)[len(floods) // 2]
    note = f"{per_second:,.0f}/s"
    if busiest > _LIMIT:
        note += ", the generator was the limit"
    return Row(
        part=part,
        name=name,
        unit=PER_CPU_SECOND,
        samples=[1e6 / each.microseconds for each in floods],
        goal=goal,
        cpu=cpu,
        note=note,
    )
