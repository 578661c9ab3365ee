"""The plain way, to measure the engine against: websockets.sync in greenlets, one per domain.

A process of its own for `loadtest.load.bench`: gevent patches it. It parses nothing and keeps no
ledger; what it receives is counted and thrown away.
"""

import gevent.monkey

gevent.monkey.patch_all()

import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from loadtest.load import messages
from loadtest.load.bench import TARGET, cpu, parser, told
from loadtest.load.certificates import LoadAuthority
from workers.xmpp import elements, sasl
from workers.xmpp.framing import WebSocketFraming


class SyncDomain:
    """One remote domain on a blocking client."""

    def __init__(self, name: str, address: tuple[str, int], authority: LoadAuthority) -> None:
        self.name = name
        self._address = address
        pair = authority.issue_files(name)
        self._context = ssl.create_default_context(cafile=str(authority.bundle))
        self._context.load_cert_chain(pair.certificate, pair.key)

    def open(self) -> None:
        """Connect and authenticate by EXTERNAL, with XEP-0288."""
        self.wire = connect(
            f"wss://{TARGET}:{self._address[1]}/xmpp-s2s",
            sock=socket.create_connection(self._address),
            ssl=self._context,
            subprotocols=[Subprotocol("xmpp")],
            compression=None,
            proxy=None,
        )
        opening = WebSocketFraming().header(self.name, TARGET).decode()
        self.wire.send(opening)
        self._read(2)
        self.wire.send(elements.bidi(0).decode())
        self.wire.send(elements.auth(sasl.MECHANISM, sasl.initial_response(self.name)).decode())
        self._read(1)
        self.wire.send(opening)
        self._read(2)

    def talk(self, burst: int, until: float) -> int:
        """Bursts, each when the last has come back; how many stanzas in all."""
        jid, echo, text = f"user@{self.name}/load", f"echo@{TARGET}", messages.body(200)
        count = 0
        while time.monotonic() < until:
            for number in range(count, count + burst):
                stanza = messages.message(jid, echo, f"b.0.{number}", text)
                self.wire.send(stanza.data.decode())
            self._read(burst)
            count += burst
        return count

    def _read(self, count: int) -> None:
        for _ in range(count):
            self.wire.recv()


def main() -> None:
    options = parser().parse_args()
    authority = LoadAuthority(Path(options.ca))
    host, _, port = options.connect.rpartition(":")
    domains = [
        SyncDomain(f"s{number}.load.example", (host, int(port)), authority)
        for number in range(options.domains)
    ]
    began = cpu()
    gevent.joinall([gevent.spawn(each.open) for each in domains], raise_error=True)
    opened = cpu() - began
    began, started_at = cpu(), time.monotonic()
    until = started_at + options.seconds
    talks: list[Any] = [gevent.spawn(each.talk, options.burst, until) for each in domains]
    gevent.joinall(talks, raise_error=True)
    stanzas = sum(each.value for each in talks)
    print(told(stanzas, cpu() - began, time.monotonic() - started_at, len(domains) / opened))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
