"""Pool: all that a selection is made from, as columns of small numbers."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mmsieve.subset.groups import Groups
from mmsieve.subset.numbering import Bools, Numbers, Ratings


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Rated samples, row by row; nothing in it depends on how they were cut into files."""

    ratings: dict[str, Ratings]
    """Capability -> its ratings, in the order in which capabilities choose."""
    groups: Groups
    sources: Numbers
    """The number of each row's image source."""
    source_names: list[str]
    statuses: Numbers
    """The number of each row's status: 0 is ok."""
    status_names: list[str]
    order: Numbers | None = None
    """The order of rows that breaks ties, where it isn't their own."""
    tokens: npt.NDArray[np.int64] | None = None
    """Text and image tokens of each row, 0 where that isn't known."""

    @property
    def rows(self) -> int:
        """All rows."""
        return len(self.statuses)

    @cached_property
    def is_ok(self) -> Bools:
        """Whether each row is ok, so that it can be chosen."""
        is_ok: Bools = self.statuses == 0
        return is_ok

    def means(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The mean of each row's ratings, NaN where it has none."""
        count = len(self.statuses[start:stop])
        total, rated = np.zeros(count), np.zeros(count, np.int32)
        for ratings in self.ratings.values():
            ranks = ratings.ranks[start:stop]
            total += ratings.values[ranks]
            rated += ranks > 0
        with np.errstate(invalid="ignore"):
            return total / rated

    def is_above(self, above: float, start: int = 0, stop: int | None = None) -> Bools:
        """Whether any of each row's ratings is above the number."""
        found = np.zeros(len(self.statuses[start:stop]), bool)
        for ratings in self.ratings.values():
            found |= ratings.ranks[start:stop] > ratings.rank_of(above)
        return found
