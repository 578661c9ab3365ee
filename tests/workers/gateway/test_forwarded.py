"""What proxies tell of peers: every format, and that nobody else is believed."""

import base64
import urllib.parse

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers

from tests.workers.gateway.wire_bench import mint
from workers.gateway.forwarded import ForwardedRefused, TrustedProxies

LEAF, MIDDLE, ROOT = (mint(f"{name}.example").chain[0] for name in ("leaf", "middle", "root"))
NGINX, TRAEFIK, RFC9440 = "X-SSL-Client-Cert", "X-Forwarded-Tls-Client-Cert", "Client-Cert"


def der(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(Encoding.DER) for each in certificates)


OF_NO_VERSION = der(LEAF).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07")


def b64(*certificates: x509.Certificate) -> str:
    return base64.b64encode(der(*certificates)).decode()


def pem(*certificates: x509.Certificate) -> str:
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in certificates)


def escaped(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def read(name: str, *values: str, **more: str) -> list[x509.Certificate]:
    headers = Headers([(name, value) for value in values])
    for other, value in more.items():
        headers[other.replace("_", "-")] = value
    return TrustedProxies(("10.0.0.0/8",), name).chain(headers)


@pytest.mark.parametrize(
    ("name", "value", "chain"),
    [
        (RFC9440, f":{b64(LEAF)}:", [LEAF]),
        ("client-cert", f"  :{b64(LEAF)}:;note=1 ", [LEAF]),
        (NGINX, escaped(pem(LEAF)), [LEAF]),
        (NGINX, urllib.parse.quote(pem(LEAF)), [LEAF]),
        ("X-Client", escaped(pem(LEAF, MIDDLE)), [LEAF, MIDDLE]),
        ("X-Client", pem(LEAF).replace("\n", " "), [LEAF]),
        (TRAEFIK, b64(LEAF), [LEAF]),
        (TRAEFIK, f"{b64(LEAF)},{b64(MIDDLE)}", [LEAF, MIDDLE]),
        (TRAEFIK, escaped(f"{b64(LEAF)},{b64(MIDDLE)}"), [LEAF, MIDDLE]),
        # What templates make of no certificate.
        (RFC9440, "::", []),
        (NGINX, "", []),
        (TRAEFIK, " ", []),
    ],
)
def test_a_certificate_in_each_format(name: str, value: str, chain: list[x509.Certificate]) -> None:
    assert read(name, value) == chain


@pytest.mark.parametrize(
    "chain",
    [
        f":{b64(MIDDLE)}:, :{b64(ROOT)}:",
        f":{b64(MIDDLE, ROOT)}:",  # COMPAT(HAProxy)
        f":{b64(MIDDLE)}:,::,:{b64(ROOT)}:",
    ],
)
def test_the_rest_of_the_chain_comes_in_a_header_of_its_own(chain: str) -> None:
    found = read(RFC9440, f":{b64(LEAF)}:", Client_Cert_Chain=chain)
    assert found == [LEAF, MIDDLE, ROOT]


def test_a_chain_without_its_leaf_is_nobodys() -> None:
    assert read(RFC9440, Client_Cert_Chain=f":{b64(MIDDLE)}:") == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (RFC9440, [f":{b64(LEAF)}:", f":{b64(MIDDLE)}:"]),
        (RFC9440, [f":{b64(LEAF)}:", f":{b64(LEAF)}:"]),
        (RFC9440, ["::", f":{b64(LEAF)}:"]),
        (RFC9440, [f":{b64(LEAF)}:, :{b64(MIDDLE)}:"]),
        (RFC9440, [b64(LEAF)]),
        (RFC9440, [f":{b64(LEAF)[:-41]}:"]),
        (RFC9440, [escaped(pem(LEAF))]),
        (NGINX, [escaped(pem(LEAF)), escaped(pem(LEAF))]),
        (NGINX, [b64(LEAF)]),
        (NGINX, [escaped(pem(LEAF)) + "%00"]),
        (NGINX, [escaped(pem(LEAF).replace("M", "\n=M", 1))]),
        (TRAEFIK, [b64(LEAF), b64(LEAF)]),
        (TRAEFIK, [f"{b64(LEAF)},"]),
        (TRAEFIK, [escaped(pem(LEAF))]),
    ],
)
def test_two_answers_or_a_strange_one_are_refused(name: str, values: list[str]) -> None:
    with pytest.raises(ForwardedRefused, match=f"^{name}"):
        read(name, *values)


@pytest.mark.parametrize("chain", [f":{b64(MIDDLE)[:-41]}:", ":MAA=:,:AA==:", "x", ":MIQ=:"])
def test_a_broken_chain_is_refused(chain: str) -> None:
    with pytest.raises(ForwardedRefused):
        read(RFC9440, f":{b64(LEAF)}:", Client_Cert_Chain=chain)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (RFC9440, ":aGVsbG8=:"),
        (RFC9440, f":{b64(LEAF, MIDDLE)}:"),
        (NGINX, escaped(pem(LEAF).replace("MII", "AII", 1))),
        (TRAEFIK, b64(LEAF)[:-40]),
        (TRAEFIK, base64.b64encode(OF_NO_VERSION).decode()),
    ],
)
def test_what_is_no_certificate_is_as_good_as_none(name: str, value: str) -> None:
    """So it is for our own TLS: others may be read by OpenSSL, and their domains use dialback."""
    assert read(name, value) == []


HEADER_TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))


@given(st.sampled_from([RFC9440, NGINX, TRAEFIK]), HEADER_TEXT)
def test_any_text_is_certificates_or_refused(name: str, text: str) -> None:
    for value in (text, f":{text}:"):
        try:
            found = read(name, value, Client_Cert_Chain=value)
        except ForwardedRefused:
            continue
        assert all(isinstance(each, x509.Certificate) for each in found)


@given(st.binary())
def test_any_bytes_are_a_chain_or_refused(data: bytes) -> None:
    chain = f":{base64.b64encode(data).decode()}:"
    try:
        found = read(RFC9440, f":{b64(LEAF)}:", Client_Cert_Chain=chain)
    except ForwardedRefused:
        return
    assert found[:1] in ([], [LEAF])


@pytest.mark.parametrize(
    ("sender", "forwarded", "peer"),
    [
        ("10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("::ffff:10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["203.0.113.5:4711"], "203.0.113.5"),
        ("10.0.0.1", ["[2001:DB8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        # The peer's own claim stands before what our proxies have added.
        ("10.0.0.1", ["198.51.100.1, 203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["198.51.100.1", "203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.5, 10.0.0.2"], "203.0.113.5"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.1, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["203.0.113.5, unknown"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("192.0.2.1", ["203.0.113.5"], "192.0.2.1"),
    ],
)
def test_the_last_address_that_is_no_proxy_of_ours_is_the_peers(
    sender: str, forwarded: list[str], peer: str
) -> None:
    headers = Headers([("X-Forwarded-For", value) for value in forwarded])
    assert TrustedProxies(("10.0.0.0/8",)).address_of_peer(sender, headers) == peer


def test_only_trusted_proxies_that_are_said_to_forward_certificates_do() -> None:
    assert TrustedProxies(("10.0.0.0/8",), RFC9440).forwards_certificates("10.0.0.1")
    assert not TrustedProxies(("10.0.0.0/8",), RFC9440).forwards_certificates("192.0.2.1")
    assert not TrustedProxies(("10.0.0.0/8",)).forwards_certificates("10.0.0.1")
    assert not TrustedProxies().trusts("10.0.0.1")
