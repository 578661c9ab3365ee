"""Where each actor of the stage lives: an own loopback address, so default ports never meet."""

import fcntl
import ipaddress
import os
from pathlib import Path
from typing import IO

# Stages of other processes (a demo left running, a second test run) hold other slots.
_SLOTS = range(10, 250)
_LISTENING = "0A"  # TCP_LISTEN in the kernel's tables

C2S_PORT = 5222
S2S_PORT = 5269
COMPONENT_PORT = 5347
# Of the lines that attach a gateway to ejabberd: a listener of its own.
ATTACH_PORT = 5348
LOCAL_PORT = 5271
STEERING_PORT = 5053
ADMIN_PORT = 5290
WEBSOCKET_PORT = 443
DNS_PORT = 53


class Addresses:
    """One slot `127.<slot>.0.0/16`, reserved for this process until `release()`.

    Raises `RuntimeError` when no slot is free.
    """

    def __init__(self, lock_dir: Path = Path("/tmp")) -> None:
        self._lock, self.slot = _reserve(lock_dir)
        self.network = ipaddress.ip_network(f"127.{self.slot}.0.0/16")

    def of(self, actor: int) -> str:
        """The address of an actor, 1..254."""
        return f"127.{self.slot}.{actor}.1"

    def release(self) -> None:
        """Give the slot back. The lock file stays: removing it would race with the next taker."""
        self._lock.close()


def _has_listeners(slot: int) -> bool:
    """Whether processes of a stage that was killed still listen on addresses of the slot."""
    begins = f"{slot:02X}7F:"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, _, state = line.split()[1:4]
        # Hexadecimal, in the order of this machine: 127.10.21.1 port 443 is 01150A7F:01BB.
        if state == _LISTENING and local[4:9] == begins:
            return True
    return False


def _reserve(lock_dir: Path) -> tuple[IO[str], int]:
    for slot in _SLOTS:
        path = lock_dir / f"fedgate-stage-{slot}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        lock = os.fdopen(descriptor, "r+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        if _has_listeners(slot):
            lock.close()
            continue
        return lock, slot
    raise RuntimeError(f"no free loopback slot: {len(_SLOTS)} stages are running")
