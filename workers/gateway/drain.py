"""A worker's drain: its pairs go one after another, so that those who take them meet no herd.

Each pair goes in order: its stream is closed, what was read of it delivered, the session closed,
the route released; a new stream of the pair finds its next owner meanwhile.
"""

import asyncio
import random
from collections.abc import Callable

from coordinator.client import ControlPlane
from coordinator.routes import DomainPair
from workers.gateway.component import ComponentAttachment
from workers.gateway.local_listener import LocalListener
from workers.gateway.local_source import LocalSource
from workers.gateway.public_listener import PublicListener
from workers.gateway.router import Router
from workers.gateway.source import Source

RATE = 100.0
"""Pairs and sessions per second that are sent to other workers."""
LEFT_FOR_HOPS = 1.0
"""Seconds before the deadline at which streams are not waited for any more."""
_LOOK_INTERVAL = 0.25


def spread(count: int, timeout: float, *, has_heirs: bool) -> float:
    """Seconds over which so many leave; when everybody drains there is nobody to be gentle to."""
    return min(timeout / 2.0, count / RATE) if has_heirs else 0.0


async def drain(
    control: ControlPlane,
    local: LocalListener | ComponentAttachment,
    public: PublicListener,
    router: Router,
    *,
    timeout: float,
) -> None:
    """Accept nothing, let streams end in order, deliver what is held; cut the rest at the end."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    control.draining = True
    local.stop()
    public.stop()
    await control.announce()
    if isinstance(local, LocalListener):
        await local.tell_draining()
    heirs = set(control.live_workers()) - {control.worker_id}
    steps = _Steps(control, local, public, loop.time() + timeout / 2.0)
    seconds = spread(len(steps.due()), timeout, has_heirs=bool(heirs))
    while (steps.plan(seconds) or steps.are_left) and loop.time() < deadline - LEFT_FOR_HOPS:
        seconds = 0.0  # what was being negotiated or handed to us meanwhile goes at once
        await steps.wait(min(_LOOK_INTERVAL, deadline - LEFT_FOR_HOPS - loop.time()))
    await router.drain(max(deadline - loop.time(), 0.5))


class _Steps:
    """Who is to leave, and when."""

    def __init__(
        self,
        control: ControlPlane,
        local: LocalListener | ComponentAttachment,
        public: PublicListener,
        half_time: float,
    ) -> None:
        self._half_time = half_time
        self._control = control
        self._local = local
        self._public = public
        self._planned: dict[Source | DomainPair, float] = {}

    def due(self) -> list[Source | DomainPair]:
        """The sources and the pairs of local streams that nobody has planned yet."""
        found: list[Source | DomainPair] = [*self._public.sources]
        if isinstance(self._local, LocalListener):
            found += {*self._control.owned, *(source.pair for source in self._local.sources)}
        elif not self._public.sources or asyncio.get_running_loop().time() > self._half_time:
            # What remotes have sent goes to the local server by the stream that is to end.
            found += self._local.sources
        return [each for each in found if each not in self._planned]

    def plan(self, seconds: float) -> bool:
        """Let those who are due go at a random moment within so many seconds."""
        loop = asyncio.get_running_loop()
        for source in self._local.sources:  # came when its pair had its moment
            if isinstance(source, LocalSource) and self._is_past(source.pair):
                source.close()
        due = self.due()
        for each in due:
            delay = random.random() * seconds
            self._planned[each] = loop.time() + delay
            loop.call_later(delay, self._leaving(each))
        return bool(due)

    def _leaving(self, each: Source | DomainPair) -> Callable[[], None]:
        if isinstance(each, Source):
            return each.close
        assert isinstance(self._local, LocalListener)
        local = self._local
        return lambda: local.leave(each)

    def _is_past(self, each: Source | DomainPair) -> bool:
        return self._planned.get(each, float("inf")) < asyncio.get_running_loop().time()

    def _sources(self) -> list[Source]:
        return [*self._local.sources, *self._public.sources]

    @property
    def are_left(self) -> bool:
        """Somebody has a moment to come, or a stream is still open or on its way."""
        now = asyncio.get_running_loop().time()
        if isinstance(self._local, LocalListener) and self._local.are_arriving:
            return True
        return bool(self._sources()) or any(at > now for at in self._planned.values())

    async def wait(self, seconds: float) -> None:
        """Until all streams have ended, at most so long."""
        ends = [source.base_session.closed_future for source in self._sources()]
        if ends:
            await asyncio.wait(ends, timeout=seconds)
        else:
            await asyncio.sleep(min(seconds, 0.01))
