"""Everything a load process noted: accounts by name, seconds of the run, ends of sessions.

A worker of locust sends its record to the master as JSON, which merges those of all workers.
"""

from dataclasses import dataclass, field
from typing import Any

from loadtest.load.account import Account
from loadtest.load.histogram import Histogram

_COUNTERS = ("ends", "refusals", "attacks", "unrefused")


@dataclass(slots=True)
class Second:
    """One second of the run."""

    sent: int = 0
    delivered: int = 0
    failed: int = 0
    sessions: int = 0
    connects: int = 0
    latency: Histogram = field(default_factory=Histogram)

    def merge(self, other: "Second") -> None:
        self.sent += other.sent
        self.delivered += other.delivered
        self.failed += other.failed
        self.sessions += other.sessions
        self.connects += other.connects
        self.latency.merge(other.latency)

    def to_json(self) -> list[Any]:
        return [
            *(self.sent, self.delivered, self.failed, self.sessions, self.connects),
            self.latency.to_json(),
        ]

    @classmethod
    def from_json(cls, values: list[Any]) -> "Second":
        second = cls(*values[:5])
        second.latency = Histogram.from_json(values[5])
        return second


@dataclass(slots=True)
class Record:
    """Mergeable: counts add up, seconds are those of Unix time."""

    accounts: dict[str, Account] = field(default_factory=dict)
    seconds: dict[int, Second] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    """Sessions that ended otherwise than we wanted, by reason."""
    refusals: dict[str, int] = field(default_factory=dict)
    """Sessions that could not be opened, by reason."""
    attacks: dict[str, int] = field(default_factory=dict)
    """Tried, by their names."""
    unrefused: dict[str, int] = field(default_factory=dict)
    """Of these, the endpoint went along with so many."""

    def account(self, name: str) -> Account:
        found = self.accounts.get(name)
        if found is None:
            found = self.accounts[name] = Account()
        return found

    def second(self, at: float) -> Second:
        """The second that a moment of Unix time falls into."""
        found = self.seconds.get(int(at))
        if found is None:
            found = self.seconds[int(at)] = Second()
        return found

    def merge(self, other: "Record") -> None:
        for name, account in other.accounts.items():
            self.account(name).merge(account)
        for at, second in other.seconds.items():
            self.second(at).merge(second)
        for name in _COUNTERS:
            ours = getattr(self, name)
            for reason, count in getattr(other, name).items():
                ours[reason] = ours.get(reason, 0) + count

    def to_json(self, since: int = 0) -> dict[str, Any]:
        """Of the seconds only those from `since` on."""
        seconds = sorted(at for at in self.seconds if at >= since)
        return {
            "accounts": {name: each.to_json() for name, each in self.accounts.items()},
            "seconds": {str(at): self.seconds[at].to_json() for at in seconds},
            **{name: getattr(self, name) for name in _COUNTERS},
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Record":
        return cls(
            {name: Account.from_json(each) for name, each in values["accounts"].items()},
            {int(at): Second.from_json(each) for at, each in values["seconds"].items()},
            **{name: dict(values[name]) for name in _COUNTERS},
        )
