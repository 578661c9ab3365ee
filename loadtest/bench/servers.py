"""Servers alone and with gateways between them, under one generator: who spends what."""

import statistics
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from loadtest.bench.components import Crossing, Crossings
from loadtest.bench.flood import LedgerWrong, compare
from loadtest.bench.machine import TICK
from loadtest.bench.pair import Kind, Pair
from loadtest.bench.row import Row, median_of
from loadtest.bench.run import PER_CPU_SECOND, Run
from loadtest.stage.gateway import Gateway
from loadtest.stage.stage import CAPULET, MONTAGUE, Stage

COUNT = 15_000
WARM_UP = 1000
PART = "servers"
_PROSODYS, _EJABBERDS = "Prosody's worker", "ejabberd's worker"
_NAMES: dict[Kind, str] = {"prosody": "Prosody", "ejabberd": "ejabberd"}
Processes = Mapping[str, Sequence[int]]


async def servers(run: Run) -> AsyncIterator[Row]:
    """Direct Prosody ↔ Prosody and ejabberd ↔ ejabberd, then both kinds through two gateways."""
    direct: dict[Kind, list[Crossing]] = {}
    kinds: tuple[Kind, ...] = ("prosody", "ejabberd")
    for kind in kinds:
        run.say(f"starting {kind} ↔ {kind}")
        async with Pair(kind) as pair:
            one, other = pair.servers
            processes: Processes = {"sender": [one.process.pid], "receiver": [other.process.pid]}
            ends = (f"load1.{CAPULET}", one.address), (f"load1.{MONTAGUE}", other.address)
            direct[kind] = await _crossings(run, f"{kind} ↔ {kind}", *ends, processes)
        name = f"{_NAMES[kind]} → {_NAMES[kind]}, direct"
        for role in ("sender", "receiver"):
            yield _row(f"{name}: {role}", direct[kind], role)
        yield Row(
            part=PART,
            name=f"{name}: by the clock",
            unit="per s",
            samples=[each.count / each.seconds for each in direct[kind]],
            cpu=median_of([each.per_stanza for each in direct[kind]]),
        )
    async with Stage(workers=1, components=1, escalus=False, log_level="info") as stage:
        run.say("starting Prosody – fedgate – fedgate – ejabberd")
        await stage.attach_gateways()
        processes = await _processes(stage)
        prosody = f"load1.{CAPULET}", stage.capulet.address
        ejabberd = f"load1.{MONTAGUE}", stage.montague.address
        first, second = stage.gateways
        async with checked(first, second, run):
            out = await _crossings(run, "Prosody → ejabberd", prosody, ejabberd, processes)
        async with checked(second, first, run):
            back = await _crossings(run, "ejabberd → Prosody", ejabberd, prosody, processes)
    to_ejabberd = _through(
        "Prosody → 2 fedgates → ejabberd", out, direct["prosody"], direct["ejabberd"]
    )
    to_prosody = _through(
        "ejabberd → 2 fedgates → Prosody", back, direct["ejabberd"], direct["prosody"]
    )
    for row in (*to_ejabberd, *to_prosody):
        yield row


@asynccontextmanager
async def checked(first: Gateway, second: Gateway, run: Run) -> AsyncIterator[None]:
    """What crosses two gateways meanwhile is in the ledgers of both. Raises `LedgerWrong`."""
    before = await first.wait_settled(), await second.wait_settled()
    try:
        yield
    except LedgerWrong as exc:
        raise LedgerWrong(f"{exc}; {await first.ledger()}, {await second.ledger()}") from None
    after = await first.wait_settled(), await second.wait_settled()
    count = WARM_UP + run.repeats * min(COUNT, run.stanzas)
    for side, old, new in zip(("outbound", "inbound"), before, after, strict=True):
        compare(old[side], new[side], count)


def _through(
    name: str,
    crossings: list[Crossing],
    sender: list[Crossing],
    receiver: list[Crossing],
) -> list[Row]:
    workers = [_PROSODYS, _EJABBERDS]
    first, second = workers if name.startswith("Prosody") else reversed(workers)
    rows = [
        _row(f"{name}: first gateway", crossings, first, sender, "sender"),
        _row(f"{name}: second gateway", crossings, second, receiver, "receiver"),
    ]
    base = statistics.median(each.count / each.seconds for each in sender)
    rows.append(
        Row(
            part=PART,
            name=f"{name}: by the clock",
            unit="per s",
            samples=[each.count / each.seconds for each in crossings],
            base=base,
            base_name="direct",
            cpu=median_of([each.per_stanza for each in crossings]),
            note="all on this machine",
        )
    )
    return rows


def _row(
    name: str,
    crossings: list[Crossing],
    process: str,
    base: list[Crossing] | None = None,
    base_process: str = "",
) -> Row:
    row = Row(
        part=PART,
        name=name,
        unit=PER_CPU_SECOND,
        samples=[each.count / max(each.cpu[process], TICK) for each in crossings],
    )
    if base is not None:
        row.base = statistics.median(each.count / each.cpu[base_process] for each in base)
        row.base_name = f"server, {base_process}"
    return row


async def _crossings(
    run: Run,
    name: str,
    sender: tuple[str, str],
    target: tuple[str, str],
    processes: Processes,
) -> list[Crossing]:
    crossings = Crossings(sender, target)
    await crossings.connect()
    try:
        await crossings.run(WARM_UP, processes)
        found = []
        for repeat in range(run.repeats):
            run.say(f"{name}, {repeat + 1} of {run.repeats}")
            found.append(await crossings.run(min(COUNT, run.stanzas), processes))
        return found
    finally:
        crossings.close()


async def _processes(stage: Stage) -> Processes:
    one, other = stage.gateways
    rest = [pid for each in stage.gateways for pid in (each.process.pid, each.redis_pid())]
    return {
        "Prosody": [stage.capulet.process.pid],
        "ejabberd": [stage.montague.process.pid],
        _PROSODYS: await one.worker_pids(),
        _EJABBERDS: await other.worker_pids(),
        "coordinators and redis": rest,
    }
