"""RX: restricted and malformed XML (RFC 6120 §4.9.3, §11), wherever it may come."""

import pytest

from tests.integration.spec_scene import (
    FIRST,
    GUEST,
    LOCAL,
    LOCAL_CLEAR,
    LOCAL_FIRST,
    LOCAL_GUEST,
    LOCAL_STRANGER,
    OPEN,
    PUBLIC,
    STRANGER,
    Scene,
    local_message,
    message,
)

RESTRICTED, MALFORMED = "restricted-xml", "not-well-formed"


def body(inner: str) -> str:
    return f"<body>{inner}</body>"


# Each is written into a stanza, or stands before it.
INSIDE = {
    "RX-01 comment": ("<!-- evil -->", RESTRICTED),
    "RX-02 processing instruction": ("<?evil evil?>", RESTRICTED),
    "RX-05 undeclared entity": ("&evil;", MALFORMED),
    "RX-07 crossed tags": ("<b><i>evil</b></i>", MALFORMED),
    "RX-08 control character": ("evil\x01", MALFORMED),
    "RX-08 reference to NUL": ("evil&#0;", MALFORMED),
    "RX-08 reference to a C0 character": ("evil&#1;", MALFORMED),
    "RX-08 reference to U+FFFF": ("evil&#xFFFF;", MALFORMED),
    "RX-08 reference to a surrogate": ("evil&#xD800;", MALFORMED),
    "RX-08 end of CDATA in text": ("evil ]]> evil", MALFORMED),
    "RX-08 attribute twice": ("<a b='' b=''/>evil", MALFORMED),
    "RX-08 attribute without quotes": ("<a b=c/>evil", MALFORMED),
}
BEFORE = {
    "RX-01 comment before a stanza": ("<!-- evil -->", RESTRICTED),
    "RX-02 instruction before a stanza": ("<?evil evil?>", RESTRICTED),
    "RX-03 document type": ("<!DOCTYPE evil>", RESTRICTED),
    "RX-03 document type with a subset": ("<!DOCTYPE evil [<!ELEMENT evil ANY>]>", RESTRICTED),
    "RX-04 document type with an external subset": (
        "<!DOCTYPE evil SYSTEM 'http://127.0.0.1:1/evil'>",
        RESTRICTED,
    ),
    "RX-05 entity declared": ("<!DOCTYPE evil [<!ENTITY evil 'evil'>]>", RESTRICTED),
}


def refused_before_the_header(where: str, condition: str) -> str:
    """On the local port what is no header is not answered: its sender is no server."""
    return "" if where == LOCAL_FIRST else condition


@pytest.mark.parametrize("where", [STRANGER, GUEST, LOCAL_STRANGER, LOCAL_GUEST])
@pytest.mark.parametrize("case", INSIDE)
async def test_inside_a_stanza(scene: Scene, case: str, where: str) -> None:
    inner, condition = INSIDE[case]
    make = local_message if where in LOCAL else message
    await scene.refuses(condition, where, make(body(inner)))


STALLED = {
    GUEST: MALFORMED,
    # libxml2 waits for the `;`, as long as we let it.
    LOCAL_CLEAR: "connection-timeout",
    LOCAL_STRANGER: "connection-timeout",
    LOCAL_GUEST: "policy-violation",
}


@pytest.mark.parametrize("where", STALLED)
async def test_rx_09_an_ampersand_without_end(scene: Scene, where: str) -> None:
    make = local_message if where in LOCAL else message
    await scene.refuses(STALLED[where], where, make(body("evil & evil")))


@pytest.mark.parametrize("where", [*PUBLIC, LOCAL_FIRST, LOCAL_STRANGER, LOCAL_GUEST])
@pytest.mark.parametrize("case", BEFORE)
async def test_before_an_element(scene: Scene, case: str, where: str) -> None:
    before, condition = BEFORE[case]
    make = local_message if where in LOCAL else message
    end = await scene.attack(where, before + (OPEN if where == FIRST else make()))
    assert end.condition == refused_before_the_header(where, condition), end
    assert end.is_closed is (where != LOCAL_FIRST)
    await scene.nothing_passed()


OCTETS = {
    "RX-06 UTF-16": (OPEN.encode("utf-16"), "unsupported-encoding"),
    "RX-06 UTF-16 without a mark": (OPEN.encode("utf-16-le"), "unsupported-encoding"),
    "RX-06 encoding declared": (
        f"<?xml version='1.0' encoding='iso-8859-1'?>{OPEN}".encode(),
        "unsupported-encoding",
    ),
    "RX-06 byte order mark": (b"\xef\xbb\xbf" + OPEN.encode(), MALFORMED),
    "RX-08 overlong form": (OPEN.encode().replace(b"/>", b" a='\xc0\xaf'/>"), MALFORMED),
    "RX-08 encoded surrogate": (OPEN.encode().replace(b"/>", b" a='\xed\xa0\x80'/>"), MALFORMED),
    "RX-08 beyond Unicode": (OPEN.encode().replace(b"/>", b" a='\xf4\x90\x80\x80'/>"), MALFORMED),
    "RX-08 cut character": (OPEN.encode().replace(b"/>", b" a='\xe2\x82'/>"), MALFORMED),
    "RX-08 NUL": (OPEN.encode().replace(b"/>", b" a='\0'/>"), MALFORMED),
}


@pytest.mark.parametrize("case", OCTETS)
async def test_octets_of_a_header(scene: Scene, case: str) -> None:
    octets, condition = OCTETS[case]
    end = await scene.attack(FIRST, octets)
    # RFC 6455 §8.1: what is no UTF-8 may end the WebSocket with 1007 before it is XML at all.
    assert (end.condition, end.is_closed) == (condition, True) or end.code == 1007, end
    await scene.nothing_passed()


TEXTS = {
    "RX-08 overlong form": b"\xc0\xaf",
    "RX-08 encoded surrogate": b"\xed\xa0\x80",
    "RX-08 beyond Unicode": b"\xf4\x90\x80\x80",
    "RX-08 cut character": b"\xe2\x82",
    "RX-08 lone continuation": b"\x80",
    "RX-08 five bytes": b"\xf8\x88\x80\x80\x80",
    "RX-08 NUL": b"\0",
    "RX-08 U+FFFE": b"\xef\xbf\xbe",
}


@pytest.mark.parametrize("where", [GUEST, LOCAL_GUEST])
@pytest.mark.parametrize("case", TEXTS)
async def test_octets_of_a_stanza(scene: Scene, case: str, where: str) -> None:
    make = local_message if where in LOCAL else message
    data = make(body("evil")).encode().replace(b">evil<", b">evil" + TEXTS[case] + b"<")
    end = await scene.attack(where, data)
    assert (end.condition, end.is_closed) == (MALFORMED, True) or end.code == 1007, end
    await scene.nothing_passed()


SIZES = {
    "RX-10 an element before authentication": (STRANGER, 9000, "policy-violation"),
    "RX-10 a stanza": (GUEST, 270_000, "policy-violation"),
    "RX-10 in clear on the local port": (LOCAL_CLEAR, 9000, "policy-violation"),
    "RX-10 before authentication on the local port": (LOCAL_STRANGER, 20000, "policy-violation"),
}


@pytest.mark.parametrize("case", SIZES)
async def test_sizes(scene: Scene, case: str) -> None:
    where, size, condition = SIZES[case]
    make = local_message if where in LOCAL else message
    end = await scene.attack(where, make(body("evil" + "x" * size)))
    assert (end.condition, end.is_closed) == (condition, True), end.messages[-1][:300]
    await scene.nothing_passed()
