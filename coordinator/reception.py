"""The coordinator's end of the control socket."""

import asyncio
import itertools
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from coordinator import control
from coordinator.authority import Authority, LeafRefusal
from coordinator.control import Command, ControlProtocolError, Hello, Order, Reply

log = logging.getLogger(__name__)

Verb = Literal["drain", "stop", "reload"]
Rows = list[dict[str, Any]]


@dataclass(slots=True)
class Link:
    """A worker that is connected and what it reported last; `reported_at` 0: nothing yet."""

    worker: str
    pid: int
    writer: asyncio.StreamWriter
    connected_at: float
    report: dict[str, Any] = field(default_factory=dict)
    reported_at: float = 0.0


class Reception:
    """Serves workers and the command line. Set `on_hello`, `on_gone`, `on_order` before start."""

    def __init__(self, state_dir: str | Path, authority: Authority) -> None:
        self.links: dict[str, Link] = {}
        self.on_hello: Callable[[Link], None] = lambda link: None
        self.on_ready: Callable[[Link], None] = lambda link: None
        """A worker has reported for the first time on its connection: it serves."""
        self.on_gone: Callable[[Link], None] = lambda link: None
        self.on_order: Callable[[Order], Awaitable[Reply]] = _refuse
        self._path = control.socket_path(state_dir)
        self._authority = authority
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        self._questions: dict[int, asyncio.Future[Rows]] = {}
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        """Listen. The caller holds the lock of the state directory. Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX)
        previous = os.umask(0o177)
        try:
            sock.bind(str(self._path))
        finally:
            os.umask(previous)
        self._server = await asyncio.start_unix_server(self._on_connection, sock=sock)

    async def close(self) -> None:
        """Stop listening and hang up."""
        if self._server is not None:
            self._server.close()
        for task in self._conversations:
            task.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    def command(self, worker: str, verb: Verb) -> bool:
        """Tell a worker to do something; False if it is not connected."""
        link = self.links.get(worker)
        if link is None:
            return False
        link.writer.write(control.encode(Command(verb)))
        return True

    def command_all(self, verb: Verb) -> None:
        for worker in self.links:
            self.command(worker, verb)

    async def ask(self, worker: str, verb: str, argument: str, timeout: float) -> Rows | None:
        """Ask a worker and wait for its answer; None if none came within `timeout` seconds."""
        link = self.links.get(worker)
        if link is None:
            return None
        number = next(self._numbers)
        answer: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self._questions[number] = answer
        link.writer.write(control.encode(control.Request(number, verb, argument)))
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._questions[number]

    async def ask_all(
        self, verb: str, argument: str = "", *, timeout: float = 2.0
    ) -> dict[str, Rows | None]:
        """Ask every worker at the same time; the answers by worker."""
        workers = list(self.links)
        answers = await asyncio.gather(
            *(self.ask(worker, verb, argument, timeout) for worker in workers)
        )
        return dict(zip(workers, answers, strict=True))

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None  # a stream callback that is a coroutine runs in a task
        self._conversations.add(task)
        try:
            first = await control.read_message(reader)
            if isinstance(first, Hello):
                await self._serve_worker(first, reader, writer)
            elif isinstance(first, Order):
                writer.write(control.encode(await self.on_order(first)))
                await writer.drain()
            else:
                raise ControlProtocolError(f"{type(first).__name__} before Hello")
        except (EOFError, OSError):
            pass  # gone: an everyday end of a connection
        except ControlProtocolError as exc:
            log.error("control socket: %s", exc)
        except asyncio.CancelledError:
            pass  # close() hangs up; nobody awaits this task's outcome
        finally:
            self._conversations.discard(task)
            writer.close()

    async def _serve_worker(
        self, hello: Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        link = Link(hello.worker, _peer_pid(writer) or hello.pid, writer, time.time())
        self.links[link.worker] = link
        writer.write(control.encode(control.Welcome(self._authority.dialback_secret)))
        self.on_hello(link)
        try:
            while True:
                message = await control.read_message(reader)
                if isinstance(message, control.Report):
                    is_first = not link.reported_at
                    link.report, link.reported_at = message.snapshot, time.time()
                    if is_first:
                        self.on_ready(link)
                elif isinstance(message, control.Answer):
                    answer = self._questions.get(message.request)
                    if answer is not None and not answer.done():
                        answer.set_result(message.rows)
                elif isinstance(message, control.LeafRequest):
                    writer.write(control.encode(self._leaf(link, message)))
                else:
                    raise ControlProtocolError(f"unexpected {type(message).__name__}")
        finally:
            if self.links.get(link.worker) is link:
                del self.links[link.worker]
            self.on_gone(link)

    def _leaf(
        self, link: Link, request: control.LeafRequest
    ) -> control.LeafIssued | control.LeafRefused:
        if request.purpose not in ("route", "session"):
            return control.LeafRefused(request.request, f"unknown purpose {request.purpose!r}")
        try:
            leaf = self._authority.issue(request.domain)
        except LeafRefusal as exc:
            log.warning("no certificate for %s, asked by %s: %s", request.domain, link.worker, exc)
            return control.LeafRefused(request.request, str(exc))
        return control.LeafIssued(
            request.request, leaf.certificate_pem, leaf.key_pem, leaf.not_after
        )


def _peer_pid(writer: asyncio.StreamWriter) -> int:
    """The pid of the other side as the kernel knows it (0: unknown)."""
    sock = writer.get_extra_info("socket")
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[:4], "little")


async def _refuse(order: Order) -> Reply:
    return Reply(False, f"{order.verb} is not possible now")
