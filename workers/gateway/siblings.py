"""Workers of one machine talk to each other here: sockets are handed over, drains reported.

Every worker listens on one unix socket named after it. A packet is one JSON object, with at most
one file descriptor (SCM_RIGHTS). A descriptor is acknowledged: a stopped worker takes packets, too,
until its buffers are full. Without an acknowledgement in time the sender withdraws the packet, and
a receiver that comes to it later cannot acknowledge it any more, so lets it go: never do both
serve the stream.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from coordinator.handover import socket_name as socket_name
from coordinator.unix_sockets import peer_uid, received_sockets
from workers.gateway.peek import wait_readable

log = logging.getLogger(__name__)

_MAX_PACKET = 65536
_BACKLOG = 1024
_SEND_TIMEOUT = 2.0
ACKNOWLEDGE_TIMEOUT = 1.0
"""Seconds in which a worker must take a socket that is handed to it."""
_TAKEN = b"taken"


class SiblingUnavailable(Exception):
    """The other worker is gone or does not read; what was to be sent is still ours."""


class Siblings:
    """This worker's end of the unix sockets between the workers of a machine.

    Set `on_socket(sock, info)`, `on_message(message)` and `on_withdrawn(info)` before `start()`. A
    received socket is non-blocking and belongs to the callback. `on_withdrawn`: the sender gave us
    up before we came to its packet.
    """

    def __init__(self, run_dir: str | Path, worker_id: str) -> None:
        self.worker_id = worker_id
        self.on_socket: Callable[[socket.socket, dict[str, Any]], None] = _refuse_socket
        self.on_message: Callable[[dict[str, Any]], None] = _ignore_message
        self.on_withdrawn: Callable[[dict[str, Any]], None] = _ignore_message
        self._run_dir = Path(run_dir)
        self._directory = -1
        self._listener: socket.socket | None = None
        self._incoming: set[socket.socket] = set()

    async def start(self) -> None:
        """Listen. Raises OSError when the directory or the socket cannot be made."""
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = os.open(self._run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(socket_name(self.worker_id), dir_fd=self._directory)
            listener.bind(self._address(self.worker_id))
            # Nobody can connect before listen(), so there is no moment with wider rights.
            os.chmod(socket_name(self.worker_id), 0o600, dir_fd=self._directory)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._on_connection)

    async def close(self) -> None:
        """Stop listening and remove the socket. Packets that already arrived are lost."""
        loop = asyncio.get_running_loop()
        if self._listener is not None:
            loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):
                os.unlink(socket_name(self.worker_id), dir_fd=self._directory)
        for connection in list(self._incoming):
            self._drop(connection)
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    async def send_socket(self, worker_id: str, sock: socket.socket, info: dict[str, Any]) -> None:
        """Hand `sock` to another worker; on return it has it and our copy is closed.

        Raises `SiblingUnavailable`; then `sock` is still open, and only ours.
        """
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", sock.fileno()))]
        await self._send(worker_id, info, rights)
        sock.close()

    async def send_message(self, worker_id: str, message: dict[str, Any]) -> None:
        """Send one JSON object of at most 64 KiB. Raises `SiblingUnavailable`."""
        await self._send(worker_id, message, [])

    async def _send(self, worker_id: str, message: dict[str, Any], ancillary: list[Any]) -> None:
        packet = msgspec.json.encode(message)
        if len(packet) > _MAX_PACKET:
            raise SiblingUnavailable(f"a message of {len(packet)} bytes is too large")
        # A connection per packet: it costs 0.1 ms per stream and has no stale state to look after.
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(_SEND_TIMEOUT):
                await self._connect(connection, worker_id)
            connection.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)
            if ancillary and not await _is_acknowledged(connection):
                raise SiblingUnavailable(f"worker {worker_id} does not take a stream")
        except TimeoutError:
            raise SiblingUnavailable(f"worker {worker_id} does not answer") from None
        except OSError as exc:
            raise SiblingUnavailable(f"worker {worker_id} is away: {exc.strerror}") from None
        finally:
            connection.close()

    async def _connect(self, connection: socket.socket, worker_id: str) -> None:
        while True:
            try:
                connection.connect(self._address(worker_id))
                return
            except BlockingIOError:
                # A full backlog cannot be waited for with poll (unix(7)): look again shortly.
                await asyncio.sleep(0.005)

    def _address(self, worker_id: str) -> str:
        # state_dir may be longer than sun_path allows; the way through our descriptor is short.
        return f"/proc/self/fd/{self._directory}/{socket_name(worker_id)}"

    def _on_connection(self) -> None:
        assert self._listener is not None
        for _ in range(64):
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            connection.setblocking(False)
            if peer_uid(connection) not in (0, os.getuid()):
                connection.close()
                continue
            self._incoming.add(connection)
            asyncio.get_running_loop().add_reader(connection, self._on_packet, connection)

    def _on_packet(self, connection: socket.socket) -> None:
        space = socket.CMSG_SPACE(4 * struct.calcsize("i"))
        try:
            packet, ancillary, flags, _ = connection.recvmsg(
                _MAX_PACKET + 1, space, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(connection)
            return
        received = received_sockets(ancillary)
        if not packet:
            self._drop(connection)
        elif flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(received) > 1:
            log.warning("a sibling's packet is malformed: dropped")
        else:
            self._deliver(connection, packet, received)
        for sock in received:
            sock.close()

    def _deliver(
        self, connection: socket.socket, packet: bytes, received: list[socket.socket]
    ) -> None:
        try:
            message = msgspec.json.decode(packet, type=dict[str, Any])
        except msgspec.DecodeError:
            log.warning("a sibling's packet is not JSON: dropped")
            return
        if not received:
            self.on_message(message)
            return
        try:
            connection.send(_TAKEN, socket.MSG_NOSIGNAL)
        except OSError:
            self.on_withdrawn(message)
        else:
            self.on_socket(received.pop(), message)

    def _drop(self, connection: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(connection)
        self._incoming.discard(connection)
        connection.close()


async def _is_acknowledged(connection: socket.socket) -> bool:
    """Wait for the other's word that it has the socket; afterwards it can give it no more."""
    try:
        async with asyncio.timeout(ACKNOWLEDGE_TIMEOUT):
            await wait_readable(connection)
    except TimeoutError:
        # What was sent before this can still be read; what would be sent after it fails.
        connection.shutdown(socket.SHUT_RD)
    return connection.recv(len(_TAKEN)) == _TAKEN


def _refuse_socket(sock: socket.socket, info: dict[str, Any]) -> None:
    sock.close()


def _ignore_message(message: dict[str, Any]) -> None:
    log.debug("a sibling's message came before anybody listens: %r", message)
