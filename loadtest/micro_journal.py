"""What the journal and the upkeep of routes cost: `python -m loadtest.micro_journal [--json]`.

A real redis-server answers on a unix socket, as the embedded one does. CPU times are this process's
(a worker's); redis-server's own are in a column of theirs.

The journal at full load: the whole way out of `micro_path.py`, TLS on, from a server that cannot
send again, once without a journal and once with it, in turns; the difference is the journal. Quiet
domains: one stanza now and then from each of 10,000, so that nearly every stanza is a record of its
own, at so many a second. The path beside it is the same way out at the same pace (a processor that
is mostly idle is slower); what the waiting itself costs is subtracted from both.

Upkeep: what one second of a worker (heartbeat, inbox, a look at some of its routes) and one of a
coordinator (ping, sweep) cost, with so many routes in Redis, all the worker's.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvloop

from coordinator.config import Journal as JournalConfig
from coordinator.embedded import EmbeddedRedis
from coordinator.journal import Record
from coordinator.journal_writer import JournalWriter
from coordinator.ownership import Ownership
from coordinator.routes import DomainPair, Route
from coordinator.store import Store
from coordinator.sweeps import Sweeper
from loadtest.micro_path import Rig, from_local_server, path_reads, run_repeat, stanzas

WORKER = "bench/w1.a"
QUIET_DOMAINS = 10_000
QUIET_RATES = (200, 1000, 4000)
UNACKNOWLEDGED = 64
"""Quiet domains: how many stanzas are on their way to an acknowledgement."""
ROUTES = (10, 1000, 100_000)
UPKEEP_SECONDS = 20


@dataclass(slots=True)
class LoadRow:
    """Full load; µs of CPU per stanza."""

    batch: int
    path: float
    journal: float
    share: float
    """The journal's, in % of the path."""
    redis: float


@dataclass(slots=True)
class QuietRow:
    """Quiet domains."""

    per_second: int
    path: float
    """µs of CPU per stanza."""
    journal: float
    """µs of CPU per stanza."""
    share: float
    """The journal's, in % of the path."""
    processor: float
    """In % of one processor."""
    per_append: float
    kept_ms: float
    """Median time until Redis has confirmed a stanza."""
    kept_most_ms: float


@dataclass(slots=True)
class UpkeepRow:
    """Per second; CPU in ms."""

    routes: int
    commands: float
    redis_ms: float
    worker_ms: float
    coordinator_ms: float
    bytes_per_route: int


@asynccontextmanager
async def redis_in(folder: Path) -> AsyncIterator[Store]:
    """A redis-server with its files in `folder`."""
    (folder / "run").mkdir(exist_ok=True)
    server = EmbeddedRedis(folder)
    await server.start()
    store = Store(f"unix://{folder}/run/redis.sock")
    try:
        yield store
    finally:
        await store.close()
        await server.stop()


@asynccontextmanager
async def journal_in(store: Store) -> AsyncIterator[JournalWriter]:
    """A worker's journal."""
    writer = JournalWriter(store, WORKER, JournalConfig())
    await writer.start()
    try:
        yield writer
    finally:
        await writer.close()


async def _info(store: Store) -> dict[str, Any]:
    info: dict[str, Any] = await store._client.info("all")
    return info


async def _redis_seconds(store: Store) -> float:
    info = await _info(store)
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


# Full load.


async def load_row(batch: list[bytes], *, count: int, repeats: int) -> LoadRow:
    """The way out without and with a journal, in turns."""
    rounds = max(1, count // len(batch))
    batch = from_local_server(batch)
    plain: list[float] = []
    journaled: list[float] = []
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        async with redis_in(Path(two)) as store, journal_in(store) as writer:
            without = Rig(Path(one), tls=True, resendable=False)
            rig = Rig(Path(two), tls=True, resendable=False, journal=writer)
            for each in (without, rig):
                await each.open_outbound()
                await run_repeat(each, batch, inbound=False, rounds=1, sent=0)
            sent, before = len(batch), await _redis_seconds(store)
            for _ in range(repeats):
                for each, samples in ((without, plain), (rig, journaled)):
                    samples.append(
                        await run_repeat(each, batch, inbound=False, rounds=rounds, sent=sent)
                    )
                sent += rounds * len(batch)
            redis = (await _redis_seconds(store) - before) / (sent - len(batch)) * 1e6
            without.close()
            rig.close()
            await asyncio.sleep(0)
    # The least of each, least disturbed: the difference of two medians is mostly noise.
    path, whole = min(plain), min(journaled)
    return LoadRow(len(batch), path, whole - path, 100 * (whole / path - 1), redis)


# Quiet domains.


async def _paced(
    per_second: int, count: int, act: Callable[[int], None], pause: float = 0.001
) -> float:
    """Call `act(0..count)` so many times a second; returns the CPU seconds it took."""
    begun, cpu, done = time.perf_counter(), time.process_time(), 0
    while done < count:
        due = min(count, int((time.perf_counter() - begun) * per_second) + 1)
        while done < due:
            act(done)
            done += 1
            await asyncio.sleep(0)  # each comes with a read of its own
        await asyncio.sleep(pause)
    return time.process_time() - cpu


async def _paced_path(data: bytes, per_second: int, count: int) -> float:
    """CPU seconds of so many stanzas on the way out, one per read, without a journal."""
    with TemporaryDirectory() as folder:
        rig = Rig(Path(folder), tls=True, resendable=False)
        await rig.open_outbound()
        batch = from_local_server([data])
        await run_repeat(rig, batch, inbound=False, rounds=1, sent=0)
        reads = path_reads(rig, [batch] * count, inbound=False, sent=1)

        def read(at: int) -> None:
            wire, sealed = reads[at]
            wire.arrive(sealed)

        spent = await _paced(per_second, len(reads), read)
        rig.close()
        await asyncio.sleep(0)
    return spent


class _Timed(Record, eq=False, kw_only=True):
    pair: DomainPair
    data: bytes
    begun: float
    waits: list[float]

    def encode(self) -> tuple[str, str, bytes]:
        return *self.pair, self.data

    def on_kept(self, is_kept: bool) -> None:
        self.waits.append(time.perf_counter() - self.begun)


async def quiet_row(data: bytes, per_second: int, *, count: int) -> QuietRow:
    """`count` stanzas, each of another domain, until all have had their turn."""
    pairs = [DomainPair("a.example", f"d{at}.example") for at in range(QUIET_DOMAINS)]
    on_path = await _paced_path(data, per_second, count)
    with TemporaryDirectory() as folder:
        async with redis_in(Path(folder)) as store, journal_in(store) as writer:
            waits: list[float] = []
            sent: deque[Record] = deque()

            def journaled(at: int) -> None:
                pair = pairs[at % QUIET_DOMAINS]
                begun = time.perf_counter()
                sent.append(
                    _Timed("out", len(data), pair=pair, data=data, begun=begun, waits=waits)
                )
                writer.add(sent[-1])
                if len(sent) > UNACKNOWLEDGED:
                    writer.complete(sent.popleft())

            idle = await _paced(per_second, count, lambda at: None)
            before = await _info(store)
            spent = await _paced(per_second, count, journaled) - idle
            after = await _info(store)
            appends = _calls(after, "xadd") - _calls(before, "xadd")
            for record in sent:
                writer.complete(record)
    return QuietRow(
        per_second,
        (on_path - idle) / count * 1e6,
        spent / count * 1e6,
        100 * spent / (on_path - idle),
        spent / (count / per_second) * 100,
        count / max(1, appends),
        statistics.median(waits) * 1e3,
        max(waits) * 1e3,
    )


def _calls(info: dict[str, Any], command: str) -> int:
    return int(info.get(f"cmdstat_{command}", {"calls": 0})["calls"])


# Upkeep.


async def upkeep_row(count: int, *, seconds: int) -> UpkeepRow:
    """The upkeep of `count` routes for so many (not waited for) seconds."""
    with TemporaryDirectory() as folder:
        async with redis_in(Path(folder)) as store, journal_in(store):
            await store.heartbeat(WORKER, 60.0, {"state": "running"})
            empty = int((await _info(store))["used_memory"])
            ownership = await _own(store, count)
            per_route = (int((await _info(store))["used_memory"]) - empty) // count
            sweeper = Sweeper(store, "bench", lambda worker: True)
            spent = [0.0, 0.0]
            before, redis = await _info(store), await _redis_seconds(store)
            for _ in range(seconds):
                begun = time.process_time()
                await store.heartbeat(WORKER, 60.0, {"state": "running"})
                await ownership.verify_some(releasing=False)
                await store.read_inbox(WORKER)
                middle = time.process_time()
                await store.ping()
                await sweeper.sweep()
                spent[0] += middle - begun
                spent[1] += time.process_time() - middle
            after = await _info(store)
            redis = await _redis_seconds(store) - redis
    commands = (
        int(after["total_commands_processed"]) - int(before["total_commands_processed"])
    ) / seconds
    redis_ms, worker_ms, coordinator_ms = (1e3 * each / seconds for each in (redis, *spent))
    return UpkeepRow(count, commands, redis_ms, worker_ms, coordinator_ms, per_route)


async def _own(store: Store, count: int) -> Ownership:
    """So many routes in Redis, and their owner."""
    ownership = Ownership(store, WORKER)
    await store.ping()
    for start in range(0, count, 500):
        pipeline = store._client.pipeline(transaction=False)
        for at in range(start, min(count, start + 500)):
            pair = DomainPair("a.example", f"domain-{at}.example")
            route = ownership.owned[pair] = Route(WORKER, time.time_ns() // 1000)
            pipeline.hset(store._route_key(pair), mapping=route._asdict())
        await pipeline.execute()
    return ownership


# The tables.


def measure(*, count: int, repeats: int, routes: Sequence[int]) -> dict[str, list[Any]]:
    """All rows, by table."""
    load = [
        uvloop.run(load_row(stanzas(batch), count=count, repeats=repeats)) for batch in (1, 16, 64)
    ]
    data = stanzas(1)[0]
    quiet = [uvloop.run(quiet_row(data, rate, count=min(count, 2 * rate))) for rate in QUIET_RATES]
    upkeep = [uvloop.run(upkeep_row(number, seconds=UPKEEP_SECONDS)) for number in routes]
    return {"load": load, "quiet": quiet, "upkeep": upkeep}


def tables(measured: dict[str, list[Any]]) -> str:
    """What `measure` found, for people."""
    lines = [
        "journal at full load, µs CPU per stanza",
        f"{'batch':>8}{'path':>10}{'journal':>10}{'% of path':>12}{'redis':>10}",
    ]
    for row in measured["load"]:
        lines.append(
            f"{row.batch:>8}{row.path:>10.2f}{row.journal:>10.2f}{row.share:>12.1f}{row.redis:>10.2f}"
        )
    lines += [
        "",
        f"journal with {QUIET_DOMAINS} quiet domains, µs CPU per stanza",
        f"{'stanzas/s':>10}{'path':>10}{'journal':>10}{'% of path':>12}{'% of a CPU':>12}"
        f"{'per append':>12}{'kept, ms':>10}{'most':>8}",
    ]
    for row in measured["quiet"]:
        lines.append(
            f"{row.per_second:>10}{row.path:>10.2f}{row.journal:>10.2f}{row.share:>12.1f}"
            f"{row.processor:>12.2f}"
            f"{row.per_append:>12.1f}{row.kept_ms:>10.2f}{row.kept_most_ms:>8.1f}"
        )
    lines += [
        "",
        "upkeep per second, ms CPU",
        f"{'routes':>10}{'commands':>10}{'redis':>8}{'worker':>8}{'coordinator':>13}"
        f"{'bytes/route':>13}",
    ]
    for row in measured["upkeep"]:
        lines.append(
            f"{row.routes:>10}{row.commands:>10.0f}{row.redis_ms:>8.2f}{row.worker_ms:>8.2f}"
            f"{row.coordinator_ms:>13.2f}{row.bytes_per_route:>13}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.micro_journal", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="stanzas per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--routes", type=int, nargs="+", default=ROUTES)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args(arguments)
    measured = measure(count=options.count, repeats=options.repeats, routes=options.routes)
    if options.json:
        print(json.dumps({name: [asdict(row) for row in rows] for name, rows in measured.items()}))
    else:
        print(tables(measured))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
