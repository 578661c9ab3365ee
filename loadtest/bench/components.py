"""The same stanzas between external components (XEP-0114) of two servers: sent and counted here."""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadtest.bench.flood import LedgerWrong
from loadtest.bench.machine import cpu_seconds
from loadtest.bench.stanzas import encode, in_stream, numbers
from loadtest.bench.tally import Tally
from loadtest.stage.component import Component
from loadtest.stage.stage import PASSWORD

BATCH = 64
_ERROR = re.compile(rb" type=.error")
_PING = re.compile(rb"<iq ([^>]*)>\s*<ping xmlns=.urn:xmpp:ping")
_ATTRIBUTE = re.compile(rb"\b(from|to|id)=['\"]([^'\"]*)")
WINDOW = 2000
"""Stanzas under way, at most: more would only wait inside a server."""


@dataclass(slots=True)
class Crossing:
    """One run from one component to the other; CPU in seconds by process."""

    count: int
    seconds: float
    cpu: dict[str, float]

    @property
    def per_stanza(self) -> dict[str, float]:
        """CPU in µs per stanza, by process."""
        return {name: seconds / self.count * 1e6 for name, seconds in self.cpu.items()}


class Crossings:
    """Two components; `connect()` first, `close()` last."""

    def __init__(self, sender: tuple[str, str], target: tuple[str, str]) -> None:
        """Each (domain, address of its server)."""
        self._sender = Component(*sender, PASSWORD, self._on_return)
        self._target = Component(*target, PASSWORD, self._on_data)
        self._tail = b""
        self._tally = Tally(0)
        self._packets: list[bytes] = []
        self._sent = 0
        self._errors = 0

    async def connect(self) -> None:
        await asyncio.gather(self._sender.connect(), self._target.connect())

    def close(self) -> None:
        self._sender.close()
        self._target.close()

    async def run(self, count: int, processes: Mapping[str, Sequence[int]]) -> Crossing:
        """Send `count` and wait for all. Raises `LedgerWrong`."""
        messages = [encode(self._sender.domain, self._target.domain, n) for n in range(count)]
        self._packets = [in_stream(messages[at : at + BATCH]) for at in range(0, count, BATCH)]
        self._packets.reverse()
        self._tally, self._sent, self._errors = Tally(count), 0, 0
        before = _spent(processes)
        begun = time.monotonic()
        self._fill()
        try:
            await asyncio.wait_for(self._tally.completed.wait(), 60)
        except TimeoutError:
            raise LedgerWrong(
                f"{self._sent:,} of {count:,} sent, {self._tally.arrived:,} arrived at "
                f"{self._target.domain}, {self._errors:,} came back as errors"
            ) from None
        seconds = max(self._tally.times) - begun
        after = _spent(processes)
        if self._tally.doubled or self._tally.strange:
            raise LedgerWrong(f"{self._tally.doubled} doubled at {self._target.domain}")
        return Crossing(count, seconds, {name: after[name] - before[name] for name in after})

    def _on_return(self, data: bytes) -> None:
        self._errors += len(_ERROR.findall(data))

    def _on_data(self, data: bytes) -> None:
        data = self._tail + data
        end = data.rfind(b">") + 1
        self._tail = data[end:]
        self._tally.add(numbers(data[:end]))
        for reply in replies(data[:end]):
            self._target.write(reply)
        self._fill()

    def _fill(self) -> None:
        while self._packets and self._sent - self._tally.arrived <= WINDOW - BATCH:
            self._sender.write(self._packets.pop())
            self._sent += BATCH


def replies(data: bytes) -> list[bytes]:
    """The answers to all pings (XEP-0199): by these a gateway knows what a server has taken."""
    found = []
    for head in _PING.findall(data):
        of = dict(_ATTRIBUTE.findall(head))
        found.append(
            b"<iq type='result' from='%b' to='%b' id='%b'/>" % (of[b"to"], of[b"from"], of[b"id"])
        )
    return found


def _spent(processes: Mapping[str, Sequence[int]]) -> dict[str, float]:
    found = {name: sum(map(cpu_seconds, pids)) for name, pids in processes.items()}
    return found | {"generator": time.process_time()}
