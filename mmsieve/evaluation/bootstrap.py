"""How far a number may be off because of the texts that happened to be there: the bootstrap.

Percentile intervals (Efron, 1979), of images rather than of texts: the texts over one image are
written together, from positive to negative, and a model that misreads the image misses several at
once. Drawing them one by one would take one accident for several, and the intervals would be too
narrow. So the texts that share an image are one unit (`units.py`), drawn as a whole.

A number without any error in sight (accuracy 1) gets an interval without width: no draw from
faultless texts has a fault. With n images the rate of errors may still be as high as about 3 / n.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from mmsieve.levels import LEVELS
from mmsieve.metrics import Floats, Interval, Ints, predict, rates

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
        """Metrics of `resamples` draws of the units, for scores [n], levels [n] and units [n].

        A single unit says nothing of how others differ: all is NaN.
        """
        names, units = np.unique(units, return_inverse=True)
        if len(names) == 1:
            return {name: np.full(self.resamples, np.nan) for name in RESAMPLED}
        texts = _Texts(scores, levels, units, thresholds)
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


class _Texts:
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
        mse = counts @ self.squares / sizes if self.has_mse else np.full(len(counts), np.nan)
        return {
            "accuracy": np.trace(confusion, axis1=1, axis2=2) / sizes,
            "f1": rates(confusion)[2].mean(1),
            "mse": mse,
            "spearman": self._spearman(counts[:, self.units], sizes),
        }

    def _spearman(self, weights: Floats, sizes: Floats) -> Floats:
        """Correlation of ranks, each text counting `weights` [draws, n] times.

        Ranks are taken from their mean, so that a mean rank is 0; equal scores share a rank.
        """
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
