"""What the admin surface shows: the coordinator's own state and what workers reported last."""

import os
import time
import tomllib
from collections import Counter, deque
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from coordinator import accounts
from coordinator.address import is_unix_path, parse_address
from coordinator.config import Config
from coordinator.configtext import render
from coordinator.listeners import Listeners
from coordinator.orders import rows_of
from coordinator.reception import Link, Reception
from coordinator.redis_url import shown_url
from coordinator.routes import slot_of
from coordinator.store import Store
from coordinator.workforce import Slot, Workforce

STALE_AFTER = 10.0  # seconds without a report after which a worker counts as away
MAX_ERRORS = 200
MAX_ROUTES = 10000


class Overview:
    """One snapshot per question. `state` is "running", "draining" or "stopping"."""

    def __init__(
        self,
        config: Config,
        listeners: Listeners,
        workforce: Workforce,
        reception: Reception,
        store: Store,
    ) -> None:
        self.state = "running"
        self.redis_up = True
        self.reloaded = True
        """Whether the last reload, if there was one, did what it should."""
        self.started_at = time.time()
        self.settings = config
        """The configuration in force."""
        self._listeners = listeners
        self._workforce = workforce
        self._reception = reception
        self._store = store
        self._errors: deque[dict[str, Any]] = deque(maxlen=MAX_ERRORS)

    def note_error(self, source: str, text: str) -> None:
        """Keep an error of our own for /api/errors; the oldest make room."""
        self._errors.append({"at": time.time(), "worker": source, "text": text})

    def keep_errors(self, link: Link) -> None:
        """Keep what a worker that went away had reported."""
        self._errors.extend(_marked(link, "errors"))

    def is_ready(self) -> bool:
        """Whether anybody accepts."""
        return any(self._is_accepting(link) for link in self._reception.links.values())

    def degraded(self) -> list[str]:
        """What is away or not as it should be: "redis", "worker:w1", and what workers report."""
        found = set() if self.redis_up else {"redis"}
        found |= {f"worker:{slot.name}" for slot in self._workforce.slots if not self._is_up(slot)}
        for link in self._reception.links.values():
            found |= {str(item) for item in link.report.get("degraded", [])}
        return sorted(found)

    def status(self) -> dict[str, Any]:
        links = list(self._reception.links.values())
        sessions, routes = _count(links, "sessions"), _count(links, "routes")
        return {
            "name": self.settings.gateway.name,
            "version": product_version(),
            "state": self.state,
            "ready": self.is_ready(),
            "degraded": self.degraded(),
            "pid": os.getpid(),
            "started_at": self.started_at,
            "uptime": time.time() - self.started_at,
            "domains": list(self.settings.gateway.domains),
            "workers": {"configured": len(self._workforce.slots), "running": len(links)},
            "sessions": sessions,
            "routes": routes,
            "redis": {
                "up": self.redis_up,
                "url": shown_url(self.settings.redis.url) or "embedded",
            },
            "listening": self.listening(),
            "restart_needed": sorted(
                {str(key) for link in links for key in link.report.get("restart_needed", ())}
            ),
            "refused": self.refused(),
            "ledger": self.ledger(),
        }

    def refused(self) -> dict[str, int]:
        """What strangers and peers were refused by the workers that live, by reason."""
        total: Counter[str] = Counter()
        for link in self._reception.links.values():
            counts = link.report.get("refused")
            total.update(counts if isinstance(counts, dict) else {})
        return dict(sorted(total.items()))

    def workers(self) -> list[dict[str, Any]]:
        """Each slot of ours, then who retires, then each worker that was started elsewhere."""
        shown = [self._slot_shown(slot) for slot in self._workforce.slots]
        ours = {slot.worker for slot in self._workforce.slots}
        states = {each.worker: each.state for each in self._workforce.incarnations()}
        others = (link for link in self._reception.links.values() if link.worker not in ours)
        return shown + [_link_shown(link, states.get(link.worker, "running"), 0) for link in others]

    async def routes(self) -> list[dict[str, Any]]:
        """The routes of the whole cluster, at most `MAX_ROUTES`. Raises `StoreUnavailable`."""
        live = set(await self._store.live_workers())
        shown: list[dict[str, Any]] = []
        async for pair, route in self._store.routes():
            shown.append(
                {
                    "local": pair.local,
                    "remote": pair.remote,
                    "owner": route.owner,
                    "epoch": route.epoch,
                    "live": route.owner in live,
                }
            )
            if len(shown) >= MAX_ROUTES:
                break
        return sorted(shown, key=lambda route: (route["remote"], route["local"]))

    async def sessions(self, limit: int = 0) -> list[dict[str, Any]]:
        """All sessions, or `limit`, as workers describe them now; who does not answer is left out.

        They are asked when somebody wants to know: reports carry the number alone, so that a
        gateway with 10,000 sessions costs nothing per second for them.
        """
        found = rows_of(await self._reception.ask_all("sessions", str(limit or "")))
        return found[:limit] if limit else found

    def listening(self) -> dict[str, list[str]]:
        """Where we listen, in words."""
        return self._listeners.addresses()

    def ledger(self) -> dict[str, Any]:
        return accounts.sum_accounts(Path(self.settings.gateway.state_dir) / "ledger")

    def errors(self) -> list[dict[str, Any]]:
        """Recent errors, the newest last."""
        links = self._reception.links.values()
        found = [*self._errors, *(error for link in links for error in _marked(link, "errors"))]
        return sorted(found, key=_at)[-MAX_ERRORS:]

    def names(self) -> frozenset[str]:
        """The names that the admin surface goes by, beside addresses and localhost."""
        listen = self.settings.admin.listen
        own = () if is_unix_path(listen) else (parse_address(listen).host,)
        return frozenset((*own, self.settings.gateway.name.lower(), *self.settings.admin.names))

    def config(self) -> dict[str, Any]:
        """The configuration in force, secrets left out."""
        return tomllib.loads(render(self.settings))

    def starts(self) -> int:
        """How many worker processes were started so far."""
        return sum(slot.starts for slot in self._workforce.slots)

    def _is_up(self, slot: Slot) -> bool:
        link = self._reception.links.get(slot.worker)
        return link is not None and self._is_accepting(link)

    def _is_accepting(self, link: Link) -> bool:
        seen_at = max(link.reported_at, link.connected_at)
        fresh = time.time() - seen_at < STALE_AFTER
        return fresh and link.report.get("state", "running") == "running"

    def _slot_shown(self, slot: Slot) -> dict[str, Any]:
        link = self._reception.links.get(slot.worker)
        restarts = max(0, slot.starts - 1)
        if link is not None:
            return _link_shown(link, slot.state, restarts)
        return {
            "id": slot.worker or f"{self.settings.gateway.name}/{slot.name}",
            "slot": slot.name,
            "pid": slot.pid,
            "state": slot.state,
            "sessions": 0,
            "routes": 0,
            "rss_bytes": 0,
            "restarts": restarts,
            "connected_at": None,
            "reported_at": None,
        }


def product_version() -> str:
    try:
        return version("fedgate")
    except PackageNotFoundError:
        return "unknown"  # run from a source tree that was never installed


def _link_shown(link: Link, state: str, restarts: int) -> dict[str, Any]:
    report = link.report
    return {
        "id": link.worker,
        "slot": slot_of(link.worker),
        "pid": link.pid,
        "state": report.get("state", state) if state == "running" else state,
        "sessions": _size(report.get("sessions")),
        "routes": _size(report.get("routes")),
        "rss_bytes": _size(report.get("rss_bytes")),
        "restarts": restarts,
        "connected_at": link.connected_at,
        "reported_at": link.reported_at or None,
        **{key: report[key] for key in report if key not in _SHOWN_ELSEWHERE},
    }


_SHOWN_ELSEWHERE = {"sessions", "routes", "rss_bytes", "state", "errors", "degraded"}


def _marked(link: Link, key: str) -> Iterator[dict[str, Any]]:
    """The records of a report under `key`, each with its worker."""
    records = link.report.get(key)
    for record in records if isinstance(records, list) else []:
        if isinstance(record, dict):
            yield {"worker": link.worker, **record}
        else:
            yield {"worker": link.worker, "text": str(record)}


def _count(links: list[Link], key: str) -> int:
    return sum(_size(link.report.get(key)) for link in links)


def _size(value: Any) -> int:
    """A reported number, or the length of a reported list."""
    if isinstance(value, list | dict):
        return len(value)
    return int(value) if isinstance(value, int | float) else 0


def _at(error: dict[str, Any]) -> float:
    at = error.get("at")
    return float(at) if isinstance(at, int | float) else 0.0
