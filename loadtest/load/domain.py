"""One remote domain of the load: its session, what it sends, what it answers."""

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from OpenSSL import SSL

from loadtest.load import messages
from loadtest.load.ledger import Flow
from loadtest.load.link import Link
from loadtest.load.tally import Tally
from workers.gateway.session import Session
from workers.gateway.tls import client_context
from workers.xmpp.management import Suspended
from workers.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from loadtest.load.fleet import Fleet

# A domain without a session keeps so many stanzas; a server would bounce more than that, too.
MOST_WAITING = 1000
_POLL = 0.05
_TALLY_TIMEOUT = 5.0


class RemoteDomain:
    """A server named `name`, with one user that writes. All of it in the engine's thread."""

    def __init__(self, name: str, fleet: "Fleet", context: SSL.Context | None = None) -> None:
        self.name = name
        self.jid = f"user@{name}/load"
        self.fleet = fleet
        self.context = context or client_context(fleet.certificate_for(name))
        self.link = Link(self._open, self)
        self.withheld = 0
        """Stanzas that were not sent: too many waited already."""
        self._flows: dict[str, Flow] = {}
        self._tally: asyncio.Future[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._is_retiring = False

    # What scenarios ask for.

    async def connect(self) -> None:
        """Return when the first session is there, however many attempts it takes."""
        self.link.start()
        await self.link.wait_open()

    def send_message(self, name: str, to: str, text: str, type: str = "chat") -> None:
        """Counted under `name`; an echo with the same id is expected."""
        if id := self._new_id(name, to, is_post=type == "groupchat"):
            self.link.send(messages.message(self.jid, to, id, text, type))

    def send_presence(self, name: str, to: str, type: str = "") -> None:
        if id := self._new_id(name, to):
            self.link.send(messages.presence(self.jid, to, id, type))

    def send_ping(self, name: str, to: str) -> None:
        if id := self._new_id(name, to):
            self.link.send(messages.ping(self.jid, to, id))

    def join(self, name: str, room: str) -> None:
        """Enter a room of the sink: copies of what is said there are counted under `name`."""
        self.fleet.ledger.subscribe(self.name, room, name)
        self.send_presence("join", room)

    def read_slowly(self, share: float, name: str, period: float = 1.0) -> None:
        """From now on read for this share of each period (seconds) only.

        Latencies of `name` are kept apart from those of all others.
        """
        self.fleet.ledger.record.account(name).is_apart = True
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_in_steps(share, period))

    async def reconnect(self, pause: float = 0.0) -> None:
        """Close the session in order, and come back unless the domain retires meanwhile."""
        await self.settle()
        old = self.link
        old.close()
        await old.wait_closed()
        await asyncio.sleep(pause)
        if not self._is_retiring:
            self.link = Link(self._open, self)
            await self.connect()

    async def settle(self, deadline: float | None = None) -> None:
        """Wait until nothing is on its way; until the deadline, or as long as the settings say."""
        ledger = self.fleet.ledger
        deadline = deadline or self.fleet.new_deadline()
        if ledger.feeds(self.name):
            await self._ask_tally()
        while not self._is_settled():
            if time.monotonic() > deadline:
                await self._ask_tally()
                return
            await asyncio.sleep(_POLL)

    async def finish(self, deadline: float) -> None:
        """Wait for the answers to all that was sent; nothing else will be."""
        if self._reading is not None:
            self._reading.cancel()
            self._resume_reading()
        await self._come_back(deadline)
        await self._wait_for_answers(deadline)

    async def retire(self, deadline: float) -> None:
        """Finish, leave all rooms, settle, and close for good."""
        self._is_retiring = True
        await self.finish(deadline)
        if self.link.is_open:
            self._leave_rooms()
            await self._wait_for_answers(deadline)
            await self.settle(deadline)
        self.link.close()
        await self.link.wait_closed()

    # What the link calls.

    def link_opened(self, link: Link, seconds: float, how: str) -> None:
        self.fleet.note_opened(seconds, how)

    def link_refused(self, link: Link, reason: str) -> None:
        self.fleet.note_refused(reason)

    def link_lost(self, link: Link, reason: str) -> None:
        self.fleet.note_lost(reason)

    def stanzas_returned(self, link: Link, stanzas: list[Stanza]) -> None:
        for stanza in stanzas:
            if stanza.id:
                self.fleet.ledger.returned(stanza.id)

    def stanzas_received(self, link: Link, stanzas: list[Stanza]) -> None:
        for stanza in stanzas:
            self.receive(stanza)

    def receive(self, stanza: Stanza) -> None:
        """A stanza for this domain, on whichever session."""
        id, kind = stanza.id or "", stanza.type
        if stanza.name == "iq" and kind in ("get", "set"):
            self.link.send(messages.result(stanza))
        elif id == "tally":
            self._on_tally(stanza)
        elif kind == "error":
            self.fleet.ledger.answered(id, error=messages.condition_of(stanza))
        elif id.startswith("s."):
            self._on_copy(stanza, id)
        else:
            self.fleet.ledger.answered(
                id, is_marked=messages.is_marked(stanza), is_result=stanza.name == "iq"
            )

    # Inside.

    async def _open(self, link: Link, resume: Suspended | None) -> Session:
        return await self.fleet.open_session(self, link, resume)

    async def _come_back(self, deadline: float) -> None:
        """Open a session that has just been lost.

        For what is left to hear, and because the endpoint keeps what we have heard and not
        acknowledged until we are back.
        """
        if self.link.was_lost or self.fleet.ledger.feeds(self.name) or not self._is_settled():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await self.connect()

    def _leave_rooms(self) -> None:
        ledger = self.fleet.ledger
        for room in ledger.feeds(self.name):
            # At the end of a run all leave in one moment: no load that anybody asked for.
            ledger.record.account("leave").is_apart = True
            self.send_presence("leave", room, "unavailable")

    async def _wait_for_answers(self, deadline: float) -> None:
        flows = self._flows.values()
        while any(each.waiting for each in flows) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL)

    def _is_settled(self) -> bool:
        return self.fleet.ledger.is_settled(self.name, list(self._flows.values()))

    def _new_id(self, name: str, to: str, *, is_post: bool = False) -> str:
        if self.link.waiting >= MOST_WAITING:
            self.withheld += 1
            return ""
        flow = self._flows.get(to)
        if flow is None:
            flow = self._flows[to] = self.fleet.ledger.new_flow()
        return self.fleet.ledger.send(flow, name, is_post=is_post)

    def _on_copy(self, stanza: Stanza, id: str) -> None:
        _, number, post = id.split(".", 2)
        room, ledger = stanza.sender.partition("/")[0], self.fleet.ledger
        marked = messages.is_marked(stanza)
        ledger.copied(self.name, room, int(number), post, is_marked=marked)
        if stanza.sender.endswith(f"/{self.name}"):
            ledger.answered(post, is_marked=marked)  # our own post, seen in the room

    async def _ask_tally(self) -> None:
        """Ask the sink how much it has sent; all that came before its answer has come by then."""
        if self._tally is None:
            self._tally = asyncio.get_running_loop().create_future()
        content = f"<tally xmlns='{messages.TALLY}'/>"
        target = self.fleet.settings.target
        self.link.send(messages.stanza("iq", self.jid, target, "tally", "get", content))
        try:
            await asyncio.wait_for(asyncio.shield(self._tally), _TALLY_TIMEOUT)
        except TimeoutError:
            # Copies that were lost behind the last that came are not known, which must be seen.
            self.fleet.note_lost("no answer to a tally")
        finally:
            self._tally = None

    def _on_tally(self, stanza: Stanza) -> None:
        ledger, tally = self.fleet.ledger, Tally.from_stanza(stanza)
        for address, count in tally.copies.items():
            ledger.tally(self.name, address, count)
        for refused in tally.refused:
            if refused.id.startswith("s."):
                number = int(refused.id.split(".", 2)[1])
                ledger.refused_copy(self.name, refused.address, number, refused.condition)
            else:
                ledger.answered(refused.id, error=refused.condition)
        if self._tally is not None and not self._tally.done():
            self._tally.set_result(None)

    async def _read_in_steps(self, share: float, period: float) -> None:
        while True:
            if self.link.session is not None:
                self.link.session.pause_reading()
            await asyncio.sleep(period * (1 - share))
            self._resume_reading()
            await asyncio.sleep(period * share)

    def _resume_reading(self) -> None:
        if self.link.session is not None:
            self.link.session.resume_reading()
