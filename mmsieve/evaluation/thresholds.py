"""Levels for scores that are on a scale of their own: a similarity, a rule's yes or no.

What thresholds are fitted on can't be measured on: they would know the answers. So half of the
images (all texts over them) is for fitting and the other half for measuring.
"""

import numpy as np
import numpy.typing as npt

from mmsieve.levels import LEVELS
from mmsieve.metrics import Floats, Ints


def half_of_units(units: Ints, seed: int) -> npt.NDArray[np.bool_]:
    """Which texts belong to the half to fit on; texts of one unit stay together."""
    names = np.unique(units)
    chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    is_fitted: npt.NDArray[np.bool_] = np.isin(units, chosen)
    return is_fitted


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
        source = _last_record(gain)
        sources.append(source)
        best = gain[source] + right[level]
    cuts = [len(values)]
    for source in reversed(sources):
        cuts.append(int(source[cuts[-1]]))
    edges = _edges(values)
    return [float(edges[cut]) for cut in reversed(cuts[1:])]


def _last_record(gain: Floats) -> Ints:
    """For each place, where the highest value up to it stands (the first such place)."""
    highest = np.maximum.accumulate(gain)
    is_new = np.append(True, highest[1:] > highest[:-1])
    places: Ints = np.maximum.accumulate(np.where(is_new, np.arange(len(gain)), 0))
    return places


def _edges(values: Floats) -> Floats:
    """A threshold before each value, halfway to the one before, and one that none reaches."""
    middle = values[:-1] / 2 + values[1:] / 2
    middle = np.where(middle > values[:-1], middle, values[1:])
    return np.concatenate([values[:1], middle, [np.nextafter(values[-1], np.inf)]])
