"""A user of Prosody and a user of ejabberd talk, each server behind its gateway, both ways."""

import asyncio
import uuid
from xml.sax.saxutils import escape

import pytest

from loadtest.stage.stage import CAPULET, CAPULET_ROOMS, MONTAGUE, MONTAGUE_ROOMS, Stage
from loadtest.stage.users import CLIENT, Received, User

MUC = "{http://jabber.org/protocol/muc#user}x"
BODIES = {
    "plain": "Art thou not Romeo?",
    "emoji": "👩‍❤️‍💋‍👨 🌹 🏳️‍🌈 \U0001f9d1\U0001f3fd‍\U0001f52c",
    "right-to-left": "שלום עולם — مرحبا بالعالم ‏(RTL)‏",
    "combining": "Z̸̡̛a̴͝l̵̄g̷̈o̵ ñ ﬁ \u00a0\u2028",
    "markup": "<b>&amp; \"quotes\" 'single' ]]> </b>",
    "whitespace": "  leading, two  spaces, a\ttab,\nand a line\n\n  ",
    "large": "o" * 200_000,
}


@pytest.fixture(params=["prosody-to-ejabberd", "ejabberd-to-prosody"])
def couple(request: pytest.FixtureRequest, juliet: User, romeo: User) -> tuple[User, User]:
    """Who speaks and who listens."""
    return (juliet, romeo) if request.param == "prosody-to-ejabberd" else (romeo, juliet)


async def test_the_conversation_goes_over_websocket(
    stage: Stage, couple: tuple[User, User]
) -> None:
    speaker, listener = couple
    speaker.send(listener.jid, "over the wall")
    await listener.message("over the wall")

    gateway = stage.capulet_gateway if speaker.domain == CAPULET else stage.montague_gateway
    sessions = await gateway.wait_session(listener.domain)
    assert [speaker.domain, listener.domain] in [
        pair for session in sessions for pair in session["domain_pairs"]
    ]


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_the_body_arrives_as_written(couple: tuple[User, User], body: str) -> None:
    speaker, listener = couple
    stanza_id = speaker.send(listener.jid, body)
    message = await listener.inbox.take(lambda s: s.id == stanza_id)
    assert message.body == body
    assert (message.sender, message.type) == (speaker.jid, "chat")


async def test_cdata_and_character_references_mean_the_same(couple: tuple[User, User]) -> None:
    speaker, listener = couple
    speaker.send_raw(
        f"<message to='{listener.jid}' id='cdata' type='chat'>"
        "<body><![CDATA[<Romeo> & ]]>&#x1F339;&#233;&lt;&apos;&quot;&gt;</body></message>"
    )
    message = await listener.inbox.take(lambda s: s.id == "cdata")
    assert message.body == "<Romeo> & 🌹é<'\">"


async def test_language_id_and_foreign_elements_are_kept(couple: tuple[User, User]) -> None:
    speaker, listener = couple
    speaker.send_raw(
        f"<message to='{listener.jid}' id='a &amp; b/ü' type='chat' xml:lang='it'>"
        "<body>Ciao</body><body xml:lang='de-AT'>Servus</body>"
        "<x:token xmlns:x='urn:example:one' x:at='1' at='2'><deep xmlns='urn:example:two'>"
        "<x:inner/></deep></x:token></message>"
    )
    message = await listener.inbox.take(lambda s: s.id == "a & b/ü")
    assert message.lang == "it"
    bodies = {
        body.get("{http://www.w3.org/XML/1998/namespace}lang"): body.text
        for body in message.xml.findall(CLIENT + "body")
    }
    assert bodies == {None: "Ciao", "de-AT": "Servus"}
    token = message.xml.find("{urn:example:one}token")
    assert token is not None
    assert token.attrib == {"{urn:example:one}at": "1", "at": "2"}
    assert token.find("{urn:example:two}deep/{urn:example:one}inner") is not None


async def test_a_stream_language_reaches_the_other_side(couple: tuple[User, User]) -> None:
    speaker, listener = couple
    stanza_id = speaker.send(listener.jid, "in the stream's language")
    message = await listener.inbox.take(lambda s: s.id == stanza_id)
    assert message.lang == "en"


async def test_subscription_and_presence(couple: tuple[User, User]) -> None:
    speaker, listener = couple
    speaker.send_raw(f"<presence to='{listener.bare_jid}' type='subscribe' id='sub'/>")
    request = await listener.inbox.take(lambda s: s.type == "subscribe")
    assert request.sender == speaker.bare_jid

    listener.send_raw(f"<presence to='{speaker.bare_jid}' type='subscribed'/>")
    await speaker.inbox.take(lambda s: s.type == "subscribed" and s.sender == listener.bare_jid)
    await speaker.inbox.take(lambda s: _is_available(s, listener.jid))

    listener.send_raw("<presence><show>away</show><status>at the ball</status></presence>")
    away = await speaker.inbox.take(
        lambda s: _is_available(s, listener.jid) and s.has(CLIENT + "show")
    )
    assert away.xml.findtext(CLIENT + "status") == "at the ball"

    listener.send_raw(f"<presence to='{speaker.bare_jid}' type='unsubscribed'/>")
    await speaker.inbox.take(lambda s: s.type == "unsubscribed" and s.sender == listener.bare_jid)


async def test_requests_and_their_results(couple: tuple[User, User]) -> None:
    speaker, listener = couple
    listener.client.register_plugin("xep_0092")
    version = "<query xmlns='jabber:iq:version'/>"
    result = await speaker.ask(listener.jid, version)
    assert result.type == "result"
    assert result.xml.findtext("{jabber:iq:version}query/{jabber:iq:version}name")


async def test_a_set_that_nobody_understands_is_refused(couple: tuple[User, User]) -> None:
    speaker, listener = couple
    payload = "<order xmlns='urn:example:apothecary'><poison drams='1'/></order>"
    error = await speaker.ask(listener.jid, payload, type="set")
    assert (error.type, error.condition) == ("error", "feature-not-implemented")


async def test_an_unknown_user_is_reported(couple: tuple[User, User]) -> None:
    speaker, listener = couple
    error = await speaker.ask(f"nobody@{listener.domain}/none", "<ping xmlns='urn:xmpp:ping'/>")
    assert error.condition in ("service-unavailable", "item-not-found")


async def test_discovery_of_the_other_server(couple: tuple[User, User]) -> None:
    speaker, listener = couple
    namespace = "http://jabber.org/protocol/disco#info"
    result = await speaker.ask(listener.domain, f"<query xmlns='{namespace}'/>")
    assert result.type == "result"
    identities = result.xml.findall(f"{{{namespace}}}query/{{{namespace}}}identity")
    assert ("server", "im") in [(each.get("category"), each.get("type")) for each in identities]


@pytest.mark.parametrize("to", ["server", "user"])
async def test_ping(couple: tuple[User, User], to: str) -> None:
    speaker, listener = couple
    target = listener.domain if to == "server" else listener.jid
    assert (await speaker.ask(target, "<ping xmlns='urn:xmpp:ping'/>")).type == "result"


@pytest.mark.parametrize("service", [CAPULET_ROOMS, MONTAGUE_ROOMS])
async def test_a_room_is_shared_across_servers(juliet: User, romeo: User, service: str) -> None:
    owner, guest = (juliet, romeo) if service == CAPULET_ROOMS else (romeo, juliet)
    room = f"ball-{uuid.uuid4().hex[:8]}@{service}"
    await _enter(owner, room, "owner")
    # An instant room (XEP-0045 §10.1.2): both services lock a new one until it is configured.
    submit = (
        "<query xmlns='http://jabber.org/protocol/muc#owner'>"
        "<x xmlns='jabber:x:data' type='submit'/></query>"
    )
    assert (await owner.ask(room, submit, type="set")).type == "result"
    await _enter(guest, room, "guest")
    await owner.inbox.take(lambda s: _is_available(s, f"{room}/guest"))

    for speaker, nick in ((owner, "owner"), (guest, "guest")):
        text = f"{nick} asks: a dance? {escape('<&>')}"
        speaker.send(room, text, type="groupchat")
        for listener in (owner, guest):
            message = await listener.message(text)
            assert (message.sender, message.type) == (f"{room}/{nick}", "groupchat")

    guest.send_raw(f"<presence to='{room}/guest' type='unavailable'/>")
    await owner.inbox.take(lambda s: s.sender == f"{room}/guest" and s.type == "unavailable")
    owner.send_raw(f"<presence to='{room}/owner' type='unavailable'/>")


async def test_many_requests_at_once_find_their_answers(juliet: User, romeo: User) -> None:
    ping = "<ping xmlns='urn:xmpp:ping'/>"
    asked = [each.ask(to, ping) for each, to in ((juliet, MONTAGUE), (romeo, CAPULET))]
    asked += [juliet.ask(romeo.jid, ping) for _ in range(50)]
    asked += [romeo.ask(juliet.jid, ping) for _ in range(50)]
    assert {answer.type for answer in await asyncio.gather(*asked)} == {"result"}


async def _enter(user: User, room: str, nick: str) -> None:
    user.send_raw(
        f"<presence to='{room}/{nick}'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
    )
    await user.inbox.take(lambda s: _is_available(s, f"{room}/{nick}") and s.has(MUC))


def _is_available(stanza: Received, sender: str) -> bool:
    return stanza.name == "presence" and stanza.type == "" and stanza.sender == sender
