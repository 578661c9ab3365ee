"""Real processes: started, watched and stopped by process id, their output in log files."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

_POLL_INTERVAL = 0.02


class StageError(RuntimeError):
    """Something did not come up or go down; the text ends with the log's last lines."""


async def eventually(
    condition: Callable[[], object], *, within: float, what: str | Callable[[], str]
) -> None:
    """Wait until the condition holds. Raises `StageError` naming `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            text = what if isinstance(what, str) else what()
            raise StageError(f"not within {within:g} s: {text}")
        await asyncio.sleep(_POLL_INTERVAL)


async def until_interrupted(work: Coroutine[Any, Any, object]) -> None:
    """Do it, with its cleaning up, even if INT or TERM comes: then raises `CancelledError`."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    await task


def accepts(address: str, port: int) -> bool:
    """Whether somebody accepts TCP connections there."""
    with socket.socket() as sock:
        sock.settimeout(0.5)
        return sock.connect_ex((address, port)) == 0


class StageProcess:
    """One child process with its own session, so that a signal to the terminal does not reach it.

    `user` names the account it runs as when we are root; as another user it runs as ourselves.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        user: str = "",
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._directory = directory
        self._environment = {**os.environ, **(environment or {})}
        if user and os.geteuid() == 0:
            identity = [f"--reuid={user}", f"--regid={user}", "--init-groups"]
            self._command = ["setpriv", *identity, *self._command]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> tuple[str, ...]:
        """The command line."""
        return tuple(self._command)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise StageError(f"{self.name} was not started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start it; the caller then waits for what it needs, with `wait_for`."""
        if self.is_running:
            raise StageError(f"{self.name} is running already")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=self._environment,
                start_new_session=True,
            )

    async def wait_for_port(self, address: str, port: int, within: float = 20) -> None:
        """Wait until it accepts there. Raises `StageError` when it exits or is too slow."""
        await self.wait_for(lambda: accepts(address, port), f"{address}:{port} accepts", within)

    async def wait_for(self, condition: Callable[[], object], what: str, within: float) -> None:
        """Wait for a condition while the process lives. Raises `StageError`."""

        def settled() -> bool:
            return not self.is_running or bool(condition())

        await eventually(
            settled, within=within, what=lambda: f"{self.name}: {what}\n{self.log_tail()}"
        )
        if not self.is_running:
            raise StageError(f"{self.name} exited with {self.exit_code}\n{self.log_tail()}")

    async def stop(self, within: float = 15) -> None:
        """TERM, then KILL when it has not gone in time. Does nothing when it is not running."""
        if not self.is_running:
            return
        self.send_signal(signal.SIGTERM)
        try:
            await eventually(lambda: not self.is_running, within=within, what=self.name)
        except StageError:
            await self.kill()

    async def kill(self) -> None:
        """KILL it and wait until it is gone; its children are left to themselves."""
        if self.is_running:
            self.send_signal(signal.SIGKILL)
            await eventually(lambda: not self.is_running, within=5, what=f"{self.name} is gone")

    def send_signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def log_tail(self, lines: int = 25) -> str:
        if not self.log.exists():
            return ""
        text = self.log.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])
