"""What a stanza costs by its size, 100 bytes to 200 kB."""

from collections.abc import AsyncIterator

from loadtest.bench.flood import Flow
from loadtest.bench.rig import Rig
from loadtest.bench.row import Row
from loadtest.bench.run import Run, cpu_row, repeated, warm_up
from loadtest.bench.stanzas import SMALLEST

SIZES = (SMALLEST, 300, 1000, 3000, 10_000, 50_000, 200_000)
BATCH_BYTES = 20_000
TOTAL_BYTES = 20_000_000


async def sizes(run: Run) -> AsyncIterator[Row]:
    """Saturated; about 20 kB per write, or one stanza."""
    for inbound in (False, True):
        side = "inbound" if inbound else "outbound"
        flows = {
            f"{side}, {size:,} bytes": Flow(
                inbound=inbound,
                size=size,
                batch=max(1, BATCH_BYTES // size),
                count=min(run.stanzas, max(100, TOTAL_BYTES // size)),
            )
            for size in SIZES
        }
        async with Rig() as rig:
            await rig.open(inbound=inbound)
            await warm_up(rig, flows[f"{side}, 300 bytes"])
            found = await repeated(rig, run, flows)
        for name, floods in found.items():
            row = cpu_row("sizes", name, floods)
            row.x, row.series = flows[name].size, side
            yield row
