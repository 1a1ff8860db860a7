"""Precision and recall of a cut, estimated from labels of a stratified sample, with intervals.

The rows' scores are cut into bands; labels of a band stand for all its rows. At a threshold inside
a band its rows and labels above count alone. Intervals are those of Korn and Graubard (Survey
Methodology 24, 1998): Clopper and Pearson's of a proportion, at the effective number of labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mmsieve.auditing.labels import LabelledRows
from mmsieve.errors import RequestError
from mmsieve.reporting.explorer.edges import Values
from mmsieve.reporting.explorer.explorer import Explorer, band_of_edges

LEVEL = 0.95
"""Of the intervals."""


@dataclass(frozen=True)
class Estimate:
    """A share with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"


@dataclass(frozen=True)
class CutEstimate:
    """What a cut is worth."""

    threshold: float
    kept: int
    """Rows with at least that score."""
    precision: Estimate
    """Share of the kept rows that are good."""
    recall: Estimate
    """Share of the good rows that are kept."""


def check_scipy() -> None:
    """Raise RequestError where scipy, which knows the distributions, is missing."""
    if find_spec("scipy") is None:
        raise RequestError("intervals need scipy: pip install 'mmsieve[evaluate]'")


class Precision:
    """Estimates at every edge of a column."""

    def __init__(self, column: Explorer, labelled: LabelledRows) -> None:
        self._edges: Values = column.columns[0].edges.values
        self._numbers = column.columns[0].edges.numbers()
        self._counts: npt.NDArray[np.int64] = column.histograms[0].counts.sum(axis=0)
        self._bands = band_of_edges(self._edges)
        scores = labelled.scores.astype(self._edges.dtype)
        self._places = np.searchsorted(self._edges, scores, side="right") - 1
        self._good = labelled.good

    def at(self, edge: int) -> CutEstimate:
        """What the cut at an edge is worth."""
        last = len(self._edges)
        kept, dropped = self._share(edge, last), self._share(0, edge)
        rows = int(self._counts[edge:].sum())
        good = [rows * one for one in (kept.value, kept.low, kept.high)]
        lost = int(self._counts[:edge].sum())
        bad = [lost * one for one in (dropped.value, dropped.high, dropped.low)]
        found = (a / (a + b) if a + b else 0.0 for a, b in zip(good, bad, strict=True))
        return CutEstimate(float(self._numbers[edge]), rows, kept, Estimate(*found))

    def all(self) -> Iterator[CutEstimate]:
        """What each cut is worth, from the lowest."""
        return map(self.at, range(len(self._edges)))

    def lowest(self, wanted: float) -> CutEstimate | None:
        """The lowest cut whose precision is at least so high, also by the interval's lower end."""
        return next((one for one in self.all() if one.precision.low >= wanted), None)

    def best(self) -> CutEstimate:
        """The cut with the highest lower end of its precision."""
        return max(self.all(), key=lambda one: one.precision.low)

    def _share(self, low: int, high: int) -> Estimate:
        """The share of good ones among the rows from one edge to below another."""
        rows, labels, good = self._strata(low, high)
        if not labels.sum():
            return Estimate(0.0, 0.0, 1.0)
        weights = rows / rows.sum()
        value = float((weights * good / labels).sum())
        return Estimate(value, *_interval(value, 1 / float((weights**2 / labels).sum())))

    def _strata(
        self, low: int, high: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Rows, labels and good ones of each band between edges; one without labels joins the next.

        Bands are joined towards the middle of the range, which the lowest and highest lie beside.
        """
        parts: list[list[float]] = []
        waiting = 0.0
        ends = [low, *(np.flatnonzero(np.diff(self._bands)) + 1).tolist(), high]
        for first, last in pairwise(sorted({min(max(end, low), high) for end in ends})):
            inside = (self._places >= first) & (self._places < last)
            rows = float(self._counts[first:last].sum()) + waiting
            if not inside.any():
                waiting = rows
                continue
            parts.append([rows, float(inside.sum()), float(self._good[inside].sum())])
            waiting = 0.0
        if parts:
            parts[-1][0] += waiting
        table = np.array(parts).reshape(-1, 3)
        return table[:, 0], table[:, 1], table[:, 2]


def _interval(share: float, labels: float) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share of an effective number of labels."""
    from scipy.stats import beta

    good, tail = share * labels, (1 - LEVEL) / 2
    bad = labels - good
    low = 0.0 if good <= 0 else float(beta.ppf(tail, good, bad + 1))
    high = 1.0 if bad <= 1e-12 else float(beta.ppf(1 - tail, good + 1, bad))
    return low, high
