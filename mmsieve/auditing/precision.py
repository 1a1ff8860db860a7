"""Precision and recall of a cut, estimated from labels of a stratified sample, with intervals.

The rows' scores are cut into bands; labels of a band stand for all its rows. At a threshold inside
a band its rows and labels above count alone. Intervals are those of Korn and Graubard (Survey
Methodology 24, 1998): Clopper and Pearson's of a proportion, at the effective number of labels.
"""

from collections.abc import Sequence
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
_NONE = 1e-12
"""So few labels are none, but for rounding."""


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
        return self._at([edge])[0]

    def all(self) -> list[CutEstimate]:
        """What each cut is worth, from the lowest."""
        return self._at(range(len(self._edges)))

    def _at(self, edges: Sequence[int]) -> list[CutEstimate]:
        last = len(self._edges)
        kept = _estimates([self._share(edge, last) for edge in edges])
        dropped = _estimates([self._share(0, edge) for edge in edges])
        return [self._cut(*each) for each in zip(edges, kept, dropped, strict=True)]

    def _cut(self, edge: int, kept: Estimate, dropped: Estimate) -> CutEstimate:
        rows = int(self._counts[edge:].sum())
        good = [rows * one for one in (kept.value, kept.low, kept.high)]
        lost = int(self._counts[:edge].sum())
        bad = [lost * one for one in (dropped.value, dropped.high, dropped.low)]
        found = (a / (a + b) if a + b else 0.0 for a, b in zip(good, bad, strict=True))
        return CutEstimate(float(self._numbers[edge]), rows, kept, Estimate(*found))

    def lowest(self, wanted: float) -> CutEstimate | None:
        """The lowest cut whose precision is at least so high, also by the interval's lower end."""
        return next((one for one in self.all() if one.precision.low >= wanted), None)

    def best(self) -> CutEstimate:
        """The cut with the highest lower end of its precision."""
        return max(self.all(), key=lambda one: one.precision.low)

    def _share(self, low: int, high: int) -> tuple[float, float]:
        """The share of good rows from one edge to below another, and the labels that it is worth.

        Without a label, none.
        """
        rows, labels, good = self._strata(low, high)
        if not labels.sum():
            return 0.0, 0.0
        weights = rows / rows.sum()
        value = float((weights * good / labels).sum())
        return value, 1 / float((weights**2 / labels).sum())

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


def _estimates(shares: Sequence[tuple[float, float]]) -> list[Estimate]:
    """Shares, each of an effective number of labels, with Clopper and Pearson's intervals."""
    from scipy.stats import beta

    values, labels = np.array(shares).reshape(-1, 2).T
    good, tail = values * labels, (1 - LEVEL) / 2
    bad = labels - good
    with np.errstate(invalid="ignore"):
        low = np.where(good <= 0, 0.0, beta.ppf(tail, good, bad + 1))
        high = np.where(bad <= _NONE, 1.0, beta.ppf(1 - tail, good + 1, bad))
    numbers = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Estimate(*each) for each in numbers]
