"""Where a stream is, and what it is told at its start: the vocabulary of both roles."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from coordinator.config import Limits


class State(IntEnum):
    """Where the stream is. Order matters: all before ESTABLISHED is negotiation, which is timed;
    from CLOSING on nothing more is sent.
    """

    START = 0
    """Nothing sent or received (initiating: header not yet sent)."""
    WAIT_HEADER = 1
    """The peer's stream header must come next, first or after a restart."""
    DECIDING = 2
    """Receiving: the header is in, the shell decides what to offer."""
    TLS_REQUIRED = 3
    """Receiving on TCP: nothing but `<starttls/>` is accepted."""
    NEGOTIATING = 4
    """Features are out (receiving) or awaited (initiating)."""
    REQUESTING_TLS = 5
    """Initiating on TCP: `<starttls/>` awaits its answer."""
    WAIT_TLS = 6
    """STARTTLS was agreed; every byte in between is discarded, and none is written in clear."""
    AUTHENTICATING = 7
    """Initiating: SASL EXTERNAL awaits its result."""
    PROVING = 8
    """Initiating: a dialback key awaits its result."""
    ENABLING = 9
    """Initiating: `<enable/>` awaits its answer."""
    RESUMING = 10
    """`<resume/>` awaits its answer: the peer's (initiating) or the shell's (receiving)."""
    ESTABLISHED = 11
    """Stanzas may flow."""
    SETTLING = 12
    """The peer has closed; what it sent is still to be handled and acknowledged."""
    CLOSING = 13
    """Our closing tag is out; the peer may still send."""
    CLOSED = 14
    """Over."""


class Parser(Protocol):
    """What both parsers offer a stream."""

    authenticated: bool

    @property
    def unfinished(self) -> int:
        """Which element of the stream, counted from 1, has begun and is not complete; 0: none."""

    def shrink(self) -> None:
        """Nothing has come for a while: hold less memory."""

    def drop(self) -> None:
        """Nothing more will come: hold no unfinished element until the garbage is collected."""

    def reset(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class StreamConfig:
    """What a stream needs to know; values only, no policy objects."""

    limits: Limits = field(default_factory=Limits)
    dialback_secret: bytes = b""
    offer_tls: bool = False
    """Receiving on TCP: STARTTLS comes before anything else."""
    require_tls: bool = False
    """Initiating on TCP: do not authenticate before STARTTLS."""
    use_external: bool = True
    use_dialback: bool = True
    use_management: bool = True
    use_bidi: bool = False
    """Stanzas may go both ways on one stream (XEP-0288): offered, or asked for."""
    resumption_seconds: int = 0
    """How long a lost stream may be resumed (XEP-0198 §5), at most; 0: never."""
    verify_only: bool = False
    """Initiating: stop after features; only `send_verify` is wanted."""
    hosts: frozenset[str] = frozenset()
    """Receiving: the domains this side answers for."""
