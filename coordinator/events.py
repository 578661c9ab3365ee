"""What can happen to a coordinator. Handlers queue these; the supervisor's loop acts on them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coordinator.control import Order, Reply
from coordinator.reception import Link
from coordinator.workforce import Incarnation


@dataclass(frozen=True, slots=True)
class Signalled:
    signum: int


@dataclass(frozen=True, slots=True)
class WorkerExited:
    gone: Incarnation
    code: int | None


@dataclass(frozen=True, slots=True)
class WorkerConnected:
    link: Link


@dataclass(frozen=True, slots=True)
class WorkerReady:
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


Event = (
    Signalled
    | WorkerExited
    | WorkerConnected
    | WorkerReady
    | OrderReceived
    | RedisExited
    | TimerRanOut
)
