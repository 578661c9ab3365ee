"""The nonzas and features of negotiation, as bytes to write and as values read from elements.

Everything written declares its namespaces itself, so it is right on WebSocket and on TCP.
"""

from dataclasses import dataclass

from lxml import etree

from workers.xmpp import namespaces
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.jid import InvalidJid, domain_of
from workers.xmpp.namespaces import DIALBACK, LIMITS, SASL, SERVER, SM, STANZA_ERRORS, TLS
from workers.xmpp.xml_text import attribute, character_data

STARTTLS = f"<starttls xmlns='{TLS}'/>".encode()
PROCEED = f"<proceed xmlns='{TLS}'/>".encode()
TLS_FAILURE = f"<failure xmlns='{TLS}'/>".encode()
SUCCESS = f"<success xmlns='{SASL}'/>".encode()
SM_ENABLE = f"<enable xmlns='{SM}'/>".encode()
SM_ENABLED = f"<enabled xmlns='{SM}'/>".encode()
SM_REQUEST = f"<r xmlns='{SM}'/>".encode()

# Children of features.
STARTTLS_FEATURE = f"<starttls xmlns='{TLS}'><required/></starttls>".encode()
SM_FEATURE = f"<sm xmlns='{SM}'/>".encode()
BIDI_FEATURE = f"<bidi xmlns='{namespaces.BIDI_FEATURE}'/>".encode()
DIALBACK_FEATURE = f"<dialback xmlns='{namespaces.DIALBACK_FEATURE}'><errors/></dialback>".encode()

# XEP-0220 §2.5: error types of the conditions a dialback error may carry; all others cancel.
_DIALBACK_ERROR_TYPES = {
    "forbidden": "auth",
    "not-acceptable": "modify",
    "not-authorized": "auth",
    "policy-violation": "modify",
    "remote-server-timeout": "wait",
    "resource-constraint": "wait",
}
# A number of bytes or seconds beyond this is nonsense; int() of a long string also costs O(n²).
_MAX_DIGITS = 15


def mechanisms(*names: str) -> bytes:
    """The SASL feature (RFC 6120 §6.3.3)."""
    offered = "".join(f"<mechanism>{character_data(name)}</mechanism>" for name in names)
    return f"<mechanisms xmlns='{SASL}'>{offered}</mechanisms>".encode()


def limits(max_bytes: int, idle_seconds: int | None = None) -> bytes:
    """What we accept: largest element in bytes, idle time in seconds (XEP-0478 §3.1)."""
    idle = "" if idle_seconds is None else f"<idle-seconds>{idle_seconds:d}</idle-seconds>"
    return f"<limits xmlns='{LIMITS}'><max-bytes>{max_bytes:d}</max-bytes>{idle}</limits>".encode()


def auth(mechanism: str, text: str) -> bytes:
    """`text` is the initial response in base64, `=` if empty (RFC 6120 §6.4.2)."""
    return (
        f"<auth xmlns='{SASL}' mechanism={attribute(mechanism)}>{character_data(text)}</auth>"
    ).encode()


def failure(condition: str, text: str = "") -> bytes:
    """A SASL failure; `condition` is one of RFC 6120 §6.5."""
    told = f"<text xml:lang='en'>{character_data(text)}</text>" if text else ""
    return f"<failure xmlns='{SASL}'><{condition}/>{told}</failure>".encode()


def bidi(max_bytes: int | None = None) -> bytes:
    """Ask for both directions on one stream (XEP-0288 §2.2, with XEP-0478 §3.2's limits)."""
    inner = b"" if max_bytes is None else limits(max_bytes)
    return f"<bidi xmlns='{namespaces.BIDI}'>".encode() + inner + b"</bidi>"


def db_result(sender: str, target: str, *, key: str = "", type: str = "", error: str = "") -> bytes:
    """A dialback key, or with `type` its answer (XEP-0220 §2.1.1, §2.5)."""
    return _dialback("result", sender, target, None, key, type, error)


def db_verify(
    sender: str, target: str, id: str, *, key: str = "", type: str = "", error: str = ""
) -> bytes:
    """A question about a key, or with `type` its answer (XEP-0220 §2.1.2, §2.5)."""
    return _dialback("verify", sender, target, id, key, type, error)


def _dialback(
    name: str, sender: str, target: str, id: str | None, key: str, type: str, error: str
) -> bytes:
    opening = (
        f"<db:{name} xmlns='{SERVER}' xmlns:db='{DIALBACK}' from={attribute(sender)}"
        f" to={attribute(target)}"
    )
    if id is not None:
        opening += f" id={attribute(id)}"
    if type:
        opening += f" type={attribute(type)}"
    inner = character_data(key)
    if type == "error":
        condition = error or "internal-server-error"
        inner = (
            f"<error type='{_DIALBACK_ERROR_TYPES.get(condition, 'cancel')}'>"
            f"<{condition} xmlns='{STANZA_ERRORS}'/></error>"
        )
    return f"{opening}>{inner}</db:{name}>".encode() if inner else f"{opening}/>".encode()


def sm_answer(h: int) -> bytes:
    """How many stanzas are handled, modulo 2^32 (XEP-0198 §4)."""
    return b"<a xmlns='urn:xmpp:sm:3' h='%d'/>" % h


def sm_failed(condition: str, h: int | None = None) -> bytes:
    """Answer to `<enable/>` or `<resume/>` that cannot be; `condition` is a stanza condition.

    `h`: how many stanzas of the stream that cannot be resumed were handled, if known.
    """
    told = "" if h is None else f" h='{h:d}'"
    return f"<failed xmlns='{SM}'{told}><{condition} xmlns='{STANZA_ERRORS}'/></failed>".encode()


def sm_enable(seconds: int = 0) -> bytes:
    """Ask for acknowledgements, and for a stream that can be resumed for so many seconds (§5)."""
    return (
        f"<enable xmlns='{SM}' resume='true' max='{seconds:d}'/>".encode() if seconds else SM_ENABLE
    )


def sm_enabled(id: str = "", seconds: int = 0) -> bytes:
    """The answer; with `id` the stream can be resumed."""
    if not id:
        return SM_ENABLED
    return f"<enabled xmlns='{SM}' id={attribute(id)} resume='true' max='{seconds:d}'/>".encode()


def sm_resume(id: str, h: int) -> bytes:
    """Ask to go on with a lost stream of which `h` stanzas are handled (XEP-0198 §5)."""
    return f"<resume xmlns='{SM}' previd={attribute(id)} h='{h:d}'/>".encode()


def sm_resumed(id: str, h: int) -> bytes:
    """The answer: the lost stream goes on, `h` of the peer's stanzas are handled."""
    return f"<resumed xmlns='{SM}' previd={attribute(id)} h='{h:d}'/>".encode()


def seconds_of(element: etree._Element, name: str) -> int:
    """An attribute that is a number of seconds, 0 if it is absent or nonsense."""
    return _digits(element.get(name, ""))


def is_true(element: etree._Element, name: str) -> bool:
    """An attribute of type xs:boolean, false if it is absent or nonsense."""
    return element.get(name) in ("true", "1")


def handled_count_too_high(h: int, send_count: int) -> bytes:
    """The detail of the stream error of XEP-0198 §6."""
    return (
        f"<handled-count-too-high xmlns='{SM}' h='{h:d}' send-count='{send_count:d}'/>"
    ).encode()


def ping(sender: str, target: str, id: str) -> bytes:
    """A server-to-server ping (XEP-0199 §4.3); any answer proves the peer alive."""
    return (
        f"<iq xmlns='{SERVER}' from={attribute(sender)} to={attribute(target)}"
        f" id={attribute(id)} type='get'><ping xmlns='{namespaces.PING}'/></iq>"
    ).encode()


@dataclass(slots=True)
class Features:
    """What a peer offers that we know. `max_bytes` is 0 if the peer named no limit."""

    mechanisms: frozenset[str]
    starttls: bool
    management: bool
    dialback: bool
    bidi: bool
    max_bytes: int
    idle_seconds: int


def parse_features(element: etree._Element) -> Features:
    """Read `<stream:features/>`; what is unknown or malformed in it counts as not offered."""
    mechanisms_element = element.find(namespaces.MECHANISMS)
    offered = (
        ()
        if mechanisms_element is None
        else (child.text or "" for child in mechanisms_element.findall(namespaces.MECHANISM))
    )
    limit = element.find(namespaces.LIMITS_ELEMENT)
    return Features(
        mechanisms=frozenset(name.strip() for name in offered),
        starttls=element.find(namespaces.STARTTLS) is not None,
        management=element.find(namespaces.SM_FEATURE) is not None,
        dialback=element.find(namespaces.DIALBACK_FEATURE_ELEMENT) is not None,
        bidi=element.find(namespaces.BIDI_FEATURE_ELEMENT) is not None,
        max_bytes=_number(limit, namespaces.MAX_BYTES),
        idle_seconds=_number(limit, namespaces.IDLE_SECONDS),
    )


def _number(parent: etree._Element | None, tag: str) -> int:
    return 0 if parent is None else _digits((parent.findtext(tag) or "").strip())


def _digits(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else 0


def bidi_max_bytes(element: etree._Element) -> int:
    """The largest stanza that may be sent back, 0 if not named (XEP-0478 §3.2)."""
    return _number(element.find(namespaces.LIMITS_ELEMENT), namespaces.MAX_BYTES)


def peer_domain(text: str | None) -> str:
    """A domain as a peer wrote it, normalised. Raises improper-addressing."""
    try:
        return domain_of(text or "")
    except InvalidJid as exc:
        raise RemoteProtocolError(StreamCondition.IMPROPER_ADDRESSING, str(exc)) from None


def dialback_addresses(element: etree._Element) -> tuple[str, str]:
    """`from` and `to` of a dialback element, normalised. Raises improper-addressing."""
    return peer_domain(element.get("from")), peer_domain(element.get("to"))


def parse_stream_error(element: etree._Element) -> tuple[StreamCondition, str]:
    """Condition and text of `<stream:error/>`; an unknown condition is undefined (§4.9.3.21)."""
    condition, text = StreamCondition.UNDEFINED_CONDITION, ""
    for child in element:
        name = _local_name(child, namespaces.STREAM_ERRORS)
        if name == "text":
            text = (child.text or "").strip()
        elif name:
            try:
                condition = StreamCondition(name)
            except ValueError:
                text = text or name
    return condition, text


def parse_sasl_failure(element: etree._Element) -> str:
    """A SASL failure in one line: its condition and, if given, its text."""
    condition, text = "", ""
    for child in element:
        name = _local_name(child, SASL)
        if name == "text":
            text = (child.text or "").strip()
        elif name:
            condition = condition or name
    return f"{condition or 'no reason given'} ({text})" if text else condition or "no reason given"


def _local_name(element: etree._Element, namespace: str) -> str:
    """The local name of an element in `namespace`, else ''."""
    tag = str(element.tag)
    return tag[len(namespace) + 2 :] if tag.startswith(f"{{{namespace}}}") else ""
