"""The judgement on one element, apart from how it was read."""

import pytest
from lxml import etree

from coordinator.config import Limits
from workers.xmpp.errors import RemoteProtocolError, StreamCondition
from workers.xmpp.parsed import Judge, declares, is_blank, refusal, undecodable
from workers.xmpp.stanza import RefusedStanza, Stanza

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
    stanza = judge(lang=lang).stanza(element, name, etree.tostring(element, encoding="utf-8"))
    assert isinstance(stanza, Stanza)
    return stanza


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
    assert bool(judge().flaw(data)) is not accepted


def element_of(xml: str) -> etree._Element:
    return etree.fromstring(xml)


def test_an_outsized_stanza_is_refused_without_its_payload() -> None:
    element = element_of(f"<iq xmlns='jabber:server' {ADDRESSES} id='1' type='get'><a/></iq>")
    refused = judge().outsized(element, "iq", "too deep")
    stanza = refused.stanza
    assert (refused.reason, stanza.data, stanza.id, stanza.type) == ("too deep", b"", "1", "get")
    assert (stanza.sender_domain, stanza.target_domain) == ("capulet.example", "montague.example")


def test_outsized_nonzas_and_strangers_end_the_stream() -> None:
    element = element_of(f"<iq xmlns='jabber:server' {ADDRESSES}/>")
    for one, name in ((judge(), None), (judge(authenticated=False), "iq")):
        with pytest.raises(RemoteProtocolError) as caught:
            one.outsized(element, name, "too deep")
        assert caught.value.condition is StreamCondition.POLICY_VIOLATION


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        ("a@montague.example..", True),
        ("a@montague\u3002example", True),
        ("a@montague\uff0eexample", True),
        ("a@montague\uff61example", True),
        ("a@montague.example\u3002", True),
        ("a@\uff4dontague.example/x", True),
        ("a@Montague.Example.", False),
        ("a@b\u00fccher.example/\u3002", False),
    ],
)
def test_an_ambiguous_domain_is_refused_and_known(address: str, refused: bool) -> None:
    for _ in range(2):
        element = element_of(f"<iq xmlns='jabber:server' from='a.example' to='{address}'/>")
        result = judge().stanza(element, "iq", etree.tostring(element, encoding="utf-8"))
        if refused:
            assert isinstance(result, RefusedStanza)
            assert result.stanza.target_domain == "montague.example"
            assert "@montague.example" in result.stanza.recipient
        else:
            assert isinstance(result, Stanza)


def test_attributes_of_a_nonza_are_counted() -> None:
    attributes = "".join(f" a{n}=''" for n in range(17))
    inner = f"<b{attributes}/>" * 4
    for one, xml in (
        (judge(), f"<r{attributes}/>"),
        (judge(authenticated=False), f"<r>{inner}</r>"),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            one.nonza(element_of(xml))
        assert caught.value.condition is StreamCondition.POLICY_VIOLATION
    judge().nonza(element_of(f"<r>{inner}</r>"))


@pytest.mark.parametrize("authenticated", [False, True])
def test_whatever_is_plain_keeps_all_caps(authenticated: bool) -> None:
    """What is not longer than `plain_size` is never counted."""
    one = judge(authenticated=authenticated)
    assert one.plain_size <= one.max_bytes
    assert not one.flaw(b"<a/>" * (one.plain_size // 4))
    levels = one.plain_size // 7
    assert not one.flaw(b"<a>" * levels + b"</a>" * levels)


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
