"""The coordinator as a process, with workers that have no data plane (see fake/)."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator import control
from coordinator.control import Order, Reply
from coordinator.processes import ProcessName, name_of, read_name, wait_gone
from coordinator.workforce import orphans

ROOT = Path(__file__).parents[2]
MAIN = """
import sys
from coordinator import health
from coordinator.configfile import load
health.YOUNG = 0.0
from coordinator.supervisor import run
sys.exit(run(load(sys.argv[1]), sys.argv[1], workers=int(sys.argv[2])))
"""
SETTINGS = """
[gateway]
domains = ["a.example"]
name = "gw1"
state_dir = "."
drain_timeout = {drain_timeout}
{gateway}
[websocket]
listen = "127.0.0.1:0"
tls = false
trusted_proxies = ["127.0.0.1/32"]
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
        gateway: str = "",
        keep_file: bool = False,
    ) -> "Coordinator":
        file = home / "fedgate.toml"
        if not keep_file:
            file.write_text(
                SETTINGS.format(
                    drain_timeout=drain_timeout, local=local, redis=redis, gateway=gateway
                )
            )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", MAIN, str(file), str(workers)),
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests/coordinator/fake'}:{ROOT}"},
            stderr=asyncio.subprocess.PIPE,
        )
        return cls(home, process)

    async def says(self, text: str) -> str:
        """Read on until a line holds `text`; returns that line."""
        assert self.process.stderr
        with contextlib.suppress(TimeoutError):
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

    def redis(self) -> ProcessName:
        found = read_name(self.home / "run" / "redis.json")
        assert found
        return found

    def workers(self, slot: str) -> list[ProcessName]:
        """The living processes of a slot, the oldest first."""
        left = orphans(self.home / "run")
        return [orphan.process for orphan in left if orphan.slot == slot]

    def worker(self, slot: str) -> ProcessName:
        (found,) = self.workers(slot)
        return found

    async def until(self, path: str, holds: Callable[[Any], bool]) -> Any:
        """Ask until the answer is as wanted."""
        async with asyncio.timeout(15):
            while not holds(answer := await self.get(path)):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        return answer


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


async def test_a_killed_worker_is_replaced_and_its_account_closed(start: Start):
    fedgate = await start()
    await fedgate.says("w1 works")
    (before,) = await fedgate.get("/api/workers")
    fedgate.worker("w1").send(signal.SIGKILL)
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
    redis = fedgate.redis()
    redis.send(signal.SIGKILL)
    await fedgate.says("the embedded redis-server ended")
    async with asyncio.timeout(10):
        while (await fedgate.get("/readyz"))["degraded"]:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    assert fedgate.redis() != redis
    assert await fedgate.get("/api/routes") == routes


async def test_workers_outlive_a_killed_coordinator_and_the_next_one_adopts_them(start: Start):
    first = await start(workers=2)
    await first.says("ready, listening on")
    workers, redis = [first.worker("w1"), first.worker("w2")], first.redis()
    listening = (await first.get("/api/status"))["listening"]
    before = {worker["id"] for worker in await first.get("/api/workers")}
    await first.die()
    waiting = [connect_to(listening["websocket"][0]), connect_to(listening["local"][0])]

    second = await start(workers=2)
    await second.says("ready, listening on")
    assert f"adopted the running redis-server, pid {redis.pid}" in second.seen
    assert [second.worker("w1"), second.worker("w2")] == workers
    status = await second.get("/api/status")
    assert {key: status["listening"][key] for key in ("websocket", "local", "dns")} == {
        key: listening[key] for key in ("websocket", "local", "dns")
    }
    shown = await second.until("/api/workers", lambda all: all[0]["routes"] or all[1]["routes"])
    assert {worker["id"] for worker in shown} == before
    assert [worker["state"] for worker in shown] == ["running", "running"]
    outbound = (await second.get("/api/ledger"))["outbound"]
    assert (outbound["accepted"], outbound["in_flight"]) == (6, 6)

    # One that dies now is replaced, and the new one accepts on the same sockets.
    workers[0].send(signal.SIGKILL)
    await second.says("ended, its exit code is not known")
    line = await second.says("w1 works, sockets")
    assert "websocket=" in line and "local=" in line
    await second.until("/readyz", lambda answer: not answer["degraded"])
    for sock in waiting:
        sock.close()

    second.process.send_signal(signal.SIGTERM)
    assert await second.ends() == 0
    totals = json.loads((second.home / "ledger" / "closed.json").read_text())["totals"]
    assert totals[:2] == [9, 6]  # accepted by three workers, acknowledged by two


def connect_to(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)))


async def test_workers_on_other_sockets_than_are_configured_now_must_go(start: Start):
    first = await start()
    await first.says("w1 works")
    worker = first.worker("w1")
    await first.die()
    with socket.create_server(("127.0.0.1", 0)) as free:
        local = f"127.0.0.1:{free.getsockname()[1]}"
    second = await start(local=local)
    await second.says(f"the workers of the former coordinator must go: local.listen is {local} now")
    await second.says(f"stopping worker pid {worker.pid}, left by a former coordinator")
    await second.says("w1 works")
    assert (await second.get("/api/status"))["listening"]["local"] == [local]
    assert not worker.is_alive()


async def test_an_adopted_worker_that_hangs_is_replaced(start: Start):
    first = await start(gateway="hang_timeout = 2")
    await first.says("w1 works")
    worker = first.worker("w1")
    await first.die()
    worker.send(signal.SIGSTOP)
    second = await start(gateway="hang_timeout = 2")
    # It cannot hand over its sockets: it must go.
    await second.says("gives no sockets: no answer in time")
    await second.says("w1 works")
    assert second.worker("w1") != worker


async def test_a_worker_that_hangs_is_killed_and_replaced(start: Start):
    fedgate = await start(gateway="hang_timeout = 2")
    await fedgate.says("is ready, pid")  # one that starts has a deadline of its own
    fedgate.worker("w1").send(signal.SIGSTOP)
    await fedgate.says("has reported nothing for 2 s: killed")
    await fedgate.says("ended, killed by SIGKILL")
    await fedgate.says("w1 works")
    assert any("nothing for 2 s" in e["text"] for e in await fedgate.get("/api/errors"))


async def test_a_worker_that_loops_for_ever_is_killed(tmp_path: Path, start: Start):
    (tmp_path / "behaviour").write_text("loop")
    fedgate = await start(gateway="hang_timeout = 1")
    await fedgate.says("is ready, pid")
    assert (await fedgate.order("reload")).ok
    await fedgate.says(" s: killed")
    await fedgate.says("ended, killed by SIGKILL")


async def test_workers_are_replaced_one_by_one_the_new_one_first(start: Start):
    fedgate = await start(workers=2)
    await fedgate.says("ready, listening on")
    before = [fedgate.worker("w1"), fedgate.worker("w2")]
    reply = await fedgate.order("restart")
    assert reply.ok and reply.text.startswith("2 workers are replaced")
    seen = len(fedgate.seen)
    await fedgate.says("w2 told to drain")
    async with asyncio.timeout(15):
        await asyncio.gather(*(wait_gone(process) for process in before))
    steps = re.findall(r"w[12](?:\.\w+ is ready| told to drain)", fedgate.seen[seen:])
    assert [re.sub(r"\.\w+", "", step) for step in steps] == [
        "w1 is ready",
        "w1 told to drain",
        "w2 is ready",
        "w2 told to drain",
    ]
    assert fedgate.worker("w1") and fedgate.worker("w2")
    assert not await fedgate.get("/api/errors") or "ended" not in fedgate.seen[seen:]


async def test_a_successor_that_cannot_boot_leaves_the_present_worker_alone(
    start: Start, tmp_path: Path
):
    fedgate = await start()
    await fedgate.says("ready, listening on")
    worker = fedgate.worker("w1")
    (tmp_path / "behaviour").write_text("boot-error")
    assert (await fedgate.order("restart")).ok
    await fedgate.says("stays, for its successor ended")
    assert worker.is_alive()
    assert (await fedgate.get("/readyz")) == {"ready": True, "degraded": []}


async def test_a_worker_that_grew_too_large_is_replaced(start: Start, tmp_path: Path):
    (tmp_path / "behaviour").write_text("fat")
    fedgate = await start()
    await fedgate.says("w1 works")
    (tmp_path / "behaviour").write_text("")
    await fedgate.says("uses 2000000000 bytes of memory, gateway.max_worker_rss is 1073741824")
    await fedgate.says("is ready, pid")
    await fedgate.says("w1 told to drain")
    await fedgate.until("/api/workers", lambda all: [w["rss_bytes"] for w in all] == [1000])


async def test_a_reload_takes_what_is_sound_and_refuses_what_is_broken(
    start: Start, tmp_path: Path
):
    fedgate = await start()
    await fedgate.says("ready, listening on")
    worker = fedgate.worker("w1")
    file = tmp_path / "fedgate.toml"
    sound = file.read_text()

    file.write_text(
        sound.replace("drain_timeout = 5", "drain_timeout = 7") + "[limits]\ndepth = 40"
    )
    reply = await fedgate.order("reload")
    assert reply == Reply(
        True,
        "certificates and configuration were read again; "
        "in force: gateway.drain_timeout, limits.depth",
    )
    await fedgate.says("w1 told to reload")
    assert (await fedgate.get("/api/config"))["gateway"]["drain_timeout"] == 7

    file.write_text(sound.replace("drain_timeout = 5", "drain_timeout = soon"))
    reply = await fedgate.order("reload")
    assert not reply.ok and reply.text.startswith("nothing was changed: ")
    assert (await fedgate.get("/api/config"))["gateway"]["drain_timeout"] == 7
    assert (await fedgate.get("/api/errors"))[-1]["worker"] == "reload"

    # A worker that has to be replaced meanwhile does not read the broken file.
    worker.send(signal.SIGKILL)
    await fedgate.says("w1 works")


async def test_orders_about_sessions_are_answered_by_the_workers(start: Start):
    fedgate = await start()
    await fedgate.says("ready, listening on")
    pair = "a.example ↔ b.example"
    assert await fedgate.order("ping", "B.example") == Reply(True, f"{pair}: ping b.example")
    assert await fedgate.order("reconnect") == Reply(True, f"{pair}: reconnect ")
    assert await fedgate.order("close", "b.example") == Reply(False, f"{pair}: close b.example")
    assert not (await fedgate.order("ping", "not a domain")).ok


async def test_a_redis_that_stands_still_holds_up_no_replacement(start: Start):
    fedgate = await start()
    await fedgate.says("ready, listening on")
    redis = fedgate.redis()
    redis.send(signal.SIGSTOP)
    try:
        await fedgate.until("/readyz", lambda answer: "redis" in answer["degraded"])
        fedgate.worker("w1").send(signal.SIGKILL)
        before = time.monotonic()
        await fedgate.says("is ready, pid")
        assert time.monotonic() - before < 5
    finally:
        redis.send(signal.SIGCONT)


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
        False,
        "unknown order 'dance'; there are close, drain, ping, reconnect, reload, restart",
    )
    assert await fedgate.order("drain", "w7") == Reply(
        False, "no worker w7 runs here; there are w1"
    )
    assert (await fedgate.order("drain", "w1")).ok
    await fedgate.says("w1 told to drain")
    await fedgate.says("w1 works")  # its successor
    assert (await fedgate.order("drain")).ok
    assert await fedgate.ends() == 0
