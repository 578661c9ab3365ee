"""One run: calm traffic, the fault in its middle, traffic until all is well, the verdict."""

import asyncio
import math
import random
import time
from collections.abc import Callable

from loadtest.chaos.faults import FAULTS, Impact
from loadtest.chaos.flow import Flow
from loadtest.chaos.scene import Scene
from loadtest.chaos.traffic import Traffic
from loadtest.chaos.verdict import Outcome, judge, patience
from loadtest.stage.processes import StageError

CALM = 4.0  # seconds before the fault, and up to `_JITTER` more
_JITTER = 2.0
_QUIET = 12.0  # seconds without news after which nothing more is expected
_TICK = 0.1

Report = Callable[[str, Traffic], None]
"""Told ten times a second what is going on, and the traffic so far."""


class Run:
    """One fault under load. `seconds` is the time after the fault is over."""

    def __init__(
        self, scene: Scene, fault: str, seed: str, *, rate: float, seconds: float, report: Report
    ) -> None:
        self.outcome = Outcome(fault, "", seed)
        self._scene = scene
        self._fault = FAULTS[fault]
        self._rng = random.Random(f"{fault} {seed}")
        self._rate = rate
        self._seconds = seconds
        self._report = report
        self._started_at = self._stopped_at = 0.0

    async def play(self) -> Outcome:
        """Play it and judge it. What does not come up again is named in `outcome.broken`."""
        traffic = await self._scene.prepare(self._rate)
        await self._settle_ledgers()
        before = await self._scene.ledgers()
        self._started_at = time.monotonic()
        traffic.start()
        try:
            impact = await self._strike(traffic)
            await self._watch("after it", traffic, self._seconds)
            await self._wait_well(traffic, patience(traffic.flows, self._started_at, impact.at))
        finally:
            await traffic.stop()
            self._stopped_at = time.monotonic()
        await self._settle(traffic)
        await self._settle_ledgers()
        after = await self._scene.ledgers()
        judge(
            self.outcome,
            traffic,
            impact,
            before,
            after,
            started_at=self._started_at,
            stopped_at=self._stopped_at,
        )
        return self.outcome

    async def _strike(self, traffic: Traffic) -> Impact:
        await self._watch("calm", traffic, CALM + self._rng.random() * _JITTER)
        at = time.monotonic()
        fault = asyncio.ensure_future(self._fault(self._scene, self._rng))
        try:
            while not fault.done():
                self._report(f"fault for {time.monotonic() - at:.0f} s", traffic)
                await asyncio.wait([fault], timeout=_TICK)
        finally:
            fault.cancel()
        try:
            impact = fault.result()
        except (StageError, TimeoutError, OSError) as exc:
            self.outcome.broken.append(f"the scene did not come up again: {exc!r}")
            impact = Impact(at, "?")
        impact.until = time.monotonic()
        return impact

    async def _wait_well(self, traffic: Traffic, late: float) -> None:
        """Go on until what is sent arrives at once, at most as long again."""
        end = time.monotonic() + max(self._seconds, 30)
        while time.monotonic() < end:
            since = time.monotonic() - late - 2
            if not any(_is_in_trouble(flow, since, late) for flow in traffic.flows):
                return
            await self._watch("not well yet", traffic, 1)

    async def _watch(self, what: str, traffic: Traffic, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._report(what, traffic)
            await asyncio.sleep(min(_TICK, left))

    async def _settle(self, traffic: Traffic) -> None:
        """Wait until every stanza's fate is known, or nothing has changed for a while."""
        known, news_at = -1, time.monotonic()
        while not traffic.is_settled and time.monotonic() < news_at + _QUIET:
            if traffic.settled != known:
                known, news_at = traffic.settled, time.monotonic()
            self._report("settling", traffic)
            await asyncio.sleep(_TICK)

    async def _settle_ledgers(self) -> None:
        for gateway in self._scene.gateways:
            try:
                await gateway.wait_settled(45)
            except (StageError, TimeoutError) as exc:
                # The verdict reads the ledger again and says what stays in flight.
                self.outcome.broken.append(str(exc)[:200])


def _is_in_trouble(flow: Flow, since: float, late: float) -> bool:
    """Whether something sent since then came late or back, or is not here though it is time."""
    now = time.monotonic()
    for number in range(len(flow) - 1, -1, -1):
        sent_at, arrived_at = flow.sent_at[number], flow.arrived_at[number]
        if sent_at < since:
            return False
        age = (now if math.isnan(arrived_at) else arrived_at) - sent_at
        if age > late or not math.isnan(flow.bounced_at[number]):
            return True
    return False
