"""What can happen to a coordinator. Handlers queue these; the supervisor's loop acts on them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coordinator.control import Order, Reply
from coordinator.reception import Link
from coordinator.workforce import Slot


@dataclass(frozen=True, slots=True)
class Signalled:
    signum: int


@dataclass(frozen=True, slots=True)
class WorkerExited:
    slot: Slot
    code: int


@dataclass(frozen=True, slots=True)
class WorkerConnected:
    link: Link


@dataclass(frozen=True, slots=True)
class OrderReceived:
    order: Order
    reply: asyncio.Future[Reply]


@dataclass(frozen=True, slots=True)
class RedisExited:
    pass


@dataclass(frozen=True, slots=True)
class TimerRanOut:
    action: Callable[[], Any]


Event = Signalled | WorkerExited | WorkerConnected | OrderReceived | RedisExited | TimerRanOut
