"""The part of a JID that routing needs: its domain (RFC 7622)."""

from coordinator.domains import FULL_STOPS, InvalidDomain, is_ambiguous, normalise_domain

# Senders repeat themselves: a bounded memory saves the split and the normalisation per stanza.
# Emptied when full rather than aged.
_CACHE_SIZE = 65536
_LONGEST_KEPT = 256  # characters: 65536 of the longest JIDs would be 200 MB
domains: dict[str, str] = {}
"""JID → domain of those met before; the hot path looks here first. Written by `domain_of` only."""


class InvalidJid(ValueError):
    """The text is not a JID."""


class AmbiguousJid(InvalidJid):
    """It is one, but others may read its domain as another than `domain`, which we read.

    `plain` is the same JID without that doubt, fit to be written.
    """

    def __init__(self, local: str, domain: str, resource: str) -> None:
        super().__init__(f"an ambiguous spelling of {domain}")
        self.domain = domain
        self.plain = f"{local}{domain}{resource}"


def domain_of(jid: str) -> str:
    """Return the normalised domain of a JID. Raises `InvalidJid`, or its kind `AmbiguousJid`.

    The resource is cut first: in `a.example/x@b.example` the domain is `a.example` (RFC 7622 §3.1).
    """
    domain = domains.get(jid)
    if domain is None:
        domain = _parse_domain(jid)
        if len(jid) <= _LONGEST_KEPT:
            if len(domains) >= _CACHE_SIZE:
                domains.clear()
            domains[jid] = domain
    return domain


def _parse_domain(jid: str) -> str:
    if len(jid) > 3071:
        raise InvalidJid("JID longer than 3071 characters")
    bare, slash, resource = jid.partition("/")
    if slash and not resource:
        raise InvalidJid("empty resource")
    local, at, domain = bare.rpartition("@")
    if at and (not local or "@" in local):
        raise InvalidJid("malformed local part")
    try:
        if is_ambiguous(domain):
            plain = normalise_domain(domain.rstrip(FULL_STOPS))
            raise AmbiguousJid(local + at, plain, slash + resource)
        return normalise_domain(domain)
    except InvalidDomain as exc:
        raise InvalidJid(str(exc)) from exc
