"""OPEN and NS: stream headers, closing and namespaces (RFC 7395 §3.3-3.6, XEP-0468), both roles."""

import pytest

from loadtest.stage.peers import FRAMING, FRAMING_CLIENT, MECHANISMS, STREAMS, attribute
from tests.integration.played_server import FOOTER
from tests.integration.rude_peer import (
    ANSWER,
    ESTABLISHED,
    FEATURES,
    RESULT,
    RudePeer,
    features,
    opened,
)
from tests.integration.spec_scene import (
    AUTH,
    CAPULET,
    FIRST,
    GUEST,
    LOCAL_GUEST,
    OPEN,
    STRANGER,
    VERONA,
    Scene,
    ending,
    local_message,
    message,
)

CLOSE = f"<close xmlns='{FRAMING}'/>"

HEADERS = {
    "OPEN-02 framing namespace of clients": (
        OPEN.replace(FRAMING, FRAMING_CLIENT),
        "invalid-namespace",
    ),
    "OPEN-02 jabber:server": (OPEN.replace(FRAMING, "jabber:server"), "invalid-namespace"),
    "OPEN-02 a header of TCP": (
        f"<stream:stream xmlns='jabber:server' xmlns:stream='{STREAMS}'/>",
        "invalid-namespace",
    ),
    "OPEN-03 no from": (OPEN.replace(f" from='{VERONA}'", ""), "improper-addressing"),
    "OPEN-03 no to": (OPEN.replace(f" to='{CAPULET}'", ""), "improper-addressing"),
    "OPEN-03 empty from": (OPEN.replace(VERONA, ""), "improper-addressing"),
    "OPEN-03 from is no domain": (OPEN.replace(VERONA, "a..b"), "improper-addressing"),
    "OPEN-03 from is one of ours": (OPEN.replace(VERONA, CAPULET), "undefined-condition"),
    "OPEN-04 to is unknown": (OPEN.replace(CAPULET, "nobody.example"), "host-unknown"),
    "OPEN-05 no version": (OPEN.replace(" version='1.0'", ""), "unsupported-version"),
    "OPEN-05 version 0.9": (OPEN.replace("1.0", "0.9"), "unsupported-version"),
    "OPEN-05 version 2.0": (OPEN.replace("1.0", "2.0"), "unsupported-version"),
}


@pytest.mark.parametrize("case", HEADERS)
async def test_a_header_that_is_refused(scene: Scene, case: str) -> None:
    header, condition = HEADERS[case]
    end = await scene.attack(FIRST, header)
    # RFC 7395 §3.5: our header first, in our framing namespace, then the error, then <close/>.
    assert (end.condition, end.is_closed) == (condition, True), end
    assert end.messages[0].startswith(f"<open xmlns='{FRAMING}' ")


async def test_open_01_and_07_a_header_is_answered_with_header_and_features(scene: Scene) -> None:
    wire = await scene.dial()
    wire.send(OPEN)
    header, offered = await wire.receive(), await wire.receive()
    assert header.startswith(f"<open xmlns='{FRAMING}' ") and header.endswith("/>")
    assert (attribute(header, "from"), attribute(header, "to")) == (CAPULET, VERONA)
    assert attribute(header, "version") == "1.0" and attribute(header, "xml:lang")
    assert len(attribute(header, "id")) > 16
    assert offered.startswith("<stream:features xmlns='jabber:server' xmlns:stream=")
    assert "EXTERNAL" in offered and "starttls" not in offered
    wire.end()


async def test_open_06_a_header_after_authentication_restarts_the_stream(scene: Scene) -> None:
    wire = await scene.dial()
    ids = []
    for text in (OPEN, AUTH, OPEN):
        wire.send(text)
        answer = await wire.receive()
        if text == OPEN:
            ids.append(attribute(answer, "id"))
            await wire.receive()
    assert len(set(ids)) == 2
    scene.say(wire, VERONA)
    wire.send(CLOSE)
    end = await ending(wire)
    assert (end.condition, end.is_closed, end.code) == ("", True, 1000)


RESTARTS = {
    "OPEN-06 before authentication": (STRANGER, (OPEN,), "conflict"),
    "OPEN-06 without a reason": (GUEST, (OPEN,), "conflict"),
    "OPEN-06 from has changed": (
        STRANGER,
        (AUTH, OPEN.replace(VERONA, "else.example")),
        "improper-addressing",
    ),
    "OPEN-06 to has changed": (
        STRANGER,
        (AUTH, OPEN.replace(CAPULET, "else.example")),
        "improper-addressing",
    ),
}


@pytest.mark.parametrize("case", RESTARTS)
async def test_a_restart_that_is_refused(scene: Scene, case: str) -> None:
    where, texts, condition = RESTARTS[case]
    await scene.refuses(condition, where, *texts)


CLOSINGS = {
    "OPEN-08 close": CLOSE,
    "OPEN-08 close with a URI, which only a server sends": CLOSE.replace(
        "/>", " see-other-uri='wss://127.0.0.1/x'/>"
    ),
    "OPEN-10 close in the framing namespace of clients": CLOSE.replace(FRAMING, FRAMING_CLIENT),
}


@pytest.mark.parametrize("where", [STRANGER, GUEST])
@pytest.mark.parametrize("case", CLOSINGS)
async def test_closing_is_answered(scene: Scene, case: str, where: str) -> None:
    end = await scene.attack(where, CLOSINGS[case])
    assert (end.condition, end.messages[-1], end.code) == ("", CLOSE, 1000)
    await scene.nothing_passed()


async def test_open_08_the_local_server_closes(scene: Scene) -> None:
    end = await scene.attack(LOCAL_GUEST, FOOTER)
    assert (end.condition, end.is_closed) == ("", True)


ANSWERS = {
    "OPEN-02 framing namespace of clients": (
        (ANSWER, opened("{domain}", FRAMING_CLIENT)),
        "invalid-namespace",
    ),
    "OPEN-03 another domain answers": (
        (ANSWER, opened("else.example"), features(MECHANISMS)),
        "invalid-from",
    ),
    "OPEN-07 a stanza instead of features": ((FEATURES, message()), "not-authorized"),
    "OPEN-06 a second header": ((FEATURES, opened("{domain}")), "conflict"),
    "OPEN-06 a header out of place": ((ESTABLISHED, opened("{domain}")), "conflict"),
    "OPEN-08 closed instead of a header": ((ANSWER, CLOSE), ""),
    "OPEN-08 closed later": ((ESTABLISHED, CLOSE), ""),
    "OPEN-09 to be sought in clear": (
        (ANSWER, CLOSE.replace("/>", " see-other-uri='ws://127.0.0.1:9/x'/>")),
        "",
    ),
    "OPEN-09 to be sought at an inside address": (
        (ESTABLISHED, CLOSE.replace("/>", " see-other-uri='wss://169.254.169.254/x'/>")),
        "",
    ),
    "OPEN-10 closed in the framing namespace of clients": (
        (ESTABLISHED, CLOSE.replace(FRAMING, FRAMING_CLIENT)),
        "",
    ),
    "NS-04 a stanza of clients": (
        (ESTABLISHED, message(sender="a@{domain}", ns="jabber:client")),
        "invalid-namespace",
    ),
    "NS-05 an element of nobody": ((RESULT, "<evil xmlns='urn:x'/>"), "unsupported-stanza-type"),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_a_server_that_we_dialled(scene: Scene, rude: RudePeer, case: str) -> None:
    (where, *texts), condition = ANSWERS[case]
    await rude.is_refused(scene, condition, where, *texts)


def other(old: str, new: str, text: str | None = None) -> str:
    return (message() if text is None else text).replace(old, new, 1)


NAMESPACES = {
    "NS-01 no namespace": (other(" xmlns='jabber:server'", ""), "invalid-namespace"),
    "NS-02 prefix of streams undeclared": ("<stream:evil/>", "unsupported-stanza-type"),
    "NS-03 a stanza of clients": (message(ns="jabber:client"), "invalid-namespace"),
    "NS-03 a stanza of components": (message(ns="jabber:component:accept"), "invalid-namespace"),
    "NS-04 a prefix for the content namespace": (
        message()
        .replace("<message xmlns=", "<x:message xmlns:x=")
        .replace("</message", "</x:message"),
        "bad-namespace-prefix",
    ),
    "NS-05 an element of nobody": ("<evil xmlns='urn:evil'/>", "unsupported-stanza-type"),
    "NS-05 framing in the content namespace": (
        "<close xmlns='jabber:server'/>",
        "invalid-namespace",
    ),
    "NS-05 a stanza in the framing namespace": (message(ns=FRAMING), "invalid-namespace"),
    "NS-05 a stanza in no namespace": (message(ns=""), "invalid-namespace"),
    "NS-07 xmlns twice": (other(" from=", " xmlns='jabber:server' from="), "not-well-formed"),
    "NS-07 one attribute by two prefixes": (
        message("<a xmlns:b='urn:x' xmlns:c='urn:x' b:d='' c:d=''/>"),
        "not-well-formed",
    ),
    "NS-08 undeclared prefix": (message("<x:evil/>"), "not-well-formed"),
    "NS-08 undeclared prefix of an attribute": (message("<evil x:a='1'/>"), "not-well-formed"),
    "NS-08 prefix undone": (message("<evil xmlns:x=''/>"), "not-well-formed"),
    "NS-08 xmlns as a prefix": (message("<evil xmlns:xmlns='urn:x'/>"), "not-well-formed"),
    "NS-08 xml as another's prefix": (message("<evil xmlns:xml='urn:x'/>"), "not-well-formed"),
    "NS-08 two colons": (message("<x:y:evil xmlns:x='urn:x'/>"), "not-well-formed"),
}
# A stream of TCP binds these for all that is in it.
BOUND_BY_THE_STREAM = ("NS-01", "NS-02")


def sides() -> list[tuple[str, str]]:
    """Each case for a remote server and, where the stream itself binds nothing, the local one."""
    local = [case for case in NAMESPACES if not case.startswith(BOUND_BY_THE_STREAM)]
    return [(case, GUEST) for case in NAMESPACES] + [(case, LOCAL_GUEST) for case in local]


@pytest.mark.parametrize(("case", "where"), sides())
async def test_namespaces(scene: Scene, case: str, where: str) -> None:
    text, condition = NAMESPACES[case]
    if where == LOCAL_GUEST:
        text = text.replace(f"paris@{VERONA}", f"juliet@{CAPULET}").replace(
            f"to='juliet@{CAPULET}'", "to='friar@mantua.example'"
        )
    await scene.refuses(condition, where, text)


@pytest.mark.parametrize("case", ["NS-01", "NS-06", "NS-06 own"])
async def test_what_is_forwarded_declares_itself(scene: Scene, case: str) -> None:
    """NS-01: each message of a WebSocket stands for itself. NS-06: a language of its own stays."""
    own = " xml:lang='it'" if case == "NS-06 own" else ""
    raw = await scene.open_local(LOCAL_GUEST)
    raw.send(
        local_message("<body>a word</body>", id=case.replace(" ", "-"), attributes=own).replace(
            " xmlns='jabber:server'", ""
        )
    )
    stanza = await scene.mantua.next_stanza(case.replace(" ", "-"))
    assert "xmlns='jabber:server'" in stanza.replace('"', "'")
    assert ("xml:lang" in stanza) is bool(own)
    raw.close()
