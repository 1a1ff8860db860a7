"""How well scores agree with known levels: the paper's numbers, intervals and thresholds.

As compute_metrics of train_classifier.py (Victorwz/UniFilter): a score is clamped to 0-3 and
rounded to a level. Macro averages are over all four levels; a level that neither occurs nor is
predicted counts 0. A score on another scale becomes a level by thresholds, which are fitted on half
of the images and measured on the other. scikit-learn and scipy, which compute the numbers, are an
extra: they are imported where they are needed.

Percentile intervals (Efron, 1979) are of images, not of texts: a model that misreads an image
misses several of its texts at once, so those that share one are a unit, drawn as a whole. Faultless
texts get an interval without width; with n images the rate of errors may still be about 3 / n.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mmsieve.errors import RequestError
from mmsieve.labels import LEVELS, POSITIVE, to_levels

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
    """How many texts: a row per true level, in it a column per predicted one."""
    calibration: Calibration
    intervals: dict[str, Interval | None] = field(default_factory=dict)
    """95% intervals of accuracy, f1, mse and spearman, where they were asked for."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as metrics.json has them."""
        return asdict(self)


def check_installed() -> None:
    """Raise RequestError where scikit-learn or scipy, which compute the metrics, are missing."""
    if find_spec("sklearn") is None or find_spec("scipy") is None:
        raise RequestError("evaluate needs scikit-learn: pip install 'mmsieve[evaluate]'")


def predict(scores: Floats, thresholds: Sequence[float] | None = None) -> Ints:
    """Levels of scores: rounded, or the number of the three thresholds that they reach."""
    if thresholds is None:
        return to_levels(scores)
    levels: Ints = np.searchsorted(np.asarray(thresholds), scores, side="right")
    return levels


def measure(scores: Floats, levels: Ints, thresholds: Sequence[float] | None = None) -> Metrics:
    """Metrics of scores [n > 0] for levels 0-3 [n]; thresholds rule out mse and expected error."""
    from sklearn import metrics

    predicted = predict(scores, thresholds)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        levels, predicted, labels=LEVELS, zero_division=0
    )
    is_level = thresholds is None
    return Metrics(
        count=len(levels),
        accuracy=float(metrics.accuracy_score(levels, predicted)),
        precision=float(precision.mean()),
        recall=float(recall.mean()),
        f1=float(f1.mean()),
        f1_per_level=f1.tolist(),
        recall_per_level=recall.tolist(),
        mse=float(metrics.mean_squared_error(levels, scores)) if is_level else None,
        spearman=spearman(scores, levels.astype(np.float64)),
        confusion=metrics.confusion_matrix(levels, predicted, labels=LEVELS).tolist(),
        calibration=_calibration(scores, levels, predicted, is_level),
    )


def spearman(one: Floats, other: Floats) -> float | None:
    """Rank correlation; None where either is constant."""
    from scipy.stats import spearmanr

    return None if _is_constant(one, other) else float(spearmanr(one, other).statistic)


def pearson(one: Floats, other: Floats) -> float | None:
    """Linear correlation; None where either is constant, or not finite."""
    from scipy.stats import pearsonr

    if _is_constant(one, other) or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    with warnings.catch_warnings(action="ignore"):  # where one is nearly constant
        found = float(pearsonr(one, other).statistic)
    return found if np.isfinite(found) else None


def _is_constant(*columns: Floats) -> bool:
    return any(column.min() == column.max() for column in columns)


def _calibration(scores: Floats, levels: Ints, predicted: Ints, is_level: bool) -> Calibration:
    found = [levels[predicted == level] for level in LEVELS]
    bins = _bins(scores, levels) if is_level else []
    error = sum(each["count"] * abs(each["mean_score"] - each["mean_level"]) for each in bins)
    return Calibration(
        mean_level=[float(there.mean()) if len(there) else None for there in found],
        share=[len(there) / len(levels) for there in found],
        expected_error=error / len(levels) if is_level else None,
        bins=bins,
    )


def _bins(scores: Floats, levels: Ints) -> list[dict[str, float]]:
    width = POSITIVE / _BINS
    place = np.minimum(np.clip(scores, 0, POSITIVE) // width, _BINS - 1).astype(np.int64)
    weights = (None, scores, levels)
    counts, score, level = (np.bincount(place, each, _BINS) for each in weights)
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


# How far scores tell texts apart: equal ones a cut can only choose between by chance

TOP = ("0.1", "0.3", "0.5")
"""The fractions of samples that may be kept, for which ties and overlaps are given."""


@dataclass(frozen=True, kw_only=True)
class ScoreTies:
    """What ties a cut by rank would meet, as `filter --top-fraction` counts them."""

    distinct: int
    """Different scores."""
    at_top: dict[str, int]
    """Per fraction that may be kept, the samples with the lowest score kept, where not all of
    these are; 0 where the scores decide alone."""


def count_ties(scores: Floats) -> ScoreTies:
    """The ties among scores [n], none of them NaN."""
    ranked = np.sort(scores)[::-1]
    found = {}
    for top in TOP:
        count = math.floor(Fraction(top) * len(ranked))
        is_cut_between_equals = 0 < count < len(ranked) and ranked[count - 1] == ranked[count]
        found[top] = int((ranked == ranked[count]).sum()) if is_cut_between_equals else 0
    return ScoreTies(distinct=len(np.unique(ranked)), at_top=found)


# How far a number may be off because of the texts that happened to be there: the bootstrap

Draws: TypeAlias = dict[str, Floats]
"""Each of RESAMPLED, with its value in every draw; NaN where undefined."""

RESAMPLED = ("accuracy", "f1", "mse", "spearman")
"""The numbers that get an interval."""

_CELLS = 1 << 21
"""Texts times draws that are worked on at a time."""


@dataclass(frozen=True)
class Bootstrap:
    """How many times to draw, and from which seed; the same texts give the same draws."""

    resamples: int
    seed: int

    def draw(
        self, scores: Floats, levels: Ints, units: Ints, thresholds: list[float] | None = None
    ) -> Draws:
        """Metrics of draws of the units of texts [n]; NaN for a single one, which has no spread."""
        names, units = np.unique(units, return_inverse=True)
        if len(names) == 1:
            return {name: np.full(self.resamples, np.nan) for name in RESAMPLED}
        texts = _RankedTexts(scores, levels, units, thresholds)
        parts = [texts.metrics(counts) for counts in self.counts(len(texts.squares), len(levels))]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def counts(self, units: int, texts: int) -> Iterator[Floats]:
        """How often each unit is drawn [draws, units], some draws at a time."""
        random = np.random.default_rng(self.seed)
        step = max(1, _CELLS // texts)
        for start in range(0, self.resamples, step):
            draws = min(step, self.resamples - start)
            drawn = random.integers(units, size=(draws, units)) + units * np.arange(draws)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=draws * units)
            yield counts.reshape(draws, units).astype(np.float64)


def interval(values: Floats) -> Interval | None:
    """The middle 95% of the draws in which the number is defined; None where it never is."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


class _RankedTexts:
    """Texts in the order of their scores, and what each unit adds to the metrics."""

    def __init__(
        self, scores: Floats, levels: Ints, units: Ints, thresholds: list[float] | None
    ) -> None:
        cells = levels * len(LEVELS) + predict(scores, thresholds)
        count = int(units.max()) + 1
        self.confusion = np.zeros((count, len(LEVELS) ** 2))
        np.add.at(self.confusion, (units, cells), 1)
        self.squares = np.bincount(units, (scores - levels) ** 2, count)
        self.has_mse = thresholds is None
        order = np.argsort(scores, kind="stable")
        ranked = scores[order]
        self.starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
        self.group = np.cumsum(np.append(False, ranked[1:] != ranked[:-1]))
        self.units = units[order]
        self.is_level = np.eye(len(LEVELS))[levels[order]]

    def metrics(self, counts: Floats) -> Draws:
        """Metrics of draws, for how often each unit is drawn [draws, units]."""
        confusion = (counts @ self.confusion).reshape(-1, len(LEVELS), len(LEVELS))
        sizes = confusion.sum((1, 2))
        hits, total = np.diagonal(confusion, 0, 1, 2), confusion.sum(1) + confusion.sum(2)
        f1 = np.divide(2 * hits, total, out=np.zeros(hits.shape), where=total > 0)
        mse = counts @ self.squares / sizes if self.has_mse else np.full(len(counts), np.nan)
        return {
            "accuracy": hits.sum(1) / sizes,
            "f1": f1.mean(1),
            "mse": mse,
            "spearman": self._spearman(counts[:, self.units], sizes),
        }

    def _spearman(self, weights: Floats, sizes: Floats) -> Floats:
        """Correlation of ranks (less their mean; equal scores share one), weighted [draws, n]."""
        tied = np.add.reduceat(weights, self.starts, axis=1)
        score = (np.cumsum(tied, 1) - tied / 2 - sizes[:, None] / 2)[:, self.group]
        per_level = weights @ self.is_level
        level = np.cumsum(per_level, 1) - per_level / 2 - sizes[:, None] / 2
        score_spread = np.einsum("dn,dn,dn->d", weights, score, score)
        level_spread = np.einsum("dl,dl,dl->d", per_level, level, level)
        together = np.einsum("dl,dl->d", (weights * score) @ self.is_level, level)
        spread = np.sqrt(score_spread * level_spread)
        out = np.full(len(weights), np.nan)
        np.divide(together, spread, out=out, where=spread > 0)
        return out


# Levels for scores that are on a scale of their own: a similarity, a rule's yes or no


def half_of_units(units: Ints, seed: int) -> npt.NDArray[np.bool_]:
    """Which texts belong to the half to fit on; texts of one unit stay together."""
    names = np.unique(units)
    return np.isin(units, np.random.default_rng(seed).permutation(names)[: len(names) // 2])


def fit_thresholds(scores: Floats, levels: Ints) -> list[float]:
    """The three thresholds that give the best accuracy over scores [n] and levels [n], exactly.

    A text's level is the number of thresholds that its score reaches. Over the n values in order,
    best[l][i] is the most texts that can be right when the first i values have levels up to l.
    """
    values, place = np.unique(scores, return_inverse=True)
    right = np.zeros((len(LEVELS), len(values) + 1))
    for level in LEVELS:
        right[level, 1:] = np.cumsum(np.bincount(place, levels == level, len(values)))
    best = right[0]
    sources = []
    for level in LEVELS[1:]:
        gain = best - right[level]
        highest = np.maximum.accumulate(gain)  # up to each place, and where it first stands:
        is_new = np.append(True, highest[1:] > highest[:-1])
        source = np.maximum.accumulate(np.where(is_new, np.arange(len(gain)), 0))
        sources.append(source)
        best = gain[source] + right[level]
    cuts = [len(values)]
    for source in reversed(sources):
        cuts.append(int(source[cuts[-1]]))
    middle = values[:-1] / 2 + values[1:] / 2  # a threshold before each value but the first
    middle = np.where(middle > values[:-1], middle, values[1:])
    edges = np.concatenate([values[:1], middle, [np.nextafter(values[-1], np.inf)]])
    return [float(edges[cut]) for cut in reversed(cuts[1:])]
