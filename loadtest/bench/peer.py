"""A generator process: any number of servers at the other ends of a gateway's legs.

    python -m loadtest.bench.peer CERTIFICATE KEY [--unmanaged] [--plain] DOMAIN…

Domains are those it accepts streams for. It is told what to do by lines of JSON on standard input,
`{"do": command, …}`, and answers each by one; the commands are the methods of `Peer`. Times are
those of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import sys
import time
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from loadtest.bench.link import Link
from loadtest.bench.opening import Accepting, Domains, Identity, connect_tcp, connect_wss
from loadtest.bench.sending import Load, Packet, prepare
from loadtest.bench.tally import Tally

Answer = dict[str, Any]


class Peer:
    """Links it has opened are `opened`, those it has accepted `accepted`."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._accepting = Accepting(identity, self._on_link)
        self._opened: list[Link] = []
        self._accepted: list[Link] = []
        self._tally: Tally | None = None
        self._packets: list[Packet] = []
        self._load: Load | None = None

    async def listen_tcp(self, address: str, port: int) -> Answer:
        """Accept s2s streams."""
        await self._accepting.listen_tcp(address, port)
        return {}

    async def listen_wss(self, address: str, port: int) -> Answer:
        """Accept WebSockets."""
        await self._accepting.listen_wss(address, port)
        return {}

    async def connect_tcp(self, address: str, port: int, pairs: list[list[str]]) -> Answer:
        """Open a stream for each (sender, target), one after the other."""
        for sender, target in pairs:
            link = await connect_tcp(self._identity, (address, port), sender, target)
            self._opened.append(link)
        return {"links": len(self._opened)}

    async def connect_wss(
        self, address: str, port: int, host: str, pairs: list[list[str]], at_once: int = 32
    ) -> Answer:
        """Open a session for each (sender, target), so many `at_once`."""
        waiting = iter(pairs)
        begun = time.monotonic()

        async def open_some() -> None:
            for sender, target in waiting:
                link = await connect_wss(self._identity, (address, port), host, sender, target)
                self._opened.append(link)

        await asyncio.gather(*(open_some() for _ in range(min(at_once, len(pairs)))))
        return {"links": len(self._opened), "seconds": time.monotonic() - begun}

    async def close(self) -> Answer:
        """Close all streams in order."""
        links, self._opened = [*self._opened, *self._accepted], []
        self._accepted = []
        for link in links:
            if not link.is_closed:
                link.close()
        await asyncio.gather(*(link.session.closed_future for link in links if not link.is_closed))
        # Nobody else collects what closed sessions leave behind.
        count = len(links)
        links.clear()
        gc.unfreeze()
        gc.collect()
        return {"closed": count}

    async def expect(self, count: int) -> Answer:
        """Count what arrives from now on; numbers 0 to `count` - 1 are expected."""
        self._tally = Tally(count)
        for link in (*self._opened, *self._accepted):
            link.tally = self._tally
        return {}

    async def prepare(
        self, count: int, batch: int, size: int, mixed: bool, first: int, links: int
    ) -> Answer:
        """Encode `count` stanzas for `links` streams (0: all) from the `first` one opened on."""
        self._packets = []
        self._packets = prepare(
            self._opened[first : first + links if links else None],
            count,
            batch,
            size=size,
            mixed=mixed,
        )
        gc.collect()
        gc.freeze()
        return {"bytes": sum(len(packet.data) for packet in self._packets)}

    async def send(self, rate: float, window: int, within: float = 120) -> Answer:
        """Send what is prepared, at `rate` a second or as fast as it is taken (0)."""
        load = self._load = Load(self._packets, rate=rate, window=window)
        begun, spent = time.monotonic(), time.process_time()
        load.start()
        await asyncio.wait_for(load.finished, within)
        return {
            "sent": load.count,
            "begun": begun,
            "seconds": time.monotonic() - begun,
            "cpu": time.process_time() - spent,
        }

    async def send_on(self, window: int) -> Answer:
        """Send what is prepared as fast as it is taken, while other orders are obeyed."""
        load = Load(self._packets, rate=0, window=window)
        load.finished.add_done_callback(_retrieve)
        load.start()
        return {}

    async def arrived(self, within: float = 60) -> Answer:
        """Wait until all that was expected is there, or time is up."""
        tally = self._tally
        assert tally is not None, "expect first"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(tally.completed.wait(), within)
        return {
            "arrived": tally.arrived,
            "doubled": tally.doubled,
            "strange": tally.strange,
            "last": max(tally.times, default=0.0),
        }

    async def write_sent(self, path: str) -> Answer:
        """Write when each stanza of the last run was due, as doubles to a file."""
        assert self._load is not None, "send first"
        _write(Path(path), self._load.sent_at)
        return {}

    async def write_arrived(self, path: str) -> Answer:
        """Write when each stanza that was expected arrived, as doubles to a file."""
        assert self._tally is not None, "expect first"
        _write(Path(path), self._tally.times)
        return {}

    def _on_link(self, link: Link) -> None:
        link.tally = self._tally
        self._accepted.append(link)


def _retrieve(finished: "asyncio.Future[None]") -> None:
    if not finished.cancelled():
        finished.exception()  # nobody waits for it


def _write(path: Path, times: "array[float]") -> None:
    path.write_bytes(times.tobytes())


async def obey(peer: object) -> None:
    """Do what standard input says until it ends: its methods are the commands."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        command: Callable[..., Awaitable[Answer]] = getattr(peer, order.pop("do"))
        try:
            answer = await command(**order)
        except Exception as exc:  # whoever gave the order decides what becomes of it
            answer = {"failed": repr(exc)}
        print(json.dumps(answer), flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.peer", description=__doc__)
    parser.add_argument("certificate", type=Path)
    parser.add_argument("key", type=Path)
    parser.add_argument("--unmanaged", action="store_true", help="without XEP-0198")
    parser.add_argument("--plain", action="store_true", help="no TLS on TCP")
    parser.add_argument("domains", nargs="+")
    options = parser.parse_args(arguments)
    identity = Identity(
        certificate=options.certificate,
        key=options.key,
        domains=Domains(options.domains),
        manages=not options.unmanaged,
        tls=not options.plain,
    )
    # Nothing here is garbage in cycles but what lives long.
    gc.disable()
    uvloop.run(obey(Peer(identity)))


if __name__ == "__main__":
    main()
