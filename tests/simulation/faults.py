"""What goes wrong in a run, drawn from the seed: three to six faults, some of them together."""

from collections.abc import Callable
from typing import Any

from tests.simulation.network import Wire

Fault = Callable[[Any], None]


def plan(scene: Any, seconds: float, count: int | None) -> None:
    """Draw the faults and when they happen."""
    rng = scene.world.rng
    if count is None:
        count = 0 if rng.random() < 0.03 else rng.randint(3, 6)
    when = 0.0
    for _ in range(count):
        fault = rng.choices(list(FAULTS), list(FAULTS.values()))[0]
        if not when or rng.random() < 0.7:
            when = 1.0 + rng.random() * (seconds - 6.0)
        else:
            when += rng.random() * rng.choice((0.1, 3.0))  # on the heels of the last
        scene.world.later(when, _happen, scene, fault)
        # Traffic while it happens, and soon after.
        for _ in range(rng.randint(1, 3)):
            scene.plan_burst(when + (rng.random() - 0.5) * rng.choice((0.02, 0.2)))
        scene.plan_burst(when + rng.random() * 2.0)


def _happen(scene: Any, fault: Fault) -> None:
    scene.checker.had_fault = True
    scene.checker.faults += 1
    scene.world.trace("FAULT", fault.__name__)
    fault(scene)


def end_all(scene: Any) -> None:
    """The last fault is over: all that was broken is mended."""
    redis = scene.redis
    redis.is_away = False
    redis.loss = 0.0
    redis.unreachable.clear()
    if redis.is_stalled:
        redis.go_on()
    for server in scene.locals.values():
        server.start()
    for server in scene.remotes.values():
        server.is_refusing = False
        server.process.go_on()
    for machine in scene.machines:
        if machine.is_down:
            machine.boot()
        elif machine.coordinator.is_dead:
            machine.start_coordinator()
        for worker in machine.workers:
            worker.process.go_on()


def _some_worker(scene: Any) -> Any:
    workers = [worker for machine in scene.machines for worker in machine.workers]
    return scene.world.rng.choice(workers) if workers else None


def _some_machine(scene: Any) -> Any:
    return scene.world.rng.choice(scene.machines)


def _some_wire(scene: Any) -> Wire | None:
    wires = [wire for wire in scene.network.wires if wire.is_open and not wire.is_black]
    return scene.world.rng.choice(wires) if wires else None


def _while(scene: Any, least: float, most: float, end: Callable[[], None]) -> None:
    rng = scene.world.rng
    scene.world.later(least + rng.random() * (most - least), end)


def _trouble(scene: Any, least: float, most: float, end: Callable[[], None]) -> None:
    """Redis is in trouble for a while, which the checker must know."""
    world = scene.world
    seconds = least + world.rng.random() * (most - least)
    # Workers notice late that it is over: half a second of pause, and a heartbeat.
    scene.checker.redis_troubled(world.now, world.now + seconds + 2.0)
    world.later(seconds, end)


def kill_worker(scene: Any) -> None:
    """At some step of its code, perhaps between two things that it does in one turn."""
    worker = _some_worker(scene)
    if worker is not None:
        worker.process.kill_after(scene.world.rng.choice((0, 0, 1, 2, 3, 5, 8, 13, 21)))


def kill_heir(scene: Any) -> None:
    """A worker, and then the one that is dealt what it held, just when it is dealt."""

    def trap(process: Any, name: str, arguments: Any, result: Any) -> None:
        if name != "xadd" or ":inbox:" not in str(arguments[0]):
            return
        for machine in scene.machines:
            for worker in machine.workers:
                if f"{{{worker.worker_id}}}" in str(arguments[0]):
                    scene.traps.remove(trap)
                    delay = scene.world.rng.random() * 0.1
                    scene.world.later(delay, worker.process.kill_after, 1)
                    return

    scene.traps.append(trap)
    kill_worker(scene)


def kill_sweeper(scene: Any) -> None:
    """A worker, and then the coordinator that deals what it held, while it does."""

    def trap(process: Any, name: str, arguments: Any, result: Any) -> None:
        if not process.name.endswith("/coordinator") or name not in ("xadd", "xdel", "xrange"):
            return
        scene.traps.remove(trap)
        scene.world.later(scene.world.rng.random() * 0.03, kill, process.machine)

    def kill(machine: Any) -> None:
        if not machine.coordinator.is_dead:
            machine.kill_coordinator()
            scene.world.later(0.1 + scene.world.rng.random() * 3.0, again, machine)

    def again(machine: Any) -> None:
        if machine.coordinator.is_dead:
            machine.start_coordinator()

    scene.traps.append(trap)
    kill_worker(scene)


def pause_worker(scene: Any) -> None:
    worker = _some_worker(scene)
    if worker is not None:
        worker.process.pause()
        scene.world.trace("FAULT", f"stops {worker.worker_id}")
        _while(scene, 0.05, scene.world.rng.choice((1.0, 4.0, 12.0)), worker.process.go_on)


def drain_worker(scene: Any) -> None:
    worker = _some_worker(scene)
    if worker is not None and worker.is_ready:
        worker.drain()


def replace_worker(scene: Any) -> None:
    machine = _some_machine(scene)
    machine.replace(scene.world.rng.choice(list(machine.slots)))


def kill_coordinator(scene: Any) -> None:
    machine = _some_machine(scene)
    if not machine.coordinator.is_dead:
        machine.kill_coordinator()

        def again() -> None:
            if machine.coordinator.is_dead:
                machine.start_coordinator()

        _while(scene, 0.1, 6.0, again)


def kill_machine(scene: Any) -> None:
    machine = _some_machine(scene)
    if not machine.is_down:
        scene.world.trace("FAULT", f"{machine.name} is off")
        machine.die()

        def again() -> None:
            if machine.is_down:
                machine.boot()

        _while(scene, 3.0, 20.0, again)


def cut_wire(scene: Any) -> None:
    wire = _some_wire(scene)
    if wire is not None:
        wire.cut()


def black_wire(scene: Any) -> None:
    wire = _some_wire(scene)
    if wire is not None and wire.kind.startswith("wss"):
        wire.blacken()


def redis_away(scene: Any) -> None:
    redis = scene.redis
    redis.go_away()
    is_emptied = scene.world.rng.random() < 0.4
    if is_emptied:
        scene.world.trace("FAULT", "and loses its data")
        redis.empty()
        scene.checker.redis_forgot(scene.held_in_memory())

    def again() -> None:
        redis.is_away = False
        scene.world.trace("FAULT", "redis is back")

    _trouble(scene, 0.05, scene.world.rng.choice((1.0, 8.0)), again)


def redis_stalls(scene: Any) -> None:
    redis = scene.redis
    redis.is_stalled = True
    _trouble(scene, 0.1, scene.world.rng.choice((1.0, 10.0)), redis.go_on)


def redis_fails_over(scene: Any) -> None:
    """A replica takes over that has not seen the last moments."""
    redis = scene.redis
    redis.remember()

    def fail_over() -> None:
        before = scene.ids_in_redis()
        redis.forget_newest()
        scene.world.trace("FAULT", "redis has failed over")
        redis.go_away()
        gone = before - scene.ids_in_redis()
        scene.checker.redis_forgot(scene.held_in_memory() | (scene.checker.kept_ever - gone))
        scene.world.later(0.3, setattr, redis, "is_away", False)

    _trouble(scene, 0.01, 1.0, fail_over)


def redis_is_lossy(scene: Any) -> None:
    redis = scene.redis
    redis.loss = scene.world.rng.choice((0.02, 0.1, 0.3))
    _trouble(scene, 1.0, 8.0, lambda: setattr(redis, "loss", 0.0))


def redis_is_slow(scene: Any) -> None:
    redis = scene.redis
    redis.latency = scene.world.rng.choice((0.05, 0.1, 0.3))
    _trouble(scene, 1.0, 8.0, lambda: setattr(redis, "latency", redis.usual_latency))


def partition(scene: Any) -> None:
    """One machine cannot reach Redis."""
    machine = _some_machine(scene)
    scene.redis.unreachable.add(machine.name)
    scene.world.trace("FAULT", f"{machine.name} cannot reach redis")
    _trouble(scene, 0.5, 15.0, lambda: scene.redis.unreachable.discard(machine.name))


def step_clock(scene: Any) -> None:
    rng = scene.world.rng
    step = rng.choice((-86400.0, -3.0, 0.5, 10.0, 86400.0))
    if rng.random() < 0.5:
        scene.redis.clock_offset += step
    else:
        _some_machine(scene).wall_offset += step


def restart_local(scene: Any) -> None:
    server = scene.world.rng.choice(list(scene.locals.values()))
    if server.is_up:
        server.stop(in_order=scene.world.rng.random() < 0.6)
        _while(scene, 0.2, 5.0, server.start)


def remote_refuses(scene: Any) -> None:
    server = scene.world.rng.choice(list(scene.remotes.values()))
    server.is_refusing = True
    for session in list(server.incoming):
        session.end.wire.cut()
    _while(
        scene,
        0.1,
        scene.world.rng.choice((1.0, 12.0)),
        lambda: setattr(server, "is_refusing", False),
    )


def remote_stops_reading(scene: Any) -> None:
    server = scene.world.rng.choice(list(scene.remotes.values()))
    server.process.pause()
    _while(scene, 0.5, scene.world.rng.choice((3.0, 15.0)), server.process.go_on)


FAULTS: dict[Fault, int] = {
    kill_worker: 10,
    kill_heir: 3,
    kill_sweeper: 3,
    pause_worker: 6,
    drain_worker: 4,
    replace_worker: 5,
    kill_coordinator: 3,
    kill_machine: 3,
    cut_wire: 10,
    black_wire: 3,
    redis_away: 5,
    redis_stalls: 4,
    redis_fails_over: 2,
    redis_is_lossy: 4,
    redis_is_slow: 3,
    partition: 4,
    step_clock: 3,
    restart_local: 4,
    remote_refuses: 3,
    remote_stops_reading: 3,
}
