"""Counts -> the rectangles of charts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

WIDTH, HEIGHT = 720.0, 180.0
SMALL_WIDTH, SMALL_HEIGHT = 240.0, 64.0
_LETTER = 7.0
"""About the width of a digit below the columns."""
_GAP = 0.24
"""Share of a label's place that is left empty."""


@dataclass(frozen=True)
class Bin:
    """Samples with a score from `low` to below `high`."""

    low: float
    high: float
    kept: int
    dropped: int


@dataclass(frozen=True)
class Shares:
    """How pools of samples, one beside the other, are spread over the same labels."""

    title: str
    labels: list[str]
    names: list[str]
    """Of the pools."""
    counts: list[list[int]]
    """Samples of each pool with each label."""
    totals: list[int]
    """Samples of each pool."""
    note: str = ""

    def share(self, pool: int, label: int) -> float:
        """The share of a pool's samples that have a label."""
        return self.counts[pool][label] / max(1, self.totals[pool])

    @property
    def most(self) -> float:
        """The largest share."""
        shares = (self.share(p, n) for p in range(len(self.names)) for n in range(len(self.labels)))
        return max(shares, default=0.0)


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
