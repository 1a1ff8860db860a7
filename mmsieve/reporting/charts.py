"""Numbers -> the shapes of charts, drawn as SVG: rectangles, lines, and where the labels stand."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmsieve.reporting.sections import Bin, Shares

WIDTH, HEIGHT = 720.0, 180.0
SMALL_WIDTH, SMALL_HEIGHT = 240.0, 64.0
_FEW_BARS = 16
"""Of a histogram that have their counts above them."""
_LETTER = 7.0
"""About the width of a digit below the columns."""
_GAP = 0.24
"""Share of a label's place that is left empty."""


# Histograms and shares


def bars(bins: list[Bin]) -> list[dict[str, float]]:
    """Rectangles of a histogram: x, width, and per bar y and height of kept and dropped."""
    most = max(one.kept + one.dropped for one in bins)
    step = WIDTH / len(bins)
    made = []
    for index, one in enumerate(bins):
        kept, dropped = (n * HEIGHT / most for n in (one.kept, one.dropped))
        made.append(
            {
                "x": round(index * step + 0.5, 2),
                "width": round(step - 1, 2),
                "kept_y": round(HEIGHT - kept, 2),
                "kept": round(kept, 2),
                "dropped_y": round(HEIGHT - kept - dropped, 2),
                "dropped": round(dropped, 2),
            }
        )
    return made


def columns(shares: Shares) -> Iterator[dict[str, float | int | str]]:
    """Rectangles of shares, the pools side by side: pool, place and size, and what they say."""
    step = SMALL_WIDTH / len(shares.labels)
    width = step * (1 - _GAP) / len(shares.names)
    for pool, name in enumerate(shares.names):
        for number, label in enumerate(shares.labels):
            share = shares.share(pool, number)
            height = share / (shares.most or 1) * SMALL_HEIGHT
            yield {
                "pool": pool,
                "x": round(number * step + step * _GAP / 2 + pool * width, 2),
                "y": round(SMALL_HEIGHT - height, 2),
                "width": round(width, 2),
                "height": round(height, 2),
                "says": f"{label}: {share:.1%} of {name}",
            }


def middles(shares: Shares) -> list[tuple[float, str]]:
    """Places and labels below the columns, as many as there is room for."""
    step = SMALL_WIDTH / len(shares.labels)
    every = math.ceil((max(map(len, shares.labels)) + 1) * _LETTER / step)
    labels = list(enumerate(shares.labels))[::every]
    return [(round((n + 0.5) * step, 2), label) for n, label in labels]


def ticks(bins: list[Bin]) -> list[tuple[float, str]]:
    """Places and labels below a histogram, at most about eight."""
    low, high = bins[0].low, bins[-1].high
    step = next(s for s in (0.25, 0.5, 1, 2, 5, 10, 100, 1e4, 1e9) if (high - low) / s <= 8)
    first = -(-low // step)
    count = int((high - first * step) // step) + 1
    values = [(first + i) * step for i in range(count)]
    return [(place(bins, value), f"{value:g}") for value in values]


def place(bins: list[Bin], score: float) -> float:
    """Where a score lies below a histogram."""
    low, high = bins[0].low, bins[-1].high
    return round((score - low) / (high - low) * WIDTH, 2)


# Lines

LINE_WIDTH, LINE_HEIGHT = 320.0, 130.0
_MOST_POINTS = 300
"""Of a line; where there are more, each point is the mean of several."""
_LOG_FROM = 30.0
"""How many times the lowest the highest value must be for a logarithmic scale."""
_MOST_MARKS = 12
_SLACK = 0.1
"""How far a point may lie outside of axes that end at whole numbers."""
_DOT = 7.0
"""Radius of the largest dot."""


@dataclass(frozen=True)
class LineSeries:
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    sizes: Sequence[float] = ()
    """Of each point its weight, where it is drawn as a dot of that size."""


@dataclass(frozen=True)
class LineChart:
    """Lines over the same axes."""

    title: str
    series: Sequence[LineSeries]
    says: str
    """What is to be seen, in words."""
    note: str = ""
    may_be_log: bool = True
    """Whether values that are far apart get a logarithmic scale."""
    diagonal: bool = False
    """Whether a line marks where both axes have the same value; they then end at whole numbers."""


@dataclass(frozen=True)
class Traced:
    """Where everything of a line chart lies."""

    lines: list[tuple[int, str]]
    """Number of the series, and the points of its line."""
    dots: list[tuple[int, float, float, float]]
    """Number of the series, place and radius."""
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]
    diagonal: tuple[float, float, float, float] | None
    is_log: bool


def traced(chart: LineChart) -> Traced:
    """The shapes of a line chart, whose points are finite numbers."""
    series = [_thinned(one) for one in chart.series]
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    if chart.diagonal:
        xs = ys = [math.floor(min(*xs, *ys) + _SLACK), math.ceil(max(*xs, *ys) - _SLACK)]
    is_log = chart.may_be_log and min(ys) > 0 and max(ys) / min(ys) >= _LOG_FROM
    scale: Callable[[float], float] = math.log10 if is_log else float
    across, up = _axis(min(xs), max(xs), LINE_WIDTH), _axis(scale(min(ys)), scale(max(ys)), 1.0)

    def place(x: float, y: float) -> tuple[float, float]:
        return round(across(x), 1), round(LINE_HEIGHT * (1 - up(scale(y))), 1)

    lines, dots = [], []
    for number, one in enumerate(series):
        placed = [place(*point) for point in one.points]
        if not one.sizes:
            lines.append((number, " ".join(f"{x},{y}" for x, y in placed)))
        most = max(one.sizes, default=1.0) or 1.0
        sizes = one.sizes or ([most] if len(placed) == 1 else [])
        for (x, y), size in zip(placed, sizes, strict=False):
            dots.append((number, x, y, round(max(2.0, _DOT * math.sqrt(size / most)), 1)))
    low, high = min(xs), max(xs)
    marks = list(dict.fromkeys((low, (low + high) / 2, high)))
    levels = _levels(min(ys), max(ys), is_log)
    if chart.diagonal:
        marks = levels = [float(n) for n in range(int(low), int(high) + 1)[:_MOST_MARKS]]
    return Traced(
        lines=lines,
        dots=dots,
        across=[(place(x, ys[0])[0], _short(x)) for x in marks],
        up=[(place(low, y)[1], _short(y)) for y in levels],
        diagonal=(*place(low, low), *place(high, high)) if chart.diagonal else None,
        is_log=is_log,
    )


def _axis(low: float, high: float, length: float) -> Callable[[float], float]:
    """Where a value lies on an axis; in the middle where there is only one."""
    wide = high - low
    return lambda value: (value - low) / wide * length if wide else length / 2


def _levels(low: float, high: float, is_log: bool) -> list[float]:
    middle = math.sqrt(low * high) if is_log else (low + high) / 2
    return list(dict.fromkeys((low, middle, high)))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e9 else f"{value:.3g}"


def _thinned(one: LineSeries) -> LineSeries:
    """The series with at most so many points, each the mean of its neighbours."""
    if len(one.points) <= _MOST_POINTS or one.sizes:
        return one
    step = -(-len(one.points) // _MOST_POINTS)
    parts = [one.points[start : start + step] for start in range(0, len(one.points), step)]
    points = [tuple(sum(axis) / len(part) for axis in zip(*part, strict=True)) for part in parts]
    return LineSeries(one.name, [(x, y) for x, y in points])


SHAPES: tuple[Callable[..., Any], ...] = (bars, ticks, place, columns, middles, traced)
"""What templates make shapes with."""
SIZES: Mapping[str, float] = {
    "width": WIDTH,
    "height": HEIGHT,
    "few_bars": _FEW_BARS,
    "small_width": SMALL_WIDTH,
    "small_height": SMALL_HEIGHT,
    "line_width": LINE_WIDTH,
    "line_height": LINE_HEIGHT,
    "colours": 5,  # of pools side by side, in report.css
}
