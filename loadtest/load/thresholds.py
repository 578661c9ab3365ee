"""What makes a run fail: `p99>50ms`, `lost>0`, `chat:p95>=20ms`, `rate<1000`."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_SHAPE = re.compile(
    r"(?:(?P<name>[^:<>=]+):)?(?P<metric>[a-z][a-z0-9_.]*)\s*(?P<op>>=|<=|==|>|<)\s*"
    r"(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|%|MB)?"
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}
_FACTORS = {"": 1.0, "ms": 1.0, "s": 1000.0, "%": 0.01, "MB": 1.0}

Metrics = Mapping[str, float | None]


class InvalidThreshold(ValueError):
    """The text says how to write it."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """Latencies are in milliseconds, rates per second, shares from 0 to 1."""

    text: str
    name: str
    """Of the scenario it is about; "" is all of them."""
    metric: str
    compare: str
    value: float

    def holds(self, metrics: Mapping[str, Metrics]) -> bool:
        """Whether the run fails by it. What has no value, because nothing came, fails too.

        Raises `InvalidThreshold` for a name or metric that the run does not have.
        """
        if self.name not in metrics:
            known = ", ".join(sorted(filter(None, metrics)))
            raise InvalidThreshold(f"{self.text}: the run has no {self.name!r}; it has: {known}")
        if self.metric not in metrics[self.name]:
            known = ", ".join(sorted(metrics[self.name]))
            raise InvalidThreshold(f"{self.text}: no metric {self.metric!r}; there are: {known}")
        found = metrics[self.name][self.metric]
        return found is None or _COMPARE[self.compare](found, self.value)


def parse_threshold(text: str) -> Threshold:
    """Raises `InvalidThreshold`."""
    found = _SHAPE.fullmatch(text.strip())
    if found is None:
        raise InvalidThreshold(f"{text!r} is no threshold; write for example p99>50ms or lost>0")
    value = float(found["value"]) * _FACTORS[found["unit"] or ""]
    return Threshold(text, (found["name"] or "").strip(), found["metric"], found["op"], value)


def broken(thresholds: Sequence[Threshold], metrics: Mapping[str, Metrics]) -> list[str]:
    """The texts of those that hold. Raises `InvalidThreshold`."""
    return [each.text for each in thresholds if each.holds(metrics)]
