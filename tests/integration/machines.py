"""Machines of a cluster: network namespaces on a bridge, which can be parted and switched off."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from loadtest.stage.addresses import ADMIN_PORT, Addresses
from loadtest.stage.gateway import Gateway
from loadtest.stage.processes import StageError, StageProcess, eventually

REDIS_PORT = 6379


class Machines(Addresses):
    """Addresses `10.77.<slot>.<actor>`: those named here are machines, all others this one.

    Needs root. `release()` removes everything; processes in the namespaces must have ended.
    """

    def __init__(self, *actors: int) -> None:
        super().__init__()
        self._bridge = f"fg{self.slot}br"
        self._actors = actors
        self._here: set[int] = set()
        try:
            ip("link", "add", self._bridge, "type", "bridge")
            ip("link", "set", self._bridge, "up")
            for actor in actors:
                self._add(actor)
        except BaseException:
            self.release()
            raise

    def of(self, actor: int) -> str:
        address = f"10.77.{self.slot}.{actor}"
        if actor not in self._actors and actor not in self._here:
            self._here.add(actor)
            ip("addr", "add", f"{address}/24", "dev", self._bridge)
        return address

    def release(self) -> None:
        for actor in self._actors:
            # The pair goes at once; the namespace would keep it until its last process has ended.
            for words in (("link", "del", self._outer(actor)), ("netns", "del", self._name(actor))):
                with contextlib.suppress(StageError):
                    ip(*words)
        with contextlib.suppress(StageError):
            ip("link", "del", self._bridge)
        super().release()

    def command(self, actor: int, *words: str) -> list[str]:
        """A command line that runs on a machine."""
        return ["ip", "netns", "exec", self._name(actor), *words]

    def part(self, one: int, other: int) -> None:
        """What `one` sends to `other` is lost from now on: neither hears an answer."""
        ip("-n", self._name(one), "route", "add", "blackhole", f"{self.of(other)}/32")

    def join(self, one: int, other: int) -> None:
        """Undo `part`."""
        ip("-n", self._name(one), "route", "del", "blackhole", f"{self.of(other)}/32")

    async def switch_off(self, actor: int) -> None:
        """The machine is gone: nobody gets an answer, not even a refusal."""
        ip("link", "set", self._outer(actor), "down")
        pids = [int(pid) for pid in ip("netns", "pids", self._name(actor)).split()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        gone = [Path(f"/proc/{pid}/cwd") for pid in pids]
        await eventually(lambda: not any(map(_works, gone)), within=5, what="all is killed")

    def switch_on(self, actor: int) -> None:
        """The machine is reachable again; nothing runs on it."""
        ip("link", "set", self._outer(actor), "up")

    def _add(self, actor: int) -> None:
        name, outer = self._name(actor), self._outer(actor)
        ip("netns", "add", name)
        ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", outer, "master", self._bridge, "up")
        for device in ("lo", "eth0"):
            ip("-n", name, "link", "set", device, "up")
        ip("-n", name, "addr", "add", f"10.77.{self.slot}.{actor}/24", "dev", "eth0")

    def _name(self, actor: int) -> str:
        return f"fedgate-{self.slot}-{actor}"

    def _outer(self, actor: int) -> str:
        return f"fg{self.slot}m{actor}"


def move_gateway(gateway: Gateway, machines: Machines, actor: int) -> None:
    """Let a gateway that was not started yet run on a machine."""
    command = machines.command(actor, *gateway.process.command)
    gateway.process = StageProcess(gateway.name, command, gateway.log, directory=gateway.directory)
    assert gateway.options["admin"]["listen"] == f"{machines.of(actor)}:{ADMIN_PORT}"


def redis_on(machines: Machines, actor: int, directory: Path) -> StageProcess:
    """A redis-server for all machines; not started."""
    words = ("redis-server", "--bind", machines.of(actor), "--port", str(REDIS_PORT))
    words += ("--save", "", "--appendonly", "no", "--protected-mode", "no")
    command = machines.command(actor, *words)
    return StageProcess("redis", command, directory / "logs" / "redis.log", directory=directory)


def ip(*words: str) -> str:
    """Run `ip`, and return what it prints. Raises `StageError`."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise StageError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _works(link: Path) -> bool:
    # A killed process keeps its entry until its parent has looked, but no directory.
    try:
        link.readlink()
    except OSError:
        return False
    return True
