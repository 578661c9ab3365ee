import pytest

from coordinator.address import Address, InvalidAddress, is_loopback, is_unix_path, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:5271", "127.0.0.1", 5271),
        ("localhost:0", "localhost", 0),
        ("[::]:443", "::", 443),
        ("[0:0::1]:65535", "::1", 65535),
    ],
)
def test_host_and_port_are_parted(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5271",
        "localhost",
        ":443",
        "::1:443",
        "[::1]",
        "[x]:1",
        "a b:1",
        "a:65536",
        "a:٣",
        "a:-1",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidAddress):
        parse_address(text)


def test_an_address_is_written_as_it_is_read() -> None:
    for text in ("127.0.0.1:1", "[::1]:2"):
        assert str(parse_address(text)) == text


def test_a_wildcard_is_reached_by_loopback() -> None:
    assert Address("0.0.0.0", 53).reachable() == ("127.0.0.1", 53)
    assert Address("::", 53).reachable() == ("::1", 53)
    assert Address("192.0.2.1", 53).reachable() == ("192.0.2.1", 53)
    assert Address("::", 53).is_wildcard
    assert not Address("::1", 53).is_wildcard


def test_a_slash_makes_a_unix_path() -> None:
    assert is_unix_path("/run/fedgate.sock")
    assert is_unix_path("./admin.sock")
    assert not is_unix_path("127.0.0.1:5290")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("h", False)],
)
def test_only_this_machine_is_loopback(host, expected):
    assert is_loopback(host) is expected
