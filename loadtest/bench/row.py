"""One row of the table: repeats of one figure, its goal or what it is compared with."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True, kw_only=True)
class Row:
    """`samples` has one value per repeat, in `unit`; empty: not measured, and `note` says why."""

    part: str
    name: str
    unit: str
    samples: list[float] = field(default_factory=list)
    goal: float | None = None
    is_ceiling: bool = False
    """The goal is the most there may be, not the least."""
    base: float | None = None
    """What the ratio is to where there is no goal."""
    base_name: str = ""
    x: float | None = None
    """Where it stands in a plot: how many sessions, or bytes."""
    series: str = ""
    """To which line of the plot it belongs."""
    cpu: dict[str, float] = field(default_factory=dict)
    """CPU per stanza in µs by process, median of the repeats."""
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None

    @property
    def ratio(self) -> float | None:
        """Median to goal, or to the base."""
        of = self.base if self.goal is None else self.goal
        return self.median / of if self.median is not None and of else None

    @property
    def is_reached(self) -> bool | None:
        """None: there is no goal, or nothing was measured."""
        if self.goal is None or self.median is None:
            return None
        return self.median <= self.goal if self.is_ceiling else self.median >= self.goal

    def as_json(self) -> dict[str, Any]:
        """Everything, with what is derived."""
        least, most = (min(self.samples), max(self.samples)) if self.samples else (None, None)
        return asdict(self) | {
            "least": least,
            "median": self.median,
            "most": most,
            "ratio": self.ratio,
            "reached": self.is_reached,
        }


def median_of(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each key."""
    return {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
