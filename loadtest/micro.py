"""Micro-benchmarks of the stanza path: `python -m loadtest.micro [--json]`.

One run prints every row, so rows compare; between runs the same code varies by half and more.
A row is CPU time per stanza of about 300 bytes, in µs: least, median and most of the repeats.
Everything is measured once, then again: a bad moment of the machine meets one repeat of many rows
instead of all of one. A batch is what one read brings. The whole paths are put together in
`micro_path.py`; their last column is the median of what they are, in the same repeat, to the sum of
their parts. Below it, the tables of `micro_journal.py`.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
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
    samples: list[float] = field(default_factory=list)
    """One per repeat."""
    over_parts: list[float] = field(default_factory=list)
    """Whole paths: to the sum of their parts in the same repeat."""

    def as_json(self) -> dict[str, Any]:
        samples = self.samples
        derived = {
            "least": min(samples),
            "median": statistics.median(samples),
            "most": max(samples),
        }
        return asdict(self) | derived


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


def measure(run: Callable[[], object], batch: int, *, count: int) -> float:
    """CPU microseconds per stanza, `count` stanzas long."""
    rounds = max(1, count // batch)
    before = time.process_time_ns()
    for _ in range(rounds):
        run()
    return (time.process_time_ns() - before) / 1000 / (rounds * batch)


def rows(*, count: int, repeats: int, say: Callable[[str], None] = lambda text: None) -> list[Row]:
    """Measure every subject and every path at every batch size; `say` tells how far it is."""
    found = {(name, batch): Row(name, batch) for name in (*SUBJECTS, *PATHS) for batch in BATCHES}
    work = {
        (name, batch): prepare(stanzas(batch))
        for name, prepare in SUBJECTS.items()
        for batch in BATCHES
    }
    for run in work.values():
        run()
    for repeat in range(repeats):
        say(f"parts and whole paths, {repeat + 1} of {repeats}")
        for (name, batch), run in work.items():
            found[name, batch].samples.append(measure(run, batch, count=count))
        for name, path in PATHS.items():
            for batch in BATCHES:
                samples = measure_path(
                    stanzas(batch), inbound=path.inbound, tls=path.tls, count=count, repeats=1
                )
                total = sum(found[part, batch].samples[-1] for part in path.parts)
                found[name, batch].samples += samples
                found[name, batch].over_parts += [sample / total for sample in samples]
    return list(found.values())


def _line(row: Row) -> str:
    found = row.as_json()
    ratio = f"{statistics.median(row.over_parts):>8.2f}" if row.over_parts else ""
    times = "".join(f"{found[name]:>8.2f}" for name in ("least", "median", "most"))
    return f"{row.name:<42}{row.batch:>6}{times}{ratio}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.micro", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="stanzas per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--routes", type=int, nargs="+", default=micro_journal.ROUTES)
    parser.add_argument("--json", action="store_true", help="one JSON list, of the first table")
    options = parser.parse_args(arguments)
    measured = rows(
        count=options.count,
        repeats=options.repeats,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    if options.json:
        print(json.dumps([row.as_json() for row in measured]))
        return 0
    print(f"{'µs CPU per stanza':<42}{'batch':>6}{'min':>8}{'median':>8}{'max':>8}{'/ parts':>8}")
    for row in measured:
        print(_line(row))
    sys.stdout.flush()
    journal = micro_journal.measure(
        count=options.count, repeats=options.repeats, routes=options.routes
    )
    print(f"\n{micro_journal.tables(journal)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
