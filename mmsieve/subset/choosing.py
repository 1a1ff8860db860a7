"""A request carried out on a pool: which rows are chosen, and why the others aren't."""

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from mmsieve.errors import RequestError
from mmsieve.subset.baselines import choose_at_random, choose_per_source, choose_top_means
from mmsieve.subset.budget import Budget
from mmsieve.subset.numbering import Bools
from mmsieve.subset.options import SelectOptions, read_keys
from mmsieve.subset.pool import Pool
from mmsieve.subset.rated import Rated
from mmsieve.subset.rounds import choose_in_rounds

EXCLUDED, NO_STYLE, NO_RATING, NOT_SELECTED = "excluded", "no_style", "no_rating", "not_selected"


@dataclass(frozen=True)
class Choice:
    """What a request comes to."""

    options: SelectOptions
    pool: Pool
    chosen: Bools
    excluded: Bools
    budget: int
    spent: int
    notes: list[str] = field(default_factory=list)

    def decisions(self, start: int, stop: int) -> pl.DataFrame:
        """`keep`, `reason` and `score` (the mean of the ratings) of the rows in a range."""
        pool = self.pool
        keep = self.chosen[start:stop]
        words = [None, NOT_SELECTED, NO_STYLE, NO_RATING, EXCLUDED, *pool.status_names[1:]]
        reason = np.ones(len(keep), np.int64)
        if self.options.strategy == "mmssr":
            reason[~pool.groups.has_any(start, stop)] = words.index(NO_STYLE)
            reason[~pool.is_above(self.options.above, start, stop)] = words.index(NO_RATING)
        reason[self.excluded[start:stop]] = words.index(EXCLUDED)
        statuses = pool.statuses[start:stop]
        reason[statuses > 0] = statuses[statuses > 0] + words.index(EXCLUDED)
        reason[keep] = 0
        score = pl.Series(pool.means(start, stop)).fill_nan(None).cast(pl.Float32)
        return pl.DataFrame(
            {
                "keep": keep,
                "reason": pl.Series(words, dtype=pl.String).gather(reason),
                "score": score,
            }
        )


def choose(rated: Rated, options: SelectOptions) -> Choice:
    """Carry out a request; raises RequestError where it doesn't fit what was rated."""
    pool = rated.pool
    shares = options.shares(list(pool.ratings))
    wanted = options.wanted(pool.rows)
    notes: list[str] = []
    required, excluded = _listed(rated, options, notes)
    usable = pool.is_ok & ~excluded
    if pool.tokens is not None:
        usable &= _with_tokens(pool, usable, notes)
    budget = Budget(wanted, usable, pool.tokens, pool.sources, _quotas(pool, options, wanted))
    _require(required, usable, budget, options)
    usable = usable & ~required
    if options.strategy == "mmssr":
        if pool.rows and not required.any() and not (usable & pool.is_above(options.above)).any():
            raise RequestError(
                f"--above {options.above:g}: no ratings above {options.above:g} among the samples "
                "that may be chosen: say a lower number"
            )
        choose_in_rounds(pool, usable, budget, options.above, shares)
    elif options.strategy == "top-mean":
        choose_top_means(pool, usable, budget, options.above)
    elif options.strategy == "random":
        choose_at_random(usable, budget, options.seed)
    else:
        choose_per_source(pool, usable, budget, options.seed)
    if budget.left > 0:
        notes.append(_unmet(budget, options))
    spent = budget.total - budget.left
    return Choice(options, pool, budget.chosen, excluded, wanted, spent, notes)


def _unmet(budget: Budget, options: SelectOptions) -> str:
    if options.budget_tokens is not None:
        spent = budget.total - budget.left
        return f"{spent} of {budget.total} tokens: no sample that may be chosen fits into the rest"
    missing = f"the budget of {budget.total} can't be met: {budget.left} are missing"
    if options.strategy in ("mmssr", "top-mean"):
        return f"{missing}, no more samples have a rating above {options.above:g} and may be chosen"
    return f"{missing}, no more samples may be chosen"


def _quotas(pool: Pool, options: SelectOptions, budget: int) -> dict[int, int]:
    """The number of a source -> its quota."""
    numbers = {name: number for number, name in enumerate(pool.source_names)}
    quotas = options.quotas(budget)
    for name in quotas:
        if name not in numbers:
            known = ", ".join(sorted(numbers)[:20])
            raise RequestError(f"--source-quota {name}: no such image source; there are {known}")
    return {numbers[name]: quota for name, quota in quotas.items()}


def _with_tokens(pool: Pool, usable: Bools, notes: list[str]) -> Bools:
    assert pool.tokens is not None, "asked for"
    without = int((usable & (pool.tokens < 1)).sum())
    if without:
        notes.append(f"{without} samples have no num_tokens, or none above 0: not chosen")
    return pool.tokens > 0


def _require(required: Bools, usable: Bools, budget: Budget, options: SelectOptions) -> None:
    """Choose the rows that were required; raises RequestError where that can't be."""
    rows = np.flatnonzero(required)
    if not len(rows):
        return
    if not usable[rows].all():
        raise RequestError(
            f"--require {options.require}: {int((~usable[rows]).sum())} of its samples can't be "
            "chosen (not ok, excluded, or without num_tokens): take them out of the file"
        )
    if len(budget.fit(rows, budget.left)) < len(rows):
        raise RequestError(
            f"--require {options.require}: its samples cost {budget.cost(rows)}, more than the "
            f"budget of {budget.total} or the sources' quotas: raise these, or require fewer"
        )
    budget.spend(rows)


def _listed(rated: Rated, options: SelectOptions, notes: list[str]) -> tuple[Bools, Bools]:
    """The rows whose keys were required and excluded."""
    required = np.zeros(rated.pool.rows, bool)
    excluded = np.zeros(rated.pool.rows, bool)
    if options.require is None and options.exclude is None:
        return required, excluded
    asked = [
        (pl.Series(read_keys(path), dtype=pl.String), path, found)
        for path, found in ((options.require, required), (options.exclude, excluded))
        if path is not None
    ]
    missing = [set(keys.to_list()) for keys, _, _ in asked]
    start = 0
    for _, named in rated.named():
        for (keys, _, found), left in zip(asked, missing, strict=True):
            is_listed = named["key"].is_in(keys.implode())
            found[start : start + named.height] = is_listed.to_numpy()
            left.difference_update(named["key"].filter(is_listed))
        start += named.height
    for (_, path, found), left in zip(asked, missing, strict=True):
        if left and found is required:
            raise RequestError(
                f"--require {path}: {len(left)} of its keys aren't there ({min(left)!r}): "
                "take them out of the file"
            )
        if left:
            notes.append(f"--exclude {path}: {len(left)} of its keys aren't there")
    return required, excluded
