import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from coordinator.config import Config, Discovery, Gateway, WebSocket
from workers.gateway.hostmeta import (
    MAX_DOCUMENT,
    S2S_WEBSOCKET,
    HostMeta,
    InvalidHostMeta,
    Target,
    build_json,
    build_xrd,
    parse_json,
    parse_url,
    parse_xrd,
)

PIN = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
FULL_LINK = {
    "rel": S2S_WEBSOCKET,
    "href": "wss://gw.a.example/xmpp-s2s",
    "ips": ["192.0.2.7", "2001:DB8::7"],
    "priority": 10,
    "weight": 50,
    "sni": "gw.a.example",
}
FULL_TARGET = Target(
    "wss://gw.a.example/xmpp-s2s",
    "gw.a.example",
    443,
    "/xmpp-s2s",
    ("192.0.2.7", "2001:db8::7"),
    10,
    50,
    "gw.a.example",
)
CONFIG = Config(
    gateway=Gateway(domains=("a.example",)),
    websocket=WebSocket(public_url="wss://gw.a.example/xmpp-s2s"),
)


def document(*links: Any, **rest: Any) -> bytes:
    return json.dumps({"links": list(links), **rest}).encode()


def link(**changes: Any) -> dict[str, Any]:
    return FULL_LINK | changes


def xrd(inside: str, root: str = "xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'") -> bytes:
    return f"<?xml version='1.0' encoding='utf-8'?><XRD {root}>{inside}</XRD>".encode()


XRD_LINK = f"<Link rel='{S2S_WEBSOCKET}' href='wss://gw.a.example/x'/>"


def test_a_full_document_is_read():
    data = document(
        FULL_LINK, xmpp={"ttl": 3600, "public-key-pins-sha-256": [PIN, "no pin"]}, extra=[1]
    )
    assert parse_json(data) == HostMeta((FULL_TARGET,), 3600, (PIN,))
    assert parse_json(data).is_complete


def test_a_minimal_link_has_the_lowest_priority():
    parsed = parse_json(document({"rel": S2S_WEBSOCKET, "href": "wss://GW.a.example:5281"}))
    assert parsed.targets == (
        Target("wss://GW.a.example:5281", "gw.a.example", 5281, "/", (), 65535, 0, "gw.a.example"),
    )
    assert not parsed.is_complete


def test_other_rels_are_ignored_and_a_bad_link_spoils_no_other():
    parsed = parse_json(
        document(
            {"rel": "urn:xmpp:alt-connections:websocket", "href": 5},
            {"rel": "lrdd", "template": "x"},
            "nonsense",
            link(priority=70000),
            link(priority=True),
            FULL_LINK,
        )
    )
    assert parsed.targets == (FULL_TARGET,)
    assert any("priority 70000" in problem for problem in parsed.problems)


def test_addresses_that_are_no_literals_are_left_out():
    (target,) = parse_json(document(link(ips=["gw.a.example", "192.0.2.7", "1.2.3"]))).targets
    assert target.ips == ("192.0.2.7",)


@pytest.mark.parametrize(("ttl", "kept"), [(0, 60), (-5, 60), (3600, 3600), (9999999, 604800)])
def test_the_ttl_is_kept_in_bounds(ttl, kept):
    assert parse_json(document(FULL_LINK, xmpp={"ttl": ttl})).ttl == kept


def test_an_xmpp_object_without_links_says_there_is_none():
    parsed = parse_json(document(xmpp={"ttl": 60}))
    assert parsed.targets == ()
    assert parsed.is_complete


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>not found</html>",
        b"[]",
        b"null",
        b'{"links": {}}',
        b'{"links": [], "xmpp": 5}',
        b"\xff\xfe",
        b'{"a": ' + b"[" * 60000 + b"]" * 5000,
        b'{"links": [' + b"[" * 30000 + b"]" * 30000 + b"]}",
        b" " * (MAX_DOCUMENT + 1),
    ],
)
def test_what_is_no_document_is_refused(data):
    with pytest.raises(InvalidHostMeta):
        assert parse_json(data).targets
        raise AssertionError("accepted")


@pytest.mark.parametrize(
    "href",
    [
        "ws://gw.a.example/x",
        "https://gw.a.example/x",
        "wss://",
        "wss:///x",
        "wss://user@gw.a.example/x",
        "wss://user:pw@gw.a.example/x",
        "wss://gw.a.example/x#top",
        "wss://gw.a.example:22/x",
        "wss://gw.a.example:99999/x",
        "wss://gw.a.example:x/",
        "wss://gw a.example/x",
        "wss://gw.a.example/x\r\nHost: b",
        "wss://gw.a.example\0/",
        "wss://gw..example/",
        "wss://[::1/",
        "wss://[fe80::1%25eth0]/",
        "wss://gw.a.example/" + "x" * 2048,
        "wss://bücher.example/",
        "",
    ],
)
def test_urls_of_strangers_are_taken_apart_with_suspicion(href):
    assert parse_json(document(link(href=href))).targets == ()
    assert parse_json(document(link(href=href))).problems


def test_urls_of_the_operator_may_have_any_port():
    assert parse_url("wss://gw.a.example:22/x", configured=True).port == 22


def test_a_literal_host_has_no_name_for_sni():
    target = parse_url("wss://[2001:db8::1]:8443/x?y=z")
    assert (target.host, target.port, target.path) == ("2001:db8::1", 8443, "/x?y=z")
    assert target.sni == ""
    assert parse_url("wss://192.0.2.1/", sni="A.example").sni == "a.example"


def test_only_so_many_targets_are_kept():
    assert len(parse_json(document(*[FULL_LINK] * 100)).targets) == 16


def test_an_xrd_is_read_with_comments_and_declaration():
    data = xrd(f"<!-- ours --><Subject>x</Subject>{XRD_LINK}<Link rel='lrdd' href='x'/>")
    (target,) = parse_xrd(data).targets
    assert target.url == "wss://gw.a.example/x"
    assert target.priority == 65535


def test_bad_links_of_an_xrd_are_left_out():
    parsed = parse_xrd(xrd(f"<Link rel='{S2S_WEBSOCKET}'/>{XRD_LINK}"))
    assert len(parsed.targets) == 1
    assert len(parsed.problems) == 1


def test_links_deeper_inside_or_of_another_namespace_are_none():
    assert parse_xrd(xrd(f"<Property>{XRD_LINK}</Property>")).targets == ()
    assert parse_xrd(xrd(XRD_LINK.replace("<Link", "<Link xmlns='x'"))).targets == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html/>",
        b"{}",
        xrd(XRD_LINK, root=""),
        xrd(XRD_LINK)[:-3],
        b"<!DOCTYPE XRD>" + xrd(XRD_LINK).partition(b"?>")[2],
        b"<!DOCTYPE X [<!ENTITY a 'b'>]>" + xrd("&a;").partition(b"?>")[2],
        b"<!DOCTYPE X SYSTEM 'file:///etc/passwd'>" + xrd("").partition(b"?>")[2],
        xrd("&nbsp;"),
        xrd(XRD_LINK).decode().encode("utf-16"),
        xrd("<a>" * 40 + "</a>" * 40),
        xrd(" " * MAX_DOCUMENT),
    ],
)
def test_what_is_no_plain_xrd_is_refused(data):
    with pytest.raises(InvalidHostMeta):
        parse_xrd(data)


def test_what_we_publish_is_what_we_read():
    published = build_json(CONFIG, ["192.0.2.7", "2001:db8::7"])
    assert parse_json(published) == HostMeta((FULL_TARGET,), 3600)
    (target,) = parse_xrd(build_xrd(CONFIG)).targets
    assert target.url == FULL_TARGET.url


def test_published_links_have_every_field_that_xmpp_proxy_wants():
    published = json.loads(build_json(CONFIG, ["192.0.2.7", "2001:db8::7"]))
    assert published == {
        "xmpp": {"ttl": 3600},
        "links": [FULL_LINK | {"ips": ["192.0.2.7", "2001:db8::7"]}],
    }


def test_without_addresses_the_link_is_minimal():
    assert json.loads(build_json(CONFIG)) == {
        "links": [{"rel": S2S_WEBSOCKET, "href": "wss://gw.a.example/xmpp-s2s"}]
    }


def test_the_published_ttl_fits_16_bits():
    config = Config(gateway=CONFIG.gateway, discovery=Discovery(ttl=604800))
    assert json.loads(build_json(config, ["192.0.2.7"]))["xmpp"]["ttl"] == 65535
    assert b"wss://a.example/xmpp-s2s" in build_xrd(config)


def test_a_public_url_that_is_none_is_an_error():
    config = Config(gateway=CONFIG.gateway, websocket=WebSocket(public_url="https://a.example/"))
    with pytest.raises(InvalidHostMeta, match="not wss"):
        build_json(config)


_JSON = some.recursive(
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats(allow_nan=False, allow_infinity=False)
    | some.text(),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(), inner, max_size=3),
    max_leaves=5,
)


@given(some.binary() | some.text().map(str.encode))
def test_any_bytes_are_a_document_or_refused(data):
    for parse in (parse_json, parse_xrd):
        try:
            parse(data)
        except InvalidHostMeta as exc:
            assert str(exc)


@given(some.sampled_from(sorted(FULL_LINK)), _JSON)
def test_any_value_of_a_field_is_read_or_left_out(name, value):
    parsed = parse_json(document(link(**{name: value}), FULL_LINK))
    assert FULL_TARGET in parsed.targets


@given(some.text())
def test_any_url_is_taken_apart_or_refused(text):
    for url in (text, f"wss://{text}", f"wss://a.example{text}"):
        try:
            target = parse_url(url)
        except InvalidHostMeta as exc:
            assert str(exc).isprintable()
        else:
            assert target.url.isprintable()


def test_a_link_that_is_no_utf_8_spoils_no_other() -> None:
    good = b'{"rel":"urn:xmpp:alt-connections:s2s-websocket","href":"wss://gw.example.org/"}'
    found = parse_json(b'{"links":[' + good.replace(b"gw", b"\xa0") + b"," + good + b"]}")
    assert [target.host for target in found.targets] == ["gw.example.org"]
    assert len(found.problems) == 1
