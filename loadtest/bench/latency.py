"""What a gateway adds to the time a stanza takes, between two generators that share a clock."""

import statistics
from collections.abc import AsyncIterator
from dataclasses import replace

from loadtest.bench.flood import Flow, flood
from loadtest.bench.rig import Rig
from loadtest.bench.row import Row
from loadtest.bench.run import Run, warm_up
from loadtest.chaos.flow import percentile

RATE = 2000
SECONDS = 2
P50_GOAL = 0.5
P99_GOAL = 3.0
HALF_LOAD_GOAL = 10.0
PROBE = 50_000


async def latency(run: Run) -> AsyncIterator[Row]:
    """p50 and p99 at a steady rate and at half of full load, through the gateway and without."""
    async with Rig() as rig:
        for inbound in (False, True):
            # Links 0: through the gateway, 1: straight to the other generator.
            await rig.open(inbound=inbound)
            await rig.open(inbound=inbound, direct=True)
            flow = Flow(inbound=inbound, count=PROBE, links=1)
            await warm_up(rig, flow)
            full = (await flood(rig, flow)).per_second
            for row in await _rows(rig, run, inbound=inbound, rate=RATE, batch=1):
                yield row
            half = round(full / 2, -3)
            for row in await _rows(rig, run, inbound=inbound, rate=half, batch=16):
                yield row
            await rig.close()


async def _rows(rig: Rig, run: Run, *, inbound: bool, rate: float, batch: int) -> list[Row]:
    flow = Flow(inbound=inbound, count=int(rate * SECONDS), rate=rate, batch=batch, links=1)
    ways = {"gateway": flow, "direct": replace(flow, first=1, direct=True)}
    found: dict[str, list[list[float]]] = {name: [] for name in ways}
    for repeat in range(run.repeats):
        for name, way in ways.items():
            run.say(f"{name} at {rate:,.0f}/s, {repeat + 1} of {run.repeats}")
            found[name].append(await _delays(rig, way))
    side = "inbound" if inbound else "outbound"
    goals = {0.5: P50_GOAL, 0.99: P99_GOAL} if rate == RATE else {0.99: HALF_LOAD_GOAL}
    rows = []
    for share in (0.5, 0.99):
        mine, direct = (
            [percentile(delays, share) * 1e3 for delays in found[name]] for name in ways
        )
        label = f"{side} at {rate:,.0f}/s, {batch} per write: p{share * 100:.0f}"
        rows.append(
            Row(
                part="latency",
                name=f"{label} added",
                unit="ms",
                samples=[a - b for a, b in zip(mine, direct, strict=True)],
                goal=goals.get(share),
                is_ceiling=True,
                note=f"direct {statistics.median(direct):.2f}, with {statistics.median(mine):.2f}",
            )
        )
    return rows


async def _delays(rig: Rig, flow: Flow) -> list[float]:
    """Seconds from when a stanza was due to when it was read at the other end."""
    await flood(rig, flow)
    sender, sink = rig.ends(inbound=flow.inbound)
    sent = await sender.times("sent", rig.directory / "times")
    arrived = await sink.times("arrived", rig.directory / "times")
    return [there - here for here, there in zip(sent, arrived, strict=True)]
