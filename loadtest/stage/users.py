"""People on the stage: slixmpp clients whose received stanzas can be awaited."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from slixmpp import ClientXMPP
from slixmpp.xmlstream import ET

from loadtest.stage.addresses import C2S_PORT

CLIENT = "{jabber:client}"
_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_STANZAS = {CLIENT + "message", CLIENT + "presence", CLIENT + "iq"}

Element = ElementTree.Element
Match = Callable[["Received"], bool]


class Received:
    """A stanza as it arrived, with the attributes tests ask for."""

    __slots__ = ("xml",)

    def __init__(self, xml: Element) -> None:
        self.xml = xml

    @property
    def name(self) -> str:
        return self.xml.tag.removeprefix(CLIENT)

    @property
    def sender(self) -> str:
        return self.xml.get("from", "")

    @property
    def id(self) -> str:
        return self.xml.get("id", "")

    @property
    def type(self) -> str:
        return self.xml.get("type", "")

    @property
    def lang(self) -> str:
        return self.xml.get(_XML_LANG, "")

    @property
    def body(self) -> str:
        return self.xml.findtext(CLIENT + "body", "")

    @property
    def condition(self) -> str:
        """The defined condition of a stanza error (RFC 6120 §8.3.3), "" without one."""
        namespace = "{urn:ietf:params:xml:ns:xmpp-stanzas}"
        error = self.xml.find(CLIENT + "error")
        for child in error if error is not None else ():
            if child.tag.startswith(namespace) and not child.tag.endswith("}text"):
                return child.tag.removeprefix(namespace)
        return ""

    @property
    def is_delayed(self) -> bool:
        return self.xml.find("{urn:xmpp:delay}delay") is not None

    def has(self, tag: str) -> bool:
        """Whether it has this child, as `{namespace}local`."""
        return self.xml.find(tag) is not None

    def __repr__(self) -> str:
        return ElementTree.tostring(self.xml, encoding="unicode")[:300]


class Inbox:
    """Stanzas in the order they came. `take` removes the first that matches."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._stanzas: list[Received] = []
        self._waiting: list[tuple[Match, asyncio.Future[Received]]] = []

    def put(self, stanza: Received) -> None:
        for entry in self._waiting:
            match, future = entry
            if not future.done() and match(stanza):
                self._waiting.remove(entry)
                future.set_result(stanza)
                return
        self._stanzas.append(stanza)

    async def take(self, match: Match, within: float = 15) -> Received:
        """The next matching stanza. Raises `AssertionError` that lists what came instead."""
        for stanza in self._stanzas:
            if match(stanza):
                self._stanzas.remove(stanza)
                return stanza
        future: asyncio.Future[Received] = asyncio.get_running_loop().create_future()
        entry = (match, future)
        self._waiting.append(entry)
        try:
            return await asyncio.wait_for(future, within)
        except TimeoutError:
            seen = "\n  ".join(map(repr, self._stanzas[-10:])) or "nothing"
            raise AssertionError(
                f"{self._owner} did not get it within {within:g} s, but:\n  {seen}"
            ) from None
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(entry)

    def peek(self, match: Match) -> list[Received]:
        """All that match and were not taken; they stay."""
        return [stanza for stanza in self._stanzas if match(stanza)]

    def clear(self) -> None:
        self._stanzas.clear()


class User:
    """A logged-in client. `User.login()` makes one; `logout()` ends it."""

    _ids = itertools.count(1)

    def __init__(self, jid: str, password: str, address: str) -> None:
        self.jid = jid
        self.bare_jid = jid.partition("/")[0]
        self.domain = self.bare_jid.partition("@")[2]
        self.inbox = Inbox(jid)
        self._password = password
        self._address = address
        self._client: ClientXMPP | None = None

    @classmethod
    async def login(cls, jid: str, password: str, address: str, within: float = 20) -> "User":
        """Connect, authenticate, and send initial presence."""
        user = cls(jid, password, address)
        await user.connect(within)
        return user

    @property
    def client(self) -> ClientXMPP:
        if self._client is None:
            raise AssertionError(f"{self.jid} is not logged in")
        return self._client

    async def connect(self, within: float = 20) -> None:
        """Log in (again): a new client, the same inbox. Tries until `within` seconds are over."""
        await self.logout()
        client = _new_client(self.jid, self._password)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client.add_event_handler("session_start", lambda _: _settle(ready))
        client.add_filter("in", self._on_stanza)
        client.connect(self._address, C2S_PORT)
        self._client = client
        try:
            await asyncio.wait_for(ready, within)
        except TimeoutError:
            await self.logout()
            raise AssertionError(f"{self.jid} could not log in within {within:g} s") from None
        # Only who asked for its roster is told of subscriptions (RFC 6121 §3.1.3).
        self.send_raw("<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq>")
        await self.response("roster", within)
        self.send_raw("<presence/>")

    async def logout(self) -> None:
        """Close the stream. Does nothing when logged out."""
        client, self._client = self._client, None
        if client is None:
            return
        client.cancel_connection_attempt()
        if client.is_connected():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.disconnect(wait=0.5), 3)
        client.abort()

    def send_raw(self, xml: str) -> None:
        """Send this text as it is."""
        self.client.send_raw(xml)

    def send(self, to: str, body: str, *, id: str = "", type: str = "chat", extra: str = "") -> str:
        """Send a message; `extra` is XML after the body. Returns its id."""
        stanza_id = id or self.new_id()
        message = ET.Element("message", {"to": to, "id": stanza_id, "type": type, "from": self.jid})
        ET.SubElement(message, "body").text = body
        text = ET.tostring(message, encoding="unicode")
        self.send_raw(text.removesuffix("</message>") + extra + "</message>")
        return stanza_id

    def request(self, to: str, payload: str, *, type: str = "get", id: str = "") -> str:
        """Send an iq request. Returns its id, for `response()`."""
        stanza_id = id or self.new_id()
        self.send_raw(
            f"<iq from='{self.jid}' to='{to}' id='{stanza_id}' type='{type}'>{payload}</iq>"
        )
        return stanza_id

    async def response(self, id: str, within: float = 15) -> Received:
        """The result or error for a request."""
        return await self.inbox.take(
            lambda s: s.name == "iq" and s.id == id and s.type in ("result", "error"), within
        )

    async def ask(
        self, to: str, payload: str, *, type: str = "get", within: float = 15
    ) -> Received:
        """Send a request and wait for its result or error."""
        return await self.response(self.request(to, payload, type=type), within)

    async def message(self, body: str, within: float = 15) -> Received:
        """The next message (no error) with this body."""
        return await self.inbox.take(
            lambda s: s.name == "message" and s.type != "error" and s.body == body, within
        )

    async def error(self, id: str, within: float = 15) -> Received:
        """The stanza error for what was sent with this id."""
        return await self.inbox.take(lambda s: s.id == id and s.type == "error", within)

    @classmethod
    def new_id(cls) -> str:
        return f"s{next(cls._ids)}"

    def _on_stanza(self, stanza: Any) -> Any:
        # A filter, not a handler: slixmpp still answers requests that nobody handles.
        if stanza.xml.tag in _STANZAS:
            self.inbox.put(Received(stanza.xml))
        return stanza


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _new_client(jid: str, password: str) -> ClientXMPP:
    # Loopback and a password of the stage: no TLS on the client's leg keeps the scene short.
    config = {"feature_mechanisms": {"unencrypted_plain": True, "unencrypted_scram": True}}
    client = ClientXMPP(jid, password, plugin_config=config)
    client.enable_starttls = False
    client.enable_direct_tls = False
    client.enable_plaintext = True
    # Tests decide about subscriptions themselves.
    client.roster.auto_authorize = None
    client.roster.auto_subscribe = False
    for plugin in ("xep_0030", "xep_0199"):
        client.register_plugin(plugin)
    return client
