"""How well scores agree with known levels: the numbers of the paper, and its rounding.

As compute_metrics of train_classifier.py (Victorwz/UniFilter): a score is clamped to 0-3 and
rounded to a level. Macro averages are over all four levels; a level that neither occurs nor is
predicted counts 0.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmsieve.levels import LEVELS, to_levels


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Agreement of scores with levels; all but mse and count are between 0 and 1 (spearman -1)."""

    count: int
    accuracy: float
    precision: float
    recall: float
    f1: float
    f1_per_level: list[float]
    mse: float
    """Of the score itself, unclamped."""
    spearman: float | None
    """Rank correlation of score and level; None where either is constant."""
    confusion: list[list[int]]
    """[true level][predicted level]."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as metrics.json has them."""
        return asdict(self)


def measure(scores: npt.NDArray[np.float64], levels: npt.NDArray[np.int64]) -> Metrics:
    """Metrics of scores [n] against levels 0-3 [n]; n is at least 1."""
    predicted = to_levels(scores)
    confusion = np.zeros((len(LEVELS), len(LEVELS)), np.int64)
    np.add.at(confusion, (levels, predicted), 1)
    hits = confusion.diagonal().astype(np.float64)
    precision = _ratio(hits, confusion.sum(0))
    recall = _ratio(hits, confusion.sum(1))
    f1 = _ratio(2 * precision * recall, precision + recall)
    return Metrics(
        count=len(levels),
        accuracy=float(hits.sum() / len(levels)),
        precision=float(precision.mean()),
        recall=float(recall.mean()),
        f1=float(f1.mean()),
        f1_per_level=[float(value) for value in f1],
        mse=float(np.mean((scores - levels) ** 2)),
        spearman=_spearman(scores, levels.astype(np.float64)),
        confusion=confusion.tolist(),
    )


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """part / whole, and 0 where there is nothing to divide by."""
    out: npt.NDArray[np.float64] = np.zeros(len(part))
    np.divide(part, whole, out=out, where=whole > 0)
    return out


def _spearman(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float | None:
    ranks = [_ranks(values) for values in (one, other)]
    if any(rank.std() == 0 for rank in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: npt.NDArray[np.float64] = (last - counts + last - 1) / 2
    ranks: npt.NDArray[np.float64] = means[inverse]
    return ranks
