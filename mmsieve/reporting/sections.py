"""What the sections of all kinds of tables share: counting rows, and picking samples to show."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from mmsieve.filtering.ids import hash_samples
from mmsieve.reporting.inputs import ReportTable
from mmsieve.reporting.rewrites import ShownRewrite
from mmsieve.tables import read_frames

Type = pl.DataType | type[pl.DataType]
Types = Mapping[str, Type]
"""Column -> what it is read as."""

FAILED = "Failed"
"""Title of the samples that have no score."""

_ROWS = 1 << 20
"""Of a table, that are in memory at a time."""


@dataclass(frozen=True)
class Bin:
    """Samples with a score from `low` to below `high`."""

    low: float
    high: float
    kept: int
    dropped: int


@dataclass(frozen=True)
class Shares:
    """How pools of samples, one beside the other, are spread over the same labels."""

    title: str
    labels: list[str]
    names: list[str]
    """Of the pools."""
    counts: list[list[int]]
    """Samples of each pool with each label."""
    totals: list[int]
    """Samples of each pool."""
    note: str = ""

    def share(self, pool: int, label: int) -> float:
        """The share of a pool's samples that have a label."""
        return self.counts[pool][label] / max(1, self.totals[pool])

    @property
    def most(self) -> float:
        """The largest share."""
        shares = (self.share(p, n) for p in range(len(self.names)) for n in range(len(self.labels)))
        return max(shares, default=0.0)


@dataclass(frozen=True, kw_only=True)
class GallerySample:
    """A sample of the gallery: where it is, and what its table says of it."""

    key: str
    shard: str
    place: int | None = None
    """Its number in its source file; None in a table of before."""
    score: float | None = None
    keep: bool | None = None
    """None in a table, which decides nothing."""
    reason: str | None = None
    error: str | None = None
    texts: tuple[tuple[str, str], ...] = ()
    """Label and text of what the table holds; where it does, they stand for the sample's own."""
    marks: tuple[tuple[str, ...], ...] = ()
    """Lines of short words about the sample."""
    rewrite: ShownRewrite | None = None
    """What a model would write instead of its caption."""


Groups = dict[str, list[GallerySample]]
"""Title -> samples of the gallery."""


class SectionNumbers(Protocol):
    """All that a section says of its samples."""

    @property
    def template(self) -> str:
        """The template that shows the numbers."""

    @property
    def groups(self) -> Groups:
        """The samples to show."""


@dataclass(frozen=True)
class SectionPart:
    """A section before its samples are read."""

    title: str
    what: str
    """The kind of what it is about."""
    path: Path
    """Where that is."""
    numbers: SectionNumbers
    table: ReportTable | None = None
    """Whose samples it shows, where they are a table's."""
    is_alone: bool = True
    """Whether it is about one thing, so that it says how that was made."""


@dataclass(frozen=True)
class SectionRequest:
    """What is asked of a section: all tables of the report, and how many samples a group has."""

    tables: tuple[ReportTable, ...]
    gallery: int

    def beside(self, one: ReportTable, kind: str) -> list[ReportTable]:
        """What else of a kind is in the report about the same shards."""
        others = (other for other in self.tables if other is not one and other.kind == kind)
        return [other for other in others if other.shares_shards(one)]


@dataclass(frozen=True)
class GalleryGroup:
    """Which rows a group of the gallery has and shows; by default those of the highest hashes."""

    which: pl.Expr
    by: tuple[str, ...] = ("hash", "shard", "key")
    descending: tuple[bool, ...] = (False, False, False)
    from_end: bool = True
    """Show the last rows in this order, or else the first."""

    def pick(self, rows: pl.DataFrame, before: pl.DataFrame | None, most: int) -> pl.DataFrame:
        """Up to `most` of these rows, and of those that were picked before."""
        found = rows.filter(self.which)
        if "hash" in self.by:
            hashes = hash_samples(found["key"], found["shard"])
            found = found.with_columns(pl.Series("hash", hashes, pl.UInt64))
        both = found if before is None else pl.concat([before, found])
        ordered = both.sort(self.by, descending=self.descending, nulls_last=True)
        return ordered.tail(most) if self.from_end else ordered.head(most)


class Gallery:
    """Picks samples to show, up to `most` of each group."""

    def __init__(self, groups: Mapping[str, GalleryGroup], most: int) -> None:
        self._groups, self._most = groups, most
        self._picked: dict[str, pl.DataFrame] = {}

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows that have `key` and `shard`, and what the groups ask for."""
        for title, group in self._groups.items():
            self._picked[title] = group.pick(rows, self._picked.get(title), self._most)

    def groups(self, shown: Callable[[str, dict[str, Any]], GallerySample]) -> Groups:
        """What was picked, by title; `shown` makes a sample of a title and a row."""
        return {
            title: [shown(title, row) for row in rows.iter_rows(named=True)]
            for title, rows in self._picked.items()
            if not rows.is_empty()
        }


def count_rows(
    rows: Iterator[pl.DataFrame],
    gallery: Gallery,
    add: Callable[[pl.DataFrame], None] = lambda rows: None,
) -> dict[str, int]:
    """How many rows have each value of `what`, most first; the gallery and `add` get all rows."""
    counts: Counter[str] = Counter()
    for frame in rows:
        counts.update(counted(frame["what"]))
        gallery.add(frame)
        add(frame)
    return most_first(counts)


def read_rows(files: Iterable[Path], columns: Sequence[pl.Expr | str]) -> Iterator[pl.DataFrame]:
    """Columns and places of a table's files, a part at a time, or all where rows depend on others.

    Raises polars' errors.
    """
    exprs = [pl.col(each) if isinstance(each, str) else each for each in (*columns, "place")]
    names = dict.fromkeys(name for expr in exprs for name in expr.meta.root_names())
    whole = any(expr.meta.output_name() == _NTH for expr in exprs)
    for file in files:
        frames = read_frames([file], list(names), _ROWS)
        for frame in [pl.concat(frames)] if whole else frames:
            yield frame.select(exprs)


def typed(types: Types) -> list[pl.Expr]:
    """Columns as these types, and `nth_of_key`: a key that comes twice is two rows, one failed."""
    return [*(pl.col(name).cast(type_) for name, type_ in types.items()), nth_of_key()]


_NTH = "nth"


def nth_of_key() -> pl.Expr:
    """Which of the rows of its key a row is, from 0."""
    return pl.int_range(pl.len()).over("key").alias(_NTH)


def counted(values: pl.Series) -> dict[Any, int]:
    """How many there are of each value."""
    return dict(values.value_counts(name="samples").iter_rows())


def most_first(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts, the highest first, and those that are the same by name."""
    return dict(sorted(counts.items(), key=lambda named: (-named[1], named[0] or "")))
