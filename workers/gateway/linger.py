"""The end of a connection that we have closed: until the peer has taken all and closed, too."""

import asyncio
from collections.abc import Callable

# How long it may go on without progress before it is cut, and with some.
LINGER_TIMEOUT = 2.0
LONGEST_LINGER = 30.0


class Linger:
    """Waits for the peer's FIN as long as it takes our bytes; cuts a peer that stands still.

    `on_stuck()` is called before it is cut because it does not read. `stop` when the connection is
    gone.
    """

    __slots__ = ("_left", "_loop", "_on_stuck", "_timer", "_transport", "_until")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        on_stuck: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._on_stuck = on_stuck
        self._until = loop.time() + LONGEST_LINGER
        self._left = transport.get_write_buffer_size()
        self._timer = loop.call_later(LINGER_TIMEOUT, self._look)

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        left = self._transport.get_write_buffer_size()
        if left != self._left and self._loop.time() <= self._until:
            self._left = left
            self._timer = self._loop.call_later(LINGER_TIMEOUT, self._look)
        elif left:
            self._on_stuck()
            self._transport.abort()
        else:
            self._transport.close()
