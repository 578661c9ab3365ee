"""A remote server that the gateway dials and that answers as a test says, at any point."""

import asyncio
import json

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from loadtest.stage.authority import TestAuthority
from loadtest.stage.peers import FRAMING, MECHANISMS, SASL, STREAMS, Peer, attribute
from loadtest.stage.website import HOST_META, host_meta
from loadtest.stage.wire import Wire
from tests.integration.spec_scene import CAPULET, Ending, Scene, ending

DOMAINS = [f"rude{number}.example" for number in range(80)]
# Where it becomes rude: instead of its header, of features, of the result of EXTERNAL, or when all
# is agreed on and stanzas may come.
ANSWER, FEATURES, RESULT, ESTABLISHED = (
    *("instead of a header", "instead of features", "instead of a result"),
    "when established",
)
SM = "urn:xmpp:sm:3"


def features(children: str) -> str:
    return (
        f"<stream:features xmlns='jabber:server' xmlns:stream='{STREAMS}'>{children}"
        "</stream:features>"
    )


class RudePeer(Peer):
    """Serves all of `DOMAINS`, each for one test: the gateway remembers how a domain behaved."""

    def __init__(self, authority: TestAuthority, address: str) -> None:
        super().__init__(DOMAINS[0], address, authority.issue(*DOMAINS))
        self._unused = iter(DOMAINS)
        self._scripts: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._endings: dict[str, asyncio.Future[Ending]] = {}

    async def attack(self, scene: Scene, where: str, *texts: str) -> Ending:
        """Be dialled for a stream of the local server's, and see how the gateway ends it."""
        domain = next(self._unused)
        scene.dns.set(domain, "A", self.address)
        self._scripts[domain] = where, texts
        self._endings[domain] = asyncio.get_running_loop().create_future()
        raw = await scene.server.connect(scene.gateway.address)
        try:
            raw.send(scene.server.header_to(domain))
            return await asyncio.wait_for(self._endings[domain], 10)
        finally:
            raw.close()

    async def is_refused(self, scene: Scene, condition: str, where: str, *texts: str) -> None:
        """As `Scene.refuses`, for what we send to the gateway that has dialled us."""
        end = await self.attack(scene, where, *texts)
        assert (end.condition, end.is_closed) == (condition, True), end
        await scene.nothing_passed()

    def respond(self, request: Request) -> Response | None:
        if request.path.partition("?")[0] != HOST_META:
            return None if "Upgrade" in request.headers else super().respond(request)
        host = request.headers["Host"].partition(":")[0]
        body = json.dumps(host_meta(f"wss://{host}{self.path}", self.address, host)).encode()
        return Response(200, "OK", Headers({"Content-Length": str(len(body))}), body)

    async def serve(self, wire: Wire) -> None:
        opening = await self.receive(wire)
        domain = attribute(opening, "to")
        where, texts = self._scripts[domain]
        await self._behave(wire, domain, where)
        for text in texts:
            self.send(wire, text.replace("{domain}", domain))
        end = await ending(wire)
        if not self._endings[domain].done():
            self._endings[domain].set_result(end)

    async def _behave(self, wire: Wire, domain: str, until: str) -> None:
        if until == ANSWER:
            return
        self.send(wire, opened(domain))
        if until == FEATURES:
            return
        self.send(wire, features(MECHANISMS))
        await self.receive(wire)
        if until == RESULT:
            return
        self.send(wire, f"<success xmlns='{SASL}'/>")
        await self.receive(wire)
        self.send(wire, opened(domain))
        self.send(wire, features(f"<sm xmlns='{SM}'/>"))
        await self.receive(wire)
        self.send(wire, f"<enabled xmlns='{SM}'/>")


def opened(domain: str, ns: str = FRAMING) -> str:
    return f"<open xmlns='{ns}' id='x1' from='{domain}' to='{CAPULET}' version='1.0'/>"
