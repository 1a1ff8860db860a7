"""What pool and subset hold, in numbers to compare."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from mmsieve.subset.choosing import Choice


@dataclass(frozen=True, slots=True)
class Held:
    """How many samples hold something, and for a capability the mean of their ratings."""

    pool: int
    subset: int
    pool_mean: float | None = None
    subset_mean: float | None = None


def held(choice: Choice) -> tuple[dict[str, Held], dict[str, Held]]:
    """Capability -> ratings above the number that was asked for; style -> samples that have it.

    The pool's rows that aren't ok don't count.
    """
    pool = choice.pool
    chosen = np.flatnonzero(choice.chosen)
    ok: np.ndarray | slice = slice(None) if pool.is_ok.all() else np.flatnonzero(pool.is_ok)
    capabilities = {}
    for name, ratings in pool.ratings.items():
        least, numbers = ratings.rank_of(choice.options.above), ratings.values
        counts = [np.bincount(ratings.ranks[rows], minlength=len(numbers)) for rows in (ok, chosen)]
        (all_above, above), (all_mean, mean) = (
            [int(count[least + 1 :].sum()) for count in counts],
            [_mean(count[1:], numbers[1:]) for count in counts],
        )
        capabilities[name] = Held(all_above, above, all_mean, mean)
    styles: list[Counter[str]] = []
    for rows in (np.flatnonzero(pool.is_ok), chosen):
        own: Counter[str] = Counter()
        counts = pool.groups.counts(rows).tolist()
        for style, count in zip(pool.groups.styles, counts, strict=True):
            own[style] += count
        styles.append(own)
    return capabilities, {s: Held(styles[0][s], styles[1][s]) for s in sorted(styles[0])}


def printed(capabilities: dict[str, Held], styles: dict[str, Held], above: float) -> list[str]:
    """The lines of a summary."""
    width = max(map(len, [*capabilities, *styles, "capability"]), default=0)
    over = f"above {above:g}"
    lines = [
        f"{'capability':{width}}  {'pool: mean':>10} {over:>11}  {'subset: mean':>12} {over:>11}"
    ]
    for name, each in capabilities.items():
        lines.append(
            f"{name:{width}}  {_shown(each.pool_mean):>10} {each.pool:>11,}  "
            f"{_shown(each.subset_mean):>12} {each.subset:>11,}"
        )
    lines.append(f"{'style':{width}}  {'pool':>22}  {'subset':>24}")
    lines += [
        f"{s or '(empty)':{width}}  {h.pool:>22,}  {h.subset:>24,}" for s, h in styles.items()
    ]
    return lines


def _mean(counts: np.ndarray, values: np.ndarray) -> float | None:
    total = counts.sum()
    return float(np.dot(counts, values) / total) if total else None


def _shown(mean: float | None) -> str:
    return "-" if mean is None else f"{mean:.3f}"
