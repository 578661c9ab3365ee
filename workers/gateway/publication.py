"""Serves the host-meta documents of our own domains, beside the wss endpoint."""

import asyncio
import logging
from ipaddress import ip_address

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from coordinator.address import InvalidAddress, parse_address
from coordinator.config import Config
from workers.gateway import hostmeta
from workers.gateway.resolver import ResolveFailed, Resolver

log = logging.getLogger(__name__)

JSON_TYPE = "application/json"
XRD_TYPE = "application/xrd+xml"
RETRY_SECONDS = 60.0


class Publication:
    """The documents to publish, and the answers to requests for them.

    Works as the `http_responder` of the WebSocket listener. Call `refresh` once before, then keep
    `keep_fresh` running: the addresses in the JSON document follow DNS.
    """

    def __init__(self, config: Config, resolver: Resolver) -> None:
        """Raises `InvalidHostMeta` when `websocket.public_url` is not a wss URL."""
        self._config = config
        self._resolver = resolver
        self.json = hostmeta.build_json(config)
        self.xrd = hostmeta.build_xrd(config)
        self.warning = ""

    async def refresh(self) -> None:
        """Find our public addresses anew. Never fails: `warning` says when there are none."""
        ips = await find_addresses(self._config, self._resolver)
        self.json = hostmeta.build_json(self._config, ips)
        warning = "" if ips else _NO_ADDRESS.format(hostmeta.public_url(self._config))
        if warning and warning != self.warning:
            log.warning("%s", warning)
        self.warning = warning

    async def keep_fresh(self) -> None:
        """Refresh for ever, twice in each ttl; sooner as long as there is no address."""
        while True:
            regular = hostmeta.published_ttl(self._config) / 2
            await asyncio.sleep(min(regular, RETRY_SECONDS) if self.warning else regular)
            await self.refresh()

    def __call__(self, request: Request) -> Response | None:
        """The answer to a request for one of the documents; None for any other path."""
        path = request.path.partition("?")[0]
        if path == hostmeta.JSON_PATH:
            return self._response(JSON_TYPE, self.json)
        if path == hostmeta.XRD_PATH:
            return self._response(XRD_TYPE, self.xrd)
        return None

    def _response(self, content_type: str, body: bytes) -> Response:
        headers = Headers(
            {
                "Content-Type": content_type,
                "Content-Length": str(len(body)),
                # XEP-0156 §2.2: clients in browsers read these documents too.
                "Access-Control-Allow-Origin": "*",
                "Cache-Control": f"max-age={hostmeta.published_ttl(self._config)}",
                "X-Content-Type-Options": "nosniff",
                "Connection": "close",
            }
        )
        return Response(200, "OK", headers, body)


_NO_ADDRESS = (
    "no public address is known for {}, so host-meta.json names none and some servers (xmpp-proxy) "
    "will not use it; set websocket.listen to concrete addresses or make the name resolve"
)


async def find_addresses(config: Config, resolver: Resolver) -> list[str]:
    """The literals for `ips` (XEP-0487), at least one required there; empty when none can be found.

    Public addresses of the listener first; else what the host of the public URL resolves to (we may
    listen on a wildcard, or behind NAT or a proxy); else private addresses of the listener.
    """
    target = hostmeta.parse_url(hostmeta.public_url(config), configured=True)
    listening = _listener_addresses(config, target.port)
    public = [address for address in listening if ip_address(address).is_global]
    if public:
        return public[: hostmeta.MAX_IPS]
    try:
        return (await resolver.addresses(target.host))[: hostmeta.MAX_IPS]
    except ResolveFailed:
        return listening[: hostmeta.MAX_IPS]


def _listener_addresses(config: Config, port: int) -> list[str]:
    """Concrete addresses that we listen on at the published port; none behind a proxy."""
    if not config.websocket.tls:
        return []
    found = []
    for text in config.websocket.listen:
        try:
            address = parse_address(text)
            literal = ip_address(address.host)
        except (InvalidAddress, ValueError):
            continue  # a host name: the public URL's name says the same better
        if address.port == port and not literal.is_unspecified:
            found.append(str(literal))
    return found
