"""Line charts as SVG text, for pages that must not load anything."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float | None]]

WIDTH, HEIGHT = 720, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 14, 26
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4b5563")
# More points than this are thinned: nobody sees them on so few pixels.
_MOST_POINTS = 720


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    points: Points


def line_chart(title: str, unit: str, series: Sequence[Series], *, log: bool = False) -> str:
    """A figure with its legend. With `log` the vertical axis is logarithmic, from 0.1 up."""
    values = [value for each in series for _, value in each.points if value is not None]
    times = [at for each in series for at, _ in each.points]
    if not values:
        return f"<figure><figcaption>{escape(title)}</figcaption><p>no data</p></figure>"
    axis = _log_axis(max(values)) if log else _axis(max(values))
    span = max(times) or 1.0
    parts = [
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{escape(title)}'>",
        *_grid(axis, span),
    ]
    legend = []
    for number, each in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        parts += _lines(each.points, span, axis, colour)
        legend.append(f"<span><i style='background:{colour}'></i>{escape(each.name)}</span>")
    parts.append("</svg>")
    caption = f"{escape(title)} <small>{escape(unit)}</small>"
    return (
        f"<figure><figcaption>{caption}</figcaption>{''.join(parts)}"
        f"<div class='legend'>{''.join(legend)}</div></figure>"
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    ticks: Sequence[float]
    top: float
    log: bool

    def place(self, value: float) -> float:
        """The vertical position."""
        inner = HEIGHT - _TOP - _BOTTOM
        if self.log:
            least = self.ticks[0]
            share = math.log(max(value, least) / least) / math.log(self.top / least)
        else:
            share = value / self.top
        return HEIGHT - _BOTTOM - inner * min(share, 1.0)


def _axis(most: float) -> _Axis:
    step = _nice(most / 4 or 0.25)
    count = max(1, math.ceil(most / step - 1e-9))
    return _Axis([step * number for number in range(count + 1)], step * count, log=False)


def _log_axis(most: float) -> _Axis:
    decades = max(1, math.ceil(math.log10(max(most, 1.0) / 0.1) - 1e-9))
    return _Axis([0.1 * 10**n for n in range(decades + 1)], 0.1 * 10**decades, log=True)


def _nice(step: float) -> float:
    """The next larger of 1, 2, 2.5, 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= step - 1e-12)


def _grid(axis: _Axis, span: float) -> list[str]:
    parts = []
    for tick in axis.ticks:
        y = axis.place(tick)
        parts.append(f"<path class='grid' d='M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}'/>")
        parts.append(
            f"<text x='{_LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{number(tick)}</text>"
        )
    unit, name = (60, "min") if span > 600 else (1, "s")
    step = unit * _nice(span / unit / 8)
    at = 0.0
    while at <= span:
        label = f"{at / unit:g} {name}"
        x = _x(at, span)
        parts.append(f"<text x='{x:.1f}' y='{HEIGHT - 8}' text-anchor='middle'>{label}</text>")
        at += step
    return parts


def _lines(points: Points, span: float, axis: _Axis, colour: str) -> list[str]:
    """One path for each run of seconds that have a value."""
    step = max(1, math.ceil(len(points) / _MOST_POINTS))
    path, is_open = [], False
    for at, value in points[::step]:
        if value is None:
            is_open = False
            continue
        path.append(f"{'L' if is_open else 'M'}{_x(at, span):.1f} {axis.place(value):.1f}")
        is_open = True
    return [f"<path class='line' style='stroke:{colour}' d='{''.join(path)}'/>"]


def _x(at: float, span: float) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * at / span


def number(value: float) -> str:
    """Short: 1,500 and 0.25, not 1500.0000002."""
    if value >= 10_000:
        return f"{value / 1000:,.10g}k" if value % 100 == 0 else f"{value:,.0f}"
    return f"{value:,.10g}" if value == round(value, 6) else f"{value:.3g}"
