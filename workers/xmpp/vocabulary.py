"""How many names a stranger makes libxml2 learn, found out before it reads them.

Every new name costs memory for ever (see `names`): one element of 8 KB can bring a thousand. So as
long as a stream is not authenticated, `<`, `=` and `&` are counted, without which there is no name.
Those of the names and namespaces of a handshake, known already, are not counted, so a stream may
ask for many pairs. What it may have besides is for features we do not know.
"""

import re

from workers.xmpp import namespaces
from workers.xmpp.errors import RemoteProtocolError, StanzaCondition, StreamCondition

_MOST_UNKNOWN = 64  # a feature of a future server takes 5 to 10
_PIECE = 1024
_LONGEST_TAIL = 1024  # bytes without `>`; a name that is cut there counts as unknown

_CONDITIONS = {each.value for each in StreamCondition} | {each.tag for each in StanzaCondition}
_LOCAL_NAMES = _CONDITIONS | {
    tag.rpartition("}")[2]
    for tag in (
        *(namespaces.NONZAS | namespaces.FRAMING),
        *(namespaces.STREAM_HEADER, namespaces.HANDSHAKE, namespaces.MECHANISMS),
        *(namespaces.MECHANISM, namespaces.SM_FEATURE, namespaces.LIMITS_ELEMENT),
        *(namespaces.MAX_BYTES, namespaces.IDLE_SECONDS, namespaces.DIALBACK_FEATURE_ELEMENT),
    )
}
_LOCAL_NAMES |= {"errors", "required", "optional", "text"}
_PREFIXES = "stream|db|[a-z]|ns[0-9]"  # the latter are what libraries make up
_ATTRIBUTES = "from|to|id|version|type|mechanism|xml:lang|h|max|resume|previd|location|encoding"
_NAMESPACES = (
    *(namespaces.SERVER, namespaces.COMPONENT, namespaces.STREAM, namespaces.DIALBACK),
    *(namespaces.FRAMING_SERVER, namespaces.FRAMING_CLIENT, namespaces.STREAM_ERRORS),
    *(namespaces.STANZA_ERRORS, namespaces.TLS, namespaces.SASL, namespaces.SM, namespaces.BIDI),
    *(namespaces.BIDI_FEATURE, namespaces.DIALBACK_FEATURE, namespaces.LIMITS),
)
_NAME = "|".join(sorted(map(re.escape, _LOCAL_NAMES)))
_NAMESPACE = "|".join(map(re.escape, _NAMESPACES))
# Each match holds exactly one of the three bytes. What it names is one of finitely many things.
_KNOWN = re.compile(
    "|".join(
        (
            rf"</?(?:(?:{_PREFIXES}):)?(?:{_NAME})(?=[\s/>])",
            r"<\?xml(?=\s)",
            rf"(?<=\s)(?:{_ATTRIBUTES})=",
            rf"(?<=\s)xmlns(?::(?:{_PREFIXES}))?=(?=(['\"])(?:{_NAMESPACE})\1)",
            r"&(?=#|(?:amp|lt|gt|quot|apos);)",
        )
    ).encode()
)


class Vocabulary:
    """What one stream has brought; fed with all it sends until it is authenticated."""

    __slots__ = ("_tail", "_tail_marks", "_unknown")

    def __init__(self) -> None:
        self._unknown = 0
        self._tail = b""
        self._tail_marks = 0

    def take(self, data: bytes) -> None:
        """Count what is in data, which may begin and end anywhere. Raises policy-violation."""
        # Piece by piece: who exceeds it does so soon, and the rest need not be searched.
        for at in range(0, len(data), _PIECE):
            self._take_piece(data[at : at + _PIECE])

    def _take_piece(self, data: bytes) -> None:
        self._tail += data
        self._tail_marks += _marks(data)
        # Looked at with care only if need be: a name that is not complete yet cannot be known.
        length = len(self._tail)
        if length <= _LONGEST_TAIL and self._unknown + self._tail_marks <= _MOST_UNKNOWN:
            return
        end = self._tail.rfind(b">") + 1
        if length - end > _LONGEST_TAIL:
            end = length
        self._unknown += _count_unknown(self._tail[:end])
        self._tail = self._tail[end:]
        self._tail_marks = _marks(self._tail)
        if self._unknown + _count_unknown(self._tail) > _MOST_UNKNOWN:
            raise RemoteProtocolError(
                StreamCondition.POLICY_VIOLATION, "too many names before authentication"
            )


def _marks(data: bytes) -> int:
    return data.count(b"<") + data.count(b"=") + data.count(b"&")


def _count_unknown(data: bytes) -> int:
    return _marks(data) - sum(1 for _ in _KNOWN.finditer(data))
