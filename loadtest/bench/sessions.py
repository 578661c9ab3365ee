"""Many wss sessions in one worker: what one costs to open, to keep, and the others' stanzas."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from loadtest.bench.flood import Flood, Flow, flood
from loadtest.bench.machine import all_descriptors, cpu_seconds, rss_bytes
from loadtest.bench.rig import LOCAL, Rig, pairs
from loadtest.bench.row import Row
from loadtest.bench.run import Run, cpu_row
from loadtest.stage.addresses import WEBSOCKET_PORT

IDLE_GOAL = 40.0
"""KiB of a worker's resident memory."""
NEW_GOAL = 400.0
MANY_GOAL = 1.2
FEW = 10
DEFAULT, FULL = 2000, 10_000
STEP = 500
WAKE_STEP = 200
SETTLE = 3.0
"""Seconds until what the handshakes left behind is collected."""
DESCRIPTORS_SHARE = 0.85
"""Of what a worker may open, in use: beyond, it would begin to turn strangers away."""
AT_ONCE = 64
BATCH = 16


COUNTS = (10, 100, 1000)
"""Over how many sessions stanzas are spread, for the plot; then over all."""
WINDOW = 2 * BATCH
"""So that a read brings as many stanzas of one of ten sessions as of one of thousands."""


@dataclass(frozen=True, slots=True)
class Opened:
    """So many sessions more."""

    count: int
    seconds: float
    cpu: float


async def sessions(run: Run) -> AsyncIterator[Row]:
    """Idle sessions first, then traffic over ten of them, then over more and more of them."""
    most = FULL if run.full else DEFAULT
    # A session with traffic takes two: 10,000 need a limit of 24,000.
    awake = min(most, int(DESCRIPTORS_SHARE * all_descriptors()) - most)
    async with Rig() as rig:
        (worker,) = await rig.gateway.worker_pids()
        await open_sessions(rig, worker, 0, FEW)
        await _wake(rig, FEW)
        before = (await _in_turns(rig, run, (FEW,)))[FEW]
        steps, rss = [], rss_bytes(worker)
        for first in range(FEW, most, STEP):
            run.say(f"session {first:,} of {most:,}")
            steps.append(await open_sessions(rig, worker, first, min(most, first + STEP)))
        await asyncio.sleep(SETTLE)
        each = (rss_bytes(worker) - rss) / (most - FEW) / 1024
        beside = (await _in_turns(rig, run, (FEW,)))[FEW]
        run.say(f"a local stream for each of {awake:,} sessions")
        await _wake(rig, awake)
        spread = await _in_turns(rig, run, (*COUNTS, awake))
    for row in _opening_rows(steps, each):
        yield row
    yield cpu_row("sessions", f"inbound over {FEW} sessions, {BATCH} per write", before)
    yield cpu_row("sessions", f"the same beside {most:,} idle ones", beside)
    yield _cost_row(f"cost beside {most:,} idle ones, to beside none", beside, before)
    for count, floods in spread.items():
        row = cpu_row("sessions", f"the same over {count:,} sessions of {most:,}", floods)
        row.x, row.series = count, "inbound"
        yield row
    name = f"cost over {awake:,} sessions of {most:,}, to over {FEW}"
    yield _cost_row(name, spread[awake], spread[FEW])


async def open_sessions(rig: Rig, worker: int, first: int, end: int) -> Opened:
    """Sessions of the remote domains `first` to `end` - 1, mutually authenticated."""
    cpu = cpu_seconds(worker)
    answer = await rig.remote.ask(
        "connect_wss",
        address=rig.gateway.address,
        port=WEBSOCKET_PORT,
        host=f"gw.{LOCAL}",
        pairs=pairs(end - first, inbound=True, first=first),
        at_once=AT_ONCE,
    )
    return Opened(end - first, answer["seconds"], cpu_seconds(worker) - cpu)


async def _wake(rig: Rig, count: int) -> None:
    """A stanza over each session: its stream to the local server is opened.

    Not all at the same moment: what is not open within `limits.connect_timeout` is given up.
    """
    for first in range(0, count, WAKE_STEP):
        links = min(WAKE_STEP, count - first)
        await flood(rig, Flow(inbound=True, count=links, batch=1, first=first, links=links))


async def _in_turns(rig: Rig, run: Run, counts: Sequence[int]) -> dict[int, list[Flood]]:
    """By over how many sessions: in turns, since the machine may change its pace meanwhile."""
    floods: dict[int, list[Flood]] = {count: [] for count in counts}
    for repeat in range(run.repeats):
        for count in counts:
            run.say(f"over {count:,} sessions, {repeat + 1} of {run.repeats}")
            stanzas = max(run.stanzas, 2 * BATCH * count)
            flow = Flow(inbound=True, count=stanzas, batch=BATCH, links=count, window=WINDOW)
            floods[count].append(await flood(rig, flow))
    return floods


def _opening_rows(steps: list[Opened], kibibytes: float) -> list[Row]:
    return [
        Row(
            part="sessions",
            name="resident memory of an idle wss session",
            unit="KiB",
            samples=[kibibytes],
            goal=IDLE_GOAL,
            is_ceiling=True,
        ),
        Row(
            part="sessions",
            name="new sessions, mutually authenticated",
            unit="per CPU-s",
            samples=[step.count / step.cpu for step in steps],
            goal=NEW_GOAL,
        ),
        Row(
            part="sessions",
            name="the same by the clock, the other end on the same machine",
            unit="per s",
            samples=[step.count / step.seconds for step in steps],
            note=f"{AT_ONCE} at once",
        ),
    ]


def _cost_row(name: str, floods: list[Flood], base: list[Flood]) -> Row:
    return Row(
        part="sessions",
        name=name,
        unit="×",
        samples=[
            each.microseconds / other.microseconds for each, other in zip(floods, base, strict=True)
        ],
        goal=MANY_GOAL,
        is_ceiling=True,
    )
