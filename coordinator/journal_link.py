"""A connection to Redis for one journal's appends, made of packed bytes and callbacks.

Measured (unix socket, entries of one stanza): 26 to 48 µs of CPU for an append and its answer here,
107 to 148 µs as a command awaited through the redis package, which still connects, authenticates
and finds the right server for us, also behind Sentinel and in a Cluster.
"""

import asyncio
from typing import Any, Protocol

import hiredis

from coordinator.journal import Append
from coordinator.redis_client import is_cluster


class LinkOwner(Protocol):
    """Who is told."""

    def append_answered(self, *, done: bool) -> None:
        """Redis answered the append; not `done`: it does not know the journal (any more)."""

    def link_lost(self) -> None:
        """The connection is gone."""


class JournalLink(asyncio.Protocol):
    """One journal's connection; at most one append is sent before its answer."""

    def __init__(self, key: str, owner: LinkOwner) -> None:
        self._owner = owner
        self._transport: Any = None
        self._stream: Any = None  # kept: it closes its transport when it is forgotten
        self._reader = hiredis.Reader()
        self._answers = 0
        self._is_done = True
        name = _word(key.encode())
        self._add = b"*9\r\n$4\r\nXADD\r\n" + name + b"$10\r\nNOMKSTREAM\r\n$5\r\nMINID\r\n"
        self._trim = b"*4\r\n$5\r\nXTRIM\r\n" + name + b"$5\r\nMINID\r\n"
        self._delete = b"$4\r\nXDEL\r\n" + name

    @classmethod
    async def open(cls, client: Any, key: str, owner: LinkOwner) -> "JournalLink":
        """Connect to the server that holds `key`. Raises what the redis package raises."""
        link = cls(key, owner)
        if is_cluster(client):
            await client.initialize()
            node = client.get_node_from_key(key)
            connection = node.connection_class(**node.connection_kwargs)
        else:
            connection = client.connection_pool.make_connection()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        # The package has no public way to its transport, and is only needed to connect.
        link._stream = connection._writer
        link._transport = connection._writer.transport
        connection._reader = connection._writer = None
        link._transport.set_protocol(link)
        return link

    @property
    def is_closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def send(self, append: Append) -> None:
        """Send an append; its answer comes by `append_answered`."""
        floor, parts = _number(append.floor), []
        if append.finished:
            numbers = [_number(number) for number in append.finished]
            parts += [b"*%d\r\n" % (len(numbers) + 2), self._delete, *numbers]
        if append.notes:
            parts += self._entry(append.number - 1, append.notes, floor)
        if append.payload:
            parts += self._entry(append.number, append.payload, floor)
        else:
            parts += [self._trim, floor]
        self._answers = 1 + bool(append.finished) + bool(append.notes)
        self._is_done = True
        self._transport.write(b"".join(parts))

    def close(self) -> None:
        """Drop the connection; nothing is told any more."""
        self._answers = 0
        self._owner = _Nobody()
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        answers = []
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not False:
                answers.append(answer)
        except hiredis.HiredisError:
            self._lose()
            return
        for answer in answers:
            if isinstance(answer, hiredis.PushNotification):
                continue
            self._answers -= 1
            if isinstance(answer, hiredis.ReplyError) or self._answers < 0:
                self._lose()
                return
            self._is_done &= answer is not None
            if not self._answers:
                self._owner.append_answered(done=self._is_done)

    def eof_received(self) -> None:
        self._lose()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose()

    def _entry(self, number: int, payload: bytes, floor: bytes) -> list[bytes]:
        at = _number(number)
        return [self._add, b"$1\r\n=\r\n", floor, at, b"$1\r\nd\r\n", _word(payload)]

    def _lose(self) -> None:
        owner = self._owner
        self.close()
        owner.link_lost()


class _Nobody:
    def append_answered(self, *, done: bool) -> None: ...

    def link_lost(self) -> None: ...


def _word(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def _number(number: int) -> bytes:
    return _word(b"%d" % number)
