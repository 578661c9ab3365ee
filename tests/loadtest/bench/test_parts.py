"""The whole path over its bare parts, from the rows of both."""

import pytest

from loadtest import micro
from loadtest.bench.parts import PATH_GOAL, end_to_end
from loadtest.bench.row import Row

OUT = (micro.BARE, "websockets Frame out, masked", micro.TLS_RECORD)


def part(name: str, batch: int, microseconds: float) -> Row:
    return Row(part="parts", name=f"{name}, {batch} at once", unit="µs CPU", samples=[microseconds])


def saturated(batch: int, *per_second: float) -> Row:
    return Row(
        part="outbound",
        name=f"saturated, {batch} per write",
        unit="per CPU-s",
        samples=list(per_second),
    )


def test_a_path_with_sockets_is_compared_with_its_parts_of_the_same_batch() -> None:
    rows = [part(name, 1, 4.0) for name in OUT] + [part(name, 16, 2.0) for name in OUT]
    rows += [saturated(1, 50_000.0, 100_000.0), saturated(16, 100_000.0)]
    alone, together = end_to_end(rows)
    assert alone.name == "outbound to the same bare parts, 1 per write"
    assert alone.samples == pytest.approx([20 / 12, 10 / 12])
    assert together.samples == pytest.approx([10 / 6])
    assert (alone.goal, alone.is_reached, together.is_reached) == (PATH_GOAL, True, False)


def test_without_one_of_the_parts_there_is_nothing_to_compare() -> None:
    assert end_to_end([*(part(name, 64, 2.0) for name in OUT[1:]), saturated(64, 1e5)]) == []
    assert end_to_end([part(name, 64, 2.0) for name in OUT]) == []
