from pathlib import Path

import pytest

from coordinator.configvalue import ConfigError, check_number, check_text, normalise_host

HERE = Path("/etc/fedgate")


@pytest.mark.parametrize(
    ("kind", "text", "canonical"),
    [
        ("", "as it is", "as it is"),
        ("address", "[0::1]:53", "[::1]:53"),
        ("address-or-off", "", ""),
        ("network", "10.1.2.3/8", "10.0.0.0/8"),
        ("network", "::1", "::1/128"),
        ("resolver", "192.0.2.1", "192.0.2.1"),
        ("resolver", "[2001:db8::1]:5353", "[2001:db8::1]:5353"),
        ("redis-url", "redis+sentinel://h1,h2/main", "redis+sentinel://h1,h2/main"),
        ("redis-url", "", ""),
        ("wss-url", "wss://192.0.2.1:8443/x", "wss://192.0.2.1:8443/x"),
        ("url-path", "/xmpp-s2s", "/xmpp-s2s"),
        ("header", "X-SSL-Client-Cert", "X-SSL-Client-Cert"),
        ("header", "", ""),
        ("domain", "A.example", "a.example"),
        ("file", "../x.pem", "/etc/fedgate/../x.pem"),
        ("file", "", ""),
    ],
)
def test_texts_become_canonical(kind: str, text: str, canonical: str) -> None:
    assert check_text({"kind": kind}, text, "section.key", HERE) == canonical


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("address", ""),
        ("network", "10.0.0.0/99"),
        ("resolver", "localhost:53"),
        ("redis-url", "http://x"),
        ("redis-url", "redis://"),
        ("wss-url", "ws://x/"),
        ("wss-url", "wss://u@x/"),
        ("wss-url", "wss://x:0/"),
        ("wss-url", "wss://x/#f"),
        ("url-path", "/a b"),
        ("url-path", "/a?b"),
        ("header", "Client Cert"),
        ("header", "Client-Cert:"),
    ],
)
def test_a_refusal_names_the_key(kind: str, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^section\.key: "):
        check_text({"kind": kind}, text, "section.key", HERE)


def test_numbers_keep_the_declared_type() -> None:
    assert check_number(int, {}, 3, "k") == 3
    assert isinstance(check_number(float, {}, 3, "k"), float)
    with pytest.raises(ConfigError, match="at least 5"):
        check_number(int, {"least": 5}, 4, "k")
    with pytest.raises(ConfigError, match="at least"):
        check_number(float, {}, float("inf"), "k")


def test_a_host_is_an_address_or_a_domain() -> None:
    assert normalise_host("::0001") == "::1"
    assert normalise_host("GW.example") == "gw.example"
