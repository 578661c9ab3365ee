"""Streams as they arrive at the local port: peek at the header, then hand each on untouched, once.

Where to is the control plane's decision: served by this worker, passed to another one of this
machine, or through to the machine of the pair's owner. Who cannot be reached is doubted, and the
decision made again without it: better another owner than no stream (design.md §1.6).
"""

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

from coordinator.client import ControlPlane
from coordinator.config import Config
from coordinator.routes import DomainPair, HandTo, Serve, SpliceTo, gateway_of
from workers.gateway.gateway_splice import splice_to_gateway, take_greeting
from workers.gateway.listening import Listening
from workers.gateway.native import NativeFailed, Splice
from workers.gateway.peek import PeekFailed, peek_header
from workers.gateway.siblings import Siblings, SiblingUnavailable

log = logging.getLogger(__name__)

# Seconds until a failed accept is tried again.
ACCEPT_RETRY = 0.5
ACCEPTED_AT_ONCE = 64


class Arrivals:
    """Accepts streams and finds their place. Set the callbacks before `start`.

    `serve(sock, pair)`: the pair is ours; afterwards the socket is somebody else's, or closed.
    `pass_through(sock, pair)`: the local domain is none of ours. `spliced(splice, pair)`: another
    machine serves it. `left(pair)`: a stream of the pair is no longer on its way in here.
    """

    def __init__(self, config: Config, control: ControlPlane, siblings: Siblings) -> None:
        self.serve: Callable[[socket.socket, DomainPair], Awaitable[None]]
        self.pass_through: Callable[[socket.socket, DomainPair], Awaitable[None]]
        self.spliced: Callable[[Splice, DomainPair], None]
        self.left: Callable[[DomainPair], None]
        self.waiting: Counter[DomainPair] = Counter()
        """Streams of each pair whose place is being found."""
        self._config = config
        self._control = control
        self._siblings = siblings
        self._gateway = gateway_of(control.worker_id)
        self._listening = Listening(self._accept)
        self._unplaced = 0
        self._tasks: set[asyncio.Task[None]] = set()
        siblings.on_socket = self._on_socket
        siblings.on_withdrawn = self._on_withdrawn

    def start(self, sockets: list[socket.socket]) -> None:
        """Accept on sockets that are bound; other workers may accept on the same."""
        self._listening.start(sockets)

    def stop(self) -> None:
        """Accept nothing more; what was accepted still finds its place (`are_left`)."""
        self._listening.stop()

    @property
    def are_left(self) -> bool:
        """Streams are on their way: whoever ends now hangs up on them."""
        return self._unplaced > 0

    async def close(self) -> None:
        """Hang up on what has no place yet."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that belongs to streams on their way; what is left at `close` is ended."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _accept(self, listening: socket.socket) -> None:
        """Not `sock_accept`: cancelled in the wrong moment it loses what it has accepted."""
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                # Out of descriptors: the connection waits in the backlog until some are free.
                log.error("cannot accept a local stream: %s", exc)
                self._listening.rest(listening, ACCEPT_RETRY)
                return
            sock.setblocking(False)
            self.spawn(self._guard(sock, self._peek, sock))

    async def _guard(
        self, sock: socket.socket, work: Callable[..., Coroutine[Any, Any, None]], *args: Any
    ) -> None:
        """Close the socket if the work that is to hand it on fails or is cancelled."""
        self._unplaced += 1
        try:
            await work(*args)
        except BaseException:
            hang_up(sock)
            raise
        finally:
            self._unplaced -= 1

    async def _peek(self, sock: socket.socket) -> None:
        try:
            from_gateway = await take_greeting(sock, self._gateway)
            peeked = await peek_header(sock)
        except PeekFailed as exc:
            log.info("a local connection is no stream: %s", exc.reason)
            hang_up(sock)
            return
        pair = DomainPair(peeked.sender, peeked.recipient)
        if pair.local in self._config.gateway.domains:
            await self._find_place(sock, pair, 0, from_gateway)
        else:
            log.info("%s is not a domain of this gateway: its stream is passed through", pair.local)
            await self.pass_through(sock, pair)

    async def _find_place(
        self, sock: socket.socket, pair: DomainPair, passed: int, from_gateway: bool
    ) -> None:
        with self._on_its_way(pair):
            while True:
                place = await self._control.place(pair, passed=passed, from_gateway=from_gateway)
                if isinstance(place, Serve):
                    await self.serve(sock, pair)
                    return
                try:
                    if isinstance(place, HandTo):
                        await self._hand_to(place, sock, pair, passed, from_gateway)
                    else:
                        await self._splice_to(place, sock, pair)
                    return
                except (SiblingUnavailable, NativeFailed) as exc:
                    log.warning("%s → %s does not get to its owner: %s", *pair, exc)
                    self._control.doubt(place.worker)

    @contextlib.contextmanager
    def _on_its_way(self, pair: DomainPair) -> Iterator[None]:
        self.waiting[pair] += 1
        try:
            yield
        finally:
            self.waiting[pair] -= 1
            if not self.waiting[pair]:
                del self.waiting[pair]
            self.left(pair)

    async def _hand_to(
        self, place: HandTo, sock: socket.socket, pair: DomainPair, passed: int, from_gateway: bool
    ) -> None:
        info = {"pair": list(pair), "passed": passed + 1, "from_gateway": from_gateway}
        await self._siblings.send_socket(place.worker, sock, info)

    async def _splice_to(self, place: SpliceTo, sock: socket.socket, pair: DomainPair) -> None:
        try:
            splice = await splice_to_gateway(sock, place.address, gateway_of(place.worker))
        except OSError as exc:
            log.info("%s → %s broke before it was passed on: %s", *pair, exc)
            return
        log.info("%s → %s: passed through to %s", *pair, place.worker)
        self.spliced(splice, pair)

    # What siblings pass to us.

    def _on_socket(self, sock: socket.socket, info: dict[str, Any]) -> None:
        match info:
            case {
                "pair": [str(local), str(remote)],
                "passed": int(passed),
                "from_gateway": bool(from_gateway),
            }:
                pair = DomainPair(local, remote)
                self.spawn(self._guard(sock, self._find_place, sock, pair, passed, from_gateway))
            case _:
                hang_up(sock)

    def _on_withdrawn(self, info: dict[str, Any]) -> None:
        """We were too slow for a sibling: it will have taken the pair."""
        match info.get("pair"):
            case [str(local), str(remote)]:
                self.spawn(self._control.verify(DomainPair(local, remote)))

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("a local stream failed inside", exc_info=exc)


def hang_up(sock: socket.socket) -> None:
    """Close a stream that was only peeked at: with FIN, which unread bytes would make a reset."""
    with contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.recv(65536)
    sock.close()
