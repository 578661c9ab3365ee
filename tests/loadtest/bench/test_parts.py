"""The whole path over its bare parts, from the rows of both."""

import pytest

from loadtest import micro
from loadtest.bench.parts import PATH_GOAL, end_to_end, parts
from loadtest.bench.row import Row
from loadtest.bench.run import Run

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


async def test_each_repeat_is_compared_with_the_parts_as_they_were_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loadtest.bench.parts._COUNT", 64)
    monkeypatch.setattr("loadtest.bench.parts._ROUNDS", 2)
    told: list[str] = []
    found = {row.name: row.samples async for row in parts(Run(repeats=2, say=told.append))}
    assert told == ["parts and whole paths, 1 of 2", "parts and whole paths, 2 of 2"]
    for batch in micro.BATCHES:
        whole = found[f"whole path out, TLS, {batch} at once"]
        ratios = found[f"whole path out, TLS: to its bare parts, {batch} at once"]
        for at, ratio in enumerate(ratios):
            total = sum(found[f"{name}, {batch} at once"][at] for name in OUT)
            assert ratio == pytest.approx(whole[at] / total)
        assert len(whole) == len(ratios) == 2
