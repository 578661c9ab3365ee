"""What a new coordinator takes over from one that was killed: workers, with their sockets."""

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path

from coordinator import startup
from coordinator.config import Config
from coordinator.handover import HandoverFailed, handover_path, receive_sockets
from coordinator.listeners import Listeners, why_not_as_configured
from coordinator.workforce import Orphan, orphans, stop_orphans

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Inheritance:
    """The listening sockets, and the living workers that accept on them (perhaps none)."""

    listeners: Listeners
    orphans: list[Orphan] = field(default_factory=list)


async def take_over(config: Config, run_dir: Path, *, wanted: bool) -> Inheritance:
    """Get the sockets of living workers, or bind them; with sockets of others nobody goes on.

    Workers whose sockets cannot be had, or are not what is configured now, are stopped. So are all
    when workers are not `wanted` here. Raises `StartFailed`.
    """
    found = orphans(run_dir)
    if found and wanted:
        received = await _received(config, run_dir, found)
        if received is not None:
            try:
                own = await startup.bind(config, shared=False)
            except BaseException:
                received.close()
                raise
            received.admin = own.admin
            return Inheritance(received, found)
    await stop_orphans(run_dir)
    return Inheritance(await startup.bind(config, shared=wanted))


async def _received(config: Config, run_dir: Path, found: list[Orphan]) -> Listeners | None:
    """The sockets from the first worker that hands them over."""
    for orphan in found:
        path = handover_path(run_dir, orphan.slot, orphan.process.pid)
        try:
            named = await asyncio.to_thread(receive_sockets, path)
        except HandoverFailed as exc:
            log.warning("worker pid %d gives no sockets: %s", orphan.process.pid, exc)
            continue
        received = Listeners.of(named)
        if reason := why_not_as_configured(config, received):
            log.warning("the workers of the former coordinator must go: %s", reason)
            received.close()
            return None
        return received
    return None
