"""Holding back the sources of a hop that is full: TCP then holds back whoever sends to them."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from workers.gateway.outbox import Outbox


class Pausable(Protocol):
    """A source of stanzas that can be held back."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class QueueLimit:
    """How many bytes may wait in one hop, the same for all: less while all of them hold much."""

    __slots__ = ("busy", "bytes")

    def __init__(self, bytes: int) -> None:
        self.bytes = bytes
        self.busy: set[Outbox] = set()
        """The hops' outboxes in which something is, or was a moment ago."""


class Pace:
    """The sources that one hop holds back."""

    def __init__(self) -> None:
        self.held: list[Pausable] = []

    def hold(self, source: Pausable) -> None:
        """Pause a source, once."""
        if source not in self.held:
            source.pause()
            self.held.append(source)

    def release(self) -> None:
        """Let all go on. One that fills the hop again at once may be held again meanwhile."""
        held, self.held = self.held, []
        for source in held:
            source.resume()
