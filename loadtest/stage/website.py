"""An HTTPS server of the stage: a domain's host-meta document, and a record of who asked."""

import ssl
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from loadtest.stage.addresses import WEBSOCKET_PORT
from loadtest.stage.authority import KeyPair

HOST_META = "/.well-known/host-meta.json"
S2S_WEBSOCKET = "urn:xmpp:alt-connections:s2s-websocket"


def host_meta(url: str, address: str, sni: str, ttl: int = 5) -> dict[str, Any]:
    """A host-meta.json document with one s2s-websocket link and every field of XEP-0487."""
    link = {
        "rel": S2S_WEBSOCKET,
        "href": url,
        "ips": [address],
        "priority": 1,
        "weight": 1,
        "sni": sni,
    }
    return {"xmpp": {"ttl": ttl}, "links": [link]}


class Website:
    """Answers host-meta.json with `document`, other paths with those of `documents`, else with 404.

    `requests` has the paths.
    """

    def __init__(self, address: str, certificate: KeyPair, document: Mapping[str, Any]) -> None:
        self.address = address
        self.document = document
        self.documents: dict[str, Mapping[str, Any]] = {}
        self.requests: list[str] = []
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate.certificate, certificate.key)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.address, WEBSOCKET_PORT, ssl_context=self._context)
        await site.start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append(request.path)
        if request.path == HOST_META:
            return web.json_response(self.document)
        if request.path in self.documents:
            return web.json_response(self.documents[request.path])
        return web.Response(status=404)
