"""CPU and memory of the processes that take part, once a second."""

import json
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil

Sample = tuple[int, float, int]
"""Unix time, share of one core, bytes of resident memory."""

_API_TIMEOUT = 2.0


@dataclass(slots=True)
class Usage:
    """One process over the run."""

    samples: list[Sample] = field(default_factory=list)
    cpu_seconds: float = 0.0

    @property
    def rss_growth(self) -> float:
        """Of the last fifth of the run over its middle fifth, as a share: 0 is flat."""
        rss = [each[2] for each in self.samples]
        fifth = len(rss) // 5
        if not fifth:
            return 0.0
        middle, last = rss[2 * fifth : 3 * fifth], rss[-fifth:]
        return (sum(last) / len(last)) / (sum(middle) / len(middle)) - 1

    def to_json(self) -> dict[str, Any]:
        return {"samples": self.samples, "cpu_seconds": self.cpu_seconds}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Usage":
        return cls(
            [(at, share, rss) for at, share, rss in values["samples"]], values["cpu_seconds"]
        )


class Processes:
    """Those named, and those that the gateway's admin API tells of: its workers come and go."""

    def __init__(self, pids: Mapping[str, int], admin: str = "") -> None:
        self.usages: dict[str, Usage] = {}
        self._pids = dict(pids)
        self._admin = admin
        self._known: dict[int, tuple[psutil.Process, float]] = {}

    def sample(self) -> None:
        """Look at all of them."""
        for name, pid in {**self._pids, **gateway_workers(self._admin)}.items():
            try:
                self._sample(name, pid)
            except psutil.NoSuchProcess:
                self._known.pop(pid, None)

    def _sample(self, name: str, pid: int) -> None:
        usage = self.usages.setdefault(name, Usage())
        known = self._known.get(pid)
        process = known[0] if known is not None else psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            spent = times.user + times.system
            if known is not None:
                usage.cpu_seconds += spent - known[1]
            # The first answer says nothing: 0.0.
            share = process.cpu_percent() / 100
            if known is not None:
                usage.samples.append((int(time.time()), round(share, 3), process.memory_info().rss))
        self._known[pid] = (process, spent)


def gateway_workers(admin: str) -> dict[str, int]:
    """A gateway's workers by name, from its admin API; empty when it does not answer."""
    if not admin:
        return {}
    try:
        url = f"{admin.rstrip('/')}/api/workers"
        with urllib.request.urlopen(url, timeout=_API_TIMEOUT) as answer:
            found = json.load(answer)
    except OSError:
        return {}  # it may be the gateway that is being broken
    return {
        f"worker {_short(each['id'])}": int(each["pid"])
        for each in found
        if each["state"] == "running"
    }


def _short(worker: str) -> str:
    """`gateway/w1.6a0c…` without the gateway and the incarnation."""
    return worker.rpartition("/")[2].partition(".")[0]
