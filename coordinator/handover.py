"""Listening sockets that outlive a coordinator: every worker keeps copies and hands them back.

A coordinator that was killed takes none of its sockets along, for the workers inherited them. The
next one asks a living worker over a unix socket 0600 and gets them as they are (SCM_RIGHTS): no
port is closed in between, and what waits in a backlog is accepted.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from coordinator.unix_sockets import peer_uid, received_sockets

log = logging.getLogger(__name__)

_MAX_PACKET = 65536
_MAX_SOCKETS = 200  # the kernel passes at most 253 at a time
# sun_path holds 108 bytes; the /proc/self/fd/<n>/ in front takes up to 24.
_MAX_NAME = 80


class HandoverFailed(Exception):
    """The worker does not hand its sockets over; one line with the reason."""


def handover_path(run_dir: Path, slot: str, pid: int) -> Path:
    """Where a worker process listens for the coordinator that wants the sockets."""
    return run_dir / f"{slot}.{pid}.sockets"


def socket_name(worker_id: str) -> str:
    """The file name of a worker's socket for its siblings; a long worker id becomes its digest."""
    name = worker_id.replace("/", "_") + ".sock"
    if len(name.encode()) > _MAX_NAME:
        name = hashlib.blake2b(worker_id.encode(), digest_size=16).hexdigest() + ".sock"
    return name


class SocketKeeper:
    """A worker's side: copies of its listening sockets, for whoever of our user asks."""

    def __init__(self, path: Path, descriptors: Mapping[str, Sequence[int]]) -> None:
        self._path = path
        self._copies = {name: [os.dup(n) for n in numbers] for name, numbers in descriptors.items()}
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Answer from now on. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            with _reachable(self._path) as address:
                self._path.unlink(missing_ok=True)
                listener.bind(address)
            # Nobody can connect before listen(), so there is no moment with wider rights.
            self._path.chmod(0o600)
            listener.listen(4)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._on_connection)

    def close(self) -> None:
        """Give no more, and close the copies."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)
        for numbers in self._copies.values():
            for number in numbers:
                os.close(number)
        self._copies.clear()

    def _on_connection(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection:
            if peer_uid(connection) not in (0, os.getuid()):
                return
            connection.setblocking(False)
            names = {name: len(numbers) for name, numbers in self._copies.items()}
            flat = [number for numbers in self._copies.values() for number in numbers]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(flat)}i", *flat))]
            with contextlib.suppress(OSError):  # it has given up waiting
                connection.sendmsg([msgspec.json.encode(names)], rights, socket.MSG_NOSIGNAL)


def receive_sockets(path: Path, *, timeout: float = 2.0) -> dict[str, list[socket.socket]]:
    """Get a worker's listening sockets by what they are for; they are ours to close.

    Blocks for at most `timeout` seconds. Raises `HandoverFailed`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(timeout)
        try:
            with _reachable(path) as address:
                connection.connect(address)
            packet, ancillary, flags, _ = connection.recvmsg(
                _MAX_PACKET, socket.CMSG_SPACE(4 * _MAX_SOCKETS), socket.MSG_CMSG_CLOEXEC
            )
        except OSError as exc:  # TimeoutError is one
            raise HandoverFailed(exc.strerror or "no answer in time") from exc
    received = received_sockets(ancillary)
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise HandoverFailed("the answer was cut short")
        return _named(packet, received)
    except BaseException:
        for sock in received:
            sock.close()
        raise


def _named(packet: bytes, received: list[socket.socket]) -> dict[str, list[socket.socket]]:
    try:
        names = msgspec.json.decode(packet, type=dict[str, int])
    except msgspec.DecodeError as exc:
        raise HandoverFailed("the answer is not understood") from exc
    if sum(names.values()) != len(received) or min(names.values(), default=0) < 0:
        raise HandoverFailed(f"{sum(names.values())} sockets announced, {len(received)} received")
    rest = iter(received)
    return {name: [next(rest) for _ in range(count)] for name, count in names.items()}


@contextlib.contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """An address for a path that may be longer than sun_path allows: through a descriptor."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
