"""What a worker may use of its machine: descriptors and memory. Looked at each second.

Who has proved nothing makes room first, the newest before the others. What queues hold together is
bounded by giving each less: then sources are paused, and TCP holds back whoever sends to them.
"""

import errno
import logging
import os
import resource
from collections.abc import Callable

from coordinator.config import Config
from workers.gateway.admission import Admission
from workers.gateway.router import Router

log = logging.getLogger(__name__)

# Shares of all descriptors: up to the first one strangers are let in, from the second on they make
# room. The rest is for the control socket, the journal, the local server and files.
STRANGERS_SHARE = 0.90
SHED_SHARE = 0.95
# Shares of `gateway.max_worker_rss`: from the first on no stranger is let in, from the second on
# they make room, below the third all is well again. At the whole the coordinator replaces us.
SHORT_SHARE = 0.85
TIGHT_SHARE = 0.90
WELL_SHARE = 0.80
# What each queue may hold in any case, in bytes.
LEAST_QUEUE = 65536


def rss_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class Budget:
    """Watches over one worker."""

    def __init__(
        self,
        config: Config,
        admission: Admission,
        router: Router,
        *,
        measure: Callable[[], int] = rss_bytes,
    ) -> None:
        self.rss = 0
        self.descriptors = 0
        """In use, as far as they have no gap."""
        self._config = config
        self._admission = admission
        self._router = router
        self._measure = measure
        self.short_for = 0
        """Seconds, as counted by `each_second`, for which memory has been short."""

    def each_second(self) -> None:
        """Measure, and make room where it is needed."""
        self._look_at_descriptors()
        self._look_at_memory()
        self._look_at_queues()

    def _look_at_descriptors(self) -> None:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._admission.last_descriptor = int(most * STRANGERS_SHARE) - 1
        self.descriptors = used = _lowest_free(most)
        if used >= most * SHED_SHARE:
            shed = self._admission.shed(used - int(most * STRANGERS_SHARE), "descriptors")
            log.warning("%d of %d descriptors are in use: %d strangers cut", used, most, shed)

    def _look_at_memory(self) -> None:
        admission, most = self._admission, self._config.gateway.max_worker_rss
        self.rss = rss = self._measure()
        if not most or rss < most * WELL_SHARE:
            if admission.is_short_of:
                log.info("memory is no longer short: strangers are let in again")
            admission.is_short_of = ""
        elif rss >= most * SHORT_SHARE:
            if not admission.is_short_of:
                log.warning("%d bytes of memory are in use: no stranger is let in", rss)
            admission.is_short_of = "memory"
        self.short_for = self.short_for + 1 if admission.is_short_of else 0
        if most and rss >= most * TIGHT_SHARE:
            admission.shed(len(admission.strangers) // 2 + 1, "memory")

    def _look_at_queues(self) -> None:
        limits, limit = self._config.limits, self._router.queue_limit
        held = sum(outbox.waiting_bytes + outbox.unacknowledged_bytes for outbox in limit.busy)
        if held > limits.queues_bytes and limit.bytes > LEAST_QUEUE:
            limit.bytes = max(limit.bytes // 2, LEAST_QUEUE)
            log.warning("%d bytes wait in queues: each may hold %d now", held, limit.bytes)
        elif limit.bytes < limits.queue_bytes and held < limits.queues_bytes // 2:
            limit.bytes *= 2
        limit.bytes = min(limit.bytes, limits.queue_bytes)


def _lowest_free(most: int) -> int:
    try:
        lowest = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return most
    os.close(lowest)
    return lowest
