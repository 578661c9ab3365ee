"""Peeked stream headers: once found it is the same with every byte that follows."""

from tests.fuzz.reading import HEADER, pieces
from workers.gateway.peek import Peeked, PeekFailed, find_header

SEEDS = [
    HEADER + b"<message/>",
    b"\xef\xbb\xbf \n" + HEADER,
    b"\x16\x03\x01\x02\x00\x01",
    HEADER.replace(b"capulet", b"<!--x-->"),
    b"<!DOCTYPE a>" + HEADER,
    HEADER.replace(b"montague.example", b"m\xc3\xb6ntague.example."),
]


def check(data: bytes) -> None:
    seen = b""
    for piece in pieces(data):
        seen += piece
        found = _peek(seen)
        if found is not None:
            assert _peek(data) == found
            return
    assert _peek(data) is None


def _peek(data: bytes) -> Peeked | str | None:
    try:
        return find_header(data)
    except PeekFailed as exc:
        assert exc.reason
        return "failed"
