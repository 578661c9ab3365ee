"""Micro-benchmarks of the stanza path: `python -m loadtest.micro [--json]`.

One run prints every row, so rows compare; between runs the same code varies by half and more.
A row is CPU time per stanza of about 300 bytes, in µs: least, median and most of the repeats.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from lxml import etree
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from coordinator.config import Limits
from workers.xmpp.framing import StreamFraming
from workers.xmpp.parser import MessageParser, StreamParser

BATCHES = (16, 64)


@dataclass(slots=True)
class Row:
    """CPU microseconds per stanza."""

    name: str
    batch: int
    least: float
    median: float
    most: float


def stanzas(count: int) -> list[bytes]:
    """Chat messages as servers send them, 300 bytes each on a WebSocket."""
    return [
        (
            f"<message xmlns='jabber:server' from='juliet@capulet.example/balcony'"
            f" to='romeo@montague.example/orchard' id='m{number:07}' type='chat' xml:lang='en'>"
            f"<body>Art thou not Romeo, and a Montague? {'x' * 28}</body>"
            f"<active xmlns='http://jabber.org/protocol/chatstates'/></message>"
        ).encode()
        for number in range(count)
    ]


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


SUBJECTS: dict[str, Callable[[list[bytes]], Callable[[], object]]] = {
    "lxml parse": _bare_parse,
    "lxml parse and serialise": _parse_and_serialise,
    "TCP parser (bytes to stanzas)": _stream_parser,
    "WebSocket parser (messages to stanzas)": _message_parser,
    "websockets Frame out, masked": _frames_out,
    "websockets Protocol in, masked": _frames_in,
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
    """Measure every subject at every batch size."""
    for name, prepare in SUBJECTS.items():
        for batch in BATCHES:
            run = prepare(stanzas(batch))
            run()
            samples = measure(run, batch, count=count, repeats=repeats)
            yield Row(name, batch, min(samples), statistics.median(samples), max(samples))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.micro", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="stanzas per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON list instead of a table")
    options = parser.parse_args(arguments)
    measured = list(rows(count=options.count, repeats=options.repeats))
    if options.json:
        print(json.dumps([asdict(row) for row in measured]))
        return 0
    print(f"{'µs CPU per stanza':<42}{'batch':>6}{'min':>8}{'median':>8}{'max':>8}")
    for row in measured:
        print(f"{row.name:<42}{row.batch:>6}{row.least:>8.2f}{row.median:>8.2f}{row.most:>8.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
