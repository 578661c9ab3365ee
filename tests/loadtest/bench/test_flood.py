"""A run whose accounts differ is no measurement."""

from typing import Any

import pytest

from loadtest.bench.flood import Flood, LedgerWrong, compare

BEFORE: dict[str, Any] = {
    "accepted": 10,
    "acknowledged": 10,
    "bounced": 0,
    "returned": 0,
    "replayed": 0,
    "dropped": {},
}


def test_all_accepted_and_acknowledged_is_right() -> None:
    compare(BEFORE, BEFORE | {"accepted": 15, "acknowledged": 15}, 5)


@pytest.mark.parametrize(
    "after",
    [
        {"accepted": 15, "acknowledged": 14},
        {"accepted": 14, "acknowledged": 14},
        {"accepted": 15, "acknowledged": 15, "replayed": 1},
        {"accepted": 16, "acknowledged": 15, "bounced": 1},
        {"accepted": 15, "acknowledged": 15, "dropped": {"worker-lost": 1}},
    ],
)
def test_anything_else_is_not(after: dict[str, Any]) -> None:
    with pytest.raises(LedgerWrong):
        compare(BEFORE, BEFORE | after, 5)


def test_cpu_is_told_per_stanza() -> None:
    flood = Flood(1000, 0.5, {"worker": 0.01, "sink": 0.0}, 4.0)
    assert flood.microseconds == pytest.approx(10)
    assert flood.per_second == 2000
    assert flood.busy("worker") == pytest.approx(0.02)
