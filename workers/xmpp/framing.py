"""How a stream's own elements are written: XEP-0468 messages on WebSocket, RFC 6120 on TCP.

Every element but the TCP header and footer is self-sufficient, so one spelling serves both legs.
"""

from collections.abc import Sequence
from typing import Protocol

from workers.xmpp.errors import StreamCondition
from workers.xmpp.namespaces import DIALBACK, FRAMING_SERVER, SERVER, STREAM, STREAM_ERRORS
from workers.xmpp.xml_text import attribute, character_data


class Framing(Protocol):
    """What the stream machine needs."""

    namespace: str
    """What the peer's header must be in."""
    bare_footer: bool
    """Whether a closing tag may be written without a header before it."""
    assumed_max_bytes: int
    """The largest element of a peer that names no limit (XEP-0478); 0 is no limit."""

    def header(
        self,
        sender: str | None,
        recipient: str | None,
        id: str | None = None,
        lang: str = "en",
        *,
        response: bool = False,
    ) -> bytes: ...

    def footer(self, see_other_uri: str | None = None) -> bytes: ...

    def features(self, children: Sequence[bytes]) -> bytes: ...

    def error(self, condition: StreamCondition, text: str = "", detail: bytes = b"") -> bytes: ...

    def element(self, data: bytes) -> bytes: ...


def _header_attributes(
    sender: str | None, recipient: str | None, id: str | None, lang: str, response: bool
) -> str:
    """The attributes both headers share, in the order every transcript shows (protocol §5.1)."""
    # RFC 6120 §4.7.3: only the receiving server names the stream.
    written = [f"id={attribute(id)}"] if response and id is not None else []
    if sender:
        written.append(f"from={attribute(sender)}")
    if recipient:
        written.append(f"to={attribute(recipient)}")
    written += ["version='1.0'", f"xml:lang={attribute(lang)}"]
    return " ".join(written)


class _CommonFraming:
    def features(self, children: Sequence[bytes]) -> bytes:
        """`<stream:features/>` around ready-made children (RFC 6120 §4.3.2)."""
        return (
            f"<stream:features xmlns='{SERVER}' xmlns:stream='{STREAM}'>".encode()
            + b"".join(children)
            + b"</stream:features>"
        )

    def error(self, condition: StreamCondition, text: str = "", detail: bytes = b"") -> bytes:
        """A stream error (RFC 6120 §4.9); `detail` is a ready-made application condition."""
        told = (
            f"<text xmlns='{STREAM_ERRORS}' xml:lang='en'>{character_data(text)}</text>"
            if text
            else ""
        )
        return (
            f"<stream:error xmlns='{SERVER}' xmlns:stream='{STREAM}'>"
            f"<{condition.value} xmlns='{STREAM_ERRORS}'/>{told}".encode()
            + detail
            + b"</stream:error>"
        )

    def element(self, data: bytes) -> bytes:
        """Any other element: what we write is self-sufficient already."""
        return data


class WebSocketFraming(_CommonFraming):
    """XEP-0468: `<open/>` and `<close/>`, each a message.

    COMPAT(xmpp-proxy 1.x): it matches bytes, so the shape is exactly protocol §5.1's: `<open` and
    one space, one space before each attribute, self-closed, no `>` in a value.
    """

    namespace = FRAMING_SERVER
    bare_footer = True  # RFC 7395 §3.4: a refusal is `<close/>` alone
    # COMPAT(xmpp-proxy 1.x): its default, beyond which it stops reading (protocol A21).
    assumed_max_bytes = 262144

    def header(
        self,
        sender: str | None,
        recipient: str | None,
        id: str | None = None,
        lang: str = "en",
        *,
        response: bool = False,
    ) -> bytes:
        """`<open/>` (RFC 7395 §3.4). An unknown address is left out."""
        attributes = _header_attributes(sender, recipient, id, lang, response)
        return (
            f"<open xmlns='{FRAMING_SERVER}' xmlns:stream='{STREAM}' xmlns:db='{DIALBACK}'"
            f" {attributes}/>"
        ).encode()

    def footer(self, see_other_uri: str | None = None) -> bytes:
        """`<close/>` (RFC 7395 §3.6), with `see_other_uri` where the peer shall go (§3.6.1)."""
        other = f" see-other-uri={attribute(see_other_uri)}" if see_other_uri else ""
        return f"<close xmlns='{FRAMING_SERVER}'{other}/>".encode()


WEBSOCKET_FRAMING = WebSocketFraming()
"""One for all streams: it has no state."""


class StreamFraming(_CommonFraming):
    """RFC 6120 §4.2: one long document per direction."""

    namespace = SERVER
    bare_footer = False
    assumed_max_bytes = 0

    def header(
        self,
        sender: str | None,
        recipient: str | None,
        id: str | None = None,
        lang: str = "en",
        *,
        response: bool = False,
    ) -> bytes:
        """XML declaration and stream tag (RFC 6120 §4.7). An unknown address is left out."""
        attributes = _header_attributes(sender, recipient, id, lang, response)
        return (
            f"<?xml version='1.0'?><stream:stream xmlns='{SERVER}' xmlns:stream='{STREAM}'"
            f" xmlns:db='{DIALBACK}' {attributes}>"
        ).encode()

    def footer(self, see_other_uri: str | None = None) -> bytes:
        """The closing tag (RFC 6120 §4.4); TCP streams cannot carry `see_other_uri`."""
        return b"</stream:stream>"
