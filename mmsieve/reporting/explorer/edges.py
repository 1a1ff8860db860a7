"""Edges of a column: the values at which a page can cut, with exact counts at each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Values: TypeAlias = npt.NDArray[np.generic]

MOST = 2048
"""A column with so many different values, or fewer, has an edge at each."""
_QUANTILES = 1200
_FEWEST = 1000
_BARS = 64
"""About so many bars has a histogram."""
_TAIL = 0.0005
"""Share of the values at either end that may lie beyond the bars, where they lie far off."""
_DIGITS = 9
"""Decimals that an edge is rounded to at most."""


@dataclass(frozen=True)
class Edges:
    """Where a column can be cut, ascending; the first is its lowest value."""

    values: Values
    """Of the column's own type, so that `filter` compares what is compared here."""
    bars: tuple[int, ...]
    """Numbers of the edges at which a bar of the histogram begins."""

    def numbers(self) -> list[float | int]:
        """The edges as a command line writes them: the shortest digits that mean the same value."""
        if self.values.dtype.kind in "iu":
            return [int(value) for value in self.values]
        return [float(str(value)) for value in self.values]


def choose_edges(
    sampled: Values, lowest: Values, highest: Values, cuts: Sequence[float] = ()
) -> Edges:
    """The edges of a column from values sampled of it, its ends and cuts, without not-a-number.

    At least 1,000 where it has as many different values: at quantiles, at round numbers, and at
    the ends. Raises ValueError without any value.
    """
    if not len(sampled):
        raise ValueError("no values")
    ends = np.array([lowest, highest], sampled.dtype)
    inner = [cut for cut in cuts if float(ends[0]) < cut < float(ends[1])]
    given = np.concatenate([ends, np.array(inner).astype(sampled.dtype)])
    unique = np.unique(np.concatenate([sampled, given]))
    if len(unique) <= MOST:
        return Edges(unique, _bars_at(unique))
    ordered = np.sort(sampled)
    places = np.linspace(0, len(ordered) - 1, _QUANTILES).astype(np.int64)
    low, high = _range(ordered, float(ends[0]), float(ends[1]))
    grid = _grid(low, high)
    edges = np.concatenate([_rounded(ordered[places]), grid.astype(sampled.dtype), given])
    edges = np.unique(edges[(edges >= ends[0]) & (edges <= ends[1])])
    inside = grid.astype(sampled.dtype)
    bars = np.searchsorted(edges, inside[(inside > ends[0]) & (inside <= ends[1])])
    return Edges(edges, tuple(dict.fromkeys([0, *bars.tolist()])))


def _bars_at(unique: Values) -> tuple[int, ...]:
    """A bar for each value of a few; of more, bars of about one width."""
    if len(unique) <= _BARS:
        return tuple(range(len(unique)))
    grid = _grid(float(unique[0]), float(unique[-1])).astype(unique.dtype)
    bars = np.searchsorted(unique, grid[(grid > unique[0]) & (grid <= unique[-1])])
    return tuple(dict.fromkeys([0, *bars.tolist()]))


def _range(ordered: Values, low: float, high: float) -> tuple[float, float]:
    """The ends of the bars: those of the values, but for a few that lie far off."""
    count = len(ordered) - 1
    inner = [float(ordered[round(count * share)]) for share in (_TAIL, 1 - _TAIL)]
    width = inner[1] - inner[0]
    if width > 0 and high - low > 2 * width:
        return max(low, inner[0] - width / 8), min(high, inner[1] + width / 8)
    return low, high


def _grid(low: float, high: float) -> npt.NDArray[np.float64]:
    """Round numbers from below one end to the other, about as many as there are bars."""
    raw = (high - low) / _BARS or 1.0
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first, last = np.floor(low / step), np.ceil(high / step)
    numbers = np.arange(first, last + 1) * step
    decimals = int(np.clip(2 - np.floor(np.log10(step)), 0, 300))
    rounded: npt.NDArray[np.float64] = np.round(numbers, decimals)
    return rounded


def _rounded(quantiles: Values) -> Values:
    """Quantiles with as few decimals as leave at least 1,000 of them apart."""
    if quantiles.dtype.kind in "iu":
        return np.unique(quantiles)
    for decimals in range(1, _DIGITS):
        rounded = np.unique(np.round(quantiles.astype(np.float64), decimals))
        if len(rounded) >= _FEWEST:
            return rounded.astype(quantiles.dtype)
    return np.unique(quantiles)
