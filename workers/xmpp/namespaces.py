"""Every XML namespace and expanded name that fedgate speaks; `{ns}local` is built only here."""

SERVER = "jabber:server"
COMPONENT = "jabber:component:accept"
STREAM = "http://etherx.jabber.org/streams"
DIALBACK = "jabber:server:dialback"
FRAMING_SERVER = "urn:ietf:params:xml:ns:xmpp-framing-server"
FRAMING_CLIENT = "urn:ietf:params:xml:ns:xmpp-framing"
STREAM_ERRORS = "urn:ietf:params:xml:ns:xmpp-streams"
STANZA_ERRORS = "urn:ietf:params:xml:ns:xmpp-stanzas"
TLS = "urn:ietf:params:xml:ns:xmpp-tls"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
SM = "urn:xmpp:sm:3"
BIDI = "urn:xmpp:bidi"
BIDI_FEATURE = "urn:xmpp:features:bidi"
DIALBACK_FEATURE = "urn:xmpp:features:dialback"
LIMITS = "urn:xmpp:stream-limits:0"
PING = "urn:xmpp:ping"
DELAY = "urn:xmpp:delay"

MESSAGE = f"{{{SERVER}}}message"
PRESENCE = f"{{{SERVER}}}presence"
IQ = f"{{{SERVER}}}iq"
STANZAS = {MESSAGE: "message", PRESENCE: "presence", IQ: "iq"}

HANDSHAKE = f"{{{COMPONENT}}}handshake"
COMPONENT_STANZAS = {f"{{{COMPONENT}}}{name}": name for name in STANZAS.values()}

STREAM_HEADER = f"{{{STREAM}}}stream"
FEATURES = f"{{{STREAM}}}features"
STREAM_ERROR = f"{{{STREAM}}}error"
OPEN = f"{{{FRAMING_SERVER}}}open"
CLOSE = f"{{{FRAMING_SERVER}}}close"
OPEN_CLIENT = f"{{{FRAMING_CLIENT}}}open"
CLOSE_CLIENT = f"{{{FRAMING_CLIENT}}}close"

STARTTLS = f"{{{TLS}}}starttls"
PROCEED = f"{{{TLS}}}proceed"
TLS_FAILURE = f"{{{TLS}}}failure"

AUTH = f"{{{SASL}}}auth"
SUCCESS = f"{{{SASL}}}success"
FAILURE = f"{{{SASL}}}failure"
ABORT = f"{{{SASL}}}abort"
CHALLENGE = f"{{{SASL}}}challenge"
RESPONSE = f"{{{SASL}}}response"
MECHANISMS = f"{{{SASL}}}mechanisms"
MECHANISM = f"{{{SASL}}}mechanism"

RESULT = f"{{{DIALBACK}}}result"
VERIFY = f"{{{DIALBACK}}}verify"

SM_FEATURE = f"{{{SM}}}sm"
SM_ENABLE = f"{{{SM}}}enable"
SM_ENABLED = f"{{{SM}}}enabled"
SM_RESUME = f"{{{SM}}}resume"
SM_RESUMED = f"{{{SM}}}resumed"
SM_FAILED = f"{{{SM}}}failed"
SM_REQUEST = f"{{{SM}}}r"
SM_ANSWER = f"{{{SM}}}a"

BIDI_ELEMENT = f"{{{BIDI}}}bidi"
BIDI_FEATURE_ELEMENT = f"{{{BIDI_FEATURE}}}bidi"
LIMITS_ELEMENT = f"{{{LIMITS}}}limits"
MAX_BYTES = f"{{{LIMITS}}}max-bytes"
IDLE_SECONDS = f"{{{LIMITS}}}idle-seconds"
DIALBACK_FEATURE_ELEMENT = f"{{{DIALBACK_FEATURE}}}dialback"

XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"

# Every other element that may stand at the top level of a stream (XEP-0360). The parsers refuse
# what is in neither table: RFC 6120 §4.9.3.24.
NONZAS = frozenset(
    {
        *(FEATURES, STREAM_ERROR, STARTTLS, PROCEED, TLS_FAILURE),
        *(AUTH, CHALLENGE, RESPONSE, SUCCESS, FAILURE, ABORT),
        *(RESULT, VERIFY, BIDI_ELEMENT),
        *(SM_ENABLE, SM_ENABLED, SM_RESUME, SM_RESUMED, SM_FAILED, SM_REQUEST, SM_ANSWER),
    }
)
FRAMING = frozenset({OPEN, CLOSE, OPEN_CLIENT, CLOSE_CLIENT})
