import asyncio
import signal
import time
from pathlib import Path

import pytest

from coordinator.processes import name_of, read_name, write_name
from coordinator.workforce import (
    CRASH_LOOP,
    Slot,
    Workforce,
    count_death,
    is_boot_error,
    is_crash_loop,
    orphans,
    restart_delay,
    stop_orphans,
)

FAKE = str(Path(__file__).parent / "fake")


def test_boot_errors_are_those_that_trying_again_cannot_mend():
    assert [code for code in range(-9, 80) if is_boot_error(code)] == [2, 3, 4, 5, 6, 78]


def test_only_deaths_soon_after_the_start_add_up():
    slot = Slot("w1", started_at=100.0)
    count_death(slot, 101.0)
    count_death(slot, 102.0)
    assert slot.failures == 2
    count_death(slot, 200.0)
    assert slot.failures == 0


def test_a_crash_loop_is_one_only_if_no_worker_is_left():
    dying = Slot("w1", "down", starts=9, failures=CRASH_LOOP)
    assert is_crash_loop([dying, Slot("w2")])
    assert not is_crash_loop([dying, Slot("w2", "running", starts=1)])
    assert not is_crash_loop([Slot("w1", "down", starts=4, failures=CRASH_LOOP - 1)])
    assert not is_crash_loop([Slot("w1")])


def test_restarts_slow_down_up_to_a_bound():
    delays = [restart_delay(failures) for failures in range(12)]
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == 10.0


async def test_a_worker_is_started_named_and_its_end_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # "-P -m workers.worker" of this module's stand-in: it wants no options but its own.
    monkeypatch.setenv("PYTHONPATH", FAKE)
    ended: asyncio.Queue[tuple[Slot, int]] = asyncio.Queue()
    force = Workforce(
        1, tmp_path, ["--nonsense"], [], lambda slot, code: ended.put_nowait((slot, code))
    )
    (slot,) = force.slots
    assert force.is_gone and force.named("w1") is slot
    await force.start(slot)
    assert read_name(tmp_path / "w1.json") == name_of(slot.pid)
    assert force.slot_of_pid(slot.pid) is slot
    assert (slot.state, slot.starts) == ("starting", 1)
    force.kill_all()
    assert await ended.get() == (slot, -signal.SIGKILL)
    assert force.is_gone and read_name(tmp_path / "w1.json") is None
    force.signal(slot, signal.SIGTERM)  # nobody there: nothing happens
    await force.close()


async def test_orphans_are_found_by_name_and_stopped(tmp_path: Path):
    left = await asyncio.create_subprocess_exec("sleep", "60")
    write_name(tmp_path / "w1.json", name_of(left.pid))
    write_name(tmp_path / "w2.json", name_of(2**22 + 1))
    (tmp_path / "w3.json").write_text("damaged")
    assert [process.pid for process in orphans(tmp_path)] == [left.pid]
    started = time.monotonic()
    assert await stop_orphans(tmp_path) == 1
    assert await left.wait() == -signal.SIGTERM
    assert time.monotonic() - started < 3.0
    assert not orphans(tmp_path)
