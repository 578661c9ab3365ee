"""Server dialback keys and the correlation of answers with questions (XEP-0220, XEP-0185)."""

import hmac
from hashlib import sha256


def dialback_key(secret: bytes, *, receiving: str, originating: str, stream_id: str) -> str:
    """The key for one stream (XEP-0185 §2).

    The HMAC key is the lower-case *hexadecimal text* of SHA-256(secret), not its raw bytes: that is
    what reproduces both specifications' vectors.
    """
    text = sha256(secret).hexdigest().encode()
    message = f"{receiving} {originating} {stream_id}".encode()
    return hmac.new(text, message, sha256).hexdigest()


def is_our_key(
    key: str, secret: bytes, *, receiving: str, originating: str, stream_id: str
) -> bool:
    """Compare in constant time: the key is a capability (CVE-2021-32921)."""
    ours = dialback_key(secret, receiving=receiving, originating=originating, stream_id=stream_id)
    return hmac.compare_digest(ours.encode(), key.encode("utf-8", "replace"))


# One for all streams that ask nothing: a set of its own takes 0.2 KiB.
_NONE: frozenset[tuple[str, ...]] = frozenset()


class Outstanding:
    """The questions asked on one stream.

    An answer counts only once and only if its question was asked on this very stream
    (XEP-0220 §3.1; CVE-2012-3525 and its kin).
    """

    __slots__ = ("_asked", "_limit")

    def __init__(self, limit: int = 64) -> None:
        self._asked = _NONE
        self._limit = limit

    def __len__(self) -> int:
        return len(self._asked)

    def ask(self, *question: str) -> bool:
        """Remember a question; False if it is open already or too many others are."""
        if question in self._asked or len(self._asked) >= self._limit:
            return False
        self._asked |= {question}
        return True

    def settle(self, *question: str) -> bool:
        """True if the question was open; it no longer is."""
        if question in self._asked:
            self._asked = self._asked - {question} or _NONE
            return True
        return False
