"""A request carried out on a pool: which rows are chosen, and why the others aren't."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from mmsieve.decisions import DecisionRows
from mmsieve.errors import RequestError
from mmsieve.filtering.ranking import mix
from mmsieve.outputs import check_folder
from mmsieve.progress import Advance
from mmsieve.selection.groups import Bools, Numbers
from mmsieve.selection.options import SelectOptions, read_keys
from mmsieve.selection.pool import Pool, Rated
from mmsieve.selection.results import ResultFolder, key_in, write_part
from mmsieve.selection.rounds import Budget, choose_in_rounds
from mmsieve.tables import Origins

# Plain ways to choose, to compare the published selection with


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


# A request carried out on a pool: which rows are chosen, and why the others aren't

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


def decide(
    rated: Rated, choice: Choice, fingerprint: dict[str, str], advance: Advance
) -> DecisionRows:
    """Every row's name and decision, read and counted as they are asked for."""

    def rows() -> Iterator[tuple[Origins, pl.DataFrame]]:
        row = 0
        for origins, named in rated.named():
            yield origins, named.hstack(choice.decisions(row, row + named.height))
            row += named.height

    notes = {"budget": str(choice.budget)}
    return DecisionRows(rows(), rated.files, fingerprint, notes, advance)


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


# What pool and subset hold, in numbers to compare


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


# The chosen items of an instruction file as a JSON list of their own


def check_subset(data: Path | None, subset: Path | None, overwrite: bool) -> None:
    """Raise RequestError where the chosen items can't be written as asked."""
    if data is not None and not data.is_file():
        raise RequestError(f"--data {data}: no such file; give a JSON list, or JSONL")
    if subset is None:
        return
    if data is None:
        raise RequestError("--subset: say --data FILE too, the items that are chosen from")
    if subset.is_dir() or subset.suffix != ".json":
        raise RequestError(f"--subset {subset}: name a file that ends in .json")
    if subset.resolve() == data.resolve():
        raise RequestError(f"--subset {subset}: is the file of --data: choose another name")
    if subset.exists() and not overwrite:
        raise RequestError(f"--subset {subset}: exists: choose another name, or --overwrite")
    check_folder(subset.absolute().parent)


def write_subset(rated: Rated, choice: Choice, data: Path, subset: Path) -> list[str]:
    """Write the chosen items, in the file's order and to the byte; returns what to say of it."""
    if isinstance(rated, ResultFolder):
        chosen_in_order = iter(choice.chosen)
        write_part(data, subset, lambda number, raw: bool(next(chosen_in_order)))
        return []
    left = _chosen_keys(rated, choice)
    chosen = len(left)

    def is_chosen(number: int, raw: bytes) -> bool:
        key = key_in(data, number, raw)
        if key not in left:
            return False
        left.remove(key)
        return True

    write_part(data, subset, is_chosen)
    if left:
        return [f"--subset: {len(left)} of {chosen} chosen samples aren't in {data}"]
    return []


def _chosen_keys(rated: Rated, choice: Choice) -> set[str]:
    keys: set[str] = set()
    start = count = 0
    for _, named in rated.named():
        kept = named["key"].filter(pl.Series(choice.chosen[start : start + named.height]))
        keys.update(kept)
        count += len(kept)
        start += named.height
    if len(keys) < count:
        raise RequestError(
            "--subset: the table has chosen samples of the same key: select from one file's "
            "ratings at a time"
        )
    return keys
