"""A stream as an external component (XEP-0114): one remote domain, towards the local server.

    → <stream:stream xmlns='jabber:component:accept' to='remote.example'>
    ← <stream:stream … id='3BF96D32'>
    → <handshake>sha1hex(id + secret)</handshake>      ← <handshake/>
    ⇄ stanzas, both ways, in the namespace jabber:component:accept

There is no TLS, no XEP-0198 and no closing handshake but the stream's own. Outside this file
stanzas are jabber:server ones, as on all other legs.
"""

import hashlib
from collections.abc import Sequence

from lxml import etree
from msgspec.structs import replace

from coordinator.domains import written_domain
from workers.xmpp import namespaces
from workers.xmpp.content import renamed, rewritten
from workers.xmpp.errors import LocalProtocolError, RemoteProtocolError, StreamCondition
from workers.xmpp.events import Authenticated, StanzaRefused, StreamEstablished
from workers.xmpp.framing import StreamFraming
from workers.xmpp.namespaces import COMPONENT, COMPONENT_STANZAS, SERVER, STREAM
from workers.xmpp.parsed import Element, Judge, Nonza, StreamHeader
from workers.xmpp.reader import read_own
from workers.xmpp.stanza import RefusedStanza, Stanza
from workers.xmpp.stream import Handlers, ServerStream, State, StreamConfig
from workers.xmpp.stream_body import Kinds
from workers.xmpp.stream_parser import StreamParser
from workers.xmpp.xml_text import attribute

_INSIDE, _OUTSIDE = SERVER.encode(), COMPONENT.encode()
# Addresses whose domain is known to be spelt as the component's name; emptied when full.
_MAX_KNOWN = 4096


class ComponentFraming(StreamFraming):
    """RFC 6120 §4.2 in XEP-0114's namespace."""

    namespace = COMPONENT

    def header(
        self,
        sender: str | None,
        recipient: str | None,
        id: str | None = None,
        lang: str = "en",
        *,
        response: bool = False,
    ) -> bytes:
        """The stream tag (XEP-0114 §3): `to` is the component's own name; there is no version."""
        return (
            f"<?xml version='1.0'?><stream:stream xmlns='{COMPONENT}' xmlns:stream='{STREAM}'"
            f" to={attribute(recipient or '')}>"
        ).encode()


class ComponentJudge(Judge):
    """Makes jabber:server stanzas of a component stream's."""

    requests = ()  # there is no XEP-0198

    def stanza(self, element: etree._Element, name: str, data: bytes) -> Stanza | RefusedStanza:
        # Servers leave the stream's namespace undeclared: then there is nothing to rename.
        if _OUTSIDE in data:
            data = renamed(data, name, _OUTSIDE, _INSIDE)
        return super().stanza(element, name, data)

    def answer(self, data: bytes) -> None:
        """Nor here."""


class ComponentParser(StreamParser):
    """The parser of a component stream."""

    kinds = Kinds(
        COMPONENT,
        COMPONENT_STANZAS,
        frozenset(COMPONENT_STANZAS) | {namespaces.HANDSHAKE, namespaces.STREAM_ERROR},
    )
    make_judge = ComponentJudge


class ComponentStream(ServerStream):
    """We connected as the component of a `remote` domain, for `locals`, domains of the server.

    Call `open` once the connection is ready. `StreamEstablished` means stanzas may be sent;
    `StreamFailed` before it carries the server's reason: host-unknown, not-authorized or conflict.
    """

    def __init__(
        self, config: StreamConfig, now: float, *, remote: str, locals: Sequence[str], secret: str
    ) -> None:
        parser = ComponentParser(config.limits)
        super().__init__(config, ComponentFraming(), parser.feed, parser, now)
        self.sender = remote
        self.name = written_domain(remote)
        self.authenticated_by = ""
        self._secret = secret
        self._locals = frozenset(locals)
        self._answering = locals[0]
        self._asked: dict[str | None, str] = {}
        """Pings of ours without an answer: id and whom they were for."""
        self._well_spelt: set[str] = set()

    def open(self) -> None:
        """Send our stream header. Once, else `LocalProtocolError`."""
        if self.state is not State.START:
            raise LocalProtocolError(f"stream is {self.state.name}")
        self._ensure_header()
        self.state = State.WAIT_HEADER

    def send_stanzas(self, stanzas: list[Stanza]) -> None:
        """Queue stanzas from the remote domain to any of the local ones.

        Raises `LocalProtocolError` before `StreamEstablished`.
        """
        if self.state is not State.ESTABLISHED:
            raise LocalProtocolError(f"no stanzas are sent here, the stream is {self.state.name}")
        known = self._well_spelt
        self.outgoing += [
            renamed(stanza.data, stanza.name, _INSIDE, _OUTSIDE)
            if stanza.sender in known or self._is_well_spelt(stanza.sender)
            else self._respelt(stanza)
            for stanza in stanzas
        ]

    def send_element(self, data: bytes) -> None:
        """Queue a ping of our own, in the name as the server spells it, that nobody acknowledges.

        It goes to the first of the local domains, whichever it is for: the answer tells how far the
        server has read the stream, and other components, unlike the server, may never answer.
        """
        if self.state is not State.ESTABLISHED:
            return
        element = read_own(data)
        self._asked[element.get("id")] = element.get("to", "")
        self.outgoing.append(rewritten(data, SERVER, COMPONENT, self.name, self._answering))

    def _is_well_spelt(self, jid: str) -> bool:
        if _domain_as_written(jid) != self.name:
            return False
        if len(self._well_spelt) >= _MAX_KNOWN:
            self._well_spelt.clear()
        self._well_spelt.add(jid)
        return True

    def _respelt(self, stanza: Stanza) -> bytes:
        """COMPAT(Prosody): it compares `from` with its name as text, and ends the stream."""
        jid = stanza.sender
        bare, slash, resource = jid.partition("/")
        local, at, _ = bare.rpartition("@")
        spelt = f"{local}{at}{self.name}{slash}{resource}"
        return rewritten(stanza.data, SERVER, COMPONENT, spelt)

    def _ensure_header(self) -> None:
        if not self._header_sent:
            self.outgoing.append(self._framing.header(None, self.name))
            self._header_sent = True

    def _on_header(self, header: StreamHeader) -> None:
        if header.namespace != self._framing.namespace:
            raise RemoteProtocolError(StreamCondition.INVALID_NAMESPACE)
        self.id = header.id or ""
        # XEP-0114 §3 knows no other proof than SHA-1 of what both sides know.
        proof = hashlib.sha1((self.id + self._secret).encode(), usedforsecurity=False).hexdigest()
        self.outgoing.append(f"<handshake>{proof}</handshake>".encode())
        self.state = State.AUTHENTICATING

    def _on_handshake(self, element: etree._Element) -> None:
        self.authenticated_by = "component"
        self.pairs = {(local, self.sender) for local in self._locals}
        self._may_send = True
        self._establish()
        self.events.append(Authenticated(self.sender, self.sender, "component"))
        self.events.append(StreamEstablished())

    def _on_unexpected(self, element: Nonza) -> None:
        raise RemoteProtocolError(
            StreamCondition.UNSUPPORTED_STANZA_TYPE, f"{element.tag} makes no sense now"
        )

    def _take(self, items: list[Element]) -> None:
        """What is not for us costs one user's stanza, never the stream that all users share."""
        if pairs := self._accepted_pairs():
            if self._asked:
                items = [self._answer(item) if type(item) is Stanza else item for item in items]
            items = [
                RefusedStanza(item, self._why_not(item))
                if type(item) is Stanza and (item.sender_domain, item.target_domain) not in pairs
                else item
                for item in items
            ]
        super()._take(items)

    def _answer(self, stanza: Stanza) -> Stanza:
        """An answer to a ping of ours comes as if from the domain that the ping was for."""
        if stanza.type not in ("result", "error") or stanza.sender_domain != self._answering:
            return stanza
        domain = self._asked.pop(stanza.id, None)
        return stanza if domain is None else replace(stanza, sender=domain, sender_domain=domain)

    def _why_not(self, stanza: Stanza) -> str:
        if stanza.target_domain != self.sender:
            return f"this stream is for {self.sender}, not for {stanza.target_domain}"
        return f"{stanza.sender_domain} is not a domain of this gateway"

    def _take_refused(self, item: RefusedStanza) -> None:
        if not self._accepted_pairs():
            self._refuse(item.stanza)
        self.received.receive(1)
        self.events.append(StanzaRefused(item.stanza, item.reason))

    _handlers: Handlers = {(State.AUTHENTICATING, namespaces.HANDSHAKE): _on_handshake}


def _domain_as_written(jid: str) -> str:
    return jid.partition("/")[0].rpartition("@")[2]
