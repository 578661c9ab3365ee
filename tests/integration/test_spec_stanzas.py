"""ST: stanzas (RFC 6120 §8, §10): addresses, errors, order, and that they arrive as they were."""

import pytest

from tests.fuzz.reading import read_with_expat
from tests.integration.spec_scene import (
    CAPULET,
    GUEST,
    LOCAL_GUEST,
    MANTUA,
    VERONA,
    Scene,
    expect,
    local_message,
    message,
)

LARGEST = 262144


def without(attribute: str) -> str:
    return message().replace(f" {attribute}=", " x=", 1)


REFUSED = {
    "ST-01 no from": (without("from"), "improper-addressing"),
    "ST-01 no to": (without("to"), "improper-addressing"),
    "ST-01 empty from": (message(sender=""), "improper-addressing"),
    "ST-01 empty to": (message(to=""), "improper-addressing"),
    "ST-02 from is another domain": (message(sender="a@else.example"), "invalid-from"),
    "ST-02 from is a subdomain": (message(sender=f"a@sub.{VERONA}"), "invalid-from"),
    "ST-02 from is the domain above": (message(sender="a@example"), "invalid-from"),
    "ST-02 from is one of ours": (message(sender=f"nurse@{CAPULET}"), "invalid-from"),
    "ST-02 from looks alike": (message(sender="a@ver\u043ena.example"), "invalid-from"),
    "ST-02 from hides in the resource": (
        message(sender=f"a@else.example/x@{VERONA}"),
        "invalid-from",
    ),
    "ST-03 to is not ours": (message(to=f"friar@{MANTUA}"), "host-unknown"),
    "ST-03 to is a subdomain of ours": (message(to=f"a@sub.{CAPULET}"), "host-unknown"),
    "ST-04 two at signs": (message(to=f"a@b@{CAPULET}"), "improper-addressing"),
    "ST-04 nothing before the at sign": (message(to=f"@{CAPULET}"), "improper-addressing"),
    "ST-04 empty resource": (message(to=f"a@{CAPULET}/"), "improper-addressing"),
    "ST-04 empty label": (message(to="a@capulet..example"), "improper-addressing"),
    "ST-04 too long": (message(to=f"{'a' * 3100}@{CAPULET}"), "improper-addressing"),
    "ST-11 one byte too large": (
        message("x" * (LARGEST + 1 - len(message("")))),
        "policy-violation",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_refused_of_a_remote_server(scene: Scene, case: str) -> None:
    text, condition = REFUSED[case]
    await scene.refuses(condition, GUEST, text)


REFUSED_LOCALLY = {
    "ST-01 no from": (
        local_message().replace(" from=", " x=", 1),
        "improper-addressing",
    ),
    "ST-01 no to": (local_message().replace(" to=", " x=", 1), "improper-addressing"),
    "ST-02 from is no domain of the server": (
        local_message(sender=f"a@{VERONA}"),
        "invalid-from",
    ),
    "ST-03 to is another domain": (local_message(to=f"a@{VERONA}"), "host-unknown"),
    "ST-04 two at signs": (local_message(to=f"a@b@{MANTUA}"), "improper-addressing"),
}


@pytest.mark.parametrize("case", REFUSED_LOCALLY)
async def test_refused_of_the_local_server(scene: Scene, case: str) -> None:
    text, condition = REFUSED_LOCALLY[case]
    await scene.refuses(condition, LOCAL_GUEST, text)


RETURNED = {
    "ST-04 a full-width dot": message(to="juliet@capulet\uff0eexample"),
    "ST-04 a dot at the end": message(to=f"juliet@{CAPULET}.."),
    "ST-11 too deep": message("<a>" * 64 + "evil" + "</a>" * 64),
    "ST-11 too many elements": message("<a/>" * 10_000 + "evil"),
}


@pytest.mark.parametrize("case", RETURNED)
async def test_returned_to_its_sender_and_the_stream_goes_on(scene: Scene, case: str) -> None:
    wire = await scene.guest()
    wire.send(RETURNED[case])
    error = await scene.verona.next_stanza("type='error'")
    assert "<policy-violation" in error and f"to='paris@{VERONA}'" in error
    assert await scene.guest() is wire
    await scene.nothing_passed()


async def test_st_11_one_byte_too_large_of_the_local_server(scene: Scene) -> None:
    """One user must not end the stream that all share: it is returned, the next one goes out."""
    raw = await scene.open_local(LOCAL_GUEST)
    raw.send(local_message("x" * LARGEST) + local_message("<body>a word</body>", id="ST-11"))
    await scene.mantua.next_stanza("ST-11")
    error = await scene.server.wait_for("evil")
    assert error.attributes["type"] == "error" and b"<policy-violation" in error.raw
    scene.server.stanzas.clear()
    raw.close()


async def test_st_05_an_error_is_never_answered_with_an_error(scene: Scene) -> None:
    wire = await scene.guest()
    for kind in ("error", "result"):
        too_deep = message("<a>" * 64 + "</a>" * 64, attributes=f" type='{kind}'")
        wire.send(too_deep.replace("message", "iq") if kind == "result" else too_deep)
    wire.send("<r xmlns='urn:xmpp:sm:3'/>")
    await expect(wire, "<a ")  # the stream goes on
    await scene.nothing_passed()
    assert scene.verona.stanzas.empty()


async def test_st_06_results_and_errors_pass(scene: Scene) -> None:
    wire = await scene.guest()
    for kind in ("result", "error"):
        wire.send(message("", id=f"ST-06-{kind}", attributes=f" type='{kind}'"))
        arrived = await scene.server.wait_for(f"ST-06-{kind}")
        assert arrived.attributes["type"] == kind
    raw = await scene.open_local(LOCAL_GUEST)
    for kind in ("result", "error"):
        raw.send(local_message("", id=f"ST-06-{kind}", attributes=f" type='{kind}'"))
        await scene.mantua.next_stanza(f"ST-06-{kind}")
    raw.close()


async def test_st_07_the_order_of_a_pair_is_kept(scene: Scene) -> None:
    wire = await scene.guest()
    for number in range(200):
        wire.send(message("", id=f"ST-07-{number}"))
    await scene.server.wait_for("ST-07-199")
    ids = [arrived.attributes["id"] for arrived in scene.server.stanzas]
    assert [id for id in ids if id.startswith("ST-07")] == [f"ST-07-{n}" for n in range(200)]
    scene.server.stanzas.clear()
    raw = await scene.open_local(LOCAL_GUEST)
    raw.send("".join(local_message("", id=f"ST-07-{number}") for number in range(200)))
    for number in range(200):
        assert f"ST-07-{number}" in await scene.mantua.next_stanza("ST-07-")
    raw.close()


EXACT = {
    "ST-04 domain in capitals": (f"paris@{VERONA.upper()}", f"juliet@{CAPULET.upper()}", ""),
    "ST-04 resource with an at sign": (f"paris@{VERONA}/a@b", f"{CAPULET}/a@b/c", ""),
    "ST-04 no local part": (VERONA, CAPULET, ""),
    "ST-08 an id of any kind": (VERONA, CAPULET, "<body id='&lt;&quot;&apos;&#10;&#9;é'/>"),
    "ST-12 entities": (VERONA, CAPULET, "<body>&lt;&gt;&amp;&quot;&apos;&#x41;&#13;</body>"),
    "ST-12 CDATA": (VERONA, CAPULET, "<body><![CDATA[<a>&amp;]]]]><![CDATA[></a>]]></body>"),
    "ST-12 white space": (VERONA, CAPULET, "<body xml:space='preserve'> \n\t a \n</body>"),
    "ST-12 beyond the first plane": (VERONA, CAPULET, "<body>\U0001f339\u0301\u202e</body>"),
    "ST-12 prefixes": (
        VERONA,
        CAPULET,
        "<a:b xmlns:a='urn:a' xmlns:c='urn:c' c:d='1'><b xmlns='' c:e=''/><a:f/></a:b>",
    ),
    "ST-12 a prefix bound anew": (
        VERONA,
        CAPULET,
        "<a:b xmlns:a='urn:a'><a:b xmlns:a='urn:b'/></a:b>",
    ),
    "ST-12 nested stanzas": (
        VERONA,
        CAPULET,
        "<forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'/></forwarded>",
    ),
    "ST-12 an element named like a stream's": (
        VERONA,
        CAPULET,
        f"<stream:error xmlns:stream='urn:a'/><open xmlns='urn:b'/>{'x' * 300}",
    ),
    "ST-11 as large as may be": (
        VERONA,
        CAPULET,
        "x" * (LARGEST - len(message("", sender=VERONA, to=CAPULET, id="0123456789"))),
    ),
}


@pytest.mark.parametrize("case", EXACT)
async def test_what_is_forwarded_means_the_same(scene: Scene, case: str) -> None:
    """Read by expat, as both stock servers do: the same names, attributes and texts."""
    sender, to, inner = EXACT[case]
    sent = message(inner, sender=sender, to=to, id=f"{case[:10]:_<10}")
    wire = await scene.guest()
    wire.send(sent)
    arrived = await scene.server.wait_for(f"{case[:10]:_<10}")
    name, attributes, children = read_with_expat(arrived.raw)
    del attributes["{http://www.w3.org/XML/1998/namespace}lang"]  # that of the stream
    assert (name, attributes, children) == read_with_expat(sent.encode())
    scene.server.stanzas.clear()


async def test_st_10_white_space_does_no_harm(scene: Scene) -> None:
    wire = await scene.guest()
    for text in (" ", "\n", f" {message('', id='ST-10')}\n"):
        wire.send(text)
    await scene.server.wait_for("ST-10")
    raw = await scene.open_local(LOCAL_GUEST)
    for _ in range(100):
        raw.send(" \n" * 100)
    raw.send(f" {local_message('', id='ST-10')}\n")
    await scene.mantua.next_stanza("ST-10")
    raw.close()
    await scene.nothing_passed()
