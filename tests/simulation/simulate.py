"""One seed from its beginning to its end."""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation import faults
from tests.simulation.scene import Scene, in_world
from tests.simulation.world import START

BUSY = 20.0
"""Virtual seconds of traffic and faults."""
PATIENCE = 90.0
"""Virtual seconds afterwards within which everything must have ended."""
TIDYING = 20.0
"""And then some, in which what is left of it in Redis is removed."""
BURSTS = 12
"""Beside those that go with faults; about four stanzas each."""


@dataclass(slots=True)
class Outcome:
    """What became of a seed."""

    seed: int
    failures: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


_GIVEN_UP = (
    "nobody deals the journal of %s; going on",
    "the journal was taken over by others while this worker was silent",
)
"""Logged where two failures at a time make two workers act for a pair."""


class _Log(logging.Handler):
    """The logs of the code under test go into the trace; an error in them is a failure."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(logging.DEBUG if scene.world.tracing else logging.WARNING)
        self._scene = scene
        self._world = scene.world

    def emit(self, record: logging.LogRecord) -> None:
        process = self._world.current
        if process is not None and process.is_dead:
            return
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        self._world.trace(process.name if process else "?", f"{record.name}: {text}")
        if record.msg == "%s → %s: %s does not let go" and isinstance(record.args, tuple):
            self._scene.predecessor_stays(str(record.args[0]), str(record.args[1]))
        elif record.msg == "%s; going on without it":
            self._scene.checker.redis_troubled(self._world.now - 2.0, self._world.now + 2.0)
        elif record.msg in _GIVEN_UP:
            self._scene.journals_stay()
        if record.levelno >= logging.ERROR:
            self._world.fail(f"logged an error: {text}")


def simulate(
    seed: int,
    *,
    tracing: bool = False,
    fault_count: int | None = None,
    prepare: Callable[[Scene], None] | None = None,
) -> Outcome:
    """Run one seed. `prepare(scene)` may plant something before it starts."""
    scene = Scene(seed, tracing=tracing)
    world = scene.world
    handler = _Log(scene)
    loggers = [logging.getLogger(name) for name in ("workers", "coordinator")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if tracing else logging.WARNING)
        logger.propagate = False
    # When the collector comes upon what a dead process was at must not depend on chance.
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        with in_world(scene):
            scene.build()
            scene.plan_traffic(BURSTS, BUSY)
            faults.plan(scene, BUSY, fault_count)
            if prepare is not None:
                prepare(scene)
            world.run(START + BUSY, lambda: False)
            if not world.failures:
                faults.end_all(scene)
                world.run(START + BUSY + PATIENCE, scene.is_at_rest)
                world.run(world.now + TIDYING, scene.is_tidy)
            if not world.failures:
                scene.check_at_rest()
            _put_away(scene)
    finally:
        if was_collecting:
            gc.enable()
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = True
    summary = scene.checker.summary() | {
        "steps": world.steps,
        "redis_calls": scene.redis.calls,
        "seconds": world.now - START,
    }
    return Outcome(seed, world.failures, world.lines, summary)


def _put_away(scene: Scene) -> None:
    """End all processes without a word: their tasks are never run again."""
    for machine in scene.machines:
        machine.is_down = True
        for worker in machine.workers:
            worker.process.is_dead = True
        machine.coordinator.is_dead = True
