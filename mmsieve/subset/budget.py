"""Budget: how much may be chosen, in samples or tokens, and how much of each image source."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mmsieve.subset.numbering import Bools, Numbers


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
