"""A fedgate gateway on the stage: its fedgate.toml, its processes, its admin API."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from loadtest.stage.addresses import ADMIN_PORT, LOCAL_PORT, STEERING_PORT, WEBSOCKET_PORT
from loadtest.stage.authority import KeyPair
from loadtest.stage.processes import StageError, StageProcess, eventually

_FEDGATE = (sys.executable, "-P", "-m", "coordinator.cli")

Options = Mapping[str, Mapping[str, Any]]


class Gateway:
    """One `fedgate up` with its own address, state directory, and configuration file.

    `options` holds tables of fedgate.toml; `configure()` changes single keys before a start.
    """

    def __init__(
        self,
        name: str,
        domains: tuple[str, ...],
        address: str,
        directory: Path,
        *,
        certificate: KeyPair,
        trust: Path,
        server: tuple[str, int],
        upstream_dns: str,
        log: Path,
        workers: int = 2,
        log_level: str = "debug",
    ) -> None:
        directory.mkdir(parents=True)
        self.name = name
        self.domains = domains
        self.address = address
        self.directory = directory
        self.public_host = f"gw.{domains[0]}"
        self.public_address = address
        """Where DNS says that it is; set before it is attached to put a proxy before it."""
        self.config = directory / "fedgate.toml"
        self.log = log
        self.options: dict[str, dict[str, Any]] = {
            "gateway": {
                "domains": list(domains),
                "name": name,
                "workers": workers,
                "state_dir": str(directory / "state"),
                "drain_timeout": 10.0,
                "log_level": log_level,
            },
            "certificates": {
                "pairs": [
                    {"certificate": str(certificate.certificate), "key": str(certificate.key)}
                ],
                "trust": str(trust),
            },
            "websocket": {
                "listen": [f"{address}:{WEBSOCKET_PORT}"],
                "public_url": f"wss://{self.public_host}/xmpp-s2s",
            },
            "local": {
                "server": f"{server[0]}:{server[1]}",
                "listen": f"{address}:{LOCAL_PORT}",
                "advertise": f"{address}.",
                "dns": f"{address}:{STEERING_PORT}",
                "upstream_dns": [upstream_dns],
            },
            "admin": {"listen": f"{address}:{ADMIN_PORT}"},
            "discovery": {"allow_networks": ["127.0.0.0/8"], "native_ttl": 5},
            # Half of the default: who is away on the stage is back in seconds, or stays away.
            "limits": {"resend_timeout": 10.0},
        }
        self.process = StageProcess(
            name, [*_FEDGATE, "up", "--config", str(self.config)], log, directory=directory
        )

    @property
    def state_dir(self) -> Path:
        return Path(self.options["gateway"]["state_dir"])

    def configure(self, table: str, **keys: Any) -> None:
        """Set keys of a table of fedgate.toml for the next start; None removes a key."""
        target = self.options.setdefault(table, {})
        for key, value in keys.items():
            if value is None:
                target.pop(key, None)
            else:
                target[key] = value

    def write_config(self) -> None:
        self.config.write_text(to_toml(self.options))

    async def run(self, *arguments: str, within: float = 30) -> str:
        """Run a `fedgate` command with this configuration and return what it prints.

        Raises `StageError` with both outputs on a non-zero exit.
        """
        code, out, error = await self.run_any(*arguments, within=within)
        if code != 0:
            raise StageError(f"fedgate {' '.join(arguments)} exited with {code}\n{out}{error}")
        return out

    async def run_any(self, *arguments: str, within: float = 30) -> tuple[int, str, str]:
        """Like `run()`, for any outcome: exit code, standard output, standard error."""
        self.write_config()
        process = await asyncio.create_subprocess_exec(
            *_FEDGATE,
            *arguments,
            "--config",
            str(self.config),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, error = await asyncio.wait_for(process.communicate(), within)
        except TimeoutError:
            process.kill()
            out, error = await process.communicate()
            text = out.decode() + error.decode()
            raise StageError(f"fedgate {' '.join(arguments)} hangs:\n{text}") from None
        return process.returncode or 0, out.decode(), error.decode()

    async def attach_files(self, server: str) -> dict[str, str]:
        """What `fedgate attach prosody|ejabberd` prints, by file of the local server.

        The server must be running: its key is read and pinned on the way.
        """
        answer = json.loads(await self.run("attach", server, "--json"))
        files: dict[str, str] = answer["files"]
        return files

    async def start(self, within: float = 30) -> None:
        """`fedgate up`; returns when /readyz answers 200 and every worker runs."""
        self.write_config()
        self.process.start()
        await self.process.wait_for_port(self.address, ADMIN_PORT, within)
        await self.wait_ready(within)

    async def wait_ready(self, within: float = 30) -> None:
        """Wait until it accepts streams and as many workers run as were configured."""
        expected = self.options["gateway"]["workers"]
        seen: Any = "no answer"
        try:
            async with asyncio.timeout(within):
                while True:
                    try:
                        seen = await self.api("workers")
                    except (aiohttp.ClientError, TimeoutError) as exc:
                        seen = repr(exc)
                    else:
                        running = [each for each in seen if each["state"] == "running"]
                        if len(running) >= expected and await self._status("/readyz") == 200:
                            return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise StageError(
                f"{self.name} not ready within {within:g} s: {seen}\n{self.process.log_tail()}"
            ) from None

    async def stop(self) -> None:
        """TERM: drain and stop. Whatever a killed coordinator left behind is killed."""
        await self.process.stop(within=20)
        for pid in self.leftover_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def kill(self) -> None:
        """KILL the coordinator alone; its workers and its Redis go on."""
        await self.process.kill()

    def leftover_pids(self) -> list[int]:
        """Processes, other than the one we started, that were given a path of this gateway."""
        own = self.process.pid if self.process.is_running else 0
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and int(entry.name) != own and self._is_ours(entry)
        ]

    def redis_pid(self) -> int:
        """The process id of the embedded redis-server. Raises `StageError` when there is none."""
        for pid in self.leftover_pids():
            if b"redis-server" in _command(Path(f"/proc/{pid}")):
                return pid
        raise StageError(f"{self.name} runs no redis-server of its own")

    def _is_ours(self, entry: Path) -> bool:
        try:
            folder = (entry / "cwd").resolve()
        except OSError:
            return False
        command = _command(entry)
        if b"redis-server" in command:
            # It overwrites its arguments, but works in the state directory.
            return folder.is_relative_to(self.directory) or _names(command, self.directory)
        return b"workers.worker" in command and _names(command, self.directory)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def api(self, what: str) -> Any:
        """`/api/<what>` of the admin API, decoded."""
        timeout = aiohttp.ClientTimeout(total=5)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(f"http://{self.address}:{ADMIN_PORT}/api/{what}") as response,
        ):
            if response.status != 200:
                raise StageError(f"{self.name}: /api/{what} answered {response.status}")
            return await response.json()

    async def ledger(self) -> dict[str, dict[str, Any]]:
        """`/api/ledger`: "outbound" and "inbound" sums of all workers ever."""
        ledger: dict[str, dict[str, Any]] = await self.api("ledger")
        return ledger

    async def sessions(self, remote: str = "") -> list[dict[str, Any]]:
        """The wss sessions, or those with one remote domain; streams passed through are not."""
        sessions: list[dict[str, Any]] = await self.api("sessions")
        return [
            session
            for session in sessions
            if session["direction"] != "native"
            and (not remote or remote in {other for _, other in session["domain_pairs"]})
        ]

    async def wait_session(
        self, remote: str, direction: str = "", *, count: int = 1, within: float = 10
    ) -> list[dict[str, Any]]:
        """The sessions with a remote domain, once workers have reported `count` of them.

        They do so each second.

        Raises `StageError`.
        """
        found: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(within):
                while True:
                    sessions = await self.sessions(remote)
                    found = [each for each in sessions if direction in ("", each["direction"])]
                    if len(found) >= count:
                        return found
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise StageError(f"{self.name}: {len(found)} sessions with {remote}") from None

    async def wait_components(self, count: int, within: float = 15) -> None:
        """Wait until so many components of the local server are connected. Raises `StageError`."""

        try:
            async with asyncio.timeout(within):
                while True:
                    # A stream, unlike a hop that uses one, has nothing waiting.
                    streams = [each for each in await self.sessions() if "waiting" not in each]
                    ways = [each["authenticated_by"] for each in streams]
                    if ways.count("component") == count:
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise StageError(
                f"{self.name}: not all {count} components are connected after {within:g} s\n"
                f"{self.process.log_tail()}"
            ) from None

    async def worker_pids(self) -> list[int]:
        return [int(worker["pid"]) for worker in await self.api("workers")]

    async def wait_settled(self, within: float = 15) -> dict[str, dict[str, Any]]:
        """Wait until nothing is in flight in either direction, and return that ledger."""
        ledger: dict[str, dict[str, Any]] = {}
        try:
            async with asyncio.timeout(within):
                while True:
                    ledger = await self.ledger()
                    if all(ledger[side]["in_flight"] == 0 for side in ("outbound", "inbound")):
                        return ledger
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise StageError(f"{self.name}: still in flight after {within:g} s: {ledger}") from None

    async def wait_gone(self, pid: int, within: float = 10) -> None:
        """Wait until a process of this gateway is no more."""
        path = Path(f"/proc/{pid}")
        await eventually(lambda: not path.exists(), within=within, what=f"process {pid} is gone")

    async def _status(self, path: str) -> int:
        timeout = aiohttp.ClientTimeout(total=5)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(f"http://{self.address}:{ADMIN_PORT}{path}") as response,
        ):
            return response.status


def _names(command: bytes, directory: Path) -> bool:
    return str(directory).encode() + b"/" in command


def _command(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def to_toml(tables: Options) -> str:
    """Write tables of strings, numbers, booleans, lists and inline tables as TOML."""
    lines: list[str] = []
    for table, keys in tables.items():
        lines.append(f"[{table}]")
        lines += [f"{json.dumps(key)} = {_value(value)}" for key, value in keys.items()]
        lines.append("")
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    # JSON strings, numbers and booleans are TOML's too.
    return json.dumps(value, ensure_ascii=False)
