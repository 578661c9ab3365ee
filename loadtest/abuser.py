"""A process that does harm to a gateway: `python -m loadtest.abuser CERTIFICATE KEY DOMAIN…`.

It is told what by lines of JSON on standard input, as `loadtest.bench.peer` is, and answers each;
what it was told goes on until "stop". What it sends was encoded before: it costs little here.
"""

import asyncio
import contextlib
import itertools
import socket
import sys
from pathlib import Path
from typing import Any

import uvloop
from OpenSSL import SSL
from websockets.frames import Frame, Opcode

from loadtest.bench.link import Link
from loadtest.bench.opening import Accepting, Domains, Identity, connect_wss
from loadtest.bench.peer import obey
from loadtest.bench.stanzas import encode
from workers.gateway.frames import text_frames
from workers.xmpp import elements

Answer = dict[str, Any]

# Stanzas per write, and the number of all of them: one that no tally expects.
BATCH = 64
NUMBER = 99_999_999
QUESTIONS = 512
# Handshakes under way at a time.
AT_ONCE = 64
ADDRESSES = 200


class Abuser:
    """Counts what it has done: stanzas, questions or handshakes."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._accepting = Accepting(identity, self._on_link)
        self._links: list[Link] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._count = 0

    async def listen_wss(self, address: str, port: int) -> Answer:
        """Accept sessions, and read nothing of what comes on them."""
        await self._accepting.listen_wss(address, port)
        return {}

    async def flood(
        self, address: str, port: int, host: str, pairs: list[list[str]], size: int
    ) -> Answer:
        """Send stanzas on a session for each (sender, target), as fast as they are taken."""
        for sender, target in pairs:
            link = await connect_wss(self._identity, (address, port), host, sender, target)
            message = encode(sender, target, NUMBER, size=size)
            self._send_on(link, link.packed([message] * BATCH), BATCH)
        return {}

    async def ask(self, address: str, port: int, host: str, sender: str, target: str) -> Answer:
        """Ask what was handled, again and again, and never read the answers."""
        link = await connect_wss(self._identity, (address, port), host, sender, target)
        self._send_on(link, text_frames([elements.SM_REQUEST] * QUESTIONS, mask=True), QUESTIONS)
        link.channel.pause_reading()
        return {}

    async def ping(self, address: str, port: int, host: str, sender: str, target: str) -> Answer:
        """Ping without end."""
        link = await connect_wss(self._identity, (address, port), host, sender, target)
        ping = Frame(Opcode.PING, b"").serialize(mask=True)
        self._send_on(link, ping * QUESTIONS, QUESTIONS)
        return {}

    async def shake_hands(self, address: str, port: int, network: str) -> Answer:
        """Open TLS connections and leave when the server has done its part, without end.

        They come from many addresses: `network` is the first two numbers of all.
        """
        sources = itertools.cycle(f"{network}.{150 + n % 50}.{2 + n}" for n in range(ADDRESSES))
        for _ in range(AT_ONCE):
            self._tasks.append(asyncio.create_task(self._shake_hands(address, port, sources)))
        return {}

    async def stop(self) -> Answer:
        """End it; how much it was."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for link in self._links:
            link.channel.abort()
        self._links.clear()
        count, self._count = self._count, 0
        return {"count": count}

    def _send_on(self, link: Link, data: bytes, count: int) -> None:
        def go_on(link: Link) -> None:
            while not (link.is_blocked or link.is_closed or link.channel.is_closing):
                link.write(data, count)
                self._count += count

        self._links.append(link)
        link.on_progress = go_on
        asyncio.get_running_loop().call_soon(go_on, link)

    def _on_link(self, link: Link) -> None:
        link.channel.pause_reading()
        self._links.append(link)

    async def _shake_hands(self, address: str, port: int, sources: "itertools.cycle[str]") -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError), socket.socket() as sock:
                sock.setblocking(False)
                sock.bind((next(sources), 0))
                await loop.sock_connect(sock, (address, port))
                await loop.sock_sendall(sock, self._client_hello())
                if await loop.sock_recv(sock, 65536):
                    self._count += 1

    def _client_hello(self) -> bytes:
        connection = SSL.Connection(self._identity.client, None)
        connection.set_connect_state()
        with contextlib.suppress(SSL.WantReadError):
            connection.do_handshake()
        return connection.bio_read(65536)


def main() -> None:
    certificate, key, *domains = sys.argv[1:]
    identity = Identity(certificate=Path(certificate), key=Path(key), domains=Domains(domains))

    async def run() -> None:
        await obey(Abuser(identity))

    uvloop.run(run())


if __name__ == "__main__":
    main()
