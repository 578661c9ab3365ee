"""The whole path against its bare parts, without sockets: rows of `loadtest.micro`, same run."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import uvloop

from loadtest import micro, micro_journal
from loadtest.bench.row import Row
from loadtest.bench.run import Run
from loadtest.micro_path import stanzas

PART = "parts"
PATH_GOAL = 1.5
JOURNAL_GOAL = 20.0
# A worker takes frames or stanzas apart on one leg and puts them together on the other.
_PATHS = {
    "whole path out, TLS": (micro.BARE, "websockets Frame out, masked", micro.TLS_RECORD),
    "whole path in, TLS": ("websockets Protocol in, masked", micro.BARE, micro.TLS_RECORD),
}
_COUNT = 6000
# A round takes two seconds, and a tenth of one for each row: the machine has worse moments.
_ROUNDS = 5


async def parts(run: Run) -> AsyncIterator[Row]:
    """Every part in µs, then the whole over the sum of its bare parts, by batch.

    These are lxml's parsing and serialising, websockets' frame and OpenSSL's record.
    """
    # It runs event loops of its own.
    measured = await asyncio.to_thread(
        micro.rows, count=_COUNT, repeats=max(_ROUNDS, run.repeats), say=run.say
    )
    found = {(row.name, row.batch): row.samples for row in measured}
    for row in measured:
        if row.name in micro.SUBJECTS or row.name in _PATHS:
            yield Row(
                part=PART,
                name=f"{row.name}, {row.batch} at once",
                unit="µs CPU",
                samples=row.samples,
            )
    for name, bare in _PATHS.items():
        for batch in micro.BATCHES:
            totals = map(sum, zip(*(found[part, batch] for part in bare), strict=True))
            yield Row(
                part=PART,
                name=f"{name}: to its bare parts, {batch} at once",
                unit="×",
                samples=[a / b for a, b in zip(found[name, batch], totals, strict=True)],
                goal=PATH_GOAL,
                is_ceiling=True,
            )


def end_to_end(rows: Sequence[Row]) -> list[Row]:
    """What sockets, a second process and the kernel's turns leave of it: from rows of both."""
    found = {(row.part, row.name): row for row in rows}
    added = []
    for side, bare in zip(("outbound", "inbound"), _PATHS.values(), strict=True):
        for batch in micro.BATCHES:
            whole = found.get((side, f"saturated, {batch} per write"))
            parts = [found.get((PART, f"{part}, {batch} at once")) for part in bare]
            total = sum(part.median for part in parts if part and part.median)
            if whole is not None and all(parts):
                added.append(
                    Row(
                        part="end to end",
                        name=f"{side} to the same bare parts, {batch} per write",
                        unit="×",
                        samples=[1e6 / sample / total for sample in whole.samples],
                        goal=PATH_GOAL,
                        is_ceiling=True,
                    )
                )
    return added


async def journal_share(run: Run) -> AsyncIterator[Row]:
    """What a journal adds to the way out, of the same source without one."""
    for batch in micro.BATCHES:
        run.say(f"journal, {batch} at once")
        rows = [
            await asyncio.to_thread(_load_row, batch, max(2, run.repeats))
            for _ in range(run.repeats)
        ]
        yield Row(
            part="journal",
            name=f"journal's share of the way out, {batch} at once",
            unit="%",
            samples=[row.share for row in rows],
            goal=JOURNAL_GOAL,
            is_ceiling=True,
            note=f"redis {min(row.redis for row in rows):.1f} µs",
        )


def _load_row(batch: int, repeats: int) -> micro_journal.LoadRow:
    work = micro_journal.load_row(stanzas(batch), count=_COUNT, repeats=repeats)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
