"""An external component (XEP-0114) of a stage's server, on a raw stream: cheap enough for load.

Nothing is parsed but the handshake; whoever made it gets the bytes of the stream as they come.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable
from typing import cast

from loadtest.stage.addresses import COMPONENT_PORT
from loadtest.stage.processes import StageError

_STREAM_ID = re.compile(rb"<stream:stream [^>]*\bid=['\"]([^'\"]+)['\"]")
_HIGH_WATER = 1 << 20
_RETRY_INTERVAL = 0.1


class Component(asyncio.Protocol):
    """One connection after another as one domain; `connect()` first, `close()` last.

    `on_data(data)` gets what the server sends after the handshake, in pieces of any size;
    `on_lost()` is called when the connection ends without `close()`.
    """

    def __init__(
        self,
        domain: str,
        address: str,
        secret: str,
        on_data: Callable[[bytes], None],
        on_lost: Callable[[], None] = lambda: None,
        port: int | None = None,
    ) -> None:
        self.domain = domain
        self.is_open = False
        self.is_blocked = False
        """The server does not read: write nothing now."""
        self._address = address
        self._port = COMPONENT_PORT if port is None else port
        self._secret = secret
        self._on_data = on_data
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._greeting = b""
        self._ready: asyncio.Future[None] | None = None

    async def connect(self, within: float = 20) -> None:
        """Connect and shake hands, again and again until it works. Raises `StageError`."""
        problem: object = "no attempt"
        try:
            async with asyncio.timeout(within):
                while True:
                    try:
                        return await self._connect()
                    except (OSError, StageError) as exc:
                        problem = exc
                    await asyncio.sleep(_RETRY_INTERVAL)
        except TimeoutError:
            raise StageError(f"component {self.domain}: {problem}") from None

    def write(self, data: bytes) -> None:
        """Send stanzas; the connection must be open."""
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        """End the stream and the connection."""
        self.is_open = False
        if self._transport is not None:
            self._transport.write(b"</stream:stream>")
            self._transport.close()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._greeting = b""
        self._ready = loop.create_future()
        await loop.create_connection(lambda: self, self._address, self._port)
        await self._ready

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not one
        self.is_blocked = False
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._transport.write(
            b"<stream:stream xmlns='jabber:component:accept' "
            b"xmlns:stream='http://etherx.jabber.org/streams' to='%b'>" % self.domain.encode()
        )

    def data_received(self, data: bytes) -> None:
        if self.is_open:
            self._on_data(data)
            return
        self._greeting += data
        if b"<handshake" in self._greeting:
            self._open()
        elif b"stream:error" in self._greeting:
            self._fail(self._greeting.decode(errors="replace"))
        elif (found := _STREAM_ID.search(self._greeting)) is not None:
            self._greeting = b""
            digest = hashlib.sha1(found[1] + self._secret.encode()).hexdigest()
            assert self._transport is not None
            self._transport.write(f"<handshake>{digest}</handshake>".encode())

    def connection_lost(self, exc: Exception | None) -> None:
        was_open, self.is_open = self.is_open, False
        self._fail("the connection ended")
        if was_open:
            self._on_lost()

    def pause_writing(self) -> None:
        self.is_blocked = True

    def resume_writing(self) -> None:
        self.is_blocked = False

    def _open(self) -> None:
        # What follows the handshake's answer in the same read is not lost.
        _, _, rest = self._greeting.partition(b"<handshake")
        self._greeting = rest.partition(b">")[2].removeprefix(b"</handshake>")
        self.is_open = True
        assert self._ready is not None
        if not self._ready.done():
            self._ready.set_result(None)
        if self._greeting:
            self._on_data(self._greeting)

    def _fail(self, reason: str) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(StageError(reason))
