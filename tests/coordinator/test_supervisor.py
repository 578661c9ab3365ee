"""The coordinator comes up, refuses in one line what it cannot do, drains and stops."""

import json
import signal
import socket
from pathlib import Path

from tests.coordinator.supervisor_scene import Start


async def test_it_comes_up_serves_and_drains_on_term(start: Start, tmp_path: Path):
    fedgate = await start(workers=2)
    await fedgate.says("ready, listening on")
    assert await fedgate.get("/readyz") == {"ready": True, "degraded": []}
    workers = await fedgate.get("/api/workers")
    assert [(worker["slot"], worker["state"]) for worker in workers] == [
        ("w1", "running"),
        ("w2", "running"),
    ]
    assert len(await fedgate.get("/api/routes")) == 1
    sessions = await fedgate.get("/api/sessions")
    assert sorted(session["worker"] for session in sessions) == [w["id"] for w in workers]
    assert (await fedgate.get("/api/ledger"))["outbound"]["in_flight"] == 6

    fedgate.process.send_signal(signal.SIGTERM)

    assert await fedgate.ends() == 0
    assert "w1 told to drain" in fedgate.seen and "w2 told to drain" in fedgate.seen
    totals = json.loads((tmp_path / "ledger" / "closed.json").read_text())["totals"]
    assert totals[:2] == [6, 6]  # accepted, acknowledged
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["coordinator.lock"]


async def test_two_coordinators_on_one_state_directory_are_refused(start: Start):
    first = await start(workers=0)
    await first.says("ready")
    second = await start(workers=0)
    assert await second.ends() == 1
    assert second.seen.startswith(f"fedgate: another coordinator (pid {first.process.pid}) uses")
    assert second.seen.count("\n") == 1


async def test_a_taken_port_is_one_line_and_exit_4(start: Start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        fedgate = await start(local=address)
        assert await fedgate.ends() == 4
    assert fedgate.seen.startswith(f"fedgate: cannot listen on {address}: another process has it;")
    assert fedgate.seen.count("\n") == 1


async def test_an_unreachable_redis_is_one_line_and_exit_5(start: Start):
    fedgate = await start(redis="redis://127.0.0.1:1/0")
    assert await fedgate.ends() == 5
    assert fedgate.seen.startswith("fedgate: no answer from redis://127.0.0.1:1/0")
    assert fedgate.seen.count("\n") == 1


async def test_a_worker_that_cannot_boot_stops_all_with_its_message(start: Start, tmp_path: Path):
    (tmp_path / "behaviour").write_text("boot-error")
    fedgate = await start(workers=1)
    assert await fedgate.ends() == 78
    assert "fedgate: the key is not there; put it there\n" in fedgate.seen
    assert not (tmp_path / "run" / "redis.json").exists()


async def test_a_crash_loop_stops_all(start: Start, tmp_path: Path):
    (tmp_path / "behaviour").write_text("crash")
    fedgate = await start()
    assert await fedgate.ends() == 1
    assert "fedgate: worker w1 ended 5 times in a row, exit code 1;" in fedgate.seen


async def test_a_second_signal_stops_at_once_even_a_deaf_worker(start: Start, tmp_path: Path):
    (tmp_path / "behaviour").write_text("deaf")
    fedgate = await start(drain_timeout=600)
    await fedgate.says("w1 works")
    fedgate.process.send_signal(signal.SIGTERM)
    await fedgate.says("told to drain")
    assert (await fedgate.get("/api/status"))["state"] == "draining"
    fedgate.process.send_signal(signal.SIGINT)
    await fedgate.says("told to stop")
    assert await fedgate.ends() == 0
    assert "worker w1 does not stop: killed" in fedgate.seen


async def test_a_drain_is_cut_when_its_time_is_over(start: Start, tmp_path: Path):
    (tmp_path / "behaviour").write_text("deaf")
    fedgate = await start(drain_timeout=1)
    await fedgate.says("w1 works")
    fedgate.process.send_signal(signal.SIGTERM)
    await fedgate.says("told to drain")
    await fedgate.says("told to stop")
    assert await fedgate.ends() == 0
