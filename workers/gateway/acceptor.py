"""The public port's accepting side: a few connections per turn of the loop, none without a place.

Whoever floods us with connections costs each turn little, and waits in the kernel's queue.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

from workers.gateway.admission import Admission, Entry
from workers.gateway.channel import Channel, adopt_channel
from workers.gateway.listening import Listening

log = logging.getLogger(__name__)

ACCEPTED_PER_TURN = 4
# Seconds until a failed accept is tried again: the listening socket stays readable meanwhile.
ACCEPT_RETRY = 0.5
# Seconds until it is seen whether one of the strangers has made place for another.
FULL_INTERVAL = 0.05
# Strangers that make room for others when there are no descriptors left at all.
SHED_AT_ONCE = 16
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """`make(entry)` makes the channel of a connection that was let in; it leaves by itself."""

    def __init__(self, admission: Admission, make: Callable[[Entry], Channel]) -> None:
        self._admission = admission
        self._make = make
        self._listening = Listening(self._accept)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, sockets: list[socket.socket]) -> None:
        """Accept on sockets that listen; other workers may accept on the same."""
        self._listening.start(sockets)

    def stop(self) -> None:
        """Accept nothing more."""
        self._listening.stop()

    def _accept(self, listening: socket.socket) -> None:
        admission = self._admission
        for accepted in range(ACCEPTED_PER_TURN):
            if reason := admission.why_wait:
                # Whoever waits in the kernel's queue costs nothing, and has its place in time, or
                # one in another worker.
                if not accepted:
                    admission.refusals.note(reason, "there is no place", "strangers wait")
                self._listening.rest(listening, FULL_INTERVAL)
                return
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                self._on_failed(listening, exc)
                return
            entry = admission.enter(_host_of(address), sock.fileno())
            if entry is None:
                # Before TLS: saying why would cost us more than it costs the peer to come again.
                sock.close()
            else:
                self._let_in(sock, entry)

    def _on_failed(self, listening: socket.socket, exc: OSError) -> None:
        """Out of descriptors: the connection waits in the kernel's queue until some are free."""
        log.error("cannot accept a connection: %s", exc)
        if exc.errno in _OUT_OF_RESOURCES:
            self._admission.shed(SHED_AT_ONCE, "descriptors")
        self._listening.rest(listening, ACCEPT_RETRY)

    def _let_in(self, sock: socket.socket, entry: Entry) -> None:
        task = asyncio.create_task(self._adopt(sock, entry))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _adopt(self, sock: socket.socket, entry: Entry) -> None:
        try:
            await adopt_channel(self._make(entry), sock)
        except OSError as exc:
            log.debug("%s was gone before it was served: %s", entry.address, exc)
            entry.leave()


def _host_of(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) else ""
