"""Why a connection is not read, each reason by itself; TCP holds the peer back meanwhile."""

import asyncio
from collections.abc import Callable

BY_OWNER = 1
BY_TURN = 2
BY_RATE = 4
BY_HANDSHAKE = 8
BY_REST = 16

_REST_CHECK = 0.01


class HeldReading(asyncio.BufferedProtocol):
    """The half of a channel that says when it reads. A closing one reads until its end."""

    __slots__ = ("_closing", "_held", "_loop", "_transport")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._closing = False
        self._held = 0

    def pause_reading(self) -> None:
        """Stop reading, for the owner's reasons; nothing already read is kept behind."""
        self._hold(BY_OWNER)

    def resume_reading(self) -> None:
        self._let_go(BY_OWNER)

    def rest(self, seconds: float) -> None:
        """Read nothing for so long, whatever the owner does: the peer has sent its share.

        While it rests nothing is read, so nobody can ask for a second rest.
        """
        self._hold(BY_RATE)
        self._loop.call_later(seconds, self._let_go, BY_RATE)

    @property
    def is_resting(self) -> bool:
        """Nothing is read, be it an answer, until `rest` is over."""
        return bool(self._held & BY_RATE)

    def pass_turn(self, go_on: Callable[[], None]) -> None:
        """Read nothing before `go_on` was called, in the next turn of the loop."""
        self._hold(BY_REST)
        self._loop.call_soon(self._go_on, go_on)

    def _go_on(self, go_on: Callable[[], None]) -> None:
        if self._held & BY_RATE:
            # Its share is used up: what it has sent already waits, too, or the debt would grow.
            self._loop.call_later(_REST_CHECK, self._go_on, go_on)
            return
        self._let_go(BY_REST)
        go_on()

    def _hold(self, why: int) -> None:
        if self._transport is not None and not self._closing:
            if not self._held:
                self._transport.pause_reading()
            self._held |= why

    def _let_go(self, why: int) -> None:
        if self._transport is not None and self._held & why:
            self._held ^= why
            if not self._held:
                self._transport.resume_reading()
