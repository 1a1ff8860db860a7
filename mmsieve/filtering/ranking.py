"""Exact top-k per group over more rows than memory holds, with ties broken by a stable hash.

Values are mapped to integers of the same order and kept in temporary files. Each pass over them
counts the values in bins between the lowest and highest that a group's threshold can still have,
and keeps the bin that it falls into; once few enough rows are left between them, those are sorted.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

Records: TypeAlias = npt.NDArray[np.void]
Numbers: TypeAlias = npt.NDArray[np.uint64]
Counts: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Blocks: TypeAlias = Callable[[], Iterable[npt.NDArray[Any]]]

# Numbers of all rows on disk, so that memory doesn't grow with the data

BLOCK = 1 << 20
"""Records read at a time."""


class ColumnFile:
    """A temporary file of records of one dtype, appended in order, read in blocks or by range."""

    def __init__(self, folder: Path, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self.rows = 0
        self._path = folder / f"{uuid4().hex}.column"
        self._path.touch()

    def append(self, records: npt.NDArray[Any]) -> None:
        """Add records of the file's dtype at the end."""
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


# Numbers as integers of the same order

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


def from_ordered(values: Numbers, dtype: pl.DataType) -> pl.Series:
    """The numbers that `ordered` made these integers of."""
    if dtype.is_unsigned_integer():
        return pl.Series(values).cast(dtype)
    if dtype.is_integer():
        return pl.Series((values ^ _SIGN).view(np.int64)).cast(dtype)
    bits = np.where(values & _SIGN, values & ~_SIGN, ~values)
    return pl.Series(bits.view(np.float64)).cast(dtype)


# Thresholds: which rows are the highest of their group

RANKED = np.dtype([("value", "<u8"), ("group", "<u4")])
"""What is kept of a ranked row: its value as an ordered integer, and its group's code."""

CELLS = 1 << 21
"""Bins of one pass, over all groups."""
COLLECT = 1 << 21
"""So many rows are sorted in memory."""


@dataclass(frozen=True)
class Thresholds:
    """The threshold of each group, above which its highest rows are."""

    at: Numbers
    """The lowest value that is kept; the highest integer where nothing is."""
    ties: Counts
    """So many of the rows that are equal to it are kept."""
    equal: Counts
    """So many rows are equal to it."""

    def above(self, ranked: npt.NDArray[Any]) -> Mask:
        """Rows that are kept whatever happens to ties."""
        at = self.at[ranked["group"]]
        whole = (self.ties == self.equal)[ranked["group"]]
        above: Mask = (ranked["value"] > at) | (ranked["value"] == at) & whole
        return above

    def tied(self, ranked: npt.NDArray[Any]) -> Mask:
        """Rows at a threshold that keeps some of its equals and not others."""
        tied: Mask = ranked["value"] == self.at[ranked["group"]]
        tied &= self.is_open()[ranked["group"]]
        return tied

    def is_open(self) -> Mask:
        """Groups whose threshold keeps some of the rows that are equal to it, and not others."""
        return (self.ties > 0) & (self.ties < self.equal)


def find_thresholds(blocks: Blocks, wanted: Counts) -> Thresholds:
    """The thresholds that keep the `wanted[g]` highest rows of each group g, or all of fewer.

    `blocks` is called for every pass, and gives RANKED records.
    """
    state = _Narrowing(blocks, wanted)
    while len(state.active):
        if state.rows_inside() <= COLLECT:
            state.collect()
        else:
            state.narrow()
    found = Thresholds(state.low, state.wanted, state.equal)
    # what was found may lie anywhere between the lowest value that is kept and the next one
    lowest = np.where(found.is_open(), found.at, _HIGHEST)
    for block in blocks():
        _extreme(np.minimum, lowest, block[found.above(block)])
    return replace(found, at=lowest)


def _extreme(least_or_most: np.ufunc, found: Numbers, ranked: npt.NDArray[Any]) -> None:
    """Update each group's lowest or highest value."""
    if len(found) == 1 and len(ranked):  # a tenth of the time
        found[0] = least_or_most(found[0], least_or_most.reduce(ranked["value"]))
    else:
        least_or_most.at(found, ranked["group"], ranked["value"])


class _Narrowing:
    """Each group's range that its threshold can be in, and how many of its rows are wanted."""

    def __init__(self, blocks: Blocks, wanted: Counts) -> None:
        groups = len(wanted)
        self._blocks = blocks
        self.low = np.full(groups, _HIGHEST)
        self.high = np.zeros(groups, np.uint64)
        self.equal = np.zeros(groups, np.int64)
        """Rows inside the range: equal to the threshold once the range is a single value."""
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
        """One pass: each range becomes the one of its bins that the threshold falls into."""
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
        self.low[active] += (bins - 1 - chosen).astype(np.uint64) * width[active]
        low, step = self.low[active], width[active] - np.uint64(1)
        self.high[active] = low + np.minimum(step, self.high[active] - low)
        self._settle()


class KeptTies:
    """Which rows at a threshold are kept: the highest by another value, then the first to come."""

    def __init__(self, folder: Path) -> None:
        self._file = ColumnFile(folder, RANKED)
        self._read = 0
        self._thresholds: Thresholds | None = None
        self._left: Counts = np.zeros(0, np.int64)

    def add(self, values: Numbers, groups: npt.NDArray[np.uint32]) -> None:
        """Add tied rows, in the order in which they will be asked for."""
        self._file.append(np.rec.fromarrays([values, groups], dtype=RANKED))

    def settle(self, wanted: Counts) -> None:
        """Keep `wanted` of each group's tied rows."""
        self._thresholds = find_thresholds(self._file.blocks, wanted)
        self._left = self._thresholds.ties.copy()

    def take(self, count: int) -> Mask:
        """Whether each of the next `count` tied rows is kept."""
        assert self._thresholds is not None, "settle first"
        ranked = self._file.read(self._read, self._read + count)
        self._read += count
        kept = self._thresholds.above(ranked)
        for row in np.flatnonzero(self._thresholds.tied(ranked)):  # of one key and shard: rare
            group = ranked["group"][row]
            kept[row] = self._left[group] > 0
            self._left[group] -= 1
        return kept


# A hash of strings that is the same on every machine and in every version

_WORD = 8
_SHARD_BITS = np.uint64(24)
_SEED = np.uint64(0x9E3779B97F4A7C15)


def hash_strings(strings: pl.Series) -> Numbers:
    """One hash per string; a null hashes like an empty string.

    Decisions depend on it, so it never changes: neither Python's nor polars' own hash promises
    that. Over a string's UTF-8 bytes as little-endian 8-byte words, the last filled up with zeros:
    `h = mix(bytes + 0x9E3779B97F4A7C15)`, then `h = mix(h ^ word)` for each word, modulo 2**64.
    """
    data, starts, sizes = _buffers(strings)
    hashes = mix(sizes.astype(np.uint64) + _SEED)
    words = np.ndarray((len(data) - _WORD + 1,), "<u8", buffer=data, strides=(1,))
    rows = np.flatnonzero(sizes > 0)
    done = 0
    while len(rows):
        word = words[starts[rows] + done]
        left = sizes[rows] - done
        unused = np.clip(_WORD - left, 0, _WORD - 1).astype(np.uint64) * np.uint64(8)
        hashes[rows] = mix(hashes[rows] ^ (word & (~np.uint64(0) >> unused)))
        rows = rows[left > _WORD]
        done += _WORD
    return hashes


def hash_samples(keys: pl.Series, shards: pl.Series) -> Numbers:
    """One hash per sample, by which ties at a threshold are broken: the highest are kept.

    The same key in several shards is told apart by a hash of the shard's name in the last bits.
    """
    last = hash_strings(shards) >> (np.uint64(64) - _SHARD_BITS)
    return hash_strings(keys) >> _SHARD_BITS << _SHARD_BITS | last


def _buffers(strings: pl.Series) -> tuple[bytes, np.ndarray, np.ndarray]:
    """The bytes of all strings and a word of zeros, and each string's start and size in them."""
    array = strings.cast(pl.String).fill_null("").to_arrow(compat_level=pl.CompatLevel.oldest())
    array = array.cast(pa.large_string())
    _, offsets, data = array.buffers()
    begin = np.frombuffer(offsets, "<i8", count=len(array) + 1, offset=array.offset * 8)
    padded = (b"" if data is None else data.to_pybytes()) + bytes(_WORD)
    return padded, begin[:-1], np.diff(begin)


def mix(values: Numbers) -> Numbers:
    """The finaliser of SplitMix64: spreads numbers over all of the 64 bits, one to one."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
