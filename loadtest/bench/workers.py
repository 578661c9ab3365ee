"""Two workers against one: what a stanza costs when they share the domain pairs."""

from collections.abc import AsyncIterator

from loadtest.bench.flood import Flood, Flow, flood
from loadtest.bench.machine import cpu_seconds
from loadtest.bench.rig import Rig
from loadtest.bench.row import Row
from loadtest.bench.run import Run, cpu_row, warm_up

GOAL = 1.8
PAIRS = 32


async def workers(run: Run) -> AsyncIterator[Row]:
    """Both gateways run side by side, and take turns.

    On a machine whose other core has to play the generators two workers cannot be seen to be twice
    as fast; that each stanza costs them no more, and that both have work, can.
    """
    for inbound in (False, True):
        side = "inbound" if inbound else "outbound"
        flow = Flow(inbound=inbound, count=run.stanzas, batch=16)
        found: dict[int, list[Flood]] = {1: [], 2: []}
        shares: list[float] = []
        async with Rig() as one, Rig(workers=2) as two:
            rigs = {1: one, 2: two}
            for rig in rigs.values():
                await rig.open(PAIRS, inbound=inbound)
                await warm_up(rig, flow)
            for repeat in range(run.repeats):
                for count, rig in rigs.items():
                    run.say(f"{side}, {count} workers, {repeat + 1} of {run.repeats}")
                    pids = await rig.gateway.worker_pids()
                    before = [cpu_seconds(pid) for pid in pids]
                    found[count].append(await flood(rig, flow))
                    spent = [cpu_seconds(pid) - cpu for pid, cpu in zip(pids, before, strict=True)]
                    if count == 2:
                        shares.append(max(spent) / sum(spent))
        for count, floods in found.items():
            yield cpu_row("workers", f"{side}, {PAIRS} pairs, {count} worker(s)", floods)
        yield Row(
            part="workers",
            name=f"{side}, two workers to one",
            unit="×",
            samples=[
                2 * single.microseconds / double.microseconds
                for single, double in zip(found[1], found[2], strict=True)
            ],
            goal=GOAL,
            note=f"the busier one did {max(shares):.0%}",
        )
