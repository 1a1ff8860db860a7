"""Values as small numbers: ratings as ranks among their distinct values, texts as they come."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

Numbers: TypeAlias = npt.NDArray[np.integer[Any]]
Bools: TypeAlias = npt.NDArray[np.bool_]

_MOST_COUNTED = 1 << 16
"""Integers over a range no larger than this are ranked by counting, others by sorting."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """One capability's ratings: of each row its rank, and the value that each rank stands for."""

    ranks: Numbers
    """uint8, 16 or 32 [rows]: 0 without a rating, else 1 for the lowest value there is, and so on.
    Integers of a few values need one byte a row, and no comparison of ratings ever rounds."""
    values: npt.NDArray[Any]
    """[1 + ranks], ascending from the second on, in the type of the column; the first is 0."""

    def rank_of(self, above: float) -> int:
        """The highest rank whose value isn't above the number; 0 where all are."""
        is_exact = self.values.dtype.kind in "iu" and math.isfinite(above)
        number = math.floor(above) if is_exact else above
        return int(np.searchsorted(self.values[1:], number, side="right"))


def rank(parts: Sequence[pl.Series]) -> Ratings:
    """The ratings of a numeric column, given in parts; null and NaN are no rating."""
    values = pl.concat(parts, rechunk=True) if parts else pl.Series(dtype=pl.Int8)
    is_integer = values.dtype.is_integer()
    known = values.is_not_null() if is_integer else values.is_finite() | values.is_infinite()
    rated = None if known.all() and not values.null_count() else known.fill_null(False).to_numpy()
    array = (values if rated is None else values.fill_null(0)).to_numpy()
    some = array if rated is None else array[rated]
    if is_integer and len(some) and int(some.max()) - int(some.min()) < _MOST_COUNTED:
        distinct, number = _counted(some, array)
    else:
        distinct, inverse = np.unique(some, return_inverse=True)
        number = np.zeros(len(array), np.int64)
        number[slice(None) if rated is None else rated] = inverse + 1
    ranks = number.astype(_smallest(len(distinct)), copy=False)
    if rated is not None:
        ranks[~rated] = 0
    return Ratings(ranks, np.concatenate([np.zeros(1, distinct.dtype), distinct]))


def _counted(some: npt.NDArray[Any], array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Numbers]:
    """The distinct values, and of each in `array` its place among them (from 1), by counting."""
    low = int(some.min())
    size = int(some.max()) - low + 1
    wide = np.int16 if some.dtype.itemsize == 1 else np.int64  # no overflow
    present = np.bincount(some.astype(wide) - low, minlength=size) > 0
    places = np.cumsum(present).astype(_smallest(int(present.sum())))
    at = np.clip(array.astype(wide) - low, 0, size - 1)  # what stands for null may be outside
    distinct = (np.flatnonzero(present) + low).astype(some.dtype)
    return distinct, places[at]


def _smallest(most: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if most < 1 << 8 else np.uint16 if most < 1 << 16 else np.uint32


def narrowed(numbers: Numbers, most: int) -> Numbers:
    """The numbers, none above `most`, in the smallest unsigned type."""
    return numbers.astype(_smallest(most), copy=False)


class Texts:
    """Texts numbered in the order in which they come; null is an empty text."""

    def __init__(self, clean: Callable[[str], str | None] = lambda text: text) -> None:
        """`clean` gives what a text counts as; None: as nothing, with the number -1."""
        self._clean = clean
        self._numbers: dict[str, int] = {}
        self._seen: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """The texts by their numbers."""
        return list(self._numbers)

    def number(self, values: pl.Series) -> npt.NDArray[np.int32]:
        """The number of each text, int32."""
        array = values.cast(pl.String).fill_null("").to_arrow(compat_level=pl.CompatLevel.oldest())
        encoded = array.dictionary_encode()
        own = np.array([self.one(text) for text in encoded.dictionary.to_pylist()], np.int32)
        # pyarrow's own way to numpy imports pandas where that is installed
        numbers: npt.NDArray[np.int32] = own[pl.Series(encoded.indices).to_numpy()]
        return numbers

    def one(self, text: str) -> int:
        """The number of one text."""
        if text not in self._seen:
            cleaned = self._clean(text)
            known = len(self._numbers)
            self._seen[text] = -1 if cleaned is None else self._numbers.setdefault(cleaned, known)
        return self._seen[text]
