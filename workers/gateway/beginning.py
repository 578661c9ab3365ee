"""The beginning of a stream from Prosody, put into the order its users sent where that can be told.

Prosody 0.12 sends at once what its users send after `<success/>`, and what it had queued before
only when it has seen the features that follow: the newer comes first. If the queue begins with what
is sent again it can be recognised, by Prosody's mark, and goes first. Without one nothing tells the
two apart (their sizes and times say too little): the order of arrival stays. Requests and answers
bear no mark: just before the first one they are as likely the first of the queue as the last of
what overtook it, and count as the former; but not a request that nobody has read before if one
behind it is known to have been read. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from workers.gateway.batch import Batch
from workers.xmpp.stanza import Stanza, has_delay

# How long `<enable/>` is waited for, in seconds: from a server that has sent one before, and from
# one that may never do so (ejabberd).
WAIT_KNOWN = 2.0
WAIT_UNKNOWN = 0.5


class Sign(Enum):
    """What tells if a run is of the queue."""

    NONE = "none"
    UNSURE = "unsure"
    """Requests and answers just before the first mark."""
    MARK = "mark"


@dataclass(slots=True)
class _Held:
    batch: Batch
    write: int
    sign: Sign


class Beginning:
    """Holds what a stream brings before `<enable/>`.

    `domain` is the local server's, which it names in its marks; `is_repeat` knows requests that
    came before, which carry none.
    """

    def __init__(self, domain: str, is_repeat: Callable[[Stanza], bool]) -> None:
        self._domain = domain
        self._is_repeat = is_repeat
        self._held: list[_Held] = []
        self._has_mark = self._has_repeat = self._has_doubt = False

    def cut(self, stanzas: list[Stanza]) -> list[tuple[list[Stanza], Sign]]:
        """The runs to be held one after the other, and what each tells."""
        first = len(stanzas)
        for at, stanza in enumerate(stanzas):
            is_repeat = self._is_repeat(stanza)
            self._has_repeat |= is_repeat
            # Behind the first mark no other is looked for: that may take a parse.
            if first == len(stanzas) and (is_repeat or has_delay(stanza.data, self._domain)):
                first = at
        if first == len(stanzas):
            return [(stanzas, Sign.NONE)]
        if self._has_mark:
            return [(stanzas, Sign.MARK)]
        self._has_mark = True
        unsure = first
        while unsure and stanzas[unsure - 1].name == "iq":
            unsure -= 1
        self._has_doubt = any(stanza.is_request for stanza in stanzas[unsure:first])
        runs = [
            (stanzas[:unsure], Sign.NONE),
            (stanzas[unsure:first], Sign.UNSURE),
            (stanzas[first:], Sign.MARK),
        ]
        return [(run, sign) for run, sign in runs if run]

    def hold(self, batch: Batch, write: int, sign: Sign) -> None:
        """The next run, accepted; `write` counts the peer's writes."""
        self._held.append(_Held(batch, write, sign))

    def in_order(self, *, is_enabled: bool) -> list[Batch]:
        """All that is held, the queue first; `is_enabled`: `<enable/>` has come behind it."""
        held, self._held = self._held, []
        marks = [at for at, each in enumerate(held) if each.sign is Sign.MARK]
        if not marks or not is_enabled:
            return [each.batch for each in held]
        start, last_write = marks[0], held[marks[-1]].write
        is_newer = self._has_doubt and self._has_repeat
        if start and held[start - 1].sign is Sign.UNSURE and not is_newer:
            start -= 1
        end = max(at for at, each in enumerate(held) if each.write == last_write) + 1
        return [each.batch for each in held[start:end] + held[:start] + held[end:]]
