"""Plain ways to choose, to compare the published selection with."""

import numpy as np

from mmsieve.cut.hashing import mix
from mmsieve.subset.budget import Budget
from mmsieve.subset.numbering import Bools, Numbers
from mmsieve.subset.pool import Pool


def choose_at_random(usable: Bools, budget: Budget, seed: int) -> None:
    """Any usable rows. What comes first is a fixed hash of a row's number: the same everywhere."""
    _spend(np.flatnonzero(usable), budget, seed, budget.left)


def choose_top_means(pool: Pool, usable: Bools, budget: Budget, above: float) -> None:
    """The rows with the highest means of their ratings, those above a number; ties by order."""
    means = pool.means()
    usable = usable & (means > above)
    rows = np.flatnonzero(usable) if pool.order is None else pool.order[usable[pool.order]]
    budget.spend(budget.fit(rows[np.argsort(-means[rows], kind="stable")], budget.left))


def choose_per_source(pool: Pool, usable: Bools, budget: Budget, seed: int) -> None:
    """From each source the same number, at random; what small ones lack the others give."""
    rows = np.flatnonzero(usable)
    by_source = rows[np.argsort(pool.sources[rows], kind="stable")]
    sizes = np.bincount(pool.sources[rows], minlength=len(pool.source_names))
    ends = np.cumsum(sizes)
    names = np.argsort(np.argsort(np.array(pool.source_names, object)))  # ties by name
    for done, source in enumerate(np.lexsort((names, sizes))):
        own = by_source[ends[source] - sizes[source] : ends[source]]
        _spend(own, budget, seed, budget.left // (len(sizes) - done))


def _spend(rows: Numbers, budget: Budget, seed: int, allowance: int) -> None:
    numbers = mix(rows.astype(np.uint64) + mix(np.array([seed], np.uint64) + np.uint64(1)))
    budget.spend(budget.fit(rows[np.argsort(numbers, kind="stable")], allowance))
