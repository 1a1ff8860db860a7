"""The mmSSR selection (arXiv 2503.13383, released code): rounds of choices within a budget.

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

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from mmsieve.selection.groups import Bools, Groups, Members, Numbers
from mmsieve.selection.pool import Pool

# Budget: how much may be chosen, in samples or tokens, and how much of each image source


class Budget:
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
        self._sources = sources
        self._quotas = None
        if sources is not None and quotas:
            self._quotas = np.full(int(sources.max(initial=0)) + 1, len(usable), np.int64)
            for source, quota in quotas.items():
                self._quotas[source] = quota
        costs = np.ones(1, np.int64) if tokens is None else tokens[usable & (tokens > 0)]
        self.dearest = int(costs.max(initial=1))
        """What one sample can cost: a capability's least share, so that it can choose at all."""
        self.usual = int(np.ceil(costs.mean())) if len(costs) else 1
        """What one sample costs on average: a group's least share."""

    def fit(self, rows: Numbers, allowance: int) -> Numbers:
        """As many of the rows, in order, as the allowance pays for and the sources' quotas allow.

        A sample that is dearer than all of the allowance is passed over.
        """
        if self._tokens is not None:
            rows = rows[self._tokens[rows] <= allowance]
        if self._quotas is not None:
            rows = self._within_quotas(rows)
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
        if self._quotas is not None and self._sources is not None:
            self._quotas -= np.bincount(self._sources[rows], minlength=len(self._quotas))
        return cost

    def used_up(self) -> Bools | None:
        """Whether nothing more of each row's source may be chosen; None where none has a quota."""
        if self._quotas is None or self._sources is None:
            return None
        return (self._quotas <= 0)[self._sources]

    def _within_quotas(self, rows: Numbers) -> Numbers:
        """The rows without those that come when enough of their source came before."""
        assert self._quotas is not None and self._sources is not None, "there are quotas"
        sources = self._sources[rows]
        by_source = np.argsort(sources, kind="stable")
        inside = sources[by_source]
        nth = np.arange(len(rows)) - np.searchsorted(inside, inside, side="left")
        return rows[np.sort(by_source[nth < self._quotas[inside]])]


# The mmSSR selection (arXiv:2503.13383, released code): rounds of rich, diverse choices


def choose_in_rounds(
    pool: Pool, usable: Bools, budget: Budget, above: float, shares: Sequence[Fraction]
) -> None:
    """Spend the budget on usable rows with ratings above a number, as far as there are any.

    `shares` are the capabilities' parts of what is missing, in their order.
    """
    rounds = Rounds(pool, usable, budget, above)
    live = list(range(len(pool.ratings)))
    while live and budget.left > 0:
        together = sum(shares[number] for number in live)
        quotas = [max(int(budget.left * shares[n] / together), budget.dearest) for n in live]
        live = [
            number
            for number, quota in zip(live, quotas, strict=True)
            if rounds.choose(number, min(quota, budget.left))
        ]


class Rounds:
    """What is left to choose from, and how much of it each group has for each capability."""

    def __init__(self, pool: Pool, usable: Bools, budget: Budget, above: float) -> None:
        self._budget = budget
        self._groups: Groups = pool.groups
        self._members: Members = pool.groups.ordered(usable, pool.order)
        self._ranks = [ratings.ranks for ratings in pool.ratings.values()]
        self._least = [ratings.rank_of(above) for ratings in pool.ratings.values()]
        used_up = budget.used_up()
        self._left = usable if used_up is None else usable & ~used_up
        self._left = self._left.astype(np.uint8)  # as numbers: to multiply by
        self._sizes = [
            self._members.counts((ranks > least) & (self._left > 0))
            for ranks, least in zip(self._ranks, self._least, strict=True)
        ]

    def choose(self, capability: int, quota: int) -> int:
        """One capability's choice in a round: returns how many rows it chose."""
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
        every = np.concatenate(chosen)
        self._leave_out(every)
        self._leave_out_sources()
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
        """Count rows no more."""
        self._left[rows] = 0
        owners, groups = self._groups.of(rows)
        for ranks, least, sizes in zip(self._ranks, self._least, self._sizes, strict=True):
            counted = groups[(ranks[rows] > least)[owners]]
            sizes -= np.bincount(counted, minlength=len(sizes))

    def _leave_out_sources(self) -> None:
        """Count the rows no more whose source has no quota left."""
        used_up = self._budget.used_up()
        if used_up is not None:
            self._leave_out(np.flatnonzero(used_up & (self._left > 0)))
