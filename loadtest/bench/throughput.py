"""Stanzas per CPU second of one worker, saturated and paced, and what the journal adds."""

from collections.abc import AsyncIterator
from dataclasses import replace

from loadtest.bench.calibration import BATCH, paced_to_saturated
from loadtest.bench.flood import Flood, Flow, flood
from loadtest.bench.rig import Rig
from loadtest.bench.row import Row
from loadtest.bench.run import Run, cpu_row, repeated, warm_up

SATURATED_GOAL = 100_000
PACED_GOAL = 70_000
MIXED_GOAL = 0.8
JOURNAL_GOAL = 1.2
PACE = 35_000
JOURNAL_PACE = 20_000
PROSODY_WINDOW = 192
"""A gateway journals what a resendable stream has outstanding beyond 200: Prosody keeps 500."""


async def outbound(run: Run) -> AsyncIterator[Row]:
    """Local s2s TCP → wss."""
    async for row in _one_way(run, "outbound", inbound=False):
        yield row


async def inbound(run: Run) -> AsyncIterator[Row]:
    """wss → local s2s TCP."""
    async for row in _one_way(run, "inbound", inbound=True):
        yield row


async def _one_way(run: Run, part: str, *, inbound: bool) -> AsyncIterator[Row]:
    flow = Flow(inbound=inbound, count=run.stanzas)
    saturated = "saturated, 64 per write"
    slow = replace(flow, batch=16, rate=PACE, count=min(run.stanzas, 2 * PACE))
    paced = f"paced at {PACE:,}/s, 16 per write"
    in_large = f"paced at {PACE:,}/s, 64 per write"
    flows = {
        saturated: flow,
        f"the same, ≤ {PROSODY_WINDOW} unacknowledged": replace(flow, window=PROSODY_WINDOW),
        "saturated, 16 per write": replace(flow, batch=16),
        "saturated, 1 per write": replace(flow, batch=1, count=run.stanzas // 2),
        "mixed stanzas, saturated": replace(flow, mixed=True),
        paced: slow,
        in_large: replace(slow, batch=64),
        "mixed stanzas, paced": replace(slow, mixed=True),
    }
    async with Rig() as rig:
        await rig.open(inbound=inbound)
        await warm_up(rig, flow)
        found = await repeated(rig, run, flows)
        run.say("the machine")
        bare = [paced_to_saturated(PACE, PACE) for _ in range(run.repeats)]
    goals = {saturated: SATURATED_GOAL, paced: PACED_GOAL, in_large: PACED_GOAL}
    for name, floods in found.items():
        yield cpu_row(part, name, floods, goal=goals.get(name))
    for kind, base in (("saturated", saturated), ("paced", paced)):
        yield mixed_row(part, kind, found[f"mixed stanzas, {kind}"], found[base])
    ratios = [
        slow.microseconds / fast.microseconds
        for slow, fast in zip(found[in_large], found[saturated], strict=True)
    ]
    name = "a stanza paced to saturated, 64 per write"
    yield Row(part=part, name=name, unit="×", samples=ratios)
    meanwhile = [each.bare_xml for floods in found.values() for each in floods]
    name = f"bare XML, {BATCH} at once, meanwhile"
    yield Row(part=part, name=name, unit="µs CPU", samples=meanwhile, note="the machine's phases")
    name = f"bare XML, {BATCH} at once, paced to saturated"
    yield Row(part=part, name=name, unit="×", samples=bare, note="what the machine makes of it")


def mixed_row(part: str, kind: str, mixed: list[Flood], messages: list[Flood]) -> Row:
    """How mixed traffic compares to messages alone; a repeat with its own neighbour."""
    ratios = [
        alone.microseconds / each.microseconds for each, alone in zip(mixed, messages, strict=True)
    ]
    name = f"mixed to messages alone, {kind}"
    return Row(part=part, name=name, unit="×", samples=ratios, goal=MIXED_GOAL)


async def journal(run: Run) -> AsyncIterator[Row]:
    """The way out from a server that can send nothing again, to that from one that can.

    Paced, so that both come in the same portions; the two gateways take turns.
    """
    count = min(run.stanzas, 2 * JOURNAL_PACE)
    flow = Flow(inbound=False, count=count, batch=16, rate=JOURNAL_PACE, window=PROSODY_WINDOW)
    plain, kept = "resendable, not journaled", "all journaled"
    found: dict[str, list[Flood]] = {plain: [], kept: []}
    async with Rig() as resendable, Rig(manages=False) as journaled:
        rigs = {plain: resendable, kept: journaled}
        for rig in rigs.values():
            await rig.open(inbound=False)
            await warm_up(rig, flow)
        for _ in range(run.repeats):
            for name, rig in rigs.items():
                run.say(name)
                found[name].append(await flood(rig, flow))
    for name, floods in found.items():
        yield cpu_row("journal", f"{name}, paced at {JOURNAL_PACE:,}/s, 16 per write", floods)
    ratios = [
        mine.microseconds / other.microseconds
        for mine, other in zip(found[kept], found[plain], strict=True)
    ]
    yield Row(
        part="journal",
        name="journaled to not journaled",
        unit="×",
        samples=ratios,
        goal=JOURNAL_GOAL,
        is_ceiling=True,
    )
