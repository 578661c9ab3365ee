"""What a stream reports to the shell around it, in the order it happened."""

from msgspec import Struct

from workers.xmpp.errors import StreamCondition
from workers.xmpp.stanza import Stanza

# Structs, not dataclasses: one is made per read (0.05 against 0.12 µs).


class StreamOpened(Struct):
    """A peer opened a stream and waits: answer with `ReceivingStream.offer` or `fail`."""

    sender: str
    target: str
    secure: bool


class TlsStarting(Struct):
    """Everything queued must be flushed, then TLS starts; afterwards call `tls_established`."""


class Authenticated(Struct):
    """The peer has proved this domain pair; `by` is "external", "dialback" or "certificate".

    The last: dialback was answered without asking, for the certificate proves the sender.
    """

    sender: str
    target: str
    by: str


class AuthenticationFailed(Struct):
    """We initiate, and no way of authenticating is left. The stream is closing."""

    reason: str


class StreamEstablished(Struct):
    """Negotiation is over: stanzas of authenticated pairs may flow."""


class StanzasReceived(Struct):
    """A run of stanzas, each of an authenticated domain pair, in wire order.

    `resendable`: the peer counts them (XEP-0198) and sends them again unless we acknowledge them.
    """

    stanzas: list[Stanza]
    resendable: bool = False


class StanzaRefused(Struct):
    """A stanza of an authenticated pair, in its place in the wire order, that may not be passed on.

    It counts like the others: bounce it (policy-violation) and report it as handled.
    """

    stanza: Stanza
    reason: str
    resendable: bool = False


class Acknowledged(Struct):
    """The peer has taken responsibility for `count` more of our stanzas, maybe 0 (XEP-0198)."""

    count: int


class AckRequested(Struct):
    """The peer asks for an acknowledgement, which it gets; reported on resumed streams only."""


class ManagementEnabled(Struct):
    """A peer that opened its stream to us counts from here on (XEP-0198).

    With an `id` the stream may be resumed when its connection is lost.
    """

    id: str = ""


class ResumptionRequested(Struct):
    """The peer wants to go on with its lost stream `id`, of which it has handled `h` stanzas.

    Nothing else is accepted until `accept_resumption` or `refuse_resumption` is called.
    """

    id: str
    h: int


class DialbackKeyReceived(Struct):
    """XEP-0220 §2.1.1: verify the key elsewhere, then call `answer_dialback`."""

    sender: str
    target: str
    key: str


class VerifyRequested(Struct):
    """XEP-0220 §2.1.2: somebody asks whether we made this key; call `answer_verify`."""

    sender: str
    target: str
    id: str
    key: str


class VerifyAnswered(Struct):
    """The answer to our `send_verify`; `outcome` is "valid", "invalid" or "error"."""

    sender: str
    target: str
    id: str
    outcome: str


class StreamFailed(Struct):
    """A stream error ended the stream; `by_peer` tells who sent it."""

    condition: StreamCondition
    text: str
    by_peer: bool


class StreamClosed(Struct):
    """Both sides have closed the stream, or the connection below it is gone.

    `answered`: we closed first and the peer closed after it, having processed all we sent.
    """

    clean: bool
    answered: bool = False
    see_other_uri: str | None = None


Event = (
    StreamOpened
    | TlsStarting
    | Authenticated
    | AuthenticationFailed
    | StreamEstablished
    | StanzasReceived
    | StanzaRefused
    | Acknowledged
    | AckRequested
    | ManagementEnabled
    | ResumptionRequested
    | DialbackKeyReceived
    | VerifyRequested
    | VerifyAnswered
    | StreamFailed
    | StreamClosed
)
