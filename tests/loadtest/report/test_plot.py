"""Charts as SVG."""

import math
from xml.etree import ElementTree

import pytest

from loadtest.report.plot import HEIGHT, WIDTH, Series, line_chart, number


def paths(figure: str) -> list[str]:
    """Where the lines of a chart go."""
    tree = ElementTree.fromstring(figure)
    return [each.get("d", "") for each in tree.iter("path") if each.get("class") == "line"]


def test_a_line_goes_from_left_to_right_and_stays_inside() -> None:
    (path,) = paths(line_chart("t", "ms", [Series("a", [(n, n * n) for n in range(60)])]))
    points = [tuple(map(float, each.split())) for each in path[1:].split("L")]
    assert len(points) == 60
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert points[-1][1] < points[0][1]


@pytest.mark.parametrize(
    ("span", "labels"), [(8, ["0 s", "1 s", "8 s"]), (602, ["2 min", "10 min"])]
)
def test_moments_are_round_in_their_unit(span: int, labels: list[str]) -> None:
    shown = line_chart("t", "ms", [Series("a", [(n, 1) for n in range(span + 1)])])
    assert all(f">{label}</text>" in shown for label in labels)
    assert ".666" not in shown


def test_a_gap_is_a_gap() -> None:
    (path,) = paths(line_chart("t", "ms", [Series("a", [(0, 1), (1, None), (2, 1)])]))
    assert path.count("M") == 2
    assert "L" not in path


def test_long_runs_are_thinned() -> None:
    (path,) = paths(line_chart("t", "ms", [Series("a", [(n, 1.0) for n in range(36000)])]))
    assert path.count("L") < 800


def test_a_logarithmic_axis_takes_zero_and_large_values() -> None:
    figure = line_chart("t", "ms", [Series("a", [(0, 0.0), (1, 5000.0)])], log=True)
    (path,) = paths(figure)
    assert not any(math.isnan(float(each)) for each in path[1:].replace("L", " ").split())
    assert ">10,000<" in figure or ">10k<" in figure


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, 7.0, 12345.0])
def test_a_constant_has_an_axis(value: float) -> None:
    (path,) = paths(line_chart("t", "", [Series("a", [(0, value), (1, value)])]))
    assert path.startswith("M")


def test_nothing_is_said_to_be_nothing() -> None:
    assert "no data" in line_chart("t", "ms", [Series("a", [(0, None)])])


def test_names_are_escaped() -> None:
    figure = line_chart("<b>", "&", [Series("<i>", [(0, 1)])])
    assert "<b>" not in figure
    assert "&lt;i&gt;" in figure


def test_numbers_are_short() -> None:
    assert [number(each) for each in (0, 0.25, 1500, 12345, 20000, 0.1 + 0.2)] == [
        "0",
        "0.25",
        "1,500",
        "12,345",
        "20k",
        "0.3",
    ]
