"""The life of the workers: started or adopted, ready, watched, replaced, drained, stopped, killed.

The supervisor's loop of events calls every method; nothing here waits, except for a process to be
started. What has to happen later goes through `after`.
"""

import logging
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from coordinator import accounts, health
from coordinator.config import Config, Gateway
from coordinator.exits import ExitCode
from coordinator.reception import Link, Reception
from coordinator.silence import Sign, Silence
from coordinator.succession import Succession
from coordinator.workforce import (
    Incarnation,
    Orphan,
    Slot,
    Workforce,
    count_death,
    is_boot_error,
    is_crash_loop,
    restart_delay,
)

log = logging.getLogger(__name__)

BOOT_TIMEOUT = 30.0
KILL_AFTER = 3.0  # seconds between telling a worker to stop now and killing it

After = Callable[[float, Callable[[], Any]], None]
"""Queues an action, in so many seconds; it may be a coroutine function."""


class Crew:
    """What happens to the workers of a `Workforce`. Set the callbacks before the first start.

    `on_trouble(source, text)`: for /api/errors. `on_hopeless(text, code)`: no worker can live.
    `on_gone()`: while stopping, the last one has ended.
    """

    def __init__(
        self, workforce: Workforce, reception: Reception, config: Config, after: After
    ) -> None:
        self.config = config
        self.is_leaving = False
        """Everything is to end: nothing is started any more."""
        self.was_ready = False
        self.on_trouble: Callable[[str, str], None] = lambda source, text: None
        self.on_hopeless: Callable[[str, int], None] = lambda text, code: None
        self.on_gone: Callable[[], None] = lambda: None
        self._workforce = workforce
        self._reception = reception
        self._after = after
        self._succession = Succession(self._start, self.retire)
        self._renewals: defaultdict[Slot, health.Renewals] = defaultdict(health.Renewals)

    @property
    def _settings(self) -> Gateway:
        return self.config.gateway

    # Up.

    def adopt(self, orphans: list[Orphan]) -> None:
        """Go on with what a dead coordinator left; each will say Hello by itself."""
        for orphan in orphans:
            adopted = self._workforce.adopt(orphan.slot, orphan.process)
            log.info("adopted worker %s, pid %d", adopted, adopted.pid)

    async def fill(self) -> None:
        """Start a worker in each slot that has none."""
        for slot in self._workforce.slots:
            await self._fill(slot)

    async def _fill(self, slot: Slot) -> None:
        if not self.is_leaving and slot.current is None and not self._workforce.is_surplus(slot):
            await self._start(slot)

    async def _start(self, slot: Slot) -> Incarnation:
        started = await self._workforce.start(slot)
        self._after(BOOT_TIMEOUT, lambda: self._on_boot_timeout(started))
        return started

    def _on_boot_timeout(self, started: Incarnation) -> None:
        if started.state == "starting" and started.process.is_alive():
            log.error("worker %s did not get ready in %g s", started, BOOT_TIMEOUT)
            started.process.send(signal.SIGKILL)

    def on_connected(self, link: Link) -> None:
        """A worker said Hello: for the first time, or after a loss of the connection."""
        incarnation = self._workforce.of_pid(link.pid)
        if incarnation is None:
            log.info("worker %s, pid %d, was started elsewhere", link.worker, link.pid)
            return
        incarnation.worker = link.worker
        if incarnation.state == "draining":
            self._reception.command(link.worker, "drain")
        elif incarnation.is_adopted:
            self._reception.command(link.worker, "reload")
        if incarnation in incarnation.slot.retired or self._is_unwanted(incarnation.slot):
            self.retire(incarnation)

    def on_ready(self, link: Link) -> None:
        """A worker reports for the first time: it accepts, so its predecessor may go."""
        incarnation = self._workforce.of_pid(link.pid)
        if incarnation is None or incarnation.state != "starting":
            return
        incarnation.state = "running"
        log.info("worker %s is ready, pid %d", link.worker, link.pid)
        self._succession.on_ready(incarnation)

    def _is_unwanted(self, slot: Slot) -> bool:
        return self.is_leaving or self._workforce.is_surplus(slot)

    def has_all(self) -> bool:
        """Whether every slot has a worker that runs."""
        return all(slot.state == "running" for slot in self._workforce.slots)

    # Watching.

    async def tick(self, now: float) -> None:
        """Once a tick of the supervisor, `now` in Unix time: who is silent, who has grown."""
        for each in list(self._workforce.incarnations()):
            link = self._reception.links.get(each.worker)
            each.silence.note(self._sign_of(each, link))
            if health.is_hung(each, self._settings.hang_timeout):
                self._kill_hung(each)
            elif health.is_spared(each, self._settings.hang_timeout):
                self._note_spared(each)
            elif link is not None and each.state == "running":
                if link.report.get("state") == "draining":
                    self.retire(each)  # somebody else told it to
                elif reason := self._renewals[each.slot].why_renew(
                    each.worker, link.report, now - each.started_at, self._settings
                ):
                    self._renew(each, reason)
        await self._succession.advance()

    def _sign_of(self, each: Incarnation, link: Link | None) -> Sign:
        heard_at = max(link.reported_at, link.connected_at) if link else 0.0
        counted = accounts.read_counters(self._settings.state_dir, each.worker)
        return Sign(heard_at, counted, each.process.share())

    def _kill_hung(self, hung: Incarnation) -> None:
        text = f"has reported nothing for {hung.silence.ticks} s: killed"
        log.error("worker %s %s", hung, text)
        self.on_trouble(str(hung), text)
        hung.silence = Silence()
        hung.process.send(signal.SIGKILL)

    def _note_spared(self, spared: Incarnation) -> None:
        text = f"has reported nothing for {spared.silence.ticks} s: busy, or the machine is"
        log.warning("worker %s %s", spared, text)
        self.on_trouble(str(spared), text)

    def _renew(self, grown: Incarnation, reason: str) -> None:
        if self._succession.add(grown.slot):
            log.warning("worker %s %s: a new one takes its place", grown, reason)
            self.on_trouble(str(grown), f"{reason}: a new one takes its place")

    # Down.

    def retire(self, incarnation: Incarnation) -> None:
        """Let a worker drain, for at most the drain timeout; its slot gets another one."""
        if incarnation.state in ("draining", "stopping"):
            return
        if not self._reception.command(incarnation.worker, "drain"):
            incarnation.process.send(signal.SIGTERM)  # not connected yet, or no longer
        incarnation.state = "draining"
        slot = incarnation.slot
        if incarnation is slot.current and not self._is_unwanted(slot):
            slot.forget(incarnation)
            slot.retired.append(incarnation)
            self._after(0.0, lambda: self._fill(slot))
        self._after(self._settings.drain_timeout, lambda: self._stop(incarnation))

    def _stop(self, incarnation: Incarnation) -> None:
        """Stop a process now; one that does not obey is killed."""
        if incarnation.state == "stopping" or not incarnation.process.is_alive():
            return
        if not self._reception.command(incarnation.worker, "stop"):
            incarnation.process.send(signal.SIGTERM)
        incarnation.state = "stopping"
        self._after(KILL_AFTER, lambda: self._kill(incarnation))

    def _kill(self, incarnation: Incarnation) -> None:
        if incarnation.process.is_alive():
            log.warning("worker %s does not stop: killed", incarnation.slot.name)
            incarnation.process.send(signal.SIGKILL)

    def drain_all(self) -> None:
        """All end in order; what still runs when the drain timeout is over is stopped."""
        self.is_leaving = True
        self._succession.cancel()
        for each in list(self._workforce.incarnations()):
            self.retire(each)
        self._tell_when_gone()

    def stop_all(self) -> None:
        """All end now."""
        self.is_leaving = True
        self._succession.cancel()
        for each in list(self._workforce.incarnations()):
            self._stop(each)
        self._tell_when_gone()

    def _tell_when_gone(self) -> None:
        if self.is_leaving and self._workforce.is_gone:
            self.on_gone()

    # Replacing.

    async def restart(self) -> int:
        """Replace every worker, one after the other; returns how many."""
        count = sum(self._succession.add(slot) for slot in self._workforce.slots)
        await self._succession.advance()
        return count

    def on_exited(self, gone: Incarnation, code: int | None) -> None:
        """A process has ended, whatever the reason."""
        slot, state = gone.slot, gone.state
        was_current = gone is slot.current
        slot.forget(gone)
        self._succession.on_exited(gone)
        if self.is_leaving:
            self._tell_when_gone()
        elif state in ("draining", "stopping"):
            self._after(0.0, lambda: self._fill(slot))
        else:
            self._on_died(gone, code, was_current=was_current)

    def _on_died(self, dead: Incarnation, code: int | None, *, was_current: bool) -> None:
        slot = dead.slot
        log.error("worker %s ended, %s", dead, _shown_code(code))
        self.on_trouble(str(dead), f"ended, {_shown_code(code)}")
        if not was_current:
            return  # a successor that did not get ready: the one before it goes on
        count_death(slot, time.time() - dead.started_at)
        if code is not None and is_boot_error(code) and not self.was_ready:
            # It has said why, in one line: nothing to add.
            self.on_hopeless("", code)
        elif is_crash_loop(self._workforce.slots):
            self.on_hopeless(
                f"worker {slot.name} ended {slot.failures} times in a row, {_shown_code(code)}; "
                "its last lines above say why",
                ExitCode.FAILURE,
            )
        else:
            self._after(restart_delay(slot.failures), lambda: self._fill(slot))


def _shown_code(code: int | None) -> str:
    if code is None:
        return "its exit code is not known"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
