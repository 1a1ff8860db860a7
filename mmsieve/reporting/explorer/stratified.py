"""A stratified sample of a table's rows: the same rows give the same sample, in whatever order.

From each stratum the rows of the lowest hashes of their names are taken, so that every row of a
stratum is as likely as any other. How many rows a stratum has says how many each taken one stands
for.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from mmsieve.filtering.ids import hash_samples

_SPARE = 4
"""So many times its share may be kept of a stratum while it isn't known how many there are."""


class StratifiedSample:
    """Takes rows, by stratum those of the lowest hashes, up to a number in all."""

    def __init__(self, most: int, strata: int) -> None:
        """`strata`: how many there are at most, numbered from 0."""
        self._most = most
        self._room = min(most, max(1, _SPARE * most // strata + 1))
        self._limits = np.full(strata, np.iinfo(np.uint64).max, np.uint64)
        self._taken: pl.DataFrame | None = None
        self.sizes = np.zeros(strata, np.int64)
        """Rows of each stratum."""

    def add(self, frame: pl.DataFrame) -> None:
        """Add rows that have `key`, `shard` and `stratum`."""
        stratum = frame["stratum"].to_numpy()
        self.sizes += np.bincount(stratum, minlength=len(self.sizes))
        hashes = hash_samples(frame["key"], frame["shard"])
        low = pl.Series(hashes <= self._limits[stratum])
        found = frame.with_columns(pl.Series("hash", hashes)).filter(low)
        both = found if self._taken is None else pl.concat([self._taken, found])
        self._taken = self._lowest(both, self._room)
        full = self._taken.group_by("stratum").agg(pl.len(), pl.col("hash").max())
        full = full.filter(pl.col("len") >= self._room)
        self._limits[full["stratum"].to_numpy()] = full["hash"].to_numpy()

    def _lowest(self, frame: pl.DataFrame, rooms: int | pl.Expr) -> pl.DataFrame:
        ordered = frame.sort("stratum", "hash", "shard", "key", "place")
        return ordered.filter(pl.int_range(pl.len()).over("stratum") < rooms)

    def take(self) -> pl.DataFrame:
        """The sample, in the order of the strata; `weight` is how many rows each stands for."""
        if self._taken is None:
            raise ValueError("no rows")
        there = np.bincount(self._taken["stratum"].to_numpy(), minlength=len(self.sizes))
        shares = fair_shares(there, self._most)
        roomy = pl.Series("room", shares[self._taken["stratum"].to_numpy()])
        taken = self._lowest(self._taken.with_columns(roomy), pl.col("room"))
        counts = np.bincount(taken["stratum"].to_numpy(), minlength=len(self.sizes))
        weights = self.sizes / np.maximum(counts, 1)
        return taken.drop("room").with_columns(
            pl.Series("weight", weights[taken["stratum"].to_numpy()])
        )


def fair_shares(there: Sequence[int] | npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """How many to take of each stratum: as equal as can be, all of those that have fewer."""
    have = np.asarray(there, np.int64)
    shares = np.zeros_like(have)
    left = most
    while left > 0 and (short := have > shares).any():
        each = left // int(short.sum())
        if not each:  # a few are left: to the first ones
            shares[np.flatnonzero(short)[:left]] += 1
            break
        step = np.where(short, np.minimum(have - shares, each), 0)
        shares += step
        left -= int(step.sum())
    return shares
