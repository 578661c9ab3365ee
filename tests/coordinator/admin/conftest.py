"""An overview over parts that are real but for the processes: nothing listens, nothing runs."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.admin.overview import Overview
from coordinator.authority import Authority
from coordinator.config import Config
from coordinator.listeners import Listeners
from coordinator.processes import ProcessName
from coordinator.reception import Link, Reception
from coordinator.store import Store, redis_url
from coordinator.workforce import Incarnation, Workforce


@pytest.fixture
def overview(config: Config, tmp_path: Path) -> Overview:
    """Two slots, both down."""
    workforce = Workforce(2, tmp_path, [], [], lambda slot, code: None)
    reception = Reception(tmp_path, Authority(tmp_path))
    return Overview(config, Listeners(), workforce, reception, Store(redis_url(config)))


@pytest.fixture
def connect(overview: Overview) -> Callable[..., Link]:
    """Makes a worker connect and report."""

    def connected(slot: int, report: dict[str, Any], *, age: float = 0.0) -> Link:
        place = overview._workforce.slots[slot - 1]
        worker = f"gw1/w{slot}.a"
        place.current = Incarnation(place, ProcessName(slot, 0), "running", worker)
        place.starts += 1
        seen_at = time.time() - age
        link = Link(worker, slot, None, seen_at, report, seen_at)  # type: ignore[arg-type]
        overview._reception.links[link.worker] = link
        return link

    return connected
