"""What became of the stanzas of one name: the lines of the ledger, and of locust's tables."""

from dataclasses import asdict, dataclass, field
from typing import Any

from loadtest.load.histogram import Histogram

COUNTS = ("sent", "delivered", "returned", "lost", "waiting", "doubled", "replayed", "reordered")


@dataclass(slots=True)
class Account:
    """sent = delivered + bounced + returned + lost + waiting. `to_json` is exact and mergeable."""

    sent: int = 0
    delivered: int = 0
    """Came back, or arrived at the other end, at least once."""
    returned: int = 0
    """Not acknowledged when its session ended for good: the sender knows that it may be lost."""
    lost: int = 0
    """Acknowledged, and never heard of again."""
    waiting: int = 0
    doubled: int = 0
    """Came twice without a mark. Not part of the sum."""
    replayed: int = 0
    """Came late or twice and is marked so (XEP-0203), or a second result. Not part of the sum."""
    reordered: int = 0
    """Came after one that was sent later. Not part of the sum."""
    bounced: dict[str, int] = field(default_factory=dict)
    """By stanza error condition."""
    latency: Histogram = field(default_factory=Histogram)
    is_apart: bool = False
    """Slow on purpose: its latencies are not among those of the whole run."""

    def bounce(self, condition: str, count: int = 1) -> None:
        self.bounced[condition] = self.bounced.get(condition, 0) + count

    @property
    def bounces(self) -> int:
        return sum(self.bounced.values())

    def merge(self, other: "Account") -> None:
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for condition, count in other.bounced.items():
            self.bounce(condition, count)
        self.latency.merge(other.latency)
        self.is_apart = self.is_apart or other.is_apart

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self, dict_factory=_without_latency), "latency": self.latency.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Account":
        return cls(**{**values, "latency": Histogram.from_json(values["latency"])})


def _without_latency(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if name != "latency"}
