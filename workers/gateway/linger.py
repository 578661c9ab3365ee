"""The end of a connection that we have closed: until the peer has taken all and closed, too."""

import asyncio

# How long it may go on without progress before it is cut, and with some.
LINGER_TIMEOUT = 2.0
LONGEST_LINGER = 30.0


class Linger:
    """Waits for the peer's FIN as long as it takes our bytes; cuts a peer that stands still.

    `stop` it when the connection is gone.
    """

    __slots__ = ("_left", "_loop", "_timer", "_transport", "_until", "is_stuck")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._left = -1
        self._until = loop.time() + LONGEST_LINGER
        self.is_stuck = False
        """The connection was cut, for the peer stopped reading."""
        self._look()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        left = self._transport.get_write_buffer_size()
        if left != self._left and self._loop.time() <= self._until:
            self._left = left
            self._timer = self._loop.call_later(LINGER_TIMEOUT, self._look)
        elif left:
            self.is_stuck = True
            self._transport.abort()
        else:
            self._transport.close()
