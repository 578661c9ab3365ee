"""The coordinator as a process, with workers that have no data plane (see fake/)."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator import control
from coordinator.control import Order, Reply
from coordinator.processes import ProcessName, name_of, read_name, wait_gone

ROOT = Path(__file__).parents[2]
MAIN = """
import sys
from coordinator.configfile import load
from coordinator.supervisor import run
sys.exit(run(load(sys.argv[1]), sys.argv[1], workers=int(sys.argv[2])))
"""
SETTINGS = """
[gateway]
domains = ["a.example"]
name = "gw1"
state_dir = "."
drain_timeout = {drain_timeout}
[websocket]
listen = "127.0.0.1:0"
[local]
listen = "{local}"
dns = ""
[redis]
url = "{redis}"
[admin]
listen = "./admin.sock"
"""


class AdminConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


class Coordinator:
    """A coordinator in the directory `home`; its output is read line by line."""

    def __init__(self, home: Path, process: asyncio.subprocess.Process) -> None:
        self.home, self.process = home, process
        self.seen = ""

    @classmethod
    async def start(
        cls,
        home: Path,
        *,
        workers: int = 1,
        drain_timeout: float = 5,
        local: str = "127.0.0.1:0",
        redis: str = "",
    ) -> "Coordinator":
        file = home / "fedgate.toml"
        file.write_text(SETTINGS.format(drain_timeout=drain_timeout, local=local, redis=redis))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", MAIN, str(file), str(workers)),
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests/coordinator/fake'}:{ROOT}"},
            stderr=asyncio.subprocess.PIPE,
        )
        return cls(home, process)

    async def says(self, text: str) -> str:
        """Read on until a line holds `text`; returns that line."""
        assert self.process.stderr
        async with asyncio.timeout(30):
            while line := (await self.process.stderr.readline()).decode():
                self.seen += line
                if text in line:
                    return line
        raise AssertionError(f"never said {text!r}, but:\n{self.seen}")

    async def ends(self) -> int:
        assert self.process.stderr
        async with asyncio.timeout(30):
            self.seen += (await self.process.stderr.read()).decode()
            return await self.process.wait()

    async def die(self) -> None:
        """Kill it. Its `wait` would last until the workers, too, have closed its stderr."""
        name = name_of(self.process.pid)
        name.send(signal.SIGKILL)
        await wait_gone(name)

    async def get(self, path: str, status: int = 200) -> Any:
        return await asyncio.to_thread(self._get, path, status)

    def _get(self, path: str, status: int) -> Any:
        with contextlib.closing(AdminConnection(self.home / "admin.sock")) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        assert response.status == status
        return json.loads(body)

    async def order(self, verb: str, argument: str = "") -> Reply:
        path = control.socket_path(self.home)
        return await asyncio.to_thread(control.ask, path, Order(verb, argument))

    def named(self, name: str) -> ProcessName:
        found = read_name(self.home / "run" / f"{name}.json")
        assert found
        return found


Start = Callable[..., Awaitable[Coordinator]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts coordinators in tmp_path; whatever of them is left at the end is killed."""
    started: list[Coordinator] = []

    async def starter(**options: Any) -> Coordinator:
        started.append(await Coordinator.start(tmp_path, **options))
        return started[-1]

    yield starter
    for coordinator in started:
        await coordinator.die()
    for path in (tmp_path / "run").glob("*.json"):
        if left := read_name(path):
            left.send(signal.SIGKILL)
    for coordinator in started:
        await coordinator.ends()


async def test_it_comes_up_serves_and_drains_on_term(start: Start, tmp_path: Path):
    fedgate = await start(workers=2)
    await fedgate.says(" works")
    await fedgate.says(" works")
    assert await fedgate.get("/readyz") == {"ready": True, "degraded": []}
    workers = await fedgate.get("/api/workers")
    assert [(worker["slot"], worker["state"]) for worker in workers] == [
        ("w1", "running"),
        ("w2", "running"),
    ]
    assert len(await fedgate.get("/api/routes")) == 1
    assert (await fedgate.get("/api/ledger"))["outbound"]["in_flight"] == 6

    fedgate.process.send_signal(signal.SIGTERM)

    assert await fedgate.ends() == 0
    assert "w1 told to drain" in fedgate.seen and "w2 told to drain" in fedgate.seen
    totals = json.loads((tmp_path / "ledger" / "closed.json").read_text())["totals"]
    assert totals[:2] == [6, 6]  # accepted, acknowledged
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["coordinator.lock"]


async def test_a_killed_worker_is_replaced_and_its_account_closed(start: Start):
    fedgate = await start()
    await fedgate.says("w1 works")
    (before,) = await fedgate.get("/api/workers")
    fedgate.named("w1").send(signal.SIGKILL)
    await fedgate.says("ended, killed by SIGKILL")
    await fedgate.says("w1 works")
    (after,) = await fedgate.get("/api/workers")
    assert after["id"] != before["id"] and after["restarts"] == 1
    outbound = (await fedgate.get("/api/ledger"))["outbound"]
    assert (outbound["accepted"], outbound["returned"], outbound["in_flight"]) == (6, 2, 3)
    assert outbound["dropped"] == {"worker-lost": 1}
    (route,) = await fedgate.get("/api/routes")
    assert route["owner"] == after["id"]
    assert "SIGKILL" in (await fedgate.get("/api/errors"))[-1]["text"]


async def test_a_killed_redis_is_replaced_with_its_data(start: Start):
    fedgate = await start()
    await fedgate.says("w1 works")
    routes = await fedgate.get("/api/routes")
    redis = fedgate.named("redis")
    redis.send(signal.SIGKILL)
    await fedgate.says("the embedded redis-server ended")
    async with asyncio.timeout(10):
        while (await fedgate.get("/readyz"))["degraded"]:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    assert fedgate.named("redis") != redis
    assert await fedgate.get("/api/routes") == routes


async def test_workers_outlive_a_killed_coordinator_and_the_next_one_cleans_up(start: Start):
    first = await start()
    await first.says("w1 works")
    worker, redis = first.named("w1"), first.named("redis")
    await first.die()
    assert worker.is_alive()

    second = await start()
    await second.says(f"stopping worker pid {worker.pid}, left by a former coordinator")
    await second.says(f"adopted the running redis-server, pid {redis.pid}")
    await second.says("w1 works")
    assert not worker.is_alive()
    (route,) = await second.get("/api/routes")
    assert route["owner"] == (await second.get("/api/workers"))[0]["id"]
    outbound = (await second.get("/api/ledger"))["outbound"]
    assert (outbound["accepted"], outbound["in_flight"]) == (6, 3)


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


async def test_hup_and_orders_reach_the_workers(start: Start):
    fedgate = await start()
    await fedgate.says("w1 works")
    fedgate.process.send_signal(signal.SIGHUP)
    await fedgate.says("w1 told to reload")
    assert (await fedgate.order("reload")).ok
    await fedgate.says("w1 told to reload")
    assert await fedgate.order("dance") == Reply(
        False, "unknown order 'dance'; use drain or reload"
    )
    assert await fedgate.order("drain", "w7") == Reply(
        False, "no worker w7 runs here; there are w1"
    )
    assert (await fedgate.order("drain", "w1")).ok
    await fedgate.says("w1 told to drain")
    await fedgate.says("w1 works")  # its successor
    assert (await fedgate.order("drain")).ok
    assert await fedgate.ends() == 0
