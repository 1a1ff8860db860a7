"""What every kind of section has: its numbers, and samples of the table to look at."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from mmsieve.cut.hashing import hash_samples
from mmsieve.page.inputs import Judged

Types = Mapping[str, pl.DataType | type[pl.DataType]]
"""Column -> what it is read as."""

FAILED = "Failed"
"""Title of the samples that have no score."""

_MOST_LETTERS = 2000


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A sample of the gallery: where it is, and what its table says of it."""

    key: str
    shard: str
    score: float | None = None
    keep: bool | None = None
    """None in a table, which decides nothing."""
    reason: str | None = None
    error: str | None = None
    texts: tuple[tuple[str, str], ...] = ()
    """Label and text of what the table holds; where it does, they stand for the sample's own."""
    marks: tuple[tuple[str, ...], ...] = ()
    """Lines of short words about the sample."""


Groups = dict[str, list[Shown]]
"""Title -> samples of the gallery."""


class Numbers(Protocol):
    """All that a section says of its samples."""

    @property
    def template(self) -> str:
        """The template that shows the numbers."""
        ...

    @property
    def groups(self) -> Groups:
        """The samples to show."""
        ...


@dataclass(frozen=True)
class Request:
    """What is asked of a section: all that is on the page, and how many samples a group has."""

    judged: tuple[Judged, ...]
    gallery: int

    def beside(self, one: Judged, kind: str) -> list[Judged]:
        """What else of a kind is on the page about the same shards."""
        others = (other for other in self.judged if other is not one and other.kind == kind)
        return [other for other in others if other.shares_shards(one)]


class Draw:
    """Some of the samples that it is shown, the same ones each time: by a fixed hash of the key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._drawn: pl.DataFrame | None = None

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows that have `key` and `shard`."""
        hashes = pl.Series("hash", hash_samples(rows["key"], rows["shard"]), pl.UInt64)
        parts = [] if self._drawn is None else [self._drawn]
        both = pl.concat([*parts, rows.with_columns(hashes).top_k(self._most, by="hash")])
        self._drawn = both.sort("hash", "shard", "key").tail(self._most)

    def rows(self) -> Iterator[dict[str, Any]]:
        """What was drawn."""
        if self._drawn is not None:
            yield from self._drawn.iter_rows(named=True)


def frames(judged: Judged, types: Types) -> Iterator[pl.DataFrame]:
    """Columns of these types, a file of the table at a time; polars' errors where they don't fit.

    `nth` counts the rows of one key: a key that comes twice is two rows, of which one failed.
    """
    columns = [pl.col(name).cast(type_) for name, type_ in types.items()]
    for file in judged.files:
        yield (
            pl.scan_parquet(file, glob=False)
            .select(columns)
            .with_columns(nth=nth_of_key())
            .collect()
        )


def most_first(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts, the highest first, and those that are the same by name."""
    return dict(sorted(counts.items(), key=lambda named: (-named[1], named[0])))


def nth_of_key() -> pl.Expr:
    """Which of the rows of its key a row is, from 0."""
    return pl.int_range(pl.len()).over("key")


def clipped(text: str) -> str:
    """The text as it can be written to a file, cut where it would fill the page."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    left = len(clean) - _MOST_LETTERS
    return clean if left <= 0 else f"{clean[:_MOST_LETTERS]} ... ({left:,} more characters)"
