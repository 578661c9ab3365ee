"""Host-meta documents, as JSON and as XRD: what can be used, or `InvalidHostMeta`."""

from ipaddress import ip_address

from workers.gateway.hostmeta import InvalidHostMeta, parse_json, parse_xrd

LINK = (
    b'{"rel":"urn:xmpp:alt-connections:s2s-websocket","href":"wss://gw.example.org/xmpp-s2s",'
    b'"ips":["192.0.2.7","2001:db8::7"],"priority":10,"weight":50,"sni":"gw.example.org"}'
)
PIN = b"4pAMHQJkLJcCqIJUy6rfkdwzqTLmnDLBBqUfFPmBb9Y="
XRD = (
    b"<?xml version='1.0'?><XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>"
    b"<Link rel='urn:xmpp:alt-connections:s2s-websocket' href='wss://gw.example.org/'/></XRD>"
)
SEEDS = [
    b'{"xmpp":{"ttl":3600,"public-key-pins-sha-256":["' + PIN + b'"]},"links":[' + LINK + b"]}",
    b'{"links":[' + LINK + b",{},null," + LINK.replace(b"10", b"-1") + b"]}",
    b'{"links":[' + LINK.replace(b"s2s-", b"s2\xa0-") + b"," + LINK + b"]}",
    XRD,
    XRD.replace(b"<XRD", b"<!DOCTYPE a [<!ENTITY b 'c'>]><XRD"),
    XRD.replace(b"gw.example.org", b"user@[::ffff:10.0.0.1]:25"),
    XRD.decode().encode("utf-16"),
]


def check(data: bytes) -> None:
    for parse in (parse_json, parse_xrd):
        try:
            found = parse(data)
        except InvalidHostMeta as exc:
            assert str(exc)
            continue
        for target in found.targets:
            assert target.url.isascii() and target.url.lower().startswith("wss:")
            assert target.port == 443 or 1024 <= target.port <= 65535
            assert target.host and "@" not in target.host
            for literal in target.ips:
                ip_address(literal)
