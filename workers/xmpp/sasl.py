"""SASL EXTERNAL between servers (RFC 6120 §6, XEP-0178)."""

from base64 import b64decode, b64encode

from workers.xmpp.jid import InvalidJid, domain_of

MECHANISM = "EXTERNAL"


class SaslFailure(Exception):
    """Negotiation failed; `condition` is one of RFC 6120 §6.5."""

    def __init__(self, condition: str, text: str = "") -> None:
        super().__init__(text or condition)
        self.condition = condition
        self.text = text


def initial_response(domain: str) -> str:
    """XEP-0178 §3 (10): the authorisation identity is sent for compatibility."""
    return b64encode(domain.encode()).decode()


def check_initial_response(text: str | None, expected: str) -> None:
    """Accept `=` or the header's own `from` only. Raises `SaslFailure`."""
    if not text:
        # An absent response would need a challenge round that no server implements.
        raise SaslFailure("malformed-request", "send the authorisation identity, or =")
    if text == "=":
        return
    try:
        identity = b64decode(text, validate=True).decode()
    except ValueError:  # not ASCII, not base64, or not UTF-8 inside
        raise SaslFailure("incorrect-encoding") from None
    try:
        matches = domain_of(identity) == expected and "@" not in identity and "/" not in identity
    except InvalidJid:
        matches = False
    if not matches:
        raise SaslFailure("invalid-authzid", "the identity must be the stream's from")
