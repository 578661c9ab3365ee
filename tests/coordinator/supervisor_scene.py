"""The coordinator as a process, with workers that have no data plane (see fake/)."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

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
