"""Attacks on what a gateway has little of: places, time, memory, descriptors. They end within a
bound, are counted, leave no memory behind, and meanwhile juliet and romeo talk through the same
worker.
"""

import asyncio
import contextlib
import os
import resource
import socket
from pathlib import Path
from typing import Any

from OpenSSL import SSL

from loadtest.stage.addresses import WEBSOCKET_PORT
from loadtest.stage.gateway import Gateway
from loadtest.stage.peers import XmppProxyPeer
from loadtest.stage.stage import CAPULET, Stage
from loadtest.stage.wire import Wire, tls_context

GUEST, GLUTTON = "guest.example", "glutton.example"
URL = f"wss://{CAPULET}/xmpp-s2s"
MIB = 1048576
# Much less than the defaults, so that attacks are short.
LIMITS: dict[str, Any] = {
    "authentication_timeout": 3.0,
    "stanza_timeout": 3.0,
    "ping_interval": 1.5,
    "unauthenticated_per_address": 100,
    "handshakes_per_address": 300,
    "sessions_per_domain": 3,
    "stanzas_per_second": 1000,
    "queue_bytes": 262144,
}
# How long an attacker may stay: the largest of the times above, and the end in order.
SOON = 12.0


class Victim:
    """capulet's gateway with one worker and small limits, and what is known of that worker."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.gateway: Gateway = stage.capulet_gateway
        self.pid = 0
        self._addresses = 0

    async def find_worker(self) -> None:
        (self.pid,) = await self.gateway.worker_pids()

    @property
    def rss(self) -> int:
        words = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(words[1]) * resource.getpagesize()

    @property
    def cpu_seconds(self) -> float:
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def new_address(self) -> str:
        """An address that no attack has used."""
        self._addresses += 1
        actor, host = divmod(self._addresses, 250)
        return f"127.{self.stage.addresses.slot}.{200 + actor}.{2 + host}"

    def connect(self, source: str) -> socket.socket:
        sock = socket.create_connection(
            (self.gateway.address, WEBSOCKET_PORT), timeout=5, source_address=(source, 0)
        )
        sock.setblocking(False)
        return sock

    async def refused(self, reason: str) -> int:
        status = await self.gateway.api("status")
        return int(status["refused"].get(reason, 0))

    async def wait_refused(self, reason: str, least: int) -> None:
        """Until the worker has reported so many: it does so each second."""
        async with asyncio.timeout(5):
            while True:
                if await self.refused(reason) >= least:
                    return
                await asyncio.sleep(0.1)


def peer(kind: type[XmppProxyPeer], victim: Victim, domain: str) -> XmppProxyPeer:
    return kind(domain, victim.new_address(), victim.stage.authority.issue(domain))


async def join(guest: XmppProxyPeer, victim: Victim) -> Wire:
    return await guest.connect(URL, victim.gateway.address, CAPULET)


def is_open(sock: socket.socket) -> bool:
    """The other side has not hung up."""
    try:
        while data := sock.recv(65536):
            del data
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def has_answer(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1))
    except BlockingIOError:
        return False


def all_closed(socks: list[socket.socket]) -> bool:
    return not any(map(is_open, socks))


def client_hello() -> bytes:
    tls = SSL.Connection(tls_context(None), None)
    tls.set_connect_state()
    with contextlib.suppress(SSL.WantReadError):
        tls.do_handshake()
    return tls.bio_read(65536)
