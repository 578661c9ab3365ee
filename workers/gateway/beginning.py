"""The beginning of a stream from Prosody, put into the order its users sent.

Prosody 0.12 sends at once what its users send after `<success/>`, and what it had queued before
(or sends again) only when it has seen the features that follow, in one write with `<enable/>`: the
newer comes first. So what came in earlier writes is newer, and so is what comes before the first
stanza that Prosody marks as sent again. Where nothing tells, the order of arrival stays. Pure.
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

    def cut(self, stanzas: list[Stanza]) -> list[list[Stanza]]:
        """The runs to be held one after the other: a new one begins with the first mark."""
        if any(each.is_marked for each in self._held):
            return [stanzas]
        first = next((at for at, each in enumerate(stanzas) if self._is_marked(each)), None)
        return [run for run in (stanzas[:first], stanzas[first:]) if run] if first else [stanzas]

    def hold(self, batch: Batch, write: int) -> None:
        """The next run, accepted; `write` counts the peer's writes."""
        self._held.append(_Held(batch, write, self._is_marked(batch.stanzas[0])))

    def in_order(self, *, is_enabled: bool) -> list[Batch]:
        """All that is held, the older first; `is_enabled`: `<enable/>` has come behind it."""
        held, self._held = self._held, []
        first = 0
        if is_enabled and held:
            marks = [at for at, each in enumerate(held) if each.is_marked]
            last_write = held[-1].write
            last_writes = [at for at, each in enumerate(held) if each.write == last_write]
            first = marks[0] if marks else last_writes[0]
        return [each.batch for each in held[first:] + held[:first]]

    def _is_marked(self, stanza: Stanza) -> bool:
        return has_delay(stanza.data, self._domain) or self._is_repeat(stanza)
