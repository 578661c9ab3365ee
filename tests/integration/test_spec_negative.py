"""NEG: the rest of what peers must not do, and what a session is worth that is cut in any state."""

from datetime import UTC, datetime, timedelta

import pytest
from websockets.frames import Frame, Opcode

from loadtest.stage.peers import FRAMING, SASL
from loadtest.stage.wire import WireClosed, dial, tls_context
from tests.integration.rude_peer import ESTABLISHED, FEATURES, RESULT, RudePeer
from tests.integration.spec_scene import (
    AUTH,
    CAPULET,
    FIRST,
    GUEST,
    LOCAL_CLEAR,
    LOCAL_GUEST,
    LOCAL_STRANGER,
    OPEN,
    PUBLIC,
    STRANGER,
    VERONA,
    Scene,
    ending,
    local_message,
    message,
)

DB = "<db:{name} xmlns='jabber:server' xmlns:db='jabber:server:dialback' id='x' {more}/>"


def typed(name: str, outcome: str, sender: str = VERONA, target: str = CAPULET) -> str:
    return DB.format(name=name, more=f"from='{sender}' to='{target}' type='{outcome}'")


STANZAS_TOO_EARLY = {
    "NEG-01 instead of a header": (FIRST, (message(),), "not-authorized"),
    "NEG-01 after the header": (STRANGER, (message(),), "not-authorized"),
    "NEG-01 between success and the new header": (STRANGER, (AUTH, message()), "not-authorized"),
    "NEG-01 behind a refused proof": (
        STRANGER,
        (AUTH.replace("EXTERNAL", "PLAIN"), message()),
        "not-authorized",
    ),
    "NEG-03 behind an answer to no question, result": (
        STRANGER,
        (typed("result", "valid"), message()),
        "not-authorized",
    ),
    "NEG-03 behind an answer to no question, verify": (
        STRANGER,
        (typed("verify", "valid"), message()),
        "not-authorized",
    ),
    "NEG-03 of another domain behind an answer to no question": (
        GUEST,
        (typed("result", "valid", "else.example"), message(sender="a@else.example")),
        "invalid-from",
    ),
    "NEG-01 on the local port in clear": (LOCAL_CLEAR, (local_message(),), "not-authorized"),
    "NEG-01 on the local port before authentication": (
        LOCAL_STRANGER,
        (local_message(),),
        "not-authorized",
    ),
    "NEG-03 on the local port": (
        LOCAL_STRANGER,
        (typed("result", "valid", CAPULET, "mantua.example"), local_message()),
        "not-authorized",
    ),
}


@pytest.mark.parametrize("case", STANZAS_TOO_EARLY)
async def test_stanzas_of_nobody_that_has_proved_it(scene: Scene, case: str) -> None:
    where, texts, condition = STANZAS_TOO_EARLY[case]
    await scene.refuses(condition, where, *texts)


async def test_neg_02_a_stanza_behind_a_key_that_is_not_verified(scene: Scene) -> None:
    """Without a certificate: a good one would prove the domain at once (XEP-0344 §2.4)."""
    wire = await dial(f"wss://{CAPULET}/xmpp-s2s", scene.gateway.address, tls_context(None))
    wire.send(OPEN)
    key = DB.format(name="result", more=f"from='{VERONA}' to='{CAPULET}'")
    wire.send(key.replace("/>", ">key</db:result>"))
    wire.send(message())
    end = await ending(wire)
    assert (end.condition, end.is_closed) == ("not-authorized", True), end
    await scene.nothing_passed()


DIALLED = {
    "NEG-04 a stanza on a stream that goes one way": (
        ESTABLISHED,
        (message(sender="a@{domain}"),),
        "not-authorized",
    ),
    "NEG-04 an answer to no question makes it no other": (
        ESTABLISHED,
        (typed("result", "valid", "{domain}"), message(sender="a@{domain}")),
        "not-authorized",
    ),
    "NEG-03 a key that nobody asked to be judged": (
        ESTABLISHED,
        (DB.format(name="result", more=f"from='{{domain}}' to='{CAPULET}'"),),
        "unsupported-stanza-type",
    ),
    "NEG-05 a challenge": (RESULT, (f"<challenge xmlns='{SASL}'/>",), "unsupported-stanza-type"),
    "NEG-05 success before features": (
        FEATURES,
        (f"<success xmlns='{SASL}'/>",),
        "unsupported-stanza-type",
    ),
    "NEG-06 comment": (FEATURES, ("<!-- evil -->",), "restricted-xml"),
    "NEG-06 document type": (FEATURES, ("<!DOCTYPE evil><a/>",), "restricted-xml"),
    "NEG-06 comment when established": (ESTABLISHED, ("<!-- evil -->",), "restricted-xml"),
    "NEG-06 malformed": (ESTABLISHED, ("<evil>",), "not-well-formed"),
    "NEG-06 too large": (FEATURES, (f"<a>{'x' * 9000}</a>",), "policy-violation"),
}


@pytest.mark.parametrize("case", DIALLED)
async def test_a_server_that_we_dialled(scene: Scene, rude: RudePeer, case: str) -> None:
    where, texts, condition = DIALLED[case]
    await rude.is_refused(scene, condition, where, *texts)


TWO = {
    "NEG-07 two elements": "{0}{0}",
    "NEG-07 text before": "evil{0}",
    "NEG-07 text behind": "{0}evil",
    "NEG-07 the end of the made-up root": "</r>{0}",
    "NEG-07 an end and a beginning": "{0}</r><r>{0}",
    "NEG-07 half of one": "<message xmlns='jabber:server'><body>evil",
    "NEG-07 the end of the stream": "</stream:stream>",
}


@pytest.mark.parametrize("where", PUBLIC)
@pytest.mark.parametrize("case", TWO)
async def test_a_message_is_one_element(scene: Scene, case: str, where: str) -> None:
    text = TWO[case].format(OPEN if where == FIRST else message())
    await scene.refuses("not-well-formed", where, text)


async def test_neg_07_halves_do_not_meet(scene: Scene) -> None:
    """What one session leaves open swallows nothing of another's, nor of its own next message."""
    wire, other = await scene.guest(), await scene.connect(scene.verona)
    scene.say(other, VERONA)
    wire.send("<message xmlns='jabber:server'><body>evil")
    other.send(message("<body>a word</body>", id="NEG-07"))
    wire.send("</body></message>")
    await scene.server.wait_for("NEG-07")
    assert (await ending(wire)).condition == "not-well-formed"
    other.end()
    await scene.nothing_passed()


DEPTHS = {"NEG-08 255": 255, "NEG-08 256": 256, "NEG-08 300": 300, "NEG-08 2000": 2000}


@pytest.mark.parametrize("case", DEPTHS)
async def test_depths_that_lxml_takes_are_returned(scene: Scene, case: str) -> None:
    wire = await scene.guest()
    wire.send(message("<a>" * DEPTHS[case] + "evil" + "</a>" * DEPTHS[case]))
    assert "<policy-violation" in await scene.verona.next_stanza("type='error'")
    await scene.nothing_passed()


BEYOND = {STRANGER: (1000, "policy-violation"), GUEST: (3000, "not-well-formed")}
BEYOND[LOCAL_GUEST] = BEYOND[GUEST]


@pytest.mark.parametrize("where", BEYOND)
async def test_neg_08_a_depth_that_is_not_read_ends_the_stream(scene: Scene, where: str) -> None:
    make = local_message if where == LOCAL_GUEST else message
    depth, condition = BEYOND[where]
    text = make("<a>" * depth + "evil" + "</a>" * depth)
    await scene.refuses(condition, where, text)


CERTIFICATES = {
    "NEG-09 expired": {"not_after": datetime.now(UTC) - timedelta(days=1)},
    "NEG-09 self-signed": {"self_signed": True},
}


@pytest.mark.parametrize("case", CERTIFICATES)
async def test_a_certificate_that_proves_nothing(scene: Scene, case: str) -> None:
    pair = scene.authority.issue(VERONA, **CERTIFICATES[case])
    wire = await dial(f"wss://{CAPULET}/xmpp-s2s", scene.gateway.address, tls_context(pair))
    wire.send(OPEN)
    await wire.receive()
    assert "EXTERNAL" not in await wire.receive()
    wire.send(AUTH)
    assert (await wire.receive()).startswith("<failure ")
    wire.send(message())
    assert (await ending(wire)).condition == "not-authorized"
    await scene.nothing_passed()


async def test_neg_10_a_certificate_header_from_anywhere_is_nothing(scene: Scene) -> None:
    headers = {"Client-Cert": ":MIIB:", "X-Forwarded-For": "192.0.2.1"}
    url = f"wss://{CAPULET}/xmpp-s2s"
    wire = await dial(url, scene.gateway.address, tls_context(None), headers=headers)
    wire.send(OPEN)
    await wire.receive()
    assert "EXTERNAL" not in await wire.receive()
    wire.end()


@pytest.mark.parametrize("where", PUBLIC)
async def test_neg_11_a_websocket_that_closes_without_the_stream(scene: Scene, where: str) -> None:
    wire = await {FIRST: scene.dial, STRANGER: scene.opened, GUEST: scene.guest}[where]()
    wire.close(1000)
    with pytest.raises(WireClosed) as closed:
        while True:
            await wire.receive(5)
    assert closed.value.code == 1000
    await scene.nothing_passed()


@pytest.mark.parametrize("where", [LOCAL_CLEAR, LOCAL_STRANGER, LOCAL_GUEST])
async def test_neg_11_a_local_stream_that_is_cut(scene: Scene, where: str) -> None:
    raw = await scene.open_local(where)
    raw.send(local_message()[:-5])
    raw.close()
    await scene.nothing_passed()


FRAMES = {
    "NEG-12 binary": (Frame(Opcode.BINARY, b"<evil/>").serialize(mask=True), 1003),
    "NEG-12 too large": (Frame(Opcode.TEXT, b"x" * 600_000).serialize(mask=True), 1009),
    "NEG-12 a continuation of nothing": (Frame(Opcode.CONT, b"evil").serialize(mask=True), 1002),
    "NEG-12 a Ping that is too large": (b"\x89\xfe\0\x7e\0\0\0\0" + b"x" * 126, 1002),
}


@pytest.mark.parametrize("case", FRAMES)
async def test_a_frame_that_is_no_message(scene: Scene, case: str) -> None:
    data, code = FRAMES[case]
    wire = await scene.guest()
    wire.send_bytes(data)
    assert (await ending(wire)).code == code
    await scene.nothing_passed()


async def test_neg_13_a_close_in_another_namespace_is_none(scene: Scene) -> None:
    end = await scene.attack(GUEST, f"<close xmlns='{FRAMING}x'/>")
    assert (end.condition, end.is_closed) == ("invalid-namespace", True)
