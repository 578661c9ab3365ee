"""Resident memory of a worker over many stanzas, and over many sessions opened and closed."""

from collections.abc import AsyncIterator

from loadtest.bench.flood import Flow, flood
from loadtest.bench.machine import rss_bytes
from loadtest.bench.rig import Rig
from loadtest.bench.row import Row
from loadtest.bench.run import Run
from loadtest.bench.sessions import open_sessions

FLAT = 1.05
"""Noise of the allocator; a leak of 10 bytes a stanza would be a fifth over two million."""
STANZAS, FULL_STANZAS = 300_000, 2_000_000
SESSIONS, FULL_SESSIONS = 2000, 100_000
WARM_UP_SESSIONS = 2500
"""Until then what is made once has been made, and the places of ended sessions are used again."""
STEPS = 10
AT_A_TIME = 100
MEBIBYTE = 2**20


async def memory(run: Run) -> AsyncIterator[Row]:
    """Each row's samples are steps of one run, after a first step that warms up."""
    for inbound in (False, True):
        async with Rig() as rig:
            (worker,) = await rig.gateway.worker_pids()
            await rig.open(inbound=inbound)
            total = FULL_STANZAS if run.full else STANZAS
            flow = Flow(inbound=inbound, count=total // STEPS)
            sizes = []
            for step in range(STEPS + 1):
                run.say(f"memory over stanzas, {step} of {STEPS}")
                await flood(rig, flow)
                sizes.append(rss_bytes(worker))
            side = "inbound" if inbound else "outbound"
            for row in _rows(f"{total:,} stanzas on one session {side}", sizes):
                yield row
    async with Rig() as rig:
        (worker,) = await rig.gateway.worker_pids()
        total = FULL_SESSIONS if run.full else SESSIONS
        sizes = []
        for step in range(STEPS + 1):
            run.say(f"memory over sessions, {step} of {STEPS}")
            # The same domains again and again: what grows with domains is not a leak.
            count = total // STEPS if step else WARM_UP_SESSIONS
            for _ in range(count // AT_A_TIME):
                await open_sessions(rig, worker, 0, AT_A_TIME)
                await rig.close()
            sizes.append(rss_bytes(worker))
        for row in _rows(f"{total:,} sessions opened and closed", sizes):
            yield row


def _rows(name: str, sizes: list[int]) -> list[Row]:
    """`sizes` in bytes, after each step."""
    samples = [size / MEBIBYTE for size in sizes]
    growth = Row(
        part="memory",
        name=f"{name}: last to first",
        unit="×",
        samples=[samples[-1] / samples[0]],
        goal=FLAT,
        is_ceiling=True,
        note=f"{samples[0]:.1f} → {samples[-1]:.1f} MiB",
    )
    return [growth, Row(part="memory", name=name, unit="MiB", samples=samples)]
