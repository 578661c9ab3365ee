"""XML: attacks on parsers (field list of XML attacks), each against a running gateway.

The rows on comments, instructions, undeclared entities and encodings are in
`test_spec_restricted.py` (RX), those on namespaces in `test_spec_streams.py` (NS), on the machine's
order of steps in `test_spec_negative.py` (NEG) and in `tests/fuzz/streams.py`.
"""

import asyncio

import pytest

from loadtest.stage.peers import FRAMING, SASL, XmppProxyPeer
from loadtest.stage.wire import WireClosed, dial, tls_context
from tests.integration.spec_scene import (
    CAPULET,
    FIRST,
    GUEST,
    LOCAL_GUEST,
    LOCAL_STRANGER,
    OPEN,
    STRANGER,
    VERONA,
    Scene,
    ending,
    local_message,
    message,
)

MIB = 1 << 20
LAUGHS = "<!DOCTYPE a [<!ENTITY l0 'evil'>{}]><a>&l9;</a>".format(
    "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10))
)
DOCUMENTS = {
    "XML-01 billion laughs": LAUGHS,
    "XML-02 document type": "<!DOCTYPE a><a>evil</a>",
    "XML-02 document type with a subset": "<!DOCTYPE a [<!ELEMENT a ANY>]><a>evil</a>",
    "XML-03 quadratic blow-up": f"<!DOCTYPE a [<!ENTITY b '{'evil' * 500}'>]><a>{'&b;' * 500}</a>",
    "XML-03 entity in an attribute": "<!DOCTYPE a [<!ENTITY b 'evil'>]><a c='&b;'/>",
    "XML-03 parameter entity": "<!DOCTYPE a [<!ENTITY % b '<!ENTITY c &#34;evil&#34;>'> %b;]><a/>",
    "XML-04 external entity, file": "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>"
    "<a>&b;</a>",
}


@pytest.mark.parametrize("where", [FIRST, STRANGER, GUEST, LOCAL_STRANGER, LOCAL_GUEST])
@pytest.mark.parametrize("case", DOCUMENTS)
async def test_document_types(scene: Scene, case: str, where: str) -> None:
    await scene.refuses("restricted-xml", where, DOCUMENTS[case])


@pytest.mark.parametrize("where", [FIRST, GUEST, LOCAL_GUEST])
async def test_xml_04_an_external_entity_opens_no_connection(scene: Scene, where: str) -> None:
    called: list[object] = []
    server = await asyncio.start_server(lambda *ends: called.append(ends), scene.server.address, 80)
    url = f"http://{scene.server.address}/evil"
    end = await scene.attack(where, f"<!DOCTYPE a [<!ENTITY b SYSTEM '{url}'>]><a>&b;</a>")
    assert end.condition == "restricted-xml", end
    await scene.nothing_passed()
    assert not called
    server.close()
    await server.wait_closed()


def attributes(count: int) -> str:
    return "".join(f" a{number}=''" for number in range(count))


def declarations(count: int) -> str:
    return "".join(f" xmlns:a{number}='urn:a'" for number in range(count))


# At the edge of each cap: the last that passes, the first that does not.
CAPS = {
    "XML-08 depth": ("<a>" * 63 + "</a>" * 63, "<a>" * 64 + "</a>" * 64),
    "XML-10 attributes": (f"<a{attributes(128)}/>", f"<a{attributes(129)}/>"),
    "XML-10 namespace declarations": (f"<a{declarations(128)}/>", f"<a{declarations(129)}/>"),
    "XML-10 elements": ("<a/>" * 9999, "<a/>" * 10_000),
    "XML-10 length of an element's name": (f"<{'a' * 1024}/>", f"<{'a' * 1025}/>"),
    "XML-10 length of an attribute's name": (f"<a {'b' * 1024}=''/>", f"<a {'b' * 1025}=''/>"),
    "XML-18 a name of XML 1.0's fifth edition": ("<\u0436/>", "<\u0220/>"),
    "XML-18 a namespace with a brace": ("<a xmlns='b c'/>", "<a xmlns='jabber:server}b'/>"),
    "XML-18 a namespace with a control character": ("<a xmlns='urn:é'/>", "<a xmlns='b&#10;c'/>"),
}


@pytest.mark.parametrize("case", CAPS)
async def test_a_cap_for_remote_servers(scene: Scene, case: str) -> None:
    passing, over = CAPS[case]
    wire = await scene.guest()
    wire.send(message(passing, id="passes"))
    await scene.server.wait_for("passes")
    wire.send(message(over))
    assert "<policy-violation" in await scene.verona.next_stanza("type='error'")
    assert await scene.guest() is wire
    await scene.nothing_passed()


@pytest.mark.parametrize("case", CAPS)
async def test_a_cap_for_the_local_server(scene: Scene, case: str) -> None:
    passing, over = CAPS[case]
    raw = await scene.open_local(LOCAL_GUEST)
    raw.send(local_message(passing, id="passes") + local_message(over))
    await scene.mantua.next_stanza("passes")
    error = await scene.server.wait_for("evil")
    assert error.attributes["type"] == "error" and b"<policy-violation" in error.raw
    raw.close()
    scene.server.stanzas.clear()
    await scene.nothing_passed()


def feature(inner: str) -> str:
    return f"<error xmlns='http://etherx.jabber.org/streams'>{inner}</error>"


def abort(inner: str = "") -> str:
    """Harmless: it is answered with a failure, and the stream goes on."""
    return f"<abort xmlns='{SASL}'>{inner}</abort>"


EARLY_CAPS = {
    "XML-09 8 KiB": (STRANGER, (message("x" * 8200),)),
    "XML-09 8 KiB in a header": (FIRST, (OPEN.replace("/>", f" a='{'x' * 8200}'/>"),)),
    "XML-09 32 elements": (STRANGER, (feature("<a/>" * 32),)),
    "XML-10 attributes of a header": (FIRST, (OPEN.replace("/>", f"{attributes(20)}/>"),)),
    "XML-10 prefixes of a header": (FIRST, (OPEN.replace("/>", f"{declarations(20)}/>"),)),
    "XML-08 depth": (STRANGER, (feature("<a>" * 31 + "<b" + attributes(65) + "/>" + "</a>" * 31),)),
    "XML-12 new names": (STRANGER, (abort("".join(f"<n{n}/>" for n in range(30))),) * 4),
    "XML-09 many small elements": (STRANGER, (abort(),) * 200),
    "XML-09 on the local port": (LOCAL_STRANGER, (feature("<a/>" * 200),)),
}


@pytest.mark.parametrize("case", EARLY_CAPS)
async def test_a_cap_before_authentication(scene: Scene, case: str) -> None:
    where, texts = EARLY_CAPS[case]
    await scene.refuses("policy-violation", where, *texts)


async def test_xml_11_a_flood_of_elements_in_one_stanza(scene: Scene) -> None:
    """20 MB of `<a/>` were 600 MB in memory: it ends long before, and memory comes back."""
    await scene.nothing_passed()
    before = await scene.rss()
    raw = await scene.open_local(LOCAL_GUEST)
    raw.send(local_message()[:-10])
    try:
        for _ in range(80):
            raw.send("<a/>" * 65536)
            await raw.writer.drain()
    except ConnectionError:
        pass
    text = await raw.ending()
    raw.close()
    assert "policy-violation" in text
    await scene.nothing_passed()
    assert await scene.rss() - before < 96 * MIB


async def test_xml_14_white_space_between_stanzas_is_not_kept(scene: Scene) -> None:
    raw = await scene.open_local(LOCAL_GUEST)
    raw.send("\n" * MIB + local_message("", id="warm"))
    await scene.mantua.next_stanza("warm")
    before = await scene.rss()
    for _ in range(12):  # libxml2 holds no more than 10 MB in one text
        raw.send("\n" * MIB)
        await raw.writer.drain()
    raw.send(local_message("<body>a word</body>", id="XML-14"))
    await scene.mantua.next_stanza("XML-14")
    assert await scene.rss() - before < 8 * MIB
    raw.close()
    await scene.nothing_passed()


@pytest.mark.parametrize("piece", ["x", "<a/>", " "], ids="XML-15 {}".format)
async def test_a_stanza_that_trickles_ends_in_time(scene: Scene, piece: str) -> None:
    raw = await scene.open_local(LOCAL_GUEST)
    raw.send(local_message()[:-10])
    trickle = asyncio.create_task(_trickle(raw.send, piece))
    text = await raw.ending()
    trickle.cancel()
    raw.close()
    assert "policy-violation" in text and "an element took too long" in text
    await scene.nothing_passed()


async def _trickle(send: object, piece: str) -> None:
    while True:
        send(piece)  # type: ignore[operator]
        await asyncio.sleep(0.05)


async def test_xml_16_strangers_cost_no_memory_for_good(scene: Scene) -> None:
    """As many as one address may have, each with all it may send; two rounds cost what one did."""
    costs = []
    for _ in range(3):
        wires = [await scene.dial() for _ in range(60)]
        for number, wire in enumerate(wires):
            wire.send(OPEN.replace("/>", f" a{number}='{'x' * 7000}'/>"))
        for wire in wires:
            await wire.receive()
            wire.end()
        await scene.nothing_passed()
        costs.append(await scene.rss())
    assert costs[2] - costs[1] < 4 * MIB


async def test_xml_17_no_compression_is_agreed_on(scene: Scene) -> None:
    """xmppbomb (CVE-2014-2744): what is not compressed does not blow up."""
    headers = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    pair = scene.authority.issue(VERONA)
    url = f"wss://{CAPULET}/xmpp-s2s"
    wire = await dial(url, scene.gateway.address, tls_context(pair), headers=headers)
    assert wire.handshake is not None
    assert "Sec-WebSocket-Extensions" not in wire.handshake.headers
    wire.send(OPEN)
    await wire.receive()
    assert "compression" not in await wire.receive()
    wire.send_bytes(b"\xc1\x80\0\0\0\0")  # RSV1: a compressed message
    assert (await ending(wire)).code == 1002
    await scene.nothing_passed()


SMUGGLED = {
    "XML-18 an error of the stream's": (
        f"<stream:error xmlns:stream='http://etherx.jabber.org/streams'>"
        f"<reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>{message()}</stream:error>",
        "",
    ),
    "XML-18 a header of the stream's": (
        f"<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'"
        f" from='{VERONA}' to='{CAPULET}' version='1.0'/>",
        "invalid-namespace",
    ),
    "XML-18 the end of the stream": (message() + "</stream:stream>", "not-well-formed"),
    "XML-18 features": (
        "<stream:features xmlns:stream='http://etherx.jabber.org/streams'><evil/></stream:features>",
        "unsupported-stanza-type",
    ),
    "XML-18 a stanza inside framing": (f"<close xmlns='{FRAMING}'>{message()}</close>", ""),
}


@pytest.mark.parametrize("case", SMUGGLED)
async def test_nothing_is_smuggled(scene: Scene, case: str) -> None:
    text, condition = SMUGGLED[case]
    await scene.refuses(condition, GUEST, text)


async def test_xml_12_new_names_grow_memory_no_faster_than_they_come(scene: Scene) -> None:
    """What they leave is counted; a worker that has too many is replaced (`gateway.max_names`)."""
    before = await names(scene)
    wire = await scene.guest()
    for number in range(20):
        inner = "".join(f"<n{number}-{n}/>" for n in range(100))
        wire.send(message(inner, id=f"XML-12-{number}"))
    await scene.server.wait_for("XML-12-19")
    async with asyncio.timeout(10):
        while await names(scene) < before + 2000:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert await names(scene) < before + 2500
    await scene.nothing_passed()


async def test_xml_12_who_brings_too_many_new_names_is_sent_away(scene: Scene) -> None:
    """And not let in again for a minute (`limits.names_per_hour`)."""
    domain = "names.example"
    peer = XmppProxyPeer(domain, scene.addresses.of(104), scene.authority.issue(domain))
    wire = await scene.connect(peer)
    try:
        for number in range(250):
            inner = "".join(f"<m{number}-{n}/>" for n in range(100))
            wire.send(message(inner, sender=f"paris@{domain}", id="names"))
    except WireClosed:
        pass
    end = await ending(wire)
    assert (end.condition, end.is_closed) == ("policy-violation", True), end.messages[-2:]
    with pytest.raises(WireClosed):
        await scene.connect(peer)
    await peer.stop()
    await scene.nothing_passed()


async def names(scene: Scene) -> int:
    (worker,) = await scene.gateway.api("workers")
    count: int = worker["names"]
    return count
