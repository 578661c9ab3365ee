import asyncio
import signal
import time
from pathlib import Path

import pytest

from coordinator.processes import ProcessName, name_of, read_name, write_name
from coordinator.workforce import (
    CRASH_LOOP,
    Incarnation,
    Slot,
    State,
    Workforce,
    count_death,
    is_boot_error,
    is_crash_loop,
    orphans,
    record_path,
    restart_delay,
    stop_orphans,
)

FAKE = str(Path(__file__).parent / "fake")


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def environment_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def slot_with(name: str, state: State, *, starts: int = 0, failures: int = 0) -> Slot:
    slot = Slot(name, starts=starts, failures=failures)
    slot.current = Incarnation(slot, ProcessName(1, 1), state)
    return slot


def test_boot_errors_are_those_that_trying_again_cannot_mend():
    assert [code for code in range(-9, 80) if is_boot_error(code)] == [2, 3, 4, 5, 6, 78]
    assert not is_boot_error(None)


def test_only_deaths_soon_after_the_start_add_up():
    slot = Slot("w1")
    count_death(slot, 1.0)
    count_death(slot, 2.0)
    assert slot.failures == 2
    count_death(slot, 100.0)
    assert slot.failures == 0


def test_a_crash_loop_is_one_only_if_no_worker_is_left():
    dying = Slot("w1", starts=9, failures=CRASH_LOOP)
    assert is_crash_loop([dying, Slot("w2")])
    assert not is_crash_loop([dying, slot_with("w2", "running", starts=1)])
    assert is_crash_loop([dying, slot_with("w2", "starting", starts=9, failures=CRASH_LOOP)])
    assert not is_crash_loop([Slot("w1", starts=4, failures=CRASH_LOOP - 1)])
    assert not is_crash_loop([Slot("w1")])


def test_restarts_slow_down_up_to_a_bound():
    delays = [restart_delay(failures) for failures in range(12)]
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == 10.0


def test_a_successor_takes_the_place_of_one_that_dies():
    slot = slot_with("w1", "running")
    old = slot.current
    assert old
    slot.successor = Incarnation(slot, ProcessName(2, 2))
    successor = slot.successor
    slot.forget(old)
    assert (slot.current, slot.successor, slot.pid) == (successor, None, 2)
    slot.forget(successor)
    assert (slot.current, slot.state, slot.worker) == (None, "down", "")


async def test_a_worker_is_started_named_and_its_end_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # "-P -m workers.worker" of this module's stand-in: it wants no options but its own.
    monkeypatch.setenv("PYTHONPATH", FAKE)
    ended: asyncio.Queue[tuple[Incarnation, int | None]] = asyncio.Queue()
    force = Workforce(
        1, tmp_path, ["--nonsense"], [], lambda gone, code: ended.put_nowait((gone, code))
    )
    (slot,) = force.slots
    assert force.is_gone and force.named("w1") is None
    first = await force.start(slot)
    second = await force.start(slot)
    assert (slot.current, slot.successor) == (first, second)
    assert read_name(record_path(tmp_path, "w1", first.pid)) == first.process
    assert force.of_pid(second.pid) is second
    assert force.named("w1") is first
    assert b"GLIBC_TUNABLES=glibc.malloc.tcache_count=128" in environment_of(first.pid)
    assert (first.state, slot.starts) == ("starting", 2)
    force.kill_all()
    assert {(await ended.get())[1], (await ended.get())[1]} == {-signal.SIGKILL}
    assert not names_in(tmp_path)
    slot.forget(first)
    slot.forget(second)
    assert force.is_gone
    await force.close()


async def test_processes_of_a_dead_coordinator_are_gone_on_with(tmp_path: Path):
    """The newest of a slot is its worker; a slot that is not configured keeps what it has."""
    ended: asyncio.Queue[tuple[Incarnation, int | None]] = asyncio.Queue()
    force = Workforce(1, tmp_path, [], [], lambda gone, code: ended.put_nowait((gone, code)))
    children = [await asyncio.create_subprocess_exec("sleep", "60") for _ in range(3)]
    for child, slot in zip(children, ("w1", "w1", "w2"), strict=True):
        write_name(record_path(tmp_path, slot, child.pid), name_of(child.pid))
    adopted = [force.adopt(orphan.slot, orphan.process) for orphan in orphans(tmp_path)]
    assert [each.pid for each in adopted] == [child.pid for child in children]
    (slot,) = force.slots
    assert (slot.current, slot.retired) == (adopted[1], [adopted[0]])
    assert force.is_surplus(adopted[2].slot) and not force.is_surplus(slot)
    assert set(force.incarnations()) == set(adopted)
    force.kill_all()
    for child in children:
        assert await child.wait() == -signal.SIGKILL
    gone = [await ended.get() for _ in children]
    assert {each for each, _ in gone} == set(adopted)
    assert {code for _, code in gone} == {None}
    await force.close()


async def test_orphans_are_found_by_name_and_stopped(tmp_path: Path):
    left = await asyncio.create_subprocess_exec("sleep", "60")
    write_name(tmp_path / f"w1.{left.pid}.json", name_of(left.pid))
    write_name(tmp_path / "w2.7.json", name_of(2**22 + 1))
    (tmp_path / "w2.7.sockets").touch()
    (tmp_path / "w3.8.json").write_text("damaged")
    assert [(o.slot, o.process.pid) for o in orphans(tmp_path)] == [("w1", left.pid)]
    assert names_in(tmp_path) == [f"w1.{left.pid}.json"]
    started = time.monotonic()
    assert await stop_orphans(tmp_path) == 1
    assert await left.wait() == -signal.SIGTERM
    assert time.monotonic() - started < 3.0
    assert not names_in(tmp_path)
