"""The mmSSR selection (arXiv 2503.13383, released code), and simpler ones to compare it with.

In a round each capability in turn chooses its share of what is missing: the highest ratings,
spread over groups of style and source. It asks the groups from the smallest to the largest for
the same number of samples; what a group can't give, the next ones owe. The published code leaves
to chance which of equal ratings, of equally large groups, and from the second round on which
capability comes first: here those are the rows' order, the groups' names in code-point order, and
the order of the capabilities. A capability that finds nothing is left out (the published code
fails), and what would exceed the budget isn't chosen (there one sample may).

Ratings are ranks of a byte or so, so that choosing is counting: the sizes of all groups are kept
up to date for each capability, and only the groups that are asked are looked at.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from mmsieve.decisions import DecisionRows
from mmsieve.errors import RequestError
from mmsieve.filtering.ids import mix
from mmsieve.progress import Advance
from mmsieve.selection.groups import Bools, Numbers
from mmsieve.selection.options import SelectOptions, read_keys
from mmsieve.selection.pool import Pool, RatedSamples
from mmsieve.tables import Origins
from mmsieve.wording import counted

# Budget: how much may be chosen, in samples or tokens, and how much of each image source


class SampleBudget:
    """What is left to spend; a sample costs 1, or its tokens."""

    def __init__(
        self,
        total: int,
        usable: Bools,
        tokens: npt.NDArray[np.int64] | None = None,
        sources: Numbers | None = None,
        quotas: Mapping[int, int] | None = None,
    ) -> None:
        """`quotas`: the number of a source -> how many of its samples may be chosen at most."""
        self.left = self.total = total
        self.chosen = np.zeros(len(usable), bool)
        self._tokens = tokens
        self._sources = np.zeros(0, np.uint8) if sources is None else sources
        self._quotas = None
        if sources is not None and quotas:
            self._quotas = np.full(int(sources.max(initial=0)) + 1, len(usable), np.int64)
            self._quotas[list(quotas)] = list(quotas.values())
        costs = np.ones(1, np.int64) if tokens is None else tokens[usable & (tokens > 0)]
        self.dearest = int(costs.max(initial=1))
        """What one sample can cost: a capability's least share, so that it can choose at all."""
        self.usual = int(np.ceil(costs.mean())) if len(costs) else 1
        """What one sample costs on average: a group's least share."""

    def fit(self, rows: Numbers, allowance: int) -> Numbers:
        """As many rows, in order, as allowance and quotas allow; too dear ones are passed over."""
        if self._tokens is not None:
            rows = rows[self._tokens[rows] <= allowance]
        if self._quotas is not None:  # without those that come when enough of their source did
            sources = self._sources[rows]
            by_source = np.argsort(sources, kind="stable")
            inside = sources[by_source]
            nth = np.arange(len(rows)) - np.searchsorted(inside, inside, side="left")
            rows = rows[np.sort(by_source[nth < self._quotas[inside]])]
        if self._tokens is None:
            return rows[:allowance]
        spent = np.cumsum(self._tokens[rows])
        return rows[: int(np.searchsorted(spent, allowance, side="right"))]

    def cost(self, rows: Numbers) -> int:
        """What the rows cost."""
        return len(rows) if self._tokens is None else int(self._tokens[rows].sum())

    @property
    def is_plain(self) -> bool:
        """Whether any sample may be chosen at the same cost."""
        return self._tokens is None and self._quotas is None

    def spend(self, rows: Numbers) -> int:
        """Choose the rows; returns what they cost."""
        cost = self.cost(rows)
        self.chosen[rows] = True
        self.left -= cost
        if self._quotas is not None:
            self._quotas -= np.bincount(self._sources[rows], minlength=len(self._quotas))
        return cost

    def used_up(self) -> Bools | None:
        """Whether nothing more of each row's source may be chosen; None where none has a quota."""
        return None if self._quotas is None else (self._quotas <= 0)[self._sources]


# The published selection: rounds of rich, diverse choices


class Brought:
    """Which capability chose each row, and in which group it found it."""

    def __init__(self, rows: int) -> None:
        self.capabilities = np.full(rows, -1, np.int16)
        """Of each row the place of the capability; -1 where none chose it."""
        self.groups = np.full(rows, -1, np.int32)
        """Of each row the number of the group; -1 where it wasn't chosen in one."""

    def add(self, rows: Numbers, capability: int, group: int) -> None:
        """Note rows that a capability chose in a group."""
        self.capabilities[rows], self.groups[rows] = capability, group


def choose_in_rounds(
    pool: Pool,
    usable: Bools,
    budget: SampleBudget,
    above: float,
    shares: Sequence[Fraction],
    brought: Brought | None = None,
) -> None:
    """Spend the budget on usable rows rated above a number, by the shares of the capabilities."""
    rounds = Rounds(pool, usable, budget, above, brought)
    live = list(range(len(pool.ratings)))
    while live and budget.left > 0:
        together = sum(shares[number] for number in live)
        quotas = [max(int(budget.left * shares[n] / together), budget.dearest) for n in live]
        asked = zip(live, quotas, strict=True)
        live = [n for n, quota in asked if rounds.choose(n, min(quota, budget.left))]


class Rounds:
    """What is left to choose from, and how much of it each group has for each capability."""

    def __init__(
        self,
        pool: Pool,
        usable: Bools,
        budget: SampleBudget,
        above: float,
        brought: Brought | None = None,
    ) -> None:
        self._budget = budget
        self._brought = brought
        self._groups = pool.groups
        self._members = pool.groups.ordered(usable, pool.order)
        self._ranks = [ratings.ranks for ratings in pool.ratings.values()]
        self._least = [ratings.rank_of(above) for ratings in pool.ratings.values()]
        used_up = budget.used_up()
        left = usable if used_up is None else usable & ~used_up
        self._left = left.astype(np.uint8)  # as numbers: to multiply by
        each = zip(self._ranks, self._least, strict=True)
        counted = ((ranks > least) & (self._left > 0) for ranks, least in each)
        self._sizes = [self._members.counts(rows) for rows in counted]

    def choose(self, capability: int, quota: int) -> int:
        """One capability's choice in a round; returns how many rows it chose."""
        sizes = self._sizes[capability]
        groups = np.flatnonzero(sizes)
        if quota <= 0 or not len(groups):
            return 0
        left = self._ranks[capability] * self._left  # 0: nothing to choose
        share = max(quota // len(groups), self._budget.usual)
        before, debt = self._budget.left, 0
        chosen = []
        for group in groups[np.argsort(sizes[groups], kind="stable")].tolist():
            if before - self._budget.left >= quota:
                break
            allowance = min(share + debt, self._budget.left)
            best = self._best(group, left, self._least[capability], allowance)
            rows = self._budget.fit(best, allowance)
            debt += share - self._budget.spend(rows)
            left[rows] = 0
            chosen.append(rows)
            if self._brought is not None:
                self._brought.add(rows, capability, group)
        every = np.concatenate(chosen)
        self._leave_out(every)
        used_up = self._budget.used_up()
        if used_up is not None:
            self._leave_out(np.flatnonzero(used_up & (self._left > 0)))
        return len(every)

    def _best(self, group: int, left: Numbers, least: int, allowance: int) -> Numbers:
        """A group's rows that are left, best first; as many as the allowance may pay for."""
        found: list[Numbers] = []
        for rows in self._members.of(group):
            ranks = left[rows]
            counted = (ranks > least).nonzero()[0]
            highest_first = (~ranks[counted]).argsort(kind="stable")  # ranks are unsigned
            found.append(rows[counted[highest_first]])
            allowance -= len(counted)
            if allowance <= 0 and self._budget.is_plain:
                break
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _leave_out(self, rows: Numbers) -> None:
        self._left[rows] = 0
        owners, groups = self._groups.of(rows)
        for ranks, least, sizes in zip(self._ranks, self._least, self._sizes, strict=True):
            counted = groups[(ranks[rows] > least)[owners]]
            sizes -= np.bincount(counted, minlength=len(sizes))


# Simpler ways to choose


def choose_top_means(pool: Pool, usable: Bools, budget: SampleBudget, above: float) -> None:
    """The rows with the highest means of their ratings, those above a number; ties by order."""
    means = pool.means()
    usable = usable & (means > above)
    rows = np.flatnonzero(usable) if pool.order is None else pool.order[usable[pool.order]]
    budget.spend(budget.fit(rows[np.argsort(-means[rows], kind="stable")], budget.left))


def choose_per_source(pool: Pool, usable: Bools, budget: SampleBudget, seed: int) -> None:
    """From each source the same number, at random; what small ones lack the others give."""
    rows = np.flatnonzero(usable)
    by_source = rows[np.argsort(pool.sources[rows], kind="stable")]
    sizes = np.bincount(pool.sources[rows], minlength=len(pool.source_names))
    ends = np.cumsum(sizes)
    names = np.argsort(np.argsort(np.array(pool.source_names, object)))  # ties by name
    for done, source in enumerate(np.lexsort((names, sizes))):
        own = by_source[ends[source] - sizes[source] : ends[source]]
        _spend_at_random(own, budget, seed, budget.left // (len(sizes) - done))


def in_random_order(rows: Numbers, seed: int) -> Numbers:
    """The rows in the order of a fixed hash of their numbers: the same everywhere."""
    numbers = mix(rows.astype(np.uint64) + mix(np.array([seed], np.uint64) + np.uint64(1)))
    return rows[np.argsort(numbers, kind="stable")]


def _spend_at_random(rows: Numbers, budget: SampleBudget, seed: int, allowance: int) -> None:
    budget.spend(budget.fit(in_random_order(rows, seed), allowance))


# A request carried out: which rows are chosen, and why the others aren't

EXCLUDED, NO_STYLE, NO_RATING, NOT_SELECTED = "excluded", "no_style", "no_rating", "not_selected"
REASONS = (EXCLUDED, NO_STYLE, NO_RATING, NOT_SELECTED)
"""Why a row that is `ok` isn't chosen."""


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
        said = pl.Series(words, dtype=pl.String).gather(reason)
        return pl.DataFrame({"keep": keep, "reason": said, "score": score})


def choose(rated: RatedSamples, options: SelectOptions) -> Choice:
    """Carry out a request; raises RequestError where it doesn't fit what was rated."""
    required, missing = _listed(rated, options.require)
    if missing:
        raise RequestError(
            f"--require {options.require}: {len(missing):,} of its keys aren't there "
            f"({min(missing)!r}): take them out of the file"
        )
    excluded, missing = _listed(rated, options.exclude)
    found = choose_among(rated.pool, options, required, excluded)
    if missing:
        note = f"--exclude {options.exclude}: {len(missing):,} of its keys aren't there"
        found.notes.insert(0, note)
    return found


def choose_among(
    pool: Pool,
    options: SelectOptions,
    required: Bools,
    excluded: Bools,
    brought: Brought | None = None,
) -> Choice:
    """Choose from a pool, required rows first and excluded ones never; both are bool [rows]."""
    notes: list[str] = []
    wanted, shares = options.wanted(pool.rows), options.shares(list(pool.ratings))
    usable = pool.is_ok & ~excluded
    if pool.tokens is not None:
        without = int((usable & (pool.tokens < 1)).sum())
        if without:
            notes.append(f"{counted(without, 'samples')} without num_tokens above 0: not chosen")
        usable &= pool.tokens > 0
    budget = SampleBudget(wanted, usable, pool.tokens, pool.sources, _quotas(pool, options, wanted))
    _require(required, usable, budget, options)
    usable = usable & ~required
    if options.strategy == "mmssr":
        if pool.rows and not required.any() and not (usable & pool.is_above(options.above)).any():
            raise RequestError(
                f"--above {options.above:g}: no ratings above {options.above:g} among the samples "
                "that may be chosen: say a lower number"
            )
        choose_in_rounds(pool, usable, budget, options.above, shares, brought)
    elif options.strategy == "top-mean":
        choose_top_means(pool, usable, budget, options.above)
    elif options.strategy == "random":
        _spend_at_random(np.flatnonzero(usable), budget, options.seed, budget.left)
    else:
        choose_per_source(pool, usable, budget, options.seed)
    if budget.left > 0:
        notes.append(_unmet(budget, options))
    spent = budget.total - budget.left
    return Choice(options, pool, budget.chosen, excluded, wanted, spent, notes)


def decide(
    rated: RatedSamples, choice: Choice, fingerprint: dict[str, str], advance: Advance
) -> DecisionRows:
    """Every row's name and decision, read and counted as they are asked for."""

    def rows() -> Iterator[tuple[Origins, pl.DataFrame]]:
        row = 0
        for origins, named in rated.named():
            yield origins, named.hstack(choice.decisions(row, row + named.height))
            row += named.height

    return DecisionRows(rows(), rated.files, fingerprint, {"budget": str(choice.budget)}, advance)


def _unmet(budget: SampleBudget, options: SelectOptions) -> str:
    if options.budget_tokens is not None:
        spent = budget.total - budget.left
        return f"{spent:,} of {budget.total:,} tokens: no sample left to choose fits into the rest"
    missing = f"the budget of {budget.total:,} can't be met: {budget.left:,} missing"
    if options.strategy in ("mmssr", "top-mean"):
        return f"{missing}, no more samples have a rating above {options.above:g} and may be chosen"
    return f"{missing}, no more samples may be chosen"


_NO_SOURCE = "no row has an image_source: rate again, and say where it is with --source-column"


def _quotas(pool: Pool, options: SelectOptions, budget: int) -> dict[int, int]:
    quotas = options.quotas(budget)
    for name in quotas:
        if name not in pool.source_names:
            known = ", ".join(sorted(pool.source_names)[:20])
            there = f"no such image source; there are {known}" if known else _NO_SOURCE
            raise RequestError(f"--source-quota {name}: {there}")
    return {pool.source_names.index(name): quota for name, quota in quotas.items()}


def _require(required: Bools, usable: Bools, budget: SampleBudget, options: SelectOptions) -> None:
    rows = np.flatnonzero(required)
    if not len(rows):
        return
    if not usable[rows].all():
        raise RequestError(
            f"--require {options.require}: {int((~usable[rows]).sum()):,} of its samples can't be "
            "chosen (not ok, excluded, or without num_tokens): take them out of the file"
        )
    if len(budget.fit(rows, budget.left)) < len(rows):
        raise RequestError(
            f"--require {options.require}: its samples cost {budget.cost(rows)}, more than the "
            f"budget of {budget.total} or the sources' quotas: raise these, or require fewer"
        )
    budget.spend(rows)


def _listed(rated: RatedSamples, path: Path | None) -> tuple[Bools, set[str]]:
    """The rows whose keys are in a file of keys, and those of its keys that no row has."""
    found = np.zeros(rated.pool.rows, bool)
    keys = [] if path is None else read_keys(path)
    listed, missing = pl.Series(keys, dtype=pl.String).implode(), set(keys)
    start = 0
    for _, named in rated.named() if keys else ():
        is_listed = named["key"].is_in(listed)
        found[start : start + named.height] = is_listed.to_numpy()
        missing.difference_update(named["key"].filter(is_listed))
        start += named.height
    return found, missing


# What pool and subset hold, in numbers to compare


@dataclass(frozen=True, slots=True)
class Held:
    """How many samples hold something, and for a capability the mean of their ratings."""

    pool: int
    subset: int
    pool_mean: float | None = None
    subset_mean: float | None = None


def held(choice: Choice) -> tuple[dict[str, Held], dict[str, Held]]:
    """Capability -> ratings above the number asked for; style -> samples; of rows that are ok."""
    pool = choice.pool
    chosen = np.flatnonzero(choice.chosen)
    ok: np.ndarray | slice = slice(None) if pool.is_ok.all() else np.flatnonzero(pool.is_ok)
    capabilities = {}
    for name, ratings in pool.ratings.items():
        above, values = ratings.rank_of(choice.options.above) + 1, ratings.values
        every, own = (np.bincount(ratings.ranks[r], minlength=len(values)) for r in (ok, chosen))
        means = _mean(every[1:], values[1:]), _mean(own[1:], values[1:])
        capabilities[name] = Held(int(every[above:].sum()), int(own[above:].sum()), *means)
    styles: dict[str, npt.NDArray[np.int64]] = {}
    groups = [pool.groups.counts(rows) for rows in (np.flatnonzero(pool.is_ok), chosen)]
    for style, counts in zip(pool.groups.styles, np.stack(groups, axis=1), strict=True):
        styles[style] = styles.get(style, np.zeros(2, np.int64)) + counts
    return capabilities, {s: Held(*counts.tolist()) for s, counts in sorted(styles.items())}


def printed(capabilities: dict[str, Held], styles: dict[str, Held], above: float) -> list[str]:
    """The lines of a summary."""
    width = max(map(len, [*capabilities, *styles, "capability"]), default=0)
    over = f"above {above:g}"
    titles = f"{'pool: mean':>10} {over:>11}  {'subset: mean':>12} {over:>11}"
    lines = [f"{'capability':{width}}  {titles}"]
    for name, each in capabilities.items():
        means = (each.pool_mean, each.subset_mean)
        pool, subset = ("-" if mean is None else f"{mean:.3f}" for mean in means)
        numbers = f"{pool:>10} {each.pool:>11,}  {subset:>12} {each.subset:>11,}"
        lines.append(f"{name:{width}}  {numbers}")
    lines.append(f"{'style':{width}}  {'pool':>22}  {'subset':>24}")
    for name, each in styles.items():
        lines.append(f"{name or '(empty)':{width}}  {each.pool:>22,}  {each.subset:>24,}")
    return lines


def _mean(counts: np.ndarray, values: np.ndarray) -> float | None:
    total = counts.sum()
    return float(np.dot(counts, values) / total) if total else None
