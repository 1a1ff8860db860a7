"""Exact top-k cuts, per group, over more rows than memory holds.

Values are mapped to integers of the same order. Each pass over the spooled values counts them in
bins between the lowest and highest value that the cut can still have, and keeps the bin where the
cut falls; once few enough rows are left between them, those are sorted.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import polars as pl

# Spool: numbers kept on disk while a cut is found, so that memory doesn't grow with the data

Records: TypeAlias = npt.NDArray[np.void]
Numbers: TypeAlias = npt.NDArray[np.uint64]

BLOCK = 1 << 20
"""Records read at a time."""


class Spool:
    """Records of one dtype, appended in order and then read in blocks or by range."""

    def __init__(self, folder: Path, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self.rows = 0
        self._path = folder / f"{uuid4().hex}.spool"
        self._path.touch()

    def append(self, records: npt.NDArray[Any]) -> None:
        """Add records of the spool's dtype at the end."""
        with self._path.open("ab") as file:
            records.tofile(file)
        self.rows += len(records)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """The records from `start` to before `stop`."""
        count = min(stop, self.rows) - start
        offset = start * self.dtype.itemsize
        return np.fromfile(self._path, self.dtype, count=max(count, 0), offset=offset)

    def blocks(self, rows: int = BLOCK) -> Iterator[npt.NDArray[Any]]:
        """All records in order, some at a time."""
        for start in range(0, self.rows, rows):
            yield self.read(start, start + rows)


def records(dtype: npt.DTypeLike, **fields: npt.ArrayLike) -> Records:
    """Records from one array per field."""
    size = len(np.asarray(next(iter(fields.values()))))
    made = np.empty(size, dtype)
    for name, values in fields.items():
        made[name] = values
    return made


# Exact top-k cuts, per group, over more rows than memory holds

Counts: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Blocks: TypeAlias = Callable[[], Iterable[npt.NDArray[Any]]]

RANKED = np.dtype([("value", "<u8"), ("group", "<u4")])
"""What is spooled of a row: its value as an ordered integer, and the number of its group."""

CELLS = 1 << 21
"""Bins of one pass, over all groups."""
COLLECT = 1 << 21
"""So many rows are sorted in memory."""

_SIGN = np.uint64(1 << 63)
_HIGHEST = np.uint64((1 << 64) - 1)


def ordered(values: pl.Series) -> Numbers:
    """Integers in the order of the numbers: exact for integers up to 64 bits and for floats."""
    if values.dtype.is_unsigned_integer():
        return values.cast(pl.UInt64).to_numpy().astype(np.uint64)
    if values.dtype.is_integer():
        return values.cast(pl.Int64).to_numpy().view(np.uint64) ^ _SIGN
    floats = values.cast(pl.Float64).to_numpy() + 0.0  # one zero, not two
    bits = floats.view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def numbers(values: Numbers, dtype: pl.DataType) -> pl.Series:
    """The numbers that `ordered` made these integers of."""
    if dtype.is_unsigned_integer():
        return pl.Series(values).cast(dtype)
    if dtype.is_integer():
        return pl.Series((values ^ _SIGN).view(np.int64)).cast(dtype)
    bits = np.where(values & _SIGN, values & ~_SIGN, ~values)
    return pl.Series(bits.view(np.float64)).cast(dtype)


@dataclass(frozen=True)
class Cut:
    """Where the cut of each group falls."""

    at: Numbers
    """The lowest value that is kept; the highest integer where nothing is."""
    ties: Counts
    """So many of the rows that are equal to it are kept."""
    equal: Counts
    """So many rows are equal to it."""

    def above(self, ranked: npt.NDArray[Any]) -> Mask:
        """Rows that are kept whatever happens to ties."""
        at = self.at[ranked["group"]]
        whole = self.ties == self.equal
        equal: Mask = (ranked["value"] == at) & whole[ranked["group"]]
        above: Mask = (ranked["value"] > at) | equal
        return above

    def tied(self, ranked: npt.NDArray[Any]) -> Mask:
        """Rows at a cut that keeps some of its equals and not others."""
        tied: Mask = ranked["value"] == self.at[ranked["group"]]
        tied &= self.is_open()[ranked["group"]]
        return tied

    def is_open(self) -> Mask:
        """Groups whose cut keeps some of the rows that are equal to it, and not others."""
        return (self.ties > 0) & (self.ties < self.equal)


def find_cut(blocks: Blocks, wanted: Counts) -> Cut:
    """The cut that keeps the `wanted[g]` highest rows of each group g, or all if there are fewer.

    `blocks` is called for every pass, and gives RANKED records.
    """
    state = _Narrowing(blocks, wanted)
    while len(state.active):
        if state.rows_inside() <= COLLECT:
            state.collect()
        else:
            state.narrow()
    return Cut(
        _lowest(blocks, Cut(state.low, state.wanted, state.equal)), state.wanted, state.equal
    )


def _lowest(blocks: Blocks, cut: Cut) -> Numbers:
    """The lowest value that is kept: a cut may lie anywhere between that and the next one."""
    lowest = np.where(cut.is_open(), cut.at, _HIGHEST)
    for block in blocks():
        above = block[cut.above(block)]
        _extreme(np.minimum, lowest, above)
    return lowest


def _extreme(least_or_most: np.ufunc, found: Numbers, ranked: npt.NDArray[Any]) -> None:
    """Update each group's lowest or highest value."""
    if len(found) == 1 and len(ranked):  # a tenth of the time
        found[0] = least_or_most(found[0], least_or_most.reduce(ranked["value"]))
    else:
        least_or_most.at(found, ranked["group"], ranked["value"])


class _Narrowing:
    """The range that each group's cut can still be in, and how many rows of it are wanted."""

    def __init__(self, blocks: Blocks, wanted: Counts) -> None:
        groups = len(wanted)
        self._blocks = blocks
        self.low = np.full(groups, _HIGHEST)
        self.high = np.zeros(groups, np.uint64)
        self.equal = np.zeros(groups, np.int64)
        """Rows inside the range: equal to the cut once the range is a single value."""
        for block in blocks():
            _extreme(np.minimum, self.low, block)
            _extreme(np.maximum, self.high, block)
            self.equal += np.bincount(block["group"], minlength=groups)
        self.wanted = np.minimum(wanted, self.equal)
        self._settle()

    def _settle(self) -> None:
        """Groups that keep all or nothing, or whose range is one value, need no further pass."""
        nothing = self.wanted == 0
        self.low[nothing] = self.high[nothing] = _HIGHEST
        self.equal[nothing] = 1
        everything = self.wanted == self.equal
        self.high[everything] = self.low[everything]
        self.active = np.flatnonzero(self.low < self.high)

    def rows_inside(self) -> int:
        """Rows between low and high of the groups that aren't settled."""
        return int(self.equal[self.active].sum())

    def _inside(self) -> Iterator[npt.NDArray[Any]]:
        is_active = np.zeros(len(self.low), bool)
        is_active[self.active] = True
        for block in self._blocks():
            group, value = block["group"], block["value"]
            inside = is_active[group] & (value >= self.low[group]) & (value <= self.high[group])
            yield block[inside]

    def collect(self) -> None:
        """Settle all groups by sorting what is left of them."""
        left = np.concatenate([block.copy() for block in self._inside()])
        left = left[np.lexsort((left["value"], left["group"]))]
        ends = np.searchsorted(left["group"], self.active, side="right")
        at = self.low.copy()
        at[self.active] = left["value"][ends - self.wanted[self.active]]
        count = len(at)
        above = np.bincount(left["group"][left["value"] > at[left["group"]]], minlength=count)
        equal = np.bincount(left["group"][left["value"] == at[left["group"]]], minlength=count)
        self.low[self.active] = self.high[self.active] = at[self.active]
        self.wanted -= above
        self.equal[self.active] = equal[self.active]
        self.active = self.active[:0]

    def narrow(self) -> None:
        """One pass: each range becomes the one of its bins in which the cut falls."""
        active = self.active
        bins = max(2, CELLS // len(active))
        slot = np.zeros(len(self.low), np.int64)
        slot[active] = np.arange(len(active))
        width = (self.high - np.minimum(self.low, self.high)) // np.uint64(bins) + np.uint64(1)
        counts = np.zeros(len(active) * bins, np.int64)
        for block in self._inside():
            group = block["group"]
            cell = (block["value"] - self.low[group]) // width[group]
            cell = slot[group] * bins + cell.astype(np.int64)
            counts += np.bincount(cell, minlength=len(counts))
        by_bin = counts.reshape(len(active), bins)[:, ::-1]  # highest first
        reached = by_bin.cumsum(axis=1)
        chosen = (reached >= self.wanted[active, None]).argmax(axis=1)
        every = np.arange(len(active))
        self.equal[active] = by_bin[every, chosen]
        self.wanted[active] -= reached[every, chosen] - by_bin[every, chosen]
        step = width[active] - np.uint64(1)
        self.low[active] += (bins - 1 - chosen).astype(np.uint64) * width[active]
        self.high[active] = self.low[active] + np.minimum(
            step, self.high[active] - self.low[active]
        )
        self._settle()


class KeptTies:
    """Which rows at the cut are kept: those whose tie value is highest, then the first to come."""

    def __init__(self, folder: Path, groups: int) -> None:
        self._spool = Spool(folder, RANKED)
        self._groups = groups
        self._read = 0
        self._cut: Cut | None = None
        self._left: Counts = np.zeros(groups, np.int64)

    def add(self, values: Numbers, groups: npt.NDArray[np.uint32]) -> None:
        """Add tied rows, in the order in which they will be asked for."""
        self._spool.append(records(RANKED, value=values, group=groups))

    def settle(self, wanted: Counts) -> None:
        """Keep `wanted` of each group's tied rows."""
        self._cut = find_cut(self._spool.blocks, wanted)
        self._left = self._cut.ties.copy()

    def take(self, count: int) -> Mask:
        """Whether each of the next `count` tied rows is kept."""
        assert self._cut is not None, "settle first"
        ranked = self._spool.read(self._read, self._read + count)
        self._read += count
        kept = self._cut.above(ranked)
        for row in np.flatnonzero(self._cut.tied(ranked)):  # equal in key and shard too: rare
            group = ranked["group"][row]
            kept[row] = self._left[group] > 0
            self._left[group] -= 1
        return kept
