"""Caps on the shape of one element, and on names that not every parser reads as we do.

All is measured on what our serializer wrote: it knows no comments, no CDATA and no `<` or `>` but
those of tags, and in values it escapes `"`.
"""

import re
from functools import lru_cache

from coordinator.config import Limits
from workers.xmpp.reader import expat_reads

# ` a=""` is the shortest attribute.
_SHORTEST_ATTRIBUTE = 5
_TAGS = re.compile(rb"</|/>|<")
_ATTRIBUTE = re.compile(rb'\s([^\s="]+)="[^"]*"')
_NAME = re.compile(rb"</?([^\s/>]*)")
# Up to `>` or the first byte beyond ASCII. Possessive, else it would cost twice.
_TAG_BEYOND_ASCII = re.compile(rb"<[^>\x80-\xff]*+[^>]")
_START_TAG = re.compile(rb"<[^/>][^>]*>")
# Of those that cannot be: `}` and what is, or is written as, a control character.
_UNFIT_NAMESPACE = re.compile(
    rb'\sxmlns(?::[^\s="]*)?="[^"]*?(?:[}\x00-\x1f\x7f]|\xc2[\x80-\x9f]|&#(?:9|10|13);)'
)
_UNFIT = re.compile("[}\x00-\x1f\x7f-\x9f]")


class Shape:
    """The caps of `limits` on the elements of a stream."""

    __slots__ = (
        "_limits",
        "_long_tag",
        "_plain_tag",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Tags that are shorter than this break no cap; most pieces have no longer one.
        self._plain_tag = min(_SHORTEST_ATTRIBUTE * limits.attributes, limits.name_bytes)
        self._long_tag = re.compile(b"<[^>]{%d}" % self._plain_tag)

    def plain_size(self, max_elements: int) -> int:
        """Elements that are no larger, in bytes, keep all caps and need not be measured.

        A level of nesting costs at least `<a></a>`, an element `<a/>`. Counting 300 bytes would
        cost 0.5 µs.
        """
        return min(7 * self._limits.depth, 4 * max_elements, self._plain_tag)

    def flaw(self, data: bytes, max_elements: int) -> str:
        """Which cap a serialised element breaks; "" if none."""
        closing = data.count(b"</")
        if data.count(b"<") - closing > max_elements:
            return "too many elements"
        if closing >= self._limits.depth and _depth(data) > self._limits.depth:
            return "nested too deeply"
        if self._long_tag.search(data) is not None:
            return self._flaw_of_tags(data)
        return ""

    def _flaw_of_tags(self, data: bytes) -> str:
        limits = self._limits
        for match in _START_TAG.finditer(data):
            tag = match[0]
            if len(tag) <= self._plain_tag:
                continue
            names = [_NAME.match(tag)[1], *_ATTRIBUTE.findall(tag)]  # type: ignore[index]
            if max(map(len, names)) > limits.name_bytes:
                return "too long a name"
            declared = sum(name == b"xmlns" or name.startswith(b"xmlns:") for name in names)
            if max(declared, len(names) - 1 - declared) > limits.attributes:
                return "too many attributes"
        return ""


def _depth(data: bytes) -> int:
    depth = deepest = 0
    for tag in _TAGS.findall(data):
        if tag == b"<":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


# Names.


def is_beyond_ascii(written: bytes) -> bool:
    """Whether a tag has more than ASCII: in a name, which `odd_name` looks into, or in a value."""
    # The former costs nothing; the latter 0.9 µs a stanza.
    return not written.isascii() and _TAG_BEYOND_ASCII.search(written) is not None


def odd_name(data: bytes) -> str:
    """What about the names in a serialised element another parser may read otherwise; "" if none.

    libxml2 takes the names of XML 1.0's fifth edition, expat those of the fourth: where it meets
    another, a server that uses it ends the stream that all users share. `}` and control characters
    in a namespace name are what parsers and libraries separate it from the local name with
    (CVE-2022-25236).
    """
    if _UNFIT_NAMESPACE.search(data) is not None:
        return "a namespace name that not all parsers read alike"
    for match in _START_TAG.finditer(data):
        tag = match[0]
        if tag.isascii():
            continue
        for name in (_NAME.match(tag)[1], *_ATTRIBUTE.findall(tag)):  # type: ignore[index]
            if not name.isascii() and not _is_read_by_all(name):
                return "a name that not all parsers read"
    return ""


def is_unfit(namespace: str) -> bool:
    """Whether a namespace name is one that `odd_name` finds."""
    return _UNFIT.search(namespace) is not None


@lru_cache(maxsize=1024)
def _is_read_by_all(name: bytes) -> bool:
    return expat_reads(b"<" + name + b"/>", namespaces=False)
