"""The judgement on one element, apart from how it was read."""

import pytest
from lxml import etree

from coordinator.config import Limits
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.parsed import Judge, declares, is_blank, refusal, undecodable
from workers.xmpp.stanza import Stanza

LIMITS = Limits(stanza_bytes=4096, preauth_bytes=1024, depth=8, elements=40, preauth_elements=8)
ADDRESSES = "from='juliet@capulet.example' to='romeo@montague.example'"


def judge(*, authenticated: bool = True, lang: str | None = None) -> Judge:
    made = Judge(LIMITS)
    made.set_authenticated(authenticated)
    made.set_lang(lang)
    return made


def judged(xml: str, *, lang: str | None = None) -> Stanza:
    element = etree.fromstring(xml)
    name = etree.QName(element).localname
    return judge(lang=lang).stanza(element, name, etree.tostring(element, encoding="utf-8"))


@pytest.mark.parametrize("attributes", ["id='1'", "type='get'", "", "id='1' type='nonsense'"])
def test_an_iq_without_id_or_type_is_passed_on(attributes: str) -> None:
    """RFC 6120 §8.2.3: the recipient answers bad-request. Between, it is no reason to end a stream.

    It is no request that could be executed, so it may be sent twice.
    """
    stanza = judged(f"<iq xmlns='jabber:server' {ADDRESSES} {attributes}/>")
    assert stanza.is_request is (attributes == "type='get'")


@pytest.mark.parametrize(
    "addresses",
    ["", "from='a.example'", "to='a.example'", "from='' to='a.example'", "from='a@' to='b'"],
)
def test_addresses_are_required(addresses: str) -> None:
    for _ in range(2):  # nothing bad is remembered as good
        with pytest.raises(RemoteProtocolError) as caught:
            judged(f"<iq xmlns='jabber:server' {addresses}/>")
        assert caught.value.condition is StreamCondition.IMPROPER_ADDRESSING


@pytest.mark.parametrize(
    ("own", "expected"), [("", "de"), ("xml:lang='it'", "it"), ("id=' xml:lang=&quot;x'", "de")]
)
def test_the_streams_language_fills_a_gap(own: str, expected: str) -> None:
    stanza = judged(f"<message xmlns='jabber:server' {ADDRESSES} {own}/>", lang="de")
    element = etree.fromstring(stanza.data)
    assert element.get("{http://www.w3.org/XML/1998/namespace}lang") == expected


def test_an_overlong_language_is_not_copied() -> None:
    assert judge(lang="x" * 65).lang == b""


def test_a_prefix_for_the_content_namespace_is_refused() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        judged(f"<s:iq xmlns:s='jabber:server' {ADDRESSES}/>")
    assert caught.value.condition is StreamCondition.BAD_NAMESPACE_PREFIX


@pytest.mark.parametrize(
    ("data", "accepted"),
    [
        (b"<a>" * 8 + b"</a>" * 8, True),
        (b"<a>" * 9 + b"</a>" * 9, False),
        (b"<a>" + b"<b/>" * 39 + b"</a>", True),
        (b"<a>" + b"<b/>" * 40 + b"</a>", False),
    ],
)
def test_shape_is_capped(data: bytes, accepted: bool) -> None:
    if accepted:
        judge().check_shape(data)
        return
    with pytest.raises(RemoteProtocolError) as caught:
        judge().check_shape(data)
    assert caught.value.condition is StreamCondition.POLICY_VIOLATION


@pytest.mark.parametrize("authenticated", [False, True])
def test_whatever_is_plain_keeps_all_caps(authenticated: bool) -> None:
    """What is not longer than `plain_size` is never counted."""
    one = judge(authenticated=authenticated)
    one.check_size(one.plain_size)
    one.check_shape(b"<a/>" * (one.plain_size // 4))
    levels = one.plain_size // 7
    one.check_shape(b"<a>" * levels + b"</a>" * levels)


def test_only_the_own_start_tag_declares() -> None:
    assert declares(b'<a x="1" y="2"><b z="3"/></a>', b' y="')
    assert not declares(b'<a x="1" y="2"><b z="3"/></a>', b' z="')


@pytest.mark.parametrize(
    ("tag", "condition"),
    [
        ("{jabber:client}iq", StreamCondition.INVALID_NAMESPACE),
        ("message", StreamCondition.INVALID_NAMESPACE),
        ("{u}x", StreamCondition.UNSUPPORTED_STANZA_TYPE),
    ],
)
def test_refusals_name_what_is_wrong(tag: str, condition: StreamCondition) -> None:
    assert refusal(tag).condition is condition


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_recognised(encoding: str) -> None:
    assert undecodable("<a/>".encode(encoding)) is not None
    assert undecodable(b"<?xml version='1.0' encoding='utf-8'?>") is None
    assert undecodable(b"<?xml version='1.0' encoding='ascii'?>") is not None


def test_blank_is_xml_white_space_only() -> None:
    assert is_blank(None) and is_blank(" \t\r\n")
    assert not is_blank("\u00a0")
