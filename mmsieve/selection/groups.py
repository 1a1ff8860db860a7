"""Groups of samples: interaction style x image source, as the published selection groups them.

A sample is in one group per style. What matters is the style's place among the sample's: in a
group, samples that name the style first come before those that name it second.
"""

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from mmsieve.labels import STYLES

# Small numbers for values: ranks for ratings, categorical codes for texts

Numbers: TypeAlias = npt.NDArray[np.integer[Any]]
Bools: TypeAlias = npt.NDArray[np.bool_]

_MOST_COUNTED = 1 << 16
"""Integers over a range no larger than this are ranked by counting, others by sorting."""


@dataclass(frozen=True, slots=True)
class RankedRatings:
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


def rank(parts: Sequence[pl.Series]) -> RankedRatings:
    """The ratings of a numeric column, given in parts; null and NaN are no rating."""
    values = pl.concat(parts, rechunk=True) if parts else pl.Series(dtype=pl.Int8)
    if values.dtype.is_float():
        values = values.fill_nan(None)
    lowest: Any = values.min()
    if lowest is None:
        return RankedRatings(np.zeros(len(values), np.uint8), np.zeros(1, np.int8))
    array = values.fill_null(lowest).to_numpy()
    size = int(array.max()) - int(lowest) + 1 if values.dtype.is_integer() else 0
    if 0 < size <= _MOST_COUNTED:
        wide = np.int16 if array.dtype.itemsize == 1 else np.int64  # no overflow
        distinct, number = _distinct(array.astype(wide) - lowest, size)
        distinct = (distinct + lowest).astype(array.dtype)
    else:
        distinct, number = np.unique(array, return_inverse=True)
    ranks = number.astype(_smallest(len(distinct)), copy=False) + 1
    if values.has_nulls():
        ranks[values.is_null().to_numpy()] = 0
    return RankedRatings(ranks, np.concatenate([np.zeros(1, distinct.dtype), distinct]))


def _smallest(most: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if most < 1 << 8 else np.uint16 if most < 1 << 16 else np.uint32


def narrowed(numbers: Numbers, most: int) -> Numbers:
    """The numbers, none above `most`, in the smallest unsigned type."""
    return numbers.astype(_smallest(most), copy=False)


class TextCodes:
    """Categorical codes of texts: 0, 1, ... as they come; null is an empty text."""

    def __init__(self, clean: Callable[[str], str | None] = lambda text: text) -> None:
        """`clean` gives what a text counts as; None: as nothing, with the code -1."""
        self._clean = clean
        self._codes: dict[str, int] = {}
        self._seen: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """The texts by their codes."""
        return list(self._codes)

    def encode(self, values: pl.Series) -> npt.NDArray[np.int32]:
        """The code of each text."""
        array = values.cast(pl.String).fill_null("").to_arrow(compat_level=pl.CompatLevel.oldest())
        encoded = array.dictionary_encode()
        own = np.array([self.one(text) for text in encoded.dictionary.to_pylist()], np.int32)
        # pyarrow's own way to numpy imports pandas where that is installed
        codes: npt.NDArray[np.int32] = own[pl.Series(encoded.indices).to_numpy()]
        return codes

    def one(self, text: str) -> int:
        """The code of one text."""
        if text not in self._seen:
            cleaned = self._clean(text)
            known = len(self._codes)
            self._seen[text] = -1 if cleaned is None else self._codes.setdefault(cleaned, known)
        return self._seen[text]


# Style texts -> style labels

Spelling = Literal["exact", "strict"]


def split_styles(text: str, spelling: Spelling) -> list[str]:
    """The labels in a text, between commas; with `strict` also between full-width separators."""
    if spelling == "strict":
        text = unicodedata.normalize("NFKC", text).replace(";", ",").replace("\u3001", ",")
    return text.split(",")


def label_cleaner(spelling: Spelling) -> Callable[[str], str | None]:
    """What a label counts as: its text, trimmed; with `strict` one of the nine, or None."""
    if spelling == "exact":
        return str.strip
    known = {style.casefold(): style for style in STYLES}
    return lambda text: known.get(_plain(text))


def _plain(text: str) -> str:
    """The text in one case and without full-width forms, every run of spaces one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


# Groups of samples: interaction style x image source, as the published selection groups them

_MOST_TABLED = 1 << 24


class StyleGroups:
    """Which groups each row is in, and each group's rows in order."""

    def __init__(
        self, names: Sequence[str], styles: Sequence[str], counts: Numbers, groups: Numbers
    ) -> None:
        """`names` sorted; `counts`: groups of each row; `groups`: their numbers, row after row."""
        self.names = names
        self.styles = styles
        """The style of each group."""
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._starts = self._ends - counts
        if len(groups) < 1 << 31:  # half the memory
            self._ends, self._starts = self._ends.astype(np.int32), self._starts.astype(np.int32)
        self._groups = groups

    def has_any(self, start: int = 0, stop: int | None = None) -> Bools:
        """Whether each row is in a group."""
        return self._ends[start:stop] > self._starts[start:stop]

    def of(self, rows: Numbers) -> tuple[Numbers, Numbers]:
        """All groups of some rows: the place of the row among them, and the group's number."""
        sizes = self._ends[rows] - self._starts[rows]
        before = np.cumsum(sizes, dtype=np.int64) - sizes
        owners = np.repeat(np.arange(len(rows)), sizes)
        return owners, self._groups[(self._starts[rows] - before)[owners] + np.arange(len(owners))]

    def counts(self, rows: Numbers) -> Numbers:
        """How many of the rows each group has, int64 [groups]."""
        return np.bincount(self.of(rows)[1], minlength=len(self.names))

    def ordered(self, usable: Bools, order: Numbers | None) -> "Members":
        """Each group's usable rows, in the given order of rows or the rows' own."""
        places: list[tuple[Numbers, list[int]]] = []
        sizes = self._ends - self._starts
        wanted = usable & (sizes > 0)
        rows: Numbers = (
            np.flatnonzero(wanted).astype(np.int32) if order is None else order[wanted[order]]
        )
        while len(rows):
            groups = self._groups[self._starts[rows] + len(places)]
            by_group = np.argsort(groups, kind="stable")  # by radix up to 16 bits
            ends = np.cumsum(np.bincount(groups, minlength=len(self.names)))
            places.append((rows[by_group], [0, *ends.tolist()]))
            rows = rows[sizes[rows] > len(places)]
        return Members(places, len(self.names))


class Members:
    """Rows of groups: by the place of the group's style among a row's styles, then in order."""

    def __init__(self, places: Sequence[tuple[Numbers, list[int]]], groups: int) -> None:
        self._places = places
        self._groups = groups

    def of(self, group: int) -> Iterator[Numbers]:
        """The group's rows, one array for each place."""
        for rows, starts in self._places:
            yield rows[starts[group] : starts[group + 1]]

    def counts(self, holds: Bools) -> Numbers:
        """How many rows of each group something holds for, int64 [groups]."""
        counts = np.zeros(self._groups, np.int64)
        for rows, starts in self._places:
            some = np.flatnonzero(np.diff(starts))  # reduceat knows no empty ranges
            if len(some):
                counts[some] += np.add.reduceat(holds[rows], np.take(starts, some), dtype=np.int64)
        return counts


class Grouping:
    """Makes StyleGroups from styles and sources that come in parts."""

    def __init__(self, styles: TextCodes, sources: TextCodes) -> None:
        self.styles = styles
        self.sources = sources
        self._numbers: dict[tuple[int, int], int] = {}
        """Codes of style and source -> a number of its own, in the order in which they come."""
        self._counts: list[Numbers] = []
        self._groups: list[Numbers] = []

    def add(self, counts: Numbers, styles: Numbers, sources: Numbers) -> None:
        """Add rows: how many styles each has, all their codes (-1: none), each row's source."""
        kept = _first_of_each(counts, styles)
        rows = np.repeat(np.arange(len(counts)), counts)[kept]
        width = len(self.sources.names) or 1
        pairs = styles[kept].astype(np.int64) * width + sources[rows]
        present, number = _distinct(pairs, width * max(1, len(self.styles.names)))
        keys = zip((present // width).tolist(), (present % width).tolist(), strict=True)
        own = [self._numbers.setdefault(key, len(self._numbers)) for key in keys]
        own_counts = np.bincount(rows, minlength=len(counts))
        self._counts.append(narrowed(own_counts, int(own_counts.max(initial=0))))
        self._groups.append(np.array(own, np.int32)[number])

    def finish(self) -> StyleGroups:
        """The groups in the order of their names; what has the same name is one group."""
        styles, sources = self.styles.names, self.sources.names
        named: dict[str, str] = {}
        names = []
        for style, source in self._numbers:
            names.append(f"{styles[style]}+{sources[source]}")
            named.setdefault(names[-1], styles[style])
        ordered = sorted(named)
        place = {name: number for number, name in enumerate(ordered)}
        last = narrowed(np.array([place[name] for name in names], np.int64), len(ordered))
        for number, part in enumerate(self._groups):
            self._groups[number] = last[part]
        counts = np.concatenate([np.zeros(0, np.uint8), *self._counts])
        groups = np.concatenate([np.zeros(0, np.uint8), *self._groups])
        return StyleGroups(ordered, [named[name] for name in ordered], counts, groups)


def by_source_alone(sources: TextCodes, parts: Sequence[Numbers]) -> Grouping:
    """The groups of rows without styles, whose sources come in parts: one for each source."""
    styles = TextCodes()
    code = styles.one("any")
    grouping = Grouping(styles, sources)
    for part in parts:
        ones = np.ones(len(part), np.int64)
        grouping.add(ones, ones * code, part)
    return grouping


def _first_of_each(counts: Numbers, styles: Numbers) -> Numbers:
    """The places of the styles that aren't -1 and don't repeat one of the same row."""
    starts = np.cumsum(counts) - counts
    place = np.arange(len(styles)) - np.repeat(starts, counts)
    keep = styles >= 0
    later = np.flatnonzero(place)
    for back in range(1, int(counts.max(initial=0))):
        later = later[place[later] >= back]
        keep[later] &= styles[later] != styles[later - back]
    return np.flatnonzero(keep)


def _distinct(values: Numbers, size: int) -> tuple[Numbers, Numbers]:
    """The distinct values from 0 to below `size`, and of each value its place among them."""
    if size > _MOST_TABLED:
        return np.unique(values, return_inverse=True)
    present = np.flatnonzero(np.bincount(values, minlength=size))
    places = np.zeros(size, _smallest(len(present)))
    places[present] = np.arange(len(present))
    return present, places[values]
