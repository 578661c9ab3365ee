"""Micro-benchmarks of the stanza path: `python -m loadtest.micro [--json]`.

One run prints every row, so rows compare; between runs the same code varies by half and more.
A row is CPU time per stanza of about 300 bytes, in µs: least, median and most of the repeats.
A batch is what one read brings. The whole paths are put together in `micro_path.py`; their
last column is the median over the sum of the medians of their bare parts. Below it, the tables of
`micro_journal.py`.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from lxml import etree
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from coordinator.authority import Authority
from coordinator.config import Limits
from loadtest import micro_journal
from loadtest.micro_path import masked, measure_path, stanzas
from workers.gateway.certificates import parse_pair
from workers.gateway.frames import text_frames
from workers.gateway.tls import client_context, handshake, server_context
from workers.gateway.tls_engine import TLSEngine
from workers.gateway.websocket import WebSocket
from workers.xmpp.framing import StreamFraming
from workers.xmpp.parser import MessageParser, StreamParser

BATCHES = (1, 16, 64)


@dataclass(slots=True)
class Row:
    """CPU microseconds per stanza."""

    name: str
    batch: int
    least: float
    median: float
    most: float
    over_parts: float | None = None
    """Whole paths: the median over the sum of its bare parts' medians."""


def _bare_parse(batch: list[bytes]) -> Callable[[], object]:
    parser = etree.XMLParser(encoding="utf-8")
    return lambda: [etree.fromstring(data, parser) for data in batch]


def _parse_and_serialise(batch: list[bytes]) -> Callable[[], object]:
    parser = etree.XMLParser(encoding="utf-8")
    return lambda: [
        etree.tostring(etree.fromstring(data, parser), encoding="utf-8") for data in batch
    ]


def _message_parser(batch: list[bytes]) -> Callable[[], object]:
    parser = MessageParser(Limits(), authenticated=True)
    return lambda: parser.parse(batch)


def _stream_parser(batch: list[bytes]) -> Callable[[], object]:
    parser = StreamParser(Limits(), authenticated=True)
    parser.feed(StreamFraming().header("capulet.example", "montague.example"))
    data = b"".join(batch).replace(b" xmlns='jabber:server'", b"")
    return lambda: parser.feed(data)


def _frames_out(batch: list[bytes]) -> Callable[[], object]:
    return lambda: [Frame(Opcode.TEXT, data).serialize(mask=True) for data in batch]


def _frames_in(batch: list[bytes]) -> Callable[[], object]:
    data = b"".join(Frame(Opcode.TEXT, item).serialize(mask=True) for item in batch)
    protocol = Protocol(Side.SERVER, state=OPEN)

    def run() -> object:
        protocol.receive_data(data)
        return protocol.events_received()

    return run


def _text_frames(batch: list[bytes]) -> Callable[[], object]:
    return lambda: text_frames(batch, mask=True)


class _Taker:
    """The owner of a WebSocket that is only read."""

    messages: list[bytes] = []

    def messages_received(self, messages: list[bytes]) -> None:
        self.messages = messages


def _frames_cut(batch: list[bytes]) -> Callable[[], object]:
    async def make() -> WebSocket:
        return WebSocket(Protocol(Side.SERVER, state=OPEN))

    websocket = asyncio.run(make())
    taker = _Taker()
    websocket.owner = cast(Any, taker)
    data = b"".join(map(masked, batch))

    def run() -> object:
        websocket.data_received(data)
        return taker.messages

    return run


def _tls_record(batch: list[bytes]) -> Callable[[], object]:
    with TemporaryDirectory() as folder:
        leaf = Authority(Path(folder)).issue("montague.example")
    context = server_context(parse_pair(leaf.certificate_pem, leaf.key_pem))
    sender, receiver = TLSEngine(client_context(), server=False), TLSEngine(context, server=True)
    handshake(sender, receiver)
    data = b"".join(batch)

    def run() -> object:
        sender.send(data)
        return receiver.receive(sender.data_to_send())

    return run


BARE = "lxml parse and serialise"
TCP_PARSER = "TCP parser (bytes to stanzas)"
MESSAGE_PARSER = "WebSocket parser (messages to stanzas)"
FRAMES_OUT = "WebSocket frames out, masked"
FRAMES_IN = "WebSocket frames in, masked"
TLS_RECORD = "TLS record, out and in"

SUBJECTS: dict[str, Callable[[list[bytes]], Callable[[], object]]] = {
    "lxml parse": _bare_parse,
    BARE: _parse_and_serialise,
    TCP_PARSER: _stream_parser,
    MESSAGE_PARSER: _message_parser,
    "websockets Frame out, masked": _frames_out,
    "websockets Protocol in, masked": _frames_in,
    FRAMES_OUT: _text_frames,
    FRAMES_IN: _frames_cut,
    TLS_RECORD: _tls_record,
}


@dataclass(slots=True)
class WholePath:
    """A whole path and the subjects it is made of."""

    inbound: bool
    tls: bool
    parts: tuple[str, ...]


PATHS = {
    "whole path out": WholePath(False, False, (TCP_PARSER, FRAMES_OUT)),
    "whole path in": WholePath(True, False, (FRAMES_IN, MESSAGE_PARSER)),
    "whole path out, TLS": WholePath(False, True, (TCP_PARSER, FRAMES_OUT, TLS_RECORD)),
    "whole path in, TLS": WholePath(True, True, (FRAMES_IN, MESSAGE_PARSER, TLS_RECORD)),
}


def measure(run: Callable[[], object], batch: int, *, count: int, repeats: int) -> list[float]:
    """CPU microseconds per stanza of each repeat, `count` stanzas long."""
    rounds = max(1, count // batch)
    samples = []
    for _ in range(repeats):
        before = time.process_time_ns()
        for _ in range(rounds):
            run()
        samples.append((time.process_time_ns() - before) / 1000 / (rounds * batch))
    return samples


def rows(*, count: int, repeats: int) -> Iterator[Row]:
    """Measure every subject and every path at every batch size."""
    medians: dict[tuple[str, int], float] = {}
    for name, prepare in SUBJECTS.items():
        for batch in BATCHES:
            run = prepare(stanzas(batch))
            run()
            samples = measure(run, batch, count=count, repeats=repeats)
            medians[name, batch] = statistics.median(samples)
            yield Row(name, batch, min(samples), medians[name, batch], max(samples))
    for name, path in PATHS.items():
        for batch in BATCHES:
            samples = measure_path(
                stanzas(batch), inbound=path.inbound, tls=path.tls, count=count, repeats=repeats
            )
            median = statistics.median(samples)
            ratio = median / sum(medians[part, batch] for part in path.parts)
            yield Row(name, batch, min(samples), median, max(samples), ratio)


def _line(row: Row) -> str:
    ratio = "" if row.over_parts is None else f"{row.over_parts:>8.2f}"
    return f"{row.name:<42}{row.batch:>6}{row.least:>8.2f}{row.median:>8.2f}{row.most:>8.2f}{ratio}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.micro", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="stanzas per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--routes", type=int, nargs="+", default=micro_journal.ROUTES)
    parser.add_argument("--json", action="store_true", help="one JSON list, of the first table")
    options = parser.parse_args(arguments)
    measured = rows(count=options.count, repeats=options.repeats)
    if options.json:
        print(json.dumps([asdict(row) for row in measured]))
        return 0
    print(f"{'µs CPU per stanza':<42}{'batch':>6}{'min':>8}{'median':>8}{'max':>8}{'/ parts':>8}")
    for row in measured:
        print(_line(row), flush=True)
    journal = micro_journal.measure(
        count=options.count, repeats=options.repeats, routes=options.routes
    )
    print(f"\n{micro_journal.tables(journal)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
