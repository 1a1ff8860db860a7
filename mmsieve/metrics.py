"""How well scores agree with known levels: the numbers of the paper, and its rounding.

As compute_metrics of train_classifier.py (Victorwz/UniFilter): a score is clamped to 0-3 and
rounded to a level. Macro averages are over all four levels; a level that neither occurs nor is
predicted counts 0. A score on another scale becomes a level by thresholds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mmsieve.levels import LEVELS, POSITIVE, to_levels

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Interval: TypeAlias = tuple[float, float]

_BINS = 12
"""Of the calibration: a quarter of a level wide."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Whether a score of 2.4 means texts whose levels are 2.4 on average."""

    mean_level: list[float | None]
    """Per predicted level, the mean true level of its texts; None where there is none."""
    share: list[float]
    """Per predicted level, its share of the texts."""
    expected_error: float | None
    """Mean of |mean score - mean level| over bins of the score, weighted by their texts (expected
    calibration error, arXiv 1706.04599, for levels); None where the score isn't a level."""
    bins: list[dict[str, float]]
    """The bins that hold texts: low, high (of the score clamped to 0-3), count, mean_score,
    mean_level."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Agreement of scores with levels; all but mse and count are between 0 and 1 (spearman -1)."""

    count: int
    accuracy: float
    precision: float
    recall: float
    f1: float
    f1_per_level: list[float]
    recall_per_level: list[float]
    mse: float | None
    """Of the score itself, unclamped; None where the score isn't a level."""
    spearman: float | None
    """Rank correlation of score and level; None where either is constant."""
    confusion: list[list[int]]
    """[true level][predicted level]."""
    calibration: Calibration
    intervals: dict[str, Interval | None] = field(default_factory=dict)
    """95% intervals of accuracy, f1, mse and spearman, where they were asked for."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as metrics.json has them."""
        return asdict(self)


def predict(scores: Floats, thresholds: Sequence[float] | None = None) -> Ints:
    """Levels of scores: rounded, or the number of the three thresholds that they reach."""
    if thresholds is None:
        return to_levels(scores)
    levels: Ints = np.searchsorted(np.asarray(thresholds), scores, side="right")
    return levels


def measure(scores: Floats, levels: Ints, thresholds: Sequence[float] | None = None) -> Metrics:
    """Metrics of scores [n] against levels 0-3 [n]; n is at least 1.

    With thresholds the scores have a scale of their own: what takes them for levels is None.
    """
    predicted = predict(scores, thresholds)
    confusion = np.zeros((len(LEVELS), len(LEVELS)), np.int64)
    np.add.at(confusion, (levels, predicted), 1)
    precision, recall, f1 = rates(confusion)
    is_level = thresholds is None
    return Metrics(
        count=len(levels),
        accuracy=float(confusion.trace() / len(levels)),
        precision=float(precision.mean()),
        recall=float(recall.mean()),
        f1=float(f1.mean()),
        f1_per_level=f1.tolist(),
        recall_per_level=recall.tolist(),
        mse=float(np.mean((scores - levels) ** 2)) if is_level else None,
        spearman=spearman(scores, levels.astype(np.float64)),
        confusion=confusion.tolist(),
        calibration=_calibration(scores, levels, confusion, is_level),
    )


def rates(confusion: npt.NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 per level [..., 4] of confusions [..., true, predicted]."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    precision = _ratio(hits, confusion.sum(-2))
    recall = _ratio(hits, confusion.sum(-1))
    return precision, recall, _ratio(2 * precision * recall, precision + recall)


def spearman(one: Floats, other: Floats) -> float | None:
    """Rank correlation; None where either is constant."""
    return pearson(_ranks(one), _ranks(other))


def pearson(one: Floats, other: Floats) -> float | None:
    """Linear correlation; None where either is constant, or not finite."""
    if any(len(x) == 0 or not np.isfinite(x).all() or x.min() == x.max() for x in (one, other)):
        return None
    found = float(np.corrcoef(one, other)[0, 1])
    return found if np.isfinite(found) else None


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Floats:
    """part / whole, and 0 where there is nothing to divide by."""
    out: Floats = np.zeros(part.shape)
    np.divide(part, whole, out=out, where=whole > 0)
    return out


def _ranks(values: Floats) -> Floats:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: Floats = (last - counts + last - 1) / 2
    ranks: Floats = means[inverse]
    return ranks


def _calibration(scores: Floats, levels: Ints, confusion: Ints, is_level: bool) -> Calibration:
    told = confusion.sum(0)
    means = _ratio(np.array(LEVELS) @ confusion, told)
    bins = _bins(scores, levels) if is_level else []
    error = sum(each["count"] * abs(each["mean_score"] - each["mean_level"]) for each in bins)
    return Calibration(
        mean_level=[float(m) if n else None for m, n in zip(means, told, strict=True)],
        share=(told / len(levels)).tolist(),
        expected_error=error / len(levels) if is_level else None,
        bins=bins,
    )


def _bins(scores: Floats, levels: Ints) -> list[dict[str, float]]:
    width = POSITIVE / _BINS
    place = np.minimum(np.clip(scores, 0, POSITIVE) // width, _BINS - 1).astype(np.int64)
    counts, score, level = (
        np.bincount(place, weights, _BINS) for weights in (None, scores, levels)
    )
    return [
        {
            "low": index * width,
            "high": (index + 1) * width,
            "count": int(counts[index]),
            "mean_score": float(score[index] / counts[index]),
            "mean_level": float(level[index] / counts[index]),
        }
        for index in np.flatnonzero(counts).tolist()
    ]
