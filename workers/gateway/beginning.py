"""The beginning of a stream from Prosody, put into the order its users sent.

Prosody 0.12 sends at once what its users send after `<success/>`, and what it had queued before
(or sends again) only when it has the features that follow, with `<enable/>` right behind: the newer
comes first. Newer is what was read before our features were out, and what comes before the first
stanza that Prosody marks as sent again. Where nothing tells, the order of arrival stays. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass

from workers.gateway.flow import Batch
from workers.xmpp.stanza import Stanza, has_delay

# How long `<enable/>` is waited for, in seconds: from a server that has sent one before, and from
# one that may never do so (ejabberd).
WAIT_KNOWN = 1.0
WAIT_UNKNOWN = 0.05


@dataclass(slots=True)
class _Held:
    batch: Batch
    is_early: bool


class Beginning:
    """Holds what a stream brings before `<enable/>`.

    `domain` is the local server's, which it names in its marks; `is_repeat` knows requests that
    came before, which carry none.
    """

    def __init__(self, domain: str, is_repeat: Callable[[Stanza], bool]) -> None:
        self._domain = domain
        self._is_repeat = is_repeat
        self._newer: list[Batch] = []
        self._held: list[_Held] = []
        self._has_mark = False

    def cut(self, stanzas: list[Stanza]) -> list[list[Stanza]]:
        """The runs to be held one after the other: a new one begins with the first mark."""
        if self._has_mark:
            return [stanzas]
        first = next((at for at, each in enumerate(stanzas) if self._is_marked(each)), None)
        if first is None:
            return [stanzas]
        return [stanzas[:first], stanzas[first:]] if first else [stanzas]

    def hold(self, batch: Batch, *, is_early: bool) -> None:
        """The next run, accepted; `is_early`: it was read before our features were out."""
        if not self._has_mark and self._is_marked(batch.stanzas[0]):
            self._has_mark = True
            self._newer += [each.batch for each in self._held]
            self._held.clear()
        self._held.append(_Held(batch, is_early and not self._has_mark))

    def in_order(self) -> list[Batch]:
        """All that is held, the older first; afterwards nothing is."""
        older = [each.batch for each in self._held if not each.is_early]
        early = [each.batch for each in self._held if each.is_early]
        newer, self._newer = self._newer, []
        self._held.clear()
        return older + newer + early

    def _is_marked(self, stanza: Stanza) -> bool:
        return has_delay(stanza.data, self._domain) or self._is_repeat(stanza)
