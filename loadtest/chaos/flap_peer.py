"""A process that is thousands of remote domains: accepts their wss sessions, takes their stanzas.

It is told what to do by lines on standard input, and answers each with a line of JSON:

    accept          accept connections (again)
    cut             reset every connection and accept none
    report          {"sessions": n, "accepted": n, "peak": n, "stanzas": [[id, arrived_at], …]}

`accepted` counts sessions since the last report, `peak` the most in one second. Times are those of
CLOCK_MONOTONIC, which all processes of a machine share.
"""

import asyncio
import json
import re
import secrets
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from loadtest.stage.addresses import WEBSOCKET_PORT
from loadtest.stage.authority import KeyPair
from loadtest.stage.peers import FRAMING, MECHANISMS, SASL, STREAMS, attribute
from loadtest.stage.website import HOST_META, host_meta
from loadtest.stage.wire import Wire, listen, tls_context

_STANZA = re.compile(r"<(?:message|presence|iq)\b[^>]*\bid=['\"]([^'\"]*)['\"]")
_MANAGEMENT = "<sm xmlns='urn:xmpp:sm:3'/>"


class FlapPeer:
    """The receiving side of XEP-0468 with EXTERNAL and XEP-0198, for whatever domain is asked."""

    def __init__(self, address: str, host: str, certificate: KeyPair) -> None:
        self._address = address
        self._host = host
        self._context = tls_context(certificate)
        self._server: asyncio.Server | None = None
        self._wires: set[Wire] = set()
        self._stanzas: list[tuple[str, float]] = []
        self._accepted: Counter[int] = Counter()

    async def accept(self) -> dict[str, Any]:
        if self._server is None:
            self._server = await listen(
                self._address, WEBSOCKET_PORT, self._context, self._serve, self._respond
            )
        return {}

    async def cut(self) -> dict[str, Any]:
        if self._server is not None:
            self._server.close()
            self._server = None
        for wire in list(self._wires):
            wire.end()
        return {}

    async def report(self) -> dict[str, Any]:
        answer = {
            "sessions": len(self._wires),
            "accepted": self._accepted.total(),
            "peak": max(self._accepted.values(), default=0),
            "stanzas": self._stanzas,
        }
        self._stanzas = []
        self._accepted.clear()
        return answer

    def _respond(self, request: Request) -> Response | None:
        """The host-meta document of every domain; None lets the upgrade go on."""
        if request.path.partition("?")[0] != HOST_META:
            return None
        url = f"wss://{self._host}/xmpp-s2s"
        body = json.dumps(host_meta(url, self._address, self._host, ttl=3600)).encode()
        headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
        return Response(200, "OK", headers, body)

    async def _serve(self, wire: Wire) -> None:
        try:
            await self._converse(wire)
        finally:
            self._wires.discard(wire)
            wire.end()

    async def _converse(self, wire: Wire) -> None:
        counted = 0
        is_authenticated = False
        while True:
            text = await wire.receive(within=3600)
            if text.startswith("<open "):
                self._answer_open(wire, text, _MANAGEMENT if is_authenticated else MECHANISMS)
            elif text.startswith("<auth "):
                is_authenticated = True
                wire.send(f"<success xmlns='{SASL}'/>")
                self._wires.add(wire)
                self._accepted[int(time.monotonic())] += 1
            elif text.startswith("<enable "):
                counted = 0
                wire.send("<enabled xmlns='urn:xmpp:sm:3'/>")
            elif text.startswith("<r "):
                wire.send(f"<a xmlns='urn:xmpp:sm:3' h='{counted}'/>")
            elif text.startswith("<close"):
                wire.send(f"<close xmlns='{FRAMING}'/>")
                return
            elif found := _STANZA.match(text):
                counted += 1
                self._stanzas.append((found[1], time.monotonic()))

    def _answer_open(self, wire: Wire, opening: str, features: str) -> None:
        domain, sender = attribute(opening, "to"), attribute(opening, "from")
        wire.send(
            f"<open xmlns='{FRAMING}' id='{secrets.token_hex(8)}' from='{domain}' to='{sender}' "
            "version='1.0' xml:lang='en'/>"
        )
        wire.send(
            f"<stream:features xmlns:stream='{STREAMS}' xmlns='jabber:server'>"
            f"{features}</stream:features>"
        )


async def serve(peer: FlapPeer) -> None:
    """Obey standard input until it ends."""
    commands = {"accept": peer.accept, "cut": peer.cut, "report": peer.report}
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(json.dumps(await commands[line.decode().strip()]()), flush=True)
    await peer.cut()


def main(arguments: list[str]) -> None:
    address, host, certificate, key = arguments
    asyncio.run(serve(FlapPeer(address, host, KeyPair(Path(certificate), Path(key)))))


if __name__ == "__main__":
    main(sys.argv[1:])
