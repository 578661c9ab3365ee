"""The beginning of a stream from Prosody, put into the order its users sent where that can be told.

Prosody 0.12 sends at once what its users send after `<success/>`, and what it had queued before
only when it has seen the features that follow: the newer comes first. If the queue begins with what
is sent again it can be recognised, by Prosody's mark, and goes first. Without one nothing tells the
two apart (their sizes and times say too little): the order of arrival stays. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass

from workers.gateway.flow import Batch
from workers.xmpp.stanza import Stanza, has_delay

# How long `<enable/>` is waited for, in seconds: from a server that has sent one before, and from
# one that may never do so (ejabberd).
WAIT_KNOWN = 2.0
WAIT_UNKNOWN = 0.5


@dataclass(slots=True)
class _Held:
    batch: Batch
    write: int
    is_marked: bool


class Beginning:
    """Holds what a stream brings before `<enable/>`.

    `domain` is the local server's, which it names in its marks; `is_repeat` knows requests that
    came before, which carry none.
    """

    def __init__(self, domain: str, is_repeat: Callable[[Stanza], bool]) -> None:
        self._domain = domain
        self._is_repeat = is_repeat
        self._held: list[_Held] = []

    def cut(self, stanzas: list[Stanza]) -> list[tuple[list[Stanza], bool]]:
        """The runs to be held one after the other, and whether each has a mark.

        The first one that has begins with what it marks, or with requests and answers just before:
        these carry no mark, and are as likely the first of the queue as the last of what overtook.
        """
        first = next((at for at, each in enumerate(stanzas) if self._is_marked(each)), None)
        if first is None:
            return [(stanzas, False)]
        if any(each.is_marked for each in self._held):
            return [(stanzas, True)]
        while first and stanzas[first - 1].name == "iq":
            first -= 1
        before = [(stanzas[:first], False)] if first else []
        return [*before, (stanzas[first:], True)]

    def hold(self, batch: Batch, write: int, *, is_marked: bool) -> None:
        """The next run, accepted; `write` counts the peer's writes."""
        self._held.append(_Held(batch, write, is_marked))

    def in_order(self, *, is_enabled: bool) -> list[Batch]:
        """All that is held, the queue first; `is_enabled`: `<enable/>` has come behind it."""
        held, self._held = self._held, []
        marks = [at for at, each in enumerate(held) if each.is_marked]
        if not marks or not is_enabled:
            return [each.batch for each in held]
        start, last_write = marks[0], held[marks[-1]].write
        end = max(at for at, each in enumerate(held) if each.write == last_write) + 1
        return [each.batch for each in held[start:end] + held[:start] + held[end:]]

    def _is_marked(self, stanza: Stanza) -> bool:
        return has_delay(stanza.data, self._domain) or self._is_repeat(stanza)
