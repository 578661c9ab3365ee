"""`make abuse`: what one domain's abuse of a gateway does to another one's stanzas.

A quiet domain sends 1,000 stanzas a second to the local server through a worker with the default
limits, alone and while another does harm: `loadtest/abuser.py` says how. Delays are from when a
stanza was due to when the local server has read it. As many go from the same sender to the same
local server without a gateway, meanwhile: what they take is not the gateway's. The worker has a
core for itself, if there are two; how long it waited for one all the same says what the rest of the
machine did to the figures, which no limit of a worker can mend.
"""

import argparse
import asyncio
import os
import signal
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from loadtest.bench.generator import Generator
from loadtest.bench.machine import cpu_seconds, waited_seconds
from loadtest.bench.rig import LOCAL, REMOTE, Rig
from loadtest.chaos.flow import percentile
from loadtest.stage.addresses import LOCAL_PORT, WEBSOCKET_PORT

EVIL, GREEDY = "evil.example", "greedy.example"
RATE = 1000
AIM = 1.5
_ABUSER = 31
# What the abuser is given less of than the two ends, which share its cores.
_NICER = 5
# Without the limits that the benchmark lifts for itself.
_DEFAULTS = dict.fromkeys(
    (
        "stanzas_per_second",
        "bytes_per_second",
        "connections_per_address",
        "handshakes_per_address",
        "unauthenticated",
        "unauthenticated_per_address",
        "sessions_per_domain",
    )
)


@dataclass(slots=True)
class Figures:
    """Of one kind of abuse, one value for each time it was measured. Delays in seconds."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    direct: list[float] = field(default_factory=list)
    """p99 of the stanzas that went straight to the local server."""
    done: list[float] = field(default_factory=list)
    """What the abuser got done per second."""
    busy: list[float] = field(default_factory=list)
    """CPU seconds of the worker per second."""
    waited: list[float] = field(default_factory=list)
    """Seconds per second for which it was ready and had no core."""


class Scene:
    """A rig with a quiet remote domain, and an abuser."""

    def __init__(self, rig: Rig, seconds: float) -> None:
        self.rig = rig
        self.seconds = seconds
        authority = rig.authority
        self.abuser = Generator(
            "abuser",
            authority.issue(EVIL, GREEDY, f"gw.{GREEDY}"),
            [EVIL, GREEDY],
            rig.directory / "abuser.log",
            module="loadtest.abuser",
        )
        self._is_writing = False
        self._gateway: dict[str, Any] = {
            "address": rig.gateway.address,
            "port": WEBSOCKET_PORT,
            "host": f"gw.{LOCAL}",
        }

    async def place(self, cores: set[int]) -> None:
        """Give the worker these cores, and the abuser less of the others than the two ends."""
        abuser = self.abuser.pid
        nice = os.getpriority(os.PRIO_PROCESS, abuser) + _NICER
        os.setpriority(os.PRIO_PROCESS, abuser, nice)
        (worker,) = await self.rig.gateway.worker_pids()
        for thread in os.listdir(f"/proc/{worker}/task"):
            os.sched_setaffinity(int(thread), cores)

    async def nothing(self) -> None:
        """Let the quiet domain be alone."""

    async def flood(self, sessions: int = 1, size: int = 300) -> None:
        pairs = [(EVIL, LOCAL)] * sessions
        await self.abuser.ask("flood", **self._gateway, pairs=pairs, size=size)

    async def floods(self) -> None:
        await self.flood(8)

    async def large(self) -> None:
        await self.flood(2, 100_000)

    async def ask(self) -> None:
        await self.abuser.ask("ask", **self._gateway, sender=EVIL, target=LOCAL)

    async def pings(self) -> None:
        await self.abuser.ask("ping", **self._gateway, sender=EVIL, target=LOCAL)

    async def slow_reader(self) -> None:
        """The local server sends what the abuser does not read, besides a flood."""
        rig = self.rig
        if not self._is_writing:
            self._is_writing = True
            await self.abuser.ask("listen_wss", address=rig.addresses.of(_ABUSER), port=443)
            address, port = rig.gateway.address, LOCAL_PORT
            await rig.local.ask("connect_tcp", address=address, port=port, pairs=[(LOCAL, GREEDY)])
            order = {"batch": 16, "size": 1000, "mixed": False, "first": 0, "links": 0}
            await rig.local.ask("prepare", count=50_000, **order)
            await rig.local.ask("send_on", window=1 << 30)
        await self.flood()

    async def handshakes(self) -> None:
        network = ".".join(self.rig.gateway.address.split(".")[:2])
        address, port = self.rig.gateway.address, WEBSOCKET_PORT
        await self.abuser.ask("shake_hands", address=address, port=port, network=network)

    async def all_of_it(self) -> None:
        await self.floods()
        await self.ask()
        await self.handshakes()

    async def measure(self, begin: Callable[[], Awaitable[None]], figures: Figures) -> None:
        """The quiet domain's delays while something goes on."""
        rig, count = self.rig, 2 * int(RATE * self.seconds)
        (worker,) = await rig.gateway.worker_pids()
        await rig.local.ask("expect", count=count)
        await begin()
        await asyncio.sleep(0.5)
        spent, waited = cpu_seconds(worker), waited_seconds(worker)
        sent = await rig.remote.ask("send", rate=2 * RATE, window=1 << 30)
        figures.busy.append((cpu_seconds(worker) - spent) / sent["seconds"])
        figures.waited.append((waited_seconds(worker) - waited) / sent["seconds"])
        done = await self.abuser.ask("stop")
        figures.done.append(done["count"] / (sent["seconds"] + 0.5))
        arrived = await rig.local.ask("arrived")
        if (arrived["arrived"], arrived["doubled"]) != (count, 0):
            raise RuntimeError(f"sent {count}, and {arrived} of them arrived")
        due = await rig.remote.times("sent", rig.directory / "times")
        came = await rig.local.times("arrived", rig.directory / "times")
        delays = [there - here for here, there in zip(due, came, strict=True)]
        # In turn through the gateway and without.
        figures.p50.append(percentile(delays[::2], 0.5))
        figures.p99.append(percentile(delays[::2], 0.99))
        figures.direct.append(percentile(delays[1::2], 0.99))


SLOW_READER = "flood, and a slow reader"
ABUSES: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "none": Scene.nothing,
    "flood, one session": Scene.flood,
    "flood, 8 sessions": Scene.floods,
    "flood of 100 kB stanzas": Scene.large,
    "questions, answers not read": Scene.ask,
    "pings": Scene.pings,
    "handshakes of 200 strangers": Scene.handshakes,
    "floods, questions, handshakes": Scene.all_of_it,
    SLOW_READER: Scene.slow_reader,
}


def separate(cores: set[int]) -> set[int]:
    """Leave one of the cores to the worker: this process, and what it starts, use the others."""
    if len(cores) < 2:
        return cores
    own = {min(cores)}
    os.sched_setaffinity(0, cores - own)
    return own


async def measure(repeats: int, seconds: float, only: list[str]) -> dict[str, Figures]:
    """Every abuse in turn, so many times over."""
    cores = separate(os.sched_getaffinity(0))
    rig = Rig()
    rig.gateway.configure("limits", **_DEFAULTS)
    rig.gateway.configure(f'remote."{GREEDY}"', url=f"wss://gw.{GREEDY}/xmpp-s2s")
    rig.dns.set(f"gw.{GREEDY}", "A", rig.addresses.of(_ABUSER))
    found = {name: Figures() for name in ABUSES if name == "none" or not only or name in only}
    async with rig:
        scene = Scene(rig, seconds)
        await scene.abuser.start()
        await scene.place(cores)
        try:
            await rig.open(inbound=True)
            await rig.open(inbound=True, direct=True)
            count = 2 * int(RATE * seconds)
            order = {"batch": 1, "size": 300, "mixed": False, "first": 0, "links": 2}
            await rig.remote.ask("prepare", count=count, **order)
            await scene.measure(scene.nothing, Figures())  # warms up
            # What a slow reader leaves behind would be in the way of the others.
            last = {name: figures for name, figures in found.items() if name == SLOW_READER}
            others = {name: figures for name, figures in found.items() if name != SLOW_READER}
            for group in (others, last):
                for _ in range(repeats):
                    for name, figures in group.items():
                        await scene.measure(partial(ABUSES[name], scene), figures)
                        await asyncio.sleep(0.5)
        finally:
            await scene.abuser.stop()
    return found


async def _until_interrupted(repeats: int, seconds: float, only: list[str]) -> dict[str, Figures]:
    """Nothing that was started outlives us."""
    task = asyncio.ensure_future(measure(repeats, seconds, only))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def table(found: dict[str, Figures]) -> Table:
    shown = Table(
        title=f"Delay of {RATE:,} stanzas/s of {REMOTE}, medians",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    columns = (
        *("abuse", "p50 ms", "p99 ms", "p99 / none", "direct p99 ms"),
        *("abuser's per s", "worker busy", "waited"),
    )
    for column in columns:
        shown.add_column(column, justify="left" if column == "abuse" else "right")
    quiet = statistics.median(found["none"].p99)
    for name, each in found.items():
        p50, p99 = statistics.median(each.p50), statistics.median(each.p99)
        shown.add_row(
            name,
            f"{p50 * 1e3:.2f}",
            f"{p99 * 1e3:.2f}",
            f"{p99 / quiet:.2f}",
            f"{statistics.median(each.direct) * 1e3:.2f}",
            f"{statistics.median(each.done):,.0f}",
            f"{statistics.median(each.busy):.0%}",
            f"{statistics.median(each.waited):.0%}",
        )
    return shown


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.abuse", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--only", action="append", default=[], choices=list(ABUSES))
    options = parser.parse_args(arguments)
    found = asyncio.run(_until_interrupted(options.repeats, options.seconds, options.only))
    console = Console()
    console.print(table(found))
    console.print(f"The aim is less than {AIM} times the delay without abuse.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
