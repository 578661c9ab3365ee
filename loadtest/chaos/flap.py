"""Thousands of remote domains lost at once, all with stanzas waiting, and back at once."""

import asyncio
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.chaos.flow import Flow, Kind, percentile
from loadtest.stage.authority import KeyPair
from loadtest.stage.component import Component
from loadtest.stage.processes import StageError
from loadtest.stage.stage import PASSWORD, Stage

DOMAINS = 2000
AWAY = 5.0  # seconds nobody can connect
ROUND = 5.0  # seconds between two stanzas to the same domain
FLAPS = 2
PATIENCE = 120.0  # seconds after which a domain counts as starved
_OPEN_RATE = 60.0  # first stanzas per second: every one opens a stream and a session
_ZONE = "flap.example"
_HOST = f"peer.{_ZONE}"
_ACTOR = 41

Say = Callable[[str], None]


@dataclass(slots=True)
class Flap:
    """One loss of all sessions. Times are seconds after the peer accepted again."""

    domains: int
    first: float = math.nan
    median: float = math.nan
    p99: float = math.nan
    last: float = math.nan
    starved: list[str] = field(default_factory=list)
    sessions: int = 0
    """Sessions authenticated until all were back."""
    peak: int = 0
    """Most of them in one second."""


@dataclass(slots=True)
class FlapOutcome:
    """All flaps of a run, and the fate of every stanza."""

    flaps: list[Flap] = field(default_factory=list)
    opened_in: float = 0.0
    stanzas: int = 0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    bounced: dict[str, int] = field(default_factory=dict)

    @property
    def broken(self) -> list[str]:
        found = [f"{len(each.starved)} starved" for each in self.flaps if each.starved]
        found += [f"{self.lost} lost"] if self.lost else []
        return found + ([f"{self.reordered} reordered"] if self.reordered else [])


class Peers:
    """The process that plays the remote domains."""

    def __init__(self, address: str, certificate: KeyPair) -> None:
        self._command = [
            *(sys.executable, "-P", "-m", "loadtest.chaos.flap_peer", address, _HOST),
            *(str(certificate.certificate), str(certificate.key)),
        ]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 26,
        )
        await self.tell("accept")

    async def tell(self, command: str) -> dict[str, Any]:
        """Give a command and return the answer. Raises `StageError` when the process is gone."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{command}\n".encode())
        line = await process.stdout.readline()
        if not line:
            raise StageError("the load peer ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def stop(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            await self._process.wait()


class FlapRun:
    """A Prosody, its gateway, a component that writes to every domain in turn, and the peers."""

    def __init__(self, domains: int, say: Say, *, keep_logs: bool = False) -> None:
        self.outcome = FlapOutcome()
        self._say = say
        self._stage = Stage(components=1, escalus=False, log_level="info")
        self._stage.keep = keep_logs
        self._stage.servers = (self._stage.capulet,)
        self._peers = Peers(
            self._stage.actor_address(_ACTOR), self._stage.authority.issue(f"*.{_ZONE}")
        )
        (sender,) = self._stage.component_domains(self._stage.capulet.domain)
        self._component = Component(sender, self._stage.capulet.address, PASSWORD, self._receive)
        self._flows = [Flow(sender, f"d{n}.{_ZONE}", "prosody") for n in range(domains)]
        self._partial = b""
        self._sending: asyncio.Task[None] | None = None

    @property
    def logs(self) -> Path:
        return self._stage.logs

    async def play(self, flaps: int = FLAPS) -> FlapOutcome:
        """Play it; everything is stopped at the end."""
        try:
            await self._start()
            await self._open()
            self._sending = asyncio.create_task(self._send_in_turn())
            for number in range(1, flaps + 1):
                self.outcome.flaps.append(await self._flap(number))
            self._sending.cancel()
            await self._settle()
        finally:
            if self._sending is not None:
                self._sending.cancel()
            self._component.close()
            await self._peers.stop()
            await self._stage.stop()
        self._count()
        return self.outcome

    async def _start(self) -> None:
        self._say("starting Prosody, its gateway and the load peer")
        stage = self._stage
        await stage.start()
        stage.dns.set(_HOST, "A", stage.actor_address(_ACTOR))
        for flow in self._flows:
            stage.dns.set(flow.target, "A", stage.actor_address(_ACTOR))
        await self._peers.start()
        await stage.attach_capulet()
        await self._component.connect()

    async def _open(self) -> None:
        """One stanza to each domain, until each got one; Prosody opens a stream for each."""
        started_at = time.monotonic()
        silent = self._flows
        while silent:
            for flow in silent:
                self._send(flow)
                await asyncio.sleep(1 / _OPEN_RATE)
                await self._watch("opening sessions", every=50)
            await asyncio.sleep(3)
            await self._collect()
            silent = [flow for flow in self._flows if not any(flow.copies)]
            if time.monotonic() - started_at > PATIENCE + len(self._flows) / _OPEN_RATE:
                raise StageError(f"{len(silent)} of {len(self._flows)} domains never opened")
        self.outcome.opened_in = time.monotonic() - started_at

    async def _flap(self, number: int) -> Flap:
        await asyncio.sleep(ROUND)
        await self._collect()
        cut_at = time.monotonic()
        await self._peers.tell("cut")
        await asyncio.sleep(AWAY)
        await self._peers.tell("accept")
        back_at = time.monotonic()
        flap = Flap(len(self._flows))
        waiting = set(range(len(self._flows)))
        while waiting and time.monotonic() < back_at + PATIENCE:
            await asyncio.sleep(0.5)
            answer = await self._collect()
            flap.sessions += answer["accepted"]
            flap.peak = max(flap.peak, answer["peak"])
            waiting = {n for n in waiting if math.isnan(self._heard(n, cut_at))}
            self._say(f"flap {number}: {len(waiting)} of {len(self._flows)} domains still away")
        times = [self._heard(n, cut_at) - back_at for n in range(len(self._flows))]
        known = [max(0.0, each) for each in times if not math.isnan(each)]
        flap.starved = [self._flows[n].target for n in sorted(waiting)]
        flap.first, flap.median = min(known, default=math.nan), percentile(known, 0.5)
        flap.p99, flap.last = percentile(known, 0.99), percentile(known, 1)
        return flap

    def _heard(self, index: int, since: float) -> float:
        """When the domain first got a stanza again that was sent or waited after `since`."""
        flow = self._flows[index]
        later = (at for at in reversed(flow.arrived_at) if at > since)
        return min(later, default=math.nan)

    async def _send_in_turn(self) -> None:
        """Each domain once per round, in even steps; what a hiccup delayed is made up for."""
        at = 0
        started_at = time.monotonic()
        while True:
            await asyncio.sleep(0.02)
            due = int((time.monotonic() - started_at) / ROUND * len(self._flows))
            while at < due:
                self._send(self._flows[at % len(self._flows)])
                at += 1

    def _send(self, flow: Flow) -> None:
        if not self._component.is_open or self._component.is_blocked:
            return
        number = flow.sent(Kind.MESSAGE, time.monotonic())
        index = flow.target.partition(".")[0].removeprefix("d")
        self._component.write(
            f"<message from='s@{flow.sender}/x' to='r@{flow.target}' id='f.{index}.{number}'>"
            "<body>still there?</body></message>".encode()
        )

    def _receive(self, data: bytes) -> None:
        """Errors, and the local server's or gateway's own requests, which it may answer itself."""
        *stanzas, self._partial = (self._partial + data).split(b"</message>")
        for stanza in stanzas:
            _, found, rest = stanza.partition(b"id='f.")
            if found and b"type='error'" in stanza:
                index, number = rest.partition(b"'")[0].split(b".")
                condition = "not-found" if b"not-found" in stanza else "timeout"
                self._flows[int(index)].bounced(int(number), condition, time.monotonic())

    async def _collect(self) -> dict[str, Any]:
        answer = await self._peers.tell("report")
        for id, arrived_at in answer["stanzas"]:
            _, index, number = id.split(".")
            self._flows[int(index)].arrived(int(number), arrived_at, is_marked=True)
        return answer

    async def _settle(self) -> None:
        for _ in range(60):
            await asyncio.sleep(0.5)
            await self._collect()
            open = sum(len(list(flow.missing())) for flow in self._flows)
            self._say(f"settling: {open} stanzas")
            if not open:
                return

    async def _watch(self, what: str, *, every: int) -> None:
        sent = sum(map(len, self._flows))
        if sent % every == 0:
            self._say(f"{what}: {sent} of {len(self._flows)}")

    def _count(self) -> None:
        outcome = self.outcome
        for flow in self._flows:
            outcome.stanzas += len(flow)
            outcome.lost += len(list(flow.missing()))
            outcome.doubled += flow.marked
            outcome.reordered += len(flow.reordered()) - flow.swapped()
            for condition, count in flow.conditions.items():
                outcome.bounced[condition] = outcome.bounced.get(condition, 0) + count
