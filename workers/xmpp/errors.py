"""What can go wrong on a stream, in the words of RFC 6120.

StreamProtocolError
 ├─ RemoteProtocolError   the peer broke a rule: carries the stream error condition it is told
 └─ LocalProtocolError    our caller broke a rule: nothing was changed, nothing was sent
"""

from enum import Enum


class StreamCondition(Enum):
    """Stream error conditions (RFC 6120 §4.9.3)."""

    BAD_FORMAT = "bad-format"
    BAD_NAMESPACE_PREFIX = "bad-namespace-prefix"
    CONFLICT = "conflict"
    CONNECTION_TIMEOUT = "connection-timeout"
    HOST_GONE = "host-gone"
    HOST_UNKNOWN = "host-unknown"
    IMPROPER_ADDRESSING = "improper-addressing"
    INTERNAL_SERVER_ERROR = "internal-server-error"
    INVALID_FROM = "invalid-from"
    INVALID_NAMESPACE = "invalid-namespace"
    INVALID_XML = "invalid-xml"
    NOT_AUTHORIZED = "not-authorized"
    NOT_WELL_FORMED = "not-well-formed"
    POLICY_VIOLATION = "policy-violation"
    REMOTE_CONNECTION_FAILED = "remote-connection-failed"
    RESET = "reset"
    RESOURCE_CONSTRAINT = "resource-constraint"
    RESTRICTED_XML = "restricted-xml"
    SEE_OTHER_HOST = "see-other-host"
    SYSTEM_SHUTDOWN = "system-shutdown"
    UNDEFINED_CONDITION = "undefined-condition"
    UNSUPPORTED_ENCODING = "unsupported-encoding"
    UNSUPPORTED_FEATURE = "unsupported-feature"
    UNSUPPORTED_STANZA_TYPE = "unsupported-stanza-type"
    UNSUPPORTED_VERSION = "unsupported-version"


class StanzaCondition(Enum):
    """Stanza error conditions we send (RFC 6120 §8.3.3), each with its error type."""

    INTERNAL_SERVER_ERROR = ("internal-server-error", "cancel")
    NOT_ACCEPTABLE = ("not-acceptable", "modify")
    POLICY_VIOLATION = ("policy-violation", "modify")
    REMOTE_SERVER_NOT_FOUND = ("remote-server-not-found", "cancel")
    REMOTE_SERVER_TIMEOUT = ("remote-server-timeout", "wait")
    RESOURCE_CONSTRAINT = ("resource-constraint", "wait")
    SERVICE_UNAVAILABLE = ("service-unavailable", "cancel")

    @property
    def tag(self) -> str:
        return self.value[0]

    @property
    def error_type(self) -> str:
        return self.value[1]


class StreamProtocolError(Exception):
    """A rule of the stream was broken; see the two kinds."""


class RemoteProtocolError(StreamProtocolError):
    """The peer broke a rule: `condition` is the stream error it is told, `text` may go with it.

    `detail` is a ready-made element in a namespace of its own (RFC 6120 §4.9.4).
    """

    def __init__(self, condition: StreamCondition, text: str = "", detail: bytes = b"") -> None:
        super().__init__(f"{condition.value}: {text}" if text else condition.value)
        self.condition = condition
        self.text = text
        self.detail = detail

    def bare(self) -> "RemoteProtocolError":
        """The same without the frames that it passed: what they hold is freed with them, at once.

        Else the error, in a list that one of them holds, would keep parser and session in a circle.
        """
        self.__traceback__ = self.__context__ = None
        return self


class LocalProtocolError(StreamProtocolError):
    """Our own code asked the stream for something its state does not allow."""
