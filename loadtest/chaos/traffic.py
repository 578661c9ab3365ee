"""Traffic between external components of both servers, at a steady rate, with end-to-end ids.

A stanza carries the mark of its run, its flow and its number: `n='run.flow.number'` in a payload of
its own, and as the id of messages and requests, since an error may come without the payload. A
result has the id of its request and a number of its own flow, so that its order is seen too.
"""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable

from loadtest.chaos.flow import Flow, Kind
from loadtest.stage.component import Component

TICK = 0.01
PADDING = 120
# Of ten stanzas of a flow one is a request, one the result of a request of the opposite flow.
_REQUEST_EVERY = 9
_NAMESPACE = "urn:fedgate:load"
# Nothing that is sent here has an element of these names inside.
_STANZA = re.compile(rb"<(message|iq|presence)\b([^>]*?)(?:/>|>(.*?)</\1>)", re.DOTALL)
_TYPE = re.compile(rb"\btype=['\"](\w+)['\"]")
_ID = re.compile(rb"\bid=['\"]([^'\"]*)['\"]")
_FROM = re.compile(rb"\bfrom=['\"]([^'\"]*)['\"]")
_TO = re.compile(rb"\bto=['\"]([^'\"]*)['\"]")
_NUMBER = re.compile(rb"\bn=['\"](\d+)\.(\d+)\.(\d+)['\"]")
_CONDITION = re.compile(rb"<([a-z-]+) [^>]*urn:ietf:params:xml:ns:xmpp-stanzas")
_DELAY = b"urn:xmpp:delay"
_PING = b"urn:xmpp:ping"


class Traffic:
    """One run's flows, both ways between every component of one server and every one of the other.

    Components are made by the caller and given here connected: `receive(domain, data)` takes what
    their servers send. `rate` counts stanzas per second of each direction, results included.
    """

    def __init__(
        self,
        run: int,
        components: Iterable[Component],
        servers: dict[str, str],
        rate: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = run
        self.components = {each.domain: each for each in components}
        self.flows = [
            Flow(sender, target, servers[sender])
            for sender in servers
            for target in servers
            if servers[sender] != servers[target]
        ]
        self.strays = 0
        """Stanzas of earlier runs: they came when their run had been judged."""
        self.withheld = 0
        """Stanzas not sent because the server was away or did not read."""
        self.sent = self.settled = 0
        self._clock = clock
        self._indices = {flow.name: index for index, flow in enumerate(self.flows)}
        self._rate = rate * (1 - 1 / (_REQUEST_EVERY + 1)) * 2 / len(self.flows)
        self._buffers: dict[str, bytes] = defaultdict(bytes)
        self._replies: dict[str, list[bytes]] = defaultdict(list)
        self._originated = [0] * len(self.flows)
        self._task: asyncio.Task[None] | None = None

    @property
    def is_settled(self) -> bool:
        return self.settled >= self.sent

    def start(self) -> None:
        """Send from now on, until `stop()`."""
        self._task = asyncio.create_task(self._send_steadily())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def send_one_each(self) -> None:
        """One message in every flow that has an open component."""
        for index in range(len(self.flows)):
            self._originate(index, 1)

    async def _send_steadily(self) -> None:
        due = 0.0
        at = self._clock()
        while True:
            await asyncio.sleep(TICK)
            now = self._clock()
            # After a hiccup of our own the load is not made up for in one burst.
            due += self._rate * min(now - at, 10 * TICK)
            at = now
            count, due = int(due), due % 1
            if count:
                for index in range(len(self.flows)):
                    self._originate(index, count)

    def _originate(self, index: int, count: int) -> None:
        flow = self.flows[index]
        component = self.components[flow.sender]
        if not component.is_open or component.is_blocked:
            self.withheld += count
            return
        now = self._clock()
        parts = []
        for _ in range(count):
            self._originated[index] += 1
            is_request = self._originated[index] % _REQUEST_EVERY == 0
            number = flow.sent(Kind.REQUEST if is_request else Kind.MESSAGE, now)
            mark = f"{self.run}.{index}.{number}"
            parts.append(_request(flow, mark) if is_request else _message(flow, mark))
        self.sent += count
        component.write(b"".join(parts))

    def receive(self, domain: str, data: bytes) -> None:
        """What the server of the component `domain` sent."""
        data = self._buffers[domain] + data
        end = 0
        now = self._clock()
        for match in _STANZA.finditer(data):
            end = match.end()
            self._receive_stanza(match[1], match[2], match[3] or b"", now)
        self._buffers[domain] = data[end:]
        for sender, parts in self._replies.items():
            component = self.components[sender]
            if component.is_open:
                component.write(b"".join(parts))
        self._replies.clear()

    def forget_partial(self, domain: str) -> None:
        """The component's connection ended: what was cut off will not be completed."""
        self._buffers.pop(domain, None)

    def _receive_stanza(self, name: bytes, head: bytes, body: bytes, now: float) -> None:
        found = _TYPE.search(head)
        type = found[1] if found else b""
        if type == b"error":
            self._receive_error(head, body, now)
            return
        number = _NUMBER.search(body)
        if number is None:
            if name == b"iq" and type == b"get" and _PING in body:
                self._reply(head, b"")
            return
        if int(number[1]) != self.run:
            self.strays += 1
            return
        flow, at = self.flows[int(number[2])], int(number[3])
        is_known = flow.copies[at] or flow.bounced_at[at] == flow.bounced_at[at]
        if flow.arrived(at, now, is_marked=_DELAY in body) and not is_known:
            self.settled += 1
        if name == b"iq" and type in (b"get", b"set"):
            self._answer(head, flow, now)

    def _receive_error(self, head: bytes, body: bytes, now: float) -> None:
        found = _ID.search(head)
        run, _, rest = (found[1] if found else b"").partition(b".")
        index, _, number = rest.partition(b".")
        if not (run.isdigit() and index.isdigit() and number.isdigit()):
            return
        if int(run) != self.run:
            self.strays += 1
            return
        flow, at = self.flows[int(index)], int(number)
        condition = _CONDITION.search(body)
        if not flow.copies[at] and flow.bounced_at[at] != flow.bounced_at[at]:
            self.settled += 1
        flow.bounced(at, condition[1].decode() if condition else "?", now)

    def _answer(self, head: bytes, flow: Flow, now: float) -> None:
        """The result of a request is a stanza of the opposite flow, with a number there."""
        index = self._indices[flow.target, flow.sender]
        number = self.flows[index].sent(Kind.RESULT, now)
        self.sent += 1
        self._reply(head, f"<load xmlns='{_NAMESPACE}' n='{self.run}.{index}.{number}'/>".encode())

    def _reply(self, head: bytes, payload: bytes) -> None:
        sender, target, id = _TO.search(head), _FROM.search(head), _ID.search(head)
        if sender is None or target is None or id is None:
            return
        domain = sender[1].rpartition(b"@")[2].partition(b"/")[0].decode()
        self._replies[domain].append(
            b"<iq type='result' from='%b' to='%b' id='%b'>%b</iq>"
            % (sender[1], target[1], id[1], payload)
        )


def _message(flow: Flow, mark: str) -> bytes:
    return (
        f"<message from='s@{flow.sender}/x' to='r@{flow.target}/y' id='{mark}' type='chat'>"
        f"<body>{'w' * PADDING}</body><load xmlns='{_NAMESPACE}' n='{mark}'/></message>"
    ).encode()


def _request(flow: Flow, mark: str) -> bytes:
    type = "get" if mark[-1] in "02468" else "set"
    return (
        f"<iq from='s@{flow.sender}/x' to='r@{flow.target}/y' id='{mark}' type='{type}'>"
        f"<load xmlns='{_NAMESPACE}' n='{mark}'/></iq>"
    ).encode()
