"""What a request must be to open a WebSocket, beyond what the library demands (RFC 6455 §4.2)."""

from http import HTTPStatus

from websockets.datastructures import Headers
from websockets.http11 import Request


def is_upgrade(request: Request) -> bool:
    """It asks for a WebSocket."""
    return any("websocket" in value.lower() for value in request.headers.get_all("Upgrade"))


def flaw(request: Request, *, origin: str) -> HTTPStatus | None:
    """The status with which to refuse it, None if it may open a WebSocket.

    `origin` is that of the published URL.
    """
    if request.headers.get_all("Sec-WebSocket-Version") not in ([], ["13"]):
        return HTTPStatus.UPGRADE_REQUIRED
    if not _may_come_from(request.headers, origin):
        return HTTPStatus.FORBIDDEN
    return None


def _may_come_from(headers: Headers, published: str) -> bool:
    """Servers send no Origin, or that of the URL (xmpp-proxy); a web page's is refused."""
    origins = headers.get_all("Origin")
    if not origins:
        return True
    # A proxy may have changed Host.
    ours = [published, *(f"https://{host}" for host in headers.get_all("Host"))]
    return len(origins) == 1 and _plain(origins[0]) in [_plain(each) for each in ours if each]


def _plain(origin: str) -> str:
    return origin.lower().removesuffix(":443")
