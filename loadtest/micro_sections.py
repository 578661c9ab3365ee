"""Where a stanza's microseconds go in the whole path: `python -m loadtest.micro_sections`.

The subjects of `loadtest.micro` run in loops of their own. Here the same parts are timed where they
stand in `micro_path.py`, and cost up to twice as much: between them the processor's caches go cold.
A row is µs per stanza of about 300 bytes, the least of the repeats; `others` is what is left of the
whole: channel, session, stream, source, ledger, queues, acknowledgements and the loop.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import uvloop

from loadtest.micro_path import Rig, from_local_server, run_repeat, stanzas
from workers.gateway import channel, websocket
from workers.gateway.tls_engine import TLSEngine
from workers.xmpp.parser import MessageParser, StreamParser

BATCHES = (1, 16, 64)
SECTIONS = ("XML", "TLS", "frames")


class _OwnEngine(TLSEngine):
    """Those of the channels: the peers' engines at the other ends are not timed."""

    __slots__ = ()


# None of these calls another one.
_CALLS: tuple[tuple[str, Any, str], ...] = (
    ("XML", StreamParser, "feed"),
    ("XML", MessageParser, "parse"),
    ("TLS", _OwnEngine, "receive"),
    ("TLS", _OwnEngine, "send"),
    ("frames", websocket, "text_frames"),
    ("frames", websocket.WebSocket, "_cut"),
)


@contextmanager
def timed(spent: dict[str, int]) -> Iterator[None]:
    """Add the nanoseconds of every section to `spent`; for what is made from now on."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(channel, "TLSEngine", _OwnEngine))
        for section, owner, name in _CALLS:
            call = _timed(getattr(owner, name), section, spent)
            stack.enter_context(patch.object(owner, name, call))
        yield


def _timed(call: Callable[..., Any], section: str, spent: dict[str, int]) -> Callable[..., Any]:
    clock = time.perf_counter_ns  # the processor's own clock would cost a system call

    def run(*arguments: Any, **options: Any) -> Any:
        begun = clock()
        result = call(*arguments, **options)
        spent[section] += clock() - begun
        return result

    return run


async def _sections(
    batch: list[bytes], *, inbound: bool, count: int, repeats: int
) -> dict[str, float]:
    spent = dict.fromkeys(SECTIONS, 0)
    samples: dict[str, list[float]] = {name: [] for name in ("whole", *SECTIONS)}
    rounds, sent = max(1, count // len(batch)), 0
    batch = batch if inbound else from_local_server(batch)
    with TemporaryDirectory() as folder, timed(spent):
        rig = Rig(Path(folder), tls=True)
        await (rig.open_inbound() if inbound else rig.open_outbound())
        for _ in range(repeats):
            spent.update(dict.fromkeys(SECTIONS, 0))
            whole = await run_repeat(rig, batch, inbound=inbound, rounds=rounds, sent=sent)
            sent += rounds * len(batch)
            samples["whole"].append(whole)
            for section, nanoseconds in spent.items():
                samples[section].append(nanoseconds / 1000 / (rounds * len(batch)))
        rig.close()
        await asyncio.sleep(0)
    return {name: min(each) for name, each in samples.items()}


def sections(*, inbound: bool, batch: int, count: int, repeats: int) -> dict[str, float]:
    """µs per stanza of the whole path with TLS, of each section, and of the others."""
    work = _sections(stanzas(batch), inbound=inbound, count=count, repeats=repeats)
    found = uvloop.run(work)
    return {**found, "others": found["whole"] - sum(found[name] for name in SECTIONS)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.micro_sections", description=__doc__)
    parser.add_argument("--count", type=int, default=640, help="stanzas per repeat")
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args(arguments)
    names = ("whole", *SECTIONS, "others")
    print(f"{'µs per stanza':<16}{'batch':>6}" + "".join(f"{name:>9}" for name in names))
    for inbound in (False, True):
        for batch in BATCHES:
            row = sections(
                inbound=inbound, batch=batch, count=options.count, repeats=options.repeats
            )
            way = "whole path in" if inbound else "whole path out"
            cells = "".join(f"{row[name]:>9.2f}" for name in names)
            print(f"{way:<16}{batch:>6}{cells}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
