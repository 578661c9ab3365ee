"""Who may open a WebSocket; the answers on the wire are in test_websocket_accept.py."""

from http import HTTPStatus

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request

from workers.gateway.upgrade import flaw, is_upgrade

OURS = "https://gw.example"


def request(*headers: tuple[str, str]) -> Request:
    return Request("/s2s", Headers([("Host", "127.0.0.1:8443"), *headers]))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], None),
        ([("Sec-WebSocket-Version", "13")], None),
        ([("Sec-WebSocket-Version", "8")], HTTPStatus.UPGRADE_REQUIRED),
        ([("Sec-WebSocket-Version", "13, 8")], HTTPStatus.UPGRADE_REQUIRED),
        ([("Origin", OURS)], None),
        ([("Origin", "HTTPS://GW.example:443")], None),
        ([("Origin", "https://127.0.0.1:8443")], None),
        ([("Origin", "https://127.0.0.1")], HTTPStatus.FORBIDDEN),
        ([("Origin", "http://gw.example")], HTTPStatus.FORBIDDEN),
        ([("Origin", "https://gw.example.evil.example")], HTTPStatus.FORBIDDEN),
        ([("Origin", "null")], HTTPStatus.FORBIDDEN),
        ([("Origin", "")], HTTPStatus.FORBIDDEN),
        ([("Origin", OURS), ("Origin", OURS)], HTTPStatus.FORBIDDEN),
    ],
)
def test_only_servers_open_websockets(
    headers: list[tuple[str, str]], status: HTTPStatus | None
) -> None:
    assert flaw(request(*headers), origin=OURS) == status


def test_without_a_published_url_an_empty_origin_is_nobodys() -> None:
    assert flaw(request(("Origin", "")), origin="") == HTTPStatus.FORBIDDEN


def test_an_upgrade_names_the_protocol_among_others() -> None:
    assert is_upgrade(request(("Upgrade", "h2c, WebSocket")))
    assert not is_upgrade(request(("Upgrade", "h2c")))
    assert not is_upgrade(request())
