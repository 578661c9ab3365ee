"""End-to-end ids, and what became of every stanza that carries one.

    <run>.<flow>.<number>          a stanza of ours, to be answered with the same id
    s.<number>.<id>                a copy the sink made of the stanza `id`, the number counted for
                                   each recipient: gaps, doubles and wrong order show

A *flow* is what one domain sends to one address, a *feed* what one address sends to one domain of
its own accord. Only what is on its way is remembered, so the ledger stays small however long a run.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from loadtest.load.account import Account
from loadtest.load.record import Record, Second

# Posts whose time of sending is remembered for the copies that others get.
_POSTS = 20_000

Note = Callable[[str, float | None, str], None]
"""Told of every outcome: name, seconds, and the error or ""."""


class Flow:
    """Stanzas from one domain to one address, answered in their order."""

    __slots__ = ("_highest", "_prefix", "name", "next", "returned", "waiting")

    def __init__(self, prefix: str) -> None:
        self.next = 0
        self.name = ""
        """Of the stanza that was sent last."""
        self.waiting: dict[int, tuple[str, float]] = {}
        """By number: its name and when it was sent."""
        self.returned: dict[int, str] = {}
        self._highest = -1
        self._prefix = prefix

    def new_id(self, name: str, now: float) -> str:
        number = self.next
        self.next = number + 1
        self.waiting[number] = (name, now)
        self.name = name
        return f"{self._prefix}{number}"

    def is_late(self, number: int) -> bool:
        """Whether a later one was answered before; notes that this one is now."""
        if number < self._highest:
            return True
        self._highest = number
        return False


class Feed:
    """Copies for one domain from one address, numbered by it from 0."""

    __slots__ = ("expected", "missing")

    def __init__(self) -> None:
        self.expected = 0
        self.missing: set[int] = set()

    def receive(self, number: int, account: Account, *, is_marked: bool) -> bool:
        """Note one copy; False if it had come before."""
        if number >= self.expected:
            self.announce(number + 1, account)
            self.missing.discard(number)
            in_order = True
        elif number in self.missing:
            self.missing.discard(number)
            in_order = False
        else:
            if is_marked:
                account.replayed += 1
            else:
                account.doubled += 1
            return False
        account.waiting -= 1
        account.delivered += 1
        if is_marked:
            account.replayed += 1
        elif not in_order:
            account.reordered += 1
        return True

    def announce(self, count: int, account: Account) -> None:
        """So many were sent in all."""
        if count > self.expected:
            self.missing.update(range(self.expected, count))
            account.sent += count - self.expected
            account.waiting += count - self.expected
            self.expected = count


class Ledger:
    """All flows and feeds of a load process. For one thread."""

    def __init__(self, run: str, note: Note) -> None:
        self.run = run
        self.record = Record()
        self.sessions = 0
        self._note = note
        self._flows: list[Flow] = []
        self._feeds: dict[str, dict[str, tuple[Feed, str]]] = {}
        """By domain and address; with the name they are counted under."""
        self._posts: OrderedDict[str, float] = OrderedDict()

    def new_flow(self) -> Flow:
        flow = Flow(f"{self.run}.{len(self._flows)}.")
        self._flows.append(flow)
        return flow

    def subscribe(self, domain: str, address: str, name: str) -> None:
        """Expect copies for the domain from the address, counted under `name`."""
        self._feeds.setdefault(domain, {}).setdefault(address, (Feed(), name))

    def feeds(self, domain: str) -> list[str]:
        """The addresses whose copies the domain expects."""
        return list(self._feeds.get(domain, ()))

    def send(self, flow: Flow, name: str, *, is_post: bool = False) -> str:
        """The id of the next stanza of a flow."""
        now = time.perf_counter()
        account = self.record.account(name)
        account.sent += 1
        account.waiting += 1
        self._second().sent += 1
        id = flow.new_id(name, now)
        if is_post:
            self._posts[id] = now
            if len(self._posts) > _POSTS:
                self._posts.popitem(last=False)
        return id

    def answered(
        self, id: str, *, is_marked: bool = False, is_result: bool = False, error: str = ""
    ) -> None:
        """A stanza came back: its answer, its echo, or the error `error`.

        The result of an iq cannot be marked (XEP-0203), and whoever asked ignores a second one.
        """
        found = self._find(id)
        if found is None:
            self._stray()
            return
        flow, number = found
        entry = flow.waiting.pop(number, None)
        if entry is None:
            self._again(flow, number, is_marked=is_marked or is_result, error=error)
            return
        name, sent_at = entry
        account = self.record.account(name)
        account.waiting -= 1
        if error:
            account.bounce(error)
            self._second().failed += 1
            self._note(name, None, error)
            return
        self._delivered(account, name, sent_at)
        if is_marked:
            account.replayed += 1
        elif flow.is_late(number):
            account.reordered += 1

    def copied(
        self, domain: str, address: str, number: int, post: str, *, is_marked: bool = False
    ) -> None:
        """A copy of `post` for `domain` came from `address`."""
        entry = self._feed(domain, address)
        if entry is None:
            self._stray()
            return
        feed, name = entry
        account = self.record.account(name)
        if not feed.receive(number, account, is_marked=is_marked):
            return
        second = self._second()
        second.delivered += 1
        sent_at = self._posts.get(post)
        if sent_at is not None:
            seconds = time.perf_counter() - sent_at
            account.latency.add(seconds)
            second.latency.add(seconds)
            self._note(name, seconds, "")

    def tally(self, domain: str, address: str, count: int) -> None:
        """The sink says how many copies it has sent from the address to the domain in all."""
        entry = self._feed(domain, address)
        if entry is not None:
            entry[0].announce(count, self.record.account(entry[1]))

    def refused_copy(self, domain: str, address: str, number: int, condition: str) -> None:
        """The sink was told that it could not be delivered."""
        entry = self._feed(domain, address)
        if entry is not None and number in entry[0].missing:
            account = self.record.account(entry[1])
            entry[0].missing.discard(number)
            account.waiting -= 1
            account.bounce(condition)

    def returned(self, id: str) -> None:
        """Its session ended before anybody acknowledged it, and nobody goes on with it."""
        found = self._find(id)
        entry = found[0].waiting.pop(found[1], None) if found is not None else None
        if found is None or entry is None:
            return
        found[0].returned[found[1]] = entry[0]
        account = self.record.account(entry[0])
        account.waiting -= 1
        account.returned += 1

    def is_settled(self, domain: str, flows: list[Flow]) -> bool:
        """Nothing of the domain's is on its way, as far as it can be known."""
        return not any(flow.waiting for flow in flows) and not any(
            feed.missing for feed, _ in self._feeds.get(domain, {}).values()
        )

    def write_off(self) -> None:
        """The run is over: what is still on its way is lost."""
        for flow in self._flows:
            for name, _ in flow.waiting.values():
                self._lose(name, 1)
            flow.waiting.clear()
        for feeds in self._feeds.values():
            for feed, name in feeds.values():
                self._lose(name, len(feed.missing))
                feed.missing.clear()

    def _lose(self, name: str, count: int) -> None:
        account = self.record.account(name)
        account.waiting -= count
        account.lost += count
        for _ in range(count):
            self._note(name, None, "lost")

    def _delivered(self, account: Account, name: str, sent_at: float) -> None:
        seconds = time.perf_counter() - sent_at
        account.delivered += 1
        account.latency.add(seconds)
        second = self._second()
        second.delivered += 1
        if not account.is_apart:
            second.latency.add(seconds)
        self._note(name, seconds, "")

    def _again(self, flow: Flow, number: int, *, is_marked: bool, error: str) -> None:
        """A stanza that nobody waits for: returned before, a double, or never ours."""
        name = flow.returned.pop(number, None)
        if name is not None:
            account = self.record.account(name)
            account.returned -= 1
            if error:
                account.bounce(error)
            else:
                account.delivered += 1
        elif number >= flow.next:
            self._stray()
        elif not error:
            account = self.record.account(flow.name)
            if is_marked:
                account.replayed += 1
            else:
                account.doubled += 1

    def _stray(self) -> None:
        """Something that none of ours can have caused."""
        account = self.record.account("stray")
        account.sent += 1
        account.delivered += 1

    def _feed(self, domain: str, address: str) -> tuple[Feed, str] | None:
        return self._feeds.get(domain, {}).get(address)

    def _find(self, id: str) -> tuple[Flow, int] | None:
        run, _, rest = id.partition(".")
        flow, _, number = rest.partition(".")
        if run != self.run or not flow.isdigit() or not number.isdigit():
            return None
        index = int(flow)
        return (self._flows[index], int(number)) if index < len(self._flows) else None

    def _second(self) -> Second:
        second = self.record.second(time.time())
        second.sessions = self.sessions
        return second
