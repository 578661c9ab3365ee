"""Domain names as both planes use them: lower-case A-labels without a trailing dot."""

from functools import lru_cache

import idna


class InvalidDomain(ValueError):
    """The text is not a domain name that XMPP allows (RFC 7622 §3.2)."""


@lru_cache(maxsize=4096)
def normalise_domain(text: str) -> str:
    """Return the domain as a lower-case A-label string.

    Raises `InvalidDomain` for anything that is not a host name: addresses in brackets, empty
    labels, labels over 63 octets, names over 255.
    """
    name = text.rstrip(".")
    if name.isascii():
        name = name.lower()
        labels = name.split(".")
        if len(name) > 255 or not all(_is_ascii_label(label) for label in labels):
            raise InvalidDomain(f"{text!r} is not a domain name")
        return name
    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError) as exc:
        raise InvalidDomain(f"{text!r} is not a domain name: {exc}") from exc


def _is_ascii_label(label: str) -> bool:
    return (
        0 < len(label) <= 63
        and label.replace("-", "a").replace("_", "a").isalnum()
        and label[0] != "-"
        and label[-1] != "-"
    )
