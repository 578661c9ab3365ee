"""A row tells its ratio, and whether its goal is reached."""

from loadtest.bench.row import Row, median_of


def test_the_median_is_compared_with_the_goal() -> None:
    row = Row(part="p", name="n", unit="u", samples=[90.0, 130.0, 110.0], goal=100.0)
    assert (row.median, row.ratio, row.is_reached) == (110.0, 1.1, True)


def test_a_ceiling_is_reached_from_below() -> None:
    row = Row(part="p", name="n", unit="ms", samples=[2.0], goal=3.0, is_ceiling=True)
    assert row.is_reached


def test_what_was_not_measured_reaches_nothing() -> None:
    row = Row(part="p", name="n", unit="u", goal=1.0, note="not measured")
    assert row.as_json()["reached"] is None
    assert row.as_json()["median"] is None


def test_without_a_goal_the_ratio_is_to_the_base() -> None:
    row = Row(part="p", name="n", unit="u", samples=[5.0], base=2.0, base_name="direct")
    assert (row.ratio, row.is_reached) == (2.5, None)


def test_medians_are_taken_by_key() -> None:
    assert median_of([{"a": 1.0}, {"a": 5.0}, {"a": 2.0}]) == {"a": 2.0}
