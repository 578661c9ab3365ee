"""Domain names as both planes use them: lower-case A-labels without a trailing dot."""

import unicodedata
from functools import lru_cache

import idna

# What some software takes for a dot between labels (RFC 3490 §3.1).
FULL_STOPS = ".\u3002\uff0e\uff61"


class InvalidDomain(ValueError):
    """The text is not a domain name that XMPP allows (RFC 7622 §3.2)."""


@lru_cache(maxsize=4096)
def normalise_domain(text: str) -> str:
    """Return the domain as a lower-case A-label string.

    Raises `InvalidDomain` for anything that is not a host name: addresses in brackets, empty
    labels (`..` at the end too), labels over 63 octets, names over 255.
    """
    name = text.removesuffix(".")
    if name.isascii():
        name = name.lower()
        labels = name.split(".")
        if len(name) > 255 or not all(_is_ascii_label(label) for label in labels):
            raise InvalidDomain(f"{text!r} is not a domain name")
        return name
    try:
        name = idna.encode(name, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError) as exc:
        raise InvalidDomain(f"{text!r} is not a domain name: {exc}") from exc
    if name.endswith("."):
        raise InvalidDomain(f"{text!r} is not a domain name: it ends with an empty label")
    return name


def written_domain(domain: str) -> str:
    """How servers spell a normalised domain: with U-labels (RFC 7622 §3.2)."""
    return idna.decode(domain) if "xn--" in domain else domain


@lru_cache(maxsize=4096)
def is_ambiguous(text: str) -> bool:
    """Whether others may read this spelling of a domain as another name than we do.

    Case, one trailing dot and plain U-labels (RFC 7622 §3.2 has them on the wire) leave no doubt.
    Other full stops, more dots at the end and letters that are mapped to others do. Raises
    `InvalidDomain`.
    """
    name = normalise_domain(text.rstrip(FULL_STOPS))
    written = text.removesuffix(".")
    if written.isascii():
        return written.endswith(".")
    return unicodedata.normalize("NFKC", written) != written or idna.decode(name) != written.lower()


def _is_ascii_label(label: str) -> bool:
    return (
        0 < len(label) <= 63
        and label.replace("-", "a").replace("_", "a").isalnum()
        and label[0] != "-"
        and label[-1] != "-"
    )
